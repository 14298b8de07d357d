"""Reading once for all ranks: rank 0 reads, and the others get its tensors by message instead of from the disk.

Thousands of ranks that open one checkpoint and one data set at the same moment can bring a shared file system to its
knees. Every rank holds a copy of its own afterwards, as when it reads by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from landscape.errors import InputError
from landscape.objective.batches import as_whole
from landscape.objective.trees import map_leaves, map_tensors, tensors_in
from landscape.run.comm import world
from landscape.run.together import agree


@dataclass(frozen=True)
class _Shape:
    """The place of a tensor in what was read."""

    dtype: torch.dtype
    shape: tuple[int, ...]


def from_rank_0(read: Callable[[], Any]) -> Any:
    """What `read` returns on rank 0, a nesting of tensors, on every rank; it is called there alone.

    All ranks call this. Raises on all of them what `read` raises, and InputError where it returns anything else than
    tensors.
    """
    comm = world()
    if comm.size == 1:
        return read()
    found = agree(comm, lambda: _tensors(read()) if comm.rank == 0 else None)
    skeleton = comm.broadcast(map_tensors(found, lambda tensor: _Shape(tensor.dtype, tuple(tensor.shape))))
    mine = found if comm.rank == 0 else _empty(skeleton)
    for tensor in tensors_in(mine):
        comm.broadcast_(tensor.view(-1).view(torch.uint8).numpy())
    return mine


def _tensors(found: Any) -> Any:
    """The tensors in what was read, each in one piece of memory."""
    whole = as_whole(found)
    if whole is None:
        raise InputError(
            f"run.read = 'once' sends tensors to the other ranks, and data.factory returned a {type(found).__name__}; "
            "return tensors, as (inputs, targets), or leave run.read out, and every rank reads for itself"
        )
    if any(tensor.layout != torch.strided for tensor in tensors_in(whole)):
        raise InputError(
            "run.read = 'once' sends dense tensors, and there are sparse ones in the data; return them dense, or leave "
            "run.read out, and every rank reads for itself"
        )
    return map_tensors(whole, lambda tensor: tensor.detach().cpu().resolve_conj().contiguous())


def _empty(skeleton: Any) -> Any:
    """Tensors of the shapes in the nesting."""
    return map_leaves(
        skeleton, lambda place: torch.empty(place.shape, dtype=place.dtype), lambda value: isinstance(value, _Shape)
    )
