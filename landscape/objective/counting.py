"""How many samples a batch holds: stated, said by the batch itself, or seen where its tensors leave no doubt."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from landscape.errors import InputError, user_code
from landscape.objective.trees import (
    axes_of,
    has_batch_axis,
    parts_of,
    shapes_in,
    stated_size,
    tensors_in,
)

LABEL_KEYS = ("labels", "label", "targets", "target", "y")
SizeLike = int | Callable[[Any], int]
WAYS = (
    "say how many with batch_size=, a number or a function of the batch, or have forward return values per sample or "
    "(numerators, denominators)"
)


@dataclass(frozen=True)
class Counting:
    """How many samples a batch holds, by one rule for weights, `samples`, standard errors and chunks.

    In this order: values per sample that are returned; what `given` says (a number for full batches, or a function of
    the batch); what a library's batch object says (`num_graphs`, `batch_size`, a packed sequence) where no targets
    disagree; the one length that every part of the batch can be read to have: the first axis of a tensor, the length of
    a list of samples or the first axis that all of its tensors share; the length of the targets where the tensors
    themselves say how all others belong to so many samples (numbers of graphs, lengths, offsets, edges), or have
    them along the second axis. In any other case it is not known, and never guessed.
    """

    given: SizeLike | None = None
    second: bool = False  # samples run along the second axis, as the values of the loss were seen to do (time first)
    alone: bool = False  # a batch that cannot be counted is one unit: all the data, whose weight says nothing
    listed: bool = False  # a batch is a list of single samples, as its length from batch to batch or trials showed
    by_values: bool = False  # the values of the loss say how many, whatever the tensors have of rows

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
        if self.by_values:
            return None
        if self.given is not None:
            return self._given(self.given, batch)
        found = second_axis(batch) if self.second else _seen(batch, self.listed)
        return 1 if found is None and self.alone else found

    def require(self, batch: Any) -> int:
        """Samples in a batch. Raises InputError, with the shapes and the ways out, where they cannot be counted."""
        found = self.of(batch)
        if found is None:
            raise InputError(uncounted(batch))
        return found

    def can_be_cut(self, batch: Any) -> bool:
        """Whether the first axis of every tensor runs over the samples, so that some of them can be taken."""
        if self.listed and may_be_samples(batch):
            return False
        return has_batch_axis(batch) and self.of(batch) == int(next(tensors_in(batch)).size(0))

    def part(self, batch: Any, rows: slice) -> Any | None:
        """Some of the samples of a batch, in lists as well as in tensors; None where they cannot be taken out of it."""
        count = self.of(batch)
        if count is None or not isinstance(batch, (list, tuple, dict)):
            return None
        if isinstance(batch, (list, tuple)) and (self.listed or _are_labelled(batch)) and len(batch) == count:
            return batch[rows] if type(batch) in (list, tuple) else None
        return _taken(batch, count, rows)

    def _given(self, given: SizeLike, batch: Any) -> int:
        if isinstance(given, int):
            count = _full_or_short(batch, given)
            if count is None:
                raise InputError(
                    f"batch_size={given} is not to be seen in a batch ({shapes_in(batch)}): neither all its parts nor "
                    "most of them hold so many samples, or fewer of one number, as the last batch may. Give a function "
                    "of the batch: batch_size=lambda batch: ..."
                )
            return count
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
    return f"how many samples a batch holds cannot be told from its tensors ({shapes_in(batch)}); {WAYS}"


def targets_in(batch: Any) -> Any | None:
    """What stands in a batch as its targets: under a label key or attribute, or last in a sequence; None without.

    Settings without an axis that stand behind the targets (a temperature) are passed over.
    """
    if isinstance(batch, Mapping):
        key = next((k for k in LABEL_KEYS if k in batch), None)
        return None if key is None else batch[key]
    if isinstance(batch, (tuple, list)) and not hasattr(batch, "_fields"):
        parts = list(batch)
        while len(parts) > 2 and _is_setting(parts):
            parts.pop()
        return parts[-1] if len(parts) > 1 else None
    named = ((name, getattr(batch, name, None)) for name in LABEL_KEYS)
    return next((value for _, value in named if next(tensors_in(value), None) is not None), None)


def _is_setting(parts: list[Any]) -> bool:
    """Whether the last part of a batch is one number for all samples, and no label of a single sample."""
    last, labels, inputs = parts[-1], parts[-2], parts[0]
    if not _is_number(last):
        return False
    if isinstance(last, float) or (isinstance(last, Tensor) and last.is_floating_point()):
        lengths = [_counts(part) for part in parts[:-1]]
        return all(lengths) and len(set.intersection(*(n for n in lengths if n is not None))) > 0
    whole = isinstance(labels, Tensor) and labels.ndim == 1 and labels.dtype in (torch.int64, torch.int32)
    rows = isinstance(inputs, Tensor) and inputs.ndim > 1 and isinstance(labels, Tensor)
    return whole and rows and inputs.size(0) == labels.size(0)


def second_axis(batch: Any) -> int | None:
    """The length of the second axis where all tensors of a batch share one; None where they do not."""
    lengths = {axes_of(tensor)[1] if len(axes_of(tensor)) > 1 else None for tensor in tensors_in(batch)}
    found = lengths.pop() if len(lengths) == 1 else None
    return None if found is None else int(found)


def may_be_samples(batch: Any) -> bool:
    """Whether a batch is a sequence of things of one kind, which may be its samples as well as its columns."""
    if not isinstance(batch, (list, tuple)) or hasattr(batch, "_fields"):
        return False
    return _are_alike(batch) and not _are_labelled(batch) and not _told_apart(batch)[0]


def lengths_of_lists(batch: Any) -> tuple[int, ...]:
    """The lengths of all sequences in a batch whose members are of one kind: of columns they are always the same."""
    if isinstance(batch, Tensor) or stated_size(batch) is not None:
        return ()
    own = (len(batch),) if isinstance(batch, (list, tuple)) and _are_alike(batch) else ()
    inside = parts_of(batch) if own == () or not isinstance(batch[0], Tensor) else []
    return own + tuple(n for part in inside for n in lengths_of_lists(part))


def is_along_second(batch: Any) -> bool:
    """Whether a batch is counted by its targets, of which other tensors have as many along their second axis."""
    count = _seen(batch)
    return count is not None and any(
        t.size(0) != count and count in axes_of(t)[1:2] for t in tensors_in(batch) if t.ndim
    )


def rows_of(batch: Any) -> set[int]:
    """The lengths of the first axes of a batch's tensors."""
    return {int(t.size(0)) for t in tensors_in(batch) if t.ndim}


