"""Coordinates of vectors on given axes, distances from their span, and principal axes of a set of vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from landscape_kernels.arrays import FloatArray

_BLOCK = 1 << 16  # numbers in a block of coordinates
_LONG = 1 << 22  # numbers of vectors that are converted to float64 at once


@dataclass(frozen=True)
class Projection:
    """Least-squares coordinates and what they leave over."""

    coordinates: FloatArray  # (m, k)
    distance: FloatArray  # (m,), Euclidean distance from centre + span(axes)


def gram(vectors: Sequence[Tensor]) -> FloatArray:
    """Inner products of the vectors in float64, (k, k); long vectors are read in parts."""
    result = np.zeros((len(vectors), len(vectors)))
    size = len(vectors[0]) if len(vectors) else 0
    for part in [slice(0, size)] if size <= _LONG else _parts(size, _LONG):
        result += gram_of([vector[part].double() for vector in vectors])
    return result


def gram_of(parts: Sequence[Tensor]) -> FloatArray:
    """Inner products (k, k) of parts of vectors, float64."""
    result = np.empty((len(parts), len(parts)))
    for i, a in enumerate(parts):
        for j, b in enumerate(parts[: i + 1]):
            result[i, j] = result[j, i] = float(a @ b)
    return result


def project(vectors: Sequence[Tensor], centre: Tensor, axes: Sequence[Tensor]) -> Projection:
    """Least-squares coordinates c of v - centre on the axes, argmin_c |v - centre - sum_i c_i a_i|, for every v.

    The axes need not be orthogonal or of unit length. Solved by a QR factorisation in float64, of a block of rows at a
    time and then of the blocks' factors: beside the vectors, which are asked for one after another, this takes as much
    memory as the axes in float64. Raises ValueError when the axes are linearly dependent.
    """
    parts = _parts(len(centre))
    blocks: list[Tensor] = []
    factors: list[Tensor] = []
    for part in parts:
        q, r = torch.linalg.qr(torch.stack([axis[part].double() for axis in axes], dim=1))
        blocks.append(q)
        factors.append(r)
    if len(parts) > 1:
        turns, r = torch.linalg.qr(torch.cat(factors))
        for i, turn in enumerate(turns.split([len(factor) for factor in factors])):
            blocks[i] = blocks[i] @ turn
    diagonal = r.diagonal().abs()
    if len(r) < len(axes) or bool(diagonal.min() <= 1e-12 * diagonal.max()):
        raise ValueError("the axes are linearly dependent")
    coordinates, distance = [], []
    for vector in vectors:
        rests = [vector[part].double() - centre[part].double() for part in parts]
        found: list[Tensor] = []
        for _ in range(2):  # projected out twice: one pass leaves a rest of eps |offset| inside the span
            found.append(torch.stack([q.T @ rest for q, rest in zip(blocks, rests, strict=True)]).sum(0))
            for i, q in enumerate(blocks):
                rests[i] = rests[i] - q @ found[-1]
        coordinates.append(torch.linalg.solve_triangular(r, found[0][:, None], upper=True)[:, 0].cpu().numpy())
        distance.append(math.hypot(*(float(torch.linalg.vector_norm(rest)) for rest in rests)))
    return Projection(np.array(coordinates).reshape(len(vectors), len(axes)), np.array(distance))


@dataclass(frozen=True)
class PrincipalAxes:
    """Leading principal axes of a set of vectors about their mean."""

    axes: list[Tensor]  # k unit vectors (size,), float64
    explained_variance: FloatArray  # (k,), fraction of the total variance


def principal_axes(vectors: Sequence[Tensor], count: int, *, held: int = 1) -> PrincipalAxes:
    """The `count` leading principal axes of the vectors, by the eigenvectors of their centred Gram matrix (m x m).

    Each axis' sign makes its largest entry positive. `vectors` may be a sequence that makes each when it is asked for,
    which is then m / (2 held) + 4 times. Beside the vectors this takes `held` + 2 of them in float64, and the axes.
    Raises ValueError when the vectors span fewer than `count` directions.
    """
    mean = _mean(vectors)
    m = len(vectors)
    rows = torch.empty(1 + min(held, m), len(mean), dtype=torch.float64, device=mean.device)
    products = np.empty((m, m))
    for start in range(0, m, len(rows) - 1):
        tile = range(start, min(start + len(rows) - 1, m))
        for i, row in zip(tile, rows, strict=False):
            row.copy_(vectors[i]).sub_(mean)
        for j in range(tile.stop):
            right = rows[j - start] if j >= start else rows[-1].copy_(vectors[j]).sub_(mean)
            for i, row in zip(tile, rows, strict=False):
                if j <= i:
                    products[i, j] = products[j, i] = float(row @ right)
    del rows, row, right
    values, weights = np.linalg.eigh(products)
    values, weights = values[::-1].clip(min=0), weights[:, ::-1]
    rank = int((values > values[0] * 1e-12).sum()) if len(values) and values[0] > 0 else 0
    if rank < count:
        raise ValueError(f"the {m} vectors span {rank} directions about their mean, {count} are asked for")
    axes = [torch.zeros_like(mean) for _ in range(count)]
    for i in range(m):
        vector = vectors[i]
        for part in _parts(len(mean)):
            centred = vector[part].double() - mean[part]
            for axis, weight in zip(axes, weights[i], strict=False):
                axis[part] += float(weight) * centred
    for k, axis in enumerate(axes):
        for previous in axes[:k]:
            share = previous @ axis
            for part in _parts(len(mean)):
                axis[part] -= share * previous[part]
        axis.div_(torch.linalg.vector_norm(axis))
        largest = (axis[part][axis[part].abs().argmax()] for part in _parts(len(axis)))
        axis.mul_(torch.sign(max(largest, key=abs)))  # the first of several
    return PrincipalAxes(axes, values[:count] / values.sum())


def _parts(size: int, step: int = _BLOCK) -> list[slice]:
    return [slice(start, start + step) for start in range(0, size, step)]


def _mean(vectors: Sequence[Tensor]) -> Tensor:
    """The mean of the vectors (size,) in float64, asked for one after another; the bits of `torch.stack(...).mean(0)`.

    torch adds up to 16 rows to a sum, the sums of up to 16 of these to another, and so on.
    """
    sums: list[Tensor] = []
    for number, vector in enumerate(vectors, start=1):
        if not sums:
            sums.append(torch.zeros(len(vector), dtype=torch.float64, device=vector.device))
        for part in _parts(len(vector)):
            sums[0][part] += vector[part].double()
        level, full = 0, number
        while full % 16 == 0:
            if level + 1 == len(sums):
                sums.append(torch.zeros_like(sums[0]))
            sums[level + 1].add_(sums[level])
            sums[level].zero_()
            level, full = level + 1, full // 16
    for other in sums[1:]:
        sums[0].add_(other)
    return sums[0].div_(len(vectors))
