"""Values to a stated error: their task, in rounds, and the values in its rows."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from landscape_kernels.arrays import FloatArray, IntArray
from landscape_kernels.probes import derive_seed

from landscape.errors import InputError
from landscape.objective.chosen import ChosenSamples
from landscape.objective.objective import Objective
from landscape.objective.rows import REPLICATES
from landscape.planes.grid import Grid
from landscape.precise.rounds import (
    FULL,
    INTERPOLATED,
    Asked,
    Estimated,
    Held,
    Item,
    estimate,
    lattice,
    meeting,
    next_items,
)
from landscape.precise.rounds import reached as within
from landscape.run.comm import Communicator
from landscape.run.task import Description, Row, Rows

SCALES = ("relative", "absolute", "range", "log")
SHARE = 0.8  # of the points, whose error is to be within that asked
BLOCK = 128  # samples of a block of the common sub-sample
_BLOCKS = 64
_FEWEST = 8  # blocks that the data hold at least: of less, full passes cost as little
_NOTHING: Item = (-1, -1)  # an item that rows found in a folder leave no work for


class Points(Protocol):
    """The task of full passes at every point, which comes in one round: the grid's points, then others.

    Several lines are so many grids of one axis, one after another, which are at one point where the axis has 0.
    """

    count: int
    grid: Grid
    lines: int
    anchors: list[int]  # points of the grid that get a full pass in any case
    highest: bool  # whether the grid is a line of which the highest point is to be known, with replicates

    def describe(self) -> Description:
        """See `Task`."""

    def evaluate(self, index: int, group: Communicator) -> Row:
        """See `Task`: {quantity: its value, quantity_stderr: ..., ...}."""

    def at(self, index: int) -> AbstractContextManager[tuple[Any, Any, bool]]:
        """(theta or None, buffers or None, whether autocast is left off) of a point, for `Objective.estimates`."""


def require_asked(error: float | None, scale: str, share: float) -> None:
    """Raise InputError for an error that is none on its scale, or for what is said of one that is not asked."""
    given = [f"scale={scale!r}"] * (scale != SCALES[0]) + [f"share={share!r}"] * (share != SHARE)
    if error is None and given:
        raise InputError(f"{' and '.join(given)} without error=, of which that is said; give an error, as error=0.01")
    if error is not None and scale != "absolute" and not error < 1:
        raise InputError(
            f"error={error} is 1 or more on the scale {scale!r}, where 0.01 is a hundredth; give less, or say "
            "scale='absolute' for an error in units of the loss"
        )


def require_objective(objective: Objective, error: float | None, scale: str, share: float) -> None:
    """Raise InputError where no error can be asked for, or what is said of it without one."""
    require_asked(error, scale, share)
    if error is not None and objective.precision == "own":
        raise InputError(
            "error= needs parameters in float32, and precision is 'own'; leave error out, or say 'float32'"
        )


class PreciseTask:
    """Round 1: full passes on a coarse grid and for all points but the grid's. Later ones follow from the rows.

    An item is a full pass at a point, or one block of the common sub-sample there. The row says which: `point` (that of
    the task of full passes), `level` (0, or the number of the block), then the numerators of the block's samples.
    """

    headline = "loss"

    def __init__(self, objective: Objective, points: Points, error: float, scale: str, share: float) -> None:
        require_asked(error, scale, share)
        self._objective, self._points, self.grid = objective, points, points.grid
        n = objective.samples
        small = not objective.data.divisible or n < max(_FEWEST * BLOCK, 2 * objective.chunk)
        blocks = 0 if small else min(_BLOCKS, n // 2 // BLOCK)
        order = np.random.Generator(np.random.Philox(key=derive_seed(0, "sub-sample", n))).permutation(n)
        self._drawn = [np.sort(part).tolist() for part in order[: blocks * BLOCK].reshape(blocks, BLOCK)]
        self._parts: dict[int, tuple[Objective, ChosenSamples]] = {}  # level -> the data of it
        self._asked = {"error": float(error), "scale": scale, "share": float(share), "block": BLOCK, "blocks": blocks}
        self._asked |= {"highest": True} if points.highest else {}
        size, axes = points.grid.size * points.lines, tuple(points.grid.axes.values())[::-1]
        coarse = [line + p for line in range(0, size, points.grid.size) for p in lattice(tuple(map(len, axes)))]
        at = meeting(axes, points.lines)
        first = {at[p] for p in (range(size) if small else (*coarse, *points.anchors))}
        self._first = [*sorted(int(p) for p in first), *range(size, points.count)]
        self._items: list[Item] = [(point, FULL) for point in self._first]
        self.count = len(self._items)

    def describe(self) -> Description:
        """See `Task`."""
        plain = self._points.describe()
        columns = {**plain.columns, "point": (), "level": ()}
        if self._drawn:
            quantities = len(self._objective.quantities)
            columns |= {"weight": (quantities,), "units": (quantities, BLOCK)}
        axes = {name: values.tolist() for name, values in self.grid.axes.items()}
        identity = {**plain.identity, "axes": axes, "precision_asked": self._asked}
        lines = self._points.lines
        about = {**plain.about, "first": self._first, "points_in_all": self._points.count, "lines": lines}
        return Description(plain.name, columns, identity, about)

    def plan(self, rows: Rows) -> None:
        """See `Planned`."""
        description = self.describe()
        self._items = planned(description, rows, self._items)

    def evaluate(self, index: int, group: Communicator) -> Row:
        """See `Task`."""
        return self._row(*self._items[index], group)

    @property
    def asked(self) -> Asked:
        """What is to be reached on which grid and data."""
        return asked_of(self.describe())

    def first_losses(self, point: int, group: Communicator) -> FloatArray:
        """The losses of the first block's samples at a grid point, (BLOCK,); their mean is the block's.

        NaN where the loss has no values of single samples.
        """
        row = self._row(point, 1, group)
        losses: FloatArray = np.asarray(row["units"])[0] / float(np.asarray(row["weight"])[0])
        return losses

    def _row(self, point: int, level: int, group: Communicator) -> Row:
        row: dict[str, float | FloatArray] = {"point": float(point), "level": float(level)}
        if (point, level) == _NOTHING:
            return {name: np.full(shape, np.nan) for name, shape in self.describe().columns.items()} | row
        if not self._drawn:
            return {**row, **self._points.evaluate(point, group)}
        objective, chosen = self._part(level)
        with self._points.at(point) as (theta, buffers, full_precision):
            found, replicates, units, weight = objective.estimates_replicates_and_samples(
                theta,
                chosen=chosen,
                buffers=buffers,
                group=group,
                full_precision=full_precision,
                replicates=self._points.highest and level == FULL,
            )
        for name, value in found.items():
            row |= {name: float(value), f"{name}_stderr": value.stderr}
        row |= {f"{name}{REPLICATES}": values for name, values in replicates.items()}
        row |= {"weight": weight, "units": units}
        columns = self.describe().columns
        return row | {name: np.full(shape, np.nan) for name, shape in columns.items() if name not in row}

    def _part(self, level: int) -> tuple[Objective, ChosenSamples]:
        """All data, of which the first block's samples are noted, or a block."""
        if level not in self._parts:
            drawn = self._drawn[max(level, 1) - 1]
            objective = self._objective if level == FULL else self._objective.on(self._objective.data.taken(drawn))
            self._parts[level] = objective, objective.choose(drawn if level == FULL else range(len(drawn)))
        return self._parts[level]

    def extend(self, rows: Rows) -> int:
        """See `Task`."""
        self.plan(rows)
        self._items += _next(self.describe(), rows, self._items)
        return len(self._items)


