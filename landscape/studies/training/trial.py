"""What a training would take, from one epoch of its first model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from landscape.results.trial import Trial, rows_done, slowest
from landscape.run.comm import world
from landscape.run.together import agree, on_rank_0
from landscape.studies.training.measure import training_task


def training_trial(factory: Callable[..., Any], arguments: Mapping[str, Any], out: Path, ranks_per_item: int) -> Trial:
    """One epoch on one rank; nothing is written."""
    task = training_task(factory, **arguments)
    done = on_rank_0(lambda: rows_done(out, task))
    epochs, seconds = agree(world(), task.trial)
    epoch, left = slowest(seconds), task.count - done
    each = epochs * epoch / task.count
    said = {
        "models": f"{task.models} in {task.count} items, of which {done} are there already",
        "training": f"{epochs:,} epochs in all, {epoch:.3g} s for one of the first model",
    }
    return Trial(said, lambda ranks: -(-left // ranks) * each)
