"""The data of an objective: read once in a fixed order, held in memory when it fits, checked for answering alike."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, TensorDataset, default_collate

from landscape.errors import InputError
from landscape.objective.trees import (
    batch_size,
    has_batch_axis,
    map_tensors,
    strided_parts,
    take_rows,
    tensor_bytes,
    tensors_in,
)

Batch = Any  # nested tuples, lists and mappings of tensors with a common first axis
_LABEL_KEYS = ("labels", "label", "targets", "target", "y")
_READ_BATCH = 256  # samples collated at a time when a Dataset is read


class Data:
    """Batches in a fixed order.

    `samples` is the number of samples, `digest` a hash of all values in their order, whatever the batching.
    """

    def __init__(
        self, batches: Iterable[Batch], samples: int, digest: str, count: int, *, held: bool, divisible: bool
    ) -> None:
        self._batches = batches
        self.samples = samples
        self.digest = digest
        self.count = count
        self.held = held
        self.divisible = divisible

    def chunks(self, start: int = 0, step: int = 1) -> Iterator[tuple[int, Batch]]:
        """(number, batch) of every `step`-th batch from `start` on."""
        if isinstance(self._batches, Sequence):
            for i in range(start, len(self._batches), step):
                yield i, self._batches[i]
            return
        for i, batch in enumerate(self._batches):
            if i % step == start:
                yield i, batch

    def divided(self, size: int) -> Data:
        """The same samples in batches of `size`, the last one shorter; unchanged where batches are the user's own."""
        if not self.divisible:
            return self
        count = -(-self.samples // size)
        if isinstance(self._batches, Stream):
            stream = self._batches.with_batch_size(size)
            return Data(stream, self.samples, self.digest, count, held=False, divisible=True)
        (whole,) = self._batches
        batches = [_rows(whole, i, i + size) for i in range(0, self.samples, size)]
        return Data(batches, self.samples, self.digest, count, held=True, divisible=False)

    def taken(self, rows: Sequence[int]) -> Data:
        """The samples of the given numbers, in their order, held as one batch. Raises InputError for fixed batches."""
        index = torch.as_tensor(rows, dtype=torch.long)
        if not self.divisible:
            raise InputError(
                "single samples cannot be taken out of batches that are the user's own (forward= or padded batches); "
                "give the Objective fewer batches instead of asking for a sample"
            )
        if isinstance(self._batches, Stream):
            with random_state_kept():
                batch = self._batches.rows(index.tolist())
        else:
            (whole,) = self._batches
            batch = map_tensors(whole, lambda tensor: take_rows(tensor, index.to(tensor.device)))
        digest = hashlib.blake2b(f"{self.digest}{index.tolist()}".encode(), digest_size=16).hexdigest()
        return Data([batch], len(index), digest, 1, held=True, divisible=True)

    @property
    def first(self) -> Batch:
        """The first batch."""
        with random_state_kept():
            return next(self.chunks())[1]

    def shuffled(self, order: Sequence[int]) -> Data:
        """The same samples in another order, where they are held; as they are where they are streamed or in batches."""
        if not (self.divisible and self.held):
            return self
        batch = self.taken(order).first
        return Data([batch], self.samples, self.digest, 1, held=True, divisible=True)

    def head(self, count: int) -> Data:
        """The first `count` samples as one batch, or the first batch as it is where it cannot be taken apart."""
        if self.divisible:
            return self.taken(range(min(count, self.samples)))
        batch = self.first
        return Data([batch], batch_size(batch), self.digest, 1, held=True, divisible=False)

    def converted(self, convert: Any) -> Data:
        """The same batches with `convert` applied to each tensor: at once where held, batch by batch where streamed."""
        batches = (
            [map_tensors(b, convert) for b in self._batches]
            if isinstance(self._batches, Sequence)
            else self._batches.converted(convert)  # type: ignore[attr-defined]
        )
        return Data(batches, self.samples, self.digest, self.count, held=self.held, divisible=self.divisible)


def read_data(
    data: Any, *, device: torch.device, dtype: torch.dtype, budget: int, divisible: bool, check: bool
) -> Data:
    """Read `data` once (with `check` twice, to see that it answers alike); hold it if it takes at most `budget` bytes.

    `data` is a tuple (inputs, targets) of tensors or arrays, a mapping of tensors, a Dataset, a DataLoader, or any
    re-iterable of batches. `divisible`: samples may be regrouped into other batches.
    Raises InputError for data that is empty, can be iterated only once, or differs between two passes.
    """
    whole = as_whole(data)
    source = data if whole is None else _Whole(_checked_lengths(whole)) if divisible else [whole]
    stream = Stream(source, device, dtype)
    with random_state_kept():
        first = _pass(stream, 0 if isinstance(source, _Whole) else budget)
        if first.samples == 0:
            raise InputError(f"the data ({type(data).__name__}) is empty; at least one sample is needed")
        if check and whole is None:
            _compare(first, _pass(stream, 0), data)
    if isinstance(source, _Whole) and first.bytes <= budget:
        held = [map_tensors(stream.placed(whole), Tensor.clone)]  # the caller's own may change
        return Data(held, first.samples, first.digest, 1, held=True, divisible=True)
    if first.kept is None:
        return Data(
            stream, first.samples, first.digest, first.count, held=False, divisible=divisible and stream.has_rows
        )
    if divisible:
        merged = _merge(first.kept)
        if merged is not None:
            return Data([merged], first.samples, first.digest, 1, held=True, divisible=True)
    return Data(first.kept, first.samples, first.digest, first.count, held=True, divisible=False)


def inputs_and_targets(batch: Batch) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    """(positional inputs, named inputs, targets) of a batch: a tuple whose last is the targets, or a mapping.

    A mapping has the targets under one of a few keys. Raises InputError for a batch without targets.
    """
    if isinstance(batch, Mapping):
        key = next((k for k in _LABEL_KEYS if k in batch), None)
        if key is None:
            raise InputError(
                f"a batch with keys {sorted(batch)} has no label key ({', '.join(_LABEL_KEYS)}); give "
                "forward=lambda model, batch: (outputs, targets)"
            )
        return (), {k: v for k, v in batch.items() if k != key}, batch[key]
    if isinstance(batch, Tensor) or len(batch) < 2:
        raise InputError(
            "a batch holds no targets; give data=(inputs, targets), a tuple, or batches of that form, or "
            "forward=lambda model, batch: (outputs, targets)"
        )
    *inputs, targets = batch
    if len(inputs) == 1 and isinstance(inputs[0], tuple):
        inputs = list(inputs[0])
    return tuple(inputs), {}, targets


def _rows(batch: Batch, start: int, stop: int) -> Batch:
    return map_tensors(batch, lambda tensor: take_rows(tensor, slice(start, stop)))


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
        return isinstance(self._source, (_Whole, Dataset)) and not isinstance(self._source, IterableDataset)

    def rows(self, numbers: Sequence[int]) -> Batch:
        """One batch of the given samples."""
        if isinstance(self._source, _Whole):
            index = torch.as_tensor(numbers, dtype=torch.long)
            return self.placed(map_tensors(self._source.batch, lambda tensor: take_rows(tensor, index)))
        return self.placed(_collated([self._source[i] for i in numbers]))

    def with_batch_size(self, size: int) -> Stream:
        return Stream(self._source, self._device, self._dtype, size, self._converts)

    def converted(self, convert: Any) -> Stream:
        return Stream(self._source, self._device, self._dtype, self._size, (*self._converts, convert))

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._raw():
            yield self.placed(batch)

    def placed(self, batch: Any) -> Batch:
        """One batch as the objective sees it."""
        moved = map_tensors(_as_tensors(batch), self._place)
        for convert in self._converts:
            moved = map_tensors(moved, convert)
        return moved

    def _place(self, tensor: Tensor) -> Tensor:
        return tensor.detach().to(self._device, self._dtype if tensor.is_floating_point() else tensor.dtype)

    def _raw(self) -> Iterator[Batch]:
        source = self._source
        if isinstance(source, _Whole):
            for start in range(0, len(source), self._size):
                yield _rows(source.batch, start, start + self._size)
        elif isinstance(source, IterableDataset):
            yield from DataLoader(source, batch_size=self._size)
        elif isinstance(source, Dataset):
            length = len(source)  # type: ignore[arg-type]
            for start in range(0, length, self._size):
                yield _collated([source[i] for i in range(start, min(start + self._size, length))])
        else:
            yield from source


class _Whole:
    """Data given as one batch of all samples."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return batch_size(self.batch)


def _collated(samples: list[Any]) -> Batch:
    try:
        return default_collate(samples)
    except (RuntimeError, TypeError) as error:
        raise InputError(
            f"samples of the Dataset cannot be put together into a batch: {error}. Return tensors of one shape, or "
            "pass a DataLoader with your collate_fn."
        ) from error


class _Pass:
    """What one pass over the data saw."""

    def __init__(self) -> None:
        self.samples = 0
        self.count = 0
        self.kept: list[Batch] | None = []
        self.signatures: list[Tensor] = []  # per sample: the sum of its values, to tell reordering from change
        self._hashes: list[Any] = []
        self.bytes = 0

    @property
    def digest(self) -> str:
        return hashlib.blake2b(b"".join(h.digest() for h in self._hashes), digest_size=16).hexdigest()

    def add(self, batch: Batch, budget: int) -> None:
        size = batch_size(batch)
        self.count, self.samples = self.count + 1, self.samples + size
        leaves = list(tensors_in(batch))
        for i, leaf in enumerate(leaves):
            if i == len(self._hashes):
                kind = f"{leaf.dtype}{() if leaf.is_nested else tuple(leaf.shape[1:])}"
                self._hashes.append(hashlib.blake2b(kind.encode(), digest_size=16))
            self._hashes[i].update(tensor_bytes(leaf))
            self.bytes += sum(part.numel() * part.element_size() for part in strided_parts(leaf))
        if has_batch_axis(batch):
            flat = [_sample_sums(leaf, size).cpu() for leaf in leaves]
            self.signatures.append(torch.stack(flat).sum(0))
        if self.kept is not None and self.bytes <= budget:
            self.kept.append(batch)
        else:
            self.kept = None


def _sample_sums(leaf: Tensor, size: int) -> Tensor:
    """(size,), the sum of each sample's values."""
    if leaf.is_nested:
        return torch.stack([sample.double().sum() for sample in leaf.unbind()])
    dense = leaf if leaf.layout == torch.strided else leaf.to_dense()
    return dense.double().reshape(size, math.prod(leaf.shape[1:])).sum(1)


def _pass(stream: Stream, budget: int) -> _Pass:
    seen = _Pass()
    for batch in stream:
        seen.add(batch, budget)
    return seen


def _compare(first: _Pass, second: _Pass, data: Any) -> None:
    if (first.samples, first.count, first.digest) == (second.samples, second.count, second.digest):
        return
    if first.samples != second.samples:
        raise InputError(
            f"the data gave {first.samples} samples on a first pass and {second.samples} on a second; it must be the "
            "same each time. Pass a Dataset, a list of batches or a DataLoader over a map-style Dataset."
        )
    a, b = (torch.cat(s.signatures).sort().values if s.signatures else torch.empty(0) for s in (first, second))
    # A shuffled loader with drop_last leaves out other samples on each pass, so that the samples differ, too.
    sampled = isinstance(getattr(data, "sampler", None), RandomSampler)
    if sampled or (a.shape == b.shape and torch.allclose(a, b, rtol=1e-9, equal_nan=True)):
        raise InputError(
            "the data comes in another order on a second pass: it is shuffled. Build the DataLoader with "
            "shuffle=False, or pass its dataset instead."
        )
    raise InputError(
        "samples change from one pass to the next: the data is augmented at random (crops, flips, noise). Use the "
        "evaluation transform, so that every pass sees the same values."
    )


def _merge(batches: list[Batch]) -> Batch | None:
    """One batch of all samples; None where batches cannot be joined (padding to different lengths, say)."""
    if not all(has_batch_axis(batch) for batch in batches):
        return None
    if len(batches) == 1:
        return batches[0]
    leaves = [list(tensors_in(batch)) for batch in batches]
    if any(leaf.is_nested or leaf.layout != torch.strided for row in leaves for leaf in row):
        return None
    shapes = [[(leaf.dtype, leaf.shape[1:]) for leaf in row] for row in leaves]
    if any(row != shapes[0] for row in shapes):
        return None
    joined = iter([torch.cat(column) for column in zip(*leaves, strict=True)])
    return map_tensors(batches[0], lambda _: next(joined))


def as_whole(data: Any) -> Batch | None:
    """`data` as one batch when it is given as tensors; None for datasets and iterables of batches."""
    if isinstance(data, TensorDataset):
        return tuple(data.tensors)
    if isinstance(data, (Tensor, np.ndarray, Mapping)):
        return _as_tensors(data)
    if isinstance(data, tuple) and data and isinstance(data[-1], (Tensor, np.ndarray)):
        return _as_tensors(data)  # (inputs, targets), inputs one tensor or several
    if isinstance(data, (str, bytes)) or not (isinstance(data, (Dataset, Iterable))):
        raise InputError(
            f"data of type {type(data).__name__} is not understood; give (inputs, targets), a Dataset, a DataLoader or "
            "a list of batches"
        )
    if isinstance(data, Iterator):
        raise InputError(
            f"data of type {type(data).__name__} can be read only once, and it is needed again and again; give a "
            "list, a Dataset or a DataLoader"
        )
    return None


def _as_tensors(tree: Any) -> Any:
    if isinstance(tree, np.ndarray):
        try:
            return torch.as_tensor(np.ascontiguousarray(tree) if tree.ndim else tree)
        except TypeError as error:
            raise InputError(
                f"an array of {tree.dtype} values is in the data, which torch cannot hold: {error}"
            ) from error
    if isinstance(tree, Mapping):
        return {key: _as_tensors(value) for key, value in tree.items()}
    if isinstance(tree, (tuple, list)):
        return tuple(_as_tensors(value) for value in tree)
    return tree


def _checked_lengths(whole: Batch) -> Batch:
    lengths = {int(t.size(0)) if t.ndim else 0 for t in tensors_in(whole)}
    if not lengths:
        raise InputError("the data holds no tensor or array; give (inputs, targets), a Dataset or a list of batches")
    if len(lengths) != 1:
        raise InputError(f"inputs and targets have different numbers of samples: {sorted(lengths)}; they must agree")
    if lengths == {0}:
        raise InputError("the data is empty (0 samples); at least one is needed")
    return whole


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Whatever draws random numbers inside (a DataLoader does), the caller's streams go on as if it had not."""
    states = np.random.get_state(), random.getstate()
    try:
        with torch_random_state_kept():
            yield
    finally:
        np.random.set_state(states[0])
        random.setstate(states[1])


@contextmanager
def torch_random_state_kept() -> Iterator[None]:
    """The same for torch's own stream on the CPU alone."""
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)


def random_streams() -> tuple[Any, ...]:
    """Where numpy's and Python's random streams are, to see whether something has drawn from them."""
    _, state, place, *_ = np.random.get_state()
    return bytes(state), place, random.getstate()  # type: ignore[arg-type]


def seed_everything(seed: int) -> None:
    """Put every random stream where `seed`, any whole number, says; use inside `random_state_kept`."""
    # torch.manual_seed asks every kind of device, which takes 0.2 ms a call.
    torch.default_generator.manual_seed(seed % 2**63)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed(seed % 2**63)
    np.random.seed(seed % 2**32)
    random.seed(seed)
