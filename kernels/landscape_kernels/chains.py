"""What chains of draws tell of a mean: whether they agree, how many independent draws they are worth, where they drift.

Every function takes values (C, N): N draws of C chains. Chains are cut into halves, so that one that drifts disagrees
with itself. Sources: Gelman et al., Bayesian Data Analysis (2013), section 11.4 (R-hat of split chains, effective
samples of several chains); Geyer, Practical Markov chain Monte Carlo, Statist. Sci. 7 (1992), section 3.3 (initial
monotone sequence); Vehtari et al., Rank-normalization, folding, and localization, Bayesian Anal. 16 (2021).
"""

from __future__ import annotations

import math

import numpy as np

from landscape_kernels.arrays import FloatArray

_FEWEST = 4  # draws of a half chain, below which nothing is told


def split(values: FloatArray) -> FloatArray:
    """(2 C, N // 2): the first and the second halves of the chains, without the middle draw of an odd number."""
    half = values.shape[1] // 2
    return np.concatenate([values[:, :half], values[:, values.shape[1] - half :]])


def r_hat(values: FloatArray) -> float:
    """sqrt((variance of all draws, as halves of chains tell it) / (variance inside halves)).

    1 where chains agree; NaN for fewer than 8 draws or chains that do not move, infinite where they stay apart.
    """
    halves = split(values)
    if halves.shape[1] < _FEWEST:
        return math.nan
    inside, all_ = _variances(halves)
    if inside == 0:
        return math.nan if all_ == 0 else math.inf
    return math.sqrt(all_ / inside)


def effective_samples(values: FloatArray) -> float:
    """Independent draws whose mean is as sure as that of all draws: C N / (1 + 2 sum_t rho_t).

    rho_t = 1 - (W - autocovariance at lag t) / V, W the variance inside halves of chains and V that of all draws, in
    pairs of lags while these are positive, none above the one before. NaN where `r_hat` is NaN or infinite.
    """
    halves = split(values)
    if halves.shape[1] < _FEWEST:
        return math.nan
    inside, all_ = _variances(halves)
    if inside == 0:
        return math.nan
    rho = 1 - (inside - _autocovariances(halves).mean(0)) / all_
    rho[0] = 1.0
    pairs = rho[: len(rho) // 2 * 2].reshape(-1, 2).sum(1)
    negative = np.flatnonzero(pairs <= 0)
    pairs = np.minimum.accumulate(pairs[: negative[0]] if len(negative) else pairs)
    total = halves.size
    # a chain that swings from side to side is worth more than its draws, but not without limit
    return float(total / max(2 * pairs.sum() - 1, 1 / math.log10(total)))


def mean_and_error(values: FloatArray) -> tuple[float, float]:
    """(mean of all draws, its standard error).

    The error is the larger of sqrt(V / effective samples) and the standard deviation of the chains' means over sqrt(C):
    the one sees what chains have forgotten, the other what they have not.
    """
    mean = float(values.mean()) if values.size else math.nan
    samples = effective_samples(values)
    by_draws = math.sqrt(_variances(split(values))[1] / samples) if samples > 0 else math.nan
    by_chains = float(values.mean(1).std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return mean, max(by_draws, by_chains) if math.isfinite(by_draws) else math.nan


def slow_error(values: FloatArray) -> float:
    """A standard error of the mean of all draws that allows for chains whose own scatter says too little.

    sqrt((m + 2 s) / C): m is the mean over chains of the squared error of a chain's mean, by its own effective samples,
    and s the standard error of m over chains. Where one chain alone has been where they are slow, s is as large as m,
    and the others say nothing of it. NaN where no chain moves.
    """
    squares = np.array([mean_and_error(chain[None])[1] ** 2 for chain in values])
    squares = squares[np.isfinite(squares)]
    if not len(squares):
        return math.nan
    unsure = float(squares.std(ddof=1)) / math.sqrt(len(squares)) if len(squares) > 1 else 0.0
    return math.sqrt((float(squares.mean()) + 2 * unsure) / len(values))


def drift(values: FloatArray) -> tuple[float, float]:
    """(mean of the second halves of the chains less that of the first, its standard error)."""
    half = values.shape[1] // 2
    first, second = mean_and_error(values[:, :half]), mean_and_error(values[:, values.shape[1] - half :])
    return second[0] - first[0], math.hypot(first[1], second[1])


def _variances(chains: FloatArray) -> tuple[float, float]:
    """(inside chains, of all draws) of (C, N): W and V = (N - 1) / N W + variance of the chains' means."""
    count = chains.shape[1]
    inside = float(chains.var(1, ddof=1).mean())
    between = float(chains.mean(1).var(ddof=1)) if len(chains) > 1 else 0.0
    return inside, (count - 1) / count * inside + between


def _autocovariances(chains: FloatArray) -> FloatArray:
    """(C, N) sums over draws of products with the draw t later, over N, by the fast Fourier transform."""
    count = chains.shape[1]
    size = 1 << (2 * count - 1).bit_length()
    spectrum = np.fft.rfft(chains - chains.mean(1, keepdims=True), size)
    found: FloatArray = np.fft.irfft(np.abs(spectrum) ** 2, size)[:, :count] / count
    return found
