"""Batches made anew at each pass, on the device and in the working precision."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    default_collate,
)

from landscape.errors import InputError, text_of, user_code
from landscape.objective.arrays import LazyArray, is_array
from landscape.objective.batches import LOADER, Batch, as_tensors, is_held, require_values
from landscape.objective.trees import (
    axes_of,
    kind_of,
    leaves_in,
    map_leaves,
    map_tensors,
    take_rows,
)

_READ_BATCH = 256  # samples collated at a time when a Dataset is read


class Stream:
    """Batches made anew at each iteration, on the device, floating-point values in the working precision."""

    def __init__(
        self,
        source: Any,
        device: torch.device,
        dtype: torch.dtype,
        size: int = _READ_BATCH,
        converts: tuple[Any, ...] = (),
    ) -> None:
        self._source, self._device, self._dtype, self._size, self._converts = source, device, dtype, size, converts

    @property
    def has_rows(self) -> bool:
        """Whether single samples can be asked for, so that the size of the batches is free."""
        return isinstance(self._source, (Whole, Dataset)) and not isinstance(self._source, IterableDataset)

    def rows(self, numbers: Sequence[int]) -> Batch:
        """One batch of the given samples."""
        if isinstance(self._source, Whole):
            return self.placed(self._source.taken(numbers))
        return self.placed(self._items(numbers))

    def _items(self, numbers: Iterable[int]) -> Batch:
        samples = []
        for number in numbers:
            with user_code(f"sample {number} of the {type(self._source).__name__} cannot be read"):
                samples.append(self._source[number])
        return _collated(samples)

    def with_batch_size(self, size: int) -> Stream:
        return Stream(self._source, self._device, self._dtype, size, self._converts)

    def converted(self, convert: Any) -> Stream:
        return Stream(self._source, self._device, self._dtype, self._size, (*self._converts, convert))

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._raw():
            yield self.placed(batch)

    def placed(self, batch: Any) -> Batch:
        """One batch as the objective sees it."""
        batch = as_tensors(batch)
        require_values(batch)
        moved = map_tensors(_moved(batch, self._device), self._place)
        for convert in self._converts:
            moved = map_tensors(moved, convert)
        return moved

    def _place(self, tensor: Tensor) -> Tensor:
        return tensor.detach().to(self._device, self._dtype if tensor.is_floating_point() else tensor.dtype)

    def _raw(self) -> Iterator[Batch]:
        source = self._source
        if isinstance(source, Whole):
            for start in range(0, len(source), self._size):
                yield source.rows(start, start + self._size)
        elif isinstance(source, IterableDataset):
            yield from _each(DataLoader(source, batch_size=self._size), source)
        elif isinstance(source, Dataset):
            with user_code(f"len() of the {type(source).__name__}", advice=f"Give it one, or {LOADER} of it."):
                length = len(source)  # type: ignore[arg-type]
            for start in range(0, length, self._size):
                yield self._items(range(start, min(start + self._size, length)))
        else:
            yield from _each(source, source)


def _each(batches: Iterable[Any], source: Any) -> Iterator[Batch]:
    """The batches of an iterable; what it raises is told with its type and the number of the batch."""
    number = 0
    with user_code(f"the data ({type(source).__name__}) cannot be iterated"):
        iterator = iter(batches)
    while True:
        with user_code(f"batch {number} of the data ({type(source).__name__}) cannot be made"):
            try:
                batch = next(iterator)
            except StopIteration as end:
                if isinstance(batches, DataLoader) and _is_of_a_sample(end, batches):
                    raise
                return
        yield batch
        number += 1


def _is_of_a_sample(end: StopIteration, loader: DataLoader[Any]) -> bool:
    """Whether a loader seems to end and does not: its data set or collate_fn raised, as `next()` inside them does."""
    listed = not isinstance(loader.dataset, IterableDataset)
    frames = traceback.extract_tb(end.__traceback__)
    return any(
        (frame.name == "fetch" and (listed or "collate_fn" in (frame.line or "")))
        or (frame.name == "reraise" and listed)  # by a worker
        for frame in frames
        if Path(frame.filename).parts[-2:] in (("_utils", "fetch.py"), ("torch", "_utils.py"))
    )


def _moved(batch: Any, device: torch.device) -> Any:
    """A batch whose objects with `.to()` (graphs) are on the device: that may move more than tensors that are seen."""
    return batch if device.type == "cpu" else map_leaves(batch, lambda value: value.to(device), _moves_itself)


def _moves_itself(value: Any) -> bool:
    plain = isinstance(value, (Tensor, type)) or is_array(value) or hasattr(value, "named_parameters")
    return not plain and callable(getattr(value, "to", None))


class Whole:
    """Data given as one batch of all samples, arrays in files read in slices."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def __len__(self) -> int:
        return axes_of(next(leaves_in(self._batch, is_held)))[0]

    def rows(self, start: int, stop: int) -> Batch:
        """The samples from `start` to `stop`, the last one left out."""

        def part(leaf: Any) -> Tensor:
            return leaf.rows(start, stop) if isinstance(leaf, LazyArray) else take_rows(leaf, slice(start, stop))

        return map_leaves(self._batch, part, is_held)

    def taken(self, numbers: Sequence[int]) -> Batch:
        """The samples of the given numbers, in their order."""
        index = torch.as_tensor(numbers, dtype=torch.long)

        def part(leaf: Any) -> Tensor:
            return leaf.taken(numbers) if isinstance(leaf, LazyArray) else take_rows(leaf, index)

        return map_leaves(self._batch, part, is_held)


def _collated(samples: list[Any]) -> Batch:
    try:
        return default_collate(samples)
    except (RuntimeError, TypeError) as error:
        raise InputError(
            f"samples of the Dataset ({kind_of(samples[0])}) cannot be put together into a batch: {text_of(error)}. "
            "Return tensors of one shape, or pass a DataLoader with your collate_fn."
        ) from error
