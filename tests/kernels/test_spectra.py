"""Spectra of matrices, power laws and the law of Marchenko and Pastur against closed forms and naive twins."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from landscape_kernels.marchenko_pastur import fit_bulk, mp_density, mp_median, tracy_widom_quantile
from landscape_kernels.powerlaw import (
    fit_exponential,
    fit_power_law,
    fit_truncated,
    power_law_loglik,
)
from landscape_kernels.spectra import (
    density_distance,
    entropy,
    gram_spectrum,
    jensen_shannon,
    log_schatten,
    rank,
    rounding_floor,
    stable_rank,
)
from landscape_kernels.weightwatcher import clipped_power_law, linear_density, power_law, random_distance
from scipy import stats
from scipy.special import expn, gammaincc, gammaln
from shared import shared


def quantiles(alpha: float, n: int) -> np.ndarray:
    """The n middle quantiles of x^-alpha on [1, inf)."""
    return (1 - (np.arange(n) + 0.5) / n) ** (-1 / (alpha - 1))


def gaussian(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def naive_fit(x: np.ndarray, fewest: int, two_sided: bool) -> list[tuple[float, float, float, int]]:
    """(D, alpha, xmin, tail) of every start, one after another."""
    x = np.sort(x)
    found = []
    for xmin in np.unique(x):
        tail = x[x >= xmin]
        n = len(tail)
        total = math.fsum(math.log(v / xmin) for v in tail)
        if n < fewest or total <= 0:
            continue
        alpha = 1 + n / total
        law = 1 - (tail / xmin) ** (1 - alpha)
        D = max(abs(law[k] - k / n) for k in range(n))
        if two_sided:
            D = max(D, *(abs(law[k] - (k + 1) / n) for k in range(n)))
        found.append((D, alpha, xmin, n))
    return sorted(found)


@pytest.mark.parametrize("shape", [(7, 7), (30, 11), (11, 30), (1, 5)])
def test_eigenvalues_are_squares_of_singular_values(shape: tuple[int, int]) -> None:
    w = gaussian(0, *shape)
    exact = np.linalg.svd(w, compute_uv=False)[::-1] ** 2
    found = gram_spectrum(w)
    np.testing.assert_allclose(found, exact, rtol=1e-12, atol=1e-14 * exact[-1])
    for scale in (1e-120, 1e150):
        np.testing.assert_allclose(gram_spectrum(scale * w) / scale / scale, exact, rtol=1e-11, atol=1e-13 * exact[-1])


def test_lost_digits_of_the_gram_matrix_are_found_by_singular_values() -> None:
    """Rank 3 of 8 in float64: the other five singular values are rounding, 1e-16, not the root of it."""
    w = gaussian(1, 20, 3) @ gaussian(2, 3, 8)
    found = gram_spectrum(w)
    assert (found >= 0).all()
    assert rank(found, 20, 8, 1, np.finfo(float).eps) == 3
    assert found[:5].max() < 1e-28 * found[-1]


def test_what_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        gram_spectrum(np.array([[1.0, math.nan]]))


def test_closed_forms() -> None:
    x = gram_spectrum(np.diag([1.0, 2.0, 4.0]))
    np.testing.assert_allclose(x, [1, 4, 16], rtol=1e-15)
    assert stable_rank(x) == pytest.approx(1.3125, rel=1e-15)
    assert entropy(x) == pytest.approx(0.608056, abs=5e-7)
    assert log_schatten(x, 2.0) == pytest.approx(math.log10(1 + 16 + 256), rel=1e-15)
    assert log_schatten(x, 1000.0) == pytest.approx(1000 * math.log10(16), rel=1e-15)
    same = gram_spectrum(3 * np.eye(5))
    assert stable_rank(same) == pytest.approx(5)
    assert entropy(same) == pytest.approx(1)
    assert np.array_equal(gram_spectrum(np.zeros((3, 2))), [0, 0])


def test_rank_by_the_stored_precision() -> None:
    """A product of rank 20 that was stored in float32 has rank 20 there, and 64 by the rounding of float64."""
    w = (gaussian(3, 128, 20) @ gaussian(4, 20, 64)).astype(np.float32)
    x = gram_spectrum(w)
    assert rank(x, 128, 64, 1, float(np.finfo(np.float32).eps)) == 20
    assert rank(x, 128, 64, 1, float(np.finfo(np.float64).eps)) == 64


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_floor_of_rounding_lies_close_above_it(dtype: torch.dtype) -> None:
    """A product of rank 5, as it is stored: what rounding adds is below the floor, and above a sixteenth of it."""
    w = torch.from_numpy(gaussian(3, 300, 5) @ gaussian(4, 5, 100)).to(dtype).double().numpy()
    x, eps = gram_spectrum(w), torch.finfo(dtype).eps
    floor = rounding_floor(x, 300, 100, 1, eps)
    assert floor / 16 < x[-6] < floor < x[-5]
    assert rank(x, 300, 100, 1, eps) == 5


@pytest.mark.parametrize(("alpha", "found"), [(2, 2.00425), (3, 3.00851), (4.5, 4.51489)])
def test_quantiles_of_a_power_law(alpha: float, found: float) -> None:
    law = fit_power_law(quantiles(alpha, 200), fewest=2, two_sided=False)
    assert law is not None
    assert law.alpha == pytest.approx(found, abs=5e-6)
    assert pytest.approx(0.0033645, abs=5e-8) == law.D
    assert law.tail == 200
    assert law.sigma == pytest.approx((law.alpha - 1) / math.sqrt(200))


@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_bounds_find_what_every_start_finds(seed: int, two_sided: bool) -> None:
    """The same D, alpha and range of alphas as one start after another, with equal values among them."""
    x = gram_spectrum(gaussian(seed, 120, 60)) if seed % 2 else np.random.default_rng(seed).pareto(1.5, 300) + 1
    x = np.concatenate([x, x[:7]])
    fits = naive_fit(x, 10, two_sided)
    law = fit_power_law(x, two_sided=two_sided)
    assert law is not None
    assert pytest.approx(fits[0][0], rel=1e-11) == law.D
    assert (law.alpha, law.xmin, law.tail) == pytest.approx(fits[0][1:], rel=1e-11)
    near = [fit[1] for fit in fits if fit[0] <= 1.05 * fits[0][0]]
    assert law.near == pytest.approx((min(near), max(near)), rel=1e-11)


def test_no_power_law() -> None:
    assert fit_power_law(np.ones(50)) is None
    assert fit_power_law(np.arange(1.0, 6)) is None


def test_scale_does_not_matter() -> None:
    x = gram_spectrum(gaussian(8, 90, 40))
    one, other = fit_power_law(x), fit_power_law(x * 1e-9)
    assert one is not None
    assert other is not None
    assert other.alpha == pytest.approx(one.alpha, rel=1e-9)
    assert pytest.approx(one.D, rel=1e-9) == other.D


@pytest.mark.parametrize("name", ["good", "mediocre", "bad"])
def test_published_eigenvalues(name: str) -> None:
    """Those of language models, with fits of another program."""
    fits = json.loads(shared("reference", "ww077_shared.json").read_text())["nlp_evals"]["fits"][name]
    with np.load(shared("reference", "ww_nlp_evals.npz")) as file:
        x = next(file[key] for key in file.files if name in key)
    x = x[x > 1e-5]
    law = fit_power_law(x, fewest=2, two_sided=False)
    assert law is not None
    assert [law.alpha, law.xmin, law.D, law.tail] == pytest.approx(
        [fits[key] for key in ("alpha", "xmin", "D", "n_tail")], rel=1e-10
    )
    tail = x[x >= law.xmin]
    assert power_law_loglik(tail, law.xmin, law.alpha) == pytest.approx(fits["power_law_loglik"], rel=1e-10)
    for key, least in (("tpl_free", -math.inf), ("tpl_beta_ge_1", 1.0)):
        found = fit_truncated(tail, law.xmin, least_beta=least)
        assert found is not None
        assert found.loglik == pytest.approx(fits[key]["loglik"], rel=1e-10)
        assert [found.beta, found.Lambda] == pytest.approx([fits[key]["beta"], fits[key]["Lambda"]], rel=1e-7)
    exponential = fit_exponential(tail, law.xmin)
    assert exponential is not None
    assert exponential.Lambda == pytest.approx(fits["exponential"]["Lambda"], rel=1e-10)
    assert exponential.loglik == pytest.approx(fits["exponential"]["loglik"], rel=1e-10)


def test_alpha_of_noise_is_any_number() -> None:
    """Of 100 normal matrices 300 x 100, by another program: mean 7.6, standard deviation 3.7, 42 % from 2 to 6."""
    alphas = np.array([power_law(gram_spectrum(gaussian(seed, 300, 100))).alpha for seed in range(100)])
    assert alphas.mean() == pytest.approx(7.6, abs=3 * 3.7 * math.sqrt(2 / 100))
    inside = ((alphas >= 2) & (alphas <= 6)).mean()
    assert inside == pytest.approx(0.42, abs=3 * math.sqrt(0.42 * 0.58 * 2 / 100))


@pytest.mark.parametrize("side", [60, 150])
def test_the_noise_of_a_square_matrix_has_any_scale(side: int) -> None:
    for scale in (1e-3, 1.0, 40.0):
        bulk = fit_bulk(gram_spectrum(scale * gaussian(side, side, side)), side, side)
        assert bulk is not None
        assert bulk.sigma == pytest.approx(scale, rel=0.05)
        assert bulk.high == pytest.approx(4 * side * scale**2, rel=0.1)
        assert bulk.spikes == 0


def test_a_truncated_power_law_is_no_less_likely_than_what_it_contains() -> None:
    for seed in range(5):
        tail = np.random.default_rng(seed).pareto(2.0, 80) + 1
        power = power_law_loglik(tail, 1.0, 1 + 80 / float(np.log(tail).sum()))
        exponential, truncated = fit_exponential(tail, 1.0), fit_truncated(tail, 1.0)
        assert exponential is not None
        assert truncated is not None
        assert truncated.loglik >= max(power, exponential.loglik) - 1e-9
        assert truncated.Lambda >= 0


@pytest.mark.parametrize("least_beta", [-math.inf, 1.0])
def test_a_truncated_power_law_is_the_most_likely(least_beta: float) -> None:
    """Of short tails at the edge of noise, beta -50 and below: likelihood and slopes by scipy's gamma function."""
    x = gram_spectrum(gaussian(21, 300, 200))
    for start in (100, 180, 189):
        tail, xmin = x[start:], x[start]
        found = fit_truncated(tail, xmin, least_beta=least_beta)
        assert found is not None

        def loglik(beta: float, rate: float, tail: np.ndarray = tail, xmin: float = xmin) -> float:
            z = rate * xmin
            part = expn(1, z) if beta == 1 else gammaincc(1 - beta, z) * math.exp(gammaln(1 - beta))
            log_z = math.log(part) + (beta - 1) * math.log(z)
            t = tail / xmin
            return float(-(beta * np.log(t) + z * t).sum() - tail.size * (log_z + math.log(xmin)))

        assert found.loglik == pytest.approx(loglik(found.beta, found.Lambda), rel=1e-10)
        for beta, rate in ((0, 1e-3), (0, -1e-3), (-1e-2, 0), *([] if found.beta == 1 else [(1e-2, 0)])):
            moved = found.beta * (1 + beta), found.Lambda * (1 + rate)
            assert loglik(*moved) < found.loglik or moved[0] < least_beta
        assert found.beta == 1 if least_beta == 1 else found.beta < -1


