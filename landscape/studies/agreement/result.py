"""Agreement as frozen results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from landscape_kernels.arrays import FloatArray

from landscape.errors import InputError, nearest
from landscape.results.base import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class Agreement(Result):
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

    def plot(self, measure: str = "cka") -> Figure:
        """A heat map of one measure; see `plot_agreement`."""
        return self._drawn(measure)
