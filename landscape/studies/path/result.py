"""What is measured along a curve between models, and the numbers made of it: maxima, mean, connectivity, barrier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from landscape_kernels.arrays import BoolArray, FloatArray
from landscape_kernels.gaps import above_ends
from landscape_kernels.moments import jackknife
from landscape_kernels.rounding import rounding_of

from landscape.arguments import checked
from landscape.errors import InputError, nearest
from landscape.precise.rounds import squared_rises
from landscape.precise.told import FOUND, precision_words
from landscape.results.base import Result
from landscape.results.estimate import Estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure


# How far a second divided difference may be below the largest curvature near it. With 1, the parabola through a place
# and its neighbours would never rise above a place in the middle of a narrow bump.
_SAFETY = 4.0
_NAN = float("nan")
_BELOW = 3.0  # errors below the line between the ends, from which on a barrier of 0 has no error
MC = "1/2 (E(0) + E(1)) - E(t*), t* = argmax_t |E(t) - 1/2 (E(0) + E(1))| over the places t; below 0 is a barrier"
BARRIER = "max_t [L(t) - ((1 - t) L(0) + t L(1))] over the places t; above 0 is a barrier"
MEAN = "1/length int L ds over arc length s, by the trapezoid rule between the places t"
PEAK = (
    "where the loss is highest above the line between the ends: height (the barrier) and t; error, one standard error "
    "of samples that were not looked at; beyond, how far the loss between the places may rise above it; first and last "
    "of the places that may be the highest"
)
DEFINITIONS: Mapping[str, str] = {
    "length": "int_0^1 |gamma'(t)| dt, in parameter units",
    "distance": "|gamma(1) - gamma(0)|, in parameter units",
    "mean": MEAN,
    "maximum": "largest value at the places t, and where; NaN where a value is NaN",
    "maximum_excess": "how far the loss between the places may rise above its maximum there, by second differences",
    "mc": f"{MC} (Yang et al., Taxonomizing local versus global structure, 2021); it depends on the grid of t",
    "barrier": f"{BARRIER} (Entezari et al. 2022; where L(0) = L(1) that of Ainsworth et al., Git Re-Basin, 2023)",
    "rebasin_barrier": "max_t L(t) - 1/2 (L(0) + L(1)) over the places t (Ainsworth et al., Git Re-Basin, 2023)",
    "replicates": "the value without one of the groups into which the samples are dealt at random, each in turn; NaN "
    "for a group without a sample",
    "stderr": "of barrier, mc and mean: sqrt((m - 1)/m sum_g (r_g - mean r)^2) of their m replicates r_g, a jackknife "
    "over groups of the samples, which all places share; of the barrier at the place between the ends where it is "
    "highest (NaN where that lies more than 3 errors below 0), of mc with t* found anew in each; as an estimate "
    "for the population",
    "statistics_stderr": "standard deviation, over 4 disjoint quarters of the statistics data, of the value with "
    "BatchNorm statistics from one quarter, divided by sqrt(4); on a part of the data, NaN where not measured",
}


@dataclass(frozen=True)
class Extremum:
    """A largest or smallest value along a path, and where."""

    value: float
    t: float  # in [0, 1]
    stderr: float  # standard error of the value over samples (population)

    def __float__(self) -> float:
        return self.value


@dataclass(frozen=True)
class Peak:
    """Where the loss is highest above the line between the ends, and what is not known of that; NaN without the ends.

    Of full passes at the places t. `error`^2 is the error of the height there, squared, plus the sum over the others of
    E[max(0, h + e Z)^2], h how far a place is below the highest, e its error (so the barrier is not much lower, where
    `error` is of places that may be higher). `first` and `last` are the ends of the places that may be the highest: at
    most 2 errors below it.
    """

    height: float  # the barrier
    t: float  # in [0, 1]
    error: float  # one standard error, of samples that were not looked at; 0 where all places had full passes
    beyond: float  # how far the loss between the places may rise above it, by second differences; see `upper_bounds`
    first: float  # in [0, t]
    last: float  # in [t, 1]


@dataclass(frozen=True, repr=False)
class Path(Result):
    """Quantities at places t of a curve gamma(t), from one model at t = 0 to another at t = 1.

    Numbers made of several places (`maximum`, `mean`, `mc`, `barrier`) are of those computed so far, and NaN where an
    end that they need is not. All places are measured on the same samples, so such a number is known better than the
    values it is made of: its `stderr` is a jackknife over the `replicates` (see DEFINITIONS), with the number of groups
    as its `n`, and NaN where there are none, as in paths that earlier versions measured.

    Of a path to a stated error `barrier`, `rebasin_barrier` and `mc` are made of the places that had full passes alone,
    and of values that are not finite. They have errors for new samples; what is not known of the barrier is told by
    `peak`. `maximum`, `minimum` and `mean` are of all places and as unsure as `error` says; the mean has no error for
    new samples.
    """

    t: FloatArray  # (n,), ascending from 0 to 1
    values: Mapping[str, FloatArray]  # quantity -> (n,); "test_..." on the test data; NaN and Inf are results
    stderr: Mapping[str, FloatArray]  # quantity -> (n,); standard error over samples (population)
    arc: FloatArray  # (n,), length of the curve from 0 to t, in parameter units
    length: float  # of the curve, in parameter units
    distance: float  # of its ends, in parameter units
    computed: BoolArray  # (n,); False where no value was computed yet
    statistics_stderr: Mapping[str, FloatArray] = field(default_factory=dict)  # quantity -> (n,); see DEFINITIONS
    attributes: Mapping[str, Any] = field(default_factory=dict)  # curve, BatchNorm, data, provenance
    replicates: Mapping[str, FloatArray] = field(default_factory=dict)  # quantity -> (n, groups); see DEFINITIONS
    # Of paths measured to a stated error: quantity -> one standard error of what a full pass gives, (n,)
    error: Mapping[str, FloatArray] | None = None
    found: npt.NDArray[np.str_] | None = None  # (n,), how each value was found: "anchor", "sampled" or ""
    error_sampling: Mapping[str, FloatArray] | None = None  # the parts of it, the squares of which add up to its square
    error_interpolation: Mapping[str, FloatArray] | None = None  # 0: every place is measured

    def __repr__(self) -> str:
        about = f"Path({', '.join(self.values)} at {len(self.t)} places, {int(self.computed.sum())} computed"
        asked = f", {words}" if (words := precision_words(self.attributes)) else ""
        return f"{about}, barrier={self.barrier:.4g}, mc={self.mc:.4g}{asked})"

    @property
    def complete(self) -> bool:
        """Whether every place was computed, and to a stated error all rounds."""
        return bool(self.computed.all() and self.attributes.get("finished", True))

    @property
    def maximum(self) -> dict[str, Extremum]:
        """{quantity: its largest value and where}."""
        return {name: self._extremum(name, np.argmax) for name in self.values}

    @property
    def minimum(self) -> dict[str, Extremum]:
        """{quantity: its smallest value and where}."""
        return {name: self._extremum(name, np.argmin) for name in self.values}

    @property
    def mean(self) -> dict[str, Estimate]:
        """{quantity: mean over arc length}: 1/length int L ds by the trapezoid rule between the places."""
        arc = self.arc[self.computed]
        found: dict[str, Estimate] = {}
        for name in self.values:
            of_groups = np.array([arc_mean(arc, values) for values in self._replicates(name).T])
            found[name] = _estimate(arc_mean(arc, self._known(name)), of_groups)
        return found

    @property
    def mc(self) -> Estimate:
        """Mode connectivity of the error in per cent where it (or accuracy) was measured, else of the loss.

        See `mode_connectivity`; the unit of the taxonomy paper is the training error in per cent.
        """
        for name, factor in (("error", 100.0), ("accuracy", -100.0)):
            if name in self.values:
                mc = self.mc_of(name)
                return Estimate(factor * mc, stderr=abs(factor) * mc.stderr, n=mc.n, unit=mc.unit)
        return self.mc_of("loss")

    @property
    def mc_quantity(self) -> str:
        """What `mc` is of."""
        return "error in per cent" if {"error", "accuracy"} & self.values.keys() else "loss"

    @property
    def mc_rounding(self) -> float:
        """What is surely rounding in `mc`."""
        for name in ("error", "accuracy"):
            if name in self.values:
                return 100 * self.rounding_of(name)
        return self.rounding_of("loss")

    @checked()
    def mc_of(self, quantity: str) -> Estimate:
        """Mode connectivity of one quantity, in its own unit; see `mode_connectivity`.

        t* is found anew in each replicate, so that the error is large where two places are about as far from the ends.
        """
        places = self._telling(quantity)
        values = self._known(quantity, places)
        if not self._has_ends:
            return _UNKNOWN
        return _estimate(mode_connectivity(values), mode_connectivities(self._replicates(quantity, places)))

    @property
    def barrier(self) -> Estimate:
        """Barrier of the loss; see `barrier`."""
        return self.barrier_of("loss")

    @checked()
    def barrier_of(self, quantity: str) -> Estimate:
        """Barrier of one quantity; see `barrier`.

        Its error is that of the height at the highest place between the ends, also where that height is below 0, by up
        to 3 of its errors or by rounding: how far above 0 the barrier may be. Where it lies further below, the barrier
        is 0 whatever the samples and the error NaN, as it is where there is no place between the ends.
        """
        places = self._telling(quantity)
        values, t = self._known(quantity, places), self.t[places]
        if not self._has_ends:
            return _UNKNOWN
        of_groups = np.zeros(0)
        if len(t) > 2:
            top = 1 + int(np.argmax(above_ends(t, values)[1:-1]))
            of_groups = above_ends(t, self._replicates(quantity, places))[top]
            height = above_ends(t, values)[top]
            limit = max(_BELOW * jackknife(of_groups)[0], self.rounding_of(quantity))
            if height < -limit:
                of_groups = np.full(len(of_groups), np.nan)
        return _estimate(barrier(t, values), of_groups)

    @property
    def peak(self) -> Peak:
        """Where the loss is highest above the line between the ends, and what is not known of that; see `Peak`."""
        t, values = self.t[self.computed], self._known("loss")
        if not self._has_ends or not np.isfinite(values).all():
            height = barrier(t, values) if self._has_ends else _NAN
            return Peak(height, _NAN, _NAN, _NAN, _NAN, _NAN)
        error = np.zeros(len(t)) if self.error is None else self.error["loss"][self.computed]
        heights = above_ends(t, values)
        top = int(np.argmax(heights))
        others = np.delete(np.arange(len(t)), top)
        rises = squared_rises(heights[others] - heights[top], np.hypot(error[others], error[top]))
        reach = t[heights + 2 * (error + error[top]) >= heights[top]]
        return Peak(
            float(heights[top]),
            float(t[top]),
            float(np.sqrt(error[top] ** 2 + rises.sum())),
            maximum_excess(t, heights),
            float(reach[0]),
            float(reach[-1]),
        )

    @property
    def rebasin_barrier(self) -> Estimate:
        """max_t L(t) - 1/2 (L(0) + L(1)) of the loss, as Git Re-Basin defines it; above 0 is a barrier."""
        if not self._has_ends:
            return _UNKNOWN
        places = self._telling("loss")
        values, of_groups = self._known("loss", places), self._replicates("loss", places)
        with np.errstate(invalid="ignore"):
            height = values.max() - (values[0] + values[-1]) / 2
            return _estimate(height, of_groups[np.argmax(values)] - (of_groups[0] + of_groups[-1]) / 2)

    @property
    def maximum_excess(self) -> float:
        """How far the largest loss between the places may be above that at the places; see `upper_bounds`."""
        return maximum_excess(self.t[self.computed], self._known("loss")) if self._has_ends else float("nan")

    @checked()
    def rounding_of(self, quantity: str) -> float:
        """What is surely rounding in differences of its values, barrier and mc: by its largest value and precision."""
        values = self._known(quantity)
        largest = float(np.abs(values[np.isfinite(values)]).max(initial=0.0))
        return rounding_of(largest, str(self.attributes.get("precision", "")))

    def plot(self, **options: Any) -> Figure:
        """A matplotlib Figure of the loss and the error along the curve; see `plot_paths`."""
        return self._drawn(**options)

    @property
    def _has_ends(self) -> bool:
        return len(self.t) > 1 and bool(self._full[0] and self._full[-1])

    @property
    def _full(self) -> BoolArray:
        """(n,), the places that had full passes: all that were computed, but where an error was asked for."""
        return self.computed if self.found is None else self.computed & (self.found == FOUND[0])

    def _telling(self, quantity: str) -> BoolArray:
        """(n,), those places, and others whose value of a quantity is not finite: a full pass holds these samples."""
        values = self.values.get(quantity)  # an unknown one is refused where its values are asked for
        return self._full if values is None else self._full | (self.computed & ~np.isfinite(values))

    def _known(self, quantity: str, places: BoolArray | None = None) -> FloatArray:
        """The values at all places computed, or some of them."""
        if quantity not in self.values:
            raise InputError(f"the path has no quantity {quantity!r}; {nearest(quantity, self.values)}")
        return self.values[quantity][self.computed if places is None else places]

    def _replicates(self, quantity: str, places: BoolArray | None = None) -> FloatArray:
        """(places computed, groups): those of groups that have samples; (places computed, 0) where there are none."""
        places = self.computed if places is None else places
        if quantity not in self.replicates:
            return np.zeros((int(places.sum()), 0))
        found = self.replicates[quantity][places]
        return found[:, ~np.isnan(found).all(0)]

    def _extremum(self, quantity: str, find: Any) -> Extremum:
        values = self._known(quantity)
        if not values.size:
            return Extremum(float("nan"), float("nan"), float("nan"))
        place = int(find(values))  # of a NaN where there is one
        stderr = self.stderr[quantity][self.computed][place]
        return Extremum(float(values[place]), float(self.t[self.computed][place]), float(stderr))


def _estimate(value: float, of_groups: FloatArray) -> Estimate:
    stderr, groups = jackknife(of_groups) if np.isfinite(value) else (float("nan"), len(of_groups))
    return Estimate(value, stderr=stderr, n=groups, unit="group of samples")


_UNKNOWN = Estimate(float("nan"), stderr=float("nan"), n=0, unit="group of samples")


def mode_connectivity(values: FloatArray) -> float:
    """mc = 1/2 (E_0 + E_n) - E_k, k = argmax_k |E_k - 1/2 (E_0 + E_n)|, of values (n + 1,) along a curve.

    Below 0 the curve meets a barrier, above 0 it finds lower values than its ends, near 0 it stays level. It depends on
    the places: a finer grid finds a larger deviation. NaN where a value is NaN.
    Source: Yang et al., "Taxonomizing local versus global structure in neural network loss landscapes", NeurIPS 2021,
    section 2, where E is the training error in per cent at t = 0, 1/4, 1/2, 3/4, 1.

    >>> round(mode_connectivity(np.array([19.720, 25.426, 38.272, 25.050, 19.386])), 3)
    -18.719
    """
    with np.errstate(invalid="ignore"):
        middle = (values[0] + values[-1]) / 2
        return float(middle - values[np.argmax(np.abs(values - middle))])


def mode_connectivities(values: FloatArray) -> FloatArray:
    """`mode_connectivity` of each column of values (n + 1, m): (m,)."""
    with np.errstate(invalid="ignore"):
        middle = (values[0] + values[-1]) / 2
        found = np.take_along_axis(values, np.argmax(np.abs(values - middle), axis=0)[None], axis=0)[0]
        result: FloatArray = middle - found
    return result


def barrier(t: FloatArray, values: FloatArray) -> float:
    """max_k [L_k - ((1 - t_k) L_0 + t_k L_n)] of values (n + 1,) at places t (n + 1,) from 0 to 1; never below 0.

    Source: Entezari et al., "The role of permutation invariance in linear mode connectivity of neural networks", ICLR
    2022, definition 1. Ainsworth et al., "Git Re-Basin", ICLR 2023, subtract 1/2 (L_0 + L_n) instead, taking the ends
    to be about equal; where they are, both agree. NaN where a value is NaN.

    >>> barrier(np.array([0.0, 0.5, 1.0]), np.array([1.0, 4.0, 3.0]))
    2.0
    """
    return float(np.max(above_ends(t, values)))


def arc_mean(arc: FloatArray, values: FloatArray) -> float:
    """Mean of values (n,) over arc length (n,), ascending: the trapezoid rule over the length they span."""
    if len(arc) < 2 or arc[-1] == arc[0]:
        return float("nan")
    return float((values[1:] + values[:-1]) / 2 @ np.diff(arc) / (arc[-1] - arc[0]))


def maximum_excess(t: FloatArray, values: FloatArray) -> float:
    """How far the maximum between places t (n,) may be above the largest of the values (n,) there, at least 0."""
    with np.errstate(invalid="ignore"):
        return float(np.maximum(upper_bounds(t, values).max() - values.max(), 0.0))


def upper_bounds(t: FloatArray, values: FloatArray) -> FloatArray:
    """About how high a smooth function may rise between neighbours of n places t, from its values there: (n - 1,).

    On an interval of width h from a to b with |f''| <= M it is at most the chord + M/2 (t - t_a)(t_b - t), whose
    maximum is (f_a + f_b)/2 + M h^2/8 + (f_b - f_a)^2/(2 M h^2) where that lies inside. M is taken as 4 times the
    largest second divided difference 2 f[t_i, t_j, t_k] of the triples that meet both ends; with two places there is
    none and the bound is infinite. NaN near values that are not finite.
    """
    h, rise = np.diff(t), np.diff(values)
    if len(h) < 2:
        return np.full(len(h), np.inf)
    with np.errstate(invalid="ignore", divide="ignore"):
        second = np.abs(2 * np.diff(rise / h) / (t[2:] - t[:-2]))
        m = _SAFETY * np.maximum(np.r_[second[0], second], np.r_[second, second[-1]]) * h**2
        inside = np.abs(rise) < m / 2
        ends = np.maximum(values[:-1], values[1:])
        return np.where(inside, (values[:-1] + values[1:]) / 2 + m / 8 + rise**2 / (2 * m), ends)


def to_split(t: FloatArray, values: FloatArray, tol: float) -> FloatArray:
    """Middles of the intervals of t (n,) in which a maximum may be more than `tol` above those of the values (n,).

    Maxima of the values themselves and of their height above the line between the ends (the barrier). None where a
    value is NaN or infinite: the maximum is then known.
    """
    if not np.isfinite(values).all():
        return np.empty(0)
    open_ = np.zeros(len(t) - 1, dtype=bool)
    for heights in (values, above_ends(t, values)):
        open_ |= upper_bounds(t, heights) > heights.max() + tol
    middles: FloatArray = (t[:-1] + t[1:])[open_] / 2
    return middles
