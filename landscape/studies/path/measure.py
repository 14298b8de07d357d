"""The path job: loss and metrics along a curve between two models."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path as FilePath
from typing import Any

import numpy as np
import torch
from landscape_kernels.arrays import FloatArray, IntArray
from landscape_kernels.curves import arc_length, combine_, difference_gram
from landscape_kernels.probes import derive_seed
from torch import Tensor

from landscape.arguments import Count, Natural, checked
from landscape.checkpoints.states import ThetaLike
from landscape.errors import InputError
from landscape.objective.batchnorm import FEWEST, chosen_statistics
from landscape.objective.data import Data
from landscape.objective.gate import of_objective
from landscape.objective.objective import Objective
from landscape.objective.rows import RECHECK_RTOL, REPLICATES, evaluated, replicate_columns, replicated
from landscape.objective.trees import digest
from landscape.planes.grid import Grid
from landscape.precise.task import SHARE, PreciseTask, require_objective
from landscape.precise.told import of_rows_to_an_error
from landscape.results.attributes import EXACT, result_attributes
from landscape.results.measured import Measurement
from landscape.results.settings import require_plain
from landscape.results.study import of_rows
from landscape.run.comm import Communicator, world
from landscape.run.failures import Tolerance
from landscape.run.progress import Progress
from landscape.run.records import json_differences
from landscape.run.store import History, Store
from landscape.run.task import Description, Row, Rows
from landscape.run.together import agree
from landscape.studies.curve.result import Curve, curve_from_points
from landscape.studies.path.result import Path, to_split
from landscape.studies.path.settings import PathSettings, require_tol_or_error

logger = logging.getLogger(__name__)
_FINEST = 2.0**-20  # intervals of t shorter than this are not split any more
_MOST = 1_000  # nor any once there are so many places
_PARTS = 4  # of the statistics data, whose spread tells the statistics' own sampling error
_SHARE = 16  # that spread is measured on one 16th of the data


@dataclass(frozen=True)
class _Item:
    """What one item evaluates: the place t with BatchNorm statistics from all their data, or from part 1, 2, ..."""

    t: float
    part: int = 0


@dataclass(frozen=True)
class _Plan:
    """What the rounds depend on besides the rows."""

    first: tuple[float, ...]  # places of the first round
    tol: float | None  # to which the maximum of the loss is looked for
    parts: int  # of the statistics data; 0 where statistics are not estimated

    @classmethod
    def of(cls, description: Description) -> _Plan:
        identity = description.identity
        return cls(tuple(identity["t"]), identity["tol"], identity["parts"])

    def items(self, rows: Rows) -> list[_Item]:
        """All items that follow from the finished rounds in `rows`, in order."""
        items = [_Item(t) for t in self.first]
        while len(items) <= len(rows.done) and bool(rows.done[: len(items)].all()):
            more = self._next(items, rows.columns["loss"][: len(items)])
            if not more:
                break
            items += more
        return items

    def _next(self, items: Sequence[_Item], losses: FloatArray) -> list[_Item]:
        """The round after `items`: places where the maximum may still be, then parts at two places; none at the end."""
        if items[-1].part:
            return []
        t = np.array([item.t for item in items])
        order = np.argsort(t)
        t, losses = t[order], losses[order]
        if self.tol is not None and len(t) < _MOST:
            middles = to_split(t, losses, self.tol)
            if len(middles) and float(np.diff(t).min()) > _FINEST:
                return [_Item(float(middle)) for middle in middles]
        if not self.parts:
            return []
        # At the maximum, and at one place more for comparison.
        highest = float(t[np.argmax(losses)])
        other = next((float(s) for s in _nearest(t, (0.5, 0.25)) if s != highest), highest)
        return [_Item(place, part) for place in sorted({highest, other}) for part in range(1, self.parts + 1)]


class PathTask:
    """Places of a curve; then, with `tol`, rounds of more of them; then parts of the statistics data at two of them.

    The places `alone` are what a path to a stated error is made of; see `Points`.
    """

    headline = "loss"
    lines, highest = 1, True

    def __init__(
        self,
        objective: Objective,
        curve: Curve,
        t: FloatArray,
        *,
        batchnorm: str | None = None,
        statistics: Any = None,
        test: Any = None,
        tol: float | None = None,
        alone: bool = False,
    ) -> None:
        curve = curve.placed(objective)
        _check_length(curve)
        if tol is not None and not 0 < tol < float("inf"):
            raise InputError(f"tol={tol} is not a positive number; it is in units of the loss, as tol=1e-3")
        pool = None if statistics is None else objective.read(statistics)
        self._statistics = chosen_statistics(objective, batchnorm, pool, between=True)
        self._statistics.require_enough()
        self._pool = objective.data if pool is None else pool
        if self._statistics.mode == "interpolated":
            _check_ends(curve)
        self._objective, self._curve = objective, curve
        self._test = objective.elsewhere(test) if test is not None else None
        self._theta = torch.empty_like(curve.control_points[0])
        self.grid, self.anchors = Grid({"t": t}), list[int]()
        parts = 0
        if alone:
            pass
        elif self._statistics.data is not None and (self._pool.divisible or self._pool.count >= _PARTS):
            parts = _PARTS
        elif self._statistics.data is not None:
            logger.warning(
                "the sampling error of the BatchNorm statistics is not measured: their data come in %d batches of the "
                "user's own, and it takes %d",
                self._pool.count,
                _PARTS,
            )
        self._plan = _Plan(tuple(t.tolist()), None if tol is None else float(tol), parts)
        self._items = self._plan.items(Rows.empty({"loss": ()}, 0))
        self.count = len(self._items)

    def describe(self) -> Description:
        """See `Task`."""
        return self._description

    @cached_property
    def _description(self) -> Description:
        objective, curve = self._objective, self._curve
        names = [*objective.quantities, *(f"test_{name}" for name in objective.quantities if self._test is not None)]
        numbers = ["t", "part", *(column for name in names for column in (name, f"{name}_stderr"))]
        later = replicate_columns(names)
        identity = {
            "objective": objective.identity(
                centre=self._statistics.mode == "frozen" and bool(objective.batchnorm_names)
            ),
            "curve": curve.identity(),
            "t": list(self._plan.first),
            "tol": self._plan.tol,
            "parts": self._plan.parts,
            "batchnorm": self._statistics.mode,
            "buffers": [digest(*end.values()) for end in curve.buffers]
            if self._statistics.mode == "interpolated"
            else [],
            "statistics": self._statistics.digest,
            "test": self._test.data.digest if self._test is not None else "",
        }
        about = {
            "made": str(curve.attributes.get("made", "given")),
            "control_points": len(curve.control_points),
            "differences": difference_gram(curve.control_points.unbind()).tolist(),
            "quantities": names,
            "device": str(objective.device),
            "statistics_samples": self._statistics.samples,
            "test_samples": self._test.samples if self._test is not None else 0,
        }
        return Description("path", dict.fromkeys(numbers, ()) | later, identity, about, later=tuple(later))

    def evaluate(self, index: int, group: Communicator) -> Row:
        """See `Task`."""
        item = self._items[index]
        theta = self._curve.point(item.t, self._theta)
        row: dict[str, float | FloatArray] = {"t": item.t, "part": float(item.part)}
        if item.part:
            buffers: Mapping[str, Tensor] | None = self._objective.reestimate(theta, self._parts[item.part - 1])
            row |= evaluated(self._sample, theta, buffers, group)
            columns = self._description.columns
            return row | {name: np.full(shape, np.nan) for name, shape in columns.items() if name not in row}
        buffers = self._buffers(item.t, theta)
        row |= replicated(self._objective, theta, buffers, group)
        if self._test is not None:
            row |= {f"test_{name}": value for name, value in replicated(self._test, theta, buffers, group).items()}
        return row

    @contextmanager
    def at(self, index: int) -> Iterator[tuple[Tensor, Mapping[str, Tensor] | None, bool]]:
        """(theta, buffers, False) of a place of the first round; see `Points`."""
        t = self._items[index].t
        theta = self._curve.point(t, self._theta)
        yield theta, self._buffers(t, theta), False

    def extend(self, rows: Rows) -> int:
        """See `Task`. Rows found in a folder are to be given here before their run goes on."""
        self._items = self._plan.items(rows)
        return len(self._items)

    def _buffers(self, t: float, theta: Tensor) -> Mapping[str, Tensor] | None:
        if self._statistics.mode == "interpolated":
            return interpolated_buffers(self._curve, t)
        return self._statistics.at(self._objective, theta)

    @cached_property
    def _sample(self) -> Objective:
        """The objective on that part of its data on which the spread of statistics is measured."""
        data = self._objective.data
        count = max(data.samples // _SHARE, FEWEST)
        if not data.divisible:
            return self._objective.on(data.head(count))
        return self._objective.on(data.taken(np.sort(_order(data.samples)[:count]).tolist()))

    @cached_property
    def _parts(self) -> list[Data]:
        return [self._objective.read_statistics(part) for part in _divided(self._pool, _PARTS)]


def path_task(
    objective: Objective,
    curve: Curve | Sequence[ThetaLike],
    t: int | Sequence[float] | FloatArray = 61,
    batchnorm: str | None = None,
    statistics: Any = None,
    *,
    test: Any = None,
    tol: float | None = None,
    error: float | None = None,
    scale: str = "relative",
    share: float = SHARE,
) -> PathTask | PreciseTask:
    """The task of `measure_path`."""
    require_plain(PathSettings, tol=tol, error=error, scale=scale, share=share)
    require_tol_or_error(tol, error)
    require_objective(objective, error, scale, share)
    joined = curve if isinstance(curve, Curve) else _line(objective, curve)
    options = {"batchnorm": batchnorm, "statistics": statistics}
    if error is None:
        return PathTask(objective, joined, places_of(t), test=test, tol=tol, **options)
    if test is not None:
        raise InputError(
            "test and error are both given, and samples are chosen of one set of data; measure the test data in a run "
            "of its own, with an Objective of them"
        )
    task = PathTask(objective, joined, places_of(t), alone=True, **options)
    return PreciseTask(objective, task, error, scale, share)


@of_objective
@checked(PathSettings)
def measure_path(
    objective: Objective,
    curve: Curve | Sequence[ThetaLike],
    t: int | Sequence[float] | FloatArray = 61,
    batchnorm: str | None = None,
    statistics: Any = None,
    *,
    test: Any = None,
    tol: float | None = None,
    error: float | None = None,
    scale: str = "relative",
    share: float = SHARE,
    out: str | FilePath | None = None,
    ranks_per_item: Count = 1,
    limit_items: Natural | None = None,
    tolerance: Tolerance | None = None,
    progress: Callable[[Progress], None] | None = None,
    job: str = "",
) -> Path:
    """Loss and metrics at places gamma(t) of a curve between two models, on all MPI ranks of this run.

    `curve` is a Curve or two models in any form, which a straight line then joins. `t` is the number of places, evenly
    spaced with both ends, or their values in [0, 1], to which the ends are added. At t = 0 and 1 the values are those
    of the end models evaluated in the same way, bit for bit. `test` is data like the objective's on which the same
    models are evaluated, too: "test_loss", ...

    `batchnorm` is "reestimated" (BatchNorm statistics anew at each place, from `statistics`, data like the objective's,
    which are the default), "frozen" (those of the objective's model everywhere) or "interpolated" (between those of
    the ends of a straight line, where they came with buffers); by default the first where the model has BatchNorm. The
    sampling error of estimated statistics is measured at the maximum and at one place more: with s the standard
    deviation of the loss over statistics from 4 disjoint quarters of their data, s / sqrt(4) is the standard error with
    all of them (`Path.statistics_stderr`).

    With `tol` (units of the loss) places are added in rounds, in the middle of every interval in which the loss, or its
    height above the line between its ends, may rise above the largest value seen by more than `tol`, judged by second
    divided differences (see `paths.upper_bounds`): the maximum and the barrier are then known to `tol`, of all features
    that the first places show a trace of. Intervals are split down to 2^-20 and up to about 1,000 places; a warning
    tells where that was not enough.

    With an `error` the work is what that takes: full passes at five places, the ends among them, and samples of a
    common sub-sample at the others, regressed on what is better known nearby, until the standard error of the loss, as
    an estimate of what a full pass gives, is at most `error` at a `share` of the places; then a full pass where the
    loss is highest above the line between the ends, and more samples where it may be higher still, until the barrier is
    known to `error` at these places. `scale` says in which unit; see `measure_surface`. `Path.error` and `Path.found`
    then tell how well each place is known, `Path.peak` what is left unknown of the barrier and of its place, and
    `attributes["work"]` what was spent. `statistics_stderr` is not measured then; it takes no `test` and no `tol`.

    `out` is the run folder: rows found there are not computed again, and when all are there it holds `landscape.h5`.
    The ranks share items, and `ranks_per_item` of them the data of each. `limit_items` ends the run after so many new
    rows; the path is then masked where nothing was computed, as it is where places failed and a `tolerance` leaves them
    out.

    Raises InputError for anything that cannot be measured as asked, before computing; see `run_task` for the rest.
    """
    comm = world()

    task = agree(
        comm,
        lambda: path_task(
            objective, curve, t, batchnorm, statistics, test=test, tol=tol, error=error, scale=scale, share=share
        ),
    )
    if isinstance(task, PathTask):
        _go_on(task, out)
    run = Measurement(
        out,
        ranks_per_item=ranks_per_item,
        limit_items=limit_items,
        tolerance=tolerance,
        progress=progress,
        job=job,
    )
    run.run(task, recheck=RECHECK_RTOL[objective.precision])
    path = run.result(of_rows(path_from_rows))
    if tol is not None and path.complete and path.maximum_excess > tol and comm.rank == 0:
        logger.warning(
            "the maximum of the loss is known to %.3g at %d places, not to tol=%g: the loss is not smooth there on the "
            "scale of t or of rounding; raise tol, or measure in float64",
            path.maximum_excess,
            len(path.t),
            tol,
        )
    return path


def _go_on(task: PathTask, out: str | FilePath | None) -> None:
    """Tell a task the rows in its folder: items of later rounds follow from those of the earlier ones."""
    comm = world()
    found = agree(comm, lambda: _found_rows(task, out) if comm.rank == 0 and out is not None else None)
    found = comm.broadcast(found)
    if found is not None:
        task.extend(found)


def path_from_rows(description: Description, rows: Rows, history: History) -> Path:
    """The result in the rows of a path task, masked where rows are missing."""
    return of_rows_to_an_error(_of_places, description, rows, history)


def _of_places(description: Description, rows: Rows, history: History) -> Path:
    about, identity = description.about, description.identity
    items = _Plan.of(description).items(rows)
    width = len(rows.done)
    numbers = np.array([number for number, item in enumerate(items) if not item.part])
    numbers = numbers[np.argsort([items[number].t for number in numbers])]
    t = np.array([items[number].t for number in numbers])
    there = numbers < width  # a new round may not be recorded yet
    taken = np.where(there, numbers, 0)

    def column(name: str) -> FloatArray:
        values = rows.columns[name][taken]
        return np.where(there.reshape(-1, *[1] * (values.ndim - 1)), values, np.nan)

    differences = np.array(about["differences"])
    kind = identity["curve"]["kind"]
    arc = np.array([arc_length(kind, differences, s) for s in t])
    attributes = result_attributes(description, history) | {
        "curve_kind": kind,
        "curve_made": about["made"],
        "control_points": about["control_points"],
        "batchnorm": identity["batchnorm"],
        "statistics_samples": about["statistics_samples"],
        "statistics_hash": identity["statistics"],
        "test_samples": about["test_samples"],
        "test_hash": identity["test"],
        "tol": identity["tol"],
        "error": EXACT,
    }
    return Path(
        t=t,
        values={name: column(name) for name in about["quantities"]},
        stderr={name: column(f"{name}_stderr") for name in about["quantities"]},
        arc=arc,
        replicates={
            name: column(f"{name}{REPLICATES}") for name in about["quantities"] if f"{name}{REPLICATES}" in rows.columns
        },
        length=float(arc[-1]),
        distance=float(np.sqrt(max(differences.sum(), 0.0))),
        computed=there & rows.done[taken],
        statistics_stderr=_statistics_stderr(identity["parts"], about["quantities"], items[:width], rows, t),
        attributes=attributes,
    )


def interpolated_buffers(curve: Curve, t: float) -> dict[str, Tensor]:
    """(1 - t) b_0 + t b_1 of the buffers of a curve's ends, {name: value}; those that are no numbers of the nearer."""
    first, last = curve.buffers
    return {
        name: combine_(torch.empty_like(a), (a, last[name]), (1 - t, t))
        if a.is_floating_point()
        else (a if t < 0.5 else last[name])
        for name, a in first.items()
    }