def test_the_law_of_marchenko_and_pastur() -> None:
    """Mass 1, mean 1, half of it below the median; for square matrices, too."""
    for ratio in (0.1, 0.5, 1.0):
        a, b = (1 - math.sqrt(ratio)) ** 2, (1 + math.sqrt(ratio)) ** 2
        t = (np.arange(200_000) + 0.5) * math.pi / 200_000
        x, dx = a + (b - a) * np.sin(t / 2) ** 2, (b - a) / 2 * np.sin(t) * math.pi / 200_000
        p = mp_density(x, ratio) * dx
        assert p.sum() == pytest.approx(1, abs=1e-5)
        assert (p @ x) == pytest.approx(1, abs=1e-5)
        assert p[x < mp_median(ratio)].sum() == pytest.approx(0.5, abs=8e-6)


@pytest.mark.parametrize(("p", "value"), [(0.5, -1.2686), (0.95, 0.9793), (0.99, 2.0234)])
def test_quantiles_of_tracy_and_widom(p: float, value: float) -> None:
    """Published quantiles for real matrices."""
    assert tracy_widom_quantile(p) == pytest.approx(value, abs=0.01)


@pytest.mark.parametrize("p", [1e-6, 0.05, 0.95, 0.95 ** (1 / 4096)])
def test_the_gamma_law_behind_it_is_that_of_scipy(p: float) -> None:
    law = stats.gamma(46.446, loc=-9.84801, scale=0.186054)
    assert tracy_widom_quantile(p) == pytest.approx(law.ppf(p), abs=1e-8)  # torch has the law to 1e-10 of its mean


