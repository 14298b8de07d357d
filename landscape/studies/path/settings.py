"""What is asked of paths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Gt, Le

from landscape.errors import InputError
from landscape.objective.objective import BATCHNORM_MODES
from landscape.precise.task import SCALES, SHARE
from landscape.results.settings import OneOf, Settings


class _Places:
    """A number of places, or their values in [0, 1]."""

    def check(self, name: str, value: Any) -> Any:
        """The value, several as a tuple. Raises InputError for another."""
        if type(value) is int and value >= 2:
            return value
        listed = value if isinstance(value, (list, tuple)) else ()
        if not listed or not all(type(t) in (int, float) and 0 <= t <= 1 for t in listed):
            raise InputError("not a number of places of at least 2, nor a list of places in [0, 1]")
        return tuple(float(t) for t in listed)


Places = Annotated[int | tuple[float, ...], _Places()]


@dataclass(frozen=True)
class PathSettings(Settings):
    """The places on the curve, BatchNorm there, and how exactly the losses are to be known; see `measure_path`."""

    t: Places = 61
    batchnorm: Annotated[str, OneOf(BATCHNORM_MODES)] | None = None
    tol: Annotated[float, Gt(0)] | None = None
    error: Annotated[float, Gt(0)] | None = None
    scale: Annotated[str, OneOf(SCALES)] = "relative"
    share: Annotated[float, Gt(0), Le(1)] = SHARE
