"""Sums over the chunks of the data: of each chunk the moments of its units, added in the order of the chunks."""

from __future__ import annotations

import numpy as np
import torch
from landscape_kernels.arrays import FloatArray
from landscape_kernels.moments import MOMENTS, moments, moments_
from torch import Tensor

from landscape.objective.gpu import is_host
from landscape.objective.units import Units
from landscape.run.comm import Communicator


class Sums:
    """The six moments of every chunk and quantity, in float64; 0 of chunks that other ranks compute.

    On the CPU they are numbers at once; elsewhere a table on the device, which is waited for once.
    """

    def __init__(self, chunks: int, quantities: int, device: torch.device) -> None:
        shape = chunks, quantities, MOMENTS
        self._table: FloatArray | Tensor = np.zeros(shape)
        if not is_host(device):
            self._table = torch.zeros(shape, dtype=torch.float64, device=device)

    def put(self, chunk: int, quantity: int, units: Units) -> None:
        """Those of the units of one chunk."""
        if isinstance(self._table, Tensor):
            moments_(self._table[chunk, quantity], units.numerators, units.denominators)
        else:
            self._table[chunk, quantity] = moments(units.numerators, units.denominators)

    @property
    def table(self) -> Tensor:
        """They where the device has them, (chunks, quantities, 6)."""
        assert isinstance(self._table, Tensor), "on the CPU they are numbers"
        return self._table

    def fetched(self) -> FloatArray:
        """All of them, (chunks, quantities, 6), once the device has computed them."""
        return self._table.cpu().numpy() if isinstance(self._table, Tensor) else self._table


def summed(parts: FloatArray, group: Communicator) -> FloatArray:
    """What every chunk gave (chunks, ...), over the ranks of a group, added in chunk order."""
    group.allreduce_(parts)
    total: FloatArray = np.add.reduce(parts, axis=0)  # adds whole chunks one after the other: the order is fixed
    return total
