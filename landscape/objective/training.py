"""Batches to train on: every epoch of them follows from (seed, epoch) alone."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import torch
from landscape_kernels.arrays import IntArray
from landscape_kernels.probes import derive_seed
from torch.utils.data import DataLoader, Dataset, IterableDataset

from landscape.errors import InputError
from landscape.objective.batches import Batch, as_whole
from landscape.objective.random_state import random_state_kept, seed_everything
from landscape.objective.streams import Stream
from landscape.objective.trees import digest, has_batch_axis, map_tensors, shapes_in, tensors_in


class TrainingData:
    """Minibatches of `train`, shuffled and augmented as its loader does, the same each time an epoch is asked for.

    Tensors and arrays are cut into batches of about `batch_size`, equal to within one sample, in an order drawn for
    each epoch; a Dataset gets a shuffling DataLoader; a DataLoader or any re-iterable of batches is used as it is. Its
    random numbers, those of its workers included, are drawn from streams set by (seed, epoch, step).
    """

    def __init__(
        self, train: Any, batch_size: int, *, device: torch.device, dtype: torch.dtype, convert: Any = None
    ) -> None:
        """`convert` is applied to every tensor of a batch (a memory format)."""
        converts = () if convert is None else (convert,)
        self._first: dict[int, str] = {}  # seed -> hash of the first batch of a loader
        if batch_size < 1:
            raise InputError(f"batch_size={batch_size}; give 1 or more samples")
        self._whole: Batch | None = as_whole(train)
        self._loader: Any = train
        if self._whole is not None:
            if not has_batch_axis(self._whole) or _samples(self._whole) == 0:
                raise InputError(
                    f"the training data ({shapes_in(self._whole)}) is empty, or its tensors have different numbers of "
                    "samples; give inputs and targets of the same number, at least 1"
                )
            self._whole = Stream([self._whole], device, dtype, converts=converts).placed(self._whole)
            samples = _samples(self._whole)
            self._batches = -(-samples // batch_size)
            self.about = f"{samples} samples {digest(*tensors_in(self._whole))} in {self._batches} batches"
        else:
            if _length(train) == 0:
                raise InputError(
                    f"the training data ({type(train).__name__}) is empty; give one batch at least (drop_last=True "
                    "leaves none of fewer samples than batch_size)"
                )
            if isinstance(train, Dataset):
                shuffle = not isinstance(train, IterableDataset)
                self._loader = DataLoader(train, batch_size=batch_size, shuffle=shuffle)
            if getattr(self._loader, "persistent_workers", False):
                raise InputError(
                    "the training DataLoader has persistent_workers=True: its workers carry their random streams from "
                    "epoch to epoch, so a resumed fit would see other data; build it with persistent_workers=False"
                )
        self._stream = Stream(self._loader, device, dtype, converts=converts)
        if self._whole is None:
            self.about = _described(self._loader, self._stream)

    def identity(self, seed: int) -> str:
        """What fixes the batches, as far as it can be told: `about` and, of a loader, a hash of its first batch."""
        if self._whole is not None or isinstance(self._loader, (list, tuple)):
            return self.about
        if seed not in self._first:
            with random_state_kept(), closing(self.epoch(seed, 0)) as batches:
                self._first[seed] = digest(*tensors_in(next(batches, ())))
        return f"{self.about}, the first {self._first[seed]}"

    def steps(self, seed: int) -> int:
        """Batches of an epoch, of a loader that does not know their number those of the first one."""
        if self._whole is not None:
            return self._batches
        known = _length(self._loader)
        if known is not None:
            return known
        with random_state_kept(), closing(self.epoch(seed, 0)) as batches:
            return sum(1 for _ in batches)

    def epoch(self, seed: int, epoch: int) -> Generator[Batch, None, None]:
        """The batches of one epoch, each made with the random streams at (seed, epoch, step); it moves all of them."""
        if self._whole is not None:
            for part in self._placed(self._order(seed, epoch)).tensor_split(self._batches):
                yield _rows(self._whole, part)
            return
        seed_everything(derive_seed(seed, "epoch", epoch))
        own = [g for g in map(_generator, _samplers(self._loader)) if g is not None]
        states = [generator.get_state() for generator in own]
        for generator in own:
            generator.manual_seed(derive_seed(seed, "epoch", epoch) % 2**63)
        for sampler in _samplers(self._loader):
            if callable(getattr(sampler, "set_epoch", None)):
                sampler.set_epoch(epoch)
        try:
            batches = iter(self._stream)
            for step in range(2**62):
                if step:  # a forward pass with dropout has drawn meanwhile
                    seed_everything(derive_seed(seed, "batch", epoch, step))
                batch = next(batches, None)
                if batch is None:
                    return
                yield batch
        finally:
            for generator, state in zip(own, states, strict=True):
                generator.set_state(state)

    @property
    def whole(self) -> Batch | None:
        """All samples as one batch, where they were given as tensors or arrays."""
        return self._whole

    def epoch_of_several(self, seeds: Sequence[int], epoch: int) -> Iterator[Batch]:
        """The batches of one epoch of several seeds side by side, (seeds, samples, ...); of data that are tensors."""
        orders = np.stack([self._order(seed, epoch) for seed in seeds])
        for part in self._placed(orders).tensor_split(self._batches, dim=1):
            yield _rows(self._whole, part)

    def _placed(self, order: IntArray) -> torch.Tensor:
        """An order where the data are: once for an epoch, since what is copied to a device waits for it."""
        return torch.from_numpy(order).to(next(tensors_in(self._whole)).device)

    def _order(self, seed: int, epoch: int) -> IntArray:
        """The samples in the order of an epoch, of data that are tensors."""
        order: IntArray = np.arange(_samples(self._whole))
        if self._batches > 1:
            random = np.random.Generator(np.random.Philox(key=derive_seed(seed, "order", epoch)))
            order = random.permutation(order)
        return order


def _samples(whole: Batch) -> int:
    return int(next(tensors_in(whole)).shape[0])


def _rows(batch: Batch, index: torch.Tensor) -> Batch:
    return map_tensors(batch, lambda tensor: tensor[index.to(tensor.device)])


def _samplers(loader: Any) -> list[Any]:
    """The loader and what it draws its order with."""
    inner = getattr(loader, "batch_sampler", None)
    return [loader, getattr(loader, "sampler", None), inner, getattr(inner, "sampler", None)]


def _generator(owner: Any) -> torch.Generator | None:
    generator = getattr(owner, "generator", None)
    return generator if isinstance(generator, torch.Generator) else None


def _length(collection: Any) -> int | None:
    """Its length where it knows it; a DataLoader over an IterableDataset does not."""
    try:
        return len(collection)
    except TypeError:
        return None


def _described(loader: Any, stream: Stream) -> str:
    """A loader in words, as far as it tells."""
    parts = [type(loader).__name__]
    if isinstance(loader, (list, tuple)):
        parts.append(f"{len(loader)} batches {digest(*(tensor for batch in stream for tensor in tensors_in(batch)))}")
    dataset = getattr(loader, "dataset", None)
    if dataset is not None:
        length = _length(dataset)
        parts.append(type(dataset).__name__ + ("" if length is None else f" of {length}"))
    if isinstance(getattr(loader, "batch_size", None), int):
        parts.append(f"batches of {loader.batch_size}")
    return ", ".join(parts)
