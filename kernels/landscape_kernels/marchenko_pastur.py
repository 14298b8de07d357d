"""The law of Marchenko and Pastur: how the eigenvalues of W'W lie where the entries of W are noise.

Marchenko and Pastur, "Distribution of eigenvalues for some sets of random matrices" (1967); Johnstone, "On the
distribution of the largest eigenvalue in principal components analysis", Annals of Statistics 29 (2001).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

import numpy as np
import torch

from landscape_kernels.arrays import FloatArray

# The Tracy-Widom law of real matrices as a shifted gamma law: Chiani, "Distribution of the largest eigenvalue for real
# Wishart and Gaussian random matrices", Journal of Multivariate Analysis 129 (2014).
_SHAPE, _SCALE, _SHIFT = 46.446, 0.186054, 9.84801
_NEWTON = 4  # steps from a start that is right to three digits, of which each doubles the digits


@dataclass(frozen=True)
class Bulk:
    """Noise of variance sigma^2 in matrices (larger, smaller), by the eigenvalues of W'W."""

    sigma: float  # standard deviation of an entry
    low: float  # edges of the law
    high: float
    edge: float  # `high` and what the largest eigenvalue of noise lies above it, but for 5 % of draws
    spikes: int  # eigenvalues above `edge`


def mp_density(x: FloatArray, ratio: float) -> FloatArray:
    """sqrt((b - x)(x - a)) / (2 pi ratio x) on [a, b], a, b = (1 -+ sqrt(ratio))^2: eigenvalues of W'W / N at sigma 1.

    `x` is (n,); `ratio` = M / N from 0 to 1 for matrices of N rows and M columns. The result is (n,), 0 outside.
    """
    a, b = (1 - math.sqrt(ratio)) ** 2, (1 + math.sqrt(ratio)) ** 2
    inside = (x > a) & (x < b) & (x > 0)
    found = np.zeros(x.shape)
    at = x[inside]
    found[inside] = np.sqrt((b - at) * (at - a)) / (2 * math.pi * ratio * at)
    return found


@cache
def mp_median(ratio: float) -> float:
    """The median of `mp_density`, of values above 0."""
    a, b = (1 - math.sqrt(ratio)) ** 2, (1 + math.sqrt(ratio)) ** 2
    # x = a + (b - a) sin^2(t / 2), which takes the roots at both ends out
    t = (np.arange(20_000) + 0.5) * math.pi / 20_000
    x = a + (b - a) * np.sin(t / 2) ** 2
    density = np.sin(t) ** 2 / np.maximum(x, 1e-300)
    mass = np.cumsum(density)
    return float(np.interp(0.5, (mass - density / 2) / mass[-1], x))  # a value lies in the middle of its cell


def tracy_widom_quantile(p: float) -> float:
    """The value that the Tracy-Widom law of real matrices is below with probability p, to 0.01.

    >>> round(tracy_widom_quantile(0.95), 2)
    0.98
    """
    # scipy.special has this inverse, but loading it takes as long as the fits of two matrices of ViT-B
    shape = torch.tensor(_SHAPE, dtype=torch.float64)
    t = _SHAPE * (1 - 1 / (9 * _SHAPE) + NormalDist().inv_cdf(p) / (3 * math.sqrt(_SHAPE))) ** 3  # Wilson and Hilferty
    for _ in range(_NEWTON):
        below = float(torch.special.gammainc(shape, torch.tensor(t, dtype=torch.float64)))
        t -= (below - p) / math.exp((_SHAPE - 1) * math.log(t) - t - math.lgamma(_SHAPE))
    return t * _SCALE - _SHIFT


def fit_bulk(spectrum: FloatArray, larger: int, smaller: int, slices: int = 1, *, alarms: float = 0.05) -> Bulk | None:
    """The noise that the median eigenvalue fits, and how many eigenvalues lie above what noise would reach.

    sigma^2 = median(lambda) / (N median of the law), edges sigma^2 (sqrt N -+ sqrt M)^2, and a spike lies above
    sigma^2 ((sqrt N + sqrt M)^2 + q (sqrt N + sqrt M)(1 / sqrt N + 1 / sqrt M)^(1/3)) with the Tracy-Widom quantile q
    at which noise alone has a spike in any of the `slices` with probability `alarms`.

    `spectrum` (n,) are the eigenvalues of W'W, ascending, of all slices (larger, smaller) together; the result is in
    units of W (sigma) and of W squared. Returns None where half of the eigenvalues are 0.
    """
    median = float(np.median(spectrum))
    if not median > 0:
        return None
    n, m = math.sqrt(larger), math.sqrt(smaller)
    variance = median / (larger * mp_median(smaller / larger))
    quantile = tracy_widom_quantile((1 - alarms) ** (1 / slices))
    edge = variance * ((n + m) ** 2 + quantile * (n + m) * (1 / n + 1 / m) ** (1 / 3))
    spikes = int((spectrum > edge).sum())
    return Bulk(math.sqrt(variance), variance * (n - m) ** 2, variance * (n + m) ** 2, edge, spikes)
