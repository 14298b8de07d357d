"""Largest and smallest Hessian eigenvalue on a grid over a plane, and the plane of leading eigenvectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from landscape_kernels.arrays import FloatArray
from landscape_kernels.krylov import eigenpairs
from landscape_kernels.probes import derive_seed
from torch import Tensor

from landscape.curvature.matrix import Matrix, matrix_of
from landscape.curvature.pairs import check_tol, pair_row
from landscape.errors import InputError
from landscape.objective.batchnorm import WITHOUT_ENDS, chosen_statistics
from landscape.objective.gate import of_objective
from landscape.objective.objective import Objective
from landscape.planes.grid import AXIS_NAMES, Grid
from landscape.planes.plane import Plane
from landscape.results.attributes import result_attributes
from landscape.results.measured import Measurement
from landscape.results.settings import name_tuple
from landscape.results.study import of_rows
from landscape.run.comm import Communicator, world
from landscape.run.failures import Tolerance
from landscape.run.progress import Progress
from landscape.run.store import History
from landscape.run.task import Description, Row, Rows
from landscape.run.together import agree
from landscape.studies.curvature_map.settings import CurvatureMapSettings
from landscape.studies.surface.result import Surface

_ENDS = ("eigenvalue_max", "eigenvalue_min")


class CurvatureMapTask:
    """Item j: the grid's line j along x, each point warm-started with the eigenvectors of the one before."""

    headline = "products"

    def __init__(self, matrix: Matrix, plane: Plane, grid: Grid, settings: CurvatureMapSettings) -> None:
        if len(grid.axes) != plane.axes:
            raise InputError(f"the plane has {plane.axes} axes and the grid {len(grid.axes)}; give a range for each")
        if settings.max_products < 2:
            raise InputError(f"max_products={settings.max_products} for each point; give 2 or more")
        check_tol(settings.tol, matrix.sample.objective, matrix.check)
        self._matrix, self._plane, self.grid, self._asked = matrix, plane, grid, settings
        objective = matrix.sample.objective
        self._statistics = chosen_statistics(objective, settings.batchnorm, between=False, modes=WITHOUT_ENDS)
        self._length = grid.shape[-1]
        self.count = grid.size // self._length

    def describe(self) -> Description:
        """See `Task`."""
        identity = {
            **self._matrix.identity(),
            "plane": {**self._plane.identity(), "made": self._plane.made},
            "axes": {name: values.tolist() for name, values in self.grid.axes.items()},
            "tol": self._asked.tol,
            "max_products": self._asked.max_products,
            "batchnorm": self._statistics.mode,
            "seed": self._asked.seed,
        }
        about = {**self._matrix.about(), "plane": {**self._plane.about, **self._plane.geometry()}}
        return Description("curvature_map", self._columns(), identity, about)

    def evaluate(self, index: int, group: Communicator) -> Row:
        """See `Task`."""
        row: dict[str, Any] = {name: np.full(shape, np.nan) for name, shape in self._columns().items()}
        products = 0
        start: Tensor | None = None
        for i in range(self._length):
            theta = self._plane.point(self.grid.coordinates(index * self._length + i)).clone()
            point, start, spent = self._point(theta, start, derive_seed(self._asked.seed, "map", index), group)
            products += spent
            for name, value in point.items():
                row[name][i] = value
        return {**row, "products": products}

    def extend(self, rows: Rows) -> int:
        """See `Task`: one round."""
        return self.count

    def _columns(self) -> dict[str, tuple[int, ...]]:
        columns: dict[str, tuple[int, ...]] = {"products": ()}
        for end in _ENDS:
            columns |= {end: (self._length,), f"{end}_stderr": (self._length,), f"{end}_residual": (self._length,)}
        return columns

    def _point(
        self, theta: Tensor, start: Tensor | None, seed: int, group: Communicator
    ) -> tuple[dict[str, float], Tensor, int]:
        """({column: value}, the two eigenvectors, products) at one point."""
        objective = self._matrix.sample.objective
        buffers = self._statistics.at(objective, theta)
        with self._matrix.moved(theta, buffers).bind(group) as H:
            found = eigenpairs(
                H,
                1,
                smallest=1,
                tol=self._asked.tol,
                start=start,
                seed=seed,
                max_products=self._asked.max_products,
            )
            vectors = torch.cat([found.largest.vectors, found.smallest.vectors])
            parts = H.by_chunk(vectors, found.further.vectors)
            products, dtype = H.products, H.dtype
        known = np.concatenate([found.largest.values, found.smallest.values, found.further.values])
        point: dict[str, float] = {}
        for i, (end, pairs) in enumerate(zip(_ENDS, (found.largest, found.smallest), strict=True)):
            columns = pair_row(
                known, pairs.vectors, parts, i, self._asked.tol, 1, "", dtype=dtype, rounding=np.full(2, np.nan)
            )
            point[end] = float(columns["values"][0])
            point[f"{end}_stderr"] = float(columns["stderr"][0])
            point[f"{end}_residual"] = float(columns["residuals"][0])
        return point, vectors, products


@of_objective
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
    seed: int = 0,
    out: str | Path | None = None,
    ranks_per_item: int = 1,
    limit_items: int | None = None,
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
    """
    if x is None:
        raise InputError("x is missing; give (start, stop, n), and y for a plane")
    settings = CurvatureMapSettings(
        x, y, tol, max_products, name_tuple(params), operator, weight_decay, batchnorm, seed
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
    return CurvatureMapTask(matrix, plane, Grid.of(axes), settings)


def map_from_rows(description: Description, rows: Rows, history: History) -> Surface:
    """The surface in the rows of a curvature map, masked where lines are missing."""
    identity = description.identity
    axes = {name: np.array(values) for name, values in identity["axes"].items()}
    shape = tuple(len(values) for values in reversed(axes.values()))
    values: dict[str, FloatArray] = {}
    stderr: dict[str, FloatArray] = {}
    for end in _ENDS:
        values[end] = rows.columns[end].reshape(shape)
        stderr[end] = rows.columns[f"{end}_stderr"].reshape(shape)
    for end in _ENDS:
        values[f"{end}_residual"] = rows.columns[f"{end}_residual"].reshape(shape)
        stderr[f"{end}_residual"] = np.zeros(shape)
    high, low = (values[end] for end in _ENDS)
    with np.errstate(divide="ignore", invalid="ignore"):
        values["convexity"] = np.abs(low / high)
        relative: Mapping[str, FloatArray] = {end: stderr[end] / values[end] for end in _ENDS}
        stderr["convexity"] = values["convexity"] * np.hypot(*(relative[end] for end in _ENDS))
    attributes = result_attributes(description, history) | {
        **{name: identity[name] for name in ("operator", "weight_decay", "params", "tol", "seed", "batchnorm")},
        "plane": description.about["plane"],
        "route": description.about["check"]["route"],
        "error": "stderr is over chunks of data, for the population; residuals are |Hv - lambda v| / |lambda|",
    }
    computed = np.broadcast_to(rows.done.reshape(*shape[:-1], 1), shape).copy()
    return Surface(axes, values, stderr, computed, None, attributes)
