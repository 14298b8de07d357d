"""What spectra of layers would take."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from landscape.objective.objective import Objective
from landscape.results.trial import Trial
from landscape.run.comm import world
from landscape.run.task import Task
from landscape.run.together import agree
from landscape.studies.layer_spectra.measure import STAGES, LayerPlan
from landscape.studies.layer_spectra.settings import LayerSpectraSettings
from landscape.studies.spectrum.measure import trace_task
from landscape.studies.spectrum.precise import PRODUCTS_PER_PAIR
from landscape.studies.spectrum.trial import curvature_trial


def layers_trial(objective: Objective, arguments: Mapping[str, Any], out: Path, ranks_per_item: int) -> Trial:
    """As for a spectrum."""
    settings = LayerSpectraSettings(**arguments)
    plan = agree(world(), lambda: LayerPlan.of(objective, settings))
    tasks: dict[str, Task] = {"layers": plan.task}
    if plan.method:
        tasks["trace"] = agree(
            world(),
            lambda: trace_task(
                plan.matrix, plan.method, settings.trace_tol, settings.seed, {}, probes=settings.trace_probes
            ),
        )
    products = {"layers": PRODUCTS_PER_PAIR * settings.k * plan.task.count}
    return curvature_trial(objective, plan.matrix, plan.method, tasks, products, settings.k, STAGES, out)
