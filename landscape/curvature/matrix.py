"""Which matrix is meant."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from landscape.curvature.check import ProductCheck, check_products
from landscape.curvature.operator import CurvatureOperator, product_chunk, require_finite, require_operator
from landscape.curvature.sampling import Sample, draw, whole
from landscape.errors import InputError
from landscape.objective.objective import Objective
from landscape.objective.parameters import select_blocks
from landscape.objective.trees import digest
from landscape.run.comm import SERIAL, Communicator, world

logger = logging.getLogger(__name__)
_TRIED = 2  # samples on which a model is seen to run in float64


@dataclass(frozen=True)
class Matrix:
    """Which matrix is meant: of what loss, which part, at which point, and how its products are computed."""

    sample: Sample
    operator: str
    params: tuple[str, ...] | None
    weight_decay: float
    theta: Tensor
    buffers: Mapping[str, Tensor] | None
    check: ProductCheck

    def bind(
        self,
        group: Communicator,
        params: Sequence[str] | None = None,
        sample: Sample | None = None,
        chunk: int | None = None,
    ) -> CurvatureOperator:
        """A `CurvatureOperator`, to be used with `with`."""
        sample = sample or self.sample
        return CurvatureOperator(
            sample.objective,
            operator=self.operator,
            params=params or self.params,
            theta=self.theta,
            buffers=self.buffers,
            weight_decay=self.weight_decay,
            weights=sample.weights,
            total=sample.total,
            group=group,
            check=self.check,
            chunk=chunk,
        )

    @property
    def sizes(self) -> dict[str, int]:
        """{parameter name: number of values} of the rows, in order."""
        return {block.name: block.size for block in select_blocks(self.sample.objective, self.params)}

    @property
    def size(self) -> int:
        """Number of rows."""
        return sum(self.sizes.values())

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters whose values are the rows, in order."""
        return tuple(self.sizes)

    def identity(self) -> dict[str, Any]:
        """What its entries depend on."""
        weights = self.sample.weights
        return {
            "objective": self.sample.objective.identity(),
            "operator": self.operator,
            "params": list(self.params) if self.params is not None else None,
            "weight_decay": self.weight_decay,
            "theta": digest(self.theta),
            "buffers": digest(*(self.buffers or {}).values()),
            "weights": "" if weights is None else digest(weights),
        }

    def about(self) -> dict[str, Any]:
        """How products are computed, and what the rows are."""
        parts = [name for name in self.names if name in self.sample.objective.complex_names]
        return {
            **({"complex": parts} if parts else {}),  # rows are their real and imaginary parts in turn
            "device": str(self.sample.objective.device),
            "check": asdict(self.check),
            "size": self.size,
            "tensors": {b.name: list(b.shape) for b in select_blocks(self.sample.objective, self.params)},
        }

    def moved(self, theta: Tensor, buffers: Mapping[str, Tensor] | None) -> Matrix:
        """The same at other parameters."""
        return replace(self, theta=theta, buffers=buffers)

    def on_few(self, count: int) -> Matrix:
        """The same matrix of the first `count` samples, all of which count alike."""
        objective = self.sample.objective
        return replace(self, sample=Sample(objective.on(objective.data.head(count)), None, None))

    def of_samples(self, rows: Sequence[int], chunk: int | None = None) -> Matrix:
        """The same matrix of some samples, all of which count alike."""
        objective = self.sample.objective
        return replace(self, sample=Sample(objective.on(objective.data.taken(rows), chunk=chunk), None, None))

    def on_chunks(self, numbers: Sequence[int]) -> Matrix:
        """The same matrix of some chunks of its products, whose samples all count alike."""
        objective = self.sample.objective
        data, size = objective.data, product_chunk(objective)
        if data.divisible:
            rows = [row for c in sorted(numbers) for row in range(c * size, min((c + 1) * size, data.samples))]
            return self.of_samples(rows, size)
        return replace(self, sample=Sample(objective.on(data.some(numbers, data.digest)), None, None))

    def double(self) -> Matrix | None:
        """The same in float64, at the same point; itself where it is, None where the model does not run in float64."""
        objective = self.sample.objective
        if objective.precision == "float64":
            return self
        try:
            with self.on_few(_TRIED).in_double().bind(SERIAL) as H:
                H.apply(torch.ones((1, H.size), dtype=torch.float64, device=H.device))
            return self.in_double()
        except Exception as error:  # whatever a user's model raises; the caller says what it does without
            logger.info("the model does not run in float64: %s: %s", type(error).__name__, error)
            return None

    def in_double(self) -> Matrix:
        """The same in float64, whether or not the model runs in it."""
        objective = self.sample.objective
        sample = replace(self.sample, objective=objective.on(objective.data, precision="float64"))
        buffers = self.buffers and {
            name: b.double() if b.is_floating_point() else b for name, b in self.buffers.items()
        }
        return replace(self, sample=sample, theta=self.theta.double(), buffers=buffers)

    def as_gauss_newton(self, check: ProductCheck) -> Matrix:
        """The Gauss-Newton matrix of the same loss, weight decay included: H - G is without."""
        return replace(self, operator="ggn", check=check)


def matrix_of(
    objective: Objective,
    *,
    params: str | Sequence[str] | None,
    operator: str,
    weight_decay: float,
    seed: int,
    theta: Any = None,
    buffers: Mapping[str, Tensor] | None = None,
    samples: int | None = None,
    sampling: str = "uniform",
) -> tuple[Matrix, Sample | None]:
    """The matrix that is meant, its products seen to be right, and an independent sample where it is of a sample."""
    require_operator(objective, operator, weight_decay)
    if objective.precision == "bf16":
        logger.info("products are computed in float32: half precision has no digits for second derivatives")
        objective = objective.on(objective.data, precision="float32")
    point = objective.theta if theta is None else objective.vector(theta)
    require_finite(point)
    sample, independent = whole(objective), None
    if samples is not None:
        sample, independent = draw(objective, samples, sampling, seed, theta=point, buffers=buffers)
    elif sampling != "uniform":
        raise InputError(f"sampling={sampling!r} needs samples=, the number of samples to draw")
    blocks = select_blocks(objective, params)
    parts = [block.name for block in blocks if block.name in objective.complex_names]
    if parts:
        logger.info("the matrix is in the real and imaginary parts of complex parameters: %s", ", ".join(parts[:5]))
    chosen = [objective.layout.blocks.index(block) for block in blocks]
    check = world().broadcast(check_products(objective, operator, chosen, point, buffers))
    names = None if params is None else tuple(block.name for block in blocks)
    return Matrix(sample, operator, names, weight_decay, point, buffers, check), independent
