"""What is asked of pairs of models."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated

from annotated_types import Ge

from landscape.arguments import Seed
from landscape.checkpoints.states import ModelPairs
from landscape.network.alignment import METHODS
from landscape.objective.batchnorm import WITHOUT_ENDS
from landscape.results.settings import OneOf
from landscape.studies.curve.fit import FitOptions, FitSettings
from landscape.studies.path.settings import Places


@dataclass(frozen=True)
class ConnectivitySettings(FitOptions):
    """Which pairs, at which places, and how their curves are fitted; see `measure_connectivity`."""

    pairs: ModelPairs = "all"
    t: Places = 25
    batch_size: Annotated[int, Ge(1)] = 128
    align: Annotated[str, OneOf(METHODS)] | None = None
    batchnorm: Annotated[str, OneOf(WITHOUT_ENDS)] | None = None
    seed: Seed = 0

    @property
    def fit(self) -> FitSettings | None:
        """What of this concerns the training, which checks it; None where no curves are fitted."""
        asked = {field.name: getattr(self, field.name) for field in fields(FitOptions)}
        return FitSettings(**asked) if self.epochs else None
