"""Minima, saddles and maxima of a surface, and which of them stand out of the noise: sublevel-set persistence."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from landscape_kernels.arrays import BoolArray, FloatArray

from landscape.errors import InputError, nearest
from landscape.results import Surface

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

IntArray = npt.NDArray[np.int64]

NOWHERE = -1  # number of a grid point, saddle or node that is not there


@dataclass(frozen=True)
class Pairs:
    """What appears and disappears as the level rises: n persistence pairs, by dimension, the most persistent first.

    Dimension 0: a basin, from its minimum to the saddle where it meets a deeper one. Dimension 1: a loop; on two axes
    from the saddle that closes a ring to the maximum that fills it. Dimension 2, on three axes: a shell, to a maximum.
    What never disappears (the deepest basin of each piece of the domain, loops around holes) has death +inf.
    """

    dimension: IntArray  # (n,)
    birth: FloatArray  # (n,), value where it appears
    death: FloatArray  # (n,), value where it disappears
    birth_point: IntArray  # (n,), number of the grid point: index in the flattened values, the first axis fastest
    death_point: IntArray  # (n,), -1 where there is none
    stderr: FloatArray  # (n,), sqrt(se(birth)^2 + se(death)^2); NaN where an error is not known or there is no death
    counts: BoolArray  # (n,), whether it stands out of the noise

    @property
    def persistence(self) -> FloatArray:
        """death - birth, (n,)."""
        return _difference(self.death, self.birth)


@dataclass(frozen=True)
class CriticalPoints:
    """Grid points where the topology of {values <= level} changes, n of them, by ascending value."""

    point: IntArray  # (n,), number of the grid point
    coordinates: FloatArray  # (n, axes), of the grid point: exact to its spacing, not interpolated
    value: FloatArray  # (n,)
    stderr: FloatArray  # (n,), standard error of the value
    persistence: FloatArray  # (n,), of its pair
    on_border: BoolArray  # (n,), at an end of an axis or beside a point outside of the domain: the surface may go on

    def __len__(self) -> int:
        return len(self.point)


@dataclass(frozen=True)
class Minima(CriticalPoints):
    """Minima; the first is the global one."""

    depth: FloatArray  # (n,), height of the lowest saddle out of the basin above the minimum; inf where none leads out
    saddle: IntArray  # (n,), row of the saddle where the basin meets a deeper one, -1 where it meets none


@dataclass(frozen=True)
class Saddles(CriticalPoints):
    """Saddles, one for each pair they belong to; on one axis these are the maxima between two minima."""

    index: IntArray  # (n,), number of descending directions: 1, or on three axes 2
    joins: BoolArray  # (n,), whether two basins meet there; elsewhere a loop (index 1) or shell (index 2) closes


@dataclass(frozen=True)
class MergeTree:
    """How basins meet as the level rises. Nodes 0, 1, ... are the minima as they are numbered, then joins by height."""

    height: FloatArray  # (nodes,), value of the minimum, or of the saddle that joins
    parent: IntArray  # (nodes,), the join above, -1 at a root; the domain's pieces have one root each
    point: IntArray  # (nodes,), number of the grid point


@dataclass(frozen=True, repr=False)
class Topology:
    """Minima, saddles and maxima of a quantity of a surface that stand out of the noise, and all persistence pairs."""

    surface: Surface
    quantity: str
    minima: Minima
    saddles: Saddles
    maxima: CriticalPoints  # inside a loop or shell; none on one axis
    pairs: Pairs  # also those that do not count
    merge_tree: MergeTree  # of the minima that count
    z: float  # a pair counts where its persistence exceeds z standard errors,
    threshold: float | None  # or this, where it is given
    outside: int  # grid points outside of the domain: not computed, NaN or +inf

    def __repr__(self) -> str:
        return f"Topology({self.quantity}: {self.found})"

    def _repr_html_(self) -> str:
        from landscape.html import card_html
        from landscape.topology_summary import topology_tables

        kind = "surface" if len(self.surface.axes) < 3 else "barcode"
        return card_html(repr(self), topology_tables(self, "what was found"), lambda: self.plot(kind))

    @property
    def found(self) -> str:
        """In words, how many of each kind count."""
        named = ((self.minima, "minimum", "minima"), (self.saddles, "saddle", "saddles"))
        counts = [(len(points), one, many) for points, one, many in (*named, (self.maxima, "maximum", "maxima"))]
        return ", ".join(f"{count} {one if count == 1 else many}" for count, one, many in counts)

    @property
    def stderr(self) -> FloatArray:
        """Standard errors of the values, of the grid's shape; NaN where they are not known."""
        return _stderr(self.surface, self.quantity)

    @property
    def rule(self) -> str:
        """In words, which pairs count."""
        if self.threshold is not None:
            return f"persistence above {self.threshold:.6g}, as given"
        if np.isfinite(self.stderr).any():
            all_known = np.isfinite(self.stderr[self.surface.computed]).all()
            return f"persistence above {self.z:g} standard errors" + ("" if all_known else ", where these are known")
        return "every pair: the values' errors are not known"

    @property
    def smad(self) -> float:
        """Saddle-minimum average distance: mean over the minima of f(saddle) - f(minimum); NaN where no basins meet.

        The saddle is the one the minimum hangs from in the sublevel merge tree, where its basin first meets another;
        minima without one are left out. With `threshold=0` all minima of the grid take part, as in Landscaper, which
        introduced the measure; without, those that stand out of the noise. Landscaper lets basins spread along the axes
        alone, which finds more minima, and its release 1.3.1 takes the contour tree, whose arcs may end sooner.

        Source: Chen, Hadler et al., Landscaper: Understanding Loss Landscapes Through Multi-Dimensional Topological
        Analysis, arXiv:2602.07135 (2026), and `LossLandscape.smad` of that package.
        """
        depth = self.minima.depth[np.isfinite(self.minima.depth)]
        return float(depth.mean()) if depth.size else math.nan

    @property
    def smad_stderr(self) -> float:
        """At most the standard error of `smad`: the mean of sqrt(se(saddle)^2 + se(minimum)^2); NaN if not known.

        No more than that where the errors of a minimum and of its saddle are not anticorrelated, whatever the
        correlation between minima.
        """
        known = np.isfinite(self.minima.depth)
        if not known.any():
            return math.nan
        tree, stderr = self.merge_tree, self.stderr.ravel()
        above = stderr[tree.point[tree.parent[: len(self.minima)][known]]]
        return float(np.hypot(self.minima.stderr[known], above).mean())

    def to_pandas(self) -> pandas.DataFrame:
        """Minima, saddles and maxima that count, one row each: kind, coordinates, value with error, persistence."""
        from landscape.frames import topology_frame

        return topology_frame(self)

    def plot(self, kind: str = "barcode") -> Figure:
        """A matplotlib Figure: "barcode", "tree" or "surface"; see `landscape.topology_plotting.plot_topology`."""
        from landscape.topology_plotting import plot_topology

        return plot_topology(self, kind)


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
    pairs = _pairs(field, found, values.ravel(), _stderr(surface, quantity).ravel(), z, threshold)
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


def _stderr(surface: Surface, quantity: str) -> FloatArray:
    unknown = np.full(surface.computed.shape, np.nan)
    return np.asarray(surface.stderr.get(quantity, unknown), dtype=np.float64)


def _difference(high: FloatArray, low: FloatArray) -> FloatArray:
    with np.errstate(over="ignore", invalid="ignore"):  # 1e308 - -1e308 is as good as endless
        return high - low


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
    persistence = _difference(death, birth)
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
    values, stderr = surface.values[quantity].ravel(), _stderr(surface, quantity).ravel()
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
    depth = np.where(above == NOWHERE, np.inf, _difference(tree.height[above], values[points]))
    saddle = np.array([place.get(row, NOWHERE) for row in rows.tolist()])
    return Minima(*described(rows, points), depth, saddle), saddles, maxima
