"""The task of a surface: every grid point on all data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape.errors import InputError
from landscape.objective.batchnorm import chosen_statistics
from landscape.objective.objective import Objective
from landscape.objective.rows import evaluated
from landscape.planes.directions import Plane
from landscape.planes.grid import Grid
from landscape.run.comm import Communicator
from landscape.run.task import Description, Row, Rows

_BETWEEN = ("through", "curve")  # kinds of planes that lie between models
_ANCHORS = 9  # grid points also evaluated without autocast, to measure the error of precision="bf16"


class SurfaceTask:
    """The grid points of a surface, then the plane's points (true and projected), then bf16's anchor points."""

    headline = "loss"

    def __init__(
        self,
        objective: Objective,
        plane: Plane,
        grid: Grid,
        *,
        batchnorm: str | None = None,
        statistics: Any = None,
    ) -> None:
        if len(grid.axes) != plane.axes:
            raise InputError(
                f"the plane has {plane.axes} axes and the grid {len(grid.axes)} ({', '.join(grid.axes)}); "
                "give a range for each"
            )
        self._objective, self._plane, self.grid = objective, plane, grid
        between = plane.about.get("kind") in _BETWEEN
        self.statistics = chosen_statistics(objective, batchnorm, statistics, between=between)
        if self.statistics.mode == "interpolated" and not plane.buffers:
            raise InputError(
                "batchnorm='interpolated' needs a plane through models given with their buffers (state dicts, modules "
                "or checkpoints, not flat vectors); use plane_through, or batchnorm='reestimated'"
            )
        self._theta = torch.empty_like(plane.centre)
        points = plane.points.coordinates if plane.points is not None else np.empty((0, plane.axes))
        anchors = anchor_points(grid) if objective.precision == "bf16" else []
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
        objective, plane = self._objective, self._plane
        names = [name for quantity in objective.quantities for name in (quantity, f"{quantity}_stderr")]
        axes = {name: values.tolist() for name, values in self.grid.axes.items()}
        identity = {
            "objective": objective.identity(),
            "plane": {**plane.identity(), "made": plane.made},
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
        theta, buffers, full = self.at(index)
        return evaluated(self._objective, theta, buffers, group, full_precision=full)

    def at(self, index: int) -> tuple[Tensor, Mapping[str, Tensor] | None, bool]:
        """(theta, buffers, whether autocast is left off) of an item."""
        coordinates, point, full = (
            (self.grid.coordinates(index), None, False)
            if index < self.grid.size
            else self._extra[index - self.grid.size]
        )
        buffers: Mapping[str, Tensor] | None = None
        if point is None:
            theta = self._plane.point(coordinates, self._theta)
            if self.statistics.mode == "interpolated":
                buffers = self._plane.buffers_at(coordinates)
        else:  # a model as it is, with its own statistics where it brought them
            points = self._plane.points
            assert points is not None
            theta = points.vectors[point]
            buffers = points.buffers[point] if points.buffers else None
        if self.statistics.data is not None:
            buffers = self.statistics.at(self._objective, theta)
        return theta, buffers, full

    def extend(self, rows: Rows) -> int:
        """See `Task`: one round."""
        return self.count


def anchor_points(grid: Grid) -> list[int]:
    """Grid points at which bf16 is compared with float32: spread evenly over the grid, its ends among them."""
    return sorted({int(i) for i in np.linspace(0, grid.size - 1, min(_ANCHORS, grid.size)).round()})


def precision_error(description: Description, rows: Rows, size: int) -> dict[str, float]:
    """Largest relative error of bf16 losses at the anchor points, against the same points in float32."""
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
