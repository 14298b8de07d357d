"""What rounding of products moves eigenvalues by: by one pass in float64, or measured on some of the data."""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import numpy as np
import torch
from landscape_kernels.arrays import FloatArray
from landscape_kernels.perturbation import form_errors
from torch import Tensor

from landscape.curvature.matrix import Matrix
from landscape.curvature.operator import ChunkProducts, CurvatureOperator
from landscape.curvature.pairs import diagonals
from landscape.run.comm import SERIAL, Communicator

logger = logging.getLogger(__name__)
_CHEAP = 10**8  # rows x samples x vectors up to which a pass in float64 takes no time
_SHARE = 0.03  # of all products that a pass in float64 may cost beyond one that is made in any case
_LAST = 10  # roundings of float64
_TRIED = 32  # samples that rounding is measured on, or more where they cost no more than `_SHARE` of all products
_ALIKE = 10.0  # values up to this many times apart are taken to be rounded alike


def checked_products(
    matrix: Matrix,
    H: CurvatureOperator,
    values: FloatArray,
    vectors: Tensor,
    others: Tensor,
    group: Communicator,
    *,
    beside: int,
    ends: tuple[int, ...],
) -> tuple[FloatArray, Tensor, ChunkProducts, FloatArray, int]:
    """(values (b,), vectors (b, size), products by chunk, rounding (b,), products) of eigenpairs that were found.

    `vectors` were found by `H`, and `others` are further ones that products are projected on. Where a pass in float64
    costs little against the `beside` products that are made otherwise, the values are quotients v'Hv / v'v in float64,
    right to the square of the vectors' error, and each of the `ends` (numbers of vectors) is in the order of these
    values. Elsewhere the values stay, and `rounding` is their gap to float64 on some of the data, at least as large,
    relative to the value, as that of the others of their size; NaN where the model does not run in float64.
    """
    if H.dtype == torch.float64:
        parts = H.by_chunk(vectors, others)
        return values, vectors, parts, _in_float64(parts), len(vectors)
    count, samples = len(vectors), matrix.sample.objective.samples
    names = [block.name for block in H.blocks]
    cheap = H.size * samples * count <= _CHEAP or count + 2 <= _SHARE * beside
    if cheap and (exact := matrix.double()) is not None:
        with exact.bind(group, params=names) as D:
            parts = D.by_chunk(_normal(vectors), _normal(others))
        quotients = diagonals(parts).sum(0) / parts.denominators.sum()
        order, first = [], 0
        for number, sign in zip(ends, (-1, 1), strict=False):
            order += (first + np.argsort(sign * quotients[first : first + number], kind="stable")).tolist()
            first += number
        return quotients[order], vectors[order], _ordered(parts, order), _in_float64(parts)[order], count
    parts = H.by_chunk(vectors, others)
    # a product in float64 costs two in float32, and both are made
    few = on_few(matrix, int(_SHARE * beside * samples / (3 * max(count, 1))))
    exact = few.double()
    if exact is None:
        return values, vectors, parts, np.full(count, np.nan), count
    return values, vectors, parts, _pooled(values, _measured(few, exact, vectors, names)), count


def _normal(vectors: Tensor) -> Tensor:
    exact = vectors.double()
    lengths: Tensor = torch.linalg.vector_norm(exact, dim=1, keepdim=True)
    return exact / lengths


def _in_float64(parts: ChunkProducts) -> FloatArray:
    """What is left of rounding in float64."""
    norms = torch.linalg.vector_norm(parts.images.double(), dim=1)
    norm = float(norms.max()) if len(norms) else 0.0
    return np.full(len(norms), _LAST * torch.finfo(torch.float64).eps * norm)


def _ordered(parts: ChunkProducts, order: list[int]) -> ChunkProducts:
    """The same products in another order."""
    columns = [*order, *range(len(order), parts.forms.shape[2])]
    return replace(
        parts,
        images=parts.images[order],
        forms=parts.forms[:, order][:, :, columns],
        squares=parts.squares[:, order],
        weighted=parts.weighted[order],
    )


def _pooled(values: FloatArray, gaps: FloatArray) -> FloatArray:
    """The largest of the gaps, relative to their values, of all values that are at least a tenth of one's own.

    A vector may live on samples that round badly and are not among the few; then another one tells.
    """
    sizes = np.abs(values)
    relative = np.divide(gaps, sizes, out=np.zeros_like(gaps), where=sizes > 0)
    near = _ALIKE * sizes[None, :] >= sizes[:, None]
    pooled: FloatArray = np.where(near, relative[None, :], 0.0).max(1, initial=0.0) * sizes
    return np.maximum(gaps, pooled)


def _measured(matrix: Matrix, exact: Matrix, vectors: Tensor, params: list[str]) -> FloatArray:
    """Gap of v'Hv between the two precisions, and two standard errors of it: the same on every rank."""
    forms, denominators = [], np.zeros(0)
    for each in (matrix, exact):
        with each.bind(SERIAL, params=params) as H:
            found = H.by_chunk(vectors.to(each.theta))
            forms.append(diagonals(found))
            denominators = found.denominators
    return gap_of(forms[0], forms[1], denominators)


def on_few(matrix: Matrix, affordable: int = 0) -> Matrix:
    """The same matrix of the few samples that rounding is measured on, all of which count alike."""
    return matrix.on_few(min(max(_TRIED, affordable), matrix.sample.objective.chunk))


def gap_of(rounded: FloatArray, exact: FloatArray, denominators: FloatArray) -> FloatArray:
    """(b,) what rounding moves means by: the gap of sums (C, b) in two precisions, and two standard errors of it."""
    gaps, errors = form_errors(exact - rounded, denominators)
    return np.abs(gaps) + 2 * np.nan_to_num(errors)


def form_rounding(matrix: Matrix, vectors: Tensor) -> FloatArray:
    """(b,) what rounding of products moves v'Hv by, measured on some of the data; NaN where float64 cannot be had."""
    if matrix.sample.objective.precision == "float64":
        return np.zeros(len(vectors))
    few = on_few(matrix)
    exact = few.double()
    return np.full(len(vectors), np.nan) if exact is None else _measured(few, exact, vectors, list(matrix.names))


def image_rounding(matrix: Matrix, vectors: Tensor) -> float:
    """Root mean square of |(A - A') v| / |v| with A' the matrix of rounded products, two standard errors in its square.

    With `vectors` (b, size) of random signs it estimates |A - A'|_F / sqrt(size), and the eigenvalues of the two differ
    by no more in the root mean square (Hoffman and Wielandt 1953). A - A' is that of some of the data; NaN where
    float64 cannot be had.
    """
    if matrix.sample.objective.precision == "float64":
        return 0.0
    few = on_few(matrix)
    exact = few.double()
    if exact is None:
        return math.nan
    images = []
    for each in (few, exact):
        with each.bind(SERIAL, params=list(matrix.names)) as H:
            images.append(H.apply(vectors.to(each.theta)).double())
    squares = (images[1] - images[0]).square().sum(1) / vectors.double().square().sum(1)
    return math.sqrt(float(squares.mean() + 2 * squares.std() / math.sqrt(len(squares))))
