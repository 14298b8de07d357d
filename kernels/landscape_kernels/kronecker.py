"""Kronecker products of symmetric matrices: their leading eigenpairs, and how alike two eigenspaces are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from landscape_kernels.arrays import FloatArray, IntArray


@dataclass(frozen=True)
class Leading:
    """The leading eigenpairs of a symmetric matrix (n, n), from the largest eigenvalue down."""

    values: FloatArray  # (k,)
    vectors: FloatArray  # (k, n), orthonormal rows


def leading(matrix: FloatArray, k: int) -> Leading:
    """The k largest eigenpairs of a symmetric matrix (n, n), all n where k is larger."""
    values, vectors = np.linalg.eigh(matrix)
    kept = slice(None, -1 - min(k, len(values)), -1)
    return Leading(values[kept], np.ascontiguousarray(vectors[:, kept].T))


def kronecker_order(first: FloatArray, second: FloatArray, k: int) -> tuple[IntArray, IntArray]:
    """(i (k',), j (k',)) of the k largest products first_i second_j of eigenvalues that are 0 or more, descending.

    The eigenvectors of A (x) B are the Kronecker products of those of A and B, its eigenvalues the products. Where the
    k largest of each are given, all k largest products are among theirs. k' is smaller where there are fewer.

    >>> kronecker_order(np.array([3.0, 1.0]), np.array([5.0, 2.0, 1.0]), 4)  # 15, 6, 5, 3
    (array([0, 0, 1, 0]), array([0, 1, 0, 2]))
    """
    order = np.argsort(-np.multiply.outer(first, second).ravel(), kind="stable")[:k]
    i, j = np.divmod(order, len(second))
    return i, j


def eigenspace_overlaps(first: Tensor, second: Tensor) -> FloatArray:
    """(k,) |U_j V_j'|_F^2 / j for the first j = 1, ..., k rows of orthonormal U and V (k, n), in [0, 1].

    1 where the two spaces are the same, j / n on average where one of them is random (Wu et al. 2020, arXiv
    2010.04261).

    >>> eigenspace_overlaps(torch.eye(3)[:2], torch.eye(3)[[1, 0]])
    array([0., 1.])
    """
    count = min(len(first), len(second))
    squares = (first[:count].double() @ second[:count].double().T).square().cumsum(0).cumsum(1)
    found: FloatArray = squares.diagonal().cpu().numpy() / np.arange(1, count + 1)
    return found


def rank_one_share(vectors: Tensor, rows: int) -> FloatArray:
    """(k,) sigma_1^2 / |V|_F^2 of vectors (k, rows n) reshaped as matrices V (rows, n): 1 for rank one.

    sigma_1 is the largest singular value; the smallest share is 1 / min(rows, n).

    >>> rank_one_share(torch.tensor([[1.0, 2.0, 2.0, 4.0], [1.0, 0.0, 0.0, 1.0]]), 2)
    array([1. , 0.5])
    """
    matrices = vectors.double().reshape(len(vectors), rows, -1)
    short = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.transpose(1, 2)
    gram = short @ short.transpose(1, 2)
    found: FloatArray = (torch.linalg.eigvalsh(gram)[:, -1] / gram.diagonal(dim1=1, dim2=2).sum(1)).cpu().numpy()
    return found


def product_errors(
    forms: tuple[FloatArray, FloatArray], weights: tuple[FloatArray, FloatArray], of: tuple[IntArray, IntArray]
) -> FloatArray:
    """(k,) standard errors of products x_i y_j of two ratios of sums over the same B units (blocks of data).

    x_i = sum_b forms[0][b, i] / sum_b weights[0][b], y_j so of forms[1] and weights[1]; `of` are the numbers (i, j) of
    each product. To first order, what the two have in common included (Cochran, Sampling Techniques, 3rd ed. 1977,
    section 6.19). NaN for one unit.
    """
    units = len(weights[0])
    if units < 2:
        return np.full(len(of[0]), math.nan)
    (x, dx), (y, dy) = (_influences(f, w) for f, w in zip(forms, weights, strict=True))
    i, j = of
    moved = dx[:, i] * y[j] + x[i] * dy[:, j]
    found: FloatArray = np.sqrt(units / (units - 1) * np.square(moved).sum(0))
    return found


def _influences(forms: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Ratios (k,), and what each unit moves them by (B, k)."""
    total = weights.sum()
    values = forms.sum(0) / total
    return values, (forms - values * weights[:, None]) / total
