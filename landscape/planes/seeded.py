"""Random planes that keep seeds and no vectors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from landscape_kernels.layout import Block
from landscape_kernels.perturb import wide
from landscape_kernels.pieces import Piece
from landscape_kernels.projection import gram_of
from landscape_kernels.seeded import SeededDirections
from torch import Tensor

from landscape.errors import InputError
from landscape.objective.objective import Objective
from landscape.objective.trees import Digest, digest
from landscape.planes.plane import Plane, geometry_of


class Seeded:
    """The directions of a random plane as seeds, and what one pass over their values tells."""

    def __init__(self, objective: Objective, normalize: str, ignored: Sequence[Block], seed: int, axes: int) -> None:
        own, layout, dtype = objective.centre, objective.layout, wide(objective.dtype)
        self.own, self.size = own, layout.size
        self.directions = SeededDirections(
            layout, own.at, normalize, ignored, seed=seed, axes=axes, dtype=dtype, threads=torch.get_num_threads()
        )
        hashes = [Digest(dtype, (layout.size,)) for _ in range(axes)]
        centre = Digest(own.dtype, (layout.size,))
        self.products = np.zeros((axes, axes))
        self.zero = set(range(axes))  # directions that lead nowhere
        self.moved: set[str] = set()  # blocks that some direction moves
        hashed: list[Future[None]] = []

        def see(piece: Piece, values: Sequence[Tensor]) -> None:
            for future in hashed:  # a hash takes its pieces in order
                future.result()
            hashed[:] = [pool.submit(state.add, part) for state, part in zip(hashes, values, strict=True)]
            hashed.append(pool.submit(centre.add, own.at(piece)))
            self.products += gram_of([part.double() for part in values])
            moving = {axis for axis, part in enumerate(values) if bool(part.any())}
            self.zero -= moving
            if moving:
                self.moved.add(piece.block.name)

        with ThreadPoolExecutor(axes + 1) as pool:
            self.directions.settle(see)
        self.digests = [state.text for state in hashes]
        self.centre_digest = centre.text


class SeededPlane(Plane):
    """The plane of `random_plane`, the same to the bit, whose directions are drawn piece by piece for every point."""

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
    def centre(self) -> Tensor:
        """The centre (size,), made anew."""
        return self._of.own.vector

    @property
    def directions(self) -> Sequence[Tensor]:
        """The directions (size,) each, drawn anew."""
        found: tuple[list[Tensor], ...] = tuple([] for _ in range(self.axes))
        for _, values in self._of.directions.each(range(self.axes)):
            for parts, part in zip(found, values, strict=True):
                parts.append(part.clone())
        return tuple(torch.cat(parts).to(self._of.own.device) for parts in found)

    def flat(self) -> Plane:
        """See `Plane`. Raises InputError where the model was changed since the plane was made."""
        self.identity()
        return Plane(self.centre, self.directions, self.about)

    def centre_at(self, piece: Piece) -> Tensor:
        """See `Plane`."""
        return self._of.own.at(piece)

    def directions_at(self, pieces: Sequence[Piece], axes: Sequence[int]) -> Iterator[tuple[Piece, list[Tensor]]]:
        """See `Plane`."""
        return self._of.directions.each(axes, pieces)

    def point(self, coordinates: Sequence[float], out: Tensor | None = None) -> Tensor:
        """See `Plane`."""
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
