"""What is asked of spectra of layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from landscape.arguments import Seed
from landscape.curvature.operator import OPERATORS
from landscape.errors import InputError
from landscape.results.settings import Accuracy, Names, OneOf, Settings
from landscape.studies.spectrum.settings import TraceWay
from landscape.studies.spectrum.ways import FEWEST_PROBES


@dataclass(frozen=True)
class LayerSpectraSettings(Settings):
    """Eigenvalues and trace of every layer's diagonal block, and how exact; see `measure_layer_spectra`."""

    k: Annotated[int, Ge(1)] = 1
    tol: Accuracy = 1e-3
    trace: TraceWay = True
    params: Names | None = None
    operator: Annotated[str, OneOf(OPERATORS)] = "hessian"
    weight_decay: Annotated[float, Ge(0)] = 0.0
    trace_tol: Accuracy = 0.02
    seed: Seed = 0
    trace_probes: Annotated[int, Ge(FEWEST_PROBES)] = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.trace == "deflated":
            raise InputError("trace = 'deflated' takes out eigenpairs of the whole matrix, and [layers] computes none")
