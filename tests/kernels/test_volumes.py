"""Volumes from radii and the crossings that radii are, against closed forms, ncx2, mpmath and a plain loop."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from landscape_kernels.crossing import DOUBLINGS, first_crossings
from landscape_kernels.volumes import (
    aggregate,
    log_ball_contributions,
    log_gaussian_contributions,
    log_mean_exp,
    log_radial_integral,
    log_unit_ball,
    tail_index,
)
from scipy.special import gammainc, roots_jacobi
from scipy.stats import chi2, genpareto, ncx2


def sphere(count: int, dimension: int, seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).standard_normal((count, dimension))
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def test_unit_balls() -> None:
    assert math.isclose(log_unit_ball(2), math.log(math.pi))
    mpmath.mp.dps = 40
    for dimension in (7, 10**6, 10**9):
        exact = mpmath.mpf(dimension) / 2 * mpmath.log(mpmath.pi) - mpmath.loggamma(1 + mpmath.mpf(dimension) / 2)
        assert math.isclose(log_unit_ball(dimension), float(exact), rel_tol=1e-14)


@pytest.mark.parametrize("dimension", [1, 2, 5, 40])
@pytest.mark.parametrize("b", [-30.0, -2.0, 0.0, 3.0, 25.0])
def test_radial_integral_against_mpmath(dimension: int, b: float) -> None:
    mpmath.mp.dps = 30
    a = 4.0
    top = (b + math.sqrt(b * b + 4 * a * (dimension - 1))) / (2 * a)
    for r in (1e-3, 0.5 * top + 0.01, top + 0.3, math.inf):
        end = mpmath.inf if r == math.inf else r
        breaks = [*sorted({0, *(x for x in (top, 2 * top + 3) if 0 < x < r)}), end]
        peak = mpmath.mpf(min(r, max(top, 1e-3)))

        def integrand(x: mpmath.mpf, peak: mpmath.mpf = peak) -> mpmath.mpf:  # relative to its value at the peak
            return mpmath.exp(-a * (x * x - peak * peak) / 2 + b * (x - peak)) * (x / peak) ** (dimension - 1)

        height = (dimension - 1) * mpmath.log(peak) - a * peak * peak / 2 + b * peak
        exact = mpmath.log(mpmath.quad(integrand, breaks)) + height
        found = log_radial_integral(np.array([r]), dimension, a, np.array([b]))[0]
        assert found == pytest.approx(float(exact), abs=1e-11, rel=1e-13)


@pytest.mark.parametrize("share", [0.9, 1.0, 1.00002, math.inf])
def test_gaussian_ball_around_its_centre_in_a_billion_dimensions(share: float) -> None:
    """With theta = 0 the probability of a ball is the incomplete gamma function; below e^-700 its series."""
    dimension, sigma = 10**9, 0.03
    radius = share * sigma * math.sqrt(dimension)
    found = log_gaussian_contributions(np.array([radius]), np.ones(1), np.zeros(1), dimension, 0.0, sigma)[0]
    if share >= 1:
        exact = math.log(gammainc(dimension / 2, share**2 * dimension / 2)) if math.isfinite(share) else 0.0
    else:  # P(s, x) = x^s e^-x / Gamma(s + 1) (1 + x / (s + 1) + ...)
        s, x = mpmath.mpf(dimension) / 2, mpmath.mpf(share) ** 2 * dimension / 2
        term = total = mpmath.mpf(1)
        for k in range(1, 400):
            term *= x / (s + k)
            total += term
        exact = float(s * mpmath.log(x) - x - mpmath.loggamma(s + 1) + mpmath.log(total))
    assert found == pytest.approx(exact, abs=2e-5, rel=1e-12)  # eps times terms of 1e10


@pytest.mark.parametrize(("dimension", "radius", "offset"), [(5, 1.0, 3.0), (5, 6.0, 3.0), (50, 4.0, 9.0)])
def test_gaussian_ball_away_from_its_centre_is_a_noncentral_chi_square(
    dimension: int, radius: float, offset: float
) -> None:
    """The mean over directions by Gauss and Jacobi's rule for the cosine of a uniform direction, so without noise."""
    sigma = 0.7
    cosines, weights = roots_jacobi(80, (dimension - 3) / 2, (dimension - 3) / 2)
    ones = np.ones(len(cosines))
    logs = log_gaussian_contributions(radius * ones, ones, offset * cosines, dimension, offset, sigma)
    found = math.log(float(np.exp(logs) @ weights / weights.sum()))
    exact = math.log(ncx2.cdf(radius**2 / sigma**2, dimension, offset**2 / sigma**2))
    assert found == pytest.approx(exact, abs=1e-10)