@dataclass(frozen=True)
class Settled:
    """What the rows of a precise task say."""

    rows: Rows  # as those of the task of full passes
    error: Mapping[str, FloatArray]  # quantity -> (size,)
    sampling: Mapping[str, FloatArray]  # the parts of it, the squares of which add up to its square
    interpolation: Mapping[str, FloatArray]
    found: IntArray  # (size,), numbers in FOUND of the result, -1 where nothing was computed
    about: Mapping[str, Any]  # what was asked and spent


def settled(description: Description, rows: Rows, given_up: Collection[int]) -> Settled:
    """Every point's values, from the rows; masked where they do not tell, as long as the run is not at its end.

    `given_up` are the items that failed: no row of theirs is waited for.
    """
    size, count = _size(description), int(description.about["points_in_all"])
    names = [name.removesuffix("_stderr") for name in description.columns if name.endswith("_stderr")]
    first: list[Item] = [(point, FULL) for point in description.about["first"]]
    items = planned(description, rows, first) if not rows.done.all() else []
    asked, held = _held(description, rows)
    more = _next(description, rows, items) if rows.done.all() else []
    estimates = [estimate(asked, h, positive=name == "loss") for name, h in zip(names, held, strict=True)]
    found = estimates[0].found.copy()
    failed = [point for (point, _), done in zip(items, rows.done, strict=False) if not done and 0 <= point < size]
    waiting = not set(np.flatnonzero(~rows.done).tolist()) <= set(given_up)
    pending = waiting or bool(more) or (not rows.done.all() and bool(_next(description, rows, items)))
    hidden = found == INTERPOLATED
    if not pending:
        hidden &= np.isin(np.arange(size), failed)
    found[hidden] = -1
    columns: dict[str, FloatArray] = {}
    errors: dict[str, FloatArray] = {}
    sampling: dict[str, FloatArray] = {}
    interpolation: dict[str, FloatArray] = {}
    extra = _rows_of(rows, lambda point, level: (point >= size) & (level == FULL))
    done = np.concatenate([found >= 0, np.zeros(count - size, dtype=np.bool_)])
    points = rows.columns["point"][extra].astype(np.int64)
    done[points] = True
    for name, now in zip(names, estimates, strict=True):
        for column, values in ((name, now.values), (f"{name}_stderr", now.stderr)):
            columns[column] = np.full(count, np.nan)
            columns[column][:size] = np.where(found >= 0, values, np.nan)
            columns[column][points] = rows.columns[column][extra]
        if (column := f"{name}{REPLICATES}") in rows.columns:
            full = _rows_of(rows, lambda point, level: (point >= 0) & (level == FULL))
            columns[column] = np.full((count, *rows.columns[column].shape[1:]), np.nan)
            columns[column][rows.columns["point"][full].astype(np.int64)] = rows.columns[column][full]
        errors[name] = np.where(found >= 0, now.error, np.nan)
        interpolation[name] = np.where(found >= 0, now.interpolation, np.nan)
        sampling[name] = np.sqrt(np.maximum(np.square(errors[name]) - np.square(interpolation[name]), 0.0))
    about = _about(description, rows, asked, estimates[0], found)
    return Settled(Rows(columns, done), errors, sampling, interpolation, found, {**about, "finished": not pending})


