"""What is asked of phases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le

from landscape.arguments import Seed
from landscape.checkpoints.states import ModelPairs
from landscape.errors import InputError
from landscape.results.settings import OneOf, Settings
from landscape.studies.curve.fit import FitSettings
from landscape.studies.phases.result import Thresholds

INPUTS = ("mixup", "data")  # that outputs are compared on


@dataclass(frozen=True)
class PhasesSettings(Settings):
    """The axes of the map, what is measured for it and how well, and the thresholds; see `measure_phases`."""

    load: str
    temperature: str
    pairs: ModelPairs = "all"
    curve_epochs: Annotated[int, Ge(1)] = 50
    curve_lr: Annotated[float, Gt(0)] | None = None
    curve_batch_size: Annotated[int, Ge(1)] = 128
    places: Annotated[int, Ge(3)] = 5
    hessian_samples: Annotated[int, Ge(2)] = 200
    cka_samples: Annotated[int, Ge(32)] = 768
    cka_inputs: Annotated[str, OneOf(INPUTS)] = "mixup"
    well: bool = True
    bracket_samples: Annotated[int, Ge(2)] = 2000
    curve_tol: Annotated[float, Gt(0)] = 0.01
    seed: Seed = 0
    sharp: Annotated[float, Gt(0)] = 20.0
    connected: float = -1.0
    alike: Annotated[float, Ge(0), Le(1)] = 0.7
    fitted: Annotated[float, Gt(0)] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.load == self.temperature:
            raise InputError(f"load and temperature are both {self.load!r}; name two keys of the models")
        if self.cka_inputs not in INPUTS:
            raise InputError(f"cka_inputs={self.cka_inputs!r} is not one of {', '.join(INPUTS)}")
        for check in (self.fit, self.thresholds):
            assert check is not None

    @property
    def fit(self) -> FitSettings:
        """How curves are fitted."""
        return FitSettings(epochs=self.curve_epochs, lr=self.curve_lr)

    @property
    def thresholds(self) -> Thresholds:
        """Where one phase ends and the next begins."""
        return Thresholds(self.sharp, self.connected, self.alike, self.fitted)
