"""Groups of the data's samples, each of which is left out in turn to tell how numbers made of several places err."""

from __future__ import annotations

import numpy as np
import torch
from landscape_kernels.arrays import IntArray
from landscape_kernels.probes import derive_seed
from torch import Tensor

from landscape.objective.data import Data
from landscape.objective.losses import Units

GROUPS = 32  # an error made of so many is itself known to 1/sqrt(2 * 31), an eighth


class SampleGroups:
    """Which of the groups 0..GROUPS-1 each unit of the data belongs to: the same at every theta.

    Samples are dealt out at random, the same way every time, and so are whole batches where only batch values are
    known: data are often stored class by class, and groups in order or in turn would differ by more or less than
    samples that are drawn at random. Groups are equal but for one sample; of fewer samples than groups each is one.
    """

    def __init__(self, data: Data, device: torch.device) -> None:
        self._device = device
        of_samples = _dealt(data.samples, "samples")
        self._of_chunks = _dealt(data.count, "chunks")
        sizes = [data.samples_of(chunk) for chunk in range(data.count)]
        parts = np.split(of_samples, np.cumsum(sizes)[:-1])
        self._of_samples = [torch.from_numpy(part.astype(np.uint8)).to(device) for part in parts]
        self._counts = [_counted(part, device) for part in parts]

    def of(self, chunk: int, units: Units) -> tuple[Tensor, Tensor]:
        """The groups of the units of one chunk, (n,) int64, and how many units each group has there, (GROUPS,)."""
        count = units.numerators.numel()
        of_samples = self._of_samples[chunk]
        if units.per_sample and count == len(of_samples):
            return of_samples.long(), self._counts[chunk]
        inside = (_dealt(count, "units", chunk) + self._of_chunks[chunk]) % GROUPS
        return torch.from_numpy(inside).to(self._device), _counted(inside, self._device)


def _counted(groups: IntArray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.bincount(groups, minlength=GROUPS).astype(np.float64)).to(device)


def _dealt(count: int, *keys: str | int) -> IntArray:
    generator = np.random.Generator(np.random.Philox(key=derive_seed(0, "groups", *keys)))
    dealt = np.empty(count, dtype=np.int64)
    dealt[generator.permutation(count)] = np.arange(count) % GROUPS
    return dealt