def _about(description: Description, rows: Rows, asked: Asked, loss: Estimated, found: IntArray) -> dict[str, Any]:
    levels = rows.columns["level"][rows.done & (rows.columns["point"] >= 0)]
    spent = sum(asked.cost(int(level)) for level in levels.tolist())
    whole = asked.cost(FULL)
    near = within(asked, loss) & (found >= 0)
    return {
        "error_asked": asked.error,
        "error_scale": asked.scale,
        "error_share": asked.share,
        "error_reached": float(near.mean()),
        "work": {
            "sample_passes": spent,
            "full_passes": spent / whole,
            "share_of_brute_force": spent / whole / int(description.about["points_in_all"]),
            "rounds_items": len(levels),
        },
    }


@dataclass(frozen=True)
class WorkThere:
    """What the rows of a precise task took."""

    full: int  # full passes
    blocks: int  # blocks of the sub-sample
    block: int  # samples of one
    share: float  # of a full pass at every point
    finished: bool

    def __str__(self) -> str:
        """In words."""
        if not self.full + self.blocks:
            return "nothing"
        ended = "all: " if self.finished else ""
        return (
            f"{ended}{self.full:,} full passes and {self.blocks:,} times {self.block} samples, {self.share:.1%} of "
            "brute force"
        )


def work_there(description: Description, rows: Rows) -> WorkThere:
    """Of a run that is begun, the work that is done, and whether any is left."""
    levels = rows.columns["level"][rows.done & (rows.columns["point"] >= 0)]
    about = settled(description, rows, ()).about if len(levels) else {}
    full = int((levels == FULL).sum())
    share = float(about["work"]["share_of_brute_force"]) if about else 0.0
    block = int(description.identity["precision_asked"]["block"])
    return WorkThere(full, len(levels) - full, block, share, bool(about.get("finished")))


