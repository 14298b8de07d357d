"""Agreement as frozen results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from landscape_kernels.arrays import FloatArray

from landscape.errors import InputError, nearest

if TYPE_CHECKING:
    import pandas
    import xarray
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class Agreement:
    """How alike the models of each pair are on the data.

    Measures are "cka", "cka_unbiased", the same of each named module ("cka:layer3"), "l2" and, for models that tell
    classes apart, "disagreement" and "jensen_shannon".
    """

    labels: tuple[str, ...]  # N names of models
    pairs: npt.NDArray[np.int64]  # (P, 2), numbers of the models of each pair
    values: Mapping[str, FloatArray]  # measure -> (P,)
    stderr: Mapping[str, FloatArray]  # measure -> (P,), for the population; l2 has none
    samples: int  # behind the values; fewer than `attributes["samples"]` where the run is not finished
    attributes: Mapping[str, Any] = field(default_factory=dict)  # definitions, data, provenance

    def __repr__(self) -> str:
        return (
            f"Agreement({', '.join(self.values)} of {len(self.pairs)} pairs of {len(self.labels)} models on "
            f"{self.samples:,} samples)"
        )

    def _repr_html_(self) -> str:
        from landscape.results.html import result_html

        return result_html(self)

    @property
    def complete(self) -> bool:
        """Whether the values are of all of the data."""
        return self.samples == int(self.attributes.get("samples", self.samples))

    def matrix(self, measure: str = "cka") -> FloatArray:
        """The measure as a symmetric matrix, (N, N), NaN where no pair was measured and so on the diagonal.

        Raises InputError for a measure that is not there.
        """
        if measure not in self.values:
            raise InputError(f"no measure {measure!r} is here; {nearest(measure, self.values)}")
        result = np.full((len(self.labels), len(self.labels)), np.nan)
        i, j = self.pairs.T
        result[i, j] = result[j, i] = self.values[measure]
        return result

    def to_xarray(self) -> xarray.Dataset:
        """One variable over `pair` (and `feature`) for each measure and its `_stderr`, and the models of each pair."""
        from landscape.studies.agreement.schema import agreement_to_xarray

        return agreement_to_xarray(self)

    def to_pandas(self) -> pandas.DataFrame:
        """A row for each pair: names of the two models, each measure and its `_stderr`."""
        from landscape.studies.agreement.tables import agreement_frame

        return agreement_frame(self)

    def plot(self, measure: str = "cka") -> Figure:
        """A heat map of one measure; see `landscape.studies.agreement.pictures.plot_agreement`."""
        from landscape.studies.agreement.pictures import plot_agreement

        return plot_agreement(self, measure)

    def save(self, path: str | Path) -> Path:
        """Write the result as one HDF5 file (netCDF-4), atomically; returns the path."""
        from landscape.studies.agreement.schema import write_agreement

        return write_agreement(path, self)
