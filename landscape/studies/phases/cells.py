"""Cells of load and temperature, and what a cell's seeds say together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from landscape_kernels.arrays import FloatArray, IntArray

Place = tuple[float, float]  # values of load and temperature
Told = tuple[float, float, float]  # mean over seeds, its error from how seeds differ, its own error


@dataclass(frozen=True)
class Cells:
    """The two axes of a map."""

    load: FloatArray  # (n_load,), ascending
    temperature: FloatArray  # (n_temperature,), ascending

    @classmethod
    def of(cls, places: Iterable[Place]) -> Cells:
        """The axes on which all places lie."""
        load, temperature = np.array(list(places)).T
        return cls(np.unique(load), np.unique(temperature))

    @property
    def shape(self) -> tuple[int, int]:
        """(n_load, n_temperature)."""
        return len(self.load), len(self.temperature)

    def place(self, at: Place) -> tuple[int, int]:
        """(row, column) of a place on the axes."""
        return int(np.searchsorted(self.load, at[0])), int(np.searchsorted(self.temperature, at[1]))

    def table(self, told: Mapping[Place, Mapping[str, Told]], metric: str, part: int) -> FloatArray:
        """(n_load, n_temperature): one `part` of what is told of a metric; NaN where nothing is."""
        found = np.full(self.shape, np.nan)
        for at, metrics in told.items():
            if metric in metrics:
                found[self.place(at)] = metrics[metric][part]
        return found

    def texts(self) -> npt.NDArray[Any]:
        """(n_load, n_temperature) of empty texts, of any length once they are written."""
        found = np.empty(self.shape, dtype=object)
        found[:] = ""
        return found


def mean_over_seeds(values: FloatArray, own: FloatArray) -> Told:
    """Mean of values (n,) of n seeds, its standard error s / sqrt(n), and the mean of the values' own errors (n,).

    Seeds are measured on the same samples, so that their own errors do not average out. The error is NaN of one seed.
    """
    if not len(values):
        return math.nan, math.nan, math.nan
    error = float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
    return float(values.mean()), error, float(own.mean())


def mean_over_pairs(values: FloatArray, own: FloatArray, pairs: Sequence[tuple[int, int]] | IntArray) -> Told:
    """Mean of values (p,) of pairs (p, 2) of seeds, its standard error, and the mean of the values' own errors (p,).

    Pairs with a seed in common are not independent: the error is a jackknife over seeds, sqrt((n - 1)/n sum_i
    (m_i - mean m)^2) with m_i the mean over the pairs without seed i (Arvesen, "Jackknifing U-statistics", 1969).
    NaN of fewer than three seeds, and where a seed is in all pairs.
    """
    if not len(values):
        return math.nan, math.nan, math.nan
    ends = np.asarray(pairs)
    seeds = np.unique(ends)
    kept = [values[(ends != seed).all(1)] for seed in seeds]
    error = math.nan
    if len(seeds) > 2 and all(len(part) for part in kept):
        left = np.array([part.mean() for part in kept])
        error = math.sqrt((len(seeds) - 1) / len(seeds) * float(((left - left.mean()) ** 2).sum()))
    return float(values.mean()), error, float(own.mean())


def summed_up(seeds: FloatArray, own: FloatArray) -> FloatArray:
    """sqrt(seeds^2 + own^2); an own error that is not known (NaN) is left out, one over seeds is not."""
    return np.sqrt(seeds**2 + np.nan_to_num(own) ** 2)
