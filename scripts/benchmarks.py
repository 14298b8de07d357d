"""What the benchmarks share: times taken in turn, one form of row, networks and data, how ranks are started.

Peers have environments without the engine, so nothing of it is imported here.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))
import shared as networks  # noqa: E402  (the networks of the shared checkpoints live with the tests)

SHARED = HERE.parent.parent / "shared"
COLUMNS = ("what", "against", "ratio", "spread", "asked", "times")
Timed = Callable[[], object]


@dataclass(frozen=True)
class Ratios:
    """Ratios of repeats, and the medians of the times that they are of."""

    values: tuple[float, ...]
    ours: float  # seconds
    theirs: float  # seconds

    @property
    def median(self) -> float:
        """The middle of the ratios."""
        return statistics.median(self.values)


def in_turn(
    ours: Timed, theirs: Timed, repeats: int, clock: Callable[[], float] = time.perf_counter, *, over: str = "ours"
) -> Ratios:
    """Times of both in turn, so that a slow machine slows both; ratios over the time of "ours" or of "theirs"."""
    times = [(seconds(ours, clock), seconds(theirs, clock)) for _ in range(repeats)]
    mine, other = ([pair[k] for pair in times] for k in (0, 1))
    return Ratios(ratios_of(mine, other, over), statistics.median(mine), statistics.median(other))


def ratios_of(ours: Sequence[float], theirs: Sequence[float], over: str = "ours") -> tuple[float, ...]:
    """theirs / ours (above 1: ours is faster), or ours / theirs for what asks how much more ours takes."""
    pairs = zip(ours, theirs, strict=True)
    return tuple(b / max(a, 1e-12) if over == "ours" else a / max(b, 1e-12) for a, b in pairs)


def seconds(action: Timed, clock: Callable[[], float] = time.perf_counter) -> float:
    """Time of one call."""
    began = clock()
    action()
    return clock() - began


def print_heading(*about: str) -> None:
    """The machine, and the head of the table."""
    print(", ".join((machine(), *about)), end="\n\n")
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)


def print_row(
    what: str, against: str = "", ratio: str | Ratios = "", asked: str = "", times: str = "", spread: str = ""
) -> None:
    """A row of the table; of several ratios the median, and the smallest and the largest as the spread."""
    if isinstance(ratio, Ratios):
        low, high = min(ratio.values), max(ratio.values)
        spread = f"{low:.3g} to {high:.3g}" if len(ratio.values) > 1 else "one run"
        times = times or f"{told(ratio.ours)} against {told(ratio.theirs)}"
        ratio = f"{ratio.median:.3g}"
    cells = [cell.replace("|", "/").replace("\n", " ") for cell in (what, against, ratio, spread, asked, times)]
    print(f"| {' | '.join(cells)} |", flush=True)


def told(seconds: float) -> str:
    """A time with its unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} us"


def machine() -> str:
    """Processor, cores, system, versions, threads."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), name)
    return (
        f"{name}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, {torch.get_num_threads()} thread(s)"
    )


def mpiexec(ranks: int) -> list[str]:
    """How so many ranks are started."""
    beside = [Path(sys.executable).with_name("mpiexec"), HERE.parent / ".venv" / "bin" / "mpiexec"]
    program = next((str(path) for path in beside if path.exists()), shutil.which("mpiexec"))
    if program is None:
        raise SystemExit("mpiexec is missing: pip install -e '.[mpi]', or load your cluster's MPI module")
    return [program, "-n", str(ranks)]


def mpi_environment() -> dict[str, str]:
    """Variables with which Open MPI starts as root, and more ranks than cores."""
    settings = {
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        "OMPI_MCA_mpi_yield_when_idle": "1",
        "OMPI_MCA_btl": "^ofi",
    }
    return {**settings, **os.environ}


def with_transformers() -> torch.library.Library | None:
    """Held while transformers is used: it loads torchvision, whose CUDA builds lack schemas beside a CPU torch."""
    if torch.version.cuda is not None or "torchvision" in sys.modules:
        return None
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def digits() -> tuple[Tensor, Tensor]:
    """The 1,797 handwritten digits of scikit-learn, and their labels."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return torch.tensor(data.data / 16, dtype=torch.float32), torch.tensor(data.target, dtype=torch.long)


def mlp() -> nn.Module:
    """An MLP 64-64-64-10."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)).eval()


def resnet20(shared: Path) -> tuple[nn.Module, tuple[Tensor, Tensor], str]:
    """The trained checkpoint and 1,024 CIFAR-10 test images where they are at hand, else random ones of that shape."""
    torch.manual_seed(0)
    networks.ROOT = shared
    model = networks.ResNet20().eval()
    checkpoint = shared / "data" / "ckpt_cifar10_resnet" / "resnet20_akamaster.safetensors"
    if not checkpoint.exists():
        return model, (torch.randn(1024, 3, 32, 32), torch.randint(0, 10, (1024,))), "random weights and images"
    from safetensors.torch import load_file

    model.load_state_dict(load_file(checkpoint))
    return model, networks.cifar10_test(1024), "trained checkpoint, CIFAR-10 test images"
