"""Vectors in a file, and Lanczos' method on them, against a dense solver."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from landscape_kernels.filed import FiledVectors
from landscape_kernels.filed_krylov import FiledState, filed_eigenpairs
from torch import Tensor


def test_vectors_in_a_file(tmp_path: Path) -> None:
    rows = FiledVectors(10, tmp_path / "rows")
    rows.write(2, slice(3, 6), torch.tensor([1.0, 2, 3], dtype=torch.float64))
    rows.add(2, slice(5, 10), torch.ones(5), alpha=-2)
    assert rows.read(2, slice(0, 10)).tolist() == [0, 0, 0, 1, 2, 1, -2, -2, -2, -2]
    assert not rows.read(7, slice(0, 10)).any()
    rows.close()
    again = FiledVectors(10, tmp_path / "rows")
    assert float(again.read(2, slice(0, 10)).sum()) == -4
    again.clear(2)
    assert not again.read(2, slice(0, 10)).any()
    exact = FiledVectors(3, dtype=torch.float64)
    exact.write(0, slice(0, 1), torch.tensor([0.1], dtype=torch.float64))
    assert exact.read(0, slice(0, 3)).tolist() == [0.1, 0, 0]


def problem(size: int) -> tuple[Tensor, FiledVectors, Callable[[int, int], None]]:
    half = torch.randn(size, size, generator=torch.Generator().manual_seed(1))
    matrix = (half + half.T) / size**0.5 + torch.diag(torch.linspace(0, 3, size))
    rows = FiledVectors(size)

    def multiply(row: int, to: int) -> None:
        rows.write(to, slice(0, size), matrix @ rows.read(row, slice(0, size)))

    return matrix, rows, multiply


@pytest.mark.parametrize(("size", "k", "smallest"), [(3, 1, 1), (60, 0, 1), (300, 1, 0), (300, 4, 3)])
def test_ends_of_a_dense_spectrum(size: int, k: int, smallest: int) -> None:
    matrix, rows, multiply = problem(size)
    found = filed_eigenpairs(rows, multiply, k, smallest=smallest, tol=1e-4)
    right = np.linalg.eigvalsh(matrix.double().numpy())
    assert found.largest.values == pytest.approx(right[::-1][:k], abs=2e-6)
    assert found.largest.converged.all()
    if smallest:
        assert found.smallest.values == pytest.approx(right[:smallest], abs=2e-6)
    assert size < 300 or found.restarts > 0
    for row, value, told in zip(found.largest.rows, found.largest.values, found.largest.residuals, strict=True):
        vector = rows.read(row, slice(0, size))
        assert float(vector.norm()) == pytest.approx(1, abs=1e-5)
        assert float((matrix @ vector - value * vector).norm()) <= told + 1e-5


def test_a_run_goes_on_to_the_same_bits_after_restarts() -> None:
    _, rows, multiply = problem(300)
    states: list[FiledState] = []

    def keep(state: FiledState, restarted: bool) -> None:
        states.append(FiledState.from_arrays(state.to_arrays()))
        if len(states) == 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        filed_eigenpairs(rows, multiply, 3, tol=1e-5, save=keep)
    assert states[-1].restarts > 0
    rows.write(states[-1].base + len(states[-1].coefficients), slice(0, 300), torch.full((300,), 9.0))  # half a product
    resumed = filed_eigenpairs(rows, multiply, 3, tol=1e-5, state=states[-1])
    whole = filed_eigenpairs(*problem(300)[1:], 3, tol=1e-5)
    assert np.array_equal(resumed.largest.values, whole.largest.values)
    assert np.array_equal(resumed.largest.residuals, whole.largest.residuals)
    assert resumed.products == whole.products


def test_an_invariant_space_and_numbers_that_are_none() -> None:
    rows = FiledVectors(30)

    def identity(row: int, to: int) -> None:
        rows.write(to, slice(0, 30), rows.read(row, slice(0, 30)))

    found = filed_eigenpairs(rows, identity, 3)
    assert found.largest.values == pytest.approx([1, 1, 1], abs=1e-6)

    def broken(_: int, to: int) -> None:
        rows.write(to, slice(0, 30), torch.full((30,), torch.nan))

    with pytest.raises(FloatingPointError, match="product 1"):
        filed_eigenpairs(rows, broken, 1)
