"""What rounding of products moves results by: one pass in float64, or a comparison where the data weigh most."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from landscape_kernels.arrays import FloatArray
from torch import Tensor

from landscape.curvature.check import ProductCheck
from landscape.curvature.matrix import Matrix
from landscape.curvature.operator import ChunkProducts, CurvatureOperator, product_chunk
from landscape.curvature.pairs import diagonals
from landscape.run.comm import SERIAL, Communicator

_CHEAP = 10**8  # rows x samples x vectors up to which a pass in float64 takes no time
_SHARE = 0.03  # of all products that a pass in float64 may cost beyond one that is made in any case
_LAST = 10  # roundings of float64
_COST = 3  # passes in float32 that one in float32 and one in float64 cost
_CHUNKS = 2  # that a product is looked at in, at least
_LIVES = 0.01  # share of a product that a chunk has, from which on it tells how others are rounded


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
    values. Elsewhere the values stay, and `rounding` is told by the chunks of the data that they rest on most; NaN
    where the model does not run in float64.
    """
    if H.dtype == torch.float64:
        parts = H.by_chunk(vectors, others)
        return values, vectors, parts, _in_float64(parts, matrix.check), len(vectors)
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
        return quotients[order], vectors[order], _ordered(parts, order), _in_float64(parts, matrix.check)[order], count
    parts = H.by_chunk(vectors, others)
    rounding = form_rounding(matrix, vectors, parts, _SHARE * beside, params=names)
    return values, vectors, parts, rounding + torch.finfo(H.dtype).eps * np.abs(values), count


def _normal(vectors: Tensor) -> Tensor:
    exact = vectors.double()
    lengths: Tensor = torch.linalg.vector_norm(exact, dim=1, keepdim=True)
    return exact / lengths


def noise_inside(check: ProductCheck) -> float:
    """What products in float64 are off by, relative to their size, where a model rounds inside; else 0."""
    return _LAST * check.symmetry if check.symmetry > _LAST * torch.finfo(torch.float64).eps else 0.0


def _in_float64(parts: ChunkProducts, check: ProductCheck) -> FloatArray:
    """What is left of rounding in float64."""
    norms = torch.linalg.vector_norm(parts.images.double(), dim=1)
    rate = noise_inside(check) or _LAST * torch.finfo(torch.float64).eps
    return np.full(len(norms), rate * (float(norms.max()) if len(norms) else 0.0))


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


def form_rounding(
    matrix: Matrix, vectors: Tensor, parts: ChunkProducts, passes: float, *, params: Sequence[str] | None = None
) -> FloatArray:
    """(b,) what rounding of products moves v'Hv by, with their `parts` at hand.

    Each v is multiplied in both precisions with the chunks where |H_c v| is largest, as many as cost no more than
    `passes` over the data for all of them, but at least two. The gaps of v'H_c v add up there; elsewhere they are
    taken to be the largest one that was seen, relative to |H_c v|: some samples round a thousand times worse than
    others. NaN where float64 cannot be had.
    """
    sizes: FloatArray = np.sqrt(parts.squares)
    total = parts.denominators.sum()
    if matrix.sample.objective.precision == "float64":
        inside: FloatArray = sizes.sum(0) * (noise_inside(matrix.check) / total)
        return inside
    count = min(len(sizes), max(_CHUNKS, int(len(sizes) * passes / (_COST * max(1, len(vectors))))))
    heaviest = np.argsort(-sizes, axis=0, kind="stable")[:count]
    chosen = np.unique(heaviest).tolist()
    few = matrix.on_chunks(chosen)
    exact = few.double()
    if exact is None:
        return np.full(len(vectors), np.nan)
    wanted = [np.flatnonzero((heaviest == chunk).any(0)) for chunk in chosen]
    forms: list[list[FloatArray]] = []
    for each in (few, exact):
        with each.bind(SERIAL, params=params, chunk=product_chunk(matrix.sample.objective)) as H:
            rows = vectors.to(each.theta)
            found = H.chunk_products(0, lambda number, rows=rows: rows[torch.from_numpy(wanted[number])])  # type: ignore[misc]
            forms.append([_forms_and_lengths(v, image) for _, v, image in found])
    seen, rate = np.zeros((2, len(vectors))), 0.0
    for chunk, which, rounded, right in zip(chosen, wanted, *forms, strict=True):
        gaps = np.abs(right[0] - rounded[0])
        rates = np.divide(gaps, right[1], out=np.zeros_like(gaps), where=right[1] > 0)
        seen[0, which] += rates * sizes[chunk, which]
        seen[1, which] += sizes[chunk, which]
        counts = sizes[chunk, which] >= _LIVES * sizes[:, which].sum(0)
        rate = max(rate, float(rates[counts].max(initial=0.0)))
    bound: FloatArray = (seen[0] + rate * (sizes.sum(0) - seen[1])) / total
    return bound


def _forms_and_lengths(vectors: Tensor, images: Tensor) -> FloatArray:
    """(2, b), v'Hv and |Hv|."""
    exact = images.double()
    found: FloatArray = torch.stack([(vectors.double() * exact).sum(1), exact.norm(dim=1)]).cpu().numpy()
    return found


def image_rounding(matrix: Matrix, H: CurvatureOperator, vectors: Tensor, passes: float) -> float:
    """By what rounding moves eigenvalues of `H`, that of the `matrix`, in the root mean square and at most.

    |(A - A') v| / |v| with A' the matrix of rounded products and random signs v (b, size) estimates
    |A - A'|_F / sqrt(size), and the eigenvalues of the two differ by no more in the root mean square (Hoffman and
    Wielandt 1953). (A - A') v is taken from the chunks where |H_c v| is largest, as in `form_rounding`.
    """
    in_float64 = matrix.sample.objective.precision == "float64"
    rate = noise_inside(matrix.check)
    if in_float64 and rate == 0:
        return 0.0
    parts = H.by_chunk(vectors)
    sizes: FloatArray = np.sqrt(parts.squares)
    if not in_float64:
        count = max(_CHUNKS, int(len(sizes) * passes / (_COST * len(vectors))))
        few = matrix.on_chunks(np.argsort(-sizes.sum(1), kind="stable")[:count].tolist())
        exact = few.double()
        if exact is None:
            return math.nan
        images = []
        for each in (few, exact):
            with each.bind(SERIAL) as operator:
                images.append(operator.apply(vectors.to(each.theta)).double())
        size = float(torch.linalg.vector_norm(images[1]))
        rate = float(torch.linalg.vector_norm(images[1] - images[0])) / size if size else 0.0
    lengths = torch.linalg.vector_norm(vectors.double(), dim=1).cpu().numpy()
    moved = rate * sizes.sum(0) / (parts.denominators.sum() * lengths)
    return float(np.sqrt(np.mean(moved**2)))
