"""What measuring forgetting would take, from its first item."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from landscape.results.trial import Trial, rows_done, shared, slowest
from landscape.run.comm import SERIAL, world
from landscape.run.together import agree, on_rank_0
from landscape.studies.forgetting.measure import ForgettingTask, forgetting_task
from landscape.studies.training.sources import ModelsLike


def forgetting_trial(models: ModelsLike, arguments: Mapping[str, Any], out: Path, ranks_per_item: int) -> Trial:
    """The first task of the first run, which has most later ones, after one that warms up; nothing is written."""
    task = forgetting_task(models, **arguments)
    done = on_rank_0(lambda: rows_done(out, task))
    _, each = (slowest(agree(world(), lambda: _seconds(task))) for _ in range(2))
    left = task.count - done
    said = {
        "tasks of runs": f"{task.count}, of which {done} are there already",
        "time per task": f"{each:.3g} s, of the first, which has most later ones",
    }
    return Trial(said, lambda ranks: shared(left, each, ranks, ranks_per_item))


def _seconds(task: ForgettingTask) -> float:
    started = time.perf_counter()
    task.evaluate(0, SERIAL)
    return time.perf_counter() - started
