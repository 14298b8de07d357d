"""Nested containers of tensors, as batches and outputs are: walking, rebuilding, cutting, hashing, comparing them."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

_PLAIN = (str, bytes, int, float, complex, type(None), np.generic, torch.dtype, torch.device)
_PACKED = ("data", "batch_sizes", "sorted_indices", "unsorted_indices")  # fields of torch's PackedSequence
_MOST_SHAPES = 8  # named in a message


def is_tensor(value: object) -> bool:
    """Whether a value is a tensor."""
    return isinstance(value, Tensor)


def tensors_in(tree: object) -> Iterator[Tensor]:
    """All tensors, in order: those of tuples, lists, mappings, dataclasses and of objects that hold tensors."""
    return leaves_in(tree, is_tensor)


def leaves_in(tree: object, is_leaf: Callable[[Any], bool]) -> Iterator[Any]:
    """All values that are leaves (tensors, arrays), in order; see `tensors_in`."""
    if isinstance(tree, _PLAIN):
        return
    if is_leaf(tree):
        yield tree
        return
    for value in parts_of(tree, is_leaf):
        yield from leaves_in(value, is_leaf)


def parts_of(tree: object, is_leaf: Callable[[Any], bool] = is_tensor) -> list[Any]:
    """What a container holds, one level deep: its values, elements, fields or tensors; nothing of anything else."""
    if isinstance(tree, Mapping):
        return list(tree.values())
    if isinstance(tree, (tuple, list)):
        return list(tree)
    return _tensors_met(tree) if is_graph(tree) else list(_attributes(tree, is_leaf).values())


def map_tensors(tree: Any, function: Callable[[Tensor], Any]) -> Any:
    """The same nesting with `function` applied to each tensor; every container is a new one of its own type.

    Named tuples, packed sequences, mappings and dataclasses are made again of their parts; objects of a library with
    `.to()` and `.apply()` (graphs) apply the function themselves, other objects that hold tensors get them as
    attributes of a copy.
    """
    return map_leaves(tree, function, is_tensor)


def map_leaves(tree: Any, function: Callable[[Any], Any], is_leaf: Callable[[Any], bool]) -> Any:
    """The same nesting with `function` applied to each leaf (tensor, array); see `map_tensors`."""
    if isinstance(tree, _PLAIN):
        return tree
    if is_leaf(tree):
        return function(tree)
    if isinstance(tree, Mapping):
        return _like_mapping(tree, {key: map_leaves(value, function, is_leaf) for key, value in tree.items()})
    if isinstance(tree, (list, tuple)):
        return _like_sequence(tree, [map_leaves(value, function, is_leaf) for value in tree])
    if is_graph(tree):
        other = copy.copy(tree)
        made = other.apply(function)
        return other if made is None else made
    found = _attributes(tree, is_leaf)
    if not found:
        return tree
    other = copy.copy(tree)
    for name, value in found.items():
        object.__setattr__(other, name, map_leaves(value, function, is_leaf))  # of frozen ones, too
    return other


def _like_mapping(tree: Mapping[Any, Any], values: dict[Any, Any]) -> Any:
    if type(tree) is dict:
        return values
    if hasattr(tree, "batch_dims"):  # a TensorDict checks the sizes of what it holds
        first = next(tensors_in(values), None)
        size = () if first is None else first.shape[: tree.batch_dims]
        return type(tree)(values, batch_size=size)  # type: ignore[call-arg]
    try:
        if dataclasses.is_dataclass(tree):  # outputs of transformers are both
            return type(tree)(**values)
        if isinstance(tree, MutableMapping):
            other = copy.copy(tree)
            for key, value in values.items():
                other[key] = value
            return other
        return type(tree)(values)  # type: ignore[call-arg]
    except (TypeError, ValueError, AttributeError, NotImplementedError):
        return values


def _like_sequence(tree: Any, values: list[Any]) -> Any:
    if type(tree) is list:
        return values
    if type(tree) is tuple:
        return tuple(values)
    if _is_packed(tree):
        sizes = values[1].cpu() if isinstance(values[1], Tensor) else values[1]  # torch wants them on the CPU
        return type(tree)(values[0], sizes, *values[2:])
    if hasattr(tree, "_make"):  # a named tuple
        return tree._make(values)
    try:
        return type(tree)(values)
    except TypeError:
        return values if isinstance(tree, list) else tuple(values)


def _is_packed(tree: object) -> bool:
    return isinstance(tree, tuple) and getattr(tree, "_fields", None) == _PACKED


def is_graph(tree: object) -> bool:
    """Whether an object of a library moves and maps its own tensors, as graphs of PyTorch Geometric do."""
    if isinstance(tree, type) or hasattr(tree, "named_parameters") or hasattr(tree, "__array__"):
        return False
    return callable(getattr(tree, "apply", None)) and callable(getattr(tree, "to", None))


def _tensors_met(tree: Any) -> list[Tensor]:
    """The tensors that an object applies a function to."""
    met: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        met.append(tensor)
        return tensor

    copy.copy(tree).apply(note)
    return met


def _attributes(tree: object, is_leaf: Callable[[Any], bool]) -> dict[str, Any]:
    """The attributes of a dataclass or plain object that are or hold leaves; {} for anything that holds none."""
    if isinstance(tree, type) or callable(tree) or hasattr(tree, "named_parameters") or hasattr(tree, "__array__"):
        return {}
    if dataclasses.is_dataclass(tree):
        named = {field.name: getattr(tree, field.name, None) for field in dataclasses.fields(tree)}
    else:
        named = {**_slots(tree), **getattr(tree, "__dict__", {})}
        named = {k: value for k, value in named.items() if is_leaf(value) or isinstance(value, (Mapping, tuple, list))}
    return {name: value for name, value in named.items() if next(leaves_in(value, is_leaf), None) is not None}


def _slots(tree: object) -> dict[str, Any]:
    """What an object keeps in `__slots__`, its own and those of the classes it is made of."""
    found: dict[str, Any] = {}
    for kind in type(tree).__mro__:
        own = vars(kind).get("__slots__", ())
        for name in (own,) if isinstance(own, str) else own:
            private = name.startswith("__") and not name.endswith("__")
            stored = f"_{kind.__name__.lstrip('_')}{name}" if private else name
            found.setdefault(stored, getattr(tree, stored, None))
    return {name: value for name, value in found.items() if name not in ("__dict__", "__weakref__")}


def stated_size(tree: object) -> int | None:
    """How many samples a container says that it holds, as packed sequences and batches of graphs do; else None."""
    if _is_packed(tree):
        return int(tree.batch_sizes[0])  # type: ignore[attr-defined]
    if isinstance(tree, (Tensor, *_PLAIN)) or type(tree) in (dict, tuple, list) or hasattr(tree, "__array__"):
        return None
    for name in ("num_graphs", "batch_size"):
        said = getattr(tree, name, None)
        if isinstance(said, (tuple, torch.Size)):
            said = said[0] if said else None
        if isinstance(said, Tensor) and said.ndim == 0 and said.dtype in (torch.int64, torch.int32):
            said = int(said)
        if isinstance(said, int) and not isinstance(said, bool):
            return said
    return None


def has_batch_axis(tree: object) -> bool:
    """Whether the first axis of every tensor runs over the same number of samples, so that rows can be cut out."""
    lengths = {int(tensor.size(0)) if tensor.ndim else None for tensor in tensors_in(tree)}
    return len(lengths) == 1 and None not in lengths and not _holds_whole(tree, int(lengths.pop() or 0))


def _holds_whole(tree: object, size: int) -> bool:
    """Whether something inside stays whole when the tensors are cut: an object, a list of `size` texts."""
    if isinstance(tree, (Tensor, *_PLAIN)):
        return False
    if isinstance(tree, Mapping):
        if hasattr(tree, "batch_dims") and not tree.batch_dims:
            return True
    elif isinstance(tree, list) and len(tree) == size and tree and all(isinstance(e, _PLAIN) for e in tree):
        return True
    elif _is_packed(tree) or not (isinstance(tree, (tuple, list)) or dataclasses.is_dataclass(tree)):
        return next(tensors_in(tree), None) is not None
    return any(_holds_whole(part, size) for part in parts_of(tree))


def why_without_values(tensor: Tensor) -> str:
    """Why the values of a tensor are not here, as the end of a sentence; nothing where they are."""
    kinds = {kind.__name__ for value in (tensor, tensor.data) for kind in type(value).__mro__}
    if "DTensor" in kinds:
        return "is a DTensor, of which this process holds a part"
    if tensor.device.type == "meta" or "FakeTensor" in kinds:
        return f"is {'on the meta device' if tensor.device.type == 'meta' else 'a FakeTensor'} and has no values"
    return ""


def axes_of(tensor: Any) -> tuple[int, ...]:
    """The lengths of a tensor's or array's axes; of a nested tensor only that of the first, the others vary."""
    if isinstance(tensor, Tensor) and tensor.is_nested:
        return (int(tensor.size(0)),)
    return tuple(int(n) for n in tensor.shape)


def joined(first: Any, second: Any) -> Any | None:
    """The samples of two batches as one; None where their tensors do not fit together."""
    if not (has_batch_axis(first) and has_batch_axis(second)):
        return None
    a, b = list(tensors_in(first)), list(tensors_in(second))
    if any(t.is_nested or t.layout != torch.strided for t in (*a, *b)):
        return None
    if [(t.dtype, t.shape[1:]) for t in a] != [(t.dtype, t.shape[1:]) for t in b]:
        return None
    pairs = iter([torch.cat(pair) for pair in zip(a, b, strict=True)])
    return map_tensors(first, lambda _: next(pairs))


def strided_parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """The strided tensors that hold the values of a tensor and say where they lie; a strided one is its own."""
    if tensor.is_nested:
        return tuple(tensor.unbind())
    if tensor.layout == torch.strided:
        return (tensor,)
    if tensor.layout == torch.sparse_coo:
        tensor = tensor.coalesce()
        return tensor.indices(), tensor.values()
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return tensor.ccol_indices(), tensor.row_indices(), tensor.values()
    return (tensor.to_dense(),)


def equal(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors of any layout hold the same values in the same places."""
    if first.is_nested != second.is_nested or first.layout != second.layout:
        return False
    if not first.is_nested and first.shape != second.shape:
        return False
    parts, others = strided_parts(first), strided_parts(second)
    return len(parts) == len(others) and all(torch.equal(a, b) for a, b in zip(parts, others, strict=True))


