"""Speed of mode connectivity, as ratios against plain peers in one run; prints a Markdown table.

    python scripts/bench_curve.py [--threads 1] [--shared ../shared] [--only PART ...] [--quick]

Peers: a plain training step of the same network (SGD with momentum on the module's own parameters, batches of 128 in an
order drawn anew in each epoch, images in either memory format); 61 plain evaluations and statistics passes at the same
points; two separate sweeps over half of the pairs each, started together. Every ratio is our time over the peer's
(below 1: we are faster), the median of interleaved repeats, so that a slow machine slows both sides.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from benchmarks import (
    SHARED,
    Ratios,
    digits,
    in_turn,
    mlp,
    mpi_environment,
    mpiexec,
    print_heading,
    print_row,
    ratios_of,
    resnet20,
    seconds,
)
from shared import ResNet20
from torch import Tensor, nn

import landscape as ls

BATCH, LR, MOMENTUM = 128, 0.03, 0.9
PLACES = 61
IMAGES = 128
MODELS = 10


def other_resnet20(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return ResNet20().eval()


# -- a training step --------------------------------------------------------------------------------------------------


def plain_epoch(model: nn.Module, images: Tensor, labels: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """What one epoch of training is without a curve."""
    order = torch.randperm(len(images))
    for rows in order.split(BATCH):
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(images[rows]), labels[rows]).backward()
        optimizer.step()


def step(given: argparse.Namespace) -> None:
    trained, (images, labels), note = resnet20(given.shared)
    batches = 1 if given.quick else 2
    images, labels = images[: batches * BATCH], labels[: batches * BATCH]
    steps = len(images) // BATCH
    objective = ls.Objective(trained, "cross_entropy", (images[:BATCH], labels[:BATCH]))
    ends = trained.state_dict(), other_resnet20(1).state_dict()

    def curve() -> None:
        options = {"batch_size": BATCH, "lr": LR, "momentum": MOMENTUM}
        ls.fit_curve(objective, *ends, epochs=2, train=(images, labels), seed=0, **options)  # type: ignore[arg-type]

    for layout in (torch.contiguous_format, torch.channels_last):
        model = other_resnet20(2).train().to(memory_format=layout)  # type: ignore[call-overload]
        optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)
        laid_out = images.contiguous(memory_format=layout)

        def plain(m: nn.Module = model, x: Tensor = laid_out, o: torch.optim.Optimizer = optimizer) -> None:
            for _ in range(2):
                plain_epoch(m, x, labels, o)

        curve(), plain()
        found = in_turn(curve, plain, 1 if given.quick else 5, over="theirs")
        name = str(layout).removeprefix("torch.")
        print_row(
            f"step of a quadratic Bezier curve, ResNet-20, batch {BATCH}, float32 ({note})",
            f"a plain step, {name}",
            found,
            "<= 1.10",
            f"{found.ours / steps / 2 * 1e3:.0f} ms against {found.theirs / steps / 2 * 1e3:.0f} ms a step",
        )


# -- evaluation along a curve -----------------------------------------------------------------------------------------


def path(given: argparse.Namespace) -> None:
    trained, (images, labels), note = resnet20(given.shared)
    count, places = (32, 5) if given.quick else (IMAGES, PLACES)
    data = images[:count], labels[:count]
    objective = ls.Objective(trained, "cross_entropy", data, metrics=("error",))
    a, b = objective.theta, torch.nn.utils.parameters_to_vector(other_resnet20(1).parameters()).detach()
    curve = ls.curve_from_points(objective, [a, (a + b) / 2, b], kind="bezier")
    mine, other, loops = [], [], []
    losses: list[float] = []
    net = copy.deepcopy(trained)
    norms = [module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)]

    def plain() -> None:
        losses.clear()
        for t in np.linspace(0, 1, places):
            theta = curve.point(float(t))
            losses.append(float(objective.evaluate(theta, buffers=objective.reestimate(theta))["loss"]))

    @torch.no_grad()
    def loop() -> None:
        """What a script does: a pass in train mode with cumulative statistics, then one in eval mode."""
        for t in np.linspace(0, 1, places):
            torch.nn.utils.vector_to_parameters(curve.point(float(t)), net.parameters())
            for norm in norms:
                norm.momentum = None
                norm.reset_running_stats()
            for training in (True, False):
                net.train(training)
                for x, y in zip(data[0].split(BATCH), data[1].split(BATCH), strict=True):
                    torch.nn.functional.cross_entropy(net(x), y, reduction="sum")

    ls.measure_path(objective, curve, t=3)
    for _ in range(1 if given.quick else 2):
        start = time.perf_counter()
        found = ls.measure_path(objective, curve, t=places)
        mine.append(time.perf_counter() - start)
        other.append(seconds(plain))
        loops.append(seconds(loop))
    print_row(
        f"path at {places} t with statistics re-estimated, ResNet-20, {len(data[0])} images, float32 ({note})",
        f"{places} evaluations and {places} statistics passes",
        Ratios(ratios_of(mine, other, "theirs"), statistics.median(mine), statistics.median(other)),
        "<= 1.05",
    )
    print_row(
        f"the same path, loss and error at {places} t",
        "a plain torch loop, loss alone",
        Ratios(ratios_of(mine, loops, "theirs"), statistics.median(mine), statistics.median(loops)),
    )
    gap = float(np.abs(found.values["loss"] - losses).max())
    print_row("path: largest gap of the losses", "the same evaluations", f"{gap:.1e}", "0", f"{places} places")


# -- alignment --------------------------------------------------------------------------------------------------------


def align(given: argparse.Namespace) -> None:
    trained, (images, labels), note = resnet20(given.shared)
    objective = ls.Objective(trained, "cross_entropy", (images[:BATCH], labels[:BATCH]))
    other = other_resnet20(1)
    for method in ("weights", "activations"):
        found = [seconds(lambda m=method: ls.align(objective, trained, other, method=m)) for _ in range(3)]  # type: ignore[misc]
        print_row(
            f"alignment of two ResNet-20 by {method}, {BATCH} images (one {note}, one not trained)",
            "",
            f"{statistics.median(found):.1f} s",
            "<= 10 s",
            "median of 3, verification included",
            f"{min(found):.2g} to {max(found):.2g} s",
        )


# -- sweeps -----------------------------------------------------------------------------------------------------------
# One rank of the sweep: `bench_curve.py --rank PART OUT` fits and measures half of the pairs (0 or 1) or all ("all").


def rank_job(part: str, out: str) -> None:
    torch.set_num_threads(1)
    models = []
    for seed in range(MODELS):
        torch.manual_seed(seed)
        models.append(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)))
    objective = ls.Objective(mlp(), "cross_entropy", digits(), metrics=("error",))
    pairs = [(i, j) for i in range(MODELS) for j in range(i + 1, MODELS)]
    chosen = pairs if part == "all" else pairs[int(part) :: 2]
    ls.measure_connectivity(objective, models, pairs=chosen, epochs=20, t=25, out=out)


def sweep(given: argparse.Namespace) -> None:
    command = [sys.executable, __file__, "--rank"]
    environment = {**mpi_environment(), "OMP_NUM_THREADS": "1"}
    times = []
    for _ in range(1 if given.quick else 3):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            halves = [subprocess.Popen([*command, part, f"{folder}/{part}"], env=environment) for part in "01"]
            assert [half.wait() for half in halves] == [0, 0]
            apart = time.perf_counter() - start
            start = time.perf_counter()
            subprocess.run([*mpiexec(2), *command, "all", f"{folder}/all"], env=environment, check=True)
            times.append((time.perf_counter() - start, apart))
    together, apart = ([pair[k] for pair in times] for k in (0, 1))
    print_row(
        f"sweep over all pairs of {MODELS} MLPs (64-64-64-10, digits) on 2 ranks, start-up included",
        "two runs on half the pairs each, started together",
        Ratios(ratios_of(together, apart, "theirs"), statistics.median(together), statistics.median(apart)),
        "<= 1.08",
    )


PARTS = {part.__name__: part for part in (step, path, align, sweep)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--shared", type=Path, default=SHARED)
    parser.add_argument("--quick", action="store_true", help="smallest sizes, once: to see that all runs")
    parser.add_argument("--only", nargs="+", choices=PARTS)
    parser.add_argument("--rank", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.rank:
        rank_job(*given.rank)
        return
    print_heading()
    for name in given.only or PARTS:
        PARTS[name](given)


if __name__ == "__main__":
    main()
