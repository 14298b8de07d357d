"""Probabilities of signs against closed forms, integrals, another library's numbers, and dense algebra; the bounds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
import torch
from landscape_kernels.evidence import (
    bound_on_draw,
    bound_on_error,
    exact_orthant,
    integrated_orthant,
    inverse_kl,
    laplace_evidence,
    regression_evidence,
    signed_correlations,
)
from landscape_kernels.propagation import propagated_orthant

EPS = np.finfo(np.float64).eps
# Twelve points of a squared exponential kernel. GPy 1.15.0 with its EP (epsilon 1e-13, serial and parallel alike) and
# Laplace gave the numbers below for them.
TIME = np.arange(12.0)
KERNEL = 2 * np.exp(-((TIME[:, None] - TIME) ** 2) / 18) + 0.1 * np.eye(12)
SIGNS = np.where(np.sin(1.3 * TIME + 0.4) > 0, 1.0, -1.0)
GPY_HEAVISIDE, GPY_PROBIT, GPY_LAPLACE = -11.584234019839, -9.695689541891, -9.745622132495


def equal(m: int, rho: float = 0.5) -> np.ndarray:
    """Equal correlations; P = 1 / (m + 1) where they are 1/2."""
    return np.full((m, m), rho) + (1 - rho) * np.eye(m)


def some(m: int, seed: int) -> np.ndarray:
    """Correlations of no pattern."""
    factor = np.random.default_rng(seed).normal(size=(m, m + 1))
    return signed_correlations(factor @ factor.T, np.ones(m))


def test_closed_forms() -> None:
    for m in (1, 2, 3):
        assert math.exp(exact_orthant(equal(m)).log) == pytest.approx(1 / (m + 1), rel=8 * EPS)
    assert math.exp(exact_orthant(equal(2, 0.6)).log) == pytest.approx(0.3524163823495667, rel=8 * EPS)
    three = some(3, 0)
    integral = integrated_orthant(three)
    assert exact_orthant(three).log == pytest.approx(integral.log, abs=6 * integral.error)  # t of 3 degrees
    assert integral.error < 1e-4
    assert exact_orthant(equal(2, -1.0)).log == -math.inf
    with pytest.raises(ValueError, match="4 signs"):
        exact_orthant(equal(4))


@pytest.mark.parametrize("method", [exact_orthant, propagated_orthant])
def test_all_labellings_have_probability_1(method: Callable[..., object]) -> None:
    kernel = some(3, 1) * 4
    logs = [
        method(signed_correlations(kernel, np.array(signs))).log  # type: ignore[attr-defined]
        for signs in itertools.product((1.0, -1.0), repeat=3)
    ]
    assert sum(map(math.exp, logs)) == pytest.approx(1, abs=8 * EPS if method is exact_orthant else 0.03)


@pytest.mark.parametrize(
    ("m", "low"), [(1, 0.0), (2, 0.001815967), (3, 0.003656591), (100, 0.031588412), (1000, 0.0452474)]
)
def test_propagation_is_as_low_as_it_is_known_to_be(m: int, low: float) -> None:
    """P = 1 / (m + 1); GPy's numbers are those at m = 3 and 100 to all digits."""
    found = propagated_orthant(equal(m))
    assert found.log + math.log(m + 1) == pytest.approx(-low, abs=2e-7)
    assert 0 <= found.error < 1e-7
    independent = propagated_orthant(np.eye(min(m, 100)))
    assert independent.log == pytest.approx(-min(m, 100) * math.log(2), rel=1e-12)


def test_another_library_has_these_numbers() -> None:
    heaviside = propagated_orthant(signed_correlations(KERNEL, SIGNS))
    probit = propagated_orthant(signed_correlations(KERNEL + np.eye(12), SIGNS))
    assert heaviside.log == pytest.approx(GPY_HEAVISIDE, abs=2e-7)
    assert probit.log == pytest.approx(GPY_PROBIT, abs=2e-7)
    assert laplace_evidence(KERNEL, SIGNS).log == pytest.approx(GPY_LAPLACE, abs=2e-7)


def test_few_sweeps_are_needed() -> None:
    """Sweeps alone take 10 to 130 of them here; the values are theirs, on and on to 1e-13."""
    stream = np.random.default_rng(7)
    points = stream.normal(size=(150, 20)) + 0.5 * (signs := stream.choice([-1.0, 1.0], 150))[:, None]
    near = signed_correlations(np.exp(-((points[:, None] - points) ** 2).sum(2) / 40), signs)
    for R, value, most in (
        (near, -30.8799572790, 6),
        (some(50, 8), -44.7274413407, 6),
        (equal(100, 0.99), -1.3287665148, 7),
        (equal(10, -0.1), -15.6573140512, 7),
    ):
        found = propagated_orthant(R)
        assert found.log == pytest.approx(value, abs=1e-7)
        assert found.sweeps <= most
        assert found.error < 1e-7


def test_where_looking_ahead_leads_astray_sweeps_go_on() -> None:
    time = np.arange(50.0)
    K = np.exp(-((time[:, None] - time) ** 2) / 18) + 1e-6 * np.eye(50)
    found = propagated_orthant(signed_correlations(K, np.where(np.sin(2 * np.pi * time / 3 + 0.3) > 0, 1.0, -1.0)))
    assert found.sweeps > 12
    assert found.log == pytest.approx(-170.4069198, abs=1e-6)  # nearly impossible