def take_rows(tensor: Tensor, numbers: slice | Tensor) -> Tensor:
    """Samples of a batch's tensor, which may be sparse or nested."""
    if tensor.is_nested:
        samples = tensor.unbind()
        chosen = samples[numbers] if isinstance(numbers, slice) else [samples[int(i)] for i in numbers]
        return torch.nested.nested_tensor(list(chosen), layout=tensor.layout, device=tensor.device)
    if tensor.layout == torch.strided:
        return tensor[numbers]
    if isinstance(numbers, slice):
        numbers = torch.arange(*numbers.indices(tensor.shape[0]), device=tensor.device)
    found: Tensor = tensor.to_sparse().index_select(0, numbers)
    return found if tensor.layout == torch.sparse_coo else found.to_sparse(layout=tensor.layout)


def tensor_bytes(tensor: Tensor) -> memoryview | bytes:
    """The values of a tensor as bytes in row-major order, for hashing; of another layout those of its parts."""
    if tensor.is_nested or tensor.layout != torch.strided:
        head = f"{'nested' if tensor.is_nested else tensor.layout}".encode()
        parts = [f"{tuple(p.shape)}".encode() + bytes(tensor_bytes(p)) for p in strided_parts(tensor.detach())]
        return head + b"".join(parts)
    flat = tensor.detach().cpu().resolve_conj().contiguous().view(-1)
    return memoryview(flat.view(torch.uint8).numpy())  # type: ignore[arg-type]