def _seen(batch: Any, listed: bool = False) -> int | None:
    """The number of samples that the parts of a batch agree on; None where they do not."""
    said, _ = _told_apart(batch)
    if said:
        count = said.pop() if len(said) == 1 else None
        lengths = _counts(targets_in(batch))
        return count if not lengths or count in lengths else None
    if listed and may_be_samples(batch):
        return len(batch)
    counts = _counts_of_all(batch)
    rows = rows_of(batch)
    if counts and len(counts) > 1 and len(rows) == 1 and (listed or type(batch) is list):
        # default_collate makes lists of lists of columns; lists whose lengths vary hold samples
        counts = counts - rows if listed else counts & rows
    if counts:
        return counts.pop() if len(counts) == 1 else None
    return _by_targets(batch)


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


def _counts_of_all(batch: Any) -> set[int] | None:
    """How many samples a batch may hold: of a sequence as the columns of a batch, or as samples with a label each."""
    if isinstance(batch, (list, tuple)) and not hasattr(batch, "_fields"):
        return {len(batch)} if _are_labelled(batch) else _common(batch)
    return _counts(batch)


def _counts(tree: Any) -> set[int] | None:
    """Numbers of samples that a part of a batch can be read to hold; None where it says nothing of them.

    A list may be one of samples, or of several tensors for all of them.
    """
    if isinstance(tree, Tensor):
        return {int(tree.size(0))} if tree.ndim else None
    own = stated_size(tree)
    if own is not None:
        return {own}
    if isinstance(tree, (list, tuple)) and not hasattr(tree, "_fields"):
        if not tree or _is_plain(tree):
            return None
        if _are_labelled(tree):
            return {len(tree)}
        together = _common(tree)
        listed = {len(tree)} if _are_alike(tree) else set()
        return listed | together if together is not None else listed or None
    return _common(parts_of(tree))


