"""Means from few samples by regression: closed forms, a naive twin, and intervals that cover."""

from __future__ import annotations

import numpy as np
import pytest
from landscape_kernels.control_variates import regressed_means, samples_needed
from numpy.testing import assert_allclose

EPS = np.finfo(float).eps


def population(n: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(targets (n, 2), controls (n, 3)): skewed, and strongly shared."""
    rng = np.random.default_rng(seed)
    controls = np.exp(rng.standard_normal((n, 3)))
    return controls @ rng.uniform(0, 1, (3, 2)) + 0.3 * np.exp(rng.standard_normal((n, 2))), controls


def left_out(targets: np.ndarray, controls: np.ndarray, penalty: float) -> np.ndarray:
    """Residuals of each sample from the ridge regression on the others, refitted every time."""
    n, k = controls.shape
    design = np.column_stack([np.ones(n), (controls - controls.mean(0)) / controls.std(0)])
    shrink = penalty * np.diag([0.0] + [1.0] * k)
    found = np.empty_like(targets)
    for i in range(n):
        rest = np.arange(n) != i
        fit = np.linalg.solve(design[rest].T @ design[rest] + shrink, design[rest].T @ targets[rest])
        found[i] = targets[i] - design[i] @ fit
    return found


def test_residuals_are_those_of_a_naive_loop_with_the_best_penalty() -> None:
    targets, controls = population(30)
    n = len(targets)
    tried = np.stack([left_out(targets, controls, n * p) for p in 10.0 ** np.arange(-6.0, 2.0)])
    best = np.square(tried).sum(1).argmin(0)
    _, coefficients, residuals = regressed_means(targets, controls, controls.mean(0))
    for k in (0, 1):
        assert_allclose(residuals[:, k], tried[best[k], :, k], rtol=1e-9)
    scaled = (controls - controls.mean(0)) / controls.std(0)
    for k in (0, 1):
        penalty = n * 10.0 ** (best[k] - 6)
        ridge = np.linalg.solve(
            scaled.T @ scaled + penalty * np.eye(3), scaled.T @ (targets[:, k] - targets[:, k].mean())
        )
        assert_allclose(coefficients[:, k], ridge / controls.std(0), rtol=1e-9)


def test_a_control_that_says_all_gives_the_mean_of_the_population() -> None:
    _, controls = population()
    whole = 3 * controls[:, :1] - 2
    mean, _, residuals = regressed_means(whole[:50], controls[:50], controls.mean(0))
    assert_allclose(mean, whole.mean(0), rtol=1e-4)  # the least penalty is 1e-6 of the samples
    assert np.abs(residuals).max() < 1e-3 * whole.std()


@pytest.mark.parametrize("controls", [np.empty((20, 0)), np.ones((20, 2))])
def test_controls_that_say_nothing_give_the_plain_mean(controls: np.ndarray) -> None:
    targets = population(20)[0]
    mean, coefficients, residuals = regressed_means(targets, controls, np.zeros(controls.shape[1]))
    assert_allclose(mean, targets.mean(0), rtol=4 * EPS)
    assert not coefficients.any()
    # sum e^2 / (n - 1) / n with e left out: n/(n - 1) times the plain residuals
    error = np.sqrt(np.square(residuals).sum(0) / 19 / 20)
    assert_allclose(error, targets.std(0, ddof=1) / np.sqrt(20) * 20 / 19, rtol=1e-12)


def test_intervals_cover() -> None:
    """Over 400 draws of 60 of 400 samples: 0.95 within 3 standard errors, and far closer than plain means."""
    targets, controls = population()
    rng = np.random.default_rng(1)
    inside, errors, plain = [], [], []
    for _ in range(400):
        chosen = rng.permutation(400)[:60]
        mean, _, residuals = regressed_means(targets[chosen], controls[chosen], controls.mean(0))
        error = np.sqrt(np.square(residuals).sum(0) / 59 / 60 * (1 - 60 / 400))
        inside.append(np.abs(mean - targets.mean(0)) < 1.96 * error)
        errors.append(np.square(mean - targets.mean(0)))
        plain.append(np.square(targets[chosen].mean(0) - targets.mean(0)))
    assert 0.95 - 3 * np.sqrt(0.95 * 0.05 / 400) - 0.02 < np.mean(inside) < 0.99  # 0.02: the tails are heavy
    assert np.mean(errors) < np.mean(plain) / 3


def test_samples_needed_by_its_own_formula() -> None:
    spread, whole = 2.0, 1000
    n = samples_needed(
        np.array([spread * np.sqrt((1 - 100 / whole) / 100)]), np.array([100.0]), np.array([0.05]), whole
    )
    assert_allclose(spread * np.sqrt((1 - n / whole) / n), 0.05, rtol=1e-12)
    assert samples_needed(np.array([1.0]), np.array([100.0]), np.array([0.0]), whole)[0] == whole
