"""The data of an objective: read once in a fixed order, held in memory when it fits, checked for answering alike."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from landscape.errors import InputError
from landscape.objective.batches import LOADER, Batch, checked_lengths, given_whole, in_memory, require_values
from landscape.objective.counting import Counting
from landscape.objective.passes import one_pass, require_alike
from landscape.objective.random_state import random_state_kept
from landscape.objective.streams import Stream, Whole
from landscape.objective.trees import (
    map_tensors,
    take_rows,
    tensors_in,
)


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
    whole = given_whole(data)
    require_values(whole)
    if whole is not None and divisible and counting.given is not None:
        divisible = counting.can_be_cut(in_memory(whole))
    source = data if whole is None else Whole(checked_lengths(whole)) if divisible else [in_memory(whole)]
    stream = Stream(source, device, dtype)
    with random_state_kept():
        first = one_pass(stream, 0 if isinstance(source, Whole) else budget, counting)
        if first.count == 0 or 0 in first.sizes:
            raise InputError(f"the data ({type(data).__name__}) is empty; at least one sample is needed")
        if first.single and counting.given is None and (first.count > 1 or divisible):
            raise InputError(
                f"a batch ({first.single}) has targets without a batch axis, so its samples cannot be counted: it "
                f"seems to be a single sample. Give {LOADER}, which makes batches of samples, or say batch_size=1"
            )
        if check and whole is None:
            require_alike(stream, first, data, counting)
    samples = sum(1 if size is None else size for size in first.sizes)
    if isinstance(source, Whole) and first.bytes <= budget:
        held = [map_tensors(stream.placed(in_memory(whole)), Tensor.clone)]  # the caller's own may change
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


def _rows(batch: Batch, start: int, stop: int) -> Batch:
    return map_tensors(batch, lambda tensor: take_rows(tensor, slice(start, stop)))


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