def _common(parts: Iterable[Any]) -> set[int] | None:
    """What all parts that say something agree on.

    A list of plain numbers or texts may be one of labels as well as of settings: it chooses, and is not asked alone.
    """
    parts = list(parts)
    found = [counts for counts in map(_counts, parts) if counts is not None]
    common = set.intersection(*found) if found else None
    for part in parts:
        if common and isinstance(part, (list, tuple)) and len(part) in common and _is_plain(part):
            common = {len(part)}
    return common


def _is_plain(values: Sequence[Any]) -> bool:
    return all(isinstance(one, (str, bytes, int, float)) for one in values)


def _are_alike(parts: Sequence[Any]) -> bool:
    """Whether the parts of a sequence are of one kind, as the samples in a list are."""
    kinds = {_kind(part) for part in parts}
    return len(kinds) == 1 and None not in kinds


def _kind(part: Any) -> Any:
    if isinstance(part, Tensor):
        return part.dtype, part.ndim
    if isinstance(part, Mapping):
        return (type(part), *sorted(map(repr, part)))
    if type(part) is list:  # default_collate makes lists of columns
        return None
    if isinstance(part, tuple):
        return (type(part), *(_kind(one) for one in part))
    return type(part) if _is_number(part) or next(tensors_in(part), None) is not None else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) or (isinstance(value, Tensor) and value.ndim == 0)


def _are_labelled(parts: Sequence[Any]) -> bool:
    """Whether every part of a sequence is a sample: it has a label without an axis."""
    return bool(parts) and len({type(part) for part in parts}) == 1 and all(map(_is_labelled, parts))


def _is_labelled(sample: Any) -> bool:
    if isinstance(sample, Tensor) or stated_size(sample) is not None:
        return False
    if isinstance(sample, Mapping) or not isinstance(sample, (tuple, list)) or hasattr(sample, "_fields"):
        labels = [
            sample.get(name) if isinstance(sample, Mapping) else getattr(sample, name, None) for name in LABEL_KEYS
        ]
        return any(map(_is_number, labels)) and next(tensors_in(sample), None) is not None
    return len(sample) > 1 and _is_number(targets_in(sample)) and next(tensors_in(sample), None) is not None


def _taken(tree: Any, count: int, rows: slice) -> Any | None:
    """Some of `count` samples of a list, tuple or dict of tensors and lists that hold so many; None for any other."""
    if isinstance(tree, Tensor):
        if tree.ndim and (tree.is_nested or tree.layout != torch.strided or tree.size(0) != count):
            return None
        return tree[rows] if tree.ndim else tree
    if tree is None or isinstance(tree, (str, bytes, int, float)):
        return tree
    if type(tree) in (list, tuple) and len(tree) == count and (_are_alike(tree) or _is_plain(tree)):
        return tree[rows]
    if type(tree) is dict:
        parts = {key: _taken(value, count, rows) for key, value in tree.items()}
        return None if any(parts[key] is None is not tree[key] for key in tree) else parts
    if type(tree) in (list, tuple):
        columns = [_taken(value, count, rows) for value in tree]
        lost = any(part is None is not value for part, value in zip(columns, tree, strict=True))
        return None if lost else type(tree)(columns)
    return None


