"""Names, shapes, offsets and filter groups of a flat parameter vector."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Filters:
    """How a tensor divides into filters: reshape to `shape`, one filter per index of the axes not in `inner`.

    A filter is the set of weights that produce one output unit: the axes in `inner` run over its weights.
    """

    shape: tuple[int, ...]
    inner: tuple[int, ...]


@dataclass(frozen=True)
class Block:
    """One parameter tensor inside the flat vector."""

    name: str
    shape: tuple[int, ...]
    offset: int
    kind: str  # "weight", "bias", "norm" (scale and shift of a normalisation layer) or "embedding"
    filters: Filters | None  # None: the tensor is one group (biases, norms, scalars)

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def slice(self) -> slice:
        """Place in the flat vector."""
        return slice(self.offset, self.offset + self.size)


@dataclass(frozen=True)
class Layout:
    """The blocks of a flat vector, in order, without gaps.

    >>> layout = Layout.of({"w": (2, 3), "b": (2,)})
    >>> layout.size, layout.names
    (8, ('w', 'b'))
    >>> layout.unflatten(torch.arange(8.0))["b"]
    tensor([6., 7.])
    """

    blocks: tuple[Block, ...]

    @classmethod
    def of(
        cls,
        shapes: Mapping[str, tuple[int, ...]],
        kinds: Mapping[str, str] | None = None,
        filters: Mapping[str, Filters | None] | None = None,
    ) -> Layout:
        """Layout of tensors of the given shapes; by default a tensor of 2 or more axes has one filter per row."""
        blocks: list[Block] = []
        offset = 0
        for name, shape in shapes.items():
            plain = Filters((shape[0], math.prod(shape[1:])), (1,)) if len(shape) > 1 else None
            kind = (kinds or {}).get(name, "weight" if plain else "bias")
            blocks.append(Block(name, tuple(shape), offset, kind, (filters or {}).get(name, plain)))
            offset += blocks[-1].size
        return cls(tuple(blocks))

    @cached_property
    def size(self) -> int:
        """Length of the flat vector."""
        return sum(block.size for block in self.blocks)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the blocks."""
        return tuple(block.name for block in self.blocks)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the blocks."""
        return tuple(block.shape for block in self.blocks)

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """One vector (size,) from {name: tensor}, of a complex tensor real and imaginary parts in turn.

        Raises KeyError for a missing name, ValueError for a wrong shape.
        """
        parts: list[Tensor] = []
        for block in self.blocks:
            tensor = tensors[block.name]
            if tensor.is_complex():
                tensor = torch.view_as_real(tensor.resolve_conj())
            if tuple(tensor.shape) != block.shape:
                raise ValueError(f"{block.name} has shape {tuple(tensor.shape)}, the layout {block.shape}")
            parts.append(tensor.detach().reshape(-1))
        return torch.cat(parts) if parts else torch.empty(0)

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """{name: view of `vector`}, without copying."""
        return {block.name: vector[block.slice].view(block.shape) for block in self.blocks}

    def select(self, blocks: Sequence[Block]) -> list[slice]:
        """Slices of the given blocks, neighbours joined."""
        joined: list[slice] = []
        for block in blocks:
            if joined and joined[-1].stop == block.offset:
                joined[-1] = slice(joined[-1].start, block.slice.stop)
            else:
                joined.append(block.slice)
        return joined
