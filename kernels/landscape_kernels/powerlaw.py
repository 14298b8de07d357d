"""Power laws, exponentials and truncated power laws fitted to the upper tail of positive values.

Clauset, Shalizi and Newman, "Power-law distributions in empirical data", SIAM Review 51 (2009).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

import numpy as np

from landscape_kernels.arrays import FloatArray, IntArray

_SHARES = (0.3, 0.9)  # of a tail: places of its first bound from below
_SETTLED = 1e-13  # gain of a Newton step, in nats a value, after which the next would be lost in rounding


@dataclass(frozen=True)
class PowerLaw:
    """p(x) = (alpha - 1) / xmin (x / xmin)^-alpha for x >= xmin."""

    alpha: float
    xmin: float
    D: float  # Kolmogorov-Smirnov distance of the tail from the fit
    tail: int  # values in the tail
    near: tuple[float, float]  # least and greatest alpha among fits with D within 5 % of the best

    @property
    def sigma(self) -> float:
        """(alpha - 1) / sqrt(tail), the standard error for independent values, which eigenvalues are not."""
        return (self.alpha - 1) / math.sqrt(self.tail)


def fit_power_law(
    values: FloatArray, *, fewest: int = 10, two_sided: bool = True, near: float = 0.05
) -> PowerLaw | None:
    """The power law of the tail that is nearest to one: alpha by maximum likelihood, xmin by the smallest D.

    For every xmin among the values whose tail holds `fewest` of them or more,

        alpha = 1 + n / sum_i ln(x_i / xmin),   D = max_k |F(x_k) - k / n|,   F(x) = 1 - (x / xmin)^(1 - alpha),

    with n values in the tail and k = 0..n-1 of them below x_k; `two_sided` takes |F(x_k) - (k + 1) / n|, too. The
    smallest D is exact: bounds from a few places of each tail leave out those that cannot have it.

    `values` is (m,), positive, in any order. Returns None where no tail has a finite alpha above 1.
    """
    x = np.sort(np.asarray(values, dtype=np.float64), kind="stable")  # quick where they are in order already
    logs = np.log(x)
    m = x.size
    starts = np.flatnonzero(np.r_[True, x[1:] > x[:-1]]) if m else np.zeros(0, dtype=np.int64)
    starts = starts[m - starts >= max(fewest, 2)]
    if not starts.size:
        return None
    sizes = (m - starts).astype(np.float64)
    sums = np.cumsum(logs[::-1])[::-1][starts] - sizes * logs[starts]
    fine = sums > 1e-12 * sizes  # a tail of equal values has no exponent
    starts, sizes, sums = starts[fine], sizes[fine], sums[fine]
    if not starts.size:
        return None
    tails = _Tails(logs, starts, sizes, 1.0 + sizes / sums, two_sided)
    chosen = tails.nearest(near)
    return PowerLaw(
        float(tails.alphas[chosen]),
        float(x[starts[chosen]]),
        float(tails.exact[chosen]),
        int(sizes[chosen]),
        tails.range_within(float(tails.exact[chosen]) * (1 + near)),
    )


class _Tails:
    """The tails of a sample, each with its fit, and what is known of their distances.

    The gap at any one place is a bound from below. The place of the largest gap of one tail is nearly that of others,
    so each distance that is computed tightens the bounds of all tails that are left.
    """

    def __init__(
        self, logs: FloatArray, starts: IntArray, sizes: FloatArray, alphas: FloatArray, two_sided: bool
    ) -> None:
        self._logs, self._starts, self._sizes, self._two_sided = logs, starts, sizes, two_sided
        self.alphas = alphas
        self.exact = np.full(starts.size, np.nan)
        self._bounds = np.zeros(starts.size)
        for share in _SHARES:
            k = (share * (sizes - 1)).astype(np.int64)
            np.maximum(self._bounds, self._gap(slice(None), starts + k, k), out=self._bounds)
        self._left = np.arange(starts.size)  # tails that are not known, and may be near

    def nearest(self, near: float) -> int:
        """The tail of the least distance; those that may be within `near` of it are left."""
        best = math.inf
        while self._left.size:
            place = int(self._left[self._bounds[self._left].argmin()])
            if self._bounds[place] > best:
                break
            best = min(best, self._settle(place))
            self._drop(best * (1 + near))
        return int(np.nanargmin(self.exact))

    def range_within(self, limit: float) -> tuple[float, float]:
        """The least and the greatest alpha of a distance up to `limit`, which one or more of the known have."""
        ends = []
        for sign in (1.0, -1.0):
            signed = sign * self.alphas
            end = float(signed[self.exact <= limit].min())
            while True:
                self._drop(limit)
                beyond = self._left[signed[self._left] < end]
                if not beyond.size:
                    break
                place = int(beyond[signed[beyond].argmin()])
                if self._settle(place) <= limit:
                    end = float(signed[place])
            ends.append(sign * end)
        return ends[0], ends[1]

    def _drop(self, limit: float) -> None:
        self._left = self._left[(self._bounds[self._left] <= limit) & np.isnan(self.exact[self._left])]

    def _settle(self, place: int) -> float:
        """The distance of one tail; those that are left and reach its largest gap are bounded by theirs there."""
        start = int(self._starts[place])
        k = np.arange(self._logs.size - start)
        gap = self._gap(slice(place, place + 1), start + k, k)
        worst = int(gap.argmax())
        self.exact[place] = self._bounds[place] = gap[worst]
        if self._left.size > 1:
            reach = self._left[: np.searchsorted(self._starts[self._left], start + worst)]
            gaps = self._gap(reach, start + worst, start + worst - self._starts[reach])
            self._bounds[reach] = np.maximum(self._bounds[reach], gaps)
        return float(gap[worst])

    def _gap(self, tails: IntArray | slice, at: IntArray | int, k: IntArray) -> FloatArray:
        """The gap of some tails at the value `at`, which is the k-th of each."""
        share = k / self._sizes[tails]
        gap = self._logs[at] - self._logs[self._starts[tails]]
        gap *= 1.0 - self.alphas[tails]
        np.expm1(gap, out=gap)
        gap += share
        np.negative(gap, out=gap)
        return np.maximum(gap, 1.0 / self._sizes[tails] - gap) if self._two_sided else np.abs(gap, out=gap)


_Value: TypeAlias = Callable[[float, float], tuple[float, FloatArray, FloatArray]]  # value, gradient, -curvature


@dataclass(frozen=True)
class Truncated:
    """p(x) ~ x^-beta e^(-Lambda x) for x >= xmin."""

    beta: float
    Lambda: float
    loglik: float  # of the tail, in nats
    D: float  # Kolmogorov-Smirnov distance of the tail from the fit


@dataclass(frozen=True)
class Exponential:
    """p(x) = Lambda e^(-Lambda (x - xmin)) for x >= xmin."""

    Lambda: float
    loglik: float


def fit_exponential(tail: FloatArray, xmin: float) -> Exponential | None:
    """The exponential law of most likelihood: Lambda = 1 / (mean - xmin). None for a tail without spread.

    `tail` is (n,), at or above `xmin`; Lambda is in 1 / units of the values.
    """
    mean = float(tail.mean()) - xmin
    if not mean > 1e-12 * xmin:
        return None
    return Exponential(1 / mean, -tail.size * (math.log(mean) + 1))


def power_law_loglik(tail: FloatArray, xmin: float, alpha: float) -> float:
    """Log-likelihood of a tail (n,) at or above `xmin` under a power law, in nats."""
    return float(tail.size * math.log((alpha - 1) / xmin) - alpha * np.log(tail / xmin).sum())


@cache
def _nodes(number: int) -> tuple[FloatArray, FloatArray]:
    nodes, weights = np.polynomial.legendre.leggauss(number)
    return nodes, weights


def _moments(beta: float, z: float) -> tuple[float, FloatArray, FloatArray]:
    """(ln Z, mean (2,), covariance (2, 2)) of (ln t, t) under t^-beta e^(-z t) / Z on [1, inf)."""
    nodes, weights = _nodes(160)
    top = math.inf
    if z > 0:  # the bound of Laurent and Massart for a gamma law, of which less than e^-60 lies above
        falling = max(-beta, 0.0)
        top = math.log(max(1.0, falling / z) + (math.sqrt(120.0 * falling) + 60.0) / z)
    if beta > 1:
        top = min(top, max(45.0 / (beta - 1), 1.0))
    top = max(min(top, 700.0), 1e-9)
    # two pieces, so that a fast fall near t = 1 and a slow one are both seen
    split = min(top, math.log1p(8.0 / max(z + abs(beta), 1.0)))
    u = np.concatenate([(nodes + 1) / 2 * split, split + (nodes + 1) / 2 * (top - split)])
    w = np.concatenate([weights / 2 * split, weights / 2 * (top - split)])
    t = np.exp(u)
    logs = (1.0 - beta) * u - z * t
    most = float(logs.max())
    p = w * np.exp(logs - most)
    total = float(p.sum())
    p = p / total
    mean = np.array([p @ u, p @ t])
    du, dt = u - mean[0], t - mean[1]
    cov = np.array([[p @ (du * du), p @ (du * dt)], [p @ (du * dt), p @ (dt * dt)]])
    return most + math.log(total), mean, cov


def fit_truncated(
    tail: FloatArray, xmin: float, *, least_beta: float = -math.inf, steps: int = 200
) -> Truncated | None:
    """The truncated power law of most likelihood, beta >= `least_beta`, Lambda >= 0.

    An exponential family: with t = x / xmin and z = Lambda xmin the log-likelihood -n ln Z(beta, z) - beta sum ln t -
    z sum t is concave, and damped Newton steps in (beta, z) find its maximum. Z = int_1^inf t^-beta e^(-z t) dt by
    Gauss-Legendre in ln t. It is the power law where that law's mean of t is no more than the tail's.

    `tail` is (n,), at or above `xmin`; Lambda is in 1 / units of the values. Returns None for a tail without spread.
    """
    t = np.asarray(tail, dtype=np.float64) / xmin
    n = t.size
    given = np.array([float(np.log(t).mean()), float(t.mean())])
    if n < 2 or not given[0] > 1e-12:
        return None

    power = 1.0 + 1.0 / given[0]
    if power >= max(least_beta, 2.0) and (power - 1) / (power - 2 or math.nan) <= given[1]:
        return Truncated(power, 0.0, power_law_loglik(tail, xmin, power), _truncated_distance(np.sort(t), power, 0.0))

    def value(beta: float, z: float) -> tuple[float, FloatArray, FloatArray]:
        log_z, mean, cov = _moments(beta, z)
        return -log_z - beta * given[0] - z * given[1], mean - given, cov

    best = _climbed(value, 1.0 + 0.5 / given[0], 0.5 / given[1], steps, held=False)
    if best[0] < least_beta:  # of a concave function, the best is then at the bound
        best = _climbed(value, least_beta, 0.5 / given[1], steps, held=True)
    beta, z, mean = best
    return Truncated(beta, z / xmin, n * (mean - math.log(xmin)), _truncated_distance(np.sort(t), beta, z))


def _climbed(value: _Value, beta: float, z: float, steps: int, *, held: bool) -> tuple[float, float, float]:
    """(beta, z, value) at the top by damped Newton steps, in z alone where beta is `held`."""
    now, gradient, cov = value(beta, z)
    for _ in range(steps):
        if held:
            step = np.array([0.0, gradient[1] / cov[1, 1]])
        else:
            step = np.linalg.solve(cov + 1e-14 * np.diag(np.diag(cov)), gradient)
        # twice what a step gains where the likelihood is a parabola
        settled = float(step @ gradient) < _SETTLED * (1 + abs(now))
        size = 1.0
        while size > 1e-12:
            new_beta, new_z = beta + size * float(step[0]), z + size * float(step[1])
            new_z = z * 0.1 if new_z <= 0 else new_z
            new, new_gradient, new_cov = value(new_beta, new_z)
            if new >= now or settled:
                break
            size /= 2
        else:
            break
        beta, z, now, gradient, cov = new_beta, new_z, new, new_gradient, new_cov
        if settled:
            break
    return beta, z, now


def _truncated_distance(t: FloatArray, beta: float, z: float) -> float:
    """Two-sided Kolmogorov-Smirnov distance of sorted values from t^-beta e^(-z t) / Z on [1, inf)."""
    n = t.size
    if z == 0.0:
        below = -np.expm1((1.0 - beta) * np.log(t))
    else:
        nodes, weights = _nodes(16)
        ends = np.log(np.r_[1.0, t])
        half = np.diff(ends)[:, None] / 2
        u = ends[:-1, None] + half * (nodes + 1)
        log_z = _moments(beta, z)[0]
        below = np.cumsum((half * weights * np.exp((1.0 - beta) * u - z * np.exp(u) - log_z)).sum(axis=1))
    return float(max((below - np.arange(n) / n).max(), (np.arange(1, n + 1) / n - below).max()))
