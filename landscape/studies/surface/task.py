"""The task of a surface: every grid point on all data."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from typing import Any

import numpy as np
import torch
from landscape_kernels.pieces import Piece, pieces_of
from torch import Tensor

from landscape.errors import InputError
from landscape.objective.batchnorm import chosen_statistics
from landscape.objective.objective import Objective
from landscape.objective.rows import evaluated, row_of
from landscape.planes.grid import Grid
from landscape.planes.plane import Plane
from landscape.results.trial import bytes_text
from landscape.run.comm import Communicator
from landscape.run.task import Description, Row, Rows

logger = logging.getLogger(__name__)
_BETWEEN = ("through", "curve")  # kinds of planes that lie between models
MEMORY = ("streamed", "flat")
_ANCHORS = 9  # grid points also evaluated without autocast, to measure the error of "bf16" and "own"


class SurfaceTask:
    """The grid points of a surface, then the plane's points (true and projected), then bf16's anchor points."""

    headline = "loss"
    lines, highest = 1, False

    def __init__(
        self,
        objective: Objective,
        plane: Plane,
        grid: Grid,
        *,
        batchnorm: str | None = None,
        statistics: Any = None,
        memory: str | None = None,
    ) -> None:
        if memory not in (None, *MEMORY):
            raise InputError(f"memory={memory!r} is not one of {', '.join(MEMORY)}; leave it out to choose by size")
        if len(grid.axes) != plane.axes:
            raise InputError(
                f"the plane has {plane.axes} axes and the grid {len(grid.axes)} ({', '.join(grid.axes)}); "
                "give a range for each"
            )
        self.streamed = objective.centre.live or plane.streamed if memory is None else memory == "streamed"
        plane = plane if self.streamed else plane.flat()
        self._objective, self._plane, self.grid = objective, plane, grid
        between = plane.about.get("kind") in _BETWEEN
        self.statistics = chosen_statistics(objective, batchnorm, statistics, between=between)
        if self.statistics.mode == "interpolated" and not plane.buffers:
            raise InputError(
                "batchnorm='interpolated' needs a plane through models given with their buffers (state dicts, modules "
                "or checkpoints, not flat vectors); use plane_through, or batchnorm='reestimated'"
            )
        self._theta = None if self.streamed else torch.empty_like(plane.centre)
        points = plane.points.coordinates if plane.points is not None else np.empty((0, plane.axes))
        half = objective.precision == "bf16" or (objective.precision == "own" and self.statistics.data is None)
        anchors = anchor_points(grid.size) if half else []
        # (coordinates, number of the plane's point or None, evaluate without autocast)
        self._extra: list[tuple[tuple[float, ...], int | None, bool]] = [
            *((tuple(c), k, False) for k, c in enumerate(points)),
            *((tuple(c), None, False) for c in points),
            *((grid.coordinates(index), None, True) for index in anchors),
        ]
        self.anchors = anchors
        self.count = grid.size + len(self._extra)

    def describe(self) -> Description:
        """See `Task`."""
        return self._description

    @cached_property
    def _description(self) -> Description:
        objective, plane = self._objective, self._plane
        names = [name for quantity in objective.quantities for name in (quantity, f"{quantity}_stderr")]
        axes = {name: values.tolist() for name, values in self.grid.axes.items()}
        known = objective.identity()
        identity = {
            "objective": known,
            "plane": {**plane.identity(known["centre"]), "made": plane.made},
            "axes": axes,
            "batchnorm": self.statistics.mode,
            "statistics": self.statistics.digest,
        }
        points = plane.points
        about = {
            "plane": {**plane.about, **plane.geometry()},
            "device": str(objective.device),
            "statistics_samples": self.statistics.samples,
            "anchors": self.anchors,
            "points": None
            if points is None
            else {
                "kind": points.kind,
                "labels": list(points.labels),
                "coordinates": points.coordinates.tolist(),
                "distance": points.distance.tolist(),
                "explained_variance": None if points.explained_variance is None else points.explained_variance.tolist(),
            },
        }
        return Description("surface", dict.fromkeys(names, ()), identity, about)

    def evaluate(self, index: int, group: Communicator) -> Row:
        """See `Task`."""
        coordinates, _, widened = self._item(index)
        if widened and self._objective.precision == "own":
            return self._widened(coordinates, group)
        with self.at(index) as (theta, buffers, full):
            return evaluated(self._objective, theta, buffers, group, full_precision=full)

    def _item(self, index: int) -> tuple[tuple[float, ...], int | None, bool]:
        """(coordinates, number of the plane's point or None, whether it is evaluated in float32) of an item."""
        on_grid = index < self.grid.size
        return (self.grid.coordinates(index), None, False) if on_grid else self._extra[index - self.grid.size]

    def _widened(self, coordinates: Sequence[float], group: Communicator) -> Row:
        """The row of a point whose parameters, of a model in half precision, are not rounded: all in float32."""
        blocks = {block.name: block for block in self._objective.layout.blocks}

        def values(name: str) -> Tensor:
            block = blocks[name]
            found = torch.empty(block.size, dtype=torch.float32, device=self._objective.device)
            self._plane.write(coordinates, pieces_of(block), {name: found})
            return found.view(block.shape)

        interpolated = self.statistics.mode == "interpolated"
        buffers = self._plane.buffers_at(coordinates) if interpolated else None
        try:
            return row_of(self._objective.estimates_widened(values, buffers=buffers, group=group))
        except InputError as error:
            logger.warning(
                "the error of half precision is not known, since the model does not run in float32: %s", error
            )
            return dict.fromkeys(self.describe().columns, float("nan"))

    @property
    def memory(self) -> dict[str, str]:
        """How points are made, and the memory that takes beside the model: name -> text."""
        objective, copies = self._objective, 2 + self._plane.axes
        one = objective.layout.size * objective.dtype.itemsize
        if not self.streamed:
            return {"points are made": f"of {copies} vectors of all parameters, {bytes_text(copies * one)}"}
        told = {"points are made": f"piece by piece in one copy of the parameters, {bytes_text(one)}"}
        if objective.centre.copied:
            told = {"points are made": f"in the model itself, put back from a copy in memory, {bytes_text(one)}"}
        elif objective.centre.in_place:
            told = {"points are made": "in the model itself, which is put back from its checkpoint; no copy of it"}
        if self._plane.streamed:
            scratch = self._plane.scratch
            told["directions are"] = (
                "drawn anew for every point, which is slow: TMPDIR and /var/tmp have no room for twice their size"
                if scratch is None
                else f"read from a file without a name of {bytes_text(scratch.size)} in {scratch.folder} (TMPDIR)"
            )
        return told

    @contextmanager
    def at(self, index: int) -> Iterator[tuple[Tensor | None, Mapping[str, Tensor] | None, bool]]:
        """(theta, buffers, whether autocast is left off) of an item; None is what the model holds meanwhile."""
        coordinates, point, full = self._item(index)
        buffers: Mapping[str, Tensor] | None = None
        points, plane = self._plane.points, self._plane
        made: AbstractContextManager[Tensor | None]
        if point is not None:  # a model as it is, with its own statistics where it brought them
            assert points is not None
            made = nullcontext(points.vectors[point])
            buffers = points.buffers[point] if points.buffers else None
        elif self._theta is None:

            def write(chosen: Sequence[Piece], parts: Mapping[str, Tensor]) -> None:
                plane.write(coordinates, chosen, parts)

            made = self._objective.centre.written(write)
        else:
            made = nullcontext(plane.point(coordinates, self._theta))
        with made as theta:
            if point is None and self.statistics.mode == "interpolated":
                buffers = plane.buffers_at(coordinates)
            if self.statistics.data is not None:
                buffers = self.statistics.at(self._objective, theta)
            yield theta, buffers, full

    def extend(self, rows: Rows) -> int:
        """See `Task`: one round."""
        return self.count


def anchor_points(size: int) -> list[int]:
    """Which of so many points are computed in half precision and float32: spread evenly, both ends among them."""
    return sorted({int(i) for i in np.linspace(0, size - 1, min(_ANCHORS, size)).round()})


def precision_error(description: Description, rows: Rows, size: int) -> dict[str, float]:
    """Largest relative error of losses in half precision at the anchor points, against the same points in float32."""
    anchors = np.array(description.about["anchors"], dtype=int)
    if not len(anchors):
        return {}
    loss, low = rows.columns["loss"], rows.columns["loss"][anchors]
    full = loss[len(loss) - len(anchors) :]
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.abs(low - full) / np.abs(full)
    known = np.isfinite(error)
    return {
        "precision_error_relative": float(error[known].max()) if known.any() else float("nan"),
        "precision_error_points": int(known.sum()),
    }
