"""Spectra of a matrix, of its shuffles and of its roundings, shared out over the ranks of a group."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
from landscape_kernels.arrays import FloatArray
from landscape_kernels.probes import derive_seed
from landscape_kernels.spectra import gram_spectrum
from torch import Tensor

from landscape.network.weights import WeightMatrix
from landscape.run.comm import Communicator
from landscape.run.together import agree

Draw = tuple[str, int]
ITSELF: Draw = ("itself", 0)


def draws(shuffles: int, roundings: int) -> list[Draw]:
    """The matrix itself, its shuffles, its roundings."""
    return [ITSELF, *(("shuffle", k) for k in range(shuffles)), *(("rounding", k) for k in range(roundings))]


def pooled(slices: list[FloatArray]) -> FloatArray:
    """The eigenvalues of all slices together, ascending."""
    return np.sort(np.concatenate(slices))


def drawn_spectra(
    matrix: WeightMatrix, tensor: Tensor, asked: list[Draw], seed: int, eps: float, group: Communicator
) -> dict[Draw, list[FloatArray]]:
    """{draw: eigenvalues of W'W of each slice, ascending}; every slice of every draw on one rank of the group.

    A "shuffle" has the entries of a slice in another order, a "rounding" moves them by up to `eps` / 2 of themselves.
    Random numbers follow from `seed`, the matrix's name, the draw and the slice.
    """
    mine = agree(group, partial(_own, matrix, tensor, asked, seed, eps, group.rank, group.size))
    all_of: dict[tuple[int, Draw], FloatArray] = {}
    for part in group.gather_all(mine):
        all_of |= part
    return {draw: [all_of[piece, draw] for piece in range(matrix.slices)] for draw in asked}


def _own(
    matrix: WeightMatrix, tensor: Tensor, asked: list[Draw], seed: int, eps: float, rank: int, size: int
) -> dict[tuple[int, Draw], FloatArray]:
    found: dict[tuple[int, Draw], FloatArray] = {}
    for piece, w in enumerate(matrix.matrices(tensor)):
        for k, draw in enumerate(asked):
            if (piece * len(asked) + k) % size == rank:
                key = derive_seed(seed, "weights", draw[0], matrix.name, draw[1], piece)
                found[piece, draw] = _spectrum(w, draw[0], matrix.factor, eps, key)
    return found


def _spectrum(w: FloatArray, what: str, factor: float, eps: float, key: int) -> FloatArray:
    if what == "itself":
        return gram_spectrum(w if factor == 1 else w * math.sqrt(factor))
    generator = np.random.Generator(np.random.Philox(key=key))
    if what == "shuffle":
        entries = w.flatten()
        generator.shuffle(entries)
        return gram_spectrum(entries.reshape(w.shape))
    entries = generator.uniform(-0.5, 0.5, w.shape)
    entries *= eps
    entries += 1.0
    entries *= w
    return gram_spectrum(entries)
