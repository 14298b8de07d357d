"""Trace and Frobenius norm from random probes: exact cases, unbiasedness, and errors that cover as they say."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from landscape_kernels.krylov import eigenpairs
from landscape_kernels.moments import ratio
from landscape_kernels.operators import CountedOperator, MatrixOperator
from landscape_kernels.probes import normal_vector, rademacher_vector
from landscape_kernels.trace import Estimate, frobenius, probe, trace, two_way, xtrace
from torch import Tensor

FloatArray = npt.NDArray[np.float64]
DTYPES = [torch.float64, torch.float32]
SIZE = 120
RUNS = 200


def dense(values: FloatArray, seed: int = 0) -> Tensor:
    """A symmetric matrix with the given eigenvalues and random eigenvectors."""
    Q = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(values), len(values))))[0]
    A = (Q * values) @ Q.T
    return torch.from_numpy((A + A.T) / 2)


def bulk(size: int) -> FloatArray:
    return np.random.default_rng(3).standard_normal(size)


def outliers(size: int = SIZE) -> FloatArray:
    return np.concatenate([np.linspace(100, 12, 10), 5 / np.arange(1.0, size - 9)])


def signs(count: int, *keys: str | int, size: int = SIZE) -> Tensor:
    return torch.stack([rademacher_vector(size, 0, "probe", *keys, i) for i in range(count)])


def normals(count: int, *keys: str | int, size: int = SIZE) -> Tensor:
    return torch.stack([normal_vector(size, 0, "probe", *keys, i) for i in range(count)])


def coverage(estimates: list[Estimate], truth: float) -> float:
    return float(np.mean([abs(e.value - truth) < 2 * e.stderr for e in estimates]))


def rms(estimates: list[Estimate], truth: float) -> float:
    return math.sqrt(np.mean([(e.value - truth) ** 2 for e in estimates]))


def assert_unbiased(estimates: list[Estimate], truth: float) -> None:
    values = np.array([e.value for e in estimates])
    assert abs(values.mean() - truth) < 3 * values.std(ddof=1) / math.sqrt(len(values))


def test_random_signs_are_signs_and_depend_on_seed_and_keys_alone() -> None:
    z = rademacher_vector(20_001, 3, "probe", 0)
    assert set(z.tolist()) == {-1.0, 1.0}
    torch.manual_seed(99)
    assert torch.equal(z, rademacher_vector(20_001, 3, "probe", 0))
    bound = 3 * math.sqrt(20_001)
    assert abs(float(z.sum())) < bound
    others = [rademacher_vector(20_001, 3, "probe", 1), rademacher_vector(20_001, 4, "probe", 0), z.roll(1), z.roll(8)]
    for other in others:
        assert abs(float(z @ other)) < bound


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_probe_gives_the_quadratic_form_and_the_square_of_its_product(dtype: torch.dtype) -> None:
    A, z = dense(bulk(SIZE)), signs(3)
    V = torch.linalg.qr(normals(4, "basis").T).Q.T.contiguous()
    P = torch.eye(SIZE, dtype=torch.float64) - V.T @ V
    counted = CountedOperator(MatrixOperator(A.to(dtype)))
    tolerance = 100 * torch.finfo(dtype).eps
    for vectors, B in ((None, A), (V.to(dtype), P @ A @ P)):
        found = probe(counted, z.to(dtype), vectors)
        np.testing.assert_allclose(found.quadratics, torch.einsum("bi,ij,bj->b", z, B, z), atol=tolerance * SIZE)
        np.testing.assert_allclose(found.squares, (z @ B).square().sum(1), rtol=tolerance)
        alone = probe(counted, z[1:2].to(dtype), vectors)
        np.testing.assert_allclose(alone.quadratics, found.quadratics[1:2], rtol=tolerance)
    assert (counted.products, counted.passes) == (8, 4)


def test_exact_cases_have_no_error() -> None:
    diagonal = probe(MatrixOperator(torch.diag(torch.arange(5.0).double())), signs(3, size=5))
    assert trace(diagonal.quadratics) == Estimate(10.0, 0.0)  # random signs see a diagonal exactly
    found = frobenius(diagonal.squares)
    assert (found.value, found.stderr) == (pytest.approx(math.sqrt(30)), 0.0)
    zero = probe(MatrixOperator(torch.zeros(5, 5).double()), signs(3, size=5))
    assert frobenius(zero.squares) == Estimate(0.0, 0.0)
    whole = probe(MatrixOperator(dense(bulk(6))), signs(2, size=6), torch.eye(6, dtype=torch.float64))
    assert trace(whole.quadratics, np.array([4.0, 3.0])) == Estimate(7.0, 0.0)
    assert math.isnan(trace(np.array([1.0])).stderr)


def plain_runs(A: Tensor, count: int) -> list[tuple[Estimate, Estimate]]:
    operator = MatrixOperator(A)
    found = [probe(operator, signs(count, run, size=len(A))) for run in range(RUNS)]
    return [(trace(p.quadratics), frobenius(p.squares)) for p in found]


def test_hutchinson_is_unbiased_and_its_errors_cover() -> None:
    spectrum = bulk(SIZE)
    runs = plain_runs(dense(spectrum), 30)
    traces, norms = [t for t, _ in runs], [f for _, f in runs]
    assert_unbiased(traces, spectrum.sum())
    assert 0.90 <= coverage(traces, spectrum.sum()) <= 0.99
    assert 0.90 <= coverage(norms, np.linalg.norm(spectrum)) <= 0.99
    # the variance of random signs: 2 (|A|_F^2 - sum a_ii^2) / p
    A = dense(spectrum)
    expected = math.sqrt(2 * float(A.square().sum() - A.diagonal().square().sum()) / 30)
    assert rms(traces, spectrum.sum()) == pytest.approx(expected, rel=3 / math.sqrt(2 * RUNS))


def deflated_runs(A: Tensor, k: int, count: int) -> tuple[list[tuple[Estimate, Estimate]], int]:
    operator = MatrixOperator(A)
    found = eigenpairs(operator, k)
    top = found.largest
    probes = [probe(operator, signs(count, run, size=len(A)), top.vectors) for run in range(RUNS)]
    return [
        (trace(p.quadratics, top.values), frobenius(p.squares, top.values, top.residuals)) for p in probes
    ], found.products


def test_deflation_is_unbiased_covers_and_beats_twice_the_probes() -> None:
    spectrum = outliers(400)
    A = dense(spectrum)
    runs, _ = deflated_runs(A, 10, 20)
    traces, norms = [t for t, _ in runs], [f for _, f in runs]
    assert_unbiased(traces, spectrum.sum())
    assert 0.90 <= coverage(traces, spectrum.sum()) <= 0.99
    assert 0.90 <= coverage(norms, np.linalg.norm(spectrum)) <= 0.99
    plain = [t for t, _ in plain_runs(A, 40)]
    assert rms(traces, spectrum.sum()) <= 0.4 * rms(plain, spectrum.sum())


def test_deflating_vectors_that_are_no_eigenvectors_leaves_no_bias() -> None:
    spectrum = bulk(SIZE)
    A = dense(spectrum)
    V = torch.linalg.qr(normals(20, "basis").T).Q.T.contiguous()
    exact = (V @ A * V).sum(1).numpy()
    runs = [trace(probe(MatrixOperator(A), signs(20, run), V).quadratics, exact) for run in range(RUNS)]
    assert_unbiased(runs, spectrum.sum())


def test_the_frobenius_norm_counts_the_coupling_of_ritz_vectors() -> None:
    A = dense(bulk(30))
    found = eigenpairs(MatrixOperator(A), 5, max_products=6)
    top = found.largest
    assert top.residuals.max() > 0.1
    P = torch.eye(30, dtype=torch.float64) - top.vectors.T @ top.vectors
    rest = float((P @ A @ P).square().sum())
    assert frobenius(np.array([rest, rest]), top.values, top.residuals).value == pytest.approx(float(A.norm()))


def naive_xtrace(A: Tensor, omega: Tensor) -> Estimate:
    """Every leave-one-out projector from a factorisation of its own."""
    count, size = omega.shape
    values = []
    for i in range(count):
        others = torch.cat([omega[:i], omega[i + 1 :]]) @ A
        Q = torch.linalg.qr(others.T).Q
        u = omega[i] - Q @ (Q.T @ omega[i])
        values.append(float((Q.T @ A @ Q).trace() + (size - count + 1) / (u @ u) * (u @ A @ u)))
    return Estimate(float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(count))


@pytest.mark.parametrize("spectrum", [bulk(40), outliers(40), np.ones(40)], ids=["bulk", "outliers", "identity"])
@pytest.mark.parametrize("count", [2, 7, 40])
def test_xtrace_is_the_leave_one_out_estimator(spectrum: FloatArray, count: int) -> None:
    A, omega = dense(spectrum), normals(count, size=40)
    counted = CountedOperator(MatrixOperator(A))
    found, naive = xtrace(counted, omega), naive_xtrace(A, omega)
    scale = np.abs(spectrum).sum()
    assert found.value == pytest.approx(naive.value, rel=1e-9, abs=1e-9 * scale)
    assert found.stderr == pytest.approx(naive.stderr, rel=1e-6, abs=1e-9 * scale)
    assert (counted.products, counted.passes) == (2 * count, 2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_xtrace_of_a_low_rank_is_exact(dtype: torch.dtype) -> None:
    tolerance = 1e3 * torch.finfo(dtype).eps
    for values in (np.r_[[5.0, 4.0, -2.0], np.zeros(37)], np.zeros(40), np.array([3.0, 1.0])):
        found = xtrace(MatrixOperator(dense(values).to(dtype)), normals(6, size=len(values)).to(dtype))
        assert found.value == pytest.approx(values.sum(), abs=tolerance)
        assert found.stderr <= tolerance
    with pytest.raises(ValueError, match="two probes"):
        xtrace(MatrixOperator(dense(bulk(5))), normals(1, size=5))


def test_xtrace_is_unbiased_and_beats_plain_probes_on_a_decaying_spectrum() -> None:
    spectrum = 0.8 ** np.arange(SIZE)
    A, truth = dense(spectrum), float(spectrum.sum())
    runs = [xtrace(MatrixOperator(A), normals(20, run)) for run in range(RUNS)]
    assert_unbiased(runs, truth)
    # the source's error is too small by the factor that the docstring names
    assert 1.0 <= rms(runs, truth) / math.sqrt(np.mean([e.stderr**2 for e in runs])) <= 1.8
    plain = [t for t, _ in plain_runs(A, 40)]
    assert rms(runs, truth) <= 0.1 * rms(plain, truth)


def test_deflation_beats_plain_probes_at_equal_products_on_a_decaying_spectrum() -> None:
    spectrum = 0.8 ** np.arange(SIZE)
    A, truth = dense(spectrum), float(spectrum.sum())
    runs, cost = deflated_runs(A, 8, 10)
    plain = [t for t, _ in plain_runs(A, 10 + cost)]
    assert rms([t for t, _ in runs], truth) <= 0.4 * rms(plain, truth)


def textbook(X: FloatArray) -> tuple[float, float, float]:
    """Mean squares of probes, chunks and the rest, by their definition."""
    p, c = X.shape
    rows, columns, mean = X.mean(1), X.mean(0), X.mean()
    MS_p = c * sum((r - mean) ** 2 for r in rows) / (p - 1)
    MS_c = p * sum((m - mean) ** 2 for m in columns) / (c - 1)
    rest = sum((X[i, j] - rows[i] - columns[j] + mean) ** 2 for i in range(p) for j in range(c))
    return MS_p, MS_c, rest / ((p - 1) * (c - 1))


def crossed(seed: int, sizes: FloatArray, probes: int, probe: float, chunk: float, rest: float) -> FloatArray:
    """mu + a_i + b_j + e_ij with mu = 5; means over more samples scatter less."""
    rng, chunks = np.random.default_rng(seed), len(sizes)
    a = probe * rng.standard_normal((probes, 1))
    b = (chunk * rng.standard_normal(chunks) + rest * rng.standard_normal((probes, chunks))) / np.sqrt(sizes)
    return 5 + a + b


def test_two_way_errors_are_those_of_the_analysis_of_variance() -> None:
    X = crossed(0, np.ones(6), 9, 1.0, 2.0, 0.5)
    MS_p, MS_c, MS_e = textbook(X)
    for weights in (None, np.full(6, 7.0)):
        found = two_way(X, weights)
        assert found.value == pytest.approx(X.mean())
        assert found.stderr_probes == pytest.approx(math.sqrt(MS_p / 54))
        assert found.stderr_data == pytest.approx(math.sqrt(MS_c / 54))
        assert found.stderr == pytest.approx(math.sqrt((MS_p + MS_c - MS_e) / 54))
    noise = crossed(1, np.ones(6), 9, 0.0, 0.0, 1.0)
    MS_p, MS_c, MS_e = textbook(noise)
    assert MS_e > min(MS_p, MS_c)  # the sum would come out below the larger part
    assert two_way(noise).stderr == pytest.approx(math.sqrt(max(MS_p, MS_c) / 54))


def test_the_error_of_unequal_chunks_is_that_of_a_ratio_of_sums() -> None:
    sizes = np.r_[np.full(4, 8.0), 1.0, 3.0]
    X = crossed(0, sizes, 5, 1.0, 2.0, 0.5)
    n = sizes * X.mean(0)
    value, stderr, _ = ratio(np.array([6, n.sum(), sizes.sum(), n @ n, n @ sizes, sizes @ sizes]))
    found = two_way(X, sizes)
    assert found.value == pytest.approx(value)
    assert found.stderr_data == pytest.approx(stderr)
    assert found.stderr_probes == pytest.approx(np.average(X, 1, sizes).std(ddof=1) / math.sqrt(5))


@pytest.mark.parametrize(("probe", "chunk", "rest"), [(1.0, 1.0, 0.5), (2.0, 0.0, 1.0), (0.0, 2.0, 1.0)])
def test_two_way_errors_cover_with_unequal_chunks(probe: float, chunk: float, rest: float) -> None:
    sizes = np.r_[np.full(24, 4.0), 1.0, 2.0, 3.0]
    runs = [two_way(crossed(seed, sizes, 25, probe, chunk, rest), sizes) for seed in range(1000)]
    estimates = [Estimate(r.value, r.stderr) for r in runs]
    assert_unbiased(estimates, 5.0)
    assert 0.90 <= coverage(estimates, 5.0) <= 0.99
    assert np.mean([r.stderr**2 for r in runs]) == pytest.approx(rms(estimates, 5.0) ** 2, rel=0.2)
    assert np.allclose(
        [r.value for r in runs[:1]], np.average(crossed(0, sizes, 25, probe, chunk, rest), 1, sizes).mean()
    )


def test_two_way_says_what_it_cannot_know() -> None:
    X = crossed(0, np.ones(6), 9, 1.0, 2.0, 0.5)
    one_probe, one_chunk, single = two_way(X[:1]), two_way(X[:, :1]), two_way(X[:1, :1])
    assert math.isnan(one_probe.stderr_probes)
    assert one_probe.stderr == one_probe.stderr_data == pytest.approx(X[0].std(ddof=1) / math.sqrt(6))
    assert math.isnan(one_chunk.stderr_data)
    assert one_chunk.stderr == one_chunk.stderr_probes == pytest.approx(X[:, 0].std(ddof=1) / 3)
    assert all(math.isnan(e) for e in (single.stderr, single.stderr_probes, single.stderr_data))
    X[2, 3] = math.nan
    assert math.isnan(two_way(X).value)
    assert math.isnan(two_way(X).stderr)
