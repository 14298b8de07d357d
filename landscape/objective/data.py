"""The data of an objective: read once in a fixed order, held in memory when it fits, checked for answering alike."""

from __future__ import annotations

import hashlib
import math
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)

from landscape.errors import InputError, text_of, user_code
from landscape.objective.arrays import LazyArray, as_tensor, is_array, is_lazy
from landscape.objective.counting import LABEL_KEYS, WAYS, Counting, targets_in
from landscape.objective.random_state import random_state_kept, seed_everything
from landscape.objective.trees import (
    axes_of,
    has_batch_axis,
    is_graph,
    kind_of,
    leaves_in,
    map_leaves,
    map_tensors,
    shapes_in,
    strided_parts,
    take_rows,
    tensor_bytes,
    tensors_in,
    why_without_values,
)

Batch = Any  # nested containers of tensors
_ALIKE = 10_000  # numbers of samples that two passes over a sampler are compared in
_READ_BATCH = 256  # samples collated at a time when a Dataset is read
_LOADER = "torch.utils.data.DataLoader(data, batch_size=64)"


class Data:
    """Batches in a fixed order.

    `samples` is the number of samples, `digest` a hash of all values in their order, whatever the batching. `sizes`
    says how many each batch holds where batches are the user's own, None for those that cannot be counted (`samples`
    then takes one for it); `numbers` are the samples' places in the user's data, where single ones can be told.
    """

    def __init__(
        self,
        batches: Iterable[Batch],
        samples: int,
        digest: str,
        count: int,
        *,
        held: bool,
        divisible: bool,
        sizes: Sequence[int | None] | None = None,
        numbers: Sequence[int] | None = None,
    ) -> None:
        self._batches = batches
        self.samples = samples
        self.digest = digest
        self.count = count
        self.held = held
        self.divisible = divisible
        self.sizes = sizes
        self.numbers = numbers

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
        sizes = [min(size, self.samples - i * size) for i in range(count)]
        if isinstance(self._batches, Stream):
            batches: Any = self._batches.with_batch_size(size)
        else:
            (whole,) = self._batches
            batches = [_rows(whole, i, i + size) for i in range(0, self.samples, size)]
        return self._of(batches, count, divisible=False, sizes=sizes)

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
        numbers = None if self.numbers is None else [self.numbers[i] for i in index.tolist()]
        return Data([batch], len(index), digest, 1, held=True, divisible=True, numbers=numbers)

    @property
    def first(self) -> Batch:
        """The first batch."""
        with random_state_kept():
            return next(self.chunks())[1]

    def shuffled(self, order: Sequence[int]) -> Data:
        """The same samples in another order, where they are held; as they are where they are streamed or in batches."""
        if not (self.divisible and self.held):
            return self
        taken = self.taken(order)
        return Data([taken.first], self.samples, self.digest, 1, held=True, divisible=True, numbers=taken.numbers)

    def head(self, count: int) -> Data:
        """The first `count` samples as one batch, or the first batch as it is where it cannot be taken apart."""
        if self.divisible:
            return self.taken(range(min(count, self.samples)))
        return self._of([self.first], 1, sizes=None if self.sizes is None else self.sizes[:1], held=True)

    def spread(self, count: int) -> Data:
        """`count` samples from all over the data as one batch, or the first batch where it cannot be taken apart.

        Every other one comes first, so that neighbours are in different halves.
        """
        if not self.divisible:
            return self.head(count)
        count = min(count, self.samples)
        rows = [i * self.samples // count for i in range(count)]
        return self.taken(rows[::2] + rows[1::2])

    def some(self, numbers: Sequence[int], digest: str) -> Data:
        """The batches of the given numbers, in their order, where batches are the user's own; read anew each time."""
        sizes = None if self.sizes is None else [self.sizes[i] for i in numbers]
        return self._of(_Some(self, frozenset(numbers)), len(numbers), sizes=sizes, digest=digest, held=False)

    def counted(self, sizes: Sequence[int | None]) -> Data:
        """The same batches, which hold so many samples each."""
        return self._of(self._batches, self.count, sizes=list(sizes))

    def converted(self, convert: Any) -> Data:
        """The same batches with `convert` applied to each tensor: at once where held, batch by batch where streamed."""
        batches = (
            [map_tensors(b, convert) for b in self._batches]
            if isinstance(self._batches, Sequence)
            else self._batches.converted(convert)  # type: ignore[attr-defined]
        )
        return self._of(batches, self.count, sizes=self.sizes)

    def samples_of(self, chunk: int) -> int:
        """How many samples a chunk holds."""
        size = self.samples if self.sizes is None else self.sizes[chunk]
        return 1 if size is None else size

    def named(self, places: Mapping[int, Sequence[int] | None]) -> str:
        """Samples by their numbers in the user's data, else the batches they are in.

        `places` holds their rows in each chunk, None for all of them.
        """
        if self.numbers is None or self.sizes is None:
            batches = sorted(places)
            return f"batch{'es' if len(batches) > 1 else ''} {_listed(batches)}"
        met: set[int] = set()  # samples that are drawn may come twice
        for chunk, rows in places.items():
            start = sum(size or 0 for size in self.sizes[:chunk])
            met |= {self.numbers[start + row] for row in (range(self.sizes[chunk] or 0) if rows is None else rows)}
        found = sorted(met)
        if None in places.values() and len(found) > _NAMED and found[-1] - found[0] == len(found) - 1:
            return f"samples {found[0]} to {found[-1]}"
        return f"sample{'s' if len(found) > 1 else ''} {_listed(found)}"

    def _of(
        self,
        batches: Iterable[Batch],
        count: int,
        *,
        sizes: Sequence[int | None] | None,
        divisible: bool | None = None,
        digest: str | None = None,
        held: bool | None = None,
    ) -> Data:
        return Data(
            batches,
            self.samples if sizes is None else sum(1 if size is None else size for size in sizes),
            self.digest if digest is None else digest,
            count,
            held=self.held if held is None else held,
            divisible=self.divisible if divisible is None else divisible,
            sizes=sizes,
            numbers=self.numbers,
        )


_NAMED = 10  # samples that a message names


def _listed(numbers: Sequence[int]) -> str:
    more = f" and {len(numbers) - _NAMED} more" if len(numbers) > _NAMED else ""
    return f"{', '.join(map(str, numbers[:_NAMED]))}{more}"


class _Some:
    """Some of the batches of data, made anew at each iteration."""

    def __init__(self, data: Data, numbers: frozenset[int]) -> None:
        self._data, self._numbers = data, numbers

    def __iter__(self) -> Iterator[Batch]:
        return (batch for i, batch in self._data.chunks() if i in self._numbers)

    def converted(self, convert: Any) -> _Some:
        return _Some(self._data.converted(convert), self._numbers)


def read_data(
    data: Any,
    *,
    device: torch.device,
    dtype: torch.dtype,
    budget: int,
    divisible: bool,
    check: bool,
    counting: Counting | None = None,
) -> Data:
    """Read `data` once (with `check` twice, to see that it answers alike); hold it if it takes at most `budget` bytes.

    `data` is a tuple (inputs, targets) of tensors or arrays, a mapping of tensors, a Dataset, a DataLoader, or any
    re-iterable of batches. `divisible`: samples may be regrouped into other batches. `counting` says how many samples
    a batch holds.
    Raises InputError for data that is empty, can be iterated only once, or differs between two passes.
    """
    counting = counting or Counting()
    whole = _given_whole(data)
    _require_values(whole)
    if whole is not None and divisible and counting.given is not None:
        divisible = counting.can_be_cut(_in_memory(whole))
    source = data if whole is None else _Whole(_checked_lengths(whole)) if divisible else [_in_memory(whole)]
    stream = Stream(source, device, dtype)
    with random_state_kept():
        first = _pass(stream, 0 if isinstance(source, _Whole) else budget, counting)
        if first.count == 0 or 0 in first.sizes:
            raise InputError(f"the data ({type(data).__name__}) is empty; at least one sample is needed")
        if first.single and counting.given is None and (first.count > 1 or divisible):
            raise InputError(
                f"a batch ({first.single}) has targets without a batch axis, so its samples cannot be counted: it "
                f"seems to be a single sample. Give {_LOADER}, which makes batches of samples, or say batch_size=1"
            )
        if check and whole is None:
            _compare(stream, first, data, counting)
    samples = sum(1 if size is None else size for size in first.sizes)
    if isinstance(source, _Whole) and first.bytes <= budget:
        held = [map_tensors(stream.placed(_in_memory(whole)), Tensor.clone)]  # the caller's own may change
        return Data(held, samples, first.digest, 1, held=True, divisible=True, numbers=range(samples))
    if first.kept is None:
        rows = divisible and stream.has_rows and first.can_be_cut
        sizes = None if rows else first.sizes
        numbers = range(samples) if rows else None
        return Data(
            stream, samples, first.digest, first.count, held=False, divisible=rows, sizes=sizes, numbers=numbers
        )
    if divisible and first.can_be_cut:
        merged = _merge(first.kept)
        if merged is not None:
            return Data([merged], samples, first.digest, 1, held=True, divisible=True, numbers=range(samples))
    return Data(first.kept, samples, first.digest, first.count, held=True, divisible=False, sizes=first.sizes)


def inputs_and_targets(batch: Batch) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    """(positional inputs, named inputs, targets) of a batch: a tuple whose last is the targets, or a mapping.

    A mapping, or a named tuple, has the targets under one of a few keys. Raises InputError for a batch without targets.
    """
    if isinstance(batch, Mapping):
        key = next((k for k in LABEL_KEYS if k in batch), None)
        if key is None:
            raise InputError(
                f"a batch with keys {sorted(map(str, batch))} has no label key ({', '.join(LABEL_KEYS)}); give "
                "forward=lambda model, batch: (outputs, targets)"
            )
        return (), {k: v for k, v in batch.items() if k != key}, batch[key]
    names = getattr(batch, "_fields", ())
    named = next((k for k in LABEL_KEYS if k in names), None)
    if isinstance(batch, tuple) and named is not None:
        return tuple(v for k, v in zip(names, batch, strict=True) if k != named), {}, getattr(batch, named)
    if not isinstance(batch, (tuple, list)) or (names and len(names) == 4 and "batch_sizes" in names):
        what = "is" if isinstance(batch, Tensor) else f"is a {type(batch).__name__} ({shapes_in(batch)}) and"
        listed = " Where you gave a list, [inputs, targets], its two entries are two batches: a pair is a tuple."
        raise InputError(
            f"a batch {what} no (inputs, targets), so it holds no targets that could be told apart; give "
            "data=(inputs, targets), a tuple, or batches of that form, or forward=lambda model, batch: (outputs, "
            f"targets).{listed if isinstance(batch, Tensor) else ''}"
        )
    if len(batch) < 2:
        raise InputError(
            "a batch holds no targets; give data=(inputs, targets), a tuple, or batches of that form, or "
            "forward=lambda model, batch: (outputs, targets)"
        )
    *inputs, targets = batch
    if len(inputs) == 1 and type(inputs[0]) in (tuple, list) and not _is_list_of_samples(inputs[0], targets):
        inputs = list(inputs[0])
    return tuple(inputs), {}, targets


def _is_list_of_samples(inputs: Any, targets: Any) -> bool:
    """Whether inputs are a list with an entry for each target, as images of different size are."""
    count = (
        len(targets)
        if isinstance(targets, (list, Tensor)) and not (isinstance(targets, Tensor) and targets.ndim == 0)
        else 0
    )
    return (
        isinstance(inputs, list)
        and len(inputs) == count
        and not all(isinstance(one, Tensor) and one.ndim and one.size(0) == count for one in inputs)
    )


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
        batch = _as_tensors(batch)
        _require_values(batch)
        moved = map_tensors(_moved(batch, self._device), self._place)
        for convert in self._converts:
            moved = map_tensors(moved, convert)
        return moved

    def _place(self, tensor: Tensor) -> Tensor:
        return tensor.detach().to(self._device, self._dtype if tensor.is_floating_point() else tensor.dtype)

    def _raw(self) -> Iterator[Batch]:
        source = self._source
        if isinstance(source, _Whole):
            for start in range(0, len(source), self._size):
                yield source.rows(start, start + self._size)
        elif isinstance(source, IterableDataset):
            yield from _each(DataLoader(source, batch_size=self._size), source)
        elif isinstance(source, Dataset):
            with user_code(f"len() of the {type(source).__name__}", advice=f"Give it one, or {_LOADER} of it."):
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


class _Whole:
    """Data given as one batch of all samples, arrays in files read in slices."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def __len__(self) -> int:
        return axes_of(next(leaves_in(self._batch, _is_held)))[0]

    def rows(self, start: int, stop: int) -> Batch:
        """The samples from `start` to `stop`, the last one left out."""

        def part(leaf: Any) -> Tensor:
            return leaf.rows(start, stop) if isinstance(leaf, LazyArray) else take_rows(leaf, slice(start, stop))

        return map_leaves(self._batch, part, _is_held)

    def taken(self, numbers: Sequence[int]) -> Batch:
        """The samples of the given numbers, in their order."""
        index = torch.as_tensor(numbers, dtype=torch.long)

        def part(leaf: Any) -> Tensor:
            return leaf.taken(numbers) if isinstance(leaf, LazyArray) else take_rows(leaf, index)

        return map_leaves(self._batch, part, _is_held)


def _collated(samples: list[Any]) -> Batch:
    try:
        return default_collate(samples)
    except (RuntimeError, TypeError) as error:
        raise InputError(
            f"samples of the Dataset ({kind_of(samples[0])}) cannot be put together into a batch: {text_of(error)}. "
            "Return tensors of one shape, or pass a DataLoader with your collate_fn."
        ) from error


class _Pass:
    """What one pass over the data saw."""

    def __init__(self) -> None:
        self.sizes: list[int | None] = []  # samples of each batch, None where they cannot be counted
        self.can_be_cut = True
        self.single = ""  # the shapes of a batch that looks like a single sample
        self.kept: list[Batch] | None = []
        self.signatures: list[Tensor] = []  # per sample: see `_sample_sums`, to tell reordering from change
        self._hashes: list[Any] = []
        self.bytes = 0

    @property
    def digest(self) -> str:
        return hashlib.blake2b(b"".join(h.digest() for h in self._hashes), digest_size=16).hexdigest()

    @property
    def count(self) -> int:
        return len(self.sizes)

    def add(self, batch: Batch, budget: int, counting: Counting) -> None:
        _require_tensors(batch)
        if _is_single_sample(batch) and not self.single:
            self.single = shapes_in(batch)
        size = counting.of(batch)
        self.sizes.append(size)
        leaves = list(tensors_in(batch))
        cut = has_batch_axis(batch)
        self.can_be_cut &= cut and size == leaves[0].size(0)
        for i, leaf in enumerate(leaves):
            if i == len(self._hashes):
                kind = f"{leaf.dtype}{() if leaf.is_nested else tuple(leaf.shape[1:])}"
                self._hashes.append(hashlib.blake2b(kind.encode(), digest_size=16))
            self._hashes[i].update(tensor_bytes(leaf))
            self.bytes += sum(part.numel() * part.element_size() for part in strided_parts(leaf))
        if cut:
            flat = [_sample_sums(leaf).cpu() for leaf in leaves]
            self.signatures.append(torch.stack(flat).sum(0))
        if self.kept is not None and self.bytes <= budget:
            self.kept.append(batch)
        else:
            self.kept = None


def _sample_sums(leaf: Tensor) -> Tensor:
    """(n,), the sum of each sample's values, those of a complex one in two parts, weighted by their places in it."""
    if leaf.is_nested:
        return torch.cat([_sample_sums(sample[None]) for sample in leaf.unbind()])
    dense = leaf if leaf.layout == torch.strided else leaf.to_dense()
    if dense.is_complex():
        dense = torch.view_as_real(dense.resolve_conj())
    values = dense.double().reshape(len(dense), math.prod(dense.shape[1:]))
    places = torch.arange(values.shape[1], dtype=values.dtype, device=values.device)
    return values @ (1 + (0.6180339887 * places) % 1)  # a sample that is turned round has another sum


def _require_values(batch: Batch) -> None:
    """Raise InputError for a batch with a tensor whose values are not here."""
    for tensor in tensors_in(batch):
        lacks = why_without_values(tensor)
        if lacks:
            raise InputError(
                f"a tensor of shape {axes_of(tensor)} in the data {lacks}; give data that have values here, as "
                "torch.randn(...) without device= makes, or full_tensor() of a DTensor"
            )


def _require_tensors(batch: Batch) -> None:
    """Raise InputError for a batch without tensors."""
    if next(tensors_in(batch), None) is None:
        raise InputError(
            f"a batch is {kind_of(batch)}, which holds no tensor or array in its items or attributes; give tuples, "
            f"mappings, dataclasses or lists of tensors, or, where these are single samples, {_LOADER} with a "
            "collate_fn that makes tensors"
        )


def _is_single_sample(batch: Batch) -> bool:
    """Whether nothing in a batch has an axis for samples: no tensor at all, or not the targets."""
    if not isinstance(batch, (Tensor, tuple, list, Mapping)):
        return False
    targets = targets_in(batch)
    label = isinstance(targets, (int, float)) or (isinstance(targets, Tensor) and targets.ndim == 0)
    return label or all(tensor.ndim == 0 for tensor in tensors_in(batch))


def _pass(stream: Stream, budget: int, counting: Counting) -> _Pass:
    seen = _Pass()
    for batch in stream:
        seen.add(batch, budget, counting)
    return seen


def _compare(stream: Stream, first: _Pass, data: Any, counting: Counting) -> None:
    """Refuse data that differ on a second pass; a cause is named where it is seen, in the sampler or by seeds."""
    second = _pass(stream, 0, counting)
    if (first.sizes, first.digest) == (second.sizes, second.digest):
        return
    sampler = _sampler(data)
    name = type(sampler).__name__
    draws = sampler is not None and not _is_alike_twice(sampler)
    weights = draws and isinstance(sampler, WeightedRandomSampler)
    replacement = draws and bool(getattr(sampler, "replacement", False))
    if weights or replacement:
        raise InputError(
            f"the data gives other samples{'' if replacement else ', or the same in another order,'} on a second pass: "
            f"its sampler is a {name}, which draws them anew "
            f"{'with replacement' if replacement else 'by their weights'}. Pass loader.dataset instead"
            + (
                ", and where samples are to weigh differently, have forward return (numerators, denominators), each "
                "times the weight of its sample."
                if weights
                else "."
            )
        )
    a, b = (torch.cat(s.signatures) if s.signatures else torch.empty(0) for s in (first, second))
    # A shuffled loader with drop_last leaves out other samples on each pass, so that the samples differ, too.
    shuffles = draws and isinstance(sampler, (RandomSampler, SubsetRandomSampler))
    if shuffles or (len(a) and not _close(a, b) and _close(a.sort().values, b.sort().values)):
        how = f"its sampler, a {name}, shuffles it" if draws else "it is shuffled"
        raise InputError(
            f"the data comes in another order on a second pass: {how}. Build the DataLoader with "
            "shuffle=False, or pass its dataset instead."
        )
    counts = [sum(size or 1 for size in one.sizes) for one in (first, second)]
    if counts[0] != counts[1]:
        raise InputError(
            f"the data gave {counts[0]} samples on a first pass and {counts[1]} on a second; it must be the "
            "same each time. Pass a Dataset, a list of batches or a DataLoader over a map-style Dataset."
        )
    if draws:
        raise InputError(
            f"the data gives other samples on a second pass, and its sampler is a {name}: pass loader.dataset instead, "
            "or a sampler that gives the same samples in the same order each time."
        )
    seeded = []
    for _ in range(2):
        seed_everything(0)
        seeded.append(_pass(stream, 0, counting).digest)
    if seeded[0] == seeded[1]:
        raise InputError(
            "samples change from one pass to the next, and do not where the random streams begin at the same place: "
            "the data is augmented at random (crops, flips, noise). Use the evaluation transform, so that every pass "
            "sees the same values."
        )
    raise InputError(
        "samples change from one pass to the next, also where the random streams of torch, numpy and Python begin at "
        "the same place: the data keeps something from pass to pass (a counter, a generator of its own). Make it "
        "answer alike each time."
    )


def _close(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and torch.allclose(first, second, rtol=1e-9, equal_nan=True)


def _is_alike_twice(sampler: Any) -> bool:
    """Whether a sampler gives the same samples in the same order each time, as far as a pass or two of it tell."""
    with user_code(f"the sampler ({type(sampler).__name__}) cannot be iterated"):
        first, second = ([str(number) for number in islice(sampler, _ALIKE)] for _ in range(2))
    return first == second


def _sampler(data: Any) -> Any:
    """What a loader draws its samples or batches with; None for other data."""
    batches = getattr(data, "batch_sampler", None)
    inner = getattr(batches, "sampler", None)
    return inner if inner is not None else batches if batches is not None else getattr(data, "sampler", None)


def _merge(batches: list[Batch]) -> Batch | None:
    """One batch of all samples; None where batches cannot be joined (padding to different lengths, say)."""
    if len(batches) == 1:
        return batches[0]
    leaves = [list(tensors_in(batch)) for batch in batches]
    if any(leaf.is_nested or leaf.layout != torch.strided for row in leaves for leaf in row):
        return None
    shapes = [[(leaf.dtype, leaf.shape[1:]) for leaf in row] for row in leaves]
    if any(row != shapes[0] for row in shapes):
        return None
    together = iter([torch.cat(column) for column in zip(*leaves, strict=True)])
    return map_tensors(batches[0], lambda _: next(together))


def as_whole(data: Any) -> Batch | None:
    """`data` as one batch when it is given as tensors or arrays; None for datasets and iterables of batches."""
    whole = _given_whole(data)
    return None if whole is None else _in_memory(whole)


def _given_whole(data: Any) -> Batch | None:
    """`data` as one batch, arrays that lie in files left there; None for datasets and iterables of batches."""
    if isinstance(data, TensorDataset):
        return tuple(data.tensors)
    if isinstance(data, (Tensor, Mapping)) or is_array(data):
        return _arrays(data)
    if isinstance(data, tuple):
        _require_no_list_of_numbers(data)
    if isinstance(data, tuple) and data and _is_one_batch(data):
        return _arrays(data)  # (inputs, targets), inputs one tensor or several
    if isinstance(data, Iterator):
        raise InputError(
            f"data of type {type(data).__name__} can be read only once, and it is needed again and again; give a "
            "list, a Dataset or a DataLoader"
        )
    if is_graph(data) or _is_object_of_arrays(data):
        return _arrays(data)
    if isinstance(data, (str, bytes, type)) or not isinstance(data, (Dataset, Iterable)):
        indexed = hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, (str, bytes))
        raise InputError(
            f"data of type {type(data).__name__} is not understood; give "
            + (f"{_LOADER}, as it has __getitem__ and __len__ like a Dataset; or " if indexed else "")
            + "(inputs, targets), a Dataset, a DataLoader or a list of batches"
        )
    return None


def _require_no_list_of_numbers(data: tuple[Any, ...]) -> None:
    """Raise InputError for (inputs, targets) of which one is a list of plain numbers, and the other an array."""
    if all(next(leaves_in(part, _is_given), None) is None for part in data):
        return
    for place, part in enumerate(data):
        if isinstance(part, (list, tuple)) and part and all(isinstance(one, (bool, int, float)) for one in part):
            kinds = "/".join(sorted({type(one).__name__ for one in part}))
            raise InputError(
                f"part {place} of the data is a {type(part).__name__} of {len(part)} {kinds}; give it as one tensor or "
                "array, as torch.tensor(part) makes"
            )


def _is_object_of_arrays(data: Any) -> bool:
    """Whether an object is one batch by what it holds, and no collection of samples."""
    collection = isinstance(data, (type, Dataset, Iterable)) or hasattr(data, "__getitem__")
    return not collection and next(leaves_in(data, _is_given), None) is not None


def _is_one_batch(data: tuple[Any, ...]) -> bool:
    """Whether a tuple is (inputs, targets): its parts are of different kinds, or the last is an array; not batches."""
    if hasattr(data, "_fields") or isinstance(data[-1], Tensor) or is_array(data[-1]):
        return True
    keys = [frozenset(part) if isinstance(part, Mapping) else None for part in data]
    if None not in keys:
        return len(data) > 1 and not frozenset.intersection(*[k for k in keys if k is not None])
    kinds = {"array" if isinstance(part, Tensor) or is_array(part) else _kind(part) for part in data}
    return len(kinds) > 1 and all(next(leaves_in(part, _is_given), None) is not None for part in data)


def _kind(part: Any) -> str:
    return "mapping" if isinstance(part, Mapping) else "sequence" if isinstance(part, (tuple, list)) else "other"


def _is_given(value: Any) -> bool:
    return isinstance(value, Tensor) or is_array(value)


def _is_held(value: Any) -> bool:
    return isinstance(value, (Tensor, LazyArray))


def _arrays(tree: Any) -> Any:
    """Arrays as tensors, those that lie in files as LazyArrays."""
    return map_leaves(
        tree,
        lambda leaf: leaf if isinstance(leaf, Tensor) else LazyArray(leaf) if is_lazy(leaf) else as_tensor(leaf),
        _is_given,
    )


def _in_memory(tree: Any) -> Batch:
    """All arrays read."""
    return map_leaves(tree, lambda leaf: leaf.whole() if isinstance(leaf, LazyArray) else leaf, _is_held)


def _as_tensors(tree: Any) -> Any:
    return map_leaves(tree, lambda leaf: leaf if isinstance(leaf, Tensor) else as_tensor(leaf), _is_given)


def _checked_lengths(whole: Batch) -> Batch:
    lengths = {axes_of(t)[0] if axes_of(t) else 0 for t in leaves_in(whole, _is_held)}
    if not lengths:
        raise InputError(
            f"the data ({kind_of(whole)}) holds no tensor or array; give (inputs, targets), a Dataset or a list of "
            "batches"
        )
    if len(lengths) != 1:
        raise InputError(
            f"inputs and targets have different numbers of samples: {sorted(lengths)}; they must agree. Where they "
            f"form one batch as they are (graphs, time first), give forward=; {WAYS}"
        )
    if lengths == {0}:
        raise InputError("the data is empty (0 samples); at least one is needed")
    return whole
