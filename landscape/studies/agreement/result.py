"""Agreement as frozen results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from landscape_kernels.arrays import FloatArray, IntArray

from landscape.arguments import checked
from landscape.errors import InputError, nearest
from landscape.results.base import Result
from landscape.results.quantities import Meaning

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEASURES: Mapping[str, Meaning] = {
    "cka": Meaning(
        "linear CKA",
        definition="linear CKA |X'Y|_F^2 / (|X'X|_F |Y'Y|_F) of centred representations X, Y (samples, features)",
    ),
    "cka_unbiased": Meaning(
        "unbiased linear CKA",
        definition="unbiased linear CKA mean HSIC_1(X, Y) / sqrt(mean HSIC_1(X, X) mean HSIC_1(Y, Y)), "
        "over chunks of cka_chunk samples",
    ),
    "disagreement": Meaning(
        "share of predictions that differ", "fraction", "share of predictions with different largest score"
    ),
    "jensen_shannon": Meaning(
        "mean Jensen-Shannon distance of predictions",
        "nat^0.5",
        "mean over predictions of the Jensen-Shannon distance sqrt(JS), JS in nats, at most sqrt(ln 2)",
    ),
    "l2": Meaning("Euclidean distance of the parameters", "parameter units"),
}


@dataclass(frozen=True, repr=False)
class Agreement(Result):
    """How alike the models of each pair are on the data.

    Measures are "cka", "cka_unbiased", the same of each named module ("cka:layer3"), "l2" and, for models that tell
    classes apart, "disagreement" and "jensen_shannon".
    """

    labels: tuple[str, ...]  # N names of models
    pairs: IntArray  # (P, 2), numbers of the models of each pair
    values: Mapping[str, FloatArray]  # measure -> (P,)
    stderr: Mapping[str, FloatArray]  # measure -> (P,), for the population; l2 has none
    samples: int  # behind the values; fewer than `attributes["samples"]` where the run is not finished
    attributes: Mapping[str, Any] = field(default_factory=dict)  # definitions, data, provenance

    def __repr__(self) -> str:
        whole = "" if self.complete else f" of {int(self.attributes['samples']):,}"
        return (
            f"Agreement({', '.join(self.values)} of {len(self.pairs)} pairs of {len(self.labels)} models on "
            f"{self.samples:,}{whole} samples)"
        )

    @property
    def complete(self) -> bool:
        """Whether the values are of all of the data."""
        return self.samples == int(self.attributes.get("samples", self.samples))

    @checked()
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

    @checked()
    def plot(self, measure: str = "cka") -> Figure:
        """A heat map of one measure; see `plot_agreement`."""
        return self._drawn(measure)


def measure_words(agreement: Agreement, measure: str) -> str:
    """What a measure is and of what, for headings."""
    name, _, feature = measure.partition(":")
    if not name.startswith("cka"):
        return MEASURES[name].words
    return f"{MEASURES[name].words} of {f'module {feature}' if feature else agreement.attributes.get('of', 'outputs')}"
