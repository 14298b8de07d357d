"""Radii of a basin against a loop of single forward passes, as ratios in one run.

    python scripts/bench_basin.py [--directions 1000] [--width 16] [--quick]

An MLP of the 1,297 handwritten digits. The loop is what one writes without this engine: for each direction the weights
are copied into the module, one forward pass gives the loss, radii are doubled until the loss is above the cutoff and
bisected to a relative 1e-6. Both run on one thread; the loop is measured on a part of the directions, and the radii are
compared.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from benchmarks import Ratios, print_heading, print_row, ratios_of
from landscape_jobs.demo import digits
from torch import Tensor, nn

import landscape as ls

RTOL = 1e-6


def trained(width: int) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """An MLP of one hidden layer that has learnt the digits."""
    torch.manual_seed(0)
    model, (images, labels) = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10)), digits()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(400):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model, (images, labels)


def looped(
    model: nn.Module, data: tuple[Tensor, Tensor], directions: list[Tensor], cutoff: float
) -> tuple[list[float], int]:
    """Radii by single forward passes, and how many these were."""
    inputs, labels = data
    theta = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    passes = 0

    @torch.no_grad()
    def loss(direction: Tensor, radius: float) -> float:
        nonlocal passes
        passes += 1
        torch.nn.utils.vector_to_parameters(theta + radius * direction, model.parameters())
        return float(nn.functional.cross_entropy(model(inputs), labels))

    found = []
    for direction in directions:
        high = 0.1
        while loss(direction, high) < cutoff:
            high *= 2
        low = high / 2 if high > 0.1 else 0.0
        while high - low > RTOL * high:
            middle = (low + high) / 2
            low, high = (middle, high) if loss(direction, middle) < cutoff else (low, middle)
        found.append((low + high) / 2)
    torch.nn.utils.vector_to_parameters(theta, model.parameters())
    return found, passes


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--directions", type=int, default=1000)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--quick", action="store_true", help="50 directions: to see that all runs")
    parser.add_argument("--shared", type=Path, help="not used here")
    given = parser.parse_args()
    given.directions = 50 if given.quick else given.directions
    torch.set_num_threads(1)
    model, data = trained(given.width)
    objective = ls.Objective(model, data=data, device="cpu")
    cutoff = float(objective.evaluate()["loss"]) + 0.1
    ls.measure_basin(objective, cutoff, directions=64)  # warm
    part = max(1, given.directions // 10)
    ours, theirs = [], []
    for _ in range(3):  # in turn, so that what else the machine does meets both
        began = time.process_time()
        basin = ls.measure_basin(objective, cutoff, directions=given.directions)
        ours.append(time.process_time() - began)
        directions = list(ls.random_plane(objective, axes=part).directions)
        began = time.process_time()
        radii, passes = looped(model, data, directions, cutoff)
        theirs.append((time.process_time() - began) * given.directions / part)
    gap = float(np.max(np.abs(basin.radii[:part] / np.array(radii) - 1)))
    each = basin.attributes["evaluations"] / given.directions
    print_heading()
    print_row(
        f"{given.directions} radii, MLP of {objective.layout.size:,} parameters, {objective.samples} digits",
        f"single forward passes, {passes / part:.1f} a radius (from {part} of them)",
        Ratios(ratios_of(ours, theirs), statistics.median(ours), statistics.median(theirs)),
        ">= 10",
        f"{min(ours):.2f} s, {each:.1f} values a radius, profiles of 32 included, against {min(theirs):.2f} s",
    )
    print_row("the same: largest relative gap of a radius", "", f"{gap:.1e}", "<= 1e-5")


if __name__ == "__main__":
    main()
