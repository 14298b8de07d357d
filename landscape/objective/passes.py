"""What passes over the data see: sizes, digests, and whether a second one gives the same."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    RandomSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from landscape.errors import InputError, user_code
from landscape.objective.batches import LOADER, Batch
from landscape.objective.counting import Counting, targets_in
from landscape.objective.random_state import seed_everything
from landscape.objective.streams import Stream
from landscape.objective.trees import (
    has_batch_axis,
    kind_of,
    shapes_in,
    strided_parts,
    tensor_bytes,
    tensors_in,
)

_ALIKE = 10_000  # numbers of samples that two passes over a sampler are compared in


class Pass:
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
        """A hash of all values in their order, whatever the batching."""
        return hashlib.blake2b(b"".join(h.digest() for h in self._hashes), digest_size=16).hexdigest()

    @property
    def count(self) -> int:
        """Number of batches."""
        return len(self.sizes)

    def add(self, batch: Batch, budget: int, counting: Counting) -> None:
        """Note one batch, the next of the pass."""
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


def _require_tensors(batch: Batch) -> None:
    """Raise InputError for a batch without tensors."""
    if next(tensors_in(batch), None) is None:
        raise InputError(
            f"a batch is {kind_of(batch)}, which holds no tensor or array in its items or attributes; give tuples, "
            f"mappings, dataclasses or lists of tensors, or, where these are single samples, {LOADER} with a "
            "collate_fn that makes tensors"
        )


def _is_single_sample(batch: Batch) -> bool:
    """Whether nothing in a batch has an axis for samples: no tensor at all, or not the targets."""
    if not isinstance(batch, (Tensor, tuple, list, Mapping)):
        return False
    targets = targets_in(batch)
    label = isinstance(targets, (int, float)) or (isinstance(targets, Tensor) and targets.ndim == 0)
    return label or all(tensor.ndim == 0 for tensor in tensors_in(batch))


def one_pass(stream: Stream, budget: int, counting: Counting) -> Pass:
    """One pass over all batches, which are kept while they take at most `budget` bytes."""
    seen = Pass()
    for batch in stream:
        seen.add(batch, budget, counting)
    return seen


def require_alike(stream: Stream, first: Pass, data: Any, counting: Counting) -> None:
    """Refuse data that differ on a second pass; a cause is named where it is seen, in the sampler or by seeds."""
    second = one_pass(stream, 0, counting)
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
        seeded.append(one_pass(stream, 0, counting).digest)
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
