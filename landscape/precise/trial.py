"""What values to a stated error would take, from the first block of samples at some points."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from landscape.precise.foretell import foretold, probes
from landscape.precise.task import PreciseTask, work_there
from landscape.results.trial import Trial, rows_there, slowest, timed
from landscape.run.comm import SERIAL, world
from landscape.run.together import agree, on_rank_0


def precise_trial(task: PreciseTask, out: Path, ranks_per_item: int) -> Trial:
    """A full pass and the first block are timed; what a point takes beyond a block follows from its samples."""
    asked = task.asked
    trial = timed(task, out, ranks_per_item, "full passes of the first round", (0, task.count // 2))
    if asked.blocks == 0:
        return replace(trial, said={**trial.said, "work": "a full pass at every point: the data are small"})
    started = time.perf_counter()
    agree(world(), lambda: task.evaluate(0, SERIAL))
    full = slowest(time.perf_counter() - started)
    probed = sorted({point for points in probes(asked) for point in points})
    started = time.perf_counter()
    losses = {point: agree(world(), partial(task.first_losses, point, SERIAL)) for point in probed}
    block = slowest(time.perf_counter() - started) / len(probed)
    told = foretold(asked, losses)
    there = on_rank_0(lambda: work_there(task.describe(), rows_there(out, task)))
    seconds = max(0.0, told.full - there.full) * full + max(0.0, told.blocks - there.blocks) * block
    work = (
        f"about {told.passes:,.0f} full passes, {told.share:.1%} of brute force, for an error of {asked.error:g} "
        f"{asked.scale} at {asked.share:.0%} of the points; a guess from {asked.block} samples at {len(probed)} points"
    )
    return replace(
        trial,
        said={**trial.said, "work": work, f"time per {asked.block} samples": f"{block:.3g} s"},
        duration=lambda ranks: 0.0 if there.finished else seconds / ranks,
        done={"rounds": str(there)},
    )
