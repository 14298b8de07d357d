"""What is asked of a fitted curve."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated

from annotated_types import Ge, Gt, Lt
from landscape_kernels.curves import CURVES

from landscape.results.settings import OneOf
from landscape.studies.curve.fit import DECAYS, OPTIMIZERS, PLACES, FitSettings


@dataclass(frozen=True)
class CurveSettings:
    """The curve's form, and how it is fitted; see `fit_curve`."""

    kind: Annotated[str, OneOf(CURVES)] = "bezier"
    degree: Annotated[int, Ge(2)] = 2
    epochs: Annotated[int, Ge(1)] = 50
    optimizer: Annotated[str, OneOf(tuple(OPTIMIZERS))] = "sgd"
    lr: Annotated[float, Gt(0)] | None = None
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    weight_decay: Annotated[float, Ge(0)] = 0.0
    decay: Annotated[str, OneOf(DECAYS)] = "point"
    places: Annotated[str, OneOf(PLACES)] = "stratified"
    batch_size: Annotated[int, Ge(1)] = 128
    parts: Annotated[int, Ge(1)] = 1
    seed: int = 0

    @property
    def fit(self) -> FitSettings:
        """What of this concerns the training, which checks it."""
        return FitSettings(**{field.name: getattr(self, field.name) for field in fields(FitSettings)})
