"""Random planes that keep seeds and no vectors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from landscape_kernels.layout import Block
from landscape_kernels.perturb import wide
from landscape_kernels.pieces import Piece, put_alone_
from landscape_kernels.seeded import SeededDirections
from torch import Tensor

from landscape.errors import InputError
from landscape.files.scratch import Scratch
from landscape.objective.objective import Objective
from landscape.objective.threads import in_threads
from landscape.objective.trees import Digest, digest
from landscape.planes.plane import Plane, geometry_of

_STRETCH = 1 << 13  # values whose products numpy takes at once, in this thread alone


class Seeded:
    """The directions of a random plane as seeds, and what one pass over their values tells.

    That pass writes them to a scratch file where a disk has room, from which they are read for every point.
    """

    def __init__(self, objective: Objective, normalize: str, ignored: Sequence[Block], seed: int, axes: int) -> None:
        own, layout, dtype = objective.centre, objective.layout, wide(objective.dtype)
        self.own, self.size = own, layout.size
        self.directions = SeededDirections(layout, own.at, normalize, ignored, seed=seed, axes=axes, dtype=dtype)
        self.scratch = Scratch.where_there_is_room(axes * layout.size * dtype.itemsize)
        hashes = [Digest(dtype, (layout.size,)) for _ in range(axes)]
        self.products = np.zeros((axes, axes))
        self.zero = set(range(axes))  # directions that lead nowhere
        self.moved: set[str] = set()  # blocks that some direction moves

        def made(axis: int, piece: Piece, values: Tensor) -> None:
            hashes[axis].add(values)
            scratch = self.scratch
            if scratch is not None:
                try:
                    scratch.write(values, self._place(axis, piece))
                except OSError:  # a full disk, say: they are drawn again for every point
                    self.scratch = None

        def see(piece: Piece, values: Sequence[Tensor]) -> None:
            products = np.zeros((axes, axes))
            for stretch in zip(*(torch.split(part, _STRETCH) for part in values), strict=True):
                doubles = [part.double().numpy() for part in stretch]
                products += [[a @ b for b in doubles] for a in doubles]
            self.products += products
            # squares of very small values are zero
            moving = {axis for axis, part in enumerate(values) if products[axis, axis] > 0 or bool(part.any())}
            self.zero -= moving
            if moving:
                self.moved.add(piece.block.name)

        with ThreadPoolExecutor(1) as beside:
            centre = beside.submit(own.hashed)
            self.directions.settle(made, see)
            self.centre_digest = centre.result()
        self.digests = [state.text for state in hashes]

    def at(self, piece: Piece, axes: Sequence[int]) -> Iterator[Tensor]:
        """Values (size,) of a piece of each of the directions `axes`; each is there until the next is asked for."""
        for axis in axes:
            with ExitStack() as stack:
                yield self._values(axis, piece, stack)

    def _values(self, axis: int, piece: Piece, stack: ExitStack) -> Tensor:
        if self.scratch is not None:
            try:
                values = self.scratch.values(self._place(axis, piece), piece.size, self.directions.dtype)
                return stack.enter_context(values)
            except OSError:
                self.scratch = None
        return self.directions.at(piece, [axis])[0]

    def _place(self, axis: int, piece: Piece) -> int:
        """Where a piece of a direction begins in the scratch file."""
        first: int = axis * self.size + piece.slice.start
        return first * self.directions.dtype.itemsize


class SeededPlane(Plane):
    """The plane of `random_plane`, the same to the bit, whose directions are made piece by piece for every point."""

    def __init__(self, seeded: Seeded, about: Mapping[str, Any]) -> None:
        for name, value in (("about", about), ("points", None), ("buffers", {}), ("buffer_directions", ())):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "_seeded", seeded)

    def __repr__(self) -> str:
        made = ", ".join(f"{key}={value!r}" for key, value in self.about.items())
        return f"Plane({self.axes} axes in {self._of.size:,} parameters, kept as seeds: {made})"

    @property
    def _of(self) -> Seeded:
        found: Seeded = self.__dict__["_seeded"]
        return found

    @property
    def axes(self) -> int:
        """Number of axes."""
        return self._of.directions.axes

    @property
    def streamed(self) -> bool:
        """See `Plane`."""
        return True

    @property
    def scratch(self) -> Scratch | None:
        """See `Plane`."""
        return self._of.scratch

    @property
    def centre(self) -> Tensor:
        """The centre (size,), made anew. Raises InputError where the model was changed since it was bound."""
        self._of.own.require_unchanged()
        return self._of.own.vector

    @property
    def directions(self) -> Sequence[Tensor]:
        """The directions (size,) each, made anew."""
        directions, axes = self._of.directions, range(self.axes)
        found = [torch.empty(self._of.size, dtype=directions.dtype) for _ in axes]

        def put(piece: Piece) -> None:
            for whole, values in zip(found, self._of.at(piece, axes), strict=True):
                put_alone_(whole[piece.slice], values)

        in_threads(put, directions.pieces)
        return tuple(whole.to(self._of.own.device) for whole in found)

    def flat(self) -> Plane:
        """See `Plane`. Raises InputError where the model was changed since the plane was made."""
        self.identity()
        return Plane(self.centre, self.directions, self.about)

    def begun(self, piece: Piece, out: Tensor) -> Tensor:
        """See `Plane`."""
        return self._of.own.begun(piece, out)

    def directions_at(self, piece: Piece, axes: Sequence[int]) -> Iterator[Tensor]:
        """See `Plane`."""
        return self._of.at(piece, axes)

    def point(self, coordinates: Sequence[float], out: Tensor | None = None) -> Tensor:
        """See `Plane`. Raises InputError where the model was changed since it was bound."""
        self._of.own.require_unchanged()
        own, blocks = self._of.own, self._of.directions.layout.blocks
        vector = torch.empty(self._of.size, dtype=own.dtype, device=own.device) if out is None else out
        self.write(coordinates, self._of.directions.pieces, {b.name: vector[b.slice] for b in blocks})
        return vector

    def identity(self, centre: str | None = None) -> dict[str, Any]:
        """See `Plane`. Raises InputError where the model was changed since the plane was made."""
        if (centre or self._of.own.digest) != self._of.centre_digest:
            raise InputError(
                "the model's parameters were changed after the plane was made, which is scaled to them and keeps no "
                "copy of them; make the objective and the plane anew"
            )
        return {
            "centre": self._of.centre_digest,
            "directions": list(self._of.digests),
            "points": "",
            "buffers": digest(),
        }

    def geometry(self) -> dict[str, Any]:
        """See `Plane`."""
        return geometry_of(self._of.products)
