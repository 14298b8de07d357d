"""What is asked of the diagonal of a curvature matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from landscape.arguments import Seed
from landscape.curvature.operator import OPERATORS
from landscape.results.settings import Accuracy, Names, OneOf, Settings

METHODS = ("exact", "products", "probes")
FEWEST_PROBES = 16  # of the first round


@dataclass(frozen=True)
class DiagonalSettings(Settings):
    """The diagonal of which matrix, how, and how exact; see `measure_diagonal`."""

    operator: Annotated[str, OneOf(OPERATORS)] = "hessian"
    params: Names | None = None
    weight_decay: Annotated[float, Ge(0)] = 0.0
    method: Annotated[str, OneOf(METHODS)] | None = None
    tol: Accuracy = 0.05
    max_probes: Annotated[int, Ge(FEWEST_PROBES)] = 64
    seed: Seed = 0