def digest(*tensors: Tensor) -> str:
    """Hash of the values, shapes and types of the tensors."""
    return digest_of(tensors)


def digest_of(tensors: Iterable[Tensor]) -> str:
    """The same for tensors that are made one after another."""
    state = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        state.update(f"{tensor.dtype}{() if tensor.is_nested else tuple(tensor.shape)}".encode())
        state.update(tensor_bytes(tensor))
    return state.hexdigest()


def as_real(tensor: Tensor) -> Tensor:
    """A complex tensor with a last axis of its real and imaginary parts; a real one as it is."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


class Digest:
    """`digest` of one dense tensor whose values come in parts, in row-major order."""

    def __init__(self, dtype: torch.dtype, shape: Sequence[int]) -> None:
        self._state = hashlib.blake2b(f"{dtype}{tuple(shape)}".encode(), digest_size=16)

    def add(self, part: Tensor) -> None:
        """The next values."""
        self._state.update(tensor_bytes(part))

    @property
    def text(self) -> str:
        """The hash of what came so far."""
        return self._state.hexdigest()


def digest_text(text: str) -> str:
    """Hash of a text."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def shapes_in(tree: Any) -> str:
    """Types and shapes of the first tensors in a batch, for messages; what holds none is named by its type."""
    found = [f"{t.dtype} {_shape(t)}".removeprefix("torch.") for t in tensors_in(tree)]
    if not found:
        return kind_of(tree)
    more = f" and {len(found) - _MOST_SHAPES} more" if len(found) > _MOST_SHAPES else ""
    return ", ".join(found[:_MOST_SHAPES]) + more


