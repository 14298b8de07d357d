"""What a marginal likelihood would take, from one network and one class."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from landscape.results.trial import Trial, rows_done, slowest
from landscape.run.comm import world
from landscape.run.task import Task
from landscape.run.together import agree, on_rank_0
from landscape.studies.marginal_likelihood.measure import (
    EVIDENCE,
    KERNEL,
    EvidenceTask,
    NetworksTask,
    marginal_likelihood_plan,
)


def marginal_likelihood_trial(inputs: Any, arguments: Mapping[str, Any], out: Path, ranks_per_item: int) -> Trial:
    """One network, and one class by the kernel of infinitely wide ones; nothing is written."""
    plan = marginal_likelihood_plan(inputs, **arguments)
    tasks: dict[str, Task] = {KERNEL: NetworksTask(plan)} if plan.groups else {}
    tasks[EVIDENCE] = EvidenceTask(plan)
    left = {name: task.count - on_rank_0(partial(rows_done, out / name, task)) for name, task in tasks.items()}
    started = time.perf_counter()
    if plan.groups:
        agree(world(), lambda: NetworksTask(plan).one(0))
    network = slowest(time.perf_counter() - started)
    group = network * plan.settings.nets / plan.groups if plan.groups else 0.0
    started = time.perf_counter()
    kernel = plan.closed_form()
    agree(world(), lambda: EvidenceTask(plan).evidence(kernel, 0))
    one = slowest(time.perf_counter() - started)
    said = {
        **({"networks": f"{plan.settings.nets} in {plan.groups} groups, {network:.3g} s each"} if plan.groups else {}),
        "evidences": f"{tasks[EVIDENCE].count}, {one:.3g} s each",
        **(
            {"there already": f"{sum(t.count for t in tasks.values()) - sum(left.values())} items"}
            if out.exists()
            else {}
        ),
    }
    return Trial(
        said,
        lambda ranks: -(-left.get(KERNEL, 0) // ranks) * group + -(-left[EVIDENCE] // ranks) * one,
        vectors=4 * plan.groups * plan.samples**2,
    )
