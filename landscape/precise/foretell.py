"""What values to a stated error are going to take, from the first block of samples at a few points."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from landscape_kernels.arrays import FloatArray, IntArray
from landscape_kernels.control_variates import regressed_means

from landscape.precise.rounds import Asked, aims, board, lattice, places_of, sharpness, tiers

_CONTROLS = 9
_LINES = 4  # of several, that are looked at


@dataclass(frozen=True)
class Foretold:
    """Items to come: a guess, right to a factor of two or so."""

    full: float  # full passes
    blocks: float  # blocks of the sub-sample
    passes: float  # all samples seen, in full passes
    share: float  # of a full pass at every point


def probes(asked: Asked) -> tuple[list[int], list[int]]:
    """(points of the coarse grid, those half way between them), at which the first block is looked at.

    Of several lines these are on the first few.
    """
    middles = [_middles(n, len(asked.shape)) for n in asked.shape]
    inner = np.ravel_multi_index(np.meshgrid(*middles, indexing="ij"), asked.shape)
    coarse, between = lattice(asked.shape), sorted(inner.ravel().tolist())
    starts = [line * math.prod(asked.shape) for line in range(min(asked.lines, _LINES))]
    return [start + p for start in starts for p in coarse], [start + p for start in starts for p in between]


def _middles(n: int, dimensions: int) -> IntArray:
    """The places of a line that the finer coarse grid has and the coarse grid has not."""
    steps = 4 if dimensions < 3 else 2
    coarse, finer = (np.linspace(0, n - 1, min(n, k + 1)).round().astype(np.int64) for k in (steps, 2 * steps))
    return np.setdiff1d(finer, coarse)


def foretold(asked: Asked, losses: Mapping[int, FloatArray]) -> Foretold:
    """The work, from the losses of the first block's samples at `probes`, each (block,).

    What is left of the variance of a point between those of the coarse grid, once regressed on these, falls with the
    square of the distance to what a point is regressed on. So each finer tier needs as many samples as its target asks.
    """
    coarse, between = probes(asked)
    size, (tier_of, apart) = asked.size, tiers(asked.shape, asked.lines)
    counts, measured = np.bincount(tier_of), np.bincount(tier_of, weights=board(asked))
    if not between or asked.blocks == 0:
        return Foretold(float(size), 0.0, float(size), 1.0)
    places = places_of(asked)
    values = np.full(size, np.nan)
    for point, units in losses.items():
        values[point] = units.mean()
    aim = aims(asked, values)
    costs = np.zeros((len(between), len(apart)))  # samples that a point of each tier takes
    for row, point in enumerate(between):
        near = sorted(coarse, key=lambda c: (float(np.square(places[c] - places[point]).sum()), c))[:_CONTROLS]
        controls = np.stack([losses[c] for c in near], 1)
        _, _, left = regressed_means(losses[point][:, None], controls, values[near])
        variance = np.square(left).sum() / (len(left) - 1)
        for tier, steps in enumerate(apart[1:], start=1):
            target = sharpness(tier, len(apart) - 1) * aim[point]
            with np.errstate(divide="ignore"):
                need = 1 / (target**2 / max(variance * (2 * steps / apart[0]) ** 2, 1e-300) + 1 / asked.samples)
            costs[row, tier] = min(max(need, asked.block), asked.samples)
    costs = costs[np.argsort(costs.sum(1), kind="stable")]
    kept = max(1, round(asked.share * len(costs)))
    spent = costs[:kept].sum(0) / len(costs) + (1 - kept / len(costs)) * asked.block
    points = np.where(np.arange(len(apart)) < len(apart) - 1, counts, measured)
    samples = float((points[1:] * spent[1:]).sum())
    full = float(len(asked.first))
    passes = min(full + samples / asked.samples, float(size))
    blocks = (passes - full) * asked.samples / asked.block
    return Foretold(full, max(blocks, 0.0), passes, passes / size)
