"""What is asked of weight matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from landscape.arguments import Seed
from landscape.network.weights import CONVENTIONS
from landscape.results.settings import OneOf, Settings


@dataclass(frozen=True)
class WeightsSettings(Settings):
    """By which definitions, and how many random matrices each is compared with; see `measure_weights`."""

    convention: Annotated[str, OneOf(CONVENTIONS)] = "matrix"
    shuffles: Annotated[int, Ge(0)] = 20
    roundings: Annotated[int, Ge(0)] = 3
    seed: Seed = 0
