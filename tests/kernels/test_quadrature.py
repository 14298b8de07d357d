"""Spectral densities, moments and distances from Gauss quadratures, against dense spectra."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from landscape_kernels.krylov import eigenpairs, lanczos_quadrature, lanczos_quadratures
from landscape_kernels.operators import DeflatedOperator, MatrixOperator, complement
from landscape_kernels.probes import rademacher_vector
from landscape_kernels.quadrature import combine, density, moments, wasserstein
from scipy.stats import norm, wasserstein_distance
from torch import Tensor

FloatArray = npt.NDArray[np.float64]
SIZE = 200
SPECTRUM = np.concatenate([np.linspace(30, 12, 5), np.random.default_rng(3).standard_normal(SIZE - 5)])


def dense(values: FloatArray) -> Tensor:
    Q = np.linalg.qr(np.random.default_rng(0).standard_normal((len(values), len(values))))[0]
    A = (Q * values) @ Q.T
    return torch.from_numpy((A + A.T) / 2)


def probes(count: int, seed: int = 0) -> Tensor:
    return torch.stack([rademacher_vector(SIZE, seed, i) for i in range(count)])


def quadratures(count: int, steps: int, seed: int = 0) -> tuple[list[FloatArray], list[FloatArray]]:
    nodes, weights = zip(*lanczos_quadratures(MatrixOperator(dense(SPECTRUM)), probes(count, seed), steps), strict=True)
    return list(nodes), list(weights)


def deflated(count: int, steps: int) -> tuple[list[FloatArray], list[FloatArray], FloatArray]:
    operator = MatrixOperator(dense(SPECTRUM))
    top = eigenpairs(operator, 5, tol=1e-8).largest
    starts = complement(probes(count), top.vectors)
    found = lanczos_quadratures(DeflatedOperator(operator, top.vectors), starts, steps)
    return [n for n, _ in found], [w for _, w in found], top.values


def test_moments_are_those_of_the_matrix_to_degree_2m_minus_1() -> None:
    A, z = dense(SPECTRUM), probes(1)[0]
    found = moments(*lanczos_quadrature(MatrixOperator(A), z, 4), 8)
    v = z / z.norm()
    expected = np.array([float(v @ torch.linalg.matrix_power(A, q) @ v) for q in range(9)])
    np.testing.assert_allclose(found[:8], expected[:8], rtol=1e-12)
    assert found[8] < expected[8] * (1 - 1e-6)  # a Gauss rule falls short of the next even moment


def broadened(grid: FloatArray, eigenvalues: FloatArray, width: float) -> FloatArray:
    return np.mean([norm.pdf(grid, e, width) for e in eigenvalues], axis=0)


def test_density_of_the_full_measure_is_the_broadened_spectrum() -> None:
    spectrum = SPECTRUM[::5]
    eye = torch.eye(len(spectrum), dtype=torch.float64)  # unit vectors see the trace exactly
    found = lanczos_quadratures(MatrixOperator(dense(spectrum)), eye, len(spectrum))
    result = density([n for n, _ in found], [w for _, w in found], size=len(spectrum))
    assert result.width == pytest.approx(0.01 * (spectrum.max() - spectrum.min()))
    np.testing.assert_allclose(result.values, broadened(result.grid, spectrum, result.width), atol=1e-9)
    assert result.integral == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize("exact", [False, True])
def test_density_integrates_to_one_and_its_grid_covers_all_nodes(exact: bool) -> None:
    nodes, weights, values = deflated(4, 20) if exact else (*quadratures(4, 20), None)
    for points, width in ((200, 0.01), (1024, 0.01), (2000, 0.1)):
        result = density(nodes, weights, exact=values, size=SIZE, points=points, width=width)
        assert result.grid.shape == result.values.shape == result.lower.shape == result.upper.shape == (points,)
        assert result.integral == pytest.approx(1, abs=1e-8)
        assert result.grid[0] < min(n.min() for n in nodes)
        assert result.grid[-1] > 30 + 5 * result.width


def test_outliers_have_weight_one_over_size_and_no_error() -> None:
    nodes, weights, values = deflated(6, 30)
    result = density(nodes, weights, exact=values, size=SIZE, points=4000)
    for outlier in SPECTRUM[:5]:
        near = np.abs(result.grid - outlier) < 5 * result.width
        assert np.trapezoid(result.values[near], result.grid[near]) == pytest.approx(1 / SIZE, rel=1e-4)
        np.testing.assert_allclose(result.upper[near], result.lower[near], atol=1e-9)
    plain = density(*quadratures(6, 30), size=SIZE, points=4000)
    assert (plain.upper - plain.lower)[np.abs(plain.grid - 30) < plain.width].min() > 1e-4


def test_bands_cover_the_density_of_the_spectrum() -> None:
    values, vectors = np.linalg.eigh(dense(SPECTRUM[5:]).numpy())
    inside = []
    for seed in range(200):
        z = np.random.default_rng(seed).choice([-1.0, 1.0], (20, len(values)))
        weights = list((z @ vectors) ** 2 / len(values))  # what quadrature converges to
        result = density([values] * 20, weights, size=len(values), points=300, width=0.05)
        truth = broadened(result.grid, values, result.width)
        inside.append(np.mean((result.lower <= truth) & (truth <= result.upper), where=truth > 1e-2))
    assert 0.90 <= np.mean(inside) <= 0.99


def test_the_band_is_two_standard_errors_of_the_probes() -> None:
    nodes, weights = quadratures(5, 10)
    result = density(nodes, weights, size=SIZE)
    curves = [
        sum(w * norm.pdf(result.grid, n, result.width) for n, w in zip(*p, strict=True))
        for p in zip(nodes, weights, strict=True)
    ]
    stderr = np.std(np.array(curves), axis=0, ddof=1) / math.sqrt(5)
    np.testing.assert_allclose(result.values, np.mean(np.array(curves), axis=0), atol=1e-12)
    np.testing.assert_allclose(result.upper - result.values, 2 * stderr, atol=1e-12)
    single = density(nodes[:1], weights[:1], size=SIZE)
    assert np.isnan(single.lower).all()
    assert np.isfinite(single.values).all()


def test_all_eigenvalues_known_need_no_probe() -> None:
    result = density([], [], exact=SPECTRUM, size=SIZE)
    np.testing.assert_allclose(result.values, broadened(result.grid, SPECTRUM, result.width), atol=1e-12)
    assert np.array_equal(result.lower, result.upper)


@pytest.mark.parametrize("value", [0.0, -3.0, 1e-8])
def test_a_spectrum_of_one_value_has_a_width(value: float) -> None:
    result = density([np.array([value])], [np.array([1.0])], size=10)
    assert result.width == pytest.approx(0.01 * (abs(value) or 1))
    assert result.integral == pytest.approx(1, abs=1e-8)


def test_combined_measures_have_the_moments_of_the_spectrum() -> None:
    nodes, weights, values = deflated(40, 30)
    points, masses = combine(nodes, weights, exact=values, size=SIZE)
    assert np.all(np.diff(points) >= 0)
    assert masses.sum() == pytest.approx(1, abs=1e-14)
    truth = moments(SPECTRUM, np.full(SIZE, 1 / SIZE), 2)
    single = [moments(*combine([n], [w], exact=values, size=SIZE), 2) for n, w in zip(nodes, weights, strict=True)]
    stderr = np.std(single, axis=0, ddof=1) / math.sqrt(40)
    assert np.all(np.abs(moments(points, masses, 2) - truth) <= 3 * stderr + 1e-12)
    assert wasserstein(points, masses, SPECTRUM) < 0.25 * wasserstein(*combine(*quadratures(1, 3), size=SIZE), SPECTRUM)


def test_wasserstein_is_scipys() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        nodes, weights, eigenvalues = rng.normal(size=9), rng.random(9), rng.normal(size=30)
        weights /= weights.sum()
        expected = wasserstein_distance(nodes, eigenvalues, weights)
        assert wasserstein(nodes, weights, eigenvalues) == pytest.approx(expected, rel=1e-12)
    assert wasserstein(eigenvalues, np.full(30, 1 / 30), eigenvalues) == pytest.approx(0, abs=1e-15)


def test_what_cannot_be_shown_is_refused() -> None:
    nodes, weights = [np.array([0.0, 1.0])], [np.array([0.5, 0.5])]
    with pytest.raises(ValueError, match="at least 77"):
        density(nodes, weights, size=10, points=76, width=1 / 64)
    assert density(nodes, weights, size=10, points=77, width=1 / 64).integral == pytest.approx(1, abs=1e-7)
    with pytest.raises(ValueError, match="no probe for the 9 eigenvalues"):
        density([], [], exact=np.array([1.0]), size=10)
    with pytest.raises(ValueError, match="2 exact eigenvalues of an operator of size 1"):
        combine(nodes, weights, exact=np.array([1.0, 2.0]), size=1)
