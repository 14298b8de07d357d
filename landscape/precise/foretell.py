"""What values to a stated error are going to take, from the first block of samples at a few points."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from landscape_kernels.arrays import FloatArray
from landscape_kernels.control_variates import regressed_means

from landscape.precise.rounds import (
    OWN,
    Asked,
    aims,
    board,
    lattice,
    lattice_lines,
    places_of,
    sharpness,
    tiers,
)

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
    """(points of a coarse grid, those half way between them), at which the first block is looked at.

    Of several lines these are on the first few.
    """
    finer = _finer(asked)
    coarse, fine = lattice_lines(asked.shape, finer), lattice_lines(asked.shape, finer + 1)
    middles = [np.setdiff1d(*lines) for lines in zip(fine, coarse, strict=True)]
    inner = np.ravel_multi_index(np.meshgrid(*middles, indexing="ij"), asked.shape)
    return _on_lines(asked, lattice(asked.shape, finer)), _on_lines(asked, sorted(inner.ravel().tolist()))


def _on_lines(asked: Asked, points: list[int]) -> list[int]:
    """These points of each line that is looked at."""
    starts = [line * math.prod(asked.shape) for line in range(min(asked.lines, _LINES))]
    return [start + point for start in starts for point in points]


def _finer(asked: Asked) -> int:
    """The tier of the coarse grid looked at: that of 5 x 5 points, where the grid of two axes has further ones."""
    return 1 if len(asked.shape) == 2 and len(tiers(asked.shape)[1]) > 2 else 0


def foretold(asked: Asked, losses: Mapping[int, FloatArray]) -> Foretold:
    """The work, from the losses of the first block's samples at `probes`, each (block,).

    What is left of the variance of a point between those of the coarse grid, once regressed on these, falls with the
    square of the distance to what a point is regressed on. So each finer tier needs as many samples as its target asks,
    less what it is handed on by points that are sampled themselves: as much as they explain.
    """
    (coarse, between), looked = probes(asked), _finer(asked)
    size, (tier_of, apart) = asked.size, tiers(asked.shape, asked.lines)
    counts, measured = np.bincount(tier_of, minlength=len(apart)), np.bincount(tier_of, weights=board(asked))
    if not between or asked.blocks == 0:
        return Foretold(float(size), 0.0, float(size), 1.0)
    samples, last = 0.0, len(apart) - 1
    for tier, steps in enumerate(apart[1:], start=1):
        if tier <= looked:  # its own points are looked at
            here, known, wider = (
                [p for p in coarse if tier_of[p] == tier],
                _on_lines(asked, lattice(asked.shape, tier - 1)),
                1.0,
            )
        else:
            here, known, wider = between, coarse, 2 * steps / apart[looked]
        handed = 1 - OWN**2 if tier > 1 else 0.0
        costs = np.sort(_samples(asked, losses, here, known, wider, sharpness(tier, last), handed))
        kept = max(1, round(asked.share * len(costs)))
        each = costs[:kept].sum() / len(costs) + (1 - kept / len(costs)) * asked.block
        samples += each * float(counts[tier] if tier < last else measured[tier])
    full = float(len(asked.first))
    passes = min(full + samples / asked.samples, float(size))
    blocks = (passes - full) * asked.samples / asked.block
    return Foretold(full, max(blocks, 0.0), passes, passes / size)


def _samples(
    asked: Asked,
    losses: Mapping[int, FloatArray],
    points: list[int],
    known: list[int],
    wider: float,
    part: float,
    handed: float,
) -> FloatArray:
    """Samples that points `wider` times as far from what is known take to a part of the error allowed, (points,).

    `handed` is the share of the square of it that comes with what is known, where that explains all of a point.
    """
    places, values = places_of(asked), np.full(asked.size, np.nan)
    for point, units in losses.items():
        values[point] = units.mean()
    squares, found = np.square(part * aims(asked, values)), np.zeros(len(points))
    for row, point in enumerate(points):
        near = sorted(known, key=lambda c: (float(np.square(places[c] - places[point]).sum()), c))[:_CONTROLS]
        controls = np.stack([losses[c] for c in near], 1)
        _, _, left = regressed_means(losses[point][:, None], controls, values[near])
        variance = max(np.square(left).sum() / (len(left) - 1) * wider**2, 1e-300)
        with np.errstate(divide="ignore"):
            explained = max(0.0, 1 - variance / losses[point].var(ddof=1))
            need = 1 / (squares[point] * (1 - handed * explained) / variance + 1 / asked.samples)
        found[row] = min(max(need, asked.block), asked.samples)
    return found
