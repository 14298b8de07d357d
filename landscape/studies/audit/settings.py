"""What is asked of an audit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le

from landscape.arguments import Seed
from landscape.errors import InputError
from landscape.results.settings import Accuracy, Names, Settings

_LEAST_DRAWS = 100


@dataclass(frozen=True)
class AuditSettings(Settings):
    """Which measures, which knobs, and when two models do equally well; see `audit_fragility`."""

    measures: Names
    knobs: Names
    complexity: tuple[str, ...] = ()
    within: Annotated[float, Ge(0), Le(1)] = 0.01
    adjusted: bool = False
    rescale: Annotated[float, Gt(0)] = 10.0
    level: Accuracy = 0.95
    draws: Annotated[int, Ge(_LEAST_DRAWS)] = 2000
    seed: Seed = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("measures", "knobs", "complexity"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        for name in ("measures", "knobs"):
            if not getattr(self, name):
                raise InputError(f"{name} is empty; name one or more")
        if self.rescale == 1:
            raise InputError(f"rescale={self.rescale}; give a positive number other than 1")
