"""How often the stated intervals of values to a stated error hold the full pass; prints a Markdown table.

    python scripts/precision_coverage.py [--draws 20] [--points 15] [--samples 1536] [--matrix FILE.npz] [--lines 0]

Three networks are trained here: an MLP, a convolutional network with BatchNorm, a small transformer. Their losses and
right answers are computed for every sample at every point, then the rounds are run on them with the sub-sample drawn
anew each time. `--matrix` adds losses of another network, as an array `loss` (points, samples) over `axis` x `axis`.
An interval is a value +- 1.96 errors. Centre and rim are the innermost and outermost fifth of the points; a ridge is
where the logarithm of the loss bends down most, a tenth of them. With `--lines 6` it is of profiles along so many
directions instead of a plane, and of the barrier of a path between two trainings of each network: how often what the
barrier lacks is within 1.96 errors.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from landscape_kernels.arrays import BoolArray, FloatArray
from landscape_kernels.gaps import above_ends
from torch import Tensor, nn

import landscape as ls
from landscape.planes.grid import Grid
from landscape.precise.rounds import (
    ANCHOR,
    FULL,
    Asked,
    Held,
    Item,
    estimate,
    lattice,
    meeting,
    next_items,
    squared_rises,
)

BLOCK = 128


class Transformer(nn.Module):
    """One encoder layer over six tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.out = nn.Linear(16, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        found: Tensor = self.out(self.layer(self.embed(tokens)).mean(1))
        return found


def networks(samples: int, seed: int = 0) -> dict[str, tuple[nn.Module, Tensor, Tensor]]:
    """{name: (network, inputs, labels)}, trained for a few epochs; the data are those of any seed."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (samples,), generator=generator)
    centres = torch.randn(4, 24, generator=generator)
    flat = centres[labels] + 1.5 * torch.randn(samples, 24, generator=generator)
    torch.manual_seed(seed)
    conv = nn.Sequential(
        *(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 24, 4)),
    )
    found: dict[str, tuple[nn.Module, Tensor, Tensor]] = {
        "MLP": (nn.Sequential(nn.Linear(24, 32), nn.Tanh(), nn.Linear(32, 4)), flat, labels),
        "conv, BatchNorm": (conv, flat.reshape(-1, 1, 4, 6), labels),
        "transformer": (Transformer(), flat.reshape(-1, 6, 4), labels),
    }
    for model, inputs, _ in found.values():
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(4):
            for batch in torch.randperm(samples).split(64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs[batch]), labels[batch]).backward()
                optimizer.step()
        model.eval()
    return found


def matrices(
    model: nn.Module, data: tuple[Tensor, Tensor], points: int, lines: int
) -> tuple[FloatArray, dict[str, FloatArray]]:
    """(axis, {quantity: (points, samples)}), of a plane or of lines one after another."""
    objective = ls.Objective(model, "cross_entropy", data, metrics=("accuracy",))
    axis = np.linspace(-1, 1, points)
    if lines:
        directions = ls.random_plane(objective, seed=0, axes=lines)
        places = [tuple(x * (k == line) for k in range(lines)) for line in range(lines) for x in axis]
    else:
        directions, grid = ls.random_plane(objective, seed=0), Grid({"x": axis, "y": axis})
        places = [grid.coordinates(k) for k in range(grid.size)]
    chosen = objective.choose(range(objective.samples))
    rows = [objective.estimates_and_samples(directions.point(place), chosen=chosen)[1] for place in places]
    return axis, {"loss": np.stack([row[0] for row in rows]), "accuracy": np.stack([row[1] for row in rows])}


def along(
    models: tuple[nn.Module, nn.Module], data: tuple[Tensor, Tensor], points: int
) -> tuple[FloatArray, FloatArray]:
    """(places, losses (places, samples)) of the line between two models, BatchNorm as in the first."""
    objective = ls.Objective(models[0], "cross_entropy", data)
    curve = ls.curve_from_points(objective, models)
    chosen = objective.choose(range(objective.samples))
    t = np.linspace(0, 1, points)
    return t, np.stack([objective.estimates_and_samples(curve.point(s), chosen=chosen)[1][0] for s in t])


def wanted(axes: tuple[FloatArray, ...], lines: int, samples: int, arguments: argparse.Namespace) -> Asked:
    """What is asked of a plane or of lines."""
    at, size = meeting(axes, lines), len(axes[-1])
    coarse = lattice(tuple(map(len, axes)))
    first = sorted({int(at[line * size + p]) for line in range(lines) for p in coarse})
    blocks, error, share = samples // 2 // BLOCK, arguments.error, arguments.share
    return Asked(axes, tuple(first), samples, BLOCK, blocks, error, "relative", share, lines=lines)


def run(
    asked: Asked, held: Mapping[str, FloatArray], seed: int
) -> tuple[dict[str, tuple[FloatArray, FloatArray]], BoolArray, float]:
    """({quantity: (values, errors)}, points that had no full pass, share of brute force)."""
    losses = held["loss"]
    size, samples = losses.shape
    order = np.random.default_rng(seed).permutation(samples)
    of = meeting(asked.axes, asked.lines)
    full, units, spent = np.zeros(size, dtype=np.bool_), dict[int, int](), 0
    items: list[Item] = [(p, FULL) for p in asked.first]
    tried: set[Item] = set()

    def known(name: str) -> Held:
        values = held[name]
        parts = {p: values[p, order[: units[k] * BLOCK]] for p, k in enumerate(of.tolist()) if k in units}
        return Held(full[of], values.mean(1), values.std(1, ddof=1) / np.sqrt(samples), parts)

    while items:
        for point, level in items:
            spent += asked.cost(level)
            full[point] |= level == FULL
            units[point] = max(units.get(point, 0), level, 1)
        tried |= set(items)
        items = next_items(asked, known("loss"), tried)
    found = {name: estimate(asked, known(name), positive=name == "loss") for name in held}
    return (
        {name: (now.values, now.error) for name, now in found.items()},
        found["loss"].found != ANCHOR,
        spent / samples / size,
    )


def regions(asked: Asked, mean: FloatArray) -> dict[str, BoolArray]:
    """{name: the points of it}."""
    y, x = np.meshgrid(np.zeros(asked.lines) if asked.lines > 1 else asked.axes[0], asked.axes[-1], indexing="ij")
    radius = np.hypot(x, y).ravel()
    heights = np.log(mean).reshape(x.shape)
    bend = np.zeros(heights.shape)
    if asked.lines == 1:
        bend[1:-1] += heights[2:] - 2 * heights[1:-1] + heights[:-2]
    bend[:, 1:-1] += heights[:, 2:] - 2 * heights[:, 1:-1] + heights[:, :-2]
    return {
        "all": np.ones(mean.shape, dtype=np.bool_),
        "centre": radius <= np.quantile(radius, 0.2),
        "rim": radius >= np.quantile(radius, 0.8),
        "ridge": (bend <= np.quantile(bend, 0.1)).ravel(),
    }


def barrier_row(name: str, t: FloatArray, losses: FloatArray, arguments: argparse.Namespace) -> str:
    """How often what a barrier lacks is within 1.96 of its errors, how much that is, and the work."""
    asked = replace(wanted((t,), 1, losses.shape[1], arguments), highest=True)
    true, lacking, inside, work = float(above_ends(t, losses.mean(1)).max()), [], [], []
    for seed in range(arguments.draws):
        found, _, spent = run(asked, {"loss": losses}, seed)
        values, errors = found["loss"]
        heights = above_ends(t, values)
        top = int(np.argmax(heights))
        error = np.sqrt(np.delete(squared_rises(heights - heights[top], errors), top).sum())
        lacking.append(true - heights[top])
        inside.append(abs(lacking[-1]) <= 1.96 * error + 1e-12)
        work.append(spent)
    gaps = f"{np.median(lacking):.2g} | {np.max(lacking):.2g}"
    return f"| {name} | {true:.3g} | {np.mean(inside):.0%} | {gaps} | {np.mean(work):.0%} |"


def lines(name: str, axis: FloatArray, held: Mapping[str, FloatArray], arguments: argparse.Namespace) -> list[str]:
    """Lines of the table, one for each quantity."""
    size, samples = held["loss"].shape
    plane = size == len(axis) ** 2
    count = 1 if plane else size // len(axis)
    asked = wanted((axis, axis) if plane else (axis,), count, samples, arguments)
    runs = [run(asked, held, seed) for seed in range(arguments.draws)]
    told = []
    for quantity, values in held.items():
        true = values.mean(1)
        inside: dict[str, list[BoolArray]] = {}
        gaps: list[FloatArray] = []
        for found, unsure, _ in runs:
            value, error = found[quantity]
            gap = np.abs(value - true)
            gaps.append(gap / np.abs(true))
            close = gap <= 1.96 * error + 1e-12 * np.abs(true)
            for region, there in regions(asked, held["loss"].mean(1)).items():
                inside.setdefault(region, []).append(close[there & unsure])
        cover = [f"{np.concatenate(parts).mean():.0%}" for parts in inside.values()]
        gap = np.concatenate(gaps)
        work = np.mean([share for _, _, share in runs])
        cells = (
            f"{name}, {quantity}",
            *cover,
            f"{100 * np.median(gap):.2f} %",
            f"{100 * np.quantile(gap, 0.9):.2f} %",
            f"{work:.0%}",
        )
        told.append(f"| {' | '.join(cells)} |")
    return told


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--points", type=int, default=15)
    parser.add_argument("--samples", type=int, default=1536)
    parser.add_argument("--error", type=float, default=0.02)
    parser.add_argument("--share", type=float, default=0.8)
    parser.add_argument("--matrix", type=Path)
    parser.add_argument("--lines", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{arguments.draws} draws, error {arguments.error:g} relative asked at {arguments.share:.0%} of the points\n")
    print("| losses | all | centre | rim | ridge | median error | nine tenths | work |")
    print("|---|---|---|---|---|---|---|---|")
    for name, (model, inputs, labels) in networks(arguments.samples).items():
        axis, held = matrices(model, (inputs, labels), arguments.points, arguments.lines)
        print("\n".join(lines(name, axis, held, arguments)), flush=True)
    if arguments.lines:
        print("\n| barrier between two trainings | height | covered | lacking, median | largest | work |")
        print("|---|---|---|---|---|---|")
        others = networks(arguments.samples, seed=1)
        for name, (model, inputs, labels) in networks(arguments.samples).items():
            t, losses = along((model, others[name][0]), (inputs, labels), arguments.points)
            print(barrier_row(name, t, losses, arguments), flush=True)
    if arguments.matrix is not None:
        with np.load(arguments.matrix) as stored:
            found = lines("stored", stored["axis"], {"loss": stored["loss"].astype(np.float64)}, arguments)
        print("\n".join(found), flush=True)


if __name__ == "__main__":
    main()
