"""The demo: small nets trained on handwritten digits, their surfaces, a spectrum and a curve; a file, a page, pictures.

Its factories are named in the job files it leaves, which are meant to be copied.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import landscape as ls
from landscape.errors import InputError
from landscape.opening.opening import open_result
from landscape.pictures.saving import save_figure
from landscape.results.kind import Asked, kind_of
from landscape.run.comm import world
from landscape.run.together import agree
from landscape_jobs.build.objects import set_threads
from landscape_jobs.build.run import run_job
from landscape_jobs.report.page import write_report
from landscape_jobs.spec.job import load_job
from landscape_jobs.terminal.progress import ProgressDisplay

_TRAINED_ON = 1297  # of the 1797 digits; the other 500 test
_BATCH = 64

_HEAD = """\
# {title} on the {count} handwritten digits it was trained on.
# Try: landscape run {name}.toml --set {change} --set run.out=runs/{name}_{changed}

[model]
factory = "landscape_jobs.demo:{factory}"
checkpoint = "{factory}.safetensors"

[data]
factory = "landscape_jobs.demo:digits"
args = {{ split = "train" }}

"""
_SURFACE = """\
[objective]
loss = "cross_entropy"
metrics = ["accuracy"]

[plane]
{plane}

[surface]
x = [{x[0]}, {x[1]}, {nx}]
y = [{y[0]}, {y[1]}, {ny}]

[run]
out = "runs/{name}"
"""
_SPECTRUM = """\
[spectrum]
k = {k}                                       # largest eigenvalues of the Hessian
tol = 1e-3                                  # their relative residuals
trace = true                                # the cheapest way that is right for this net
density = true
density_steps = 12                          # of Lanczos' method; 32, its default, has finer detail

[run]
out = "runs/{name}"
"""
_PAIR = """\
[objective]
metrics = ["error"]

[connectivity]
models = ["digits_convnet.safetensors", "digits_convnet_b.safetensors"]
t = 21                                      # places on the straight line and on the fitted curve
epochs = {epochs}                                 # of the fit
batch_size = 64

[run]
out = "runs/{name}"
"""
_CURVE = """\
[objective]
metrics = ["error"]

[plane]
kind = "curve"
curve = "runs/convnet_pair/curves/0-1.h5"    # made by convnet_pair.toml

[surface]
x = [-0.25, 1.25, {nx}]
y = [-0.25, 1.0, {ny}]
batchnorm = "reestimated"

[run]
out = "runs/{name}"
"""
_RANDOM = 'kind = "random"\nnormalize = "filter"\nignore = ["bias", "norm"]\nseed = 1'
_TRAJECTORY = 'kind = "pca"\ncheckpoints = "digits_mlp_epochs/epoch*.safetensors"'


@dataclass(frozen=True)
class Left:
    """What the demo leaves in its folder."""

    folder: Path
    file: Path
    report: Path
    pictures: tuple[Path, ...]
    jobs: tuple[Path, ...]
    accuracies: dict[str, float]  # net -> on the test digits

    def text(self) -> str:
        """What is there, and what to try next."""
        nets = ", ".join(f"{name} {value:.1%}" for name, value in self.accuracies.items())
        program = (
            "landscape" if shutil.which("landscape") else shlex.quote(str(Path(sys.executable).parent / "landscape"))
        )
        quoted = [shlex.quote(str(path)) for path in (self.file, self.folder, self.jobs[0])]
        return "\n".join(
            [
                f"test accuracy: {nets}",
                f"results:       {self.file}",
                f"report:        {self.report}  (open it in a browser)",
                *(f"picture:       {path}" for path in self.pictures),
                *(f"job file:      {path}" for path in self.jobs),
                "next:",
                f"  {program} show {quoted[0]}",
                f"  {program} show {quoted[0]} --run convnet_spectrum",
                f"  {program} show {quoted[0]} --run convnet_pair",
                f"  {program} plot {quoted[0]} --run convnet -q accuracy",
                f"  {program} status {quoted[1]}/runs/*",
                f"  {program} check {quoted[2]} --set 'surface.x=[-1,1,101]' --set run.out=runs/fine",
            ]
        )


def digits_convnet() -> nn.Module:
    """A convolutional net with BatchNorm for 8 x 8 digits, untrained; 12,058 parameters."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 24, 3, padding=1, bias=False),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 10),
    )


