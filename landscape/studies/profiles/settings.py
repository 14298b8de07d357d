"""What is asked of profiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge
from landscape_kernels.normalise import NORMALIZATIONS

from landscape.objective.batchnorm import WITHOUT_ENDS
from landscape.planes.grid import Range
from landscape.results.settings import Names, OneOf, Settings


@dataclass(frozen=True)
class ProfilesSettings(Settings):
    """How many directions, along which places, and how they are made; see `measure_profiles`."""

    n: Annotated[int, Ge(1)] = 10
    x: Range = (-1.0, 1.0, 51)
    normalize: Annotated[str, OneOf(NORMALIZATIONS)] = "filter"
    ignore: Names = ("bias", "norm")
    seed: int = 0
    batchnorm: Annotated[str, OneOf(WITHOUT_ENDS)] | None = None
