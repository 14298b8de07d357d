"""Coordinates of vectors on given axes, distances from their span, and principal axes of a set of vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from landscape_kernels.arrays import FloatArray


@dataclass(frozen=True)
class Projection:
    """Least-squares coordinates and what they leave over."""

    coordinates: FloatArray  # (m, k)
    distance: FloatArray  # (m,), Euclidean distance from centre + span(axes)


def gram(vectors: Sequence[Tensor]) -> FloatArray:
    """Inner products of the vectors in float64, (k, k)."""
    result = np.empty((len(vectors), len(vectors)))
    for i, a in enumerate(vectors):
        for j, b in enumerate(vectors[: i + 1]):
            result[i, j] = result[j, i] = float(a.double() @ b.double())
    return result


def project(vectors: Sequence[Tensor], centre: Tensor, axes: Sequence[Tensor]) -> Projection:
    """Least-squares coordinates c of v - centre on the axes, argmin_c |v - centre - sum_i c_i a_i|, for every v.

    The axes need not be orthogonal or of unit length. Solved by a QR factorisation in float64.
    Raises ValueError when the axes are linearly dependent.
    """
    matrix = torch.stack([axis.double() for axis in axes], dim=1)
    q, r = torch.linalg.qr(matrix)
    diagonal = r.diagonal().abs()
    if bool(diagonal.min() <= 1e-12 * diagonal.max()):
        raise ValueError("the axes are linearly dependent")
    coordinates, distance = [], []
    for vector in vectors:
        offset = vector.double() - centre.double()
        inside = q.T @ offset
        # Projected out twice: one pass leaves a rest of eps |offset| inside the span.
        rest = offset - q @ inside
        rest = rest - q @ (q.T @ rest)
        coordinates.append(torch.linalg.solve_triangular(r, inside[:, None], upper=True)[:, 0].cpu().numpy())
        distance.append(float(torch.linalg.vector_norm(rest)))
    return Projection(np.array(coordinates).reshape(len(vectors), len(axes)), np.array(distance))


@dataclass(frozen=True)
class PrincipalAxes:
    """Leading principal axes of a set of vectors about their mean."""

    axes: list[Tensor]  # k unit vectors (size,), float64
    explained_variance: FloatArray  # (k,), fraction of the total variance


def principal_axes(vectors: Sequence[Tensor], count: int) -> PrincipalAxes:
    """The `count` leading principal axes of the vectors, by the eigenvectors of their centred Gram matrix (m x m).

    Each axis' sign makes its largest entry positive. Raises ValueError when the vectors span fewer than `count`
    directions.
    """
    mean = torch.stack([v.double() for v in vectors]).mean(dim=0)
    centred = [v.double() - mean for v in vectors]
    values, weights = np.linalg.eigh(gram(centred))
    values, weights = values[::-1].clip(min=0), weights[:, ::-1]
    rank = int((values > values[0] * 1e-12).sum()) if len(values) and values[0] > 0 else 0
    if rank < count:
        raise ValueError(f"the {len(vectors)} vectors span {rank} directions about their mean, {count} are asked for")
    axes: list[Tensor] = []
    for k in range(count):
        axis = sum((float(w) * v for w, v in zip(weights[:, k], centred, strict=True)), torch.zeros_like(mean))
        for previous in axes:
            axis = axis - (previous @ axis) * previous
        axis = axis / torch.linalg.vector_norm(axis)
        axes.append(axis * torch.sign(axis[axis.abs().argmax()]))
    return PrincipalAxes(axes, values[:count] / values.sum())
