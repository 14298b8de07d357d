"""The surface job: loss and metrics on a grid over a plane."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape.errors import InputError
from landscape.objective.batchnorm import chosen_statistics
from landscape.objective.gate import of_objective
from landscape.objective.objective import Objective
from landscape.objective.rows import RECHECK_RTOL, evaluated
from landscape.planes.directions import Plane
from landscape.planes.grid import AXIS_NAMES, Grid
from landscape.results.attributes import EXACT, result_attributes
from landscape.results.measured import Measurement
from landscape.results.study import of_rows
from landscape.run.comm import SERIAL, Communicator, world
from landscape.run.failures import Tolerance
from landscape.run.progress import Progress
from landscape.run.store import History
from landscape.run.task import Description, Row, Rows
from landscape.run.together import agree
from landscape.studies.surface.result import Points, Surface

_BETWEEN = ("through", "curve")  # kinds of planes that lie between models
_ANCHORS = 9  # grid points also evaluated without autocast, to measure the error of precision="bf16"
_KNOWN_CHECKED = 3  # points of an imported surface computed again before the others are believed
_KNOWN_RTOL = 1e-5  # how far these may be off, since another program in float32 sums in another order


class SurfaceTask:
    """The grid points of a surface, then the plane's points (true and projected), then bf16's anchor points."""

    headline = "loss"

    def __init__(
        self,
        objective: Objective,
        plane: Plane,
        grid: Grid,
        *,
        batchnorm: str | None = None,
        statistics: Any = None,
    ) -> None:
        if len(grid.axes) != plane.axes:
            raise InputError(
                f"the plane has {plane.axes} axes and the grid {len(grid.axes)} ({', '.join(grid.axes)}); "
                "give a range for each"
            )
        self._objective, self._plane, self.grid = objective, plane, grid
        between = plane.about.get("kind") in _BETWEEN
        self._statistics = chosen_statistics(objective, batchnorm, statistics, between=between)
        if self._statistics.mode == "interpolated" and not plane.buffers:
            raise InputError(
                "batchnorm='interpolated' needs a plane through models given with their buffers (state dicts, modules "
                "or checkpoints, not flat vectors); use plane_through, or batchnorm='reestimated'"
            )
        self._theta = torch.empty_like(plane.centre)
        points = plane.points.coordinates if plane.points is not None else np.empty((0, plane.axes))
        anchors = anchor_points(grid) if objective.precision == "bf16" else []
        # (coordinates, number of the plane's point or None, evaluate without autocast)
        self._extra: list[tuple[tuple[float, ...], int | None, bool]] = [
            *((tuple(c), k, False) for k, c in enumerate(points)),
            *((tuple(c), None, False) for c in points),
            *((grid.coordinates(index), None, True) for index in anchors),
        ]
        self._anchors = anchors
        self.count = grid.size + len(self._extra)

    def describe(self) -> Description:
        """See `Task`."""
        objective, plane = self._objective, self._plane
        names = [name for quantity in objective.quantities for name in (quantity, f"{quantity}_stderr")]
        axes = {name: values.tolist() for name, values in self.grid.axes.items()}
        identity = {
            "objective": objective.identity(),
            "plane": {**plane.identity(), "made": plane.made},
            "axes": axes,
            "batchnorm": self._statistics.mode,
            "statistics": self._statistics.digest,
        }
        points = plane.points
        about = {
            "plane": {**plane.about, **plane.geometry()},
            "device": str(objective.device),
            "statistics_samples": self._statistics.samples,
            "anchors": self._anchors,
            "points": None
            if points is None
            else {
                "kind": points.kind,
                "labels": list(points.labels),
                "coordinates": points.coordinates.tolist(),
                "distance": points.distance.tolist(),
                "explained_variance": None if points.explained_variance is None else points.explained_variance.tolist(),
            },
        }
        return Description("surface", dict.fromkeys(names, ()), identity, about)

    def evaluate(self, index: int, group: Communicator) -> Row:
        """See `Task`."""
        coordinates, point, full = (
            (self.grid.coordinates(index), None, False)
            if index < self.grid.size
            else self._extra[index - self.grid.size]
        )
        buffers: Mapping[str, Tensor] | None = None
        if point is None:
            theta = self._plane.point(coordinates, self._theta)
            if self._statistics.mode == "interpolated":
                buffers = self._plane.buffers_at(coordinates)
        else:  # a model as it is, with its own statistics where it brought them
            points = self._plane.points
            assert points is not None
            theta = points.vectors[point]
            buffers = points.buffers[point] if points.buffers else None
        if self._statistics.data is not None:
            buffers = self._statistics.at(self._objective, theta)
        return evaluated(self._objective, theta, buffers, group, full_precision=full)

    def extend(self, rows: Rows) -> int:
        """See `Task`: one round."""
        return self.count


def surface_task(
    objective: Objective,
    plane: Plane,
    x: Any = None,
    y: Any = None,
    z: Any = None,
    *,
    axes: Sequence[Any] | None = None,
    batchnorm: str | None = None,
    statistics: Any = None,
) -> SurfaceTask:
    """The task of `measure_surface`."""
    named = {name: axis for name, axis in (("x", x), ("y", y), ("z", z)) if axis is not None}
    if axes is not None and named:
        raise InputError(f"both axes and {', '.join(named)} are given; give one or the other")
    if list(named) != list(AXIS_NAMES[: len(named)]):
        raise InputError(f"{', '.join(named)} given; axes are named in order: x, then y, then z")
    given = list(axes) if axes is not None else list(named.values())
    if not 1 <= len(given) <= len(AXIS_NAMES):
        raise InputError(f"{len(given)} axes given; a grid has 1 to {len(AXIS_NAMES)}, as x=(-1, 1, 51), y=...")
    grid = Grid.of(dict(zip(AXIS_NAMES, given, strict=False)))
    return SurfaceTask(objective, plane, grid, batchnorm=batchnorm, statistics=statistics)


@of_objective
def measure_surface(
    objective: Objective,
    plane: Plane,
    x: Any = None,
    y: Any = None,
    z: Any = None,
    *,
    axes: Sequence[Any] | None = None,
    out: str | Path | None = None,
    batchnorm: str | None = None,
    statistics: Any = None,
    known: Surface | None = None,
    ranks_per_item: int = 1,
    limit_items: int | None = None,
    tolerance: Tolerance | None = None,
    progress: Callable[[Progress], None] | None = None,
    job: str = "",
) -> Surface:
    """Loss and metrics at centre + x d_x + y d_y + ... on a grid, on all MPI ranks of this run.

    `x`, `y`, `z` (or `axes`, a list, for any number) are (start, stop, n) with both ends included, or arrays of
    coordinates; one for each axis of the plane. `out` is the run folder: rows found there are not computed again, and
    when all are there it holds `landscape.h5`. Without it the surface stays in memory.

    `batchnorm` is "frozen" (the statistics of the objective's model everywhere), "reestimated" (anew at every point
    from `statistics`, data like the objective's, which are the default) or "interpolated" (between the models a plane
    goes through); by default "reestimated" on planes through several models and of curves, whose points the statistics
    of one model do not fit, and "frozen" elsewhere. `known` is a surface on the same grid (an imported one, say) whose
    points are taken over; a few are computed again first and must agree. The ranks share items, and `ranks_per_item` of
    them the data of each. `limit_items` ends the run after so many new rows; the surface is then masked where nothing
    was computed, as it is where points failed and a `tolerance` leaves them out.

    Raises InputError for anything that cannot be measured as asked, before computing; see `run_task` for the rest.
    """
    task: SurfaceTask = agree(
        world(), lambda: surface_task(objective, plane, x, y, z, axes=axes, batchnorm=batchnorm, statistics=statistics)
    )
    taken = agree(world(), lambda: _known_rows(task, known)) if known is not None else None
    run = Measurement(
        out,
        ranks_per_item=ranks_per_item,
        limit_items=limit_items,
        tolerance=tolerance,
        progress=progress,
        job=job,
    )
    run.run(task, known=taken, recheck=RECHECK_RTOL[objective.precision])
    return run.result(of_rows(surface_from_rows))


def surface_from_rows(description: Description, rows: Rows, history: History) -> Surface:
    """The result in the rows of a surface task, masked where rows are missing."""
    identity, about = description.identity, description.about
    axes = {name: np.array(values) for name, values in identity["axes"].items()}
    shape = tuple(len(values) for values in reversed(axes.values()))
    size = int(np.prod(shape))
    quantities = [name for name in rows.columns if not name.endswith("_stderr")]
    values = {q: rows.columns[q][:size].reshape(shape) for q in quantities}
    stderr = {q: rows.columns[f"{q}_stderr"][:size].reshape(shape) for q in quantities}
    points = None
    if about["points"] is not None:
        saved = about["points"]
        m = len(saved["distance"])
        explained = saved["explained_variance"]
        points = Points(
            kind=saved["kind"],
            labels=tuple(saved["labels"]),
            coordinates=np.array(saved["coordinates"]).reshape(m, len(axes)),
            distance=np.array(saved["distance"]),
            true={q: rows.columns[q][size : size + m] for q in quantities},
            projected={q: rows.columns[q][size + m : size + 2 * m] for q in quantities},
            explained_variance=None if explained is None else np.array(explained),
        )
    attributes = _attributes(description, history)
    attributes |= precision_error(description, rows, size)
    return Surface(axes, values, stderr, rows.done[:size].reshape(shape), points, attributes)


def _attributes(description: Description, history: History) -> dict[str, Any]:
    plane = description.about["plane"]
    attributes = result_attributes(description, history) | {
        "batchnorm": description.identity["batchnorm"],
        "statistics_samples": description.about["statistics_samples"],
        "normalize": plane.get("normalize", "none"),
        "plane": plane,
        "error": EXACT,
    }
    if "seed" in plane:
        attributes["seed"] = plane["seed"]
    return attributes


def precision_error(description: Description, rows: Rows, size: int) -> dict[str, float]:
    """Largest relative error of bf16 losses at the anchor points, against the same points in float32."""
    anchors = np.array(description.about["anchors"], dtype=int)
    if not len(anchors):
        return {}
    loss, low = rows.columns["loss"], rows.columns["loss"][anchors]
    full = loss[len(loss) - len(anchors) :]
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.abs(low - full) / np.abs(full)
    known = np.isfinite(error)
    return {
        "precision_error_relative": float(error[known].max()) if known.any() else float("nan"),
        "precision_error_points": int(known.sum()),
    }


def anchor_points(grid: Grid) -> list[int]:
    """Grid points at which bf16 is compared with float32: spread evenly over the grid, its ends among them."""
    return sorted({int(i) for i in np.linspace(0, grid.size - 1, min(_ANCHORS, grid.size)).round()})


def _known_rows(task: SurfaceTask, known: Surface) -> dict[int, Row]:
    """Rows of the computed points of an earlier surface, after a few of them were computed again and agreed."""
    if list(known.axes) != list(task.grid.axes) or any(
        not np.allclose(known.axes[name], values, rtol=0, atol=1e-12 * max(1.0, float(np.abs(values).max())))
        if len(known.axes[name]) == len(values)
        else True
        for name, values in task.grid.axes.items()
    ):
        raise InputError(
            f"the known surface has axes of {[len(v) for v in known.axes.values()]} points, this grid of "
            f"{[len(v) for v in task.grid.axes.values()]}, or other coordinates; "
            "take the grid from the known one: x=known.x"
        )
    columns = task.describe().columns
    quantities = [column for column in columns if not column.endswith("_stderr")]
    if lacking := [quantity for quantity in quantities if quantity not in known.values]:
        raise InputError(
            f"the known surface has {', '.join(known.values)}, but not {', '.join(lacking)}; measure only what it has "
            "(metrics=), or leave known out"
        )
    # A NaN may be a diverged loss or, in an imported file, a gap: computing it again settles that.
    usable = known.computed & np.all([~np.isnan(known.values[quantity]) for quantity in quantities], axis=0)
    items = [int(i) for i in np.flatnonzero(usable.ravel())]
    for item in items[:: max(1, len(items) // _KNOWN_CHECKED)][:_KNOWN_CHECKED]:
        found, stored = task.evaluate(item, SERIAL)["loss"], known.values["loss"].ravel()[item]
        if not np.isclose(float(np.asarray(found)), stored, rtol=_KNOWN_RTOL, atol=0, equal_nan=True):
            raise InputError(
                f"the known surface has loss {stored:.9g} at {task.grid.coordinates(item)}, this objective and "
                f"plane give {float(np.asarray(found)):.9g}: another model, data, loss or direction."
            )
    rows: dict[int, Row] = {}
    for item in items:
        row: dict[str, float] = {}
        for column in columns:
            source = known.stderr if column.endswith("_stderr") else known.values
            row[column] = float(source[column.removesuffix("_stderr")].ravel()[item])
        rows[item] = row
    return rows
