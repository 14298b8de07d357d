"""What is asked of paths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Gt, Le

from landscape.errors import InputError
from landscape.objective.objective import BATCHNORM_MODES
from landscape.precise.task import SCALES, SHARE, require_asked
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

    def __post_init__(self) -> None:
        super().__post_init__()
        require_asked(self.error, self.scale, self.share)
        require_tol_or_error(self.tol, self.error)


def require_tol_or_error(tol: float | None, error: float | None) -> None:
    """Raise InputError where both are asked for."""
    if tol is not None and error is not None:
        raise InputError(
            f"tol={tol} and error={error} are both given: tol adds places, which error measures on samples; leave one "
            "out, or give more places t"
        )
