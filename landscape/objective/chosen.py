"""Values of single samples that are chosen out of all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from landscape_kernels.arrays import FloatArray
from torch import Tensor

from landscape.objective.data import Data
from landscape.objective.units import Units
from landscape.run.comm import Communicator


class ChosenSamples:
    """The numerators of the samples of given numbers, (quantities, n), in the order of the numbers."""

    def __init__(self, data: Data, numbers: Sequence[int], quantities: int) -> None:
        sizes = np.array([data.samples_of(chunk) for chunk in range(data.count)])
        ends = np.cumsum(sizes)
        chosen = np.asarray(numbers, dtype=np.int64)
        chunks = np.searchsorted(ends, chosen, side="right")
        rows = chosen - (ends - sizes)[chunks]
        # chunk -> (places in the order of the numbers, rows in the chunk)
        self._of_chunks = {int(c): (np.flatnonzero(chunks == c), rows[chunks == c]) for c in np.unique(chunks)}
        self._sizes = sizes
        self._found: list[tuple[int, int, Tensor]] = []  # quantity, chunk, its numerators where they are
        self._values = np.zeros((quantities, len(chosen)))

    def take(self, quantity: int, chunk: int, units: Units) -> None:
        """Note what a chunk gives; NaN where it has no values of single samples."""
        if chunk not in self._of_chunks:
            return
        if units.per_sample and units.numerators.numel() == self._sizes[chunk]:
            self._found.append((quantity, chunk, units.numerators.detach().double()))
        else:
            self._values[quantity, self._of_chunks[chunk][0]] = np.nan

    def taken(self, group: Communicator) -> FloatArray:
        """The values of all chunks, over the ranks of a group, (quantities, n); the next pass begins anew."""
        if self._found:  # all at once: each look at a device's values waits for it
            together = torch.cat([numerators for _, _, numerators in self._found]).cpu().numpy()
            ends = np.cumsum([len(numerators) for _, _, numerators in self._found])
            for (quantity, chunk, _), part in zip(self._found, np.split(together, ends[:-1]), strict=True):
                places, rows = self._of_chunks[chunk]
                self._values[quantity, places] = part[rows]
            self._found = []
        values, self._values = self._values, np.zeros_like(self._values)
        group.allreduce_(values)
        return values
