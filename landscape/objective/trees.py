"""Nested tuples, lists and mappings of tensors, as batches and outputs are: walking, hashing, comparing them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
            return int(tensor.shape[0])
    raise InputError("a batch holds no tensor with a batch axis, so its samples cannot be counted")


def has_batch_axis(tree: object) -> bool:
    """Whether the first axis of every tensor runs over the same number of samples, so that rows can be cut out."""
    lengths = {tensor.shape[0] if tensor.ndim else None for tensor in tensors_in(tree)}
    return len(lengths) == 1 and None not in lengths


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The values of a tensor as bytes in row-major order, for hashing."""
    flat = tensor.detach().cpu().resolve_conj().contiguous().view(-1)
    return memoryview(flat.view(torch.uint8).numpy())  # type: ignore[arg-type]


def digest(*tensors: Tensor) -> str:
    """Hash of the values, shapes and types of the tensors."""
    return digest_of(tensors)


def digest_of(tensors: Iterable[Tensor]) -> str:
    """The same for tensors that are made one after another."""
    state = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        state.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        state.update(tensor_bytes(tensor))
    return state.hexdigest()


def digest_text(text: str) -> str:
    """Hash of a text."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def shapes_in(tree: Any) -> str:
    """Types and shapes of the tensors in a batch, for messages."""
    return ", ".join(f"{t.dtype} {tuple(t.shape)}".removeprefix("torch.") for t in tensors_in(tree))


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
