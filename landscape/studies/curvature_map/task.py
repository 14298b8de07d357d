"""The task of a curvature map: both ends of the spectrum along the lines of a grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from landscape_kernels.krylov import eigenpairs
from landscape_kernels.probes import derive_seed
from torch import Tensor

from landscape.curvature.matrix import Matrix
from landscape.curvature.pairs import check_tol, pair_row
from landscape.errors import InputError
from landscape.objective.batchnorm import WITHOUT_ENDS, chosen_statistics
from landscape.planes.grid import Grid
from landscape.planes.plane import Plane
from landscape.run.comm import Communicator
from landscape.run.task import Description, Row, Rows
from landscape.studies.curvature_map.settings import CurvatureMapSettings

ENDS = ("eigenvalue_max", "eigenvalue_min")


class CurvatureMapTask:
    """Item j: the grid's line j along x, each point warm-started with the eigenvectors of the one before."""

    headline = "products"

    def __init__(self, matrix: Matrix, plane: Plane, grid: Grid, settings: CurvatureMapSettings) -> None:
        if len(grid.axes) != plane.axes:
            raise InputError(f"the plane has {plane.axes} axes and the grid {len(grid.axes)}; give a range for each")
        if settings.max_products < 2:
            raise InputError(f"max_products={settings.max_products} for each point; give 2 or more")
        check_tol(settings.tol, matrix.sample.objective, matrix.check)
        self.matrix, self._plane, self.grid, self.asked = matrix, plane, grid, settings
        objective = matrix.sample.objective
        self.statistics = chosen_statistics(objective, settings.batchnorm, between=False, modes=WITHOUT_ENDS)
        self.length = grid.shape[-1]
        self.count = grid.size // self.length

    def describe(self) -> Description:
        """See `Task`."""
        identity = {
            **self.matrix.identity(),
            "plane": {**self._plane.identity(), "made": self._plane.made},
            "axes": {name: values.tolist() for name, values in self.grid.axes.items()},
            "tol": self.asked.tol,
            "max_products": self.asked.max_products,
            "batchnorm": self.statistics.mode,
            "seed": self.asked.seed,
            **({} if self.asked.error is None else {"error": self.asked.error}),
        }
        about = {**self.matrix.about(), "plane": {**self._plane.about, **self._plane.geometry()}}
        return Description("curvature_map", self.columns(), identity, about)

    def evaluate(self, index: int, group: Communicator) -> Row:
        """See `Task`."""
        row: dict[str, Any] = {name: np.full(shape, np.nan) for name, shape in self.columns().items()}
        products = 0
        start: Tensor | None = None
        for i in range(self.length):
            theta = self._plane.point(self.grid.coordinates(index * self.length + i)).clone()
            point, start, spent = self.point(theta, index * self.length + i, start, group)
            products += spent
            for name, value in point.items():
                row[name][i] = value
        return {**row, "products": products}

    def extend(self, rows: Rows) -> int:
        """See `Task`: one round."""
        return self.count

    def columns(self) -> dict[str, tuple[int, ...]]:
        """{column: shape}: of "products" a number, of the others a line's values."""
        columns: dict[str, tuple[int, ...]] = {"products": ()}
        for end in ENDS:
            columns |= {end: (self.length,), f"{end}_stderr": (self.length,), f"{end}_residual": (self.length,)}
        return columns

    def point(
        self, theta: Tensor, place: int, start: Tensor | None, group: Communicator
    ) -> tuple[dict[str, float], Tensor, int]:
        """({column: value}, the two eigenvectors (2, size), products) at the point of that number in the grid."""
        objective = self.matrix.sample.objective
        buffers = self.statistics.at(objective, theta)
        with self.matrix.moved(theta, buffers).bind(group) as H:
            found = eigenpairs(
                H,
                1,
                smallest=1,
                tol=self.asked.tol,
                start=start,
                seed=derive_seed(self.asked.seed, "map", place // self.length),
                max_products=self.asked.max_products,
            )
            vectors = torch.cat([found.largest.vectors, found.smallest.vectors])
            parts = H.by_chunk(vectors, found.further.vectors)
            products, dtype = H.products, H.dtype
        known = np.concatenate([found.largest.values, found.smallest.values, found.further.values])
        point: dict[str, float] = {}
        for i, (end, pairs) in enumerate(zip(ENDS, (found.largest, found.smallest), strict=True)):
            columns = pair_row(
                known, pairs.vectors, parts, i, self.asked.tol, 1, "", dtype=dtype, rounding=np.full(2, np.nan)
            )
            point[end] = float(columns["values"][0])
            point[f"{end}_stderr"] = float(columns["stderr"][0])
            point[f"{end}_residual"] = float(columns["residuals"][0])
        return point, vectors, products
