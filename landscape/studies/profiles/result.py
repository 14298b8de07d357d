"""Profiles as frozen results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from landscape_kernels.arrays import BoolArray, FloatArray

from landscape.arguments import checked
from landscape.errors import InputError, nearest
from landscape.precise.told import errors_as_quantities, precision_words
from landscape.results.base import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure


SHARES = (0.1, 0.5, 0.9)  # of the directions below the values that tables and pictures show


@dataclass(frozen=True, repr=False)
class Profiles(Result):
    """Quantities at theta + x d_k for directions d_0 ... d_(n-1)."""

    x: FloatArray  # (nx,), ascending, in multiples of each direction
    values: Mapping[str, FloatArray]  # quantity -> (n, nx); NaN and Inf are results
    stderr: Mapping[str, FloatArray]  # quantity -> (n, nx); standard error over samples (population)
    computed: BoolArray  # (n, nx); False where no value was computed yet
    attributes: Mapping[str, Any] = field(default_factory=dict)  # directions, data, precision, provenance
    # Of profiles measured to a stated error: quantity -> one standard error of what a full pass gives, (n, nx)
    error: Mapping[str, FloatArray] | None = None
    found: npt.NDArray[np.str_] | None = None  # (n, nx), how each value was found: "anchor", "sampled" or ""
    error_sampling: Mapping[str, FloatArray] | None = None  # the parts of it, the squares of which add up to its square
    error_interpolation: Mapping[str, FloatArray] | None = None  # 0: every point of a line is measured

    def __repr__(self) -> str:
        n, nx = self.computed.shape
        names, done = ", ".join(self.values), int(self.computed.sum())
        asked = f", {words}" if (words := precision_words(self.attributes)) else ""
        return f"Profiles({names} at {nx} points along {n} directions, {done} computed{asked})"

    @property
    def complete(self) -> bool:
        """Whether every point was computed, and to a stated error all rounds."""
        return bool(self.computed.all() and self.attributes.get("finished", True))

    @property
    def mean(self) -> dict[str, FloatArray]:
        """{quantity: (nx,)}: mean over the directions computed, NaN where there is none."""
        return {name: self._over_directions(name, np.mean, 1) for name in self.values}

    @property
    def spread(self) -> dict[str, FloatArray]:
        """{quantity: (nx,)}: standard deviation over the directions computed (n - 1), NaN where they are fewer than 2.

        It is that of one direction drawn at random; the mean's standard error over directions is spread / sqrt(n).
        """
        return {name: self._over_directions(name, lambda values: np.std(values, ddof=1), 2) for name in self.values}

    @checked()
    def quantile(self, quantity: str, share: float) -> FloatArray:
        """The value that a `share` of the directions computed lies below, (nx,); 0.5 is the median.

        Raises InputError for an unknown quantity and a share outside 0 to 1.
        """
        if quantity not in self.values:
            raise InputError(f"the profiles have no quantity {quantity!r}; {nearest(quantity, self.values)}")
        if not 0 <= share <= 1:
            raise InputError(f"share={share} is not between 0 and 1; 0.5 is the median")
        return self._over_directions(quantity, lambda values: _quantile(values, share), 1)

    def with_errors(self) -> Profiles:
        """The profiles with their errors as further quantities, as `loss_error`, to be drawn."""
        errors = errors_as_quantities(self)
        unknown = dict.fromkeys(errors, np.full(self.computed.shape, np.nan))
        return replace(self, values={**self.values, **errors}, stderr={**self.stderr, **unknown})

    @checked()
    def plot(self, quantity: str | None = None, *, levels: str = "auto") -> Figure:
        """A Figure of every direction with median and band; see `plot_profiles`."""
        return self._drawn(quantity or next(iter(self.values)), levels=levels)

    def _over_directions(self, quantity: str, reduce: Callable[[FloatArray], Any], least: int) -> FloatArray:
        found = np.full(self.x.size, np.nan)
        with np.errstate(invalid="ignore", over="ignore"):  # NaN and Inf are results
            for i, (values, computed) in enumerate(zip(self.values[quantity].T, self.computed.T, strict=True)):
                if computed.sum() >= least:
                    found[i] = reduce(values[computed])
        return found


def _quantile(values: FloatArray, share: float) -> float:
    """By linear interpolation; NaN where a value is NaN, and Inf as a value like others."""
    if np.isnan(values).any():
        return float("nan")
    ordered = np.sort(values)
    place = share * (ordered.size - 1)
    low, part = int(place), place - int(place)
    if part == 0 or ordered[low] == ordered[low + 1]:
        return float(ordered[low])
    return float((1 - part) * ordered[low] + part * ordered[low + 1])
