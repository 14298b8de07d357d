"""What the structure of layers would take."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from landscape.objective.objective import Objective
from landscape.results.trial import Trial, slowest
from landscape.run.comm import SERIAL, world
from landscape.run.task import Task
from landscape.run.together import agree
from landscape.studies.layer_structure.measure import STAGES, StructurePlan
from landscape.studies.layer_structure.settings import LayerStructureSettings
from landscape.studies.spectrum.precise import PRODUCTS_PER_PAIR
from landscape.studies.spectrum.trial import curvature_trial


def structure_trial(objective: Objective, arguments: Mapping[str, Any], out: Path, ranks_per_item: int) -> Trial:
    """Two products and the factors of one block of data."""
    other = arguments.get("other")
    settings = LayerStructureSettings(**{name: value for name, value in arguments.items() if name != "other"})
    plan = agree(world(), lambda: StructurePlan(objective, settings, other=other))
    tasks: dict[str, Task] = {"factors": plan.factors, "structure": plan.structure(None)}
    models = 1 if other is None else 2
    products = {"structure": PRODUCTS_PER_PAIR * settings.k * len(plan.layers) * models}
    trial = curvature_trial(objective, plan.matrix, "", tasks, products, settings.k, STAGES, out)
    started = time.perf_counter()
    agree(world(), lambda: plan.factors.evaluate(0, SERIAL))
    seconds = slowest(time.perf_counter() - started) * plan.factors.count
    said = {name: value for name, value in trial.said.items() if name != "trace"}
    left_out = dict(list(plan.left_out.items())[:5])
    return replace(
        trial,
        said={
            **said,
            "layers": f"{len(plan.layers)}, of which the factors are formed and the blocks compared",
            **({"left out": left_out} if left_out else {}),
            "factors": plan.factors.memory_words,
            "time for the factors": f"{seconds:.3g} s on one rank",
        },
        duration=lambda ranks: trial.duration(ranks) + seconds / min(ranks, plan.factors.count),
        vectors=trial.vectors + plan.factors.memory,
    )
