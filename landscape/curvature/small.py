"""Small matrices whole: the products of all unit vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from landscape_kernels.arrays import FloatArray

from landscape.curvature.matrix import Matrix
from landscape.curvature.operator import CurvatureOperator

_ROWS = 256  # up to so many a matrix has all of its unit vectors multiplied
_MOST_ROWS = 2048  # and up to so many where that is cheaper than what was asked
UNITS = 16  # unit vectors that share a pass over the data


@dataclass(frozen=True)
class UnitProducts:
    """A matrix in float64, and what the data's C chunks have in its diagonal."""

    matrix: FloatArray  # (size, size), symmetric
    parts: FloatArray  # (C, size), diagonals of H_c, see `ChunkProducts`
    denominators: FloatArray  # (C,), d_c


def small(matrix: Matrix, products: int) -> bool:
    """Whether a matrix is computed whole, where what is asked of it takes about so many products otherwise."""
    return matrix.size <= max(_ROWS, min(products, _MOST_ROWS))


def unit_products(H: CurvatureOperator, between: Callable[[int], None] | None = None) -> UnitProducts:
    """The matrix of an operator by the products of all unit vectors, as many as it has rows.

    `between` is called before each pass with the number of products so far, and may raise to end it all.
    """
    found = torch.zeros((H.size, H.size), dtype=torch.float64)
    parts = np.zeros((H.chunks, H.size))
    for first in range(0, H.size, UNITS):
        if between is not None:
            between(first)
        rows = torch.arange(first, min(first + UNITS, H.size))
        units = torch.zeros((len(rows), H.size), dtype=H.dtype, device=H.device)
        units[torch.arange(len(rows)), rows.to(H.device)] = 1
        images = torch.zeros((H.chunks, len(rows), H.size), dtype=torch.float64)
        for number, _, image in H.chunk_products(len(rows), lambda _, units=units: units):  # type: ignore[misc]
            images[number] = image.double().cpu()
            parts[number, first : first + len(rows)] = images[number, torch.arange(len(rows)), rows].numpy()
        for image in H.over_ranks(images):  # in the order of the chunks, so that bits do not depend on the ranks
            found[rows] += image
    table: FloatArray = H.over_ranks(torch.from_numpy(parts)).cpu().numpy()
    weights = H.denominators
    matrix = (found + found.T).numpy() / (2 * weights.sum())
    return UnitProducts(matrix, table, weights)
