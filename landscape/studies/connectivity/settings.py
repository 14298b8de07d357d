"""What is asked of pairs of models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Lt
from landscape_kernels.curves import CURVES

from landscape.checkpoints.states import ModelPairs
from landscape.network.alignment import METHODS
from landscape.objective.batchnorm import WITHOUT_ENDS
from landscape.results.settings import OneOf
from landscape.studies.curve.fit import DECAYS, OPTIMIZERS
from landscape.studies.path.settings import Places


@dataclass(frozen=True)
class ConnectivitySettings:
    """Which pairs, at which places, and how their curves are fitted; see `measure_connectivity`."""

    pairs: ModelPairs = "all"
    t: Places = 25
    epochs: Annotated[int, Ge(0)] = 50
    kind: Annotated[str, OneOf(CURVES)] = "bezier"
    degree: Annotated[int, Ge(2)] = 2
    optimizer: Annotated[str, OneOf(tuple(OPTIMIZERS))] = "sgd"
    lr: Annotated[float, Gt(0)] | None = None
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    weight_decay: Annotated[float, Ge(0)] = 0.0
    decay: Annotated[str, OneOf(DECAYS)] = "point"
    batch_size: Annotated[int, Ge(1)] = 128
    parts: Annotated[int, Ge(1)] = 1
    align: Annotated[str, OneOf(METHODS)] | None = None
    batchnorm: Annotated[str, OneOf(WITHOUT_ENDS)] | None = None
    seed: int = 0
