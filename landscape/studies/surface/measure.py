"""The surface job: loss and metrics on a grid over a plane."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from landscape.arguments import Count, Natural, checked
from landscape.errors import InputError
from landscape.objective.gate import of_objective
from landscape.objective.objective import Objective
from landscape.objective.rows import RECHECK_RTOL
from landscape.planes.grid import AXIS_NAMES, Grid
from landscape.planes.plane import Plane
from landscape.precise.task import SHARE, PreciseTask, require_objective
from landscape.precise.told import FOUND, of_rows_to_an_error
from landscape.results.attributes import EXACT, result_attributes
from landscape.results.measured import Measurement
from landscape.results.settings import require_plain
from landscape.results.study import of_rows
from landscape.run.comm import SERIAL, world
from landscape.run.failures import Tolerance
from landscape.run.progress import Progress
from landscape.run.store import History
from landscape.run.task import Description, Row, Rows
from landscape.run.together import agree
from landscape.studies.surface.result import Points, Surface
from landscape.studies.surface.settings import SurfaceSettings
from landscape.studies.surface.task import SurfaceTask, precision_error

_KNOWN_CHECKED = 3  # points of an imported surface computed again before the others are believed
_KNOWN_RTOL = 1e-5  # how far these may be off, since another program in float32 sums in another order


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
    error: float | None = None,
    scale: str = "relative",
    share: float = SHARE,
    memory: str | None = None,
) -> SurfaceTask | PreciseTask:
    """The task of `measure_surface`."""
    require_plain(SurfaceSettings, error=error, scale=scale, share=share, memory=memory)
    named = {name: axis for name, axis in (("x", x), ("y", y), ("z", z)) if axis is not None}
    if axes is not None and named:
        raise InputError(f"both axes and {', '.join(named)} are given; give one or the other")
    if list(named) != list(AXIS_NAMES[: len(named)]):
        raise InputError(f"{', '.join(named)} given; axes are named in order: x, then y, then z")
    given = list(axes) if axes is not None else list(named.values())
    if not 1 <= len(given) <= len(AXIS_NAMES):
        raise InputError(f"{len(given)} axes given; a grid has 1 to {len(AXIS_NAMES)}, as x=(-1, 1, 51), y=...")
    grid = Grid.of(dict(zip(AXIS_NAMES, given, strict=False)))
    task = SurfaceTask(objective, plane, grid, batchnorm=batchnorm, statistics=statistics, memory=memory)
    require_objective(objective, error, scale, share)
    return task if error is None else PreciseTask(objective, task, error, scale, share)


@of_objective
@checked(SurfaceSettings)
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
    error: float | None = None,
    scale: str = "relative",
    share: float = SHARE,
    memory: str | None = None,
    ranks_per_item: Count = 1,
    limit_items: Natural | None = None,
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
    points are taken over, of one to a stated error those of full passes; a few are computed again first and must agree.
    `memory` says how a point is made, with the same values: "flat", of vectors of all parameters that are kept, or
    "streamed", in pieces of each tensor; by default the latter where the model is large (see the page on large models).
    The ranks share items, and `ranks_per_item` of them the data of each. `limit_items` ends the run after so many new
    rows; the surface is then masked where nothing was computed, as it is where points failed and a `tolerance` leaves
    them out.

    With an `error` the work is what that takes, and not a pass over all data at every point: full passes on a coarse
    grid, samples of a common sub-sample at every second point, regressed on what is better known nearby, and values
    between measured points elsewhere, round by round until the standard error of the loss, as an estimate of what a
    full pass gives, is at most `error` at a `share` of the points. `scale` says in which unit: "relative" (to the loss
    at the point), "absolute", "range" (relative to the range of the losses) or "log" (of the decadic logarithm).
    `Surface.error` and `Surface.found` then tell how well each point is known and how it was found, and
    `attributes["work"]` what was spent. Small data get full passes, which cost as little.

    Raises InputError for anything that cannot be measured as asked, before computing; see `run_task` for the rest.
    """
    if error is not None and known is not None:
        raise InputError("known and error are both given; leave known out, or measure every point of it without error")
    task = agree(
        world(),
        lambda: surface_task(
            objective,
            plane,
            x,
            y,
            z,
            axes=axes,
            batchnorm=batchnorm,
            statistics=statistics,
            error=error,
            scale=scale,
            share=share,
            memory=memory,
        ),
    )
    taken = None
    if known is not None and isinstance(task, SurfaceTask):
        plain = task
        taken = agree(world(), lambda: _known_rows(plain, known))
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
    return of_rows_to_an_error(_of_points, description, rows, history)


def _of_points(description: Description, rows: Rows, history: History) -> Surface:
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
    if known.found is not None:  # to a stated error: a full pass alone is what computing it again gives
        usable &= known.found == FOUND[0]
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
