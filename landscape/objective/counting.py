"""How many samples a batch holds: stated, said by the batch itself, or seen where its tensors leave no doubt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from landscape.errors import InputError, user_code
from landscape.objective.trees import axes_of, has_batch_axis, parts_of, shapes_in, stated_size, tensors_in

LABEL_KEYS = ("labels", "label", "targets", "target", "y")
SizeLike = int | Callable[[Any], int]
WAYS = (
    "say how many with batch_size=, a number or a function of the batch, or have forward return values per sample or "
    "(numerators, denominators)"
)


@dataclass(frozen=True)
class Counting:
    """How many samples a batch holds, by one rule for weights, `samples`, standard errors and chunks.

    What `given` says (a number, or a function of the batch) counts before all else. Otherwise it is the length of the
    first axis where it is the same for all tensors, or what a library's batch object says (`num_graphs`,
    `batch_size`, a packed sequence) where no targets disagree, or the length of the targets where every other tensor
    can be read as holding so many samples: along another axis, in a list, or by parts of them (nodes, tokens). In
    any other case it is not known, and never guessed.
    """

    given: SizeLike | None = None
    second: bool = False  # samples run along the second axis, as the values of the loss were seen to do (time first)
    alone: bool = False  # a batch that cannot be counted is one unit: all the data, whose weight says nothing

    def __post_init__(self) -> None:
        """Raise InputError for a `batch_size` that is neither a whole number from 1 on nor a function."""
        if self.given is None or callable(self.given):
            return
        if isinstance(self.given, bool) or not isinstance(self.given, int) or self.given < 1:
            raise InputError(
                f"batch_size={self.given!r}; give the number of samples of every batch, or a function of the batch "
                "that returns it"
            )

    def of(self, batch: Any) -> int | None:
        """Samples in a batch; None where its tensors leave it open. Raises InputError where `given` does not fit."""
        if self.given is not None:
            return self._given(self.given, batch)
        found = second_axis(batch) if self.second else _seen(batch)
        return 1 if found is None and self.alone else found

    def require(self, batch: Any) -> int:
        """Samples in a batch. Raises InputError, with the shapes and the ways out, where they cannot be counted."""
        found = self.of(batch)
        if found is None:
            raise InputError(uncounted(batch))
        return found

    def can_be_cut(self, batch: Any) -> bool:
        """Whether the first axis of every tensor runs over the samples, so that some of them can be taken."""
        return has_batch_axis(batch) and self.of(batch) == int(next(tensors_in(batch)).size(0))

    def _given(self, given: SizeLike, batch: Any) -> int:
        if isinstance(given, int):
            if not any(given in axes_of(tensor) for tensor in tensors_in(batch)) and stated_size(batch) != given:
                raise InputError(
                    f"batch_size={given}, and no axis of a batch's tensors is as long ({shapes_in(batch)}); where "
                    "batches differ in size, give a function of the batch: batch_size=lambda batch: ..."
                )
            return given
        with user_code("batch_size=, called with a batch", lambda: shapes_in(batch)):
            found = given(batch)
            count = int(found)
        if count < 1 or count != found:
            raise InputError(
                f"batch_size= returned {found!r} for a batch ({shapes_in(batch)}); return 1 or more samples"
            )
        return count


def uncounted(batch: Any) -> str:
    """The message for a batch whose samples cannot be counted."""
    return (
        f"how many samples a batch holds cannot be told from its tensors ({shapes_in(batch)}), whose first axes "
        f"differ; {WAYS}"
    )


def targets_in(batch: Any) -> Any | None:
    """What stands in a batch as its targets: under a label key or attribute, or last in a sequence; None without."""
    if isinstance(batch, Mapping):
        key = next((k for k in LABEL_KEYS if k in batch), None)
        return None if key is None else batch[key]
    if isinstance(batch, (tuple, list)) and not hasattr(batch, "_fields"):
        return batch[-1] if len(batch) > 1 else None
    named = ((name, getattr(batch, name, None)) for name in LABEL_KEYS)
    return next((value for _, value in named if next(tensors_in(value), None) is not None), None)


def second_axis(batch: Any) -> int | None:
    """The length of the second axis where all tensors of a batch share one; None where they do not."""
    lengths = {axes_of(tensor)[1] if len(axes_of(tensor)) > 1 else None for tensor in tensors_in(batch)}
    found = lengths.pop() if len(lengths) == 1 else None
    return None if found is None else int(found)


def _seen(batch: Any) -> int | None:
    """The number of samples that the tensors of a batch agree on; None where they do not."""
    samples = _single_samples(batch)
    if samples is not None:
        return samples
    said, parts = _told_apart(batch)
    first = {int(part.size(0)) for part in parts if part.ndim}
    targets = targets_in(batch)
    if not said:
        if len(first) == 1 and not _is_doubtful(batch, first):
            return int(first.pop())
        lengths = _lengths(targets)
        if len(lengths) != 1:
            return None
        count = lengths.pop()
        others = [part for part in _members(batch) if part is not targets]
        return count if all(_may_hold(part, count) for part in others) else None
    if len(said) != 1:
        return None
    count = said.pop()
    lengths = _lengths(targets)
    return count if not lengths or lengths == {count} else None


def _single_samples(batch: Any) -> int | None:
    """The length of a list of single samples, each a mapping or a sequence with a label that has no axis."""
    if not isinstance(batch, list) or not batch or any(type(one) is not type(batch[0]) for one in batch):
        return None
    if isinstance(batch[0], Mapping):
        return len(batch)
    if not isinstance(batch[0], (tuple, list)):
        return None
    plain = all(len(one) and isinstance(one[-1], (int, float)) for one in batch)
    without_axis = all(any(t.ndim == 0 for t in tensors_in(one)) for one in batch)
    return len(batch) if plain or without_axis else None


def _told_apart(batch: Any) -> tuple[set[int], list[Tensor]]:
    """(what containers in the batch say of their samples, the tensors outside of these)."""
    if isinstance(batch, Tensor):
        return set(), [batch]
    own = stated_size(batch)
    if own is not None:
        return {own}, []
    said: set[int] = set()
    parts: list[Tensor] = []
    for part in parts_of(batch):
        inner, tensors = _told_apart(part)
        said |= inner
        parts += tensors
    return said, parts


def _is_doubtful(batch: Any, first: set[int]) -> bool:
    """Whether one length of all first axes may be that of something else: of the channels of a list of images."""
    lists = [part for part in _members(batch) if isinstance(part, list) and len(part) > 1]
    ranks = [{t.ndim for t in part if isinstance(t, Tensor)} for part in lists]
    images = any(rank and min(rank) >= 3 and len(part) not in first for rank, part in zip(ranks, lists, strict=True))
    return images and not any(isinstance(part, Tensor) and part.ndim for part in _members(batch))


def _members(batch: Any) -> Sequence[Any]:
    """The parts of a batch, those of mappings within it one by one."""
    if isinstance(batch, Tensor):
        return [batch]
    found: list[Any] = []
    for part in parts_of(batch):
        found += _members(part) if isinstance(part, Mapping) else [part]
    return found


def _lengths(targets: Any) -> set[int]:
    """How many samples targets may be for: the first axes of their tensors, the length of a list of them."""
    if isinstance(targets, list) and targets and not _is_one_length(targets):
        return {len(targets)}
    return {int(t.size(0)) for t in tensors_in(targets) if t.ndim}


def _is_one_length(targets: list[Any]) -> bool:
    return all(isinstance(t, Tensor) and t.ndim for t in targets) and len({t.size(0) for t in targets}) == 1


def _may_hold(part: Any, count: int) -> bool:
    """Whether a part of a batch can be read as holding `count` samples."""
    tensors = [t for t in tensors_in(part) if t.ndim]
    if isinstance(part, (list, tuple)) and len(part) == count:
        return True
    return all(count in axes_of(t) or t.size(0) > count or _is_edges(t) for t in tensors)


def _is_edges(tensor: Tensor) -> bool:
    """Whether a tensor holds the two ends of edges, as libraries of graphs write them."""
    return tensor.ndim == 2 and tensor.shape[0] == 2 and not tensor.is_floating_point()