def test_a_ball_seen_from_beside_its_centre() -> None:
    """Theta lies 3 from the origin and the ball's centre 0.8 nearer to it, so that the sign of a direction matters."""
    dimension, offset, nearer, radius, sigma = 5, 3.0, 0.8, 2.0, 0.7
    cosines, weights = roots_jacobi(120, (dimension - 3) / 2, (dimension - 3) / 2)
    radii = -nearer * cosines + np.sqrt(nearer**2 * cosines**2 + radius**2 - nearer**2)
    logs = log_gaussian_contributions(radii, np.ones(120), offset * cosines, dimension, offset, sigma)
    found = math.log(float(np.exp(logs) @ weights / weights.sum()))
    exact = math.log(ncx2.cdf(radius**2 / sigma**2, dimension, (offset - nearer) ** 2 / sigma**2))
    assert found == pytest.approx(exact, abs=1e-10)


def test_lengths_of_directions_do_not_matter() -> None:
    """v and 2 v to half the radius are one region; its volume is 2^D times that of v's coordinates."""
    radii, along = np.array([0.5, 2.0, 7.0]), np.array([1.0, -0.3, 0.0])
    plain = log_gaussian_contributions(radii, np.ones(3), along, 6, 2.0, 1.5)
    doubled = log_gaussian_contributions(radii / 2, np.full(3, 2.0), along, 6, 2.0, 1.5)
    np.testing.assert_allclose(doubled, plain - 6 * math.log(2), rtol=1e-12)
    with pytest.raises(ValueError, match="need to be"):
        log_radial_integral(radii, 0, 1.0, along)


def ellipsoid(count: int) -> tuple[np.ndarray, float]:
    """Contributions of an ellipsoid sum k x^2 / 2 = 0.01, and its log volume."""
    k, cutoff = np.logspace(-1, 1, 20), 0.01
    radii = np.sqrt(2 * cutoff / (sphere(count, 20) ** 2 @ k))
    return log_ball_contributions(radii, 20), log_unit_ball(20) + 10 * math.log(2 * cutoff) - np.log(k).sum() / 2


def test_ellipsoid_is_biased_low_and_not_believed() -> None:
    logs, exact = ellipsoid(1000)
    assert exact == pytest.approx(-42.777344, abs=1e-6)
    found = aggregate(logs)
    assert found.log_mean_exp < exact - 0.4
    assert found.mean < found.log_mean_exp
    assert not found.believable
    assert found.low < exact < found.high == math.inf


def test_numbers_of_an_aggregate() -> None:
    weights = np.array([1.0, 2.0, 3.0, 10.0])
    found = aggregate(np.log(weights) - 1e6)
    assert found.log_mean_exp == pytest.approx(math.log(4.0) - 1e6)
    assert found.largest_share == pytest.approx(10 / 16)
    assert found.effective_samples == pytest.approx(16**2 / (1 + 4 + 9 + 100))
    assert found.stderr == pytest.approx(weights.std(ddof=1) / 2 / 4)
    assert (found.mean, found.spread) == pytest.approx((np.log(weights).mean() - 1e6, np.log(weights).std(ddof=1)))
    assert not found.believable
    assert found.low == pytest.approx(found.log_mean_exp - math.log(20))
    alike = aggregate(np.full(3, -5e5))
    assert alike.believable
    assert (alike.low, alike.high) == (-5e5, -5e5)
    assert log_mean_exp(np.array([-math.inf, 0.0])) == pytest.approx(-math.log(2))
    endless = aggregate(np.array([1.0, math.inf]))
    assert not endless.believable
    assert endless.log_mean_exp == math.inf
    assert not aggregate(np.zeros(0)).believable


@pytest.mark.parametrize("k", [-0.3, 0.2, 0.7])
def test_tail_index_of_pareto_draws(k: float) -> None:
    draws = [genpareto.rvs(k, size=4000, random_state=seed) for seed in range(40)]
    found = np.array([tail_index(np.log(d + 1.0)) for d in draws])
    # drawn towards 1/2 by 10 of 189 + 10 samples
    expected = (189 * k + 5) / 199
    assert abs(found.mean() - expected) < 3 * found.std(ddof=1) / math.sqrt(len(found)) + 0.02
    assert math.isnan(tail_index(np.zeros(10)))
    assert tail_index(np.zeros(100)) == -math.inf


