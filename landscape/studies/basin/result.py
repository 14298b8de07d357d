"""Basins as frozen results."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from landscape_kernels.arrays import BoolArray, FloatArray
from landscape_kernels.volumes import LARGEST_TAIL, Aggregate, aggregate, fewest_effective

from landscape.arguments import checked
from landscape.results.base import Result
from landscape.results.estimate import Estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_SPREAD = 4  # nats: from there on exp(spread^2), 1e7, directions would be needed


class LogVolume(Estimate):
    """ln of a volume, or of a probability, from n directions, in nats; the value is `log_mean_exp`.

    The error and all else is over directions, for the data given. Where `believable` is False the value is likely to
    be too low, and `interval` says only what lies below the volume.
    """

    __slots__ = ("aggregate",)
    aggregate: Aggregate

    @classmethod
    def of(cls, found: Aggregate) -> LogVolume:
        """The estimate in an aggregate."""
        self = cls(found.log_mean_exp, stderr=found.stderr, n=found.count, unit="direction")
        object.__setattr__(self, "aggregate", found)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return LogVolume.of, (self.aggregate,)

    @property
    def log_mean_exp(self) -> float:
        """An estimate of the log volume, biased low where few directions carry it."""
        return self.aggregate.log_mean_exp

    @property
    def mean(self) -> float:
        """The mean of the logarithms: an estimate of a lower bound of the log volume (Jensen)."""
        return self.aggregate.mean

    @property
    def mean_stderr(self) -> float:
        """Its standard error."""
        return self.aggregate.mean_stderr

    @property
    def spread(self) -> float:
        """Standard deviation of the directions' logarithms: what a preconditioner is to make small."""
        return self.aggregate.spread

    @property
    def largest_share(self) -> float:
        """Of one direction in the sum of all."""
        return self.aggregate.largest_share

    @property
    def effective_samples(self) -> float:
        """(sum w)^2 / sum w^2."""
        return self.aggregate.effective_samples

    @property
    def tail(self) -> float:
        """Index of the Pareto tail of the largest contributions; from 1/2 on they have no variance."""
        return self.aggregate.tail

    @property
    def interval(self) -> tuple[float, float]:
        """Holds the log volume 95 times of 100; with no upper end where the estimate is not to be believed."""
        return self.aggregate.low, self.aggregate.high

    @property
    def believable(self) -> bool:
        """Whether effective samples and tail allow the estimate to be believed."""
        return self.aggregate.believable


@dataclass(frozen=True, repr=False)
class Basin(Result):
    """Radii of the basin around a centre along n directions d_i: where the quantity first comes to the cutoff."""

    radii: FloatArray  # (n,), in multiples of d_i; Inf where it never crosses
    lengths: FloatArray  # (n,), |d_i|
    contributions: FloatArray  # (n,), nats: what each direction says of the log volume
    places: FloatArray  # (p,), of the profiles, in multiples of a direction's own radius
    profiles: FloatArray  # (m, p), the quantity there, of the first m directions
    computed: BoolArray  # (n,)
    dimension: int  # of the space that is varied
    centre: float  # the quantity at the centre
    cutoff: float
    of: str  # "loss", "error" or "kl"
    attributes: Mapping[str, Any] = field(default_factory=dict)  # directions, the descent from the centre, provenance

    def __repr__(self) -> str:
        never = f", {self.never} never cross" if self.never else ""
        middle = f", median radius {float(np.median(self.radii[self.computed])):.4g}" if self.computed.any() else ""
        return (
            f"Basin({int(self.computed.sum())} of {len(self.radii)} directions in {self.dimension:,} dimensions to "
            f"{self.of} {self.cutoff:g}{middle}{never})"
        )

    @property
    def complete(self) -> bool:
        """Whether every direction was computed."""
        return bool(self.computed.all())

    @property
    def never(self) -> int:
        """Directions along which the quantity never comes to the cutoff."""
        return int(np.isinf(self.radii[self.computed]).sum())

    @property
    def crossed_before(self) -> int:
        """Directions, of those that have profiles, whose quantity is not below the cutoff inside of their radius."""
        return int((self.profiles[:, self.places < 1] >= self.cutoff).any(1).sum())

    @cached_property
    def _aggregate(self) -> Aggregate:
        found = aggregate(self.contributions[self.computed])
        if not self.crossed_before:
            return found
        return replace(found, believable=False, low=-math.inf, high=math.inf)

    @property
    def log_volume(self) -> LogVolume:
        """ln of the volume of the basin, seen from its centre, with what tells whether it is to be believed.

        With `prior_sigma` that of the probability which N(0, sigma^2 I) gives it; over filter-normalised directions, in
        units in which a direction has length 1, a number to compare networks of one shape by.
        """
        return LogVolume.of(self._aggregate)

    @property
    def distances(self) -> FloatArray:
        """Radii as distances in parameter space, (n,)."""
        return self.radii * self.lengths

    @property
    def believed(self) -> str:
        """Whether the log volume is to be believed, and what would help where it is not."""
        found = self.log_volume
        if found.believable:
            return "to be believed"
        if not self.computed.any():
            return "not known: no direction is computed yet"
        if self.crossed_before:
            looked = int(np.isfinite(self.profiles).any(1).sum())
            return (
                f"not to be believed: along {self.crossed_before} of {looked} directions that were looked at, "
                f"{self.of} comes to the cutoff before the radius that was found; give a cutoff up to which it rises"
            )
        gaussian = self.attributes.get("kind") == "gaussian"
        if self.never and self.attributes.get("prior_sigma") is None:
            return (
                f"not to be believed: {self.never} of {found.n} directions never cross, so the volume has no end; give "
                f"prior_sigma{'' if gaussian else ' with kind=' + repr('gaussian')}, or a cutoff that the quantity "
                "comes to"
            )
        whole = self.attributes.get("whole_prior")
        if whole is not None and abs(float(found) - float(whole)) < 1e-6 * abs(float(whole)) + 1e-6:
            return (
                "not to be believed: along the directions that carry it the basin reaches past the prior, so it is "
                "what they say of all of space, whose truth is 0. Of help are a lower cutoff, and the volume without a "
                "prior"
            )
        why = []
        fewest = fewest_effective(found.n)
        if not found.effective_samples >= fewest:
            why.append(f"{found.effective_samples:.3g} effective samples, fewer than {fewest:.3g}")
        if not found.tail < LARGEST_TAIL:
            known = f"of {found.tail:.2f}, not below {LARGEST_TAIL:g}" if np.isfinite(found.tail) else "not known"
            why.append(f"a tail index {known}")
        precondition = self.attributes.get("precondition")
        many = found.spread > _MOST_SPREAD
        if not precondition:
            better = f"precondition='diagonal' or 'krylov'{'' if gaussian else ', with kind=' + repr('gaussian')}"
        elif precondition != "krylov":
            better = "precondition='krylov'" if many else "precondition='krylov' or more directions"
        elif many:
            return (
                f"not to be believed: {' and '.join(why)}; the volume is likely to be larger. Directions differ by "
                f"{found.spread:.3g} nats, which no number of them makes good: compare `mean`, a lower bound, instead"
            )
        else:
            better = "more directions"
        return (
            f"not to be believed: {' and '.join(why)}; the volume is likely to be larger. Of help are {better}, and "
            "comparing `mean`, a lower bound, instead"
        )

    @checked()
    def plot(self, what: str = "radii") -> Figure:
        """A Figure of the "radii", the "profiles" or the "contributions"; see `plot_basin`."""
        return self._drawn(what)
