"""Spectra of layers as frozen results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from landscape_kernels.arrays import BoolArray, FloatArray

from landscape.arguments import checked
from landscape.results.base import Result
from landscape.studies.spectrum.result import Trace, completeness

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class LayerSpectra(Result):
    """Eigenvalues and trace of the diagonal block of every layer."""

    layers: tuple[str, ...]  # L module names
    sizes: tuple[int, ...]  # parameters of each
    eigenvalues: FloatArray  # (L, k), NaN beyond a layer's size
    residuals: FloatArray  # (L, k), relative
    stderr: FloatArray  # (L, k), for the population
    converged: BoolArray  # (L, k)
    trace: FloatArray  # (L,), NaN where not asked
    trace_stderr: FloatArray  # (L,), see Trace.layers_stderr
    computed: BoolArray  # (L,), False where the layer was not computed yet
    products: int
    passes: int
    whole_trace: Trace | None = None  # of the whole matrix: the sum of the blocks' traces
    attributes: Mapping[str, Any] = field(default_factory=dict)
    rounding: FloatArray | None = None  # (L, k), what rounding may move a value by, relative
    searched: FloatArray | None = None  # (L,), products of searches for copies; the three as in Spectrum
    missed: FloatArray | None = None  # (L,)
    whole: BoolArray | None = None  # (L,)

    @checked()
    def completeness(self, layer: int) -> str:
        """How the list of eigenvalues of the layer with this number is known to be complete."""
        if self.missed is None or self.searched is None or self.whole is None:
            return completeness(False, 0, float("nan"))
        return completeness(bool(self.whole[layer]), int(self.searched[layer]), float(self.missed[layer]))

    def __repr__(self) -> str:
        return f"LayerSpectra({len(self.layers)} layers, {int(self.computed.sum())} computed)"

    def plot(self, **options: Any) -> Figure:
        """Bars of the largest eigenvalue and the trace of each layer, with their standard errors."""
        return self._drawn(**options)
