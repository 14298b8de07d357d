"""Speed and memory of the surface job, as ratios against named peers in one run; prints a Markdown table.

    python scripts/bench_surface.py [--threads 1] [--shared ../shared] [--only PART ...]

Peers: the loop that the loss-landscape tool runs at each point (copy the parameters into the module, then a DataLoader
with batch 128 and 2 workers), written plainly here; loss-landscapes and landscaper from PyPI where installed
(`pip install -e '.[bench]'`). Every ratio is peer time over ours (above 1: we are faster), the median of interleaved
repeats, so that a slow machine slows both sides.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import landscape as ls
from landscape.planes.grid import axis_values
from landscape.run.comm import world
from landscape.run.task import Description

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))
from shared import ResNet20  # noqa: E402  (the networks of the shared checkpoints live with the tests)

Timed = Callable[[], object]


def median_ratio(ours: Timed, peer: Timed, repeats: int) -> tuple[float, float, float]:
    """(peer time / our time, our seconds, peer seconds): medians over interleaved repeats after one warm-up each."""
    ours(), peer()
    a, b = [], []
    for _ in range(repeats):
        a.append(seconds(ours))
        b.append(seconds(peer))
    return statistics.median(y / x for x, y in zip(a, b, strict=True)), statistics.median(a), statistics.median(b)


def seconds(action: Timed) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    data = load_digits()
    return torch.tensor(data.data / 16, dtype=torch.float32), torch.tensor(data.target, dtype=torch.long)


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)).eval()


def resnet20(shared: Path) -> tuple[nn.Module, tuple[Tensor, Tensor], str]:
    """The trained checkpoint and 1,024 CIFAR-10 test images where they are at hand, else random ones of that shape."""
    torch.manual_seed(0)
    model = ResNet20().eval()
    checkpoint = shared / "data" / "ckpt_cifar10_resnet" / "resnet20_akamaster.safetensors"
    if not checkpoint.exists():
        return model, (torch.randn(1024, 3, 32, 32), torch.randint(0, 10, (1024,))), "random weights and images"
    from shared import cifar10_test

    ls.load_checkpoint(model, checkpoint)
    return model, cifar10_test(1024), "trained checkpoint, CIFAR-10 test images"


def tool_loop(model: nn.Module, data: tuple[Tensor, Tensor], plane: ls.Plane, points: np.ndarray) -> list[float]:
    """What loss-landscape runs: parameters copied into the module, a DataLoader with 2 workers, at every point."""
    loader = DataLoader(TensorDataset(*data), batch_size=128, num_workers=2)
    centre = [p.detach().clone() for p in model.parameters()]
    names = [name for name, _ in model.named_parameters()]
    directions = []
    for vector in plane.directions:
        offset, parts = 0, []
        for parameter in centre:
            parts.append(vector[offset : offset + parameter.numel()].view_as(parameter))
            offset += parameter.numel()
        directions.append(parts)
    assert len(names) == len(centre)
    losses = []
    for point in points:
        for i, parameter in enumerate(model.parameters()):
            parameter.data = centre[i] + sum(float(c) * d[i] for c, d in zip(point, directions, strict=True))
        total = 0.0
        with torch.no_grad():
            for inputs, targets in loader:
                total += F.cross_entropy(model(inputs), targets).item() * len(targets)
        losses.append(total / len(data[1]))
    for parameter, value in zip(model.parameters(), centre, strict=True):
        parameter.data = value
    return losses


def our_points(objective: ls.Objective, plane: ls.Plane, points: np.ndarray) -> list[float]:
    theta = torch.empty_like(plane.centre)
    return [float(objective.evaluate(plane.point(point.tolist(), theta))["loss"]) for point in points]


def against_tool(shared: Path, rows: list[list[str]]) -> None:
    points = np.array([[0.0, 0.0], [0.3, -0.2], [-0.5, 0.5]])
    for name, (model, data, note), repeats, least in (
        ("MLP 64-64-64-10, 1,797 digits", (mlp(), digits(), "scikit-learn digits"), 5, 20.0),
        ("ResNet-20, 1,024 images", resnet20(shared), 5, 1.4),
    ):
        objective = ls.Objective(model, "cross_entropy", data)
        plane = ls.random_plane(objective, seed=1)
        ours, theirs = our_points(objective, plane, points), tool_loop(model, data, plane, points)
        gap = max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))
        ratio, mine, other = median_ratio(
            lambda o=objective, p=plane: our_points(o, p, points),
            lambda m=model, d=data, p=plane: tool_loop(m, d, p, points),
            repeats,
        )
        per = f"{mine / len(points) * 1e3:.2f} ms against {other / len(points) * 1e3:.2f} ms a point"
        rows.append([f"{name}, float32 ({note})", "loss-landscape's loop", f"{ratio:.2f}", f">= {least:g}", per])
        rows.append([f"{name}: largest relative gap of the losses", "", f"{gap:.1e}", "<= 1e-5", ""])
        if "ResNet" in name:
            low = ls.Objective(model, "cross_entropy", data, precision="bf16")
            ratio, mine, other = median_ratio(
                lambda o=low, p=plane: our_points(o, p, points),
                lambda m=model, d=data, p=plane: tool_loop(m, d, p, points),
                repeats,
            )
            surface = ls.measure_surface(low, plane, x=(-0.5, 0.5, 3), y=(-0.5, 0.5, 3))
            error = surface.attributes["precision_error_relative"]
            per = f"{mine / len(points) * 1e3:.2f} ms against {other / len(points) * 1e3:.2f} ms a point"
            rows.append([f"{name}, bf16", "loss-landscape's loop", f"{ratio:.2f}", ">= 2.5", per])
            rows.append([f"{name}: bf16 error stored in the file", "ours in float32", f"{error:.1e}", "", "9 points"])


def against_packages(shared: Path, rows: list[list[str]]) -> None:
    steps = 7
    cases = [("MLP, 1,797 digits in one batch", mlp(), digits()), ("ResNet-20, 128 images in one batch", None, None)]
    for name, model, data in cases:
        if model is None or data is None:
            model, (inputs, targets), _ = resnet20(shared)
            data = inputs[:128], targets[:128]
        objective = ls.Objective(model, "cross_entropy", data)
        plane = ls.random_plane(objective, seed=1)

        def ours(o: ls.Objective = objective, p: ls.Plane = plane) -> None:
            ls.measure_surface(o, p, x=(-0.1, 0.1, steps), y=(-0.1, 0.1, steps))

        peers = {"loss-landscapes": loss_landscapes_run, "landscaper": landscaper_run}
        for peer, run in peers.items():
            if importlib.util.find_spec(peer.replace("-", "_")) is None:
                rows.append([name, peer, "not installed", ">= 1", "pip install -e '.[bench]'"])
                continue

            def theirs(run: Callable[..., None] = run, m: nn.Module = model, d: tuple[Tensor, Tensor] = data) -> None:
                run(m, d, steps)

            ratio, mine, other = median_ratio(ours, theirs, 5)
            per = f"{mine / steps**2 * 1e3:.2f} ms against {other / steps**2 * 1e3:.2f} ms a point"
            rows.append([name, peer, f"{ratio:.2f}", ">= 1", per])


def loss_landscapes_run(model: nn.Module, data: tuple[Tensor, Tensor], steps: int) -> None:
    import loss_landscapes
    from loss_landscapes.metrics import Loss

    metric = Loss(F.cross_entropy, *data)
    with torch.no_grad():
        loss_landscapes.random_plane(
            model, metric, distance=10, steps=steps, normalization="filter", deepcopy_model=True
        )


def landscaper_run(model: nn.Module, data: tuple[Tensor, Tensor], steps: int) -> None:
    from landscaper.compute import compute_loss_landscape

    directions = [[torch.randn_like(p) for p in model.parameters()] for _ in range(2)]

    def loss(m: nn.Module, d: tuple[Tensor, Tensor]) -> float:
        return F.cross_entropy(m(d[0]), d[1]).item()

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        compute_loss_landscape(model, data, directions, loss, steps=steps, distance=0.1, dim=2, device="cpu")


# One rank of the parallel measurements: `bench_surface.py --rank HALF OUT` measures half of the grid (0 or 1) or
# all of it ("all"); it is started alone or by mpiexec.
GRID = (20, 12)


def rank_job(part: str, out: str, shared: Path) -> None:
    torch.set_num_threads(1)
    model, data, _ = resnet20(shared)
    objective = ls.Objective(model, "cross_entropy", (data[0][:256], data[1][:256]))
    plane = ls.random_plane(objective, seed=0)
    nx, ny = GRID
    y = axis_values("y", (-1, 1, ny))
    chosen = y if part == "all" else y[: ny // 2] if part == "0" else y[ny // 2 :]
    ls.measure_surface(objective, plane, x=(-1, 1, nx), y=chosen, out=out)


def two_ranks(shared: Path, rows: list[list[str]]) -> None:
    command = [sys.executable, __file__, "--shared", str(shared), "--rank"]
    environment = {**mpi_environment(), "OMP_NUM_THREADS": "1"}
    ratios, times = [], []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            halves = [subprocess.Popen([*command, part, f"{folder}/{part}"], env=environment) for part in "01"]
            assert all(half.wait() == 0 for half in halves)
            apart = time.perf_counter() - start
            start = time.perf_counter()
            subprocess.run([*mpiexec(2), *command, "all", f"{folder}/all"], env=environment, check=True)
            together = time.perf_counter() - start
        ratios.append(together / apart)
        times.append((together, apart))
    together, apart = times[ratios.index(statistics.median(ratios))]
    rows.append(
        [
            f"{GRID[0]} x {GRID[1]} grid, 2 ranks, start-up included: time over two separate half runs",
            "two single-rank runs started together",
            f"{statistics.median(ratios):.3f}",
            "<= 1.05",
            f"{together:.1f} s against {apart:.1f} s",
        ]
    )


class EmptyTask:
    """Items that cost nothing: what is left is the scheduler and the store."""

    count = 20_000
    headline = "value"

    def describe(self) -> Description:
        return Description("empty", {"value": ()}, {}, {})

    def evaluate(self, index: int, group: object) -> dict[str, float]:
        return {"value": float(index)}

    def extend(self, rows: object) -> int:
        return self.count


def empty_job(out: str) -> None:
    start = time.perf_counter()
    outcome = ls.run_task(EmptyTask(), out)
    elapsed = time.perf_counter() - start
    assert outcome.complete
    if world().rank == 0:
        sys.stdout.write(f"{EmptyTask.count / elapsed}\n")


def empty_rows(rows: list[list[str]]) -> None:
    for ranks in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            command = [*(mpiexec(ranks) if ranks > 1 else []), sys.executable, __file__, "--empty", f"{folder}/run"]
            done = subprocess.run(command, env=mpi_environment(), capture_output=True, text=True, check=True)
        rate = float(done.stdout.split()[-1])
        rows.append(
            [f"empty objective, {ranks} rank(s): rows a second", "", f"{rate:,.0f}", ">= 2,000", "folder on disk"]
        )


def memory_job(points: int, out: str) -> None:
    objective = ls.Objective(mlp(), "cross_entropy", digits())
    plane = ls.random_plane(objective, seed=0)
    ls.measure_surface(objective, plane, x=(-1, 1, points), y=(-1, 1, points), out=out)
    # ru_maxrss of a process starts at what its parent held
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    sys.stdout.write(f"{peak / 1024}\n")


def memory(rows: list[list[str]]) -> None:
    peaks = {}
    for points in (5, 101):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, "--memory", str(points), f"{folder}/run"]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            peaks[points] = float(done.stdout.split()[-1])
    grown = peaks[101] - peaks[5]
    rows.append(
        [
            "peak memory, 101 x 101 over 5 x 5 (MiB)",
            "",
            f"{grown:.1f}",
            "<= 50",
            f"{peaks[101]:.0f} against {peaks[5]:.0f}",
        ]
    )


def mpiexec(ranks: int) -> list[str]:
    beside = Path(sys.executable).with_name("mpiexec")
    program = str(beside) if beside.exists() else shutil.which("mpiexec")
    if program is None:
        raise SystemExit("mpiexec is missing: pip install -e '.[mpi]', or load your cluster's MPI module")
    return [program, "-n", str(ranks)]


def mpi_environment() -> dict[str, str]:
    settings = {
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        "OMPI_MCA_mpi_yield_when_idle": "1",
        "OMPI_MCA_btl": "^ofi",
    }
    return {**settings, **os.environ}


def machine() -> str:
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), name)
    return (
        f"{name}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, {torch.get_num_threads()} thread(s)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--shared", type=Path, default=HERE.parent.parent / "shared")
    parser.add_argument("--only", nargs="+", choices=["tool", "packages", "ranks", "rows", "memory"])
    parser.add_argument("--rank", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--empty", help=argparse.SUPPRESS)
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.rank:
        rank_job(*given.rank, given.shared)
    elif given.empty:
        empty_job(given.empty)
    elif given.memory:
        memory_job(int(given.memory[0]), given.memory[1])
    else:
        rows: list[list[str]] = []
        parts: dict[str, Callable[[], None]] = {
            "tool": lambda: against_tool(given.shared, rows),
            "packages": lambda: against_packages(given.shared, rows),
            "ranks": lambda: two_ranks(given.shared, rows),
            "rows": lambda: empty_rows(rows),
            "memory": lambda: memory(rows),
        }
        for name in given.only or parts:
            parts[name]()
        print(machine(), end="\n\n")
        print("| what | against | measured | asked | times |\n|---|---|---|---|---|")
        for row in rows:
            print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
