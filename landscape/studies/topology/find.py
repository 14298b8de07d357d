"""Minima, saddles and maxima of a surface, and which of them stand out of the noise: sublevel-set persistence."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from landscape_kernels.arrays import BoolArray, FloatArray, IntArray

from landscape.arguments import checked
from landscape.errors import InputError, nearest
from landscape.studies.surface.result import Surface
from landscape.studies.topology.result import (
    NOWHERE,
    CriticalPoints,
    MergeTree,
    Minima,
    Pairs,
    Saddles,
    Topology,
    difference,
    stderr_at,
)


@checked()
def find_topology(
    surface: Surface, quantity: str = "loss", *, z: float = 3.0, threshold: float | None = None
) -> Topology:
    """Minima, saddles, maxima and merge tree of a quantity (its unit) on a grid of 1 to 3 axes, by persistent homology.

    The level rises through the values; basins appear at minima and end at the saddle where they meet a deeper one.
    Grid points are the cells of a cubical complex (gudhi): basins spread to the 2, 8 or 26 points around, diagonal ones
    too, ridges along the axes alone. Of equal values the one with the lower number is taken for the lower, so a plateau
    is one critical point. Points that are not computed, NaN or +inf are outside of the domain, and its pieces have a
    tree each. A valley at an angle to the axes, about 30 times as curved across as along, or more, falls into several
    minima: no error of the values tells of them, but a finer grid makes them shallower, by the square of its step.

    A pair counts where its persistence exceeds `z` sqrt(se(birth)^2 + se(death)^2), from the standard errors of the
    surface's values. All points of a surface use the same samples, so that errors of neighbours mostly cancel in their
    difference, and the rule asks too much rather than too little. It judges every pair alone: were errors independent
    from point to point, a flat line of 51 points would have a false minimum 23 times in 100, a grid of 51 x 51 none in
    300. Where errors are not known every pair counts. `threshold`, a height in the quantity's unit, replaces the rule;
    0 counts everything.

    Raises InputError for an unknown quantity, more than three axes, a surface without a value below +inf, `z` or
    `threshold` that is negative or NaN, and where gudhi is not installed.
    Source: Edelsbrunner and Harer, Computational Topology (2010), chapter VII; CubicalComplex of https://gudhi.inria.fr.
    """
    _check(surface, quantity, z, threshold)
    values = np.asarray(surface.values[quantity], dtype=np.float64)
    inside = surface.computed & (values < np.inf)
    if not inside.any():
        raise InputError(
            f"{quantity} has no value below +inf at any of {values.size} points ({int(surface.computed.sum())} are "
            "computed): a surface without values has no topology"
        )
    field = _Field.of(values, inside)
    found = list(_persistence(field))
    pairs = _pairs(field, found, values.ravel(), stderr_at(surface, quantity).ravel(), z, threshold)
    tree = _merge_tree(field, pairs, _survivors(field, found[0][2]), values.ravel())
    minima, saddles, maxima = _critical_points(surface, quantity, field, pairs, tree)
    outside = int(values.size - inside.sum())
    return Topology(surface, quantity, minima, saddles, maxima, pairs, tree, z, threshold, outside)


def _check(surface: Surface, quantity: str, z: float, threshold: float | None) -> None:
    if quantity not in surface.values:
        raise InputError(f"the surface has no quantity {quantity!r}; {nearest(quantity, surface.values)}")
    if len(surface.axes) > 3:
        raise InputError(
            f"the surface has {len(surface.axes)} axes ({', '.join(surface.axes)}); topology is found on 1 to 3 of them"
        )
    for name, value in (("z", z), ("threshold", threshold)):
        if value is not None and not value >= 0:
            raise InputError(f"{name}={value} is not a number of at least 0; 0 counts every pair")


@dataclass(frozen=True)
class _Field:
    """Values replaced by their ranks, so that no two are equal and all are finite; +inf outside of the domain."""

    rank: FloatArray  # the grid's shape without axes of one point, which change no number of a point
    order: IntArray  # (points of the domain,), the grid point of each rank
    basin: IntArray  # (points of the domain,), by rank: the rank of the minimum that steepest descent leads to

    @classmethod
    def of(cls, values: FloatArray, inside: BoolArray) -> _Field:
        points = np.flatnonzero(inside)
        order = points[np.argsort(values.ravel()[points], kind="stable")]
        flat = np.full(values.size, np.inf)
        flat[order] = np.arange(len(order))
        rank = np.atleast_1d(flat.reshape(values.shape).squeeze())
        lowest = functools.reduce(np.minimum, _shifted(rank), rank)
        basin = lowest.ravel()[order].astype(np.int64)
        while not np.array_equal(basin, further := basin[basin]):
            basin = further
        return cls(rank, order, basin)

    def beside(self, points: IntArray) -> FloatArray:
        """Ranks of the neighbours of grid points (n,), (n, neighbours); +inf where there is none."""
        padded = np.pad(self.rank, 1, constant_values=np.inf)
        places = np.stack(np.unravel_index(points, self.rank.shape), axis=-1)[:, None] + 1
        found: FloatArray = padded[tuple(np.moveaxis(places + _steps(self.rank.ndim), -1, 0))]
        return found


def _steps(axes: int) -> IntArray:
    """To the 2, 8 or 26 neighbours of a point, (neighbours, axes)."""
    return np.array([step for step in itertools.product((-1, 0, 1), repeat=axes) if any(step)])


def _shifted(rank: FloatArray) -> Iterator[FloatArray]:
    padded = np.pad(rank, 1, constant_values=np.inf)
    for step in _steps(rank.ndim).tolist():
        yield padded[tuple(slice(1 + s, 1 + s + size) for s, size in zip(step, rank.shape, strict=True))]


_Found = tuple[int, IntArray, IntArray]  # dimension; grid points where things appear, where they disappear or -1


def _persistence(field: _Field) -> Iterator[_Found]:
    """All pairs of ranks, dimension by dimension."""
    complex_ = _gudhi().CubicalComplex(top_dimensional_cells=field.rank)
    complex_.compute_persistence()
    for dimension in range(field.rank.ndim):
        intervals = np.asarray(complex_.persistence_intervals_in_dimension(dimension)).reshape(-1, 2)
        ends = np.isfinite(intervals[:, 1])
        last = np.full(len(intervals), NOWHERE)
        last[ends] = field.order[intervals[ends, 1].astype(np.int64)]
        yield dimension, field.order[intervals[:, 0].astype(np.int64)], last


def _pairs(
    field: _Field, found: list[_Found], values: FloatArray, stderr: FloatArray, z: float, threshold: float | None
) -> Pairs:
    dimension = np.repeat([d for d, _, _ in found], [len(first) for _, first, _ in found])
    first, last = (np.concatenate([columns[k] for columns in found]) for k in (1, 2))
    ends = last != NOWHERE
    birth, death = values[first], np.where(ends, values[last], np.inf)
    error = np.where(ends, np.hypot(stderr[first], stderr[last]), np.nan)
    persistence = difference(death, birth)
    least = np.where(np.isfinite(error), z * error, 0.0) if threshold is None else np.full(len(error), threshold)
    counts = ~ends | (persistence > least)
    by = np.lexsort((field.rank.ravel()[first], -persistence, dimension))
    by = by[(death > birth)[by]]  # pairs of equal values are the ranks' alone
    return Pairs(dimension[by], birth[by], death[by], first[by], last[by], error[by], counts[by])


def _gudhi() -> Any:
    try:
        import gudhi
    except ImportError as error:
        raise InputError(
            f"topology needs the package gudhi, which cannot be imported ({error}): "
            "pip install 'loss-landscape-engine[topology]'"
        ) from error
    return gudhi


def _merge_tree(field: _Field, pairs: Pairs, survivor: dict[int, int], values: FloatArray) -> MergeTree:
    """The tree of the minima that count."""
    rank = field.rank.ravel()
    counted = np.flatnonzero(pairs.counts & (pairs.dimension == 0))
    counted = counted[np.argsort(rank[pairs.birth_point[counted]])]
    minima, ends = pairs.birth_point[counted], pairs.death_point[counted]
    node_of = {int(r): node for node, r in enumerate(rank[minima])}
    point, parent, top = minima.tolist(), [NOWHERE] * len(minima), list(range(len(minima)))
    join_at: dict[int, int] = {}
    ending = np.flatnonzero(ends != NOWHERE)
    for node in ending[np.argsort(rank[ends[ending]], kind="stable")].tolist():
        deeper = survivor[int(rank[minima[node]])]
        while deeper not in node_of:  # a minimum that does not count belongs to the deeper one it meets
            deeper = survivor[deeper]
        saddle, trunk = int(ends[node]), node_of[deeper]
        join = join_at.setdefault(saddle, len(parent))
        if join == len(parent):
            parent.append(NOWHERE)
            point.append(saddle)
        for below in {top[node], top[trunk]} - {join}:
            parent[below] = join
        top[trunk] = join
    return MergeTree(values[point], np.array(parent), np.array(point))


def _survivors(field: _Field, saddles: IntArray) -> dict[int, int]:
    """Rank of every minimum -> rank of the deeper one whose basin it meets first; `saddles` is where basins meet."""
    ranks = np.unique(field.rank.ravel()[saddles[saddles != NOWHERE]]).astype(np.int64)
    beside = field.beside(field.order[ranks])
    lower = beside < ranks[:, None]
    survivor: dict[int, int] = {}
    root: dict[int, int] = {}

    def find(minimum: int) -> int:
        while (above := root.get(minimum, minimum)) != minimum:
            root[minimum] = root.get(above, above)
            minimum = above
        return minimum

    for near, below in zip(beside, lower, strict=True):
        meeting = {find(minimum) for minimum in field.basin[near[below].astype(np.int64)].tolist()}
        deepest = min(meeting)
        for minimum in meeting - {deepest}:
            survivor[minimum] = root[minimum] = deepest
    return survivor


_Described = tuple[IntArray, FloatArray, FloatArray, FloatArray, FloatArray, BoolArray]


def _critical_points(
    surface: Surface, quantity: str, field: _Field, pairs: Pairs, tree: MergeTree
) -> tuple[Minima, Saddles, CriticalPoints]:
    values, stderr = surface.values[quantity].ravel(), stderr_at(surface, quantity).ravel()
    axes, rank, persistence = list(surface.axes.values()), field.rank.ravel(), pairs.persistence

    def counting(of_dimension: BoolArray, points: IntArray) -> IntArray:
        return np.flatnonzero(of_dimension & pairs.counts & (points != NOWHERE))

    def described(rows: IntArray, points: IntArray) -> _Described:
        places = np.unravel_index(points, surface.computed.shape)[::-1]
        coordinates = np.stack([axis[place] for axis, place in zip(axes, places, strict=True)], axis=-1)
        border: BoolArray = np.asarray(np.isinf(field.beside(points)).any(axis=1))
        return points, coordinates, values[points], stderr[points], persistence[rows], border

    # A pair of dimension d appears at a critical point of index d and disappears at one of index d + 1.
    highest = max(field.rank.ndim, 2)
    rows = counting(pairs.dimension == highest - 1, pairs.death_point)
    rows = rows[np.argsort(rank[pairs.death_point[rows]])]
    maxima = CriticalPoints(*described(rows, pairs.death_point[rows]))

    ends = counting(pairs.dimension < highest - 1, pairs.death_point)
    begins = counting(pairs.dimension > 0, pairs.birth_point)
    rows = np.concatenate([ends, begins])
    points = np.concatenate([pairs.death_point[ends], pairs.birth_point[begins]])
    index = np.concatenate([pairs.dimension[ends] + 1, pairs.dimension[begins]])
    joins = np.concatenate([pairs.dimension[ends] == 0, np.zeros(len(begins), dtype=bool)])
    by = np.lexsort((rows, rank[points]))
    saddles = Saddles(*described(rows[by], points[by]), index[by], joins[by])
    place = dict(zip(rows[by][saddles.joins].tolist(), np.flatnonzero(saddles.joins).tolist(), strict=True))

    rows = counting(pairs.dimension == 0, pairs.birth_point)
    rows = rows[np.argsort(rank[pairs.birth_point[rows]])]
    points = pairs.birth_point[rows]
    above = tree.parent[: len(points)]
    depth = np.where(above == NOWHERE, np.inf, difference(tree.height[above], values[points]))
    saddle = np.array([place.get(row, NOWHERE) for row in rows.tolist()])
    return Minima(*described(rows, points), depth, saddle), saddles, maxima
