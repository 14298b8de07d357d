"""What fitting a curve would take, from one epoch of its training."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from landscape.objective.objective import Objective
from landscape.results.trial import Trial, rows_done, slowest
from landscape.run.comm import SERIAL, world
from landscape.run.together import agree, on_rank_0
from landscape.studies.curve.fit import CurveFit
from landscape.studies.curve.measure import FitTask, curve_task


def curve_trial(objective: Objective, arguments: Mapping[str, Any], out: Path, ranks_per_item: int) -> Trial:
    """One epoch on one rank."""
    task = agree(world(), lambda: curve_task(objective, **arguments))
    done = on_rank_0(lambda: rows_done(out, task))
    steps, seconds = agree(world(), lambda: _epoch(task))
    step, parts = slowest(seconds), task.settings.parts
    said = {
        "curve": "there already" if done else f"{task.settings.kind} of {len(task.points)} control points",
        "training": f"{steps:,} steps of {step:.3g} s",
    }
    return Trial(said, lambda ranks: 0.0 if done else steps * step / min(ranks, parts))


def _epoch(task: FitTask) -> tuple[int, float]:
    """(training steps in all, seconds for one of them)."""
    once = replace(task.settings, epochs=1)
    fit = CurveFit(task.objective, task.points, task.data, once, task.seed)
    started = time.perf_counter()
    fit.run(SERIAL)
    return fit.steps * task.settings.epochs, (time.perf_counter() - started) / fit.steps
