"""What is asked of surfaces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt, Le

from landscape.errors import InputError
from landscape.objective.objective import BATCHNORM_MODES
from landscape.planes.grid import Range
from landscape.precise.task import SCALES, SHARE, require_asked
from landscape.results.settings import OneOf, Settings
from landscape.studies.surface.task import MEMORY


@dataclass(frozen=True)
class SurfaceSettings(Settings):
    """The grid, (start, stop, n) for each axis of the plane, BatchNorm, and the error asked; see `measure_surface`."""

    x: Range
    y: Range | None = None
    z: Range | None = None
    batchnorm: Annotated[str, OneOf(BATCHNORM_MODES)] | None = None
    error: Annotated[float, Gt(0)] | None = None
    scale: Annotated[str, OneOf(SCALES)] = "relative"
    share: Annotated[float, Gt(0), Le(1)] = SHARE
    memory: Annotated[str, OneOf(MEMORY)] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.z is not None and self.y is None:
            raise InputError("z is given without y; name the axes in the order x, y, z")
        require_asked(self.error, self.scale, self.share)
