"""Speed and memory of the surface job, as ratios against named peers in one run; prints a Markdown table.

    python scripts/bench_surface.py [--threads 1] [--shared ../shared] [--only PART ...] [--quick]

Peers: the loop that the loss-landscape tool runs at each point (copy the parameters into the module, then a DataLoader
with batch 128 and 2 workers), written plainly here; loss-landscapes and landscaper from PyPI where they are installed
(`scripts/bench` makes environments for them). Every ratio is peer time over ours (above 1: we are faster), the median
of interleaved repeats, so that a slow machine slows both sides.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
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
    told,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import landscape as ls
from landscape.planes.grid import axis_values
from landscape.run.comm import world
from landscape.run.task import Description


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


def against_tool(given: argparse.Namespace) -> None:
    points = np.array([[0.0, 0.0], [0.3, -0.2], [-0.5, 0.5]])
    for name, (model, data, note), repeats, least in (
        ("MLP 64-64-64-10, 1,797 digits", (mlp(), digits(), "scikit-learn digits"), 5, 20.0),
        ("ResNet-20", resnet20(given.shared), 3, 1.4),
    ):
        if given.quick:
            data, repeats = (data[0][:128], data[1][:128]), 1
        objective = ls.Objective(model, "cross_entropy", data)
        plane = ls.random_plane(objective, seed=1)
        ours, theirs = our_points(objective, plane, points), tool_loop(model, data, plane, points)
        gap = max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))

        def loop(
            m: nn.Module = model, d: tuple[Tensor, Tensor] = data, p: ls.Plane = plane, at: np.ndarray = points
        ) -> None:
            tool_loop(m, d, p, at)

        found = in_turn(lambda o=objective, p=plane: our_points(o, p, points), loop, repeats)
        print_row(f"{name}, {len(data[1])} samples, float32 ({note})", "loss-landscape's loop", found, f">= {least:g}")
        print_row(f"{name}: largest relative gap of the losses", "", f"{gap:.1e}", "<= 1e-5")
        if "ResNet" in name:
            half_precision(model, data, loop, points)


def half_precision(
    model: nn.Module, data: tuple[Tensor, Tensor], loop: Callable[..., None], points: np.ndarray
) -> None:
    """bf16 where it pays; where it does not, how much slower it is, on a few images."""
    few = data[0][:64], data[1][:64]
    full, low = (ls.Objective(model, "cross_entropy", few, precision=p) for p in ("float32", "bf16"))
    plane = ls.random_plane(low, seed=1)
    found = in_turn(low.evaluate, full.evaluate, 3)
    print_row("ResNet-20, 64 images, bf16", "ours in float32", found, "> 1 on processors that have it")
    surface = ls.measure_surface(low, plane, x=(-0.5, 0.5, 2), y=(-0.5, 0.5, 2))
    error = surface.attributes["precision_error_relative"]
    print_row("the same: error stored in the file", "ours in float32", f"{error:.1e}", "", "4 points")
    if found.median > 1:
        low = ls.Objective(model, "cross_entropy", data, precision="bf16")
        found = in_turn(lambda: our_points(low, plane, points), loop, 3)
        print_row(f"ResNet-20, {len(data[1])} images, bf16", "loss-landscape's loop", found, ">= 2.5")


def against(peer: str, given: argparse.Namespace) -> None:
    run = {"loss-landscapes": loss_landscapes_run, "landscaper": landscaper_run}[peer]
    steps, repeats = (3, 1) if given.quick else (7, 5)
    if importlib.util.find_spec(peer.replace("-", "_")) is None:
        print_row("points of a small surface", peer, "not installed", ">= 1", "scripts/bench makes an environment")
        return
    cases = [("MLP, 1,797 digits in one batch", mlp(), digits()), ("ResNet-20, 128 images in one batch", None, None)]
    for name, model, data in cases:
        if model is None or data is None:
            model, (inputs, targets), _ = resnet20(given.shared)
            data = inputs[:128], targets[:128]
        objective = ls.Objective(model, "cross_entropy", data)
        plane = ls.random_plane(objective, seed=1)

        def ours(o: ls.Objective = objective, p: ls.Plane = plane) -> None:
            ls.measure_surface(o, p, x=(-0.1, 0.1, steps), y=(-0.1, 0.1, steps))

        def theirs(m: nn.Module = model, d: tuple[Tensor, Tensor] = data) -> None:
            run(m, d, steps)

        ours(), theirs()
        found = in_turn(ours, theirs, repeats)
        each = f"{told(found.ours / steps**2)} against {told(found.theirs / steps**2)} a point"
        print_row(name, f"{peer} {version(peer)}", found, ">= 1", each)


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
GRID = (20, 8)


def rank_job(part: str, out: str, given: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    model, data, _ = resnet20(given.shared)
    count = 8 if given.quick else 128
    objective = ls.Objective(model, "cross_entropy", (data[0][:count], data[1][:count]))
    plane = ls.random_plane(objective, seed=0)
    nx, ny = GRID
    y = axis_values("y", (-1, 1, ny))
    chosen = y if part == "all" else y[: ny // 2] if part == "0" else y[ny // 2 :]
    ls.measure_surface(objective, plane, x=(-1, 1, nx), y=chosen, out=out)


def two_ranks(given: argparse.Namespace) -> None:
    shared = given.shared
    command = [sys.executable, __file__, "--shared", str(shared), *(["--quick"] if given.quick else []), "--rank"]
    environment = {**mpi_environment(), "OMP_NUM_THREADS": "1"}
    times = []
    for _ in range(1 if given.quick else 2):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            halves = [subprocess.Popen([*command, part, f"{folder}/{part}"], env=environment) for part in "01"]
            assert all(half.wait() == 0 for half in halves)
            apart = time.perf_counter() - start
            start = time.perf_counter()
            subprocess.run([*mpiexec(2), *command, "all", f"{folder}/all"], env=environment, check=True)
            times.append((time.perf_counter() - start, apart))
    together, apart = ([pair[k] for pair in times] for k in (0, 1))
    print_row(
        f"{GRID[0]} x {GRID[1]} grid, 2 ranks, start-up included: time over two separate half runs",
        "two single-rank runs started together",
        Ratios(ratios_of(together, apart, "theirs"), statistics.median(together), statistics.median(apart)),
        "<= 1.05",
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


def empty_rows(given: argparse.Namespace) -> None:
    for ranks in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            command = [*(mpiexec(ranks) if ranks > 1 else []), sys.executable, __file__, "--empty", f"{folder}/run"]
            done = subprocess.run(command, env=mpi_environment(), capture_output=True, text=True, check=True)
        rate = float(done.stdout.split()[-1])
        print_row(f"empty objective, {ranks} rank(s): rows a second", "", f"{rate:,.0f}", ">= 2,000", "folder on disk")


def memory_job(points: int, out: str) -> None:
    objective = ls.Objective(mlp(), "cross_entropy", digits())
    plane = ls.random_plane(objective, seed=0)
    ls.measure_surface(objective, plane, x=(-1, 1, points), y=(-1, 1, points), out=out)
    # ru_maxrss of a process starts at what its parent held
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    sys.stdout.write(f"{peak / 1024}\n")


def memory(given: argparse.Namespace) -> None:
    peaks = {}
    small, large = (5, 21) if given.quick else (5, 101)
    for points in (small, large):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, "--memory", str(points), f"{folder}/run"]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            peaks[points] = float(done.stdout.split()[-1])
    print_row(
        f"peak memory, {large} x {large} over {small} x {small} (MiB)",
        "",
        f"{peaks[large] - peaks[small]:.1f}",
        "<= 50",
        f"{peaks[large]:.0f} against {peaks[small]:.0f}",
    )


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "tool": against_tool,
    "loss-landscapes": lambda given: against("loss-landscapes", given),
    "landscaper": lambda given: against("landscaper", given),
    "ranks": two_ranks,
    "rows": empty_rows,
    "memory": memory,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--shared", type=Path, default=SHARED)
    parser.add_argument("--only", nargs="+", choices=PARTS)
    parser.add_argument("--quick", action="store_true", help="smallest sizes, once: to see that all runs")
    parser.add_argument("--rank", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--empty", help=argparse.SUPPRESS)
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.rank:
        rank_job(*given.rank, given)
    elif given.empty:
        empty_job(given.empty)
    elif given.memory:
        memory_job(int(given.memory[0]), given.memory[1])
    else:
        print_heading()
        for name in given.only or PARTS:
            PARTS[name](given)


if __name__ == "__main__":
    main()