def _statistics_stderr(
    parts: int, quantities: Sequence[str], items: Sequence[_Item], rows: Rows, t: FloatArray
) -> dict[str, FloatArray]:
    """Standard deviation over parts of the statistics, divided by the root of their number, at each of the places."""
    if not parts:
        return {}
    result = {name: np.full(len(t), np.nan) for name in quantities if not name.startswith("test_")}
    for place in sorted({item.t for item in items if item.part}):
        numbers = [number for number, item in enumerate(items) if item.part and item.t == place]
        for name, values in result.items():
            found = rows.columns[name][numbers]
            if len(found) == parts:
                values[np.searchsorted(t, place)] = found.std(ddof=1) / np.sqrt(parts)
    return result


def _order(count: int) -> IntArray:
    """0..count - 1 shuffled, the same every time: data are often stored class by class."""
    return np.random.Generator(np.random.Philox(key=derive_seed(0, "parts"))).permutation(count)


def _divided(data: Data, parts: int) -> list[Data]:
    """Disjoint random parts of the data: of its samples, or of its batches where these cannot be cut."""
    if data.divisible:
        order = _order(data.samples)
        return [data.taken(np.sort(order[k::parts]).tolist()) for k in range(parts)]
    order = _order(data.count)
    return [data.some(np.sort(order[k::parts]).tolist(), f"{data.digest} part {k}") for k in range(parts)]


