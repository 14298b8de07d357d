"""What a curvature map would take, from two of its lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from landscape.objective.objective import Objective
from landscape.results.trial import Trial, timed
from landscape.run.comm import world
from landscape.run.task import Row
from landscape.run.together import agree
from landscape.studies.curvature_map.measure import map_task
from landscape.studies.curvature_map.settings import CurvatureMapSettings


def map_trial(objective: Objective, arguments: Mapping[str, Any], out: Path, ranks_per_item: int) -> Trial:
    """Two lines; to a stated error, what they took of what all data take."""
    settings = CurvatureMapSettings(**{name: value for name, value in arguments.items() if name != "plane"})
    task = agree(world(), lambda: map_task(objective, arguments["plane"], settings))
    lines: list[Row] = []
    trial = timed(task, out, ranks_per_item, "lines", rows=lines)
    if settings.error is None:
        return trial
    work = "all data at every point: they are few, or cannot be taken apart"
    if "sample_products" in lines[0]:
        names = ("sample_products", "products_of_all")
        spent, full = (float(np.sum([line[name] for line in lines])) for name in names)
        spent *= task.count / len(lines) / objective.samples
        full *= task.count / len(lines)
        work = (
            f"about {spent:,.2g} products of all data, {spent / full:.1%} of what all data take, for an error of "
            f"{settings.error:g}; a guess from two lines"
        )
    return replace(trial, said={**trial.said, "work": work})
