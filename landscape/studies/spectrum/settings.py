"""What is asked of spectra."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Ge

from landscape.arguments import Seed
from landscape.curvature.operator import OPERATORS
from landscape.curvature.sampling import SAMPLINGS
from landscape.errors import InputError, nearest
from landscape.results.settings import Accuracy, Names, OneOf, Settings
from landscape.studies.spectrum.ways import FEWEST_PROBES, METHODS

MEMORY = ("streamed", "flat")
VECTORS = ("float32", "bf16")


class _Way:
    """True, False, or a way to the trace."""

    def check(self, name: str, value: Any) -> Any:
        """The value. Raises InputError for another."""
        if not isinstance(value, bool) and value not in METHODS:
            raise InputError(f"not true, false or a way to the trace; {nearest(str(value), METHODS)}")
        return value


TraceWay = Annotated[bool | str, _Way()]


@dataclass(frozen=True)
class SpectrumSettings(Settings):
    """Eigenpairs, trace and density of which matrix, and how exact; see `measure_spectrum`."""

    k: Annotated[int, Ge(0)] = 10
    tol: Accuracy = 1e-3
    trace: TraceWay = True
    density: bool = True
    params: Names | None = None
    operator: Annotated[str, OneOf(OPERATORS)] = "hessian"
    smallest: Annotated[int, Ge(0)] = 0
    weight_decay: Annotated[float, Ge(0)] = 0.0
    samples: Annotated[int, Ge(2)] | None = None
    sampling: Annotated[str, OneOf(SAMPLINGS)] = "uniform"
    trace_tol: Accuracy = 0.02
    density_probes: Annotated[int, Ge(1)] = 4
    density_steps: Annotated[int, Ge(1)] = 32
    trace_probes: Annotated[int, Ge(FEWEST_PROBES)] = 64
    block: Annotated[int, Ge(1)] | None = None
    max_products: Annotated[int, Ge(1)] | None = None
    seed: Seed = 0
    error: Accuracy | None = None
    memory: Annotated[str, OneOf(MEMORY)] | None = None
    vectors: Annotated[str, OneOf(VECTORS)] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.k or self.smallest or self.trace or self.density):
            raise InputError("k = 0, smallest = 0, trace = false and density = false: nothing is asked for")
        if self.samples is None and self.sampling != "uniform":
            raise InputError(f"sampling = {self.sampling!r} needs samples, the number of samples to draw")
        if self.trace == "deflated" and not self.k:
            raise InputError("trace = 'deflated' takes out the largest eigenpairs, and k = 0 asks for none")
        if self.error is not None:
            self._check_error(self.error)

    def _check_error(self, error: float) -> None:
        for name in ("smallest", "samples", "block", "max_products"):
            if getattr(self, name):
                raise InputError(
                    f"error = {error:g} and {name} = {getattr(self, name)}: with error the samples and products "
                    f"are chosen so that the largest eigenvalues reach it; leave out one of the two"
                )
        if self.tol != type(self).tol:
            raise InputError(
                f"error = {error:g} and tol = {self.tol:g}: with error residuals follow from it, and tol is that of a "
                "measurement of all data; leave out one of the two"
            )
        if self.trace not in (True, False, "sampled"):
            raise InputError(
                f"trace = {self.trace!r} passes over all data, and error = {error:g} asks for less; give true, "
                "false or 'sampled', or leave out error"
            )
