"""What is asked of a fitted curve."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated

from annotated_types import Ge

from landscape.arguments import Seed
from landscape.studies.curve.fit import FitSettings


@dataclass(frozen=True)
class CurveSettings(FitSettings):
    """The curve's form, and how it is fitted; see `fit_curve`."""

    batch_size: Annotated[int, Ge(1)] = 128
    seed: Seed = 0

    @property
    def fit(self) -> FitSettings:
        """What of this concerns the training."""
        return FitSettings(**{field.name: getattr(self, field.name) for field in fields(FitSettings)})
