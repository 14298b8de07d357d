"""A surface to a stated error against a full pass at every point, in one run; prints a Markdown table.

    python scripts/bench_precision.py [--part NAME ...] [--points 51] [--images 10000] [--error 0.01] [--share 0.8]

Parts: `conv`, a small convolutional network with BatchNorm trained here on images made here; `resnet20`, a ResNet-20 on
CIFAR-10 test images of the shared folder (hours of a core for 51 x 51 points and 10,000 images); `digits`, the MLP of
the demo, where data are small; `spectrum`, the ten largest eigenvalues of an MLP on MNIST images of
the shared folder, with `error=` 0.02 and 0.05 against a measurement of all of them; `map`, both ends of the spectrum of
a small MLP at five points with `--map-error`, over ten seeds.

True errors are against full passes at points drawn at random that had none, those of a loss below 10. Time of brute
force is that of these passes, times the points.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks import HERE, SHARED, Ratios, print_heading, print_row
from landscape_jobs.demo import digits, digits_mlp
from torch import Tensor, nn

import landscape as ls
from landscape.errors import RunInterrupted
from landscape.planes.grid import Grid
from landscape.run.progress import Progress

CHECKED = 60  # points at which full passes tell the true error
LARGEST = 10.0  # loss up to which points are looked at


def conv(arguments: argparse.Namespace) -> ls.Objective:
    """A convolutional network on images of four kinds of waves with noise."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (arguments.images,), generator=generator)
    grid = torch.linspace(0, 6.28, 12)
    turned = torch.stack([torch.sin((k + 1) * grid[:, None] + (4 - k) * grid) for k in range(4)])
    images = turned[labels][:, None] + 1.5 * torch.randn(len(labels), 1, 12, 12, generator=generator)
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.Linear(16, 4)),
    )
    train(model, images[:2000], labels[:2000])
    return ls.Objective(model, "cross_entropy", (images, labels), metrics=("accuracy",))


