"""What a local learning coefficient would take, from a few steps of its first chains."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from landscape.objective.objective import Objective
from landscape.results.trial import Trial, rows_done, slowest
from landscape.run.comm import world
from landscape.run.together import agree, on_rank_0
from landscape.studies.llc.measure import llc_task, require_one_rank

_STEPS = 10  # of which the first warms up


def llc_trial(objective: Objective, arguments: Mapping[str, Any], out: Path, ranks_per_item: int) -> Trial:
    """Some steps on one rank; nothing is written."""
    require_one_rank(ranks_per_item)
    task = llc_task(objective, **arguments)
    left = task.count - on_rank_0(lambda: rows_done(out, task))
    agree(world(), lambda: task.walk(1))
    began = time.perf_counter()
    agree(world(), lambda: task.walk(_STEPS))
    each = slowest(time.perf_counter() - began) / _STEPS
    said = {
        "chains": f"{sum(map(len, task.chains))} in {len(task.chains)} items",
        "steps": f"{task.steps:,} of each chain, {each:.3g} s for {_chains(len(task.chains[0]))}",
    }
    return Trial(said, lambda ranks: -(-left // ranks) * each * task.steps)


def _chains(count: int) -> str:
    return "one chain" if count == 1 else f"{count} chains side by side"
