"""Groups of the data's samples, each of which is left out in turn to tell how numbers made of several places err."""

from __future__ import annotations

import numpy as np
import torch
from landscape_kernels.arrays import FloatArray, IntArray
from landscape_kernels.moments import SUMS, add_by_group_
from landscape_kernels.probes import derive_seed
from torch import Tensor

from landscape.objective.data import Data
from landscape.objective.units import Units

GROUPS = 32  # an error made of so many is itself known to 1/sqrt(2 * 31), an eighth


class SampleGroups:
    """Which of the groups 0..GROUPS-1 each unit of the data belongs to: the same at every theta.

    Samples are dealt out at random, the same way every time, and so are whole batches where only batch values are
    known: data are often stored class by class, and groups in order or in turn would differ by more or less than
    samples that are drawn at random. Groups are equal but for one sample; of fewer samples than groups each is one.
    """

    def __init__(self, data: Data, device: torch.device) -> None:
        of_samples = _dealt(data.samples, "samples")
        self._of_chunks = _dealt(data.count, "chunks")
        sizes = [data.samples_of(chunk) for chunk in range(data.count)]
        self._of_samples = torch.from_numpy(of_samples).to(device).split_with_sizes(sizes)
        counts = [_counted(part) for part in np.split(of_samples, np.cumsum(sizes)[:-1])]
        self._counts = torch.from_numpy(np.stack(counts)).to(device)

    def sums(self, quantities: int, start: int, step: int) -> Tensor:
        """Where `add_` puts sums: (chunks, quantities, 2, GROUPS) float64, numerators and denominators.

        In every `step`-th chunk from `start` on the denominators are those of samples that count 1 each.
        """
        found = self._counts.new_zeros((len(self._counts), quantities, SUMS, GROUPS))
        found[start::step, :, 1] = self._counts[start::step, None]
        return found

    def of(self, chunk: int, units: Units) -> Tensor:
        """The groups of the units of one chunk, (n,) int64."""
        of_samples, count = self._of_samples[chunk], units.numerators.numel()
        if units.per_sample and count == len(of_samples):
            return of_samples
        inside = _dealt(count, "units", chunk) + self._of_chunks[chunk]
        return torch.from_numpy(inside % GROUPS).to(of_samples.device)

    def add_(self, sums: Tensor, chunk: int, units: Units) -> None:
        """Write the numerators and denominators of one chunk's units, by group, into its `sums` (2, GROUPS)."""
        numerators, denominators = units.numerators, units.denominators
        groups = self.of(chunk, units)
        add_by_group_(sums[0], numerators, groups)
        if denominators is None and groups is not self._of_samples[chunk]:
            denominators = torch.ones_like(numerators)
        if denominators is not None:
            add_by_group_(sums[1].zero_(), denominators, groups)


def _counted(groups: IntArray) -> FloatArray:
    return np.bincount(groups, minlength=GROUPS).astype(np.float64)


def _dealt(count: int, *keys: str | int) -> IntArray:
    generator = np.random.Generator(np.random.Philox(key=derive_seed(0, "groups", *keys)))
    dealt = np.empty(count, dtype=np.int64)
    dealt[generator.permutation(count)] = np.arange(count) % GROUPS
    return dealt
