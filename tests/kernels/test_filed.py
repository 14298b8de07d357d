"""Vectors in a file, and Lanczos' method on them, against a dense solver."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from landscape_kernels.filed import FiledVectors
from landscape_kernels.filed_krylov import FiledState, filed_eigenpairs, rows_of_file, wide_rows
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


def test_rows_of_two_types(tmp_path: Path) -> None:
    rows = FiledVectors(5, tmp_path / "rows", torch.bfloat16, wide=(0, 2))
    values = torch.linspace(0.1, 1, 5)
    for row in (3, 1, 2, 0):
        rows.write(row, slice(0, 5), values + row)
    for row in range(4):
        kept = values + row if row in (0, 2) else (values + row).bfloat16()
        assert torch.equal(rows.read(row, slice(0, 5)), kept)
    assert torch.equal(rows.read(3, slice(2, 4)), (values[2:4] + 3).bfloat16())
    assert rows.bytes_of(4) == (tmp_path / "rows").stat().st_size == 2 * 5 * (4 + 2)
    rows.clear(2)
    assert [bool(rows.read(row, slice(0, 5)).any()) for row in range(4)] == [True, True, False, True]


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

    def keep(state: FiledState, restarted: bool) -> bool:
        states.append(FiledState.from_arrays(state.to_arrays()))
        if len(states) == 40:
            raise KeyboardInterrupt
        return True

    with pytest.raises(KeyboardInterrupt):
        filed_eigenpairs(rows, multiply, 3, tol=1e-5, save=keep)
    assert states[-1].restarts > 0
    rows.write(states[-1].base + len(states[-1].coefficients), slice(0, 300), torch.full((300,), 9.0))  # half a product
    resumed = filed_eigenpairs(rows, multiply, 3, tol=1e-5, state=states[-1])
    whole = filed_eigenpairs(*problem(300)[1:], 3, tol=1e-5)
    assert np.array_equal(resumed.largest.values, whole.largest.values)
    assert np.array_equal(resumed.largest.residuals, whole.largest.residuals)
    assert resumed.products == whole.products


def hessian_like(
    size: int, large: Tensor | None = None, flat: bool = False
) -> tuple[Tensor, Callable[..., tuple[FiledVectors, Callable[..., None]]]]:
    """A matrix of few large eigenvalues, as Hessians are, or of evenly spread ones, and what multiplies with it."""
    draw = torch.Generator().manual_seed(1)
    large = torch.linspace(10, 1, 10) if large is None else large
    bulk = 0.8 * torch.rand(size - len(large), generator=draw, dtype=torch.float64) ** 8 - 0.1
    few = torch.cat([large.double(), bulk])
    values = torch.linspace(-1, 3, size, dtype=torch.float64) if flat else few
    basis, _ = torch.linalg.qr(torch.randn(size, size, generator=draw, dtype=torch.float64))
    matrix = (basis * values) @ basis.T

    def rounded(k: int, smallest: int) -> tuple[FiledVectors, Callable[..., None]]:
        count = rows_of_file(k, smallest, size, rounded=True)
        rows = FiledVectors(size, dtype=torch.bfloat16, wide=wide_rows(k, smallest, size, count))

        def multiply(row: int, to: int) -> None:
            vector = rows.read(row, slice(0, size))
            assert vector.dtype == torch.float32
            rows.write(to, slice(0, size), matrix.float() @ vector)

        return rows, multiply

    return matrix, rounded


@pytest.mark.parametrize(("k", "large", "restarts"), [(1, 10, 0), (4, 10, 0), (2, 30, 1)])
def test_rounded_vectors_cost_residuals_and_no_eigenvalues(k: int, large: int, restarts: int) -> None:
    matrix, rounded = hessian_like(600, torch.linspace(10, 1 if large == 10 else 5, large))
    rows, multiply = rounded(k, 0)
    found = filed_eigenpairs(rows, multiply, k, tol=1e-3)
    right = torch.linalg.eigvalsh(matrix).flip(0)
    assert found.restarts == restarts
    assert found.largest.converged.all()
    for number, row in enumerate(found.largest.rows):
        y = rows.read(row, slice(0, 600)).double()
        assert float(y.norm()) == pytest.approx(1, abs=1e-6)
        value = float(y @ matrix @ y)
        residual = float((matrix @ y - value * y).norm())
        assert residual <= 1e-3 * value  # though rounding a vector alone makes one of 1.5e-3 of its value
        assert residual == pytest.approx(found.largest.residuals[number], rel=0.3)  # known without a product of its own
        assert value == pytest.approx(found.largest.values[number], rel=1e-3)
        gap = min(abs(float(right[other]) - value) for other in range(len(right)) if other != number)
        assert abs(value - float(right[number])) <= residual**2 / gap + 1e-6


def test_what_rounding_forbids_is_not_looked_for_for_ever() -> None:
    _, rounded = hessian_like(400, flat=True)
    rows, multiply = rounded(1, 0)
    found = filed_eigenpairs(rows, multiply, 1, tol=1e-5)
    assert not found.largest.converged.any()
    assert found.products < 100 < 200 + 50


@pytest.mark.parametrize("every", [1, 4, 100])  # of the states that is kept, besides those after restarts
@pytest.mark.parametrize("stop", [7, 30])
def test_a_run_of_rounded_vectors_goes_on_to_the_same_bits(stop: int, every: int) -> None:
    _, rounded = hessian_like(300, flat=True)
    whole = filed_eigenpairs(*rounded(2, 0), 2, tol=1e-3)
    rows, multiply = rounded(2, 0)
    kept: list[FiledState] = []
    calls = itertools.count(1)

    def keep(state: FiledState, restarted: bool) -> bool:
        number = next(calls)
        if keeps := restarted or number % every == 0:
            kept.append(FiledState.from_arrays(state.to_arrays()))
        if number == stop:
            raise KeyboardInterrupt
        return keeps

    with pytest.raises(KeyboardInterrupt):
        filed_eigenpairs(rows, multiply, 2, tol=1e-3, save=keep)
    last = kept[-1] if kept else None
    assert (last is not None and last.restarts == 1) == (stop > 20)
    resumed = filed_eigenpairs(rows, multiply, 2, tol=1e-3, state=last)
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
