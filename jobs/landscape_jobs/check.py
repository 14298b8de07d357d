"""What a job of a surface would take, from two trial points; nothing is written."""

from __future__ import annotations

import os
import resource
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from landscape.errors import InputError
from landscape.planes.directions import Plane
from landscape.planes.grid import AXIS_NAMES, Grid
from landscape.run.comm import SERIAL, world
from landscape.run.store import Store
from landscape.run.task import Task
from landscape.run.together import agree
from landscape.studies.surface.measure import SurfaceTask
from landscape_jobs.build.objects import build
from landscape_jobs.spec.job import Job


@dataclass(frozen=True)
class Trial:
    """What two trial points tell about a run."""

    rows: int  # points to compute, those on the plane included
    done: int  # of them, how many the run folder holds already
    losses: tuple[float, ...]  # at the first grid point and at the one nearest 0
    seconds: float  # for one row on one rank, the slowest of this run's ranks
    threads: int  # of each rank
    ranks: int  # of this run
    memory: int  # bytes, largest so far of any rank's process
    device_memory: int  # bytes, likewise on its GPU; 0 on the CPU
    result: int  # bytes of the result's arrays
    ranks_per_item: int
    extent: tuple[tuple[float, float], ...] = ()  # of the models on the plane, along each axis
    outside: int = 0  # of them, how many lie off the grid

    def duration(self, ranks: int) -> float:
        """Estimated seconds for the missing rows on so many ranks, each with its own threads or GPU."""
        groups = max(1, ranks // self.ranks_per_item)
        return -(-(self.rows - self.done) // groups) * self.seconds / min(ranks, self.ranks_per_item)


def check_job(job: Job) -> Trial:
    """Build the job on all ranks, compare it with what its run folder holds, and time two points.

    Raises what a run would raise for anything that cannot be measured as asked.
    """
    built = build(job)
    grid = Grid.of(dict(zip(AXIS_NAMES, built.axes, strict=False)))
    task = agree(
        world(),
        lambda: SurfaceTask(built.objective, built.plane, grid, batchnorm=built.batchnorm, statistics=built.statistics),
    )
    description = task.describe()
    done = agree(world(), lambda: rows_done(job, task) if world().rank == 0 else 0)
    losses, seconds = [], 0.0
    for item in (0, grid.nearest([0.0] * len(grid.axes))):  # the first also warms up; the second is timed
        started = time.perf_counter()
        losses.append(agree(world(), partial(_loss_at, task, item)))
        seconds = time.perf_counter() - started
    found = world().gather_all((seconds, *peak_memory()))
    return Trial(
        rows=task.count,
        done=max(world().gather_all(done)),
        losses=tuple(losses),
        seconds=max(f[0] for f in found),
        threads=torch.get_num_threads(),
        ranks=world().size,
        memory=max(f[1] for f in found),
        device_memory=max(f[2] for f in found),
        result=8 * len(description.columns) * task.count,
        ranks_per_item=job.run.ranks_per_item,
        **_models_on(built.plane, grid),
    )


def _models_on(plane: Plane, grid: Grid) -> dict[str, Any]:
    """Where the models of a plane are, and how many lie off the grid."""
    if plane.points is None:
        return {}
    places = plane.points.coordinates
    ends = np.array([[axis.min(), axis.max()] for axis in grid.axes.values()])
    room = 1e-9 * (ends[:, 1] - ends[:, 0])
    outside = ((places < ends[:, 0] - room) | (places > ends[:, 1] + room)).any(axis=1)
    low, high = places.min(axis=0), places.max(axis=0)
    rounding = 1e-6 * (high - low)
    extent = tuple(
        (float(a) if abs(a) > r else 0.0, float(b) if abs(b) > r else 0.0)
        for a, b, r in zip(low, high, rounding, strict=True)
    )
    return {"extent": extent, "outside": int(outside.sum())}


def peak_memory() -> tuple[int, int]:
    """Bytes that this process has taken at most so far, and on its GPU."""
    scale = 1 if sys.platform == "darwin" else 1024  # the unit of ru_maxrss
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
    return memory, torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0


def require_writable(out: Path) -> None:
    """Raise InputError where a run folder could not be made or written to."""
    there = next(folder for folder in (out, *out.parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        reason = "may not be written to" if there.is_dir() else "is not a folder"
        raise InputError(f"run.out = {str(out)!r}: {there} {reason}; name a folder that can be made or written to")


def _loss_at(task: SurfaceTask, item: int) -> float:
    return float(np.asarray(task.evaluate(item, SERIAL)["loss"]))


def rows_done(job: Job, task: Task) -> int:
    """Rows the run folder holds. Raises InputError where it belongs to another run."""
    require_writable(job.out)
    if not (job.out / "run.json").exists():
        return 0
    # A folder that has its run.json is only compared with the task, not written to.
    store = Store.create(job.out, task.describe(), task.count, "")
    return int(store.rows().done.sum())
