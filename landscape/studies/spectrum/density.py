"""Spectral density of a curvature matrix as a Task: Gauss quadratures of random probes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from landscape_kernels.arrays import FloatArray
from landscape_kernels.krylov import lanczos_quadratures
from landscape_kernels.operators import DeflatedOperator, complement
from landscape_kernels.probes import rademacher_vector
from landscape_kernels.quadrature import density
from torch import Tensor

from landscape.curvature.matrix import Matrix
from landscape.curvature.operator import CurvatureOperator
from landscape.curvature.rounding import image_rounding
from landscape.curvature.small import unit_products
from landscape.errors import InputError
from landscape.objective.trees import digest
from landscape.run.comm import Communicator
from landscape.run.task import Description, Row, Rows
from landscape.studies.spectrum.result import Density

_POINTS = 2048
_WIDTH = 0.003  # of the range of all nodes
_SIGNS = 2  # random vectors that rounding is measured with
_SHARE = 0.03  # of all products that this may cost beyond their own


def check_density(probes: int, steps: int) -> None:
    """Raise InputError for numbers of probes or steps below 1."""
    for name, value in (("density_probes", probes), ("density_steps", steps)):
        if value < 1:
            raise InputError(f"{name}={value}; give 1 or more")


class DensityTask:
    """Items: probes, each one a quadrature of `steps` nodes on the complement of the eigenvectors taken out."""

    headline = "products"

    def __init__(
        self,
        matrix: Matrix,
        *,
        probes: int,
        steps: int,
        seed: int,
        deflate: Tensor | None,
        whole: bool = False,
        values: FloatArray | None = None,
        begun: Description | None = None,
    ) -> None:
        """With `whole` there is one item, all eigenvalues: the `values` where they are known.

        `begun` is what the folder of the task was begun with, whose columns are kept to.
        """
        check_density(probes, steps)
        self._matrix, self._seed, self._deflate = matrix, seed, deflate
        self._whole, self._values = whole, values
        self._rounds = begun is None or "rounding" in begun.columns
        self.count = 1 if whole else probes
        self._steps = matrix.size if whole else min(steps, matrix.size)

    def describe(self) -> Description:
        """See `Task`."""
        columns: dict[str, tuple[int, ...]]
        columns = {"nodes": (self._steps,), "weights": (self._steps,), "products": (), "passes": ()}
        if self._rounds:
            columns["rounding"] = ()
        if self._whole:  # neither probes nor what was taken out matter
            return Description("density", columns, {**self._matrix.identity(), "whole": True}, self._matrix.about())
        identity = {**self._matrix.identity(), "steps": self._steps, "seed": self._seed, "probes": self.count}
        identity["deflated"] = "" if self._deflate is None else digest(self._deflate)
        return Description("density", columns, identity, self._matrix.about())

    def evaluate(self, index: int, group: Communicator) -> Row:
        """See `Task`."""
        if self._whole:
            return self._all_values(group)
        nodes, weights = (np.full(self._steps, np.nan) for _ in range(2))
        row: dict[str, Any] = {"nodes": nodes, "weights": weights}
        with self._matrix.bind(group) as H:
            start = rademacher_vector(H.size, self._seed, "density", index).to(self._matrix.theta)[None]
            operator: Any = H
            if self._deflate is not None:
                vectors = self._deflate.to(start)
                operator, start = DeflatedOperator(H, vectors), complement(start, vectors)
            if self._deflate is None or len(self._deflate) < H.size:
                ((found, mass),) = lanczos_quadratures(operator, start, self._steps)
                nodes[: len(found)], weights[: len(mass)] = found, mass
            if self._rounds:
                row["rounding"] = self._rounding(H) if index == 0 else np.nan
            return row | {"products": H.products, "passes": H.passes}

    def _rounding(self, H: CurvatureOperator) -> float:
        signs = [rademacher_vector(H.size, self._seed, "rounding", n) for n in range(_SIGNS)]
        vectors = torch.stack(signs).to(self._matrix.theta)
        return image_rounding(self._matrix, H, vectors, _SHARE * self.count * self._steps)

    def _all_values(self, group: Communicator) -> Row:
        products = passes = 0
        exact = self._matrix.double()
        if self._values is None:
            with (exact or self._matrix).bind(group) as H:
                values: FloatArray = np.asarray(np.linalg.eigvalsh(unit_products(H).matrix), dtype=np.float64)
                products, passes = H.products, H.passes
        else:
            values = self._values
        weights = np.full(len(values), 1 / len(values))
        row: dict[str, Any] = {"nodes": values, "weights": weights, "products": products, "passes": passes}
        return row | ({"rounding": np.nan if exact is None else 0.0} if self._rounds else {})

    def extend(self, rows: Rows) -> int:
        """See `Task`: one round."""
        return self.count


def density_from_rows(rows: Rows, deflated: FloatArray, size: int, *, whole: bool = False) -> Density:
    """The density in the rows of a density task, the `deflated` eigenvalues put back; of all of them if `whole`."""
    if whole:
        deflated = rows.columns["nodes"][0]
        rows = Rows({**rows.columns, "nodes": np.zeros((1, 0)), "weights": np.zeros((1, 0))}, rows.done)
    nodes, weights = rows.columns["nodes"][rows.done], rows.columns["weights"][rows.done]
    known = [np.isfinite(row) for row in nodes]
    probes = [row[mask] for row, mask in zip(nodes, known, strict=True) if mask.any()]
    masses = [row[mask] for row, mask in zip(weights, known, strict=True) if mask.any()]
    found = density(probes, masses, exact=deflated, size=size, points=_POINTS, width=_WIDTH)
    return Density(
        found.grid,
        found.values,
        found.lower,
        found.upper,
        nodes,
        weights,
        deflated,
        found.width,
        int(rows.columns["products"][rows.done].sum()),
        int(rows.columns["passes"][rows.done].sum()),
        float(rows.columns["rounding"][0]) if "rounding" in rows.columns else float("nan"),
    )