def train(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """A few epochs of Adam."""
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(3):
        for batch in torch.randperm(len(labels)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    model.eval()


def resnet20(arguments: argparse.Namespace) -> ls.Objective:
    """The shared ResNet-20 on the first test images of CIFAR-10."""
    sys.path.insert(0, str(HERE.parent / "tests"))
    from safetensors.torch import load_file
    from shared import ResNet20

    model = ResNet20()
    model.load_state_dict(load_file(arguments.shared / "data/ckpt_cifar10_resnet/resnet20_akamaster.safetensors"))
    with np.load(arguments.shared / "data/cifar10/cifar10_test.npz") as held:
        names = list(held)
        images, labels = (torch.from_numpy(held[name]) for name in names[:2])
    images = images[: arguments.images]
    if images.shape[-1] == 3:
        images = images.permute(0, 3, 1, 2)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    images = (images.float() / 255 - mean[:, None, None]) / std[:, None, None]
    return ls.Objective(model, "cross_entropy", (images, labels[: arguments.images].long()), metrics=("accuracy",))


def small(arguments: argparse.Namespace) -> ls.Objective:
    """The MLP of the demo on digits."""
    torch.manual_seed(0)
    model, (images, labels) = digits_mlp(), digits()
    train(model, images, labels)
    return ls.Objective(model, "cross_entropy", (images, labels), metrics=("accuracy",))


def spectra(arguments: argparse.Namespace) -> None:
    """The table of eigenvalues to a stated error: three seeds each."""
    sys.path.insert(0, str(HERE.parent / "tests"))
    from shared import Dense, mnist_train

    torch.manual_seed(0)
    model, (images, labels) = Dense(784, 64, 32, 10), mnist_train()
    train(model, images[:50_000], labels[:50_000])
    data = images[50_000:][: arguments.images], labels[50_000:][: arguments.images]
    objective = ls.Objective(model, "cross_entropy", data)
    plain: dict[str, Any] = {"k": 10, "trace": False, "density": False}
    start = time.perf_counter()
    full = ls.measure_spectrum(objective, **plain)
    whole = time.perf_counter() - start
    for error in (0.02, 0.05):
        for seed in range(3):
            start = time.perf_counter()
            found = ls.measure_spectrum(objective, **plain, error=error, seed=seed)
            took = time.perf_counter() - start
            gap = np.abs(found.eigenvalues - full.eigenvalues)
            spent = found.attributes["work"]["products_of_all_data"]
            upper, lower = found.largest.upper, found.largest.lower
            assert upper is not None
            assert lower is not None
            half = (upper - lower) / 2 / full.eigenvalues
            what = f"ten eigenvalues of {objective.samples:,} images to {error:.0%}, seed {seed}"
            least = ">= 10" if error == 0.02 else ""
            products = f"{spent:.2f} of {full.products} products of all data"
            print_row(f"{what}: products", "a full measurement", f"{full.products / spent:.1f}", least, products)
            print_row(f"{what}: time", "a full measurement", Ratios((whole / took,), took, whole))
            print_row(
                f"{what}: median and largest relative error",
                "a full measurement",
                f"{np.median(gap / full.eigenvalues):.1%}; {np.max(gap / full.eigenvalues):.1%}",
                f"<= {error:.0%}",
                f"{np.mean(gap <= 2 * found.eigenvalue_error):.0%} within 2 errors; half widths up to "
                f"{half[:-1].max():.1%}, of the last {half[-1]:.1%}",
            )


def maps(arguments: argparse.Namespace) -> None:
    """The table of curvature maps to a stated error: how often errors hold what all data give, over ten seeds."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (arguments.images,), generator=generator)
    points = torch.randn(3, 8, generator=generator)[labels] + 1.2 * torch.randn(len(labels), 8, generator=generator)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 24), nn.Tanh(), nn.Linear(24, 3))
    train(model, points[:3000], labels[:3000])
    objective = ls.Objective(model, "cross_entropy", (points, labels))
    plane = ls.random_plane(objective, axes=1, seed=1)
    start = time.perf_counter()
    full = ls.measure_curvature_map(objective, plane, x=(-0.8, 0.9, 5))
    whole = time.perf_counter() - start
    took, shares = [], []
    ratios: dict[str, list[Any]] = {"eigenvalue_max": [], "eigenvalue_min": [], "convexity": []}
    for seed in range(10):
        start = time.perf_counter()
        found = ls.measure_curvature_map(objective, plane, x=(-0.8, 0.9, 5), error=arguments.map_error, seed=seed)
        took.append(time.perf_counter() - start)
        shares.append(found.attributes["work"]["share_of_brute_force"])
        assert found.error is not None
        for name, seen in ratios.items():
            seen.append(np.abs(found.values[name] - full.values[name]) / found.error[name])
    what = f"curvature at 5 points of {objective.samples:,} samples to {arguments.map_error:.0%}, ten seeds"
    print_row(f"{what}: time", "all data", Ratios(tuple(whole / t for t in took), float(np.median(took)), whole))
    print_row(f"{what}: products", "all data", f"{1 / np.median(shares):.1f}")
    for name, seen in ratios.items():
        within = [f"{np.mean(np.array(seen) <= errors):.0%} within {errors}" for errors in (1, 2)]
        print_row(f"{what}: {name}", "all data", "; ".join(within), ">= 95% within 2")


PARTS = {"conv": conv, "resnet20": resnet20, "digits": small}


class Clocks:
    """Times since now: of the clock on the wall, and of this process' processor time."""

    def __init__(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def passed(self) -> tuple[float, float]:
        """Both, in seconds."""
        return time.perf_counter() - self._began[0], time.process_time() - self._began[1]


class Told:
    """Prints each round of a surface to the terminal, and its items every few minutes."""

    def __init__(self) -> None:
        self._total, self._said = 0, 0.0

    def __call__(self, progress: Progress) -> None:
        """See `measure_surface`."""
        if progress.total != self._total or progress.elapsed - self._said > 120:
            self._total, self._said = progress.total, progress.elapsed
            print(
                f"{progress.done:,} of {progress.total:,} items, {progress.elapsed:.0f} s", file=sys.stderr, flush=True
            )


def measured(name: str, arguments: argparse.Namespace) -> None:
    """The rows of a part."""
    objective = PARTS[name](arguments)
    plane = ls.random_plane(objective, normalize="filter", ignore=("bias", "norm"), seed=0)
    axes: dict[str, Any] = dict.fromkeys("xy", (-1, 1, arguments.points))
    asked: dict[str, Any] = {"error": arguments.error, "share": arguments.share}
    objective.evaluate()  # a first pass warms caches
    start = Clocks()
    try:
        surface = ls.measure_surface(objective, plane, **axes, **asked, out=arguments.out, progress=Told())
    except RunInterrupted:
        if arguments.out is not None:
            print(ls.open(arguments.out).attributes["work"], file=sys.stderr)
        raise
    ours = start.passed()
    assert surface.error is not None
    assert surface.found is not None
    work = surface.attributes["work"]
    print(work, file=sys.stderr, flush=True)
    values, error = surface.values["loss"].ravel(), surface.error["loss"].ravel()
    free = np.flatnonzero((surface.found.ravel() != "anchor") & (values < LARGEST))
    free = free if len(free) else np.arange(values.size)
    checked = np.random.default_rng(0).permutation(free)[:CHECKED]
    theta = torch.empty_like(plane.centre)
    grid, true = Grid(surface.axes), np.zeros(len(checked))
    start = Clocks()
    for row, k in enumerate(checked.tolist()):
        true[row] = float(objective.evaluate(plane.point(grid.coordinates(k), theta))["loss"])
        told = f"{values[k]:.6g} +- {error[k]:.2g}, {surface.found.flat[k]}; full pass {true[row]:.6g}"
        print(f"{row + 1} of {len(checked)} points: {told}", file=sys.stderr, flush=True)
    brute = [part / len(checked) * values.size for part in start.passed()]
    gap = np.abs(values[checked] - true)
    size = f"{arguments.points} x {arguments.points}"
    what = f"{name}, {objective.samples:,} samples, {size}, {100 * arguments.error:g} % at {arguments.share:.0%}"
    works, least = 1 / work["share_of_brute_force"], ">= 1" if name == "digits" else ""
    found = ", ".join(f"{int((surface.found == kind).sum())} {kind}" for kind in ("anchor", "sampled", "interpolated"))
    for clock, mine, theirs in zip(("time", "processor time"), ours, brute, strict=True):
        print_row(f"{what}: {clock}", "a full pass at every point", Ratios((theirs / mine,), mine, theirs), least)
    print_row(f"{what}: sample passes", "a full pass at every point", f"{works:.1f}", least, found)
    print_row(
        f"{what}: median relative error; of nine tenths",
        f"full passes at {len(checked)} points",
        f"{100 * np.median(gap / true):.2f} %; {100 * np.quantile(gap / true, 0.9):.2f} %",
        f"<= {100 * arguments.error:g} %",
        f"{np.mean(gap <= 1.96 * error[checked] + 1e-6 * np.abs(true)):.0%} within 1.96 errors",
    )


def main() -> None:
    """Measure the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=sorted([*PARTS, "spectrum", "map"]), default=["conv", "digits"])
    parser.add_argument("--points", type=int, default=51)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--error", type=float, default=0.01)
    parser.add_argument("--map-error", type=float, default=0.1)
    parser.add_argument("--share", type=float, default=0.8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shared", type=Path, default=SHARED)
    parser.add_argument("--out", type=Path, help="keep the rows in this folder, and go on from those there")
    parser.add_argument("--quick", action="store_true", help="7 x 7 points of 200 images: to see that all runs")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.points, arguments.images = 7, 200
    torch.set_num_threads(arguments.threads)
    print_heading()
    for name in arguments.part:
        if name in ("spectrum", "map"):
            (spectra if name == "spectrum" else maps)(arguments)
        else:
            measured(name, arguments)


if __name__ == "__main__":
    main()
