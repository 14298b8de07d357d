"""The probability that a Gaussian process has given signs, and the PAC-Bayes bounds that it gives.

The process at m inputs is f ~ N(0, K). With signs y (m,) of +1 and -1, g = y f is the process of covariance y K y, so
all here ask for P(g > 0), an orthant probability. It does not change where f is divided by its standard deviations:
`signed_correlations` has what is asked of. Labels drawn with P(y | f) = Phi(y f), the probit, are the signs of f with
noise of variance 1, so their probability is the same of K + 1.

Sources: Rasmussen and Williams, Gaussian processes for machine learning (2006), algorithms 3.1 and 3.5, equations 3.32,
3.57 to 3.59 and 3.73 to 3.75; Minka, Expectation propagation for approximate Bayesian inference, UAI 2001;
Valle-Perez, Camargo and Louis, Deep learning generalizes because the parameter-function map is biased towards simple
functions, ICLR 2019 (the bound); Valle-Perez and Louis, Generalization bounds for deep learning, arXiv:2012.04115,
theorem 5.1; Langford and Seeger, Bounds for averaging classifiers, CMU-CS-01-102 (training errors above 0).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from landscape_kernels.arrays import FloatArray

EXACT_MOST = 3  # signs whose probability has a closed form
INTEGRATED_MOST = 50
DELTA = 2.0**-10  # how often the bound may fail, as published; of the other one 0.01 and 0.01
_SWEEPS = 500
_REPEATS = 4  # of the integral, whose spread is its error
_POINTS = 5_000  # of each, for each sign


@dataclass(frozen=True)
class Evidence:
    """The logarithm of a probability, in nats, and how it was come by."""

    log: float  # NaN where the method found none
    error: float  # left by the iterations, or the standard error of an integral; not what an approximation itself errs
    sweeps: int = 0  # of an iteration


def signed_correlations(kernel: FloatArray, signs: FloatArray) -> FloatArray:
    """y_i y_j K_ij / sqrt(K_ii K_jj), (m, m), with ones on the diagonal; `kernel` (m, m), `signs` (m,) of +1 and -1.

    Raises ValueError where a variance is not positive and finite.
    """
    variances = np.diag(kernel)
    if not (np.isfinite(variances) & (variances > 0)).all():
        place = int(np.flatnonzero(~(np.isfinite(variances) & (variances > 0)))[0])
        raise ValueError(f"the variance of sample {place} is {variances[place]:g}, and has to be positive")
    scale = signs / np.sqrt(variances)
    found: FloatArray = kernel * scale
    found *= scale[:, None]
    np.fill_diagonal(found, 1.0)
    return found


def exact_orthant(correlations: FloatArray) -> Evidence:
    """P(g > 0) in closed form for m <= 3: 1/2, 1/4 + asin r / 2 pi, 1/8 + (sum of the three asin r) / 4 pi.

    Raises ValueError for more.
    """
    samples = len(correlations)
    if samples > EXACT_MOST:
        raise ValueError(f"{samples} signs; the closed form is for {EXACT_MOST} at most")
    angles = np.arcsin(np.clip(correlations[np.tril_indices(samples, -1)], -1.0, 1.0))
    p = 2.0**-samples + float(angles.sum()) / (2.0 ** (samples - 1) * math.pi)
    return Evidence(math.log(p) if p > 0 else -math.inf, np.finfo(np.float64).eps)


def integrated_orthant(correlations: FloatArray, seed: int = 0) -> Evidence:
    """P(g > 0) by Genz' quasi-Monte Carlo integral as scipy has it, for m <= 50, with its standard error.

    The value is the mean of independent integrals, their spread the error. Raises ValueError for more signs.
    """
    from scipy.stats import multivariate_normal  # loading it takes longer than `import landscape`

    samples = len(correlations)
    if samples > INTEGRATED_MOST:
        raise ValueError(f"{samples} signs; the integral is for {INTEGRATED_MOST} at most")
    found = np.array(
        [
            multivariate_normal.cdf(
                np.zeros(samples),
                cov=correlations,
                allow_singular=True,
                maxpts=_POINTS * samples,
                abseps=0.0,
                releps=1e-5,
                rng=np.random.default_rng([seed, k]),
            )
            for k in range(_REPEATS)
        ]
    )
    p, spread = float(found.mean()), float(found.std(ddof=1)) / math.sqrt(_REPEATS)
    return Evidence(math.log(p), spread / p) if p > 0 else Evidence(-math.inf, math.inf)


def laplace_evidence(kernel: FloatArray, signs: FloatArray) -> Evidence:
    """log of the integral of prod Phi(y f) N(f; 0, K) by Laplace's method at the mode, for the probit alone.

    `kernel` (m, m), `signs` (m,). The Heaviside's mode lies on its edge, where the method says nothing.
    log q = -a.f / 2 + sum log Phi(y f) - log det B / 2 with f = K a, B = 1 + W^(1/2) K W^(1/2).
    """
    from scipy.linalg import cho_solve, cholesky
    from scipy.special import log_ndtr

    signed = kernel * np.outer(signs, signs)
    f, value, weights = np.zeros(len(signed)), -math.inf, np.zeros(len(signed))
    for sweep in range(1, _SWEEPS + 1):
        slope = np.exp(-f * f / 2 - log_ndtr(f)) / math.sqrt(2 * math.pi)
        curvature = slope * (f + slope)
        root = np.sqrt(curvature)
        B = signed * np.outer(root, root)
        B.flat[:: len(B) + 1] += 1.0
        try:
            lower = cholesky(B, lower=True, check_finite=False)
        except np.linalg.LinAlgError:
            return Evidence(math.nan, math.inf, sweep)
        half = float(np.log(np.diag(lower)).sum())
        pull = curvature * f + slope
        wanted = pull - root * cho_solve((lower, True), root * (signed @ pull))
        size = 1.0
        while True:  # Newton, with half the step where it leads down
            tried = weights + size * (wanted - weights)
            there = signed @ tried
            now = float(-0.5 * tried @ there + log_ndtr(there).sum())
            if now >= value - 1e-12 * abs(value) or size < 1e-4:
                break
            size /= 2
        left = float(np.abs(there - f).max())
        if left <= 1e-9 * (1 + float(np.abs(there).max())):
            return Evidence(now - half, left, sweep)
        f, weights, value = there, tried, now
    return Evidence(math.nan, math.inf, _SWEEPS)


@dataclass(frozen=True)
class Regression:
    """What Gaussian regression of the signs has: y = f + noise."""

    log: float  # log N(y; 0, K + s2), a density
    kl: float  # of the posterior of f from the prior, nats
    train_error: float  # how often a draw of the posterior has another sign, a mean over samples


def regression_evidence(kernel: FloatArray, signs: FloatArray, noise: float = 1.0) -> Regression:
    """Evidence of y = f + noise with y = +1 and -1 as numbers; `noise` is the variance s2; A = K + s2.

    KL = (s2 tr 1/A + a.K a - m + log det(A / s2)) / 2 with a = y / A; the posterior is N(y - s2 a, s2 - s2^2 / A).
    Raises numpy.linalg.LinAlgError where A has no Cholesky factor.
    """
    from scipy.linalg import cho_solve, cholesky
    from scipy.linalg.lapack import dtrtri
    from scipy.special import ndtr

    samples = len(signs)
    A = kernel.copy()
    A.flat[:: samples + 1] += noise
    lower = cholesky(A.T, lower=True, overwrite_a=True, check_finite=False)
    half = float(np.log(np.diag(lower)).sum())
    a = cho_solve((lower, True), signs)
    inverse, _ = dtrtri(lower, lower=1, overwrite_c=1)
    diagonal = np.einsum("ki,ki->i", inverse, inverse)
    kl = 0.5 * (noise * diagonal.sum() + a @ (signs - noise * a) - samples) + half - 0.5 * samples * math.log(noise)
    log = -0.5 * signs @ a - half - 0.5 * samples * math.log(2 * math.pi)
    spread = np.sqrt(np.maximum(noise * (1 - noise * diagonal), np.finfo(np.float64).tiny))
    wrong = ndtr(-signs * (signs - noise * a) / spread)
    return Regression(float(log), float(max(kl, 0.0)), float(wrong.mean()))


def bound_on_error(kl: float, samples: int, train_error: float = 0.0, delta: float = DELTA) -> float:
    """The largest error e with kl(train_error, e) <= (KL + 2 ln m + 1 - ln delta) / m, mean over the posterior's draws.

    Without training error e = 1 - exp(-(KL + 2 ln m + 1 - ln delta) / m), where KL = -ln P for the process given the
    signs. It fails for at most `delta` of the training sets.
    """
    return inverse_kl(train_error, (kl + 2 * math.log(samples) + 1 - math.log(delta)) / samples)


def bound_on_draw(log: float, samples: int, delta: float = 0.01, gamma: float = 0.01) -> float:
    """Of all but `gamma` of the posterior's draws e < 1 - exp(-(-ln P + ln m - ln delta - ln gamma) / (m - 1)).

    It fails for at most `delta` of the training sets; 1 for one sample, of which it says nothing.
    """
    if samples < 2:
        return math.nan if math.isnan(log) else 1.0
    return -math.expm1(-(-log + math.log(samples) - math.log(delta) - math.log(gamma)) / (samples - 1))


def inverse_kl(share: float, most: float) -> float:
    """The largest p in [share, 1] with kl(share, p) = q ln(q / p) + (1 - q) ln((1 - q) / (1 - p)) <= most."""
    if math.isnan(share) or math.isnan(most):
        return math.nan
    if share <= 0:
        return -math.expm1(-most)
    low, high = min(share, 1.0), 1.0
    while True:
        p = (low + high) / 2
        if not low < p < high:
            return high
        kl = share * math.log(share / p) + ((1 - share) * math.log((1 - share) / (1 - p)) if share < 1 else 0.0)
        low, high = (p, high) if kl <= most else (low, p)
