"""Symmetric operators: matrix, shifted, deflated, counted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from landscape_kernels.operators import (
    CountedOperator,
    DeflatedOperator,
    MatrixOperator,
    Operator,
    ShiftedOperator,
    complement,
)
from torch import Tensor

DTYPES = [torch.float64, torch.float32]
SIZE = 30


def matrix(dtype: torch.dtype) -> Tensor:
    a = np.random.default_rng(0).standard_normal((SIZE, SIZE))
    return torch.from_numpy(a + a.T).to(dtype)


def rows(seed: int, count: int, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((count, SIZE))).to(dtype)


def orthonormal(seed: int, count: int, dtype: torch.dtype) -> Tensor:
    return torch.linalg.qr(rows(seed, count, torch.float64).T).Q.T.contiguous().to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_operators_are_the_matrices_they_stand_for(dtype: torch.dtype) -> None:
    A, V, x = matrix(dtype), orthonormal(1, 4, dtype), rows(2, 3, dtype)
    I = torch.eye(SIZE, dtype=torch.float64)  # noqa: E741
    P = I - V.double().T @ V.double()
    base = MatrixOperator(A)
    cases: list[tuple[Operator, Tensor]] = [
        (base, A.double()),
        (ShiftedOperator(base, -2.5), A.double() - 2.5 * I),
        (DeflatedOperator(base, V), P @ A.double() @ P),
        (CountedOperator(ShiftedOperator(base, 1.0)), A.double() + I),
    ]
    tolerance = SIZE * torch.finfo(dtype).eps * float(torch.linalg.matrix_norm(A.double(), 2) * x.norm())
    for operator, dense in cases:
        assert (operator.size, operator.dtype, operator.device) == (SIZE, dtype, A.device)
        product = operator.apply(x)
        assert product.dtype == dtype
        assert torch.allclose(product.double(), x.double() @ dense.T, rtol=0, atol=tolerance), type(operator)


def test_a_block_multiplies_rows() -> None:
    A = torch.tensor([[1.0, 2.0], [0.0, 1.0]])  # not symmetric, to tell A v from A'v
    assert torch.equal(MatrixOperator(A).apply(torch.tensor([[0.0, 1.0]])), torch.tensor([[2.0, 1.0]]))


def test_deflation_takes_the_vectors_out_of_both_sides() -> None:
    A, V, x = matrix(torch.float64), orthonormal(1, 4, torch.float64), rows(2, 3, torch.float64)
    deflated = DeflatedOperator(MatrixOperator(A), V)
    tolerance = 1e-13 * float(A.norm())
    assert float(deflated.apply(V).abs().max()) < tolerance
    assert float((deflated.apply(x) @ V.T).abs().max()) < tolerance
    assert float((complement(x, V) @ V.T).abs().max()) < 1e-14
    assert torch.allclose(complement(complement(x, V), V), complement(x, V), atol=1e-14)


def test_products_and_passes_are_counted_apart() -> None:
    counted = CountedOperator(MatrixOperator(matrix(torch.float64)))
    counted.apply(rows(0, 3, torch.float64))
    counted.apply(rows(0, 1, torch.float64))
    assert (counted.products, counted.passes) == (4, 2)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\) is not square"):
        MatrixOperator(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"\(1, 7\) do not fit an operator of size 30"):
        DeflatedOperator(MatrixOperator(matrix(torch.float64)), torch.zeros(1, 7))
