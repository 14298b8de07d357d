"""One batch of a user's data: what it may be, its inputs and targets, and data given whole as one batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.utils.data import (
    Dataset,
    TensorDataset,
)

from landscape.errors import InputError
from landscape.objective.arrays import LazyArray, as_tensor, is_array, is_lazy
from landscape.objective.counting import LABEL_KEYS, WAYS
from landscape.objective.trees import (
    axes_of,
    is_graph,
    kind_of,
    leaves_in,
    map_leaves,
    shapes_in,
    tensors_in,
    why_without_values,
)

Batch = Any  # nested containers of tensors
LOADER = "torch.utils.data.DataLoader(data, batch_size=64)"


def inputs_and_targets(batch: Batch) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    """(positional inputs, named inputs, targets) of a batch: a tuple whose last is the targets, or a mapping.

    A mapping, or a named tuple, has the targets under one of a few keys. Raises InputError for a batch without targets.
    """
    if type(batch) is tuple and len(batch) == 2 and isinstance(batch[0], Tensor):  # by far the most, at every point
        return batch[:1], {}, batch[1]
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


def require_values(batch: Batch) -> None:
    """Raise InputError for a batch with a tensor whose values are not here."""
    for tensor in tensors_in(batch):
        lacks = why_without_values(tensor)
        if lacks:
            raise InputError(
                f"a tensor of shape {axes_of(tensor)} in the data {lacks}; give data that have values here, as "
                "torch.randn(...) without device= makes, or full_tensor() of a DTensor"
            )


def as_whole(data: Any) -> Batch | None:
    """`data` as one batch when it is given as tensors or arrays; None for datasets and iterables of batches."""
    whole = given_whole(data)
    return None if whole is None else in_memory(whole)


def given_whole(data: Any) -> Batch | None:
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
            + (f"{LOADER}, as it has __getitem__ and __len__ like a Dataset; or " if indexed else "")
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


def is_held(value: Any) -> bool:
    """Whether a leaf holds values: a tensor, or an array in a file."""
    return isinstance(value, (Tensor, LazyArray))


def _arrays(tree: Any) -> Any:
    """Arrays as tensors, those that lie in files as LazyArrays."""
    return map_leaves(
        tree,
        lambda leaf: leaf if isinstance(leaf, Tensor) else LazyArray(leaf) if is_lazy(leaf) else as_tensor(leaf),
        _is_given,
    )


def in_memory(tree: Any) -> Batch:
    """All arrays read."""
    return map_leaves(tree, lambda leaf: leaf.whole() if isinstance(leaf, LazyArray) else leaf, is_held)


def as_tensors(tree: Any) -> Any:
    """Arrays as tensors, all else as it is."""
    return map_leaves(tree, lambda leaf: leaf if isinstance(leaf, Tensor) else as_tensor(leaf), _is_given)


def checked_lengths(whole: Batch) -> Batch:
    """The same batch. Raises InputError where its parts have no samples, or not the same number of them."""
    lengths = {axes_of(t)[0] if axes_of(t) else 0 for t in leaves_in(whole, is_held)}
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