def planned(description: Description, rows: Rows, items: Iterable[Item]) -> list[Item]:
    """The items of all rounds that rows are there for, from those of the first."""
    found = list(items)
    while len(found) < len(rows.done):
        n = len(found)
        before = Rows({name: values[:n] for name, values in rows.columns.items()}, rows.done[:n])
        more = _next(description, before, found)
        found += more or [_NOTHING] * (len(rows.done) - n)
    return found


def _next(description: Description, rows: Rows, items: Iterable[Item]) -> list[Item]:
    """The items of the next round; the loss decides."""
    asked, held = _held(description, rows)
    points, levels = (rows.columns[name][rows.done] for name in ("point", "level"))
    tried = {*items, *zip(points.astype(int).tolist(), levels.astype(int).tolist(), strict=True)}
    return next_items(asked, held[0], tried)


def _size(description: Description) -> int:
    return _lines(description) * int(np.prod([len(values) for values in description.identity["axes"].values()]))


def _lines(description: Description) -> int:
    """Those of a surface are one, which folders of before do not say."""
    return int(description.about.get("lines", 1))


def _rows_of(rows: Rows, which: Any) -> IntArray:
    """Numbers of finished rows by their point and level."""
    with np.errstate(invalid="ignore"):
        chosen = rows.done & which(rows.columns["point"], rows.columns["level"])
    return np.flatnonzero(chosen)


def asked_of(description: Description) -> Asked:
    """What a precise task's description asks for."""
    identity, about = description.identity, description.about
    axes = tuple(np.array(values) for values in reversed(identity["axes"].values()))
    samples = int(identity["objective"]["samples"])
    first = tuple(point for point in about["first"] if point < _size(description))
    statistics = int(about["statistics_samples"])
    return Asked(axes, first, samples, **identity["precision_asked"], statistics=statistics, lines=_lines(description))


def point_of(description: Description, item: int) -> int | None:
    """The grid point of an item of the first round; None for others, which follow from the rows."""
    first = description.about["first"]
    return first[item] if item < len(first) and first[item] < _size(description) else None


def _held(description: Description, rows: Rows) -> tuple[Asked, list[Held]]:
    """What is asked, and what the rows hold of each quantity."""
    asked, size = asked_of(description), _size(description)
    names = [name.removesuffix("_stderr") for name in description.columns if name.endswith("_stderr")]
    on_grid = _rows_of(rows, lambda point, level: (point >= 0) & (point < size))
    at: dict[Item, int] = {}
    for row in on_grid.tolist():
        at[int(rows.columns["point"][row]), int(rows.columns["level"][row])] = row
    full = np.zeros(size, dtype=np.bool_)
    place = {point: row for (point, level), row in at.items() if level == FULL}
    full[list(place)] = True
    # A value is a mean over samples only where single samples have values; their weights do not vary with theta.
    passes = _rows_of(rows, lambda _, level: level == FULL)
    weights = rows.columns["weight"][passes] if asked.blocks else np.empty((0, 1))
    single = len(weights) and np.isfinite(weights).all()
    if not single:
        asked = replace(asked, blocks=0)
    blocks = _blocks(asked, at) if asked.blocks else {}
    of = meeting(asked.axes, asked.lines)
    held = []
    for k, name in enumerate(names):
        values, stderr = np.full(size, np.nan), np.full(size, np.nan)
        values[list(place)] = rows.columns[name][list(place.values())]
        stderr[list(place)] = rows.columns[f"{name}_stderr"][list(place.values())]
        units = {
            point: rows.columns["units"][of_point, k].ravel() / float(weights[0, k])
            for point, of_point in blocks.items()
        }
        shared = {p: units[k] for p, k in enumerate(of.tolist()) if k in units}
        held.append(Held(full[of], values[of], stderr[of], shared))
    return asked, held


def _blocks(asked: Asked, at: Mapping[Item, int]) -> dict[int, list[int]]:
    """{point: the rows of its blocks, from the first without a gap}; a full pass notes the first."""
    found: dict[int, list[int]] = {}
    for point in sorted({point for point, _ in at}):
        begin = at.get((point, 1), at.get((point, FULL)))
        if begin is None:
            continue
        found[point] = [begin]
        for level in range(2, asked.blocks + 1):
            if (point, level) not in at:
                break
            found[point].append(at[point, level])
    return found