def places_of(t: int | Sequence[float] | FloatArray) -> FloatArray:
    """`t` evenly spaced places with both ends, or the given ones with the ends; ascending, (n,).

    Raises InputError for fewer than 2, and outside [0, 1].
    """
    if isinstance(t, (int, np.integer)):
        if t < 2:
            raise InputError(f"t={t} places; a path has its two ends at least")
        return np.linspace(0, 1, int(t))
    try:
        given = np.asarray(t)
    except (TypeError, ValueError) as error:
        raise InputError(f"t={t!r} is not a number of places or a list of them in [0, 1]") from error
    if given.dtype.kind not in "iuf":
        raise InputError(f"t={t!r} is not a number of places or a list of them in [0, 1]")
    places = given.astype(np.float64)
    if places.ndim != 1 or not places.size:
        raise InputError(f"t of shape {places.shape} is not a list of places; give numbers in [0, 1], or how many")
    if not ((places >= 0) & (places <= 1)).all():
        raise InputError(
            f"t holds {places[~((places >= 0) & (places <= 1))][0]}; a curve runs from 0 to 1. t is how many places, "
            "as in t=5, or a list of them, as in t=[0, 0.25, 1]; it takes no (start, stop, n)"
        )
    return np.unique(np.r_[0.0, places, 1.0])


