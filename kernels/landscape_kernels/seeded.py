"""Random directions that stay seeds: drawn, scaled and forgotten piece by piece, never a whole vector."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from landscape_kernels.arrays import FloatArray
from landscape_kernels.layout import Block, Filters, Layout
from landscape_kernels.normalise import NORMALIZATIONS, block_norms
from landscape_kernels.pieces import (
    ALONE,
    WHOLE,
    Piece,
    columns_of,
    combined,
    norm_of_piece,
    pieces,
    put_alone_,
)
from landscape_kernels.probes import NormalPieces

_AHEAD = 2  # pieces that are made before they are asked for
_Made = TypeVar("_Made")


class _Rooms(threading.local):
    """Memory of each thread, by axis: to draw in, and for values in the directions' precision."""

    def __init__(self) -> None:
        self.of: dict[int, tuple[FloatArray, Tensor]] = {}


class SeededDirections:
    """Directions `axes` of the layout's size, each from (seed, "direction", axis), scaled as `normalise_` does.

    The values are those of `normalise_(normal_vector(size, seed, "direction", axis), theta, layout, how, ignored)` in
    `dtype`, bit for bit. `centre(piece)` returns theta's values of a piece; what it returned at first is what the
    directions are scaled to. `settle` has to be called once, before pieces are asked for in any order.
    """

    def __init__(
        self,
        layout: Layout,
        centre: Callable[[Piece], Tensor],
        how: str,
        ignored: Sequence[Block],
        *,
        seed: int,
        axes: int,
        dtype: torch.dtype,
    ) -> None:
        if how not in NORMALIZATIONS:
            raise ValueError(f"normalisation {how!r} is not one of {', '.join(NORMALIZATIONS)}")
        self.layout, self.axes, self.dtype = layout, axes, dtype
        self.pieces = pieces(layout)
        self._numbers = {piece.slice.start: number for number, piece in enumerate(self.pieces)}
        self._centre, self._how = centre, how
        self._still = frozenset(block.name for block in ignored)
        sizes = [piece.size for piece in self.pieces]
        self._drawn = [NormalPieces(sizes, seed, "direction", axis) for axis in range(axes)]
        self._scales: list[dict[int, FloatArray]] = [{} for _ in range(axes)]  # piece -> factors of its groups
        self._rooms = _Rooms()

    def settle(
        self, made: Callable[[int, Piece, Tensor], None], see: Callable[[Piece, Sequence[Tensor]], None]
    ) -> None:
        """Find the factors that scale the directions, and show every piece of all axes, in order.

        Each axis has a thread, which gives (axis, piece, values) to `made`; `see` then gets the values of all axes.
        Norms over more than a piece take a pass of their own before.
        """
        if self._how == "model" or (self._how in ("filter", "layer") and any(self._wide(p) for p in self.pieces)):
            self._norms()
        # Room for all factors at once: arrays kept piece by piece would split the memory that pieces leave free.
        ends = np.cumsum([0, *map(self._groups, self.pieces)])
        room = np.empty((self.axes, int(ends[-1])))

        def make(axis: int, number: int, out: FloatArray, rounded: Tensor) -> Tensor:
            piece = self.pieces[number]
            values = self._raw(axis, number, out)
            factors = room[axis, ends[number] : ends[number + 1]]
            if factors.size:
                found = self._factors(torch.from_numpy(values), piece)
                self._scales[axis][number] = factors.reshape(found.shape)
                self._scales[axis][number][...] = found.numpy()
            result = self._placed(number, self._scaled(axis, number, values), rounded)
            made(axis, piece, result)
            return result

        for number, values in self._ahead(make):
            see(self.pieces[number], values)

    def at(self, piece: Piece, axes: Sequence[int]) -> list[Tensor]:
        """Values (size,) of a piece of each of the `axes`, in memory that this thread writes to again."""
        number = self._numbers[piece.slice.start]
        rooms = self._rooms.of
        for axis in axes:
            if axis not in rooms or len(rooms[axis][0]) < piece.size:
                rooms[axis] = np.empty(piece.size), torch.empty(piece.size, dtype=self.dtype)
        return [
            self._placed(number, self._scaled(axis, number, self._raw(axis, number, rooms[axis][0])), rooms[axis][1])
            for axis in axes
        ]

    def _ahead(self, make: Callable[[int, int, FloatArray, Tensor], _Made]) -> Iterator[tuple[int, list[_Made]]]:
        """(number, `make(axis, number, room to draw in, room for values)` of each axis) of all pieces, in order.

        A thread for each axis makes them a few pieces ahead. The rooms are written to again once the next is asked for.
        """
        waiting: deque[tuple[int, list[Future[_Made]]]] = deque()
        longest = max(piece.size for piece in self.pieces)
        rooms = [
            [(np.empty(longest), torch.empty(longest, dtype=self.dtype)) for _ in range(self.axes)]
            for _ in range(_AHEAD + 1)
        ]
        with ExitStack() as stack:
            threads = [stack.enter_context(ThreadPoolExecutor(1)) for _ in range(self.axes)]
            try:
                for number in range(len(self.pieces)):
                    if len(waiting) == _AHEAD:
                        yield _next(waiting)
                    outs = enumerate(rooms[number % len(rooms)])
                    waiting.append((number, [threads[axis].submit(make, axis, number, *out) for axis, out in outs]))
                while waiting:
                    yield _next(waiting)
            finally:
                for _, futures in waiting:
                    for future in futures:
                        future.cancel()

    def _raw(self, axis: int, number: int, out: FloatArray) -> FloatArray:
        """Normal values of a piece, zero where they are ignored."""
        values = self._drawn[axis].draw(number, out[: self.pieces[number].size])
        if self.pieces[number].block.name in self._still:
            values[:] = 0
        return values

    def _scaled(self, axis: int, number: int, values: FloatArray) -> FloatArray:
        factors = self._scales[axis].get(number)
        if factors is not None and factors.size == 1:
            values *= factors.reshape(1)
        elif factors is not None:
            view = values.reshape(self.pieces[number].shape)
            np.multiply(view, factors, out=view)
        return values

    def _placed(self, number: int, values: FloatArray, out: Tensor) -> Tensor:
        """The values in the directions' precision, in `out`."""
        if self._how == "weight":
            values *= np.abs(self._theta(self.pieces[number]).numpy())
        return put_alone_(out[: len(values)], torch.from_numpy(values))

    def _theta(self, piece: Piece) -> Tensor:
        return put_alone_(torch.empty(piece.size, dtype=torch.float64), self._centre(piece).cpu())

    def _factors(self, values: Tensor, piece: Piece) -> Tensor:
        """The factors of a piece, of a few rows at a time where each is a group, in this thread alone."""
        theta, filters = self._theta(piece), piece.block.filters
        rows = self._how == "filter" and filters is not None and filters.inner == tuple(range(1, len(filters.shape)))
        row = piece.size // piece.shape[0] if rows and piece.size else 0
        if not 0 < row <= ALONE:  # torch sums a longer one in another order where it is alone
            return _factors(values, theta, piece, self._how)
        step = ALONE // row * row
        return torch.cat(
            [
                _factors(part, of_theta, Piece(piece.block, 0, len(part)), self._how)
                for part, of_theta in zip(torch.split(values, step), torch.split(theta, step), strict=True)
            ]
        )

    def _wide(self, piece: Piece) -> bool:
        """Whether a norm is over more than the piece."""
        whole = self._how == "layer" or piece.block.filters is None or columns_of(piece.block) > 0
        return whole and piece.size < piece.block.size

    def _groups(self, piece: Piece) -> int:
        """How many factors are found from the piece alone."""
        if self._how not in ("filter", "layer") or self._wide(piece) or piece.block.name in self._still:
            return 0
        filters = piece.block.filters if self._how == "filter" else None
        inner = filters.inner if filters else (0,)
        shape = piece.shape if filters else (piece.size,)
        return math.prod(size for axis, size in enumerate(shape) if axis not in inner)

    def _norms(self) -> None:
        """The factors of groups that are larger than a piece: of layers, or of the model."""
        groups: dict[str, list[int]] = {}
        for number, piece in enumerate(self.pieces):
            if self._how == "model" or (self._wide(piece) and piece.block.name not in self._still):
                groups.setdefault("" if self._how == "model" else piece.block.name, []).append(number)
        of = {number: name for name, numbers in groups.items() for number in numbers}
        kept = {
            name: [n for n in numbers if self.pieces[n].block.name not in self._still]
            for name, numbers in groups.items()
        }
        size_of = {name: self._size(numbers) for name, numbers in groups.items()}
        size_of_kept = {name: self._size(numbers) for name, numbers in kept.items()}
        longest = max((n for n in (*size_of.values(), *size_of_kept.values()) if n <= WHOLE), default=0)
        norms = [_Norm(room) for room in np.empty((self.axes, longest))]
        for number, drawn in self._ahead(lambda axis, number, out, _: self._raw(axis, number, out)):
            name = of.get(number)
            if name is None:
                continue
            columns = columns_of(self.pieces[number].block) if self._how == "filter" else 0
            for norm, values in zip(norms, drawn, strict=True):
                norm.add(torch.from_numpy(values), size_of[name], columns)
            if number == groups[name][-1]:
                lengths = [norm.taken(columns) for norm in norms]
                of_theta = norms[0]  # whose room is free again
                for other in kept[name]:
                    of_theta.add(self._theta(self.pieces[other]), size_of_kept[name], columns)
                wanted = of_theta.taken(columns)
                for axis, length in enumerate(lengths):
                    factor = torch.where(length > 0, wanted / length, torch.zeros_like(length))
                    self._scales[axis] |= dict.fromkeys(groups[name], factor.reshape(-1).numpy())

    def _size(self, numbers: Sequence[int]) -> int:
        return sum(self.pieces[number].size for number in numbers)


