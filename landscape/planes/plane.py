"""A plane: a centre, directions from it, and known points on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from landscape_kernels.arrays import FloatArray
from landscape_kernels.perturb import perturb_, perturb_alone_
from landscape_kernels.pieces import Piece, put_alone_
from landscape_kernels.projection import gram
from torch import Tensor

from landscape.files.scratch import Scratch
from landscape.objective.threads import in_threads
from landscape.objective.trees import digest, digest_of


@dataclass(frozen=True)
class PlanePoints:
    """Parameter vectors to be shown on a plane."""

    kind: str  # "points", "trajectory" or "curve"
    labels: tuple[str, ...]
    vectors: Sequence[Tensor]  # m of (size,); those of checkpoints may be read from their files when asked for
    coordinates: FloatArray  # (m, axes)
    distance: FloatArray  # (m,), from the plane
    explained_variance: FloatArray | None = None  # (axes,), PCA only
    buffers: tuple[Mapping[str, Tensor], ...] = ()  # m, where known


@dataclass(frozen=True, repr=False)
class Plane:
    """theta(c) = centre + sum_i c_i directions[i], for any number of axes."""

    made_by: ClassVar[str] = "a plane, as ls.random_plane(objective)"
    centre: Tensor  # (size,)
    directions: Sequence[Tensor]  # (size,) each, x first
    about: Mapping[str, Any] = field(default_factory=dict)  # how it was made, in plain values
    points: PlanePoints | None = None
    buffers: Mapping[str, Tensor] = field(default_factory=dict)  # at the centre, where they vary over the plane
    buffer_directions: tuple[Mapping[str, Tensor], ...] = ()  # change of the buffers along each axis

    def __repr__(self) -> str:
        made = ", ".join(f"{key}={value!r}" for key, value in self.about.items())
        shown = f"; {len(self.points.labels)} {self.points.kind} on it" if self.points is not None else ""
        return f"Plane({self.axes} axes in {self.centre.numel():,} parameters: {made}{shown})"

    @property
    def axes(self) -> int:
        """Number of axes."""
        return len(self.directions)

    @property
    def streamed(self) -> bool:
        """Whether no vectors are kept: centre and directions are made anew where they are asked for."""
        return False

    @property
    def scratch(self) -> Scratch | None:
        """The file from which the directions of a `streamed` plane are read; None where they are drawn anew."""
        return None

    def flat(self) -> Plane:
        """The same plane with all its vectors in memory."""
        return self

    def begun(self, piece: Piece, out: Tensor) -> Tensor:
        """The centre's values (size,) of a piece where they lie; put into `out` where that is of another kind."""
        values = self.centre[piece.slice]
        return values if (values.device, values.dtype) == (out.device, out.dtype) else put_alone_(out, values)

    def directions_at(self, piece: Piece, axes: Sequence[int]) -> Iterator[Tensor]:
        """Values (size,) of a piece of each of the directions `axes`; each is there until the next is asked for."""
        return (self.directions[axis][piece.slice] for axis in axes)

    def point(self, coordinates: Sequence[float], out: Tensor | None = None) -> Tensor:
        """theta at `coordinates`, into `out` where given."""
        return perturb_(
            torch.empty_like(self.centre) if out is None else out, self.centre, self.directions, coordinates
        )

    def write(self, coordinates: Sequence[float], pieces: Sequence[Piece], parts: Mapping[str, Tensor]) -> None:
        """theta at `coordinates` into `parts`, a flat tensor for each block of a layout by name, piece by piece."""
        axes = [axis for axis, coordinate in enumerate(coordinates) if coordinate != 0]
        along = [coordinates[axis] for axis in axes]

        def put(piece: Piece) -> None:
            out = parts[piece.block.name][piece.inside]
            centre = self.begun(piece, out)
            perturb_alone_(out, centre, (d.to(out.device) for d in self.directions_at(piece, axes)), along)

        in_threads(put, pieces)

    def buffers_at(self, coordinates: Sequence[float]) -> dict[str, Tensor]:
        """Buffers interpolated along with the parameters; variances extrapolated below 0 are 0."""
        result: dict[str, Tensor] = {}
        for name, value in self.buffers.items():
            if value.is_floating_point():
                value = perturb_(
                    torch.empty_like(value), value, [change[name] for change in self.buffer_directions], coordinates
                )
            result[name] = value.clamp(min=0) if name.endswith("running_var") else value
        return result

    def identity(self, centre: str | None = None) -> dict[str, Any]:
        """What fixes the plane's points, in plain values; `centre` is the digest of the objective's, where known."""
        return {
            "centre": digest(self.centre),
            "directions": [digest(d) for d in self.directions],
            "points": digest_of(self.points.vectors) if self.points else "",
            "buffers": digest(*self.buffers.values(), *(v for d in self.buffer_directions for v in d.values())),
        }

    @property
    def made(self) -> dict[str, Any]:
        """What of `about` a run's identity holds: how the plane was made, without what was only noted of it."""
        return {key: value for key, value in self.about.items() if key != "along_axis_0"}

    def geometry(self) -> dict[str, Any]:
        """Lengths of the directions and the cosines between them."""
        return geometry_of(gram(self.directions))


def geometry_of(products: FloatArray) -> dict[str, Any]:
    """Lengths of vectors and the cosines between them, from their inner products (k, k)."""
    lengths = np.sqrt(products.diagonal())
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = products / np.outer(lengths, lengths)
    return {"lengths": lengths.tolist(), "cosines": np.nan_to_num(cosines).tolist()}
