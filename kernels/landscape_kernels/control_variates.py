"""Means over many samples from few of them, by regression on quantities whose means are better known."""

from __future__ import annotations

import numpy as np

from landscape_kernels.arrays import FloatArray

# Ridge penalties tried, as shares of the samples: from plain least squares to almost the plain mean.
_PENALTIES = 10.0 ** np.arange(-6.0, 2.0)


def regressed_means(
    targets: FloatArray, controls: FloatArray, means: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(means (p,), coefficients (k, p), residuals (n, p)) of p quantities from n samples of a population.

    mean = mean_S(y) + b (means - mean_S(g)): y are `targets` (n, p) and g are `controls` (n, k) on a simple random
    sample S, `means` (k,) what is known of the controls' means over the population. b is the ridge regression of y on
    the standardised controls, for each target with the penalty, of some from 1e-6 n to 10 n, whose residuals of samples
    left out in turn have the least sum of squares (PRESS). These residuals e are the third result: the standard error
    is sqrt(sum e^2 / (n - 1) / n (1 - n/N)) for a population of N and controls known exactly. Without controls (k = 0)
    it is the mean of the sample and its standard error. The bias is of order k/n of the error squared.

    All may have the same further dimensions in front: as many regressions. All are finite; n is 2 or more.
    Source: Cochran, Sampling Techniques, 3rd ed. 1977, chapter 7 (regression estimators); Allen, Technometrics 16,
    1974 (PRESS).

    >>> g = np.arange(8.0)
    >>> mean, coefficients, residuals = regressed_means(2 * g[::2, None] + 1, g[::2, None], np.array([g.mean()]))
    >>> mean.round(4), coefficients.round(4), bool(np.abs(residuals).max() < 1e-4)
    (array([8.]), array([[2.]]), True)
    """
    n, middle, centre = targets.shape[-2], targets.mean(-2), controls.mean(-2)
    centred, spread = targets - middle[..., None, :], controls.std(-2)
    # A control that does not vary on the sample tells nothing: its coefficient is 0.
    spread = np.where(spread > 1e-12 * np.abs(controls).max(-2, initial=0.0), spread, np.inf)
    scaled = (controls - centre[..., None, :]) / spread[..., None, :]
    squares, right = np.linalg.eigh(scaled.swapaxes(-1, -2) @ scaled)
    left = scaled @ right
    along, lengths = left.swapaxes(-1, -2) @ centred, np.square(left)

    def left_out(weights: FloatArray) -> FloatArray:
        """Residuals by 1 / (eigenvalue + penalty), (k, p) or (k, 1)."""
        inside = np.maximum(1 - 1 / n - lengths @ weights, 1e-12)
        found: FloatArray = (centred - left @ (weights * along)) / inside
        return found

    best = np.zeros((*squares.shape, targets.shape[-1]))  # as of an infinite penalty: the plain mean
    press = np.square(left_out(best)).sum(-2)
    for penalty in n * _PENALTIES:
        weights = 1 / (np.maximum(squares, 0.0) + penalty)[..., None]
        found = np.square(left_out(weights)).sum(-2)
        best = np.where((found < press)[..., None, :], weights, best)
        press = np.minimum(press, found)
    coefficients = right @ (best * along) / spread[..., None]
    shifted = ((means - centre)[..., None, :] @ coefficients)[..., 0, :]
    return middle + shifted, coefficients, left_out(best)


def samples_needed(error: FloatArray, samples: FloatArray, asked: FloatArray, population: int) -> FloatArray:
    """How many samples bring standard errors, known on `samples` of a population, to those `asked`; all (p,).

    n = 1 / (asked^2 / s^2 + 1/population) with s^2 = error^2 samples / (1 - samples/population): the spread of the
    samples stays, and the whole population leaves no error.

    >>> samples_needed(np.array([0.2]), np.array([100.0]), np.array([0.1]), 10**9).round(2)
    array([400.])
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = np.square(error) * samples / (1 - samples / population)
        needed: FloatArray = 1 / (np.square(asked) / variance + 1 / population)
    return needed