class _Norm:
    """The norm of values that come piece by piece, as `norm_of` has it."""

    def __init__(self, room: FloatArray) -> None:
        """`room` is for the values of a group that is normed as one vector: pieces of their own would split memory."""
        self._room, self._filled = room, 0
        self._norms: list[Tensor] = []

    def add(self, values: Tensor, size: int, columns: int) -> None:
        """Values of a group of that size, or of a matrix with so many columns that are a group each."""
        if size > WHOLE:
            self._norms.append(norm_of_piece(values, columns))
            return
        self._room[self._filled : self._filled + len(values)] = values.numpy()
        self._filled += len(values)

    def taken(self, columns: int) -> Tensor:
        """The norm, or those of so many columns, and a new beginning."""
        norms, filled = self._norms, self._filled
        self._norms, self._filled = [], 0
        return combined(norms) if norms else norm_of_piece(torch.from_numpy(self._room[:filled]), columns)


def _next(waiting: deque[tuple[int, list[Future[_Made]]]]) -> tuple[int, list[_Made]]:
    number, futures = waiting.popleft()
    return number, [future.result() for future in futures]


def _factors(values: Tensor, theta: Tensor, piece: Piece, how: str) -> Tensor:
    """|theta_g| / |d_g| of the groups g of a piece, shaped to multiply its values in its shape; 0 where d_g is zero."""
    filters = piece.block.filters and Filters(piece.shape, piece.block.filters.inner)
    alone = Block(piece.block.name, (piece.size,), 0, piece.block.kind, filters)
    norms = block_norms(values, alone, how)
    return torch.where(norms > 0, block_norms(theta, alone, how) / norms, torch.zeros_like(norms))
