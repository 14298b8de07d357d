"""What a job of pairs of models would take, from two places and two training steps; nothing is written."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

import torch

from landscape.run.comm import world
from landscape.run.together import agree
from landscape.studies.connectivity.measure import ConnectivityTask
from landscape_jobs.build.objects import build_pairs
from landscape_jobs.check import peak_memory, rows_done
from landscape_jobs.spec.job import Job


@dataclass(frozen=True)
class PairsTrial:
    """What a trial tells about a sweep over pairs of models."""

    pairs: int
    done: int  # of them, how many the run folder holds already
    places: int  # of each line or curve
    losses: tuple[float, ...]  # at the ends of the first pair
    place_seconds: float  # for one place of a line or curve on one rank
    step_seconds: float  # for one training step; 0 where no curve is fitted
    steps: int  # of training, for each pair
    threads: int  # of each rank
    ranks: int  # of this run
    memory: int  # bytes, largest so far of any rank's process
    device_memory: int  # bytes, likewise on its GPU; 0 on the CPU
    ranks_per_item: int

    @property
    def pair_seconds(self) -> float:
        """Estimated seconds for one pair on one rank, alignment left out."""
        sides = 2 if self.steps else 1
        return sides * self.places * self.place_seconds + self.steps * self.step_seconds

    def duration(self, ranks: int) -> float:
        """Estimated seconds for the missing pairs on so many ranks, each with its own threads or GPU."""
        return -(-(self.pairs - self.done) // max(1, ranks // self.ranks_per_item)) * self.pair_seconds


def check_pairs(job: Job) -> PairsTrial:
    """Build the job on all ranks, compare it with what its run folder holds, and time places and training steps.

    Raises what a run would raise for anything that cannot be measured as asked.
    """
    table = job.connectivity
    assert table is not None
    built = build_pairs(job)
    task = agree(world(), lambda: ConnectivityTask(built.objective, built.models, **table.arguments(), **built.data))
    done = agree(world(), lambda: rows_done(job, task) if world().rank == 0 else 0)
    losses, seconds = [], 0.0
    for t in (0.0, 1.0):  # the first also warms up; the second is timed
        started = time.perf_counter()
        losses.append(agree(world(), partial(task.loss_at, t)))
        seconds = time.perf_counter() - started
    steps, step_seconds = agree(world(), task.trial_steps)
    found = world().gather_all((seconds, step_seconds, *peak_memory()))
    return PairsTrial(
        pairs=task.count,
        done=max(world().gather_all(done)),
        places=task.places,
        losses=tuple(losses),
        place_seconds=max(f[0] for f in found),
        step_seconds=max(f[1] for f in found),
        steps=steps,
        threads=torch.get_num_threads(),
        ranks=world().size,
        memory=max(f[2] for f in found),
        device_memory=max(f[3] for f in found),
        ranks_per_item=job.run.ranks_per_item,
    )
