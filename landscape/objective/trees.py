"""Nested tuples, lists and mappings of tensors, as batches and outputs are: walking, hashing, comparing them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from landscape.errors import InputError


def tensors_in(tree: object) -> Iterator[Tensor]:
    """All tensors, in order."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from tensors_in(value)
    elif isinstance(tree, (tuple, list)):
        for value in tree:
            yield from tensors_in(value)


def map_tensors(tree: Any, function: Callable[[Tensor], Any]) -> Any:
    """The same nesting with `function` applied to each tensor; lists stay lists, tuples tuples, mappings dicts."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, Mapping):
        return {key: map_tensors(value, function) for key, value in tree.items()}
    if isinstance(tree, list):
        return [map_tensors(value, function) for value in tree]
    if isinstance(tree, tuple):
        return tuple(map_tensors(value, function) for value in tree)
    return tree


def batch_size(tree: object) -> int:
    """Length of the first axis of the first tensor that has one. Raises InputError where there is none."""
    for tensor in tensors_in(tree):
        if tensor.ndim:
            return int(tensor.size(0))
    raise InputError("a batch holds no tensor with a batch axis, so its samples cannot be counted")


def has_batch_axis(tree: object) -> bool:
    """Whether the first axis of every tensor runs over the same number of samples, so that rows can be cut out."""
    lengths = {int(tensor.size(0)) if tensor.ndim else None for tensor in tensors_in(tree)}
    return len(lengths) == 1 and None not in lengths


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
    state = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        state.update(f"{tensor.dtype}{() if tensor.is_nested else tuple(tensor.shape)}".encode())
        state.update(tensor_bytes(tensor))
    return state.hexdigest()


def digest_text(text: str) -> str:
    """Hash of a text."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def shapes_in(tree: Any) -> str:
    """Types and shapes of the tensors in a batch, for messages."""
    return ", ".join(f"{t.dtype} {_shape(t)}".removeprefix("torch.") for t in tensors_in(tree))


def _shape(tensor: Tensor) -> str:
    """Its shape, and its layout where that is not the usual one."""
    if tensor.is_nested:
        return f"nested, {tensor.size(0)} samples"
    return f"{tuple(tensor.shape)}" + (
        "" if tensor.layout == torch.strided else f" {tensor.layout}".replace("torch.", "")
    )


def floats_in(tree: Any) -> list[Tensor]:
    """The tensors of floating-point values."""
    return [t for t in tensors_in(tree) if t.is_floating_point()]


def alike(first: Sequence[Tensor], second: Sequence[Tensor], gap: float) -> bool:
    """Whether two lists of tensors agree up to a relative `gap`, NaN and Inf in the same places."""
    for a, b in zip((t.detach() for t in first), (t.detach() for t in second), strict=True):
        finite = a.isfinite() & b.isfinite()
        scale = float(a[finite].abs().max()) if bool(finite.any()) else 0.0
        if not torch.allclose(a, b, rtol=gap, atol=gap * scale, equal_nan=True):
            return False
    return True
