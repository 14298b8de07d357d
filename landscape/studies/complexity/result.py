"""The measures of a network as a frozen result."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from landscape_kernels.arrays import BoolArray, FloatArray, IntArray

from landscape.arguments import checked
from landscape.errors import InputError, nearest
from landscape.results.base import Result
from landscape.results.estimate import Estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Metrics of weights that are logarithms to base 10, here and in `measure_weights`.
_LOG10 = tuple(f"{of}{name}" for of in ("", "weights_") for name in ("log_norm", "log_spectral_norm", "log_alpha_norm"))


def log_base(measure: str) -> float | None:
    """The base of the logarithm that a measure is by its name: e of log_..., 10 of metrics of weights; None of others.

    >>> log_base("log_prod_of_fro"), log_base("weights_log_norm"), log_base("path_norm")
    (2.718281828459045, 10.0, None)
    """
    return 10.0 if measure in _LOG10 else math.e if measure.startswith("log_") else None


@dataclass(frozen=True, repr=False)
class Complexity(Result):
    """Generalisation measures of one network, each with its error, before and after adjustment."""

    names: tuple[str, ...]  # (R,) of the measures
    value: FloatArray  # (R,) NaN where the measure is skipped or not computed
    stderr: FloatArray  # (R,) 0 where the value follows from the weights alone; NaN where it is not known
    adjusted_value: FloatArray  # (R,) NaN for measures without an adjustment
    adjusted_stderr: FloatArray  # (R,)
    n: IntArray  # (R,) of what the error is over
    units: tuple[str, ...]  # (R,) what these are: "sample", "draw", "weight", ...
    passes: FloatArray  # (R,) over the data: 1 a forward pass, 2 more a backward one
    formulas: tuple[str, ...]  # (R,)
    sources: tuple[str, ...]  # (R,)
    reasons: tuple[str, ...]  # (R,) why it is skipped; empty where it is not
    notes: tuple[str, ...]  # (R,) what is to be said of the value
    computed: BoolArray  # (R,)
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        done = int(self.computed.sum())
        return f"Complexity({len(self.names)} measures, {done} computed, {len(self.skipped)} skipped)"

    def __getitem__(self, name: str) -> Estimate:
        """The value of a measure before adjustment. Raises InputError for one that is not here, saying why."""
        row = self._row(name)
        return Estimate(self.value[row], stderr=self.stderr[row], n=int(self.n[row]), unit=self.units[row])

    @property
    def estimates(self) -> Mapping[str, Estimate]:
        """{measure: its value before adjustment}, of those that have one."""
        return {name: self[name] for name in self._there()}

    @property
    def adjusted(self) -> Mapping[str, Estimate]:
        """{measure: its value after adjustment}, of those that have one.

        Of logarithms that is (v - ln m) / 2, of others sqrt(v / m), with m training samples (Jiang et al.).
        """
        rows = {name: self.names.index(name) for name in self._there()}
        return {
            name: Estimate(self.adjusted_value[k], stderr=self.adjusted_stderr[k], n=int(self.n[k]), unit=self.units[k])
            for name, k in rows.items()
            if not np.isnan(self.adjusted_value[k])
        }

    @property
    def skipped(self) -> Mapping[str, str]:
        """{measure: why it has no value}."""
        rows = zip(self.names, self.reasons, self.computed, strict=True)
        return {name: reason for name, reason, done in rows if done and reason}

    @property
    def complete(self) -> bool:
        """Whether every measure was computed, or skipped for a reason."""
        return bool(self.computed.all())

    def log10_sizes(self) -> tuple[FloatArray, FloatArray]:
        """log10 of the size of each value (R,), of a logarithm that of what it is of, and the errors (R,)."""
        bases = [log_base(name) for name in self.names]
        scale = np.array([math.log10(base or 10.0) for base in bases])
        with np.errstate(divide="ignore", invalid="ignore"):
            logs, errors = np.log10(np.abs(self.value)), self.stderr / np.abs(self.value) / math.log(10)
        is_log = np.array([base is not None for base in bases], dtype=bool)
        return np.where(is_log, self.value * scale, logs), np.where(is_log, self.stderr * scale, errors)

    @checked()
    def plot(self, kind: str = "bars") -> Figure:
        """Bars of the values, on a logarithmic scale where they allow one; see `plot_complexity`."""
        return self._drawn(kind)

    def _there(self) -> list[str]:
        return [
            n for n, reason, done in zip(self.names, self.reasons, self.computed, strict=True) if done and not reason
        ]

    def _row(self, name: str) -> int:
        if name not in self.names:
            raise InputError(f"no measure {name!r} is here; {nearest(name, self.names)}")
        row = self.names.index(name)
        if not self.computed[row]:
            raise InputError(f"measure {name!r} is not computed yet; the same call goes on")
        if self.reasons[row]:
            raise InputError(f"measure {name!r} was skipped: {self.reasons[row]}")
        return row
