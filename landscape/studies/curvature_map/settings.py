"""What is asked of curvature maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from landscape.arguments import Seed
from landscape.curvature.operator import OPERATORS
from landscape.objective.batchnorm import WITHOUT_ENDS
from landscape.planes.grid import Range
from landscape.results.settings import Accuracy, Names, OneOf, Settings


@dataclass(frozen=True)
class CurvatureMapSettings(Settings):
    """The grid, (start, stop, n) for each axis of the plane, and the curvature; see `measure_curvature_map`."""

    x: Range
    y: Range | None = None
    tol: Accuracy = 1e-2
    max_products: Annotated[int, Ge(2)] = 60
    params: Names | None = None
    operator: Annotated[str, OneOf(OPERATORS)] = "hessian"
    weight_decay: Annotated[float, Ge(0)] = 0.0
    batchnorm: Annotated[str, OneOf(WITHOUT_ENDS)] = "frozen"
    seed: Seed = 0
    error: Accuracy | None = None