def test_noise_has_few_spikes_and_planted_ones_are_found() -> None:
    """An eigenvalue four Tracy-Widom scales above the edge: found in 90 % of draws, alarms in 10 % of them.

    A matrix of rank one is added, too, that puts it there on average. It then scatters by 2.6 scales of its own, and
    0.88 is what a normal law of that width has above the 95 % quantile, whatever is known of the noise.
    """
    n, m, draws = 300, 100, 60
    alarms = placed = added = 0
    scale = (math.sqrt(n) + math.sqrt(m)) * (n**-0.5 + m**-0.5) ** (1 / 3)
    goal = (math.sqrt(n) + math.sqrt(m)) ** 2 + 4 * scale
    # where the largest eigenvalue of a spike of strength theta lies: (1 + t)(c + t) / t, t = theta^2
    c = m / n
    b = goal / n - 1 - c
    t = (b + math.sqrt(b * b - 4 * c)) / 2
    for seed in range(draws):
        uniform = np.random.default_rng(seed).uniform(-math.sqrt(3), math.sqrt(3), (n, m))
        w = gaussian(seed, n, m) if seed % 2 else uniform
        bulk = fit_bulk(gram_spectrum(w), n, m)
        assert bulk is not None
        assert bulk.sigma == pytest.approx(1, abs=0.05)
        alarms += bulk.spikes > 0
        x = gram_spectrum(w)
        x[-1] = goal
        u, v = gaussian(seed + 1000, n), gaussian(seed + 2000, m)
        spike = math.sqrt(t * n) * np.outer(u / np.linalg.norm(u), v / np.linalg.norm(v))
        one, other = fit_bulk(x, n, m), fit_bulk(gram_spectrum(w + spike), n, m)
        assert one is not None
        assert other is not None
        placed += one.spikes > 0
        added += other.spikes > 0
    assert alarms <= 0.1 * draws
    assert placed >= 0.9 * draws
    assert added >= 0.88 * draws - 3 * math.sqrt(draws * 0.88 * 0.12)


