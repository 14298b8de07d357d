"""What is asked of the structure of layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from landscape.arguments import Seed
from landscape.curvature.operator import OPERATORS
from landscape.network.rules.layer import PLACES
from landscape.results.settings import Accuracy, Names, OneOf, Settings


@dataclass(frozen=True)
class LayerStructureSettings(Settings):
    """How many eigenpairs of which layers' blocks, and how their factors are formed; see `measure_layer_structure`."""

    k: Annotated[int, Ge(1)] = 10
    params: Names | None = None
    operator: Annotated[str, OneOf(OPERATORS)] = "hessian"
    places: Annotated[str, OneOf(PLACES)] = "reduce"
    tol: Accuracy = 1e-3
    seed: Seed = 0
    memory_budget: Annotated[int, Ge(1)] = 2 << 30
