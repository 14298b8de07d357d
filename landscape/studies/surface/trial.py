"""What a surface would take, from two trial points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from landscape.objective.objective import Objective
from landscape.planes.grid import Grid
from landscape.planes.plane import Plane
from landscape.precise.task import PreciseTask
from landscape.precise.trial import precise_trial
from landscape.results.trial import Trial, timed
from landscape.run.comm import world
from landscape.run.together import agree
from landscape.studies.surface.measure import surface_task


def surface_trial(objective: Objective, arguments: Mapping[str, Any], out: Path, ranks_per_item: int) -> Trial:
    """Two grid points, the second that nearest the centre, and where the models on the plane are.

    To a stated error, the first block of samples at some points tells what it will take.
    """
    given = {name: value for name, value in arguments.items() if name != "known"}
    task = agree(world(), lambda: surface_task(objective, **given))
    if isinstance(task, PreciseTask):
        trial = precise_trial(task, out, ranks_per_item)
        return replace(trial, said={**trial.said, **_models_on(arguments["plane"], task.grid)})
    nearest = task.grid.nearest([0.0] * len(task.grid.axes))
    trial = timed(task, out, ranks_per_item, "points", (0, nearest))
    said = dict(trial.said)
    rate = said.popitem()
    said |= {**task.memory, **_models_on(arguments["plane"], task.grid)}
    return replace(trial, said={**said, rate[0]: rate[1]})


def _models_on(plane: Plane, grid: Grid) -> dict[str, str]:
    """Where the models of a plane are, and how many lie off the grid."""
    if plane.points is None:
        return {}
    places = plane.points.coordinates
    ends = np.array([[axis.min(), axis.max()] for axis in grid.axes.values()])
    room = 1e-9 * (ends[:, 1] - ends[:, 0])
    outside = int(((places < ends[:, 0] - room) | (places > ends[:, 1] + room)).any(axis=1).sum())
    low, high = places.min(axis=0), places.max(axis=0)
    rounding = 1e-6 * (high - low)
    low, high = (np.where(np.abs(end) > rounding, end, 0.0) for end in (low, high))
    texts = ", ".join(f"{name} from {a:.4g} to {b:.4g}" for name, a, b in zip(grid.axes, low, high, strict=True))
    return {"models on the plane": texts + (f"; {outside} lie OFF THE GRID: widen its ranges" if outside else "")}