def digits_mlp() -> nn.Module:
    """A multilayer perceptron for 8 x 8 digits, untrained; 6,570 parameters."""
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def digits(split: str = "train") -> tuple[Tensor, Tensor]:
    """(images (n, 64) in 0..1, labels (n,)) of scikit-learn's digits, `split` "train" or "test".

    Raises InputError for another split, and when scikit-learn is not installed.
    """
    if split not in ("train", "test"):
        raise InputError(f"split={split!r} is not one of train, test")
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise InputError(
            "the handwritten digits come with scikit-learn, which is not installed: pip install scikit-learn"
        ) from error
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    chosen = order[:_TRAINED_ON] if split == "train" else order[_TRAINED_ON:]
    return torch.from_numpy(images).float()[chosen] / 16, torch.from_numpy(labels)[chosen]


def digits_tasks(kind: str = "rotated", split: str = "train") -> Callable[[int], tuple[Tensor, Tensor]]:
    """The digits as a function of `task`, 0, 1, ...: "rotated" by 10 degrees more each, "permuted", "split" in pairs.

    Raises InputError for another kind, and as `digits`.
    """
    kinds: dict[str, Callable[..., tuple[Tensor, Tensor]]]
    kinds = {"rotated": ls.rotated_task, "permuted": ls.permuted_task, "split": ls.split_task}
    if kind not in kinds:
        raise InputError(f"kind={kind!r} is not one of {', '.join(kinds)}")
    whole = digits(split)
    return lambda task: kinds[kind](whole, task)


def make_demo(out: str | Path, *, nx: int = 17, ny: int = 13, epochs: int = 20, k: int = 5) -> Left:
    """Train the nets, measure nx x ny surfaces and a spectrum on all ranks; `out` gets demo.h5, report.html, pictures.

    What an earlier call left there is used: checkpoints, job files, finished rows. Raises InputError without
    scikit-learn, and what running a job raises.
    """
    folder = Path(out).resolve()
    set_threads(None)
    agree(world(), lambda: _train(folder, epochs, world().rank, world().size))
    agree(world(), lambda: _write_jobs(folder, nx, ny, epochs, k) if world().rank == 0 else None)
    jobs = {path.stem: path for path in _job_files(folder)}
    for path in jobs.values():
        job = agree(world(), lambda path=path: load_job(path))  # type: ignore[misc]
        with ProgressDisplay() as display:
            run_job(job, progress=display)
    left = agree(world(), lambda: _finish(folder, jobs) if world().rank == 0 else None)
    result: Left = world().broadcast(left)
    return result


def _job_files(folder: Path) -> list[Path]:
    names = ("convnet", "mlp", "mlp_trajectory", "convnet_spectrum", "convnet_pair", "convnet_curve")
    return [folder / f"{name}.toml" for name in names]


def _train(folder: Path, epochs: int, rank: int, ranks: int) -> None:
    """The checkpoints that are missing, each made by one of the ranks."""
    digits()
    history = folder / "digits_mlp_epochs"
    history.mkdir(parents=True, exist_ok=True)
    nets: list[tuple[str, Callable[[], Iterator[nn.Module]], Path | None]] = [
        ("digits_convnet", lambda: _adam_epochs(digits_convnet, epochs), None),
        ("digits_convnet_b", lambda: _adam_epochs(digits_convnet, epochs, seed=1), None),
        ("digits_mlp", lambda: _sgd_epochs(digits_mlp, 2 * epochs), history),
    ]
    for name, states, kept in nets[rank::ranks]:
        _trained(folder / f"{name}.safetensors", states, kept)


def _write_jobs(folder: Path, nx: int, ny: int, epochs: int, k: int) -> None:
    """The job files that are missing."""
    history = folder / "digits_mlp_epochs"
    convnet, mlp, trajectory, spectrum, pair, curve = _job_files(folder)
    one = {"x": (-1.0, 1.0), "y": (-1.0, 1.0), "nx": nx, "ny": ny, "change": "surface.x=[-2,2,61]", "changed": "wide"}
    conv = "a convolutional net"
    _write_job(convnet, _SURFACE, title=f"The loss of {conv}", factory="digits_convnet", plane=_RANDOM, **one)
    perceptron = "The loss of a multilayer perceptron"
    _write_job(mlp, _SURFACE, title=perceptron, factory="digits_mlp", plane=_RANDOM, **one)
    if not trajectory.exists():
        one["x"], one["y"] = _extent(folder, history)
        title = f"{perceptron}, over the plane of its training,"
        _write_job(trajectory, _SURFACE, title=title, factory="digits_mlp", plane=_TRAJECTORY, **one)
    title = f"The curvature of the loss of {conv}"
    more = {"k": k, "change": "spectrum.k=20", "changed": "more"}
    _write_job(spectrum, _SPECTRUM, title=title, factory="digits_convnet", **more)
    title = f"A curve of low loss between two trainings of {conv}"
    more = {"epochs": 2 * epochs, "change": "connectivity.kind=polychain", "changed": "chain"}
    _write_job(pair, _PAIR, title=title, factory="digits_convnet", **more)
    one |= {"nx": max(2, nx - 4), "ny": max(2, ny - 4)}  # BatchNorm is re-estimated at every point
    title = f"The loss of {conv} on the plane of a curve between two trainings,"
    _write_job(curve, _CURVE, title=title, factory="digits_convnet", **one)


