"""What a map of phases would take, from its first model and its first pair."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from landscape.results.stages import require_stages
from landscape.results.trial import Trial, require_writable, rows_done, slowest
from landscape.run.comm import SERIAL, world
from landscape.run.together import agree, on_rank_0
from landscape.studies.phases.measure import STAGES, phases_tasks
from landscape.studies.phases.settings import PhasesSettings
from landscape.studies.phases.tasks import MODELS, PAIRS, PairsTask
from landscape.studies.training.sources import ModelsLike


def phases_trial(models: ModelsLike, arguments: Mapping[str, Any], out: Path, ranks_per_item: int) -> Trial:
    """The first model, and the first pair with fits of one epoch and of two, after a first that warms up; nothing is
    written."""
    names = {field.name for field in fields(PhasesSettings)}
    settings = PhasesSettings(**{name: value for name, value in arguments.items() if name in names})
    given = {name: value for name, value in arguments.items() if name not in names}
    tasks = phases_tasks(models, settings, **given)

    def done() -> dict[str, int]:
        require_writable(out)
        require_stages(out, STAGES)
        return {name: rows_done(out / name, task) for name, task in tasks.items()}

    there = on_rank_0(done)
    pairs = tasks[PAIRS]
    assert isinstance(pairs, PairsTask)
    model = slowest(agree(world(), partial(_seconds, tasks[MODELS])))
    _, one, two = (slowest(agree(world(), partial(_seconds, pairs.with_epochs(epochs)))) for epochs in (1, 1, 2))
    epoch = max(two - one, 0.0)
    pair = one + (settings.curve_epochs - 1) * epoch
    left = {name: task.count - there[name] for name, task in tasks.items()}
    said = {
        **{name: f"{task.count}, of which {there[name]} are there already" for name, task in tasks.items()},
        "time per model": f"{model:.3g} s",
        "time per pair": f"{pair:.3g} s, of which {epoch:.3g} s for each epoch of its curve",
    }

    def duration(ranks: int) -> float:
        groups = max(1, ranks // ranks_per_item)
        return -(-left[MODELS] // groups) * model + -(-left[PAIRS] // groups) * pair

    return Trial(said, duration)


def _seconds(task: Any) -> float:
    """What the first item of a task takes."""
    started = time.perf_counter()
    task.evaluate(0, SERIAL)
    return time.perf_counter() - started