def _line(objective: Objective, models: Sequence[ThetaLike]) -> Curve:
    if isinstance(models, (str, FilePath, Mapping)) or len(models) != 2:
        count = "one model" if isinstance(models, (str, FilePath, Mapping)) else f"{len(models)} models"
        raise InputError(
            f"{count} given; a straight line joins 2, and for a curve through more use curve_from_points(objective, "
            "models)"
        )
    return curve_from_points(objective, models)


def _check_length(curve: Curve) -> None:
    if curve.length == 0:
        raise InputError(
            "the control points of the curve are identical, so it is one point and has no length; give two different "
            "models"
        )


def _check_ends(curve: Curve) -> None:
    if len(curve.control_points) > 2 or not curve.buffers:
        raise InputError(
            "batchnorm='interpolated' needs a straight line between two models given with their buffers (state dicts, "
            "modules or checkpoints, not flat vectors); use batchnorm='reestimated'"
        )


def _found_rows(task: PathTask, out: str | FilePath) -> Rows | None:
    """Rows in the folder, where it is this task's."""
    if not (FilePath(out) / "run.json").is_file():
        return None
    store = Store.open(out)
    there, here = store.description(), task.describe()
    pairs = (there.name, here.name), (there.columns, here.columns_of(there.columns)), (there.identity, here.identity)
    return None if any(list(json_differences(*pair)) for pair in pairs) else store.rows()


def _nearest(t: FloatArray, wanted: Sequence[float]) -> Iterator[float]:
    return (float(t[np.argmin(np.abs(t - place))]) for place in wanted)
