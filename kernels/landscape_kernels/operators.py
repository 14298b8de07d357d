"""Symmetric linear maps on flat vectors: what the Krylov methods and the trace estimators ask of a Hessian.

Vectors are rows: a block of b vectors is a tensor (b, size), and one call of `apply` multiplies all of them, so that an
operator that passes over data does so once per block.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Operator(Protocol):
    """A symmetric linear map A on vectors of one size, dtype and device."""

    @property
    def size(self) -> int:
        """Length of the vectors."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the vectors."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the vectors live."""
        ...

    def apply(self, vectors: Tensor) -> Tensor:
        """A v for every row v of `vectors` (b, size), as the rows of a tensor (b, size) without a graph."""
        ...


class _Wrapped:
    """Size, dtype and device of another operator."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator

    @property
    def size(self) -> int:
        """Length of the vectors."""
        return self._operator.size

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the vectors."""
        return self._operator.dtype

    @property
    def device(self) -> torch.device:
        """Where the vectors live."""
        return self._operator.device


class MatrixOperator:
    """A symmetric matrix (size, size) as an operator.

    >>> MatrixOperator(torch.diag(torch.tensor([2.0, 3.0]))).apply(torch.ones(1, 2))
    tensor([[2., 3.]])
    """

    def __init__(self, matrix: Tensor) -> None:
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise ValueError(f"a matrix of shape {tuple(matrix.shape)} is not square")
        self._matrix = matrix

    @property
    def size(self) -> int:
        """Length of the vectors."""
        return self._matrix.shape[0]

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the vectors."""
        return self._matrix.dtype

    @property
    def device(self) -> torch.device:
        """Where the vectors live."""
        return self._matrix.device

    def apply(self, vectors: Tensor) -> Tensor:
        """A v for every row v of `vectors` (b, size)."""
        return vectors @ self._matrix.T


class ShiftedOperator(_Wrapped):
    """A + shift I."""

    def __init__(self, operator: Operator, shift: float) -> None:
        super().__init__(operator)
        self._shift = shift

    def apply(self, vectors: Tensor) -> Tensor:
        """A v + shift v for every row v of `vectors` (b, size)."""
        return self._operator.apply(vectors) + self._shift * vectors


class DeflatedOperator(_Wrapped):
    """(I - V'V) A (I - V'V) with orthonormal rows V (j, size): A on the orthogonal complement of V, zero on V."""

    def __init__(self, operator: Operator, vectors: Tensor) -> None:
        super().__init__(operator)
        if vectors.ndim != 2 or vectors.shape[1] != operator.size:
            raise ValueError(f"vectors of shape {tuple(vectors.shape)} do not fit an operator of size {operator.size}")
        self._vectors = vectors

    def apply(self, vectors: Tensor) -> Tensor:
        """(I - V'V) A (I - V'V) v for every row v of `vectors` (b, size)."""
        return complement(self._operator.apply(complement(vectors, self._vectors)), self._vectors)


class CountedOperator(_Wrapped):
    """The same operator with its cost: `products` (vectors multiplied) and `passes` (calls of apply)."""

    def __init__(self, operator: Operator) -> None:
        super().__init__(operator)
        self.products = 0
        self.passes = 0

    def apply(self, vectors: Tensor) -> Tensor:
        """A v for every row v of `vectors` (b, size)."""
        self.products += vectors.shape[0]
        self.passes += 1
        return self._operator.apply(vectors)


def complement(vectors: Tensor, basis: Tensor) -> Tensor:
    """(I - V'V) x for every row x of `vectors` (b, size), with the orthonormal rows V of `basis` (m, size)."""
    return torch.addmm(vectors, vectors @ basis.T, basis, alpha=-1)
