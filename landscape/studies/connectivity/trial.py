"""What measuring pairs of models would take, from two places and an epoch of training."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from landscape.objective.objective import Objective
from landscape.results.trial import Trial, rows_done, slowest
from landscape.run.comm import world
from landscape.run.together import agree, on_rank_0
from landscape.studies.connectivity.measure import connectivity_task


def connectivity_trial(objective: Objective, arguments: Mapping[str, Any], out: Path, ranks_per_item: int) -> Trial:
    """Both ends of the first pair and one epoch of its training; alignment is left out."""
    task = agree(world(), lambda: connectivity_task(objective, **arguments))
    left = task.count - on_rank_0(lambda: rows_done(out, task))
    losses, seconds = [], 0.0
    for t in (0.0, 1.0):  # the first also warms up; the second is timed
        started = time.perf_counter()
        losses.append(agree(world(), partial(task.loss_at, t)))
        seconds = time.perf_counter() - started
    steps, step_seconds = agree(world(), task.trial_steps)
    place, step = slowest(seconds), slowest(step_seconds)
    pair = (2 if steps else 1) * task.places * place + steps * step
    said = {
        "pairs": f"{task.count}, of which {task.count - left} are there already",
        "loss at the ends of the first": ", ".join(f"{loss:.6g}" for loss in losses),
        "places": f"{task.places} on each line and curve, {place:.3g} s each",
        **({"training": f"{steps:,} steps of {step:.3g} s for each pair"} if steps else {}),
        "time per pair": f"{pair:.3g} s",
    }
    return Trial(said, lambda ranks: -(-left // max(1, ranks // ranks_per_item)) * pair)
