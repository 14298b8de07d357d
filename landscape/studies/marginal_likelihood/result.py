"""A marginal likelihood as a frozen result."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from landscape_kernels.arrays import BoolArray, FloatArray
from landscape_kernels.evidence import bound_on_draw, bound_on_error

from landscape.results.base import Result
from landscape.results.estimate import Estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class MarginalLikelihood(Result):
    """The probability that random networks label m samples as they are, and the bounds on the error that it gives.

    Of more than two classes each is told from all others by an output of its own, and the outputs are independent: the
    logarithms of K probabilities add up. Networks whose K outputs have the right signs also have the right largest one.
    Where an empirical kernel has G groups of networks, `without` has what the evidence is without each of them.
    """

    classes: tuple[str, ...]  # K rows: a class against the others, or the two classes
    log_evidences: FloatArray  # (K,), log of the probability of each labelling, nats; of a density for regression
    kls: FloatArray  # (K,), Kullback-Leibler divergence of the posterior from the prior, nats
    train_errors: FloatArray  # (K,), of the posterior's draws: 0 but for regression
    numerical_errors: FloatArray  # (K,), left by the iterations, or the standard error of the integral, nats
    without: FloatArray  # (3, K, G), the first three without each group of networks; G = 0 for a closed form
    computed: BoolArray  # (K,)
    samples: int  # m
    method: str
    kernel: str
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        found = (
            f"log P = {float(self.log_evidence):.6g}, error at most {float(self.bound):.4g}"
            if self.complete
            else f"{int(self.computed.sum())} of {len(self.classes)} classes computed"
        )
        return f"MarginalLikelihood({self.method} with {self.kernel} kernel, {self.samples:,} samples: {found})"

    @property
    def complete(self) -> bool:
        """Whether every class was computed."""
        return bool(self.computed.all())

    @property
    def log_evidence(self) -> Estimate:
        """log P of the whole labelling in nats, NaN where a class is not known; stderr from the finite networks."""
        return self._estimate(lambda log, kl, error: log)

    @property
    def bound(self) -> Estimate:
        """The mean error of the posterior's draws is at most this, but for 2^-10 of the training sets."""
        return self._estimate(lambda log, kl, error: bound_on_error(kl, self.samples, error))

    @property
    def bound_on_draw(self) -> Estimate:
        """The error of 99 % of the posterior's draws is at most this, but for 1 % of the training sets.

        NaN for regression, whose draws have training errors.
        """
        if self.method == "regression":
            return Estimate(math.nan, stderr=math.nan, n=0, unit="group of networks")
        return self._estimate(lambda log, kl, error: bound_on_draw(log, self.samples))

    @property
    def bias(self) -> float:
        """What the jackknife says the finite number of networks adds to log P; 0 for a kernel in closed form."""
        _, left = self._with_left_out(lambda log, kl, error: log)
        return (len(left) - 1) * (float(left.mean()) - float(self.log_evidence)) if len(left) else 0.0

    def plot(self) -> Figure:
        """Bars of -log P of each class; see `plot_marginal_likelihood`."""
        return self._drawn()

    def errors(self) -> FloatArray:
        """(K,) standard errors of `log_evidences` by the jackknife over groups of networks; NaN in closed form."""
        return jackknifed(self.without[0])

    def _estimate(self, of: Any) -> Estimate:
        value, left = self._with_left_out(of)
        stderr = float(jackknifed(left)) if len(left) else 0.0 if self.kernel == "nngp" else math.nan
        return Estimate(value, stderr=stderr, n=len(left), unit="group of networks")

    def _with_left_out(self, of: Any) -> tuple[float, FloatArray]:
        """A function of the sums over classes, (log P, KL, training error), and it without each group of networks."""
        sums = [np.where(self.computed, v, np.nan).sum() for v in (self.log_evidences, self.kls, self.train_errors)]
        left = np.where(self.computed[:, None], self.without, np.nan).sum(1)
        values = [of(log, kl, min(error, 1.0)) for log, kl, error in left.T.tolist()]
        return of(float(sums[0]), float(sums[1]), min(float(sums[2]), 1.0)), np.array(values, dtype=np.float64)


def jackknifed(left: FloatArray) -> FloatArray:
    """Standard errors by the jackknife of values (..., G), each without one of G groups; NaN where G < 2.

    sqrt((G - 1) / G sum (v_g - mean)^2).
    """
    groups = left.shape[-1]
    if groups < 2:
        return np.full(left.shape[:-1], np.nan)
    with np.errstate(invalid="ignore"):  # P may be 0
        found: FloatArray = np.sqrt((groups - 1) * left.var(-1))
    return found
