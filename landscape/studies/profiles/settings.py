"""What is asked of profiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le
from landscape_kernels.normalise import NORMALIZATIONS

from landscape.arguments import Seed
from landscape.objective.batchnorm import WITHOUT_ENDS
from landscape.planes.grid import Range
from landscape.precise.task import SCALES, SHARE, require_asked
from landscape.results.settings import Names, OneOf, Settings


@dataclass(frozen=True)
class ProfilesSettings(Settings):
    """How many directions, along which places, how they are made, and the error asked; see `measure_profiles`."""

    n: Annotated[int, Ge(1)] = 10
    x: Range = (-1.0, 1.0, 51)
    normalize: Annotated[str, OneOf(NORMALIZATIONS)] = "filter"
    ignore: Names = ("bias", "norm")
    seed: Seed = 0
    batchnorm: Annotated[str, OneOf(WITHOUT_ENDS)] | None = None
    error: Annotated[float, Gt(0)] | None = None
    scale: Annotated[str, OneOf(SCALES)] = "relative"
    share: Annotated[float, Gt(0), Le(1)] = SHARE

    def __post_init__(self) -> None:
        super().__post_init__()
        require_asked(self.error, self.scale, self.share)