def _trained(checkpoint: Path, epochs: Callable[[], Iterator[nn.Module]], history: Path | None = None) -> None:
    """Train a net and save it; with `history`, as it was after every epoch too."""
    if checkpoint.exists():
        return
    for epoch, net in enumerate(epochs()):
        if history is not None:
            _save(net, history / f"epoch{epoch}.safetensors")
    _save(net, checkpoint)  # last: where it exists, the training was finished


def _adam_epochs(factory: Callable[[], nn.Module], epochs: int, seed: int = 0) -> Iterator[nn.Module]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = factory()
    yield from _epochs(net, torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-2), epochs, seed)


def _sgd_epochs(factory: Callable[[], nn.Module], epochs: int) -> Iterator[nn.Module]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = factory()
    yield from _epochs(net, torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4), epochs)


def _epochs(net: nn.Module, optimizer: torch.optim.Optimizer, epochs: int, seed: int = 0) -> Iterator[nn.Module]:
    """The net before training and after each epoch, in eval mode; the learning rate falls along a cosine to 0."""
    inputs, targets = digits("train")
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * -(-len(targets) // _BATCH))
    shuffler = torch.Generator().manual_seed(seed + 1)
    yield net.eval()
    for _ in range(epochs):
        net.train()
        for batch in torch.randperm(len(targets), generator=shuffler).split(_BATCH):  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(inputs[batch]), targets[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        yield net.eval()


def _save(net: nn.Module, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    save_file(net.state_dict(), temporary)
    os.replace(temporary, path)  # noqa: PTH105


def _write_job(path: Path, measured: str, **words: object) -> None:
    if not path.exists():  # a copy somebody edited stays
        path.write_text((_HEAD + measured).format(name=path.stem, count=_TRAINED_ON, **words), encoding="utf-8")


def _extent(folder: Path, history: Path) -> list[tuple[float, float]]:
    """Ranges of x and y that hold the MLP's training with a margin."""
    net = digits_mlp()
    ls.load_checkpoint(net, folder / "digits_mlp.safetensors")
    objective = ls.Objective(net, data=digits("train"), device="cpu")
    plane = ls.pca_plane(objective, sorted(history.glob("epoch*.safetensors")))
    assert plane.points is not None
    low, high = plane.points.coordinates.min(axis=0), plane.points.coordinates.max(axis=0)
    margin = 0.25 * (high - low).max()
    return [(round(float(a - margin), 2), round(float(b + margin), 2)) for a, b in zip(low, high, strict=True)]


def _finish(folder: Path, jobs: dict[str, Path]) -> Left:
    results = {name: open_result(load_job(path).out) for name, path in jobs.items()}
    file = ls.merge_runs({name: load_job(path).out for name, path in jobs.items()}, folder / "demo.h5")
    drawn: list[Path] = []
    for name, result in results.items():
        kinds: tuple[str | None, ...] = (None,)
        if name in ("convnet", "mlp"):
            kinds = ("contour", "3d")
        elif name == "convnet_pair":
            kinds = ("paths",)  # of one pair, a table and a graph say little
        for kind in kinds:
            for picture, figure in kind_of(result).pictures().asked(result, Asked(kind)):
                drawn.append(save_figure(figure, folder / f"{name}_{picture.removeprefix('loss_')}.png"))
    accuracies = {factory.__name__: _accuracy(factory, folder) for factory in (digits_convnet, digits_mlp)}
    report = write_report(results, folder / "report.html", title="Loss landscapes of nets for handwritten digits")
    return Left(folder, file, report, tuple(drawn), tuple(jobs.values()), accuracies)


def _accuracy(factory: Callable[[], nn.Module], folder: Path) -> float:
    net = factory()
    ls.load_checkpoint(net, folder / f"{factory.__name__}.safetensors")
    objective = ls.Objective(net, data=digits("test"), metrics=("accuracy",), device="cpu")
    return float(objective.evaluate()["accuracy"])
