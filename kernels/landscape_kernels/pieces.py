"""A flat vector in pieces that are small enough to be held several at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from landscape_kernels.layout import Block, Layout

PIECE = 1 << 18  # values of a piece, where a tensor can be cut
WHOLE = 1 << 21  # values that are held at once where a norm is of all of them; larger ones are normed by pieces
ALONE = (1 << 15) - 64  # values that torch works on in the thread that asks, without others of its own


@dataclass(frozen=True)
class Piece:
    """Values of one block: whole rows, or any stretch of a tensor without filters."""

    block: Block
    start: int  # inside the block
    stop: int

    @property
    def size(self) -> int:
        """Number of values."""
        return self.stop - self.start

    @property
    def inside(self) -> slice:
        """Place in the block's values."""
        return slice(self.start, self.stop)

    @property
    def slice(self) -> slice:
        """Place in the flat vector."""
        return slice(self.block.offset + self.start, self.block.offset + self.stop)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of its values in filters; (size,) where they are none, or parts of one group."""
        filters = self.block.filters
        if filters is None:
            return (self.size,)
        return (filters.shape[0] * self.size // self.block.size, *filters.shape[1:])


def columns_of(block: Block) -> int:
    """How many columns a matrix has whose filters are its columns; 0 of any other block."""
    filters = block.filters
    return filters.shape[1] if filters is not None and len(filters.shape) == 2 and filters.inner == (0,) else 0


def pieces_of(block: Block) -> tuple[Piece, ...]:
    """The pieces of a block in order, whole rows each; one with filters that are neither rows nor columns is one piece.

    >>> [piece.size for piece in pieces_of(Layout.of({"w": (3, 200_000)}).blocks[0])]
    [200000, 200000, 200000]
    """
    if block.filters is None:
        step = PIECE
    elif columns_of(block) or block.filters.inner == tuple(range(1, len(block.filters.shape))):
        row = max(1, block.size // max(1, block.filters.shape[0]))
        step = row * max(1, PIECE // row)
    else:
        step = max(1, block.size)
    return tuple(Piece(block, start, min(start + step, block.size)) for start in range(0, block.size, step))


def pieces(layout: Layout) -> tuple[Piece, ...]:
    """The pieces of all blocks, in the order of the flat vector."""
    return tuple(piece for block in layout.blocks for piece in pieces_of(block))


def stretches(*vectors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same parts of vectors (size,) of one device, each so short that torch works on it in this thread alone.

    Threads of its own wait for each other after every operation, which is long where other programs run as well.
    """
    step = ALONE if vectors[0].device.type == "cpu" else max(1, len(vectors[0]))
    return zip(*(torch.split(vector, step) for vector in vectors), strict=True)


def put_alone_(out: Tensor, values: Tensor) -> Tensor:
    """out <- values, both (size,), in this thread alone, as where several work on a piece each; returns `out`."""
    if out.device.type != "cpu":
        return out.copy_(values)
    torch._foreach_copy_(torch.split(out, ALONE), torch.split(values, ALONE))
    return out


def norm_of(parts: Iterable[Tensor], size: int, columns: int = 0) -> Tensor:
    """Euclidean norm () of `size` values, given as the vectors of their pieces one after another.

    With `columns` the values are the rows of a matrix, and the norms (1, columns) those of its columns. Of up to WHOLE
    values a norm is that of one vector; of more it is made of the norms of pieces, so that the bits are the same
    whether the whole vector is there or not.
    """
    if size <= WHOLE:
        return norm_of_piece(torch.cat(list(parts)), columns)
    return combined([norm_of_piece(part, columns) for part in parts])


def combined(norms: Sequence[Tensor]) -> Tensor:
    """The norm of what has these norms in its pieces."""
    found: Tensor = torch.linalg.vector_norm(torch.stack(list(norms)), dim=0)
    return found


def norm_of_piece(part: Tensor, columns: int = 0) -> Tensor:
    """The norm (), or of its columns (1, columns), of one piece."""
    view, over = (part.view(-1, columns), 0) if columns else (part, None)
    found: Tensor = torch.linalg.vector_norm(view, dim=over, keepdim=bool(columns))
    return found
