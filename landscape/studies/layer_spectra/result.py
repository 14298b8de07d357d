"""Spectra of layers as frozen results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from landscape_kernels.arrays import BoolArray, FloatArray

from landscape.studies.spectrum.result import Trace

if TYPE_CHECKING:
    import pandas
    import xarray
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class LayerSpectra:
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

    def __repr__(self) -> str:
        return f"LayerSpectra({len(self.layers)} layers, {int(self.computed.sum())} computed)"

    def _repr_html_(self) -> str:
        from landscape.results.html import result_html

        return result_html(self)

    def to_xarray(self) -> xarray.Dataset:
        """The table as an xarray Dataset over the dimensions layer and rank."""
        from landscape.studies.layer_spectra.schema import layers_to_xarray

        return layers_to_xarray(self)

    def to_pandas(self) -> pandas.DataFrame:
        """A row for each layer: size, eigenvalues by index from 0 with errors and residuals, trace, `computed`."""
        from landscape.studies.layer_spectra.tables import layers_frame

        return layers_frame(self)

    def plot(self, **options: Any) -> Figure:
        """Bars of the largest eigenvalue and the trace of each layer, with their standard errors."""
        from landscape.studies.layer_spectra.pictures import plot_layers

        return plot_layers(self, **options)

    def save(self, path: str | Path) -> Path:
        """Write the table as one HDF5 file (netCDF-4), atomically; returns the path."""
        from landscape.studies.layer_spectra.schema import write_layers

        return write_layers(path, self)
