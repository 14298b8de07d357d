"""Logarithms of volumes of star-shaped bodies from radii along random directions, and how far they are to be believed.

A body around a point that is seen from there as a whole, radius r(u) along the unit vector u, has the volume

    V = omega_D E_u[r(u)^D],      omega_D = pi^(D/2) / Gamma(1 + D/2),

and under a density rho the measure omega_D D E_u[int_0^r(u) rho(x u) x^(D-1) dx]. Everything is in natural logarithms:
in a million dimensions r^D fits no number. The mean of such contributions w hangs on the largest of them, so that
log-mean-exp is biased low until their logarithms spread by less than about one nat.

Sources: Huang et al., "Understanding generalization through visualizations", 2019; Scherlis and Belrose, "Estimating
the probability of sampling a trained neural network at random", 2025; Vehtari, Simpson, Gelman, Yao, Gabry, "Pareto
smoothed importance sampling", JMLR 25, 2024; Zhang and Stephens, Technometrics 51, 2009 (the tail index).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from landscape_kernels.arrays import FloatArray

LARGEST_TAIL = 0.5  # tail index from which on contributions have no variance, so that no standard error holds
# Effective samples that a mean is believed from, and their share of all where 1,000 are more: fewer than that hold the
# truth too seldom where they happen to look well (ellipsoids and quartics in 5 to 100 dimensions).
_FEWEST, _SHARE, _ENOUGH = 30.0, 0.2, 1000.0
_ALIKE = 0.01  # nats of spread up to which contributions are alike, however few there are
_DROP = 40.0  # nats below the peak of an integrand at which it is cut off
_NODES = 64  # of a Gauss-Legendre rule on either side of the peak
_LEVEL = 0.95  # of intervals
_NORMAL = 1.959963984540054  # their half-width in standard errors


def log_unit_ball(dimension: float) -> float:
    """ln omega_D, the logarithm of the volume of the unit ball in D dimensions.

    >>> math.isclose(log_unit_ball(3), math.log(4 / 3 * math.pi))
    True
    """
    return dimension / 2 * math.log(math.pi) - math.lgamma(1 + dimension / 2)


def log_ball_contributions(radii: FloatArray, dimension: int) -> FloatArray:
    """ln omega_D + D ln r, (n,): what each direction says of the volume; Inf where the radius is."""
    with np.errstate(divide="ignore"):
        found: FloatArray = log_unit_ball(dimension) + dimension * np.log(radii)
    return found


def log_radial_integral(radii: FloatArray, dimension: int, curvature: float, slope: FloatArray) -> FloatArray:
    """ln int_0^r exp(-a x^2 / 2 + b x) x^(D-1) dx, (n,), for a = `curvature` > 0 and b = `slope` (n,); r may be Inf.

    The integrand is log-concave. It is cut off where it has dropped by e^40 from its peak, by closed bounds on its
    logarithm, and integrated by Gauss and Legendre's rule on either side, relative to the peak: D up to 1e9 and more.
    Raises ValueError for a dimension below 1 or a curvature that is not positive.
    """
    if dimension < 1 or not curvature > 0:
        raise ValueError(f"dimension {dimension} and curvature {curvature} need to be 1 or more and above 0")
    a, b, power = curvature, np.asarray(slope, dtype=np.float64), float(dimension - 1)
    root = np.sqrt(b * b + 4 * a * power)
    # the root that does not cancel
    with np.errstate(divide="ignore", invalid="ignore"):
        top = np.where(b >= 0, (b + root) / (2 * a), 2 * power / (root - b))
    top = np.where(np.isfinite(top), top, 0.0)  # D = 1 and b = 0
    peak = np.minimum(radii, top)
    scale = np.where(peak > 0, peak, 1.0)
    inside = radii < top
    gain = np.where(inside, power / scale - a * peak + b, np.where(peak > 0, 0.0, np.minimum(b, 0.0)))
    bend = power / scale**2 + a
    left = np.minimum(peak, 2 * _DROP / (np.abs(gain) + np.sqrt(gain * gain + 2 * bend * _DROP)))
    far = np.sqrt(2 * _DROP / a) * np.ones_like(peak)
    if power > 0:  # ln(1 + z) - z <= -z^2 / (2 + 4 z / 3)
        far = np.minimum(far, scale * (2 * _DROP / 3 + math.sqrt((2 * _DROP / 3) ** 2 + 2 * _DROP * power)) / power)
    right = np.where(inside, 0.0, np.minimum(radii - peak, far))
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    total = np.zeros_like(peak)
    for start, width in ((-left, left), (np.zeros_like(peak), right)):
        y = start[:, None] + width[:, None] * (nodes + 1) / 2
        z = y / scale[:, None]
        logs = gain[:, None] * y - a * y * y / 2
        if power > 0:
            with np.errstate(divide="ignore"):
                logs = logs + power * (np.log1p(np.maximum(z, -1.0)) - z)
        total += width / 2 * (np.exp(logs) @ weights)
    with np.errstate(divide="ignore", invalid="ignore"):
        height = (power * np.log(peak) if power > 0 else 0.0) - a * peak**2 / 2 + b * peak
        found: FloatArray = np.where(np.asarray(radii) > 0, height + np.log(total), -np.inf)
    return found


def log_gaussian_contributions(
    radii: FloatArray, lengths: FloatArray, along: FloatArray, dimension: int, centre: float, sigma: float
) -> FloatArray:
    """(n,): what each direction v says of ln of the probability that N(0, sigma^2 I) gives the body around theta.

    ln int_0^(r |v|) exp(-|theta + x v/|v||^2 / 2 sigma^2) x^(D-1) dx + ln omega_D + ln D - D/2 ln(2 pi sigma^2)
    - D ln |v|, where v = P u with |det P| = 1. `radii` are in multiples of v, `lengths` |v|, `along` v.theta / |v| and
    `centre` |theta| (Scherlis and Belrose 2025).
    """
    precision = sigma**-2
    found = log_radial_integral(radii * lengths, dimension, precision, -along * precision)
    constant = log_unit_ball(dimension) + math.log(dimension) - dimension / 2 * math.log(2 * math.pi * sigma**2)
    result: FloatArray = found + (constant - centre**2 * precision / 2) - dimension * np.log(lengths)
    return result


def log_mean_exp(logs: FloatArray) -> float:
    """ln of the mean of exp(logs), logs (n,).

    >>> round(math.exp(log_mean_exp(np.log([1.0, 3.0]))), 12)
    2.0
    """
    top = float(np.max(logs))
    if not math.isfinite(top):
        return top
    return top + math.log(float(np.mean(np.exp(logs - top))))


@dataclass(frozen=True)
class Aggregate:
    """A mean of contributions known by their logarithms, with what tells whether it is to be believed; in nats."""

    log_mean_exp: float  # an estimate of ln V, biased low where few contributions carry it
    stderr: float  # of that, over directions
    mean: float  # of the logarithms: an estimate of a lower bound of ln V (Jensen's inequality)
    mean_stderr: float
    spread: float  # standard deviation of the logarithms
    largest_share: float  # of one contribution in the sum of all
    effective_samples: float  # (sum w)^2 / sum w^2 (Kish 1965)
    tail: float  # index k of the generalised Pareto distribution of the largest contributions; NaN for fewer than 25
    low: float  # ends of an interval that holds ln V 95 times of 100
    high: float  # Inf where the mean is not to be believed: then `low` alone is said (Markov's inequality)
    believable: bool
    count: int


def aggregate(logs: FloatArray) -> Aggregate:
    """The mean of exp(logs), logs (n,), and how far it is to be believed.

    It is where there are effective samples enough (see `fewest_effective`) and a tail index below 1/2, so that
    contributions have a variance; and where all logarithms are alike, to 0.01 nats. Then the interval is two-sided, of
    1.96 relative standard errors. Elsewhere only this is said: the mean of n contributions is 20 times its expectation
    or more one time in 20 at most, whatever their distribution, so that ln V lies above log-mean-exp - ln 20 (Markov).
    """
    logs = np.asarray(logs, dtype=np.float64)
    n = len(logs)
    value = log_mean_exp(logs) if n else math.nan
    bound = value + math.log(1 - _LEVEL)
    if n == 0 or not np.isfinite(logs).all():
        nothing = math.nan
        return Aggregate(
            value, nothing, float(np.mean(logs)) if n else nothing, nothing, nothing, nothing, nothing, nothing,
            bound, math.inf, False, n
        )  # fmt: skip
    shares = np.exp(logs - logs.max())
    total = float(shares.sum())
    effective = total**2 / float(np.square(shares).sum())
    # var of the mean relative to its square: (n / ess - 1) / (n - 1)
    stderr = math.sqrt(max(n / effective - 1, 0.0) / (n - 1)) if n > 1 else math.nan
    spread = float(logs.std(ddof=1)) if n > 1 else math.nan
    tail = tail_index(logs)
    alike = n > 1 and spread <= _ALIKE
    believable = n > 1 and (alike or (effective >= fewest_effective(n) and tail < LARGEST_TAIL))
    return Aggregate(
        log_mean_exp=value,
        stderr=stderr,
        mean=float(logs.mean()),
        mean_stderr=spread / math.sqrt(n) if n > 1 else math.nan,
        spread=spread,
        largest_share=1 / total,
        effective_samples=effective,
        tail=tail,
        low=value - _NORMAL * stderr if believable else bound,
        high=value + _NORMAL * stderr if believable else math.inf,
        believable=believable,
        count=n,
    )


def fewest_effective(count: int) -> float:
    """Effective samples that a mean of `count` contributions needs to be believed: 30, or a fifth, or 1,000.

    >>> fewest_effective(50), fewest_effective(1000), fewest_effective(10**6)
    (30.0, 200.0, 1000.0)
    """
    return max(_FEWEST, min(_SHARE * count, _ENOUGH))


def tail_index(logs: FloatArray) -> float:
    """Index k of a generalised Pareto distribution fitted to the largest of exp(logs), logs (n,).

    The min(n / 5, 3 sqrt(n)) largest, above the next one; k below 1/2 says that there is a variance, below 1 that there
    is a mean. By the posterior mean of Zhang and Stephens (2009), drawn towards 1/2 by ten samples as Vehtari et al.
    have it. NaN for fewer than 25 values; -Inf where the largest are all alike.
    """
    n = len(logs)
    count = int(min(0.2 * n, 3 * math.sqrt(n)))
    if count < 5:
        return math.nan
    ordered = np.sort(logs)[-count - 1 :]
    exceed = np.exp(ordered[1:] - ordered[-1]) - math.exp(ordered[0] - ordered[-1])
    top = float(exceed[-1])
    if top <= 0 or float(exceed[0]) == top:
        return -math.inf
    tried = 30 + int(math.sqrt(count))
    quartile = max(float(exceed[int(count / 4 + 0.5) - 1]), 1e-12 * top)
    b = 1 / top + (1 - np.sqrt(tried / (np.arange(1, tried + 1) - 0.5))) / (3 * quartile)
    b = b[b != 0]
    k = np.log1p(-b[:, None] * exceed).mean(1)
    likelihood = count * (np.log(-b / k) - k - 1)
    weights = np.exp(likelihood - likelihood.max())
    mean = float((b * weights).sum() / weights.sum())
    found = float(np.log1p(-mean * exceed).mean())
    return (count * found + 10 * 0.5) / (count + 10)
