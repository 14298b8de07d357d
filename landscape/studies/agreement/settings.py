"""What is asked of agreement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from landscape.checkpoints.states import ModelPairs
from landscape.objective.batchnorm import WITHOUT_ENDS
from landscape.results.settings import Names, OneOf, Settings

REPRESENTATIONS = ("outputs", "probabilities")


@dataclass(frozen=True)
class AgreementSettings(Settings):
    """Which pairs of models, by which representations, with which BatchNorm; see `measure_agreement`."""

    pairs: ModelPairs = "all"
    of: Annotated[str, OneOf(REPRESENTATIONS)] | None = None
    features: Names | None = None
    batchnorm: Annotated[str, OneOf(WITHOUT_ENDS)] = "frozen"