# -- tensors that disagree -------------------------------------------------------------------------------


def _by_targets(batch: Any) -> int | None:
    """The length of the targets, where the tensors themselves say how all others belong to so many samples."""
    targets = targets_in(batch)
    lengths = None if targets is None else _counts(targets)
    if lengths is None or len(lengths) != 1:
        return None
    (count,) = lengths
    others = [part for part in _columns(batch) if part is not targets]
    tensors = [t for part in others for t in tensors_in(part) if t.layout == torch.strided and not t.is_nested]
    told: set[tuple[int, ...]] = set()  # lengths of first axes that a tensor divides among the samples, maybe a rank
    for one in tensors:
        told |= _divided(one, count, tensors)
    return count if all(_holds(part, count, told) for part in others) else None


def _columns(batch: Any) -> list[Any]:
    """The parts of a batch, those of mappings within it one by one."""
    if isinstance(batch, Tensor):
        return [batch]
    found: list[Any] = []
    for part in parts_of(batch):
        found += _columns(part) if isinstance(part, Mapping) else [part]
    return found


def _holds(part: Any, count: int, told: set[tuple[int, ...]]) -> bool:
    """Whether a part of a batch is seen to hold `count` samples."""
    counts = _counts(part)
    if counts is None or count in counts:
        return True
    return all(
        count in axes_of(t)[:2] or not told.isdisjoint({(t.size(0),), (t.size(0), t.ndim)}) or _is_edges(t)
        for t in tensors_in(part)
        if t.ndim
    )


def _divided(tensor: Tensor, count: int, others: list[Tensor]) -> set[tuple[int, ...]]:
    """The lengths of first axes that a tensor of whole numbers divides among `count` samples: (n,), or (n, rank)."""
    if tensor.is_floating_point() or tensor.is_complex() or not tensor.numel():
        return set()
    lengths = {int(t.size(0)) for t in others if t.ndim and t.size(0) > count}
    if _is_edges(tensor):  # of nodes, and whatever holds for them
        return {(n,) for n in lengths if int(tensor.max()) < n} | {(int(tensor.size(1)),)}
    if tensor.ndim != 1:
        return set()
    n, first, last = int(tensor.size(0)), int(tensor[0]), int(tensor[-1])
    rising = bool((tensor[1:] >= tensor[:-1]).all())
    if n > count:
        of_rows = rising and first >= 0 and last == count - 1  # the sample that each row belongs to
        bounds = rising and first == 0 and n == count + 1 and last in lengths
        return ({(n,)} if of_rows else set()) | ({(n,), (last,)} if bounds else set())
    if n != count:
        return set()
    starts = {(m, 1) for m in lengths if last < m} if rising and first == 0 else set()  # as bags of tokens have
    return starts | ({(int(tensor.sum()),)} if int(tensor.sum()) in lengths else set())


def _is_edges(tensor: Tensor) -> bool:
    """Whether a tensor holds the two ends of edges, as libraries of graphs write them."""
    return tensor.ndim == 2 and tensor.shape[0] == 2 and not tensor.is_floating_point()


def _full_or_short(batch: Any, full: int) -> int | None:
    """`full` where a batch is seen to hold so many samples, fewer where it is a short last one; None where neither."""
    counts = _counts_of_all(batch)
    if stated_size(batch) == full or _told_apart(batch)[0] == {full} or (counts is not None and full in counts):
        return full
    second = second_axis(batch)
    if counts and len(counts) == 1:
        (count,) = counts
        if second == full:  # time first, if the batch cannot be a short one of so many features
            return full if count > full else None
        return count if count < full else second if second is not None and second < full else None
    votes = [c for c in map(_counts, _columns(batch)) if c is not None]
    support = {n: sum(n in vote for vote in votes) for vote in votes for n in vote}
    rivals = [times for n, times in support.items() if n < full]
    return full if support.get(full, 0) > max(rivals, default=0) else None
