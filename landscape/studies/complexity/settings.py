"""What is asked of the measures of a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from landscape.arguments import Seed
from landscape.results.settings import Accuracy, Names, OneOf, Settings

PARITIES = ("jiang",)


@dataclass(frozen=True)
class ComplexitySettings(Settings):
    """Which measures, by whose definitions, and how exact those by random draws; see `measure_complexity`."""

    measures: Names = ("all",)
    parity: Annotated[str, OneOf(PARITIES)] | None = None
    tol: Accuracy = 0.05
    seed: Seed = 0