def test_signs_scales_and_order_do_not_matter() -> None:
    stream = np.random.default_rng(2)
    scale, order = stream.uniform(0.1, 10, 12), stream.permutation(12)
    other = (KERNEL * np.outer(scale, scale))[np.ix_(order, order)]
    found = propagated_orthant(signed_correlations(other, -SIGNS[order]))
    assert found.log == pytest.approx(GPY_HEAVISIDE, abs=2e-7)


def test_signs_that_follow_from_others() -> None:
    """Where EP errs most; GPy errs alike. The third sign follows from the first two, and copies from one."""
    factor = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [1, 1, 0.01, 0], [5, 4, 0, 0.1], [3, 1, 1, 1.0]])
    followed = propagated_orthant(signed_correlations(factor @ factor.T, np.ones(5)))
    assert followed.log == pytest.approx(-1.525935950786, abs=2e-7)
    assert propagated_orthant(equal(10, 0.9)).log == pytest.approx(-1.284154348640, abs=2e-7)
    assert propagated_orthant(np.ones((2, 2))).log == pytest.approx(math.log(0.5) - 0.1223988, abs=1e-6)
    assert propagated_orthant(equal(100, 0.99)).log == pytest.approx(-1.328766, abs=1e-5)  # which swings


def test_impossible_labellings() -> None:
    assert propagated_orthant(equal(2, -1.0)).log == -math.inf
    line = np.random.default_rng(3).normal(size=(40, 2))
    rank_two = signed_correlations(line @ line.T, np.random.default_rng(4).choice([-1.0, 1.0], 40))
    found = propagated_orthant(rank_two)
    assert math.isnan(found.log)
    assert found.error == math.inf


def test_integral_with_its_error() -> None:
    for m, seed in ((8, 0), (8, 1)):
        found = integrated_orthant(equal(m), seed)
        assert abs(found.log + math.log(m + 1)) < 6 * found.error
        assert found.error < 1e-3
    assert integrated_orthant(equal(3), 0) == integrated_orthant(equal(3), 0)
    with pytest.raises(ValueError, match="51 signs"):
        integrated_orthant(equal(51))


def test_variances_of_nothing() -> None:
    with pytest.raises(ValueError, match="variance of sample 1 is 0"):
        signed_correlations(np.diag([1.0, 0.0]), np.ones(2))


def test_laplace_by_automatic_derivatives() -> None:
    kernel, signs = some(5, 5) * 3, np.array([1.0, -1, 1, 1, -1])
    K, y = torch.from_numpy(kernel), torch.from_numpy(signs)
    inverse = torch.linalg.inv(K)

    def minus(f: torch.Tensor) -> torch.Tensor:
        return 0.5 * f @ inverse @ f - torch.special.log_ndtr(y * f).sum()

    f = torch.zeros(5, dtype=torch.float64)
    for _ in range(30):
        hessian = torch.autograd.functional.hessian(minus, f)
        f = f - torch.linalg.solve(hessian, torch.autograd.functional.jacobian(minus, f))
    expected = -minus(f) - 0.5 * torch.logdet(hessian) - 0.5 * torch.logdet(K)
    assert laplace_evidence(kernel, signs).log == pytest.approx(float(expected), rel=1e-10)


def test_regression_by_dense_algebra() -> None:
    kernel, signs, noise = some(6, 6) * 2, np.array([1.0, -1, 1, 1, -1, -1]), 0.3
    found = regression_evidence(kernel, signs, noise)
    A = kernel + noise * np.eye(6)
    assert found.log == pytest.approx(scipy.stats.multivariate_normal.logpdf(signs, cov=A), rel=1e-12)
    mean, cov = kernel @ np.linalg.solve(A, signs), kernel - kernel @ np.linalg.solve(A, kernel)
    normal = torch.distributions.MultivariateNormal
    posterior = normal(torch.from_numpy(mean), torch.from_numpy((cov + cov.T) / 2))
    prior = normal(torch.zeros(6, dtype=torch.float64), torch.from_numpy(kernel))
    assert found.kl == pytest.approx(float(torch.distributions.kl_divergence(posterior, prior)), rel=1e-10)
    wrong = scipy.stats.norm.cdf(0, signs * mean, np.sqrt(np.diag(cov))).mean()
    assert found.train_error == pytest.approx(wrong, rel=1e-10)


def test_bounds_of_independent_signs() -> None:
    assert bound_on_error(1000 * math.log(2), 1000) == pytest.approx(0.5107561108, abs=5e-11)
    assert bound_on_draw(-1000 * math.log(2), 1000) == pytest.approx(0.5083436349, abs=5e-11)
    assert bound_on_error(math.inf, 10) == bound_on_draw(-math.inf, 10) == 1
    assert bound_on_draw(-0.7, 1) == 1
    assert math.isnan(bound_on_error(math.nan, 10))
    assert math.isnan(bound_on_draw(math.nan, 1))


@pytest.mark.parametrize(("share", "p"), [(0.0, 0.3), (0.1, 0.3), (0.25, 0.25), (0.9, 0.99)])
def test_inverse_kl(share: float, p: float) -> None:
    kl = float(scipy.stats.entropy([share, 1 - share], [p, 1 - p]))
    assert inverse_kl(share, kl) == pytest.approx(p, abs=1e-7)
    assert inverse_kl(1.0, 0.1) == 1
