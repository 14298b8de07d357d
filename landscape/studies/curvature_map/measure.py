"""Largest and smallest Hessian eigenvalue on a grid over a plane, and the plane of leading eigenvectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from landscape_kernels.arrays import FloatArray

from landscape.arguments import Count, Natural, Seed, checked
from landscape.curvature.matrix import matrix_of
from landscape.errors import InputError
from landscape.objective.gate import of_objective
from landscape.objective.objective import Objective
from landscape.planes.grid import AXIS_NAMES, Grid
from landscape.planes.plane import Plane
from landscape.results.attributes import result_attributes
from landscape.results.measured import Measurement
from landscape.results.settings import name_tuple
from landscape.results.study import of_rows
from landscape.run.comm import world
from landscape.run.failures import Tolerance
from landscape.run.progress import Progress
from landscape.run.store import History
from landscape.run.task import Description, Rows
from landscape.run.together import agree
from landscape.studies.curvature_map.sampled import sampled_task, with_errors
from landscape.studies.curvature_map.settings import CurvatureMapSettings
from landscape.studies.curvature_map.task import ENDS, CurvatureMapTask
from landscape.studies.surface.result import Surface


@of_objective
@checked(CurvatureMapSettings)
def measure_curvature_map(
    objective: Objective,
    plane: Plane,
    x: Any = None,
    y: Any = None,
    *,
    tol: float = 1e-2,
    max_products: int = 60,
    params: str | Sequence[str] | None = None,
    operator: str = "hessian",
    weight_decay: float = 0.0,
    batchnorm: str = "frozen",
    seed: Seed = 0,
    error: float | None = None,
    out: str | Path | None = None,
    ranks_per_item: Count = 1,
    limit_items: Natural | None = None,
    tolerance: Tolerance | None = None,
    progress: Callable[[Progress], None] | None = None,
    job: str = "",
) -> Surface:
    """The largest and smallest eigenvalue of the Hessian at every point of a grid, and how convex the loss is there.

    The surface holds "eigenvalue_max" and "eigenvalue_min" with standard errors over chunks of data, their relative
    residuals "eigenvalue_max_residual" and "eigenvalue_min_residual", and "convexity" = |eigenvalue_min /
    eigenvalue_max|, near 0 where the loss is convex along all directions that matter (Li et al. 2018, section 6). Each
    line along x is one item and each of its points starts from its neighbour's eigenvectors. An end stops at a
    relative residual of `tol`, or for an eigenvalue near 0 at `max_products` for both; the residual tells.

    With an `error` samples of the data are multiplied, as many at each point as it takes (one standard error and half
    the width of a bracket): "eigenvalue_max" is known to `error` times itself, as by `measure_spectrum`, and
    "eigenvalue_min", which is not told apart from its neighbours by few samples, to `error` times the larger of the two
    sizes. `Surface.error` says how well each is known, `Surface.found` how: "sampled", or "anchor" where all data were
    measured, `attributes["work"]` what was spent. `stderr` is then NaN, and there are no residuals. Data of less than
    2,048 samples, or that cannot be taken apart, are measured whole.
    """
    if x is None:
        raise InputError("x is missing; give (start, stop, n), and y for a plane")
    settings = CurvatureMapSettings(
        x, y, tol, max_products, name_tuple(params), operator, weight_decay, batchnorm, seed, error
    )
    task = agree(world(), lambda: map_task(objective, plane, settings))
    run = Measurement(
        out, ranks_per_item=ranks_per_item, limit_items=limit_items, tolerance=tolerance, progress=progress, job=job
    )
    run.run(task)
    return run.result(of_rows(map_from_rows))


def map_task(objective: Objective, plane: Plane, settings: CurvatureMapSettings) -> CurvatureMapTask:
    """The task of `measure_curvature_map`."""
    axes = {name: axis for name, axis in zip(AXIS_NAMES, (settings.x, settings.y), strict=False) if axis is not None}
    matrix, _ = matrix_of(
        objective,
        params=settings.params,
        operator=settings.operator,
        weight_decay=settings.weight_decay,
        seed=settings.seed,
        theta=plane.centre,
    )
    return sampled_task(matrix, plane, Grid.of(axes), settings)


def map_from_rows(description: Description, rows: Rows, history: History) -> Surface:
    """The surface in the rows of a curvature map, masked where lines are missing."""
    identity = description.identity
    axes = {name: np.array(values) for name, values in identity["axes"].items()}
    shape = tuple(len(values) for values in reversed(axes.values()))
    values: dict[str, FloatArray] = {}
    stderr: dict[str, FloatArray] = {}
    for end in ENDS:
        values[end] = rows.columns[end].reshape(shape)
        stderr[end] = rows.columns.get(f"{end}_stderr", np.full(rows.columns[end].shape, np.nan)).reshape(shape)
    for end in ENDS:
        if f"{end}_residual" in rows.columns:
            values[f"{end}_residual"] = rows.columns[f"{end}_residual"].reshape(shape)
            stderr[f"{end}_residual"] = np.zeros(shape)
    high, low = (values[end] for end in ENDS)
    with np.errstate(divide="ignore", invalid="ignore"):
        values["convexity"] = np.abs(low / high)
        relative: Mapping[str, FloatArray] = {end: stderr[end] / values[end] for end in ENDS}
        stderr["convexity"] = values["convexity"] * np.hypot(*(relative[end] for end in ENDS))
    attributes = result_attributes(description, history) | {
        **{name: identity[name] for name in ("operator", "weight_decay", "params", "tol", "seed", "batchnorm")},
        "plane": description.about["plane"],
        "route": description.about["check"]["route"],
        "error": "stderr is over chunks of data, for the population; residuals are |Hv - lambda v| / |lambda|",
    }
    computed = np.broadcast_to(rows.done.reshape(*shape[:-1], 1), shape).copy()
    surface = Surface(axes, values, stderr, computed, None, attributes)
    return with_errors(surface, description, rows) if "error" in identity else surface
