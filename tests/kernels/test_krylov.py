"""Extreme eigenpairs and Gauss quadrature from products, against dense decompositions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from landscape_kernels.krylov import (
    Eigenpairs,
    KrylovState,
    RitzPairs,
    eigenpairs,
    lanczos_quadrature,
    lanczos_quadratures,
    orthonormalise,
)
from landscape_kernels.operators import CountedOperator, MatrixOperator
from landscape_kernels.probes import rademacher_vector
from scipy.sparse.linalg import eigsh
from torch import Tensor

FloatArray = npt.NDArray[np.float64]
DTYPES = [torch.float64, torch.float32]


class Diagonal:
    """A diagonal matrix as an operator: large spectra without a dense matrix."""

    def __init__(self, values: FloatArray, dtype: torch.dtype = torch.float64) -> None:
        self.values = torch.from_numpy(values).to(dtype)
        self.size, self.dtype, self.device = len(values), dtype, self.values.device

    def apply(self, vectors: Tensor) -> Tensor:
        return vectors * self.values


def dense(values: FloatArray, seed: int = 0) -> FloatArray:
    """A symmetric matrix with the given eigenvalues and random eigenvectors."""
    Q = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(values), len(values))))[0]
    A = (Q * values) @ Q.T
    return (A + A.T) / 2


def outliers(kind: str, size: int = 4096) -> FloatArray:
    """Ten eigenvalues from 100 to 12 above a bulk that falls from 5 like a power."""
    top = np.linspace(100, 12, 10) if kind == "linear" else np.geomspace(100, 12, 10)
    return np.concatenate([top, 5 / np.arange(1.0, size - 9)])


def bulk(size: int) -> FloatArray:
    return np.random.default_rng(3).standard_normal(size)


def kronecker() -> FloatArray:
    """Sums of two spectra, each with multiplicity: eigenvalues of A x I + I x B."""
    return np.add.outer([9.0, 4.0, 1.0, 0.0, -2.0], [3.0, 3.0, 1.0, 1.0, 0.0, -1.0]).ravel()


# name: spectrum, k, smallest, block
CASES: dict[str, tuple[FloatArray, int, int, int]] = {
    "outliers": (outliers("linear", 200), 10, 0, 1),
    "both ends": (np.r_[bulk(150), [20.0, 30.0, -15.0, -25.0]], 3, 3, 1),
    "negative": (-outliers("geometric", 100), 2, 4, 1),
    "clustered": (np.r_[10 + 1e-3 * np.arange(3), bulk(60)], 3, 1, 3),
    "multiple": (kronecker(), 6, 2, 2),
    "low rank": (np.r_[[5.0, 4.0, -3.0], np.zeros(40)], 5, 2, 1),
    "rank one": (np.r_[1.0, np.zeros(20)], 1, 0, 1),
    "full": (bulk(25), 25, 25, 1),
    "full, in blocks": (bulk(25), 25, 0, 4),
    "size one": (np.array([3.0]), 1, 1, 1),
    "size two, in blocks": (np.array([3.0, -1.0]), 1, 1, 5),
    "zero": (np.zeros(30), 4, 2, 1),
    "identity": (np.ones(30), 4, 2, 2),
    "minus identity": (-np.ones(30), 30, 0, 1),
    "tiny": (1e-12 * outliers("linear", 100), 5, 0, 1),
}


def check_pairs(pairs: RitzPairs, A: Tensor, expected: FloatArray, restarts: int = 0) -> None:
    """Values within their residuals of the truth, residuals those of true products, vectors orthonormal."""
    eps = torch.finfo(A.dtype).eps
    norm = float(torch.linalg.matrix_norm(A.double(), 2))
    rounding = 10 * eps * norm * math.sqrt(1 + restarts)
    vectors, values = pairs.vectors.double(), torch.from_numpy(pairs.values)
    true = torch.linalg.vector_norm(vectors @ A.double() - values[:, None] * vectors, dim=1).numpy()
    np.testing.assert_allclose(pairs.residuals, true, rtol=1e-4, atol=rounding)
    assert np.all(np.abs(pairs.values - expected) <= pairs.residuals + rounding)
    assert torch.allclose(
        vectors @ vectors.T, torch.eye(len(vectors), dtype=torch.float64), atol=2 * rounding / norm if norm else eps
    )
    assert pairs.vectors.dtype == A.dtype
    assert pairs.converged.all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_eigenpairs_are_those_of_the_dense_matrix(name: str, dtype: torch.dtype) -> None:
    spectrum, k, smallest, block = CASES[name]
    A = torch.from_numpy(dense(spectrum)).to(dtype)
    counted = CountedOperator(MatrixOperator(A))
    found = eigenpairs(counted, k, smallest=smallest, block=block, max_products=2000)
    ascending = np.sort(spectrum)
    check_pairs(found.largest, A, ascending[::-1][:k])
    if smallest:
        check_pairs(found.smallest, A, ascending[:smallest])
    assert (found.products, found.passes) == (counted.products, counted.passes)
    assert found.products <= len(spectrum) or found.restarts
    norm = np.abs(spectrum).max()
    assert found.norm <= norm * (1 + 10 * torch.finfo(dtype).eps)
    assert found.norm >= 0.9 * norm


def test_both_ends_agree_with_arpack() -> None:
    A = dense(np.random.default_rng(5).standard_normal(300))
    found = eigenpairs(MatrixOperator(torch.from_numpy(A)), 4, smallest=3, tol=1e-8, basis_limit=25, max_products=5000)
    np.testing.assert_allclose(found.largest.values, eigsh(A, 4, which="LA")[0][::-1], rtol=1e-12)
    np.testing.assert_allclose(found.smallest.values, eigsh(A, 3, which="SA")[0], rtol=1e-12)
    assert found.restarts > 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["linear", "geometric"])
def test_ten_outliers_of_a_large_spectrum_take_at_most_twenty_products(kind: str, dtype: torch.dtype) -> None:
    spectrum = outliers(kind)
    for seed in range(5):
        found = eigenpairs(Diagonal(spectrum, dtype), 10, seed=seed)
        assert found.products <= 20
        assert np.all(found.largest.residuals <= 1e-3 * found.largest.values)
        assert np.all(np.abs(found.largest.values - spectrum[:10]) <= found.largest.residuals)


def test_a_run_stops_with_the_product_that_settles_it() -> None:
    found = eigenpairs(Diagonal(outliers("linear")), 10)
    first = found.products - found.searched
    assert eigenpairs(Diagonal(outliers("linear")), 10, max_products=first).largest.converged.all()
    short = eigenpairs(Diagonal(outliers("linear")), 10, max_products=first - 1)
    assert short.products == first - 1
    assert not short.largest.converged.all()
    assert eigenpairs(Diagonal(outliers("linear")), 10, tol=1e-8).products > found.products


def test_no_eigenvalue_comes_twice_after_two_hundred_steps_in_float32() -> None:
    spectrum = outliers("geometric")
    found = eigenpairs(Diagonal(spectrum, torch.float32), 30, tol=1e-12, max_products=200, basis_limit=300)
    assert (found.products, found.restarts) == (200, 0)
    np.testing.assert_allclose(found.largest.values, spectrum[:30], rtol=1e-6)
    G = found.largest.vectors.double() @ found.largest.vectors.double().T
    assert torch.allclose(G, torch.eye(30, dtype=torch.float64), atol=1e-5)


def test_residuals_never_claim_more_than_the_vectors_can_hold() -> None:
    A = torch.from_numpy(dense(outliers("linear", 200))).float()
    found = eigenpairs(MatrixOperator(A), 10, tol=1e-9, max_products=100)
    assert not found.largest.converged.any()
    assert found.largest.residuals.min() >= np.finfo(np.float32).eps * 99


def test_a_block_finds_all_copies_of_a_multiple_eigenvalue() -> None:
    spectrum = np.r_[[7.0, 7.0, 7.0], np.linspace(0, 3, 500)]
    found = eigenpairs(Diagonal(spectrum), 4, block=3, tol=1e-6)
    np.testing.assert_allclose(found.largest.values, [7, 7, 7, 3], rtol=1e-10)
    assert found.products - found.searched == 3 * (found.passes - found.searched)


@pytest.mark.parametrize(("block", "limit"), [(1, 20), (3, 32)])
def test_restarts_keep_what_was_found_within_the_memory(block: int, limit: int) -> None:
    spectrum = np.linspace(-1, 1, 400) ** 3
    rows: list[int] = []
    found = eigenpairs(
        Diagonal(spectrum),
        4,
        smallest=2,
        tol=1e-6,
        block=block,
        basis_limit=limit,
        max_products=5000,
        save=lambda s: rows.append(len(s.basis)),
    )
    A = torch.diag(torch.from_numpy(spectrum))
    check_pairs(found.largest, A, spectrum[::-1][:4], found.restarts)
    check_pairs(found.smallest, A, spectrum[:2], found.restarts)
    assert found.restarts > 3
    assert max(rows) <= limit
    free = eigenpairs(Diagonal(spectrum), 4, smallest=2, tol=1e-6, block=block, basis_limit=400)
    assert free.restarts == 0
    assert found.products < 4 * free.products  # what is kept is what counts


def test_the_lowest_pairs_come_along_with_honest_flags() -> None:
    spectrum = outliers("linear", 300)
    A = torch.from_numpy(dense(spectrum))
    found = eigenpairs(MatrixOperator(A), 10)
    assert len(found.smallest.values) == 10
    assert np.all(np.diff(found.smallest.values) > 0)
    assert not found.smallest.converged[0]
    vectors = found.smallest.vectors
    true = torch.linalg.vector_norm(vectors @ A - torch.from_numpy(found.smallest.values)[:, None] * vectors, dim=1)
    np.testing.assert_allclose(found.smallest.residuals, true.numpy(), rtol=1e-6)


def test_residuals_include_what_is_not_symmetric() -> None:
    rng = np.random.default_rng(8)
    skew = rng.standard_normal((100, 100))
    A = torch.from_numpy(dense(outliers("linear", 100)) + 0.01 * (skew - skew.T))
    for limit in (70, 20):
        found = eigenpairs(MatrixOperator(A), 5, tol=1e-10, max_products=60, basis_limit=limit)
        values, vectors = torch.from_numpy(found.largest.values), found.largest.vectors
        true = torch.linalg.vector_norm(vectors @ A.T - values[:, None] * vectors, dim=1).numpy()
        assert true.min() > 0.05
        assert (found.restarts > 0) == (limit == 20)
        if found.restarts:
            assert np.all(found.largest.residuals >= true)
            assert np.all(found.largest.residuals <= 10 * true)
        else:
            np.testing.assert_allclose(found.largest.residuals, true, rtol=1e-8)


@pytest.mark.parametrize("dtype", DTYPES)
def test_zeros_of_a_deficient_operator_converge(dtype: torch.dtype) -> None:
    A = torch.from_numpy(dense(np.r_[np.linspace(1, 9, 20), np.zeros(30)])).to(dtype)
    found = eigenpairs(MatrixOperator(A), 22, smallest=3, max_products=50)
    assert found.largest.converged.all()
    assert found.smallest.converged.all()
    assert np.abs(found.smallest.values).max() <= 10 * torch.finfo(dtype).eps * 9


def test_a_small_eigenvalue_is_not_taken_for_zero() -> None:
    spectrum = np.r_[np.linspace(1, 9, 20), 1e-3, np.zeros(30)]
    found = eigenpairs(Diagonal(spectrum, torch.float32), 21, tol=1e-5, max_products=40)
    assert not found.largest.converged[20]  # 1e-5 of 1e-3 is beyond float32 beside an eigenvalue of 9
    assert found.largest.values[20] == pytest.approx(1e-3, rel=1e-2)


def test_exhaustion_is_told() -> None:
    assert eigenpairs(Diagonal(np.r_[2.0, 1.0, np.zeros(20)]), 3).exhausted
    assert eigenpairs(Diagonal(np.arange(1.0, 6)), 5).exhausted
    assert not eigenpairs(Diagonal(outliers("linear")), 3).exhausted


def test_warm_starts_take_about_as_many_products_as_pairs() -> None:
    spectrum = outliers("geometric")
    axes = torch.eye(10, 4096, dtype=torch.float64)
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((10, 4096))) / 64
    cold = eigenpairs(Diagonal(spectrum), 10).products
    for size, most in ((0.0, 11), (1e-4, 11), (1e-2, 13), (1e-1, 14)):
        found = eigenpairs(Diagonal(spectrum), 10, start=axes + size * noise)
        np.testing.assert_allclose(found.largest.values, spectrum[:10], rtol=1e-5)
        assert found.products - found.searched <= most
        assert found.products < cold
    block = eigenpairs(Diagonal(spectrum), 10, start=axes + 1e-6 * noise, block=10)
    assert (block.products - block.searched, block.passes - block.searched) == (10, 1)
    assert eigenpairs(Diagonal(spectrum), 10, start=torch.cat([axes[:1], -axes[:1]])).largest.converged.all()


COPIES: dict[str, tuple[FloatArray, int, int]] = {  # spectrum, k, smallest
    "four of each": (np.repeat(9 / np.arange(1.0, 101), 4), 8, 0),
    "both ends": (np.r_[[9.0] * 3, bulk(400), [-8.0] * 4, -7.0], 4, 6),
    "the edge of a cluster": (np.r_[9.0, 5.0, 5.0, 5.0, np.linspace(0, 3, 500)], 3, 0),
    "one copy of the last but one": (np.r_[9.0, 6.0, 6.0, 5.0, np.linspace(0, 3, 500)], 3, 0),
    "closer than the tolerance": (np.r_[9.0, 9.0 - 1e-4, 9.0 - 2e-4, 5.0, np.linspace(0, 3, 500)], 4, 0),
    "low rank": (np.r_[[5.0] * 3, [-4.0] * 2, np.zeros(400)], 4, 3),
    "indefinite": (np.r_[np.repeat([4.0, -4.0], 3), bulk(300) / 3], 4, 3),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", COPIES)
def test_a_run_from_one_vector_finds_the_copies(name: str, seed: int) -> None:
    spectrum, k, smallest = COPIES[name]
    counted = CountedOperator(Diagonal(spectrum))
    found = eigenpairs(counted, k, smallest=smallest, seed=seed)
    ascending = np.sort(spectrum)
    np.testing.assert_allclose(found.largest.values, ascending[::-1][:k], rtol=1e-3, atol=1e-12)
    np.testing.assert_allclose(found.smallest.values[:smallest], ascending[:smallest], rtol=1e-3, atol=1e-12)
    assert found.largest.converged.all()
    assert 0 <= found.missed <= 0.5  # a further copy at the edge itself takes long to be told from what is beyond
    assert 0 < found.searched < found.products == counted.products
    vectors = torch.cat([found.largest.vectors, found.smallest.vectors[:smallest]])
    assert torch.allclose(vectors @ vectors.T, torch.eye(k + smallest, dtype=torch.float64), atol=1e-10)


@pytest.mark.parametrize("k", [5, 10])
@pytest.mark.parametrize("kind", ["linear", "geometric"])
def test_a_search_that_finds_nothing_costs_little(kind: str, k: int) -> None:
    """At most 15 % of the products without it, those of the residuals of the k pairs included; three of a short run."""
    for seed in range(5):
        found = eigenpairs(Diagonal(outliers(kind)), k, seed=seed)
        assert found.searched <= max(3, 0.15 * (found.products - found.searched + k))
        assert found.missed <= 0.05


def test_the_chance_of_a_missing_copy_is_one_that_is_kept() -> None:
    """Of 40 searches for one copy so many miss it as they say at most, by three standard errors."""
    spectrum = np.r_[9.0, 6.0, 6.0, 5.0, np.linspace(0, 3, 60)]
    missed, said = 0, 0.0
    for seed in range(40):
        found = eigenpairs(Diagonal(spectrum), 3, seed=seed)
        missed += found.largest.values[2] < 5.9
        said = max(said, found.missed)
    assert missed <= 40 * 0.05 + 3 * math.sqrt(40 * 0.05)
    assert said <= 0.05


def test_what_needs_no_search() -> None:
    assert eigenpairs(Diagonal(np.r_[[5.0] * 3, bulk(300)]), 1, smallest=1).searched == 0
    assert eigenpairs(Diagonal(np.r_[[5.0] * 3, bulk(300)]), 1, smallest=1).missed == 0
    assert eigenpairs(Diagonal(np.arange(5.0)), 5).missed == 0
    assert math.isnan(eigenpairs(Diagonal(bulk(300)), 5, max_products=6).missed)


def test_guesses_of_wrong_pairs_do_not_hide_the_right_ones() -> None:
    """The guesses are eigenvectors of eigenvalues that are not at the ends, and span an invariant space."""
    spectrum = np.r_[9.0, 8.0, np.linspace(-3, 3, 300), -9.0]
    guesses = torch.eye(303, dtype=torch.float64)[[150, 200]]
    for k in (1, 2):
        found = eigenpairs(Diagonal(spectrum), k, smallest=1, start=guesses, tol=1e-2)
        np.testing.assert_allclose(found.largest.values, [9, 8][:k], rtol=1e-3)
        np.testing.assert_allclose(found.smallest.values, [-9], rtol=1e-3)


def test_pairs_of_largest_magnitude() -> None:
    spectrum = np.r_[[9.0] * 2, -8.0, [-7.0] * 2, 6.0, np.linspace(-3, 3, 300)]
    for k, expected in ((1, [9]), (3, [9, 9, -8]), (5, [9, 9, -8, -7, -7]), (6, [9, 9, -8, -7, -7, 6])):
        found = eigenpairs(Diagonal(spectrum), k, by_magnitude=True)
        values = np.concatenate([found.largest.values, found.smallest.values])
        np.testing.assert_allclose(values[np.argsort(-np.abs(values))], expected, rtol=1e-3)
    with pytest.raises(ValueError, match="by_magnitude"):
        eigenpairs(Diagonal(spectrum), 3, smallest=1, by_magnitude=True)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    return bool(np.array_equal(a, b))


def assert_same(a: Eigenpairs, b: Eigenpairs) -> None:
    for one, other in ((a.largest, b.largest), (a.smallest, b.smallest)):
        assert all(same(vars(one)[name], vars(other)[name]) for name in vars(one))
    for name in ("products", "passes", "restarts", "norm", "exhausted"):
        assert getattr(a, name) == getattr(b, name), name


RESUMED: dict[str, tuple[FloatArray, dict[str, Any]]] = {
    "one vector": (outliers("linear", 300), {"k": 10}),
    "blocks and restarts": (np.linspace(-1, 1, 150), {"k": 3, "smallest": 2, "block": 2, "basis_limit": 16}),
    "fresh vectors": (np.r_[3.0, 2.0, np.zeros(30)], {"k": 6, "seed": 2**100 + 1}),
    "copies": (np.r_[[7.0] * 3, [5.0] * 2, np.linspace(0, 3, 40)], {"k": 4, "smallest": 0}),
    "copies and restarts": (np.r_[[7.0] * 3, [5.0] * 2, np.linspace(0, 3, 40)], {"k": 5, "basis_limit": 18}),
    "cut short": (outliers("linear", 300), {"k": 10, "block": 4, "max_products": 11}),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", RESUMED)
def test_resuming_from_any_state_gives_the_same_bits_without_repeating_a_product(name: str, dtype: torch.dtype) -> None:
    spectrum, arguments = RESUMED[name]
    arguments = {"max_products": 400, **arguments}
    A = torch.from_numpy(dense(spectrum)).to(dtype)
    saved: list[dict[str, npt.NDArray[Any]]] = []
    whole = eigenpairs(MatrixOperator(A), save=lambda s: saved.append(s.to_arrays()), **arguments)
    assert len(saved) == whole.passes
    assert name != "blocks and restarts" or whole.restarts > 2
    assert name != "fresh vectors" or max(arrays["counters"][3] for arrays in saved) > 1
    for arrays in saved:
        counted = CountedOperator(MatrixOperator(A))
        state = KrylovState.from_arrays(arrays)
        resumed = eigenpairs(counted, state=state, **{**arguments, "seed": 0})
        assert_same(resumed, whole)
        assert counted.products == whole.products - state.products


def test_a_state_from_before_there_were_searches_goes_on() -> None:
    saved: list[dict[str, npt.NDArray[Any]]] = []
    whole = eigenpairs(Diagonal(outliers("linear", 300)), 4, save=lambda s: saved.append(s.to_arrays()))
    old = saved[3] | {"counters": saved[3]["counters"][:5], "norms": saved[3]["norms"][:2]}
    assert_same(eigenpairs(Diagonal(outliers("linear", 300)), 4, state=KrylovState.from_arrays(old)), whole)


def test_a_state_of_another_operator_is_refused() -> None:
    saved: list[KrylovState] = []
    eigenpairs(Diagonal(np.arange(9.0)), 2, save=saved.append)
    with pytest.raises(ValueError, match="size 9"):
        eigenpairs(Diagonal(np.arange(8.0)), 2, state=saved[0])
    with pytest.raises(ValueError, match="float64"):
        eigenpairs(Diagonal(np.arange(9.0), torch.float32), 2, state=saved[0])
    with pytest.raises(ValueError, match="does not fit"):
        eigenpairs(Diagonal(np.arange(9.0)), 1, state=saved[-1], basis_limit=4)


def test_results_depend_on_the_seed_alone() -> None:
    first = eigenpairs(Diagonal(outliers("linear", 200)), 3)
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.random.get_rng_state()
    assert_same(eigenpairs(Diagonal(outliers("linear", 200)), 3), first)
    assert torch.equal(torch.random.get_rng_state(), before)
    other = eigenpairs(Diagonal(outliers("linear", 200)), 3, seed=1)
    assert not torch.equal(other.smallest.vectors, first.smallest.vectors)


def test_fewer_products_than_pairs_give_fewer_pairs() -> None:
    found = eigenpairs(Diagonal(outliers("linear", 200)), 10, block=4, max_products=6)
    assert (found.products, found.passes, len(found.largest.values)) == (6, 2, 6)
    assert not found.largest.converged.any()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"k": 6}, "k=6 eigenpairs of an operator of size 5"),
        ({"k": -1}, "k=-1"),
        ({"k": 1, "smallest": 7}, "smallest=7 eigenpairs of an operator of size 5"),
        ({"k": 0}, "no eigenpair"),
        ({"k": 1, "tol": 0.0}, "tol"),
        ({"k": 1, "tol": math.nan}, "tol"),
        ({"k": 1, "block": 0}, "block=0"),
        ({"k": 1, "max_products": 0}, "max_products=0"),
        ({"k": 2, "basis_limit": 4}, "at least 5"),
        ({"k": 1, "start": torch.full((1, 5), math.nan)}, "start holds NaN"),
        ({"k": 1, "start": torch.ones(2, 4)}, r"start of shape \(2, 4\) holds no vectors of size 5"),
        ({"k": 1, "start": torch.ones(0, 5)}, "start of shape"),
    ],
)
def test_arguments_that_cannot_be_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        eigenpairs(Diagonal(np.arange(5.0)), **arguments)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_product_that_is_not_finite_stops_the_run_at_once(value: float) -> None:
    class Failing(Diagonal):
        calls = 0

        def apply(self, vectors: Tensor) -> Tensor:
            self.calls += 1
            product = super().apply(vectors)
            if self.calls == 3:
                product[0, 17] = value
            return product

    operator = Failing(outliers("linear", 100))
    with pytest.raises(FloatingPointError, match="product 3"):
        eigenpairs(operator, 10)
    assert operator.calls == 3
    operator.calls = 0
    with pytest.raises(FloatingPointError, match="step 3"):
        lanczos_quadrature(operator, torch.ones(100, dtype=torch.float64), 10)


@pytest.mark.parametrize("dtype", DTYPES)
def test_orthonormal_rows_reproduce_a_nearly_dependent_block(dtype: torch.dtype) -> None:
    eps = torch.finfo(dtype).eps
    rng = np.random.default_rng(0)
    basis = torch.linalg.qr(torch.from_numpy(rng.standard_normal((500, 8)))).Q.T.contiguous().to(dtype)
    free = torch.from_numpy(rng.standard_normal((3, 500))).to(dtype)
    inside = torch.from_numpy(rng.standard_normal((3, 8))).to(dtype) @ basis
    block = inside + torch.stack([free[0], free[0] + 1e3 * eps * free[1], 1e3 * eps * free[2]])
    rows, H, R = orthonormalise(block, basis, 0.0)
    assert len(rows) == 3
    everything = torch.cat([basis, rows]).double()
    assert torch.allclose(everything @ everything.T, torch.eye(11, dtype=torch.float64), atol=20 * eps)
    back = torch.from_numpy(np.hstack([H, R])) @ everything
    assert torch.allclose(back, block.double(), rtol=0, atol=20 * eps * float(block.norm()))
    fewer, _, R = orthonormalise(block, basis, 1e6 * eps)
    assert (len(fewer), R.shape) == (1, (3, 1))
    assert len(orthonormalise(inside, basis, 10 * eps * float(inside.norm()))[0]) == 0


def naive_moments(A: FloatArray, v: FloatArray, degree: int) -> FloatArray:
    result, power = [], v.copy()
    for _ in range(degree + 1):
        result.append(v @ power)
        power = A @ power
    return np.array(result)


@pytest.mark.parametrize("steps", [1, 3, 6])
def test_quadrature_is_exact_to_degree_2m_minus_1(steps: int) -> None:
    A = dense(np.random.default_rng(1).uniform(-1, 1, 50))
    start = np.random.default_rng(2).standard_normal(50)
    nodes, weights = lanczos_quadrature(MatrixOperator(torch.from_numpy(A)), torch.from_numpy(start), steps)
    assert nodes.shape == weights.shape == (steps,)
    assert weights.sum() == pytest.approx(1, abs=1e-15)
    expected = naive_moments(A, start / np.linalg.norm(start), 2 * steps)
    found = np.array([weights @ nodes**q for q in range(2 * steps + 1)])
    np.testing.assert_allclose(found[:-1], expected[:-1], atol=1e-14)
    assert abs(found[-1] - expected[-1]) > 1e-6


@pytest.mark.parametrize("dtype", DTYPES)
def test_full_quadrature_is_the_spectral_measure(dtype: torch.dtype) -> None:
    A = dense(np.linspace(1, 8, 8))
    start = np.random.default_rng(2).standard_normal(8)
    operator = CountedOperator(MatrixOperator(torch.from_numpy(A).to(dtype)))
    nodes, weights = lanczos_quadrature(operator, torch.from_numpy(start), 20)
    values, vectors = np.linalg.eigh(A)
    tolerance = 100 * torch.finfo(dtype).eps
    np.testing.assert_allclose(nodes, values, rtol=tolerance)
    np.testing.assert_allclose(weights, (vectors.T @ start / np.linalg.norm(start)) ** 2, atol=tolerance)
    assert operator.products == 8


@pytest.mark.parametrize("dtype", DTYPES)
def test_quadrature_stops_where_the_space_is_exhausted(dtype: torch.dtype) -> None:
    A = torch.from_numpy(dense(np.r_[[4.0] * 5, [1.0] * 10, np.zeros(15)])).to(dtype)
    nodes, weights = lanczos_quadrature(MatrixOperator(A), rademacher_vector(30, 0), 12)
    np.testing.assert_allclose(nodes, [0, 1, 4], atol=20 * torch.finfo(dtype).eps)
    assert weights.sum() == pytest.approx(1, abs=1e-15)
    nodes, weights = lanczos_quadrature(Diagonal(np.zeros(7), dtype), torch.ones(7), 5)
    assert (nodes.tolist(), weights.tolist()) == ([0.0], [1.0])


def test_quadrature_has_no_ghosts_after_many_steps_in_float32() -> None:
    spectrum = outliers("geometric", 400)
    nodes, weights = lanczos_quadrature(Diagonal(spectrum, torch.float32), rademacher_vector(400, 0), 120)
    assert len(nodes) == 120
    np.testing.assert_allclose(nodes[nodes > 11], spectrum[9::-1], rtol=1e-6)
    np.testing.assert_allclose(weights[nodes > 11], 1 / 400, rtol=1e-4)


def test_batched_runs_share_passes_and_are_those_of_single_vectors() -> None:
    counted = CountedOperator(Diagonal(np.r_[outliers("linear", 60)]))
    special = torch.zeros(60, dtype=torch.float64)
    special[[2, 5]] = 1.0  # exhausted after two steps, the others go on
    starts = torch.stack([rademacher_vector(60, 0, i) for i in range(3)] + [special])
    together = lanczos_quadratures(counted, starts, 9)
    assert (counted.passes, counted.products) == (9, 3 * 9 + 2)
    for (nodes, weights), start in zip(together, starts, strict=True):
        alone = lanczos_quadrature(Diagonal(np.r_[outliers("linear", 60)]), start, 9)
        np.testing.assert_array_equal(nodes, alone[0])
        np.testing.assert_array_equal(weights, alone[1])
    assert len(together[3][0]) == 2


def test_quadrature_refuses_what_it_cannot_start_from() -> None:
    for start in (torch.zeros(5), torch.full((5,), math.nan)):
        with pytest.raises(ValueError, match="zero or holds NaN"):
            lanczos_quadrature(Diagonal(np.arange(5.0)), start, 3)
    with pytest.raises(ValueError, match="steps=0"):
        lanczos_quadrature(Diagonal(np.arange(5.0)), torch.ones(5), 0)
