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

    All arguments are finite; n is 2 or more.
    Source: Cochran, Sampling Techniques, 3rd ed. 1977, chapter 7 (regression estimators); Allen, Technometrics 16,
    1974 (PRESS).

    >>> g = np.arange(8.0)
    >>> mean, coefficients, residuals = regressed_means(2 * g[::2, None] + 1, g[::2, None], np.array([g.mean()]))
    >>> mean.round(4), coefficients.round(4), bool(np.abs(residuals).max() < 1e-4)
    (array([8.]), array([[2.]]), True)
    """
    n, middle = len(targets), targets.mean(0)
    centred = targets - middle
    residuals, coefficients = centred * (n / (n - 1)), np.zeros((controls.shape[1], targets.shape[1]))
    spread = controls.std(0)
    varies = spread > 1e-12 * np.abs(controls).max(0, initial=0.0)
    if varies.any():
        scaled = (controls[:, varies] - controls[:, varies].mean(0)) / spread[varies]
        left, values, right = np.linalg.svd(scaled, full_matrices=False)
        along, press = left.T @ centred, np.square(residuals).sum(0)
        for penalty in n * _PENALTIES:
            share = values**2 / (values**2 + penalty)
            leverage = np.square(left) @ share + 1 / n
            left_out = (centred - left @ (share[:, None] * along)) / np.maximum(1 - leverage, 1e-12)[:, None]
            squares = np.square(left_out).sum(0)
            better = squares < press
            press, residuals = np.where(better, squares, press), np.where(better, left_out, residuals)
            found = right.T @ ((values / (values**2 + penalty))[:, None] * along) / spread[varies, None]
            coefficients[varies] = np.where(better, found, coefficients[varies])
    return middle + (means - controls.mean(0)) @ coefficients, coefficients, residuals


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
