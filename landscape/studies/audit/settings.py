"""What is asked of an audit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt

from landscape.errors import InputError
from landscape.results.settings import Accuracy, Names

_LEAST_DRAWS = 100


@dataclass(frozen=True)
class AuditSettings:
    """Which measures, which knobs, and when two models do equally well; see `audit_fragility`."""

    measures: Names
    knobs: Names
    complexity: tuple[str, ...] = ()
    within: Annotated[float, Ge(0)] = 0.01
    adjusted: bool = False
    rescale: Annotated[float, Gt(0)] = 10.0
    level: Accuracy = 0.95
    draws: Annotated[int, Ge(_LEAST_DRAWS)] = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("measures", "knobs", "complexity"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        for name in ("measures", "knobs"):
            if not getattr(self, name):
                raise InputError(f"{name} is empty; name one or more")
        if not self.rescale > 0 or self.rescale == 1:
            raise InputError(f"rescale={self.rescale}; give a positive number other than 1")
        require_statistics(self.within, self.level, self.draws)


def require_statistics(within: float, level: float, draws: int) -> None:
    """Raise InputError for values that cannot be."""
    if not 0 <= within <= 1:
        raise InputError(f"within={within}; it is a difference of test errors, give a fraction from 0 to 1")
    if not 0 < level < 1:
        raise InputError(f"level={level} is not between 0 and 1; 0.95 asks for intervals of 95 %")
    if draws < _LEAST_DRAWS:
        raise InputError(f"draws={draws} are too few for the ends of an interval; give {_LEAST_DRAWS} or more")
