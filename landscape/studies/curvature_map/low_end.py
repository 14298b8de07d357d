"""The smallest eigenvalue to an error, between that of a sample and v'Hv of its vector on independent draws.

The smallest eigenvalue is a concave function of the matrix: that of a sample lies below that of all data on average
(Jensen), and no v'Hv of all data lies below it. The two ends approach each other as samples grow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from landscape_kernels.krylov import eigenpairs
from landscape_kernels.probes import derive_seed
from torch import Tensor

from landscape.curvature.matrix import Matrix
from landscape.curvature.sampling import Balanced
from landscape.run.comm import Communicator
from landscape.studies.spectrum.brackets import CAUTION, GROUPS
from landscape.studies.spectrum.precise import blocks_of

_FIRST = 256  # draws
_GROWTH = 2, 16  # times as many draws in the next round, at least and at most
_MOST = 0.25  # of the data, beyond which all of them are measured: samples have as many products, and two ends
_SPARE = 0.85  # of the error asked that a round aims at
_LOOSE = 0.25  # of the error asked that a sample's own residual may take


@dataclass(frozen=True)
class LowEnd:
    """The smallest eigenvalue, and what it took."""

    value: float
    error: float  # one standard error and half the width of the bracket; 0 where all data were measured
    vector: Tensor  # (1, size)
    products: int  # of the last Krylov run
    sample_products: int
    whole: bool  # whether all data were measured


def lowest(
    matrix: Matrix,
    draws: Balanced,
    largest: float,
    error: float,
    *,
    tol: float,
    max_products: int,
    seed: int,
    start: Tensor | None,
    group: Communicator,
) -> LowEnd:
    """The smallest eigenvalue to `error` times the larger of its size and that of `largest`, the other end.

    `start` (1, size) is a guess of its vector. All data are measured where a quarter of them does not do.
    """
    samples, count, spent = matrix.sample.objective.samples, _FIRST, 0
    loose, most = max(tol, _LOOSE * error), matrix.sample.objective.chunk
    while count <= _MOST * samples:
        sample = draws.drawn(1, count, seed, "lowest", count)
        with matrix.bind(group, sample=sample, chunk=min(count, most)) as H:
            key = derive_seed(seed, "lowest", count)
            found = eigenpairs(H, 0, smallest=1, tol=loose, start=start, seed=key, max_products=max_products)
        start = found.smallest.vectors
        below = float(found.smallest.values[0] - found.smallest.residuals[0])
        forms, of_forms = _forms(matrix, draws, start, count, seed, group)
        spent += found.products * count + of_forms
        above, stderr = float(forms.mean()), CAUTION * float(forms.std(ddof=1)) / math.sqrt(GROUPS)
        value, reached = (below + above) / 2, math.hypot((above - below) / 2, stderr)
        aim = error * max(abs(largest), abs(value))
        if reached <= aim:
            return LowEnd(value, reached, start, found.products, spent, False)
        grown = (reached / (_SPARE * aim)) ** 2 if aim else math.inf
        count = math.ceil(count * min(max(grown, _GROWTH[0]), _GROWTH[1]))
    with matrix.bind(group) as H:
        found = eigenpairs(H, 0, smallest=1, tol=tol, start=start, seed=seed, max_products=max_products)
    spent += found.products * samples
    return LowEnd(float(found.smallest.values[0]), 0.0, found.smallest.vectors, found.products, spent, True)


def _forms(
    matrix: Matrix, draws: Balanced, vector: Tensor, count: int, seed: int, group: Communicator
) -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]], int]:
    """((GROUPS,), v'Hv of groups of independent blocks of at least `count` draws, how many draws that were)."""
    blocks, size = blocks_of(count, matrix.sample.objective.chunk)
    sample = draws.drawn(blocks, size, seed, "forms", count)
    with matrix.bind(group, sample=sample, chunk=size) as H:
        forms = torch.zeros(H.chunks, dtype=torch.float64, device=H.device)
        for number, vectors, image in H.chunk_products(1, lambda _: vector.to(H.device, H.dtype)):
            forms[number] = (vectors * image).sum(dtype=torch.float64)
        found = H.over_ranks(forms).cpu().numpy() / H.denominators
    return found.reshape(-1, GROUPS).mean(0), blocks * size