def quartic(count: int, seed: int) -> tuple[np.ndarray, float]:
    """Contributions of sum k x^4 / 4 = 0.01 in 20 dimensions, and its log volume."""
    k, cutoff = np.logspace(-0.5, 0.5, 20), 0.01
    radii = (4 * cutoff / (sphere(count, 20, seed) ** 4 @ k)) ** 0.25
    exact = 20 * math.log(2 * math.gamma(1.25)) - math.lgamma(6) + 5 * math.log(4 * cutoff) - np.log(k).sum() / 4
    return log_ball_contributions(radii, 20), exact


def test_intervals_cover_where_they_are_believed() -> None:
    """Of 300 repetitions with a spread of about one nat, 90 to 99 % of the believed ones hold the truth."""
    found = [(aggregate(logs), exact) for logs, exact in (quartic(300, seed) for seed in range(300))]
    believed = [one.low <= exact <= one.high for one, exact in found if one.believable]
    others = [one.low <= exact <= one.high for one, exact in found if not one.believable]
    assert len(believed) > 100
    few = 3 * math.sqrt(0.05 * 0.95 / len(believed))
    assert 0.90 - few <= np.mean(believed) <= 0.99
    assert np.mean(others) >= 0.95


def test_a_preconditioned_ellipsoid_needs_one_direction() -> None:
    k, cutoff = np.logspace(-1, 1, 20), 0.01
    scale = k**-0.5 / math.exp(np.log(k**-0.5).mean())
    v = sphere(2, 20) * scale
    found = aggregate(log_ball_contributions(np.sqrt(2 * cutoff / (v**2 @ k)), 20))
    assert found.log_mean_exp == pytest.approx(-42.777344, abs=1e-6)
    assert found.believable


POWERS = np.array([0.7, 1.0, 2.0, 2.0, 4.0, 8.0])
SCALES = np.array([1e-5, 0.3, 1.0, 40.0, 3.0, 1e3])


def powers(which: np.ndarray, radii: np.ndarray) -> np.ndarray:
    return 2.0 + (radii / SCALES[which]) ** POWERS[which]


def test_crossings_of_powers() -> None:
    found = first_crossings(powers, 6, 2.0, 2.25, start=0.2, rtol=1e-9)
    np.testing.assert_allclose(found.radii, SCALES * 0.25 ** (1 / POWERS), rtol=1e-9)
    one = first_crossings(lambda which, r: 3 * r * r, 50, 0.0, 0.1, start=0.2)
    np.testing.assert_allclose(one.radii, math.sqrt(0.1 / 3), rtol=1e-6)
    assert one.evaluations < 5 * 50


def test_crossings_of_steps_of_bends_and_of_none() -> None:
    def values(which: np.ndarray, radii: np.ndarray) -> np.ndarray:
        step = np.where(radii < 0.37, 0.0, 1.0)
        dips = radii**2 - 0.5 * np.minimum(radii, 0.1)  # falls below the centre first
        flat = 0.1 * np.tanh(radii)
        broken = np.where(radii < 2.5, 0.0, np.nan)
        return np.choose(which, [step, dips, flat, broken, np.expm1(np.minimum(radii, 9.0))])

    found = first_crossings(values, 5, 0.0, 0.25, start=1.0, rtol=1e-7).radii
    np.testing.assert_allclose(found[[0, 1, 3, 4]], [0.37, math.sqrt(0.3), 2.5, math.log(1.25)], rtol=1e-6)
    assert found[2] == math.inf
    far = first_crossings(lambda w, r: r / 2.0 ** (DOUBLINGS - 1), 1, 0.0, 0.25, start=1.0).radii[0]
    assert far == pytest.approx(2.0 ** (DOUBLINGS - 3))
    with pytest.raises(ValueError, match="not above"):
        first_crossings(values, 5, 1.0, 0.5)


def test_the_first_of_several_crossings() -> None:
    """Up at 1, down at 3, up for good at 9: steps of a factor of two cannot pass over what is wider than that."""

    def values(which: np.ndarray, radii: np.ndarray) -> np.ndarray:
        return (((radii > 1) & (radii < 3)) | (radii > 9)) * 1.0

    for start in (0.01, 0.3, 0.9):
        assert first_crossings(values, 1, 0.0, 0.5, start=start).radii[0] == pytest.approx(1.0, rel=1e-6)


def test_chi2_in_many_dimensions_from_directions() -> None:
    logs = log_gaussian_contributions(np.full(3, 10.0), np.ones(3), np.zeros(3), 100, 0.0, 1.0)
    np.testing.assert_allclose(logs, math.log(chi2.cdf(100.0, 100)), rtol=1e-12)
