"""The plane of leading eigenvectors."""

from __future__ import annotations

import numpy as np
import torch
from landscape_kernels.arrays import FloatArray
from torch import Tensor

from landscape.arguments import Count, checked
from landscape.errors import InputError
from landscape.objective.gate import of_objective
from landscape.objective.objective import Objective
from landscape.planes.directions import plane_from_directions
from landscape.planes.plane import Plane
from landscape.studies.spectrum.result import Spectrum


@of_objective
@checked()
def eigenvector_plane(objective: Objective, spectrum: Spectrum, axes: Count = 2, *, smallest: bool = False) -> Plane:
    """The plane of the leading eigenvectors of a spectrum, through the objective's centre; coordinates are distances.

    With `smallest` the last axis is the eigenvector of the smallest eigenvalue. Raises InputError where the spectrum
    keeps no such vectors, or has another size.
    """
    found = _rows(spectrum.largest.vectors)
    if smallest:
        low = _rows(spectrum.smallest.vectors)
        if not len(low):
            raise InputError("the spectrum keeps no vector of its lower end; measure it with smallest=1")
        found = np.concatenate([found[: axes - 1], low[:1]])
    if not 1 <= axes <= len(found):
        raise InputError(f"axes={axes}, but the spectrum keeps {len(found)} eigenvectors; measure it with k={axes}")
    names = list(spectrum.attributes["tensors"])
    blocks = [block for block in objective.layout.blocks if block.name in names]
    if [block.name for block in blocks] != names or sum(block.size for block in blocks) != found.shape[1]:
        raise InputError("the spectrum is of another model: its parameters are not those of this objective")
    directions: list[Tensor] = []
    for row in found[:axes]:
        direction = torch.zeros(objective.layout.size, dtype=torch.float64)
        for block, part in zip(blocks, torch.split(torch.from_numpy(row), [b.size for b in blocks]), strict=True):
            direction[block.slice] = part
        directions.append(direction)
    labels = [f"eigenvector {i + 1}" for i in range(axes)]
    if smallest:
        labels[-1] = "eigenvector of the smallest eigenvalue"
    return plane_from_directions(objective, directions, labels=labels)


def _rows(vectors: FloatArray | None) -> FloatArray:
    return np.zeros((0, 0)) if vectors is None else vectors[~np.isnan(vectors).any(1)]
