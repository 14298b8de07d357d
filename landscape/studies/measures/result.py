"""Measures as frozen results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from landscape_kernels.arrays import BoolArray, FloatArray

from landscape.arguments import checked
from landscape.errors import InputError, nearest
from landscape.results.base import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Arrays = Mapping[str, Mapping[str, FloatArray]]  # quantity -> name of a tensor -> (its shape)


@dataclass(frozen=True, repr=False)
class Measures(Result):
    """Numbers with their errors over named rows (layers, models, samples, ...), and arrays beside them.

    What a quantity is stands in `words` and `units`. Quantities without an error in `stderr` are exact, as `words` or
    the attribute "error" tells.
    """

    rows: tuple[str, ...]  # R names
    row_kind: str  # what a row is: "layer", "model", "sample", ...
    values: Mapping[str, FloatArray]  # quantity -> (R,)
    stderr: Mapping[str, FloatArray]  # quantity -> (R,), of those that have one; NaN where it is not known
    words: Mapping[str, str]  # quantity, of `arrays` too -> its definition
    computed: BoolArray  # (R,), False where values are NaN because they were not computed
    units: Mapping[str, str] = field(default_factory=dict)  # quantity -> its unit; "1" where none is given
    groups: tuple[str, ...] = ()  # (R,) group of each row, or nothing
    arrays: Arrays = field(default_factory=dict)  # values for each entry of named tensors
    keys: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)  # what the rows are told by: key -> (R,)
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        arrays = f", {', '.join(self.arrays)} of tensors" if self.arrays else ""
        return (
            f"Measures({', '.join(self.values)} of {len(self.rows)} rows, each a {self.row_kind}, "
            f"{int(self.computed.sum())} computed{arrays})"
        )

    @property
    def complete(self) -> bool:
        """Whether every row was computed."""
        return bool(self.computed.all())

    @checked()
    def plot(self, kind: str = "bars", **options: Any) -> Figure:
        """Bars of each quantity, a "heat_map" of rows and quantities, or a "scatter" of one against another.

        See `plot_measures`.
        """
        return self._drawn(kind, **options)

    @checked()
    def chosen(self, quantities: str | Sequence[str] | None) -> tuple[str, ...]:
        """The quantities that are meant; None means all. Raises InputError for one that is not there."""
        asked = list(self.values) if quantities is None else [quantities] if isinstance(quantities, str) else quantities
        for name in asked:
            if name not in self.values:
                raise InputError(f"no quantity {name!r} is here; {nearest(name, self.values)}")
        return tuple(asked)

    @checked()
    def errors(self, quantity: str) -> FloatArray:
        """(R,) standard errors of a quantity, NaN where it has none."""
        return self.stderr.get(quantity, np.full(len(self.rows), np.nan))

    @checked()
    def label(self, quantity: str) -> str:
        """A quantity with its unit, for an axis."""
        unit = self.units.get(quantity, "1")
        return quantity.replace("_", " ") + (f" ({unit})" if unit != "1" else "")


def log_scaled(values: FloatArray) -> bool:
    """Whether finite values are all positive and span over two decades."""
    return bool(values.size and values.min() > 0 and values.max() > 100 * values.min())


def shades(values: FloatArray, computed: BoolArray) -> FloatArray:
    """(R,) from 0 at the lowest to 1 at the highest finite value, by logarithms where `log_scaled`; else NaN.

    >>> shades(np.array([1.0, 10.0, 1000.0, np.nan]), np.ones(4, dtype=bool)).round(3).tolist()
    [0.0, 0.333, 1.0, nan]
    """
    known = computed & np.isfinite(values)
    found = np.full(values.shape, np.nan)
    if known.any():
        shown = np.log(values[known]) if log_scaled(values[known]) else values[known] / 2  # of the widest ranges halves
        low, high = shown.min(), shown.max()
        found[known] = (shown - low) / (high - low) if high > low else 0.5
    return found


def largest_rows(measures: Measures, quantity: str, most: int) -> list[int]:
    """Numbers of the rows that a picture of `most` shows, in order: those whose value is largest in size."""
    if len(measures.rows) <= most:
        return list(range(len(measures.rows)))
    sizes = np.where(measures.computed, np.abs(measures.values[quantity]), np.nan)
    order = np.argsort(-np.nan_to_num(sizes, nan=-1.0, posinf=np.inf), kind="stable")
    return sorted(order[:most].tolist())
