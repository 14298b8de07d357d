"""Values of a grid between points that are known, along each of its axes, and how far those known miss one another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from landscape_kernels.arrays import BoolArray, FloatArray, IntArray

_NEAR, _FAR = 2, 4  # steps within which the next known point of a line, and the one behind it, are used


def between(axes: Sequence[FloatArray], values: FloatArray, known: BoolArray) -> tuple[FloatArray, FloatArray]:
    """(values, half the gaps) at every point from the known ones beside it, both of the grid's shape.

    Along each axis the polynomial through the two known points before and the two behind a point (one, where the grid
    or what is known ends); the mean over axes, and half of how far the axes disagree (0 of one axis). What is known at
    the point itself is not used, so that known points tell how far such values are off. `axes` are the coordinates in
    the order of the dimensions of `values` and `known`. NaN where no axis has a known point within 2 steps on both
    sides.

    >>> x = np.arange(5.0)
    >>> between([x], x**3, np.array([True, True, False, True, True]))[0].round(9)[2]
    np.float64(8.0)
    """
    found = np.stack([_along(x, values, known, axis) for axis, x in enumerate(axes)])
    there = ~np.isnan(found)
    count = there.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean: FloatArray = np.where(there, found, 0.0).sum(0) / count
    apart = np.where(there, found, -np.inf).max(0) - np.where(there, found, np.inf).min(0)
    return mean, np.where(count > 1, apart / 2, 0.0)


def _along(x: FloatArray, values: FloatArray, known: BoolArray, axis: int) -> FloatArray:
    """The same along one axis, NaN where a side has no known point."""
    values, known = np.moveaxis(values, axis, -1), np.moveaxis(known, axis, -1)
    before = _next(known)
    behind = len(x) - 1 - _next(known[..., ::-1])[..., ::-1]
    behind[behind == len(x)] = -1
    here = np.arange(len(x))
    stencil = np.stack([_step(before, before), before, behind, _step(behind, behind)], -1)
    reach = np.array([_FAR, _NEAR, _NEAR, _FAR])
    used = (stencil >= 0) & (np.abs(stencil - here[:, None]) <= reach)
    places = np.where(used, x[stencil], np.nan)
    total = np.zeros(values.shape)
    for a in range(stencil.shape[-1]):
        weight = np.ones(values.shape)
        for b in range(stencil.shape[-1]):
            if a != b:
                ratio = (x - places[..., b]) / (places[..., a] - places[..., b])
                weight *= np.where(np.isnan(ratio), 1.0, ratio)
        total += np.where(used[..., a], weight * np.take_along_axis(values, np.maximum(stencil[..., a], 0), -1), 0.0)
    return np.moveaxis(np.where(used[..., 1] & used[..., 2], total, np.nan), -1, axis)


def _next(known: BoolArray) -> IntArray:
    """The last known place before each along the last axis, -1 where there is none."""
    last = np.maximum.accumulate(np.where(known, np.arange(known.shape[-1]), -1), -1)
    return np.concatenate([np.full((*known.shape[:-1], 1), -1), last[..., :-1]], -1)


def _step(places: IntArray, step: IntArray) -> IntArray:
    """`step` at the places, -1 where there is none."""
    return np.where(places >= 0, np.take_along_axis(step, np.maximum(places, 0), -1), -1)


def around(values: FloatArray, reach: int = 1) -> FloatArray:
    """Values at the neighbours of each point, NaN beyond the ends: (neighbours, *shape), all within `reach` steps.

    >>> around(np.array([1.0, 2.0, 3.0])).tolist()
    [[nan, 1.0, 2.0], [2.0, 3.0, nan]]
    """
    wide = np.pad(values, reach, constant_values=np.nan)
    shifts = [s for s in np.ndindex(*(2 * reach + 1,) * values.ndim) if any(k != reach for k in s)]
    cuts = [tuple(slice(k, k + size) for k, size in zip(s, values.shape, strict=True)) for s in shifts]
    return np.stack([wide[cut] for cut in cuts])


def above_ends(t: FloatArray, values: FloatArray) -> FloatArray:
    """Values (n, ...) minus the straight line between the first and the last of them, at places t (n,) from 0 to 1."""
    t = t.reshape(-1, *[1] * (values.ndim - 1))
    with np.errstate(invalid="ignore"):
        result: FloatArray = values - ((1 - t) * values[0] + t * values[-1])
    result[[0, -1]] = np.where(np.isfinite(result[[0, -1]]), 0.0, np.nan)
    return result
