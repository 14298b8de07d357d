"""What a run would take, from a small part of it; nothing is written."""

from __future__ import annotations

import math
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from landscape.errors import InputError
from landscape.results.tables import Table, pairs_table
from landscape.run.comm import SERIAL, world
from landscape.run.store import Store
from landscape.run.task import Row, Rows, Task
from landscape.run.together import agree, on_rank_0

_FILE = 40 << 10  # bytes of a file besides its arrays: attributes and scales; 38 to 51 kB seen with small arrays
_RANKS = (8, 64)  # numbers of ranks that the time is told for, beside one


@dataclass(frozen=True)
class Trial:
    """What a small part tells of a run."""

    said: Mapping[str, Any]  # what there is to do, and what the trial saw: name -> text or value
    duration: Callable[[int], float]  # number of ranks, each with its own threads or GPU -> estimated seconds
    vectors: int = 0  # bytes of memory that come on top of what the trial took
    result: int = 0  # bytes of the result's arrays
    done: Mapping[str, str] = field(default_factory=dict)  # task -> what the run folder holds, where it is told last


def trial_table(trial: Trial) -> Table:
    """The estimate of a trial; called on all ranks, as memory is that of the rank that took most."""
    found = world().gather_all(peak_memory())
    memory, device = (max(column) for column in zip(*found, strict=True))
    vectors = f", and {bytes_text(trial.vectors)} for vectors" if trial.vectors else ""
    return pairs_table(
        "estimate",
        {
            **trial.said,
            **_times(trial),
            "memory per rank": bytes_text(memory) + vectors,
            **({"GPU memory per rank": bytes_text(device)} if device else {}),
            **({"size of the result": f"about {bytes_text(trial.result + _FILE)}"} if trial.result else {}),
            **({"there already": trial.done} if trial.done else {}),
        },
    )


def timed(
    task: Task,
    out: Path,
    ranks_per_item: int,
    unit: str,
    items: Sequence[int] = (0, 1),
    *,
    rows: list[Row] | None = None,
) -> Trial:
    """The trial of a task from two of its items, of which the first warms up and the second is timed.

    Called on all ranks. The rows of the items are added to `rows`. Raises InputError where the run folder `out` belongs
    to another run or cannot be written to.
    """
    left = task.count - on_rank_0(lambda: rows_done(out, task))
    headlines, seconds = [], 0.0
    for item in (min(i, task.count - 1) for i in items):
        started = time.perf_counter()
        row = agree(world(), partial(task.evaluate, item, SERIAL))
        seconds = time.perf_counter() - started
        if rows is not None:
            rows.append(row)
        headlines.append(float(np.asarray(row[task.headline]).ravel()[0]))
    columns = task.describe().columns.values()
    each = slowest(seconds)
    size = sum(int(np.prod(shape)) for shape in columns)
    said = {
        unit: f"{task.count}, of which {task.count - left} are there already",
        **({"loss at two trial items": ", ".join(f"{v:.6g}" for v in headlines)} if task.headline == "loss" else {}),
        f"time per {one_of(unit)}": f"{each:.3g} s",
    }
    return Trial(said, lambda ranks: shared(left, each, ranks, ranks_per_item), result=8 * size * task.count)


def one_of(unit: str) -> str:
    """The singular of a unit."""
    head = unit.partition(" of ")[0]
    for many, one in (("matrices", "matrix"), ("classes", "class"), ("passes", "pass"), ("families", "family")):
        if head.endswith(many):
            return head.removesuffix(many) + one
    return head.removesuffix("s")


def shared(items: int, seconds: float, ranks: int, ranks_per_item: int) -> float:
    """Seconds for items of so many seconds each on groups of ranks, each group sharing the work of an item."""
    groups = max(1, ranks // ranks_per_item)
    return -(-items // groups) * seconds / min(ranks, ranks_per_item)


def slowest(seconds: float) -> float:
    """The longest of the ranks' times."""
    times: list[float] = world().gather_all(seconds)
    return max(times)


def peak_memory() -> tuple[int, int]:
    """Bytes that this process has taken at most so far, and on its GPU."""
    scale = 1 if sys.platform == "darwin" else 1024  # the unit of ru_maxrss
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
    return memory, torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0


def rows_done(out: Path, task: Task) -> int:
    """Rows of the task's items that the run folder holds. Raises InputError where it belongs to another run."""
    return int(rows_there(out, task).done[: task.count].sum())


def rows_there(out: Path, task: Task) -> Rows:
    """The rows the run folder holds, those of later rounds too. Raises InputError where it belongs to another run."""
    require_writable(out)
    description = task.describe()
    if not (out / "run.json").exists():
        Store(out).require_free()
        return Rows.empty(description.columns, task.count)
    # A folder that has its run.json is only compared with the task, not written to.
    return Store.create(out, description, task.count, "").rows()


def require_writable(out: Path) -> None:
    """Raise InputError where a run folder could not be made or written to."""
    there = require_folder(out)
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"run.out = {str(out)!r}: {there} may not be written to; name a folder that may")


def require_folder(out: Path) -> Path:
    """The folder that a run folder is, or would be made in. Raises InputError where that is a file."""
    there = next(folder for folder in (out, *out.parents) if folder.exists())
    if not there.is_dir():
        raise InputError(f"run.out = {str(out)!r}: {there} is not a folder; name a folder that can be made")
    return there


def bytes_text(count: int) -> str:
    """A size in KiB, MiB or GiB."""
    for power, unit in ((30, "GiB"), (20, "MiB")):
        if count >= 2**power:
            return f"{count / 2**power:.3g} {unit}"
    return f"{count / 2**10:.3g} KiB"


def _times(trial: Trial) -> dict[str, str]:
    """{on so many ranks: estimated time}."""
    threads = torch.get_num_threads()
    many = (world().size,) if world().size > 1 else _RANKS
    per_rank = f"{threads} thread{'s' if threads > 1 else ''} each"
    return {
        f"time on {ranks} rank{'s' if ranks > 1 else ''}, {per_rank}": str(
            timedelta(seconds=math.ceil(trial.duration(ranks)))
        )
        for ranks in (1, *many)
    }