def test_distances_of_spectra() -> None:
    p, q = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    assert jensen_shannon(p, q) == pytest.approx(math.sqrt(math.log(2)))
    assert jensen_shannon(p, p) == 0
    x = gram_spectrum(gaussian(5, 60, 30))
    assert density_distance(x, x) == 0
    assert density_distance(x, x * 1e6) == pytest.approx(math.sqrt(math.log(2)))
    assert density_distance(7 * x, 7 * x[:20]) == pytest.approx(density_distance(x, x[:20]), rel=1e-9)
    assert random_distance(x, x) == 0


def test_a_clipped_fit_fails_where_one_of_those_it_tries_cannot_be_made() -> None:
    """11 values, of which the tool fits down to 2, and then tries 1; its alpha without them is plain."""
    x = np.array([0.13, 0.14, 0.17, 0.21, 0.28, 0.32, 0.6, 0.69, 0.89, 1.0, 7.84])
    assert clipped_power_law(x).fit.tail == clipped_power_law(x).whole.tail == -1
    assert power_law(x).alpha > 1


def test_the_linear_density_is_a_sum_of_triangles() -> None:
    values, x = np.random.default_rng(0).random(50), np.linspace(-0.2, 1.3, 40)
    naive = [np.maximum(0, 1 - np.abs(a - values) / 0.1).mean() / 0.1 for a in x]
    np.testing.assert_allclose(linear_density(values, x), naive, atol=1e-12)
