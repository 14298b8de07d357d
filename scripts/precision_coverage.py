"""How often the stated intervals of a surface to a stated error hold the full pass; prints a Markdown table.

    python scripts/precision_coverage.py [--draws 20] [--points 15] [--samples 1536] [--matrix FILE.npz]

Three networks are trained here: an MLP, a convolutional network with BatchNorm, a small transformer. Their losses and
right answers are computed for every sample at every point, then the rounds are run on them with the sub-sample drawn
anew each time. `--matrix` adds losses of another network, as an array `loss` (points, samples) over `axis` x `axis`.
An interval is a value +- 1.96 errors. Centre and rim are the innermost and outermost fifth of the points; a ridge is
where the logarithm of the loss bends down most, a tenth of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from landscape_kernels.arrays import BoolArray, FloatArray
from torch import Tensor, nn

import landscape as ls
from landscape.planes.grid import Grid
from landscape.precise.rounds import ANCHOR, FULL, Asked, Held, Item, estimate, lattice, next_items

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


def networks(samples: int) -> dict[str, tuple[nn.Module, Tensor, Tensor]]:
    """{name: (network, inputs, labels)}, trained for a few epochs."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (samples,), generator=generator)
    centres = torch.randn(4, 24, generator=generator)
    flat = centres[labels] + 1.5 * torch.randn(samples, 24, generator=generator)
    torch.manual_seed(0)
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


def matrices(model: nn.Module, data: tuple[Tensor, Tensor], points: int) -> tuple[FloatArray, dict[str, FloatArray]]:
    """(axis, {quantity: (points, samples)})."""
    objective = ls.Objective(model, "cross_entropy", data, metrics=("accuracy",))
    plane = ls.random_plane(objective, seed=0)
    axis = np.linspace(-1, 1, points)
    grid = Grid({"x": axis, "y": axis})
    chosen = objective.choose(range(objective.samples))
    rows = [
        objective.estimates_and_samples(plane.point(grid.coordinates(k)), chosen=chosen)[1] for k in range(grid.size)
    ]
    return axis, {"loss": np.stack([row[0] for row in rows]), "accuracy": np.stack([row[1] for row in rows])}


def run(
    axis: FloatArray, held: Mapping[str, FloatArray], error: float, share: float, seed: int
) -> tuple[dict[str, tuple[FloatArray, FloatArray]], BoolArray, float]:
    """({quantity: (values, errors)}, points that had no full pass, share of brute force)."""
    losses = held["loss"]
    size, samples = losses.shape
    order = np.random.default_rng(seed).permutation(samples)
    shape = (len(axis),) * 2
    asked = Asked((axis, axis), tuple(lattice(shape)), samples, BLOCK, samples // 2 // BLOCK, error, "relative", share)
    full, units, spent = np.zeros(size, dtype=np.bool_), dict[int, int](), 0
    items: list[Item] = [(p, FULL) for p in asked.first]
    tried: set[Item] = set()

    def known(name: str) -> Held:
        values = held[name]
        parts = {p: values[p, order[: n * BLOCK]] for p, n in units.items()}
        return Held(full, values.mean(1), values.std(1, ddof=1) / np.sqrt(samples), parts)

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


def regions(axis: FloatArray, mean: FloatArray) -> dict[str, BoolArray]:
    """{name: the points of it}."""
    y, x = np.meshgrid(axis, axis, indexing="ij")
    radius = np.hypot(x, y).ravel()
    heights = np.log(mean).reshape(len(axis), -1)
    bend = np.zeros(heights.shape)
    bend[1:-1] += heights[2:] - 2 * heights[1:-1] + heights[:-2]
    bend[:, 1:-1] += heights[:, 2:] - 2 * heights[:, 1:-1] + heights[:, :-2]
    return {
        "all": np.ones(mean.shape, dtype=np.bool_),
        "centre": radius <= np.quantile(radius, 0.2),
        "rim": radius >= np.quantile(radius, 0.8),
        "ridge": (bend <= np.quantile(bend, 0.1)).ravel(),
    }


def lines(name: str, axis: FloatArray, held: Mapping[str, FloatArray], arguments: argparse.Namespace) -> list[str]:
    """Lines of the table, one for each quantity."""
    runs = [run(axis, held, arguments.error, arguments.share, seed) for seed in range(arguments.draws)]
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
            for region, there in regions(axis, held["loss"].mean(1)).items():
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
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{arguments.draws} draws, error {arguments.error:g} relative asked at {arguments.share:.0%} of the points\n")
    print("| losses | all | centre | rim | ridge | median error | nine tenths | work |")
    print("|---|---|---|---|---|---|---|---|")
    for name, (model, inputs, labels) in networks(arguments.samples).items():
        axis, held = matrices(model, (inputs, labels), arguments.points)
        print("\n".join(lines(name, axis, held, arguments)), flush=True)
    if arguments.matrix is not None:
        with np.load(arguments.matrix) as stored:
            found = lines("stored", stored["axis"], {"loss": stored["loss"].astype(np.float64)}, arguments)
        print("\n".join(found), flush=True)


if __name__ == "__main__":
    main()
