"""How often a measure orders two trainings that differ in one hyper-parameter the wrong way.

Source: Dziugaite et al., In search of robust measures of generalization, NeurIPS 2020, sections 3 to 5.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from landscape_kernels.arrays import FloatArray, IntArray

_LEAST_WEIGHT = 0.5  # below which a pair says nothing, and which is taken off
_PAIRS = 1 << 22  # pairs of models of all draws at a time


def noise_weight(difference: FloatArray, samples: int) -> FloatArray:
    """How sure a difference of two errors measured on `samples` samples is: max(0, 1 - 2 exp(-2 n (d / 2)^2))^2.

    By Hoeffding's inequality for each of the two.
    """
    found: FloatArray = np.maximum(0.0, 1 - 2 * np.exp(-samples * difference**2 / 2)) ** 2
    return found


@dataclass(frozen=True)
class Environments:
    """Pairs of combinations of hyper-parameters that differ in one, and the pairs of models of each.

    A pair of models has the first in one combination and the second in the other.
    """

    first: IntArray  # (p,), models
    second: IntArray  # (p,)
    weight: FloatArray  # (p,)
    place: IntArray  # (p,), the environment of a pair, ascending
    axis: IntArray  # (e,), the hyper-parameter that differs

    @property
    def sizes(self) -> FloatArray:
        """(e,), effective numbers of pairs (sum w)^2 / sum w^2, 0 where no pair counts."""
        whole, squares = (np.bincount(self.place, w, minlength=len(self.axis)) for w in (self.weight, self.weight**2))
        found: FloatArray = np.divide(whole**2, squares, out=np.zeros(len(whole)), where=squares > 0)
        return found

    def kept(self, least: float) -> Environments:
        """Those with `least` pairs or more, as `sizes` counts; the least is met to rounding."""
        chosen = self.sizes >= least * (1 - 1e-9)
        there = chosen[self.place]
        places = (np.cumsum(chosen) - 1)[self.place[there]]
        return Environments(self.first[there], self.second[there], self.weight[there], places, self.axis[chosen])


def environments(gap: FloatArray, settings: Sequence[Sequence[object]], samples: int | None) -> Environments:
    """All environments of n models with gaps `gap` (n,); `settings` has n labels for each hyper-parameter.

    A pair counts (w - 1/2)_+ with w by `noise_weight`, or 1 where `samples` is None.
    """
    combinations: dict[tuple[object, ...], list[int]] = {}
    for model, labels in enumerate(zip(*settings, strict=True)):
        combinations.setdefault(labels, []).append(model)
    first, second, place, axes = [], [], [], list[int]()
    for axis in range(len(settings)):
        alike: dict[tuple[object, ...], list[list[int]]] = {}
        for labels, models in combinations.items():
            alike.setdefault(labels[:axis] + labels[axis + 1 :], []).append(models)
        for group in alike.values():
            for one, other in itertools.combinations(group, 2):
                pairs = np.array(list(itertools.product(one, other)), dtype=np.int64)
                first.append(pairs[:, 0])
                second.append(pairs[:, 1])
                place.append(np.full(len(pairs), len(axes), dtype=np.int64))
                axes.append(axis)
    nothing = np.zeros(0, dtype=np.int64)
    i, j, places = (np.concatenate([nothing, *parts]) for parts in (first, second, place))
    weight = np.ones(len(i))
    if samples is not None:
        weight = np.maximum(noise_weight(gap[i] - gap[j], samples) - _LEAST_WEIGHT, 0.0)
    return Environments(i, j, weight, places, np.array(axes, dtype=np.int64))


def sign_errors(x: FloatArray, gap: FloatArray, among: Environments, counts: FloatArray | None = None) -> FloatArray:
    """The sign error of each environment, (d, e): the weighted mean over its pairs of (1 - sgn dx sgn dgap) / 2.

    `counts` (d, n) says how often each model is in each of d draws. NaN where no pair of an environment counts.
    """
    drawn = np.ones((1, len(x))) if counts is None else counts
    if not len(among.axis):
        return np.full((len(drawn), 0), np.nan)
    i, j = among.first, among.second
    wrong = (1 - np.sign(x[i] - x[j]) * np.sign(gap[i] - gap[j])) / 2
    starts = np.flatnonzero(np.diff(among.place, prepend=-1))
    found = np.full((len(drawn), len(among.axis)), np.nan)
    block = max(1, _PAIRS // len(i))
    for start in range(0, len(drawn), block):
        part = drawn[start : start + block]
        weight = part[:, i] * part[:, j] * among.weight
        whole = np.add.reduceat(weight, starts, axis=1)
        errors = np.add.reduceat(weight * wrong, starts, axis=1)
        np.divide(errors, whole, out=found[start : start + block], where=whole > 0)
    return found


def over_axes(errors: FloatArray, axis: IntArray, axes: int) -> tuple[FloatArray, FloatArray]:
    """(means (d, axes), numbers (d, axes)) of the environments of each hyper-parameter that have an error.

    The mean over all environments is that of the means, weighted by the numbers.
    """
    there = np.isfinite(errors)
    which = axis[:, None] == np.arange(axes)
    numbers = there.astype(np.float64) @ which
    sums = np.where(there, errors, 0.0) @ which
    means: FloatArray = np.divide(sums, numbers, out=np.full(sums.shape, math.nan), where=numbers > 0)
    return means, numbers