def _shape(tensor: Tensor) -> str:
    """Its shape, and its layout where that is not the usual one."""
    if tensor.is_nested:
        return f"nested, {tensor.size(0)} samples"
    layout = "" if tensor.layout == torch.strided else f" {tensor.layout}".replace("torch.", "")
    return f"{tuple(tensor.shape)}{layout}"


def kind_of(tree: Any) -> str:
    """What a value is, in a few words with its type: "a list of 3 str", "a dict of int", "Graph"."""
    if isinstance(tree, Mapping):
        keys = ", ".join(repr(key) for key in list(tree)[:_MOST_SHAPES])
        return f"{type(tree).__name__} with keys {keys}" if keys else f"an empty {type(tree).__name__}"
    if isinstance(tree, (tuple, list)):
        kinds = list(dict.fromkeys(type(value).__name__ for value in tree))
        name = type(tree).__name__
        return f"{name} of {len(tree)} {' and '.join(kinds[:3])}" if kinds else f"an empty {name}"
    return type(tree).__name__


def floats_in(tree: Any) -> list[Tensor]:
    """The tensors of floating-point values."""
    return [t for t in tensors_in(tree) if t.is_floating_point()]


def alike(first: Sequence[Tensor], second: Sequence[Tensor], gap: float) -> bool:
    """Whether two lists of tensors agree up to a relative `gap`, NaN and Inf in the same places."""
    for a, b in zip((t.detach() for t in first), (t.detach() for t in second), strict=True):
        if torch.bool in (a.dtype, b.dtype):
            a, b = a.double(), b.double()
        finite = a.isfinite() & b.isfinite()
        scale = float(a[finite].abs().max()) if bool(finite.any()) else 0.0
        if not torch.allclose(a, b, rtol=gap, atol=gap * scale, equal_nan=True):
            return False
    return True
