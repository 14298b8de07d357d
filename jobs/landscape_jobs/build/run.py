"""From a job to the objects it names, and to its result."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path

import landscape as ls
from landscape.arguments import checked
from landscape.errors import InputError
from landscape.opening.runs import run_stages, run_stores
from landscape.results.base import Result
from landscape.results.study import study_of
from landscape.results.trial import require_folder
from landscape.run.comm import RanksLostError, world
from landscape_jobs.build.objects import build
from landscape_jobs.spec.job import Job, parse_job

logger = logging.getLogger(__name__)


@checked()
def run_job(
    job: Job, *, limit_items: int | None = None, progress: Callable[[ls.Progress], None] | None = None
) -> Result:
    """Run a job on all ranks and return what it measured.

    Where ranks die and the MPI library lets the others live, these begin again without them, and go on from the rows
    that are there. Raises what the function of the library raises that measures it.
    """
    require_folder(job.out)
    while True:
        try:
            return _measured(job, limit_items, progress)
        except RanksLostError:
            before = world().size
            world().recover()
            left = world().size
            if world().rank == 0:
                others = f"other {left} go" if left > 1 else "last one goes"
                logger.warning("%d of %d ranks died; the %s on", before - left, before, others)
            shared = math.gcd(job.run.ranks_per_item, left)  # which has to divide the ranks; the values are the same
            job = job.model_copy(update={"run": job.run.model_copy(update={"ranks_per_item": shared})})


def _measured(job: Job, limit_items: int | None, progress: Callable[[ls.Progress], None] | None) -> Result:
    built, study = build(job), job.study
    assert study.measure is not None
    result: Result = study.measure(
        built.subject,
        **built.arguments,
        out=job.out,
        **({"ranks_per_item": job.run.ranks_per_item} if "ranks_per_item" in job.run.model_fields_set else {}),
        limit_items=limit_items,
        tolerance=ls.Tolerance(job.run.retries, job.run.item_seconds) if study.leaves_out else None,
        progress=progress,
        job=job.text(),
    )
    return result


def stored_job(folder: str | Path) -> Job:
    """The job a run folder was made from, with that folder as its `out` even where it was moved.

    Of several tasks in it, each with the job that began it, the first that is not finished says what is to be done.
    Raises StoreError for what is no run folder, InputError for a run made from Python.
    """
    stores = run_stores(folder)
    store = next((store for store in stores if not store.complete), stores[-1])
    text = store.manifest()["job"]
    if not text:
        measure = study_of(stores[0].description().name, run_stages(Path(folder))).measure
        name = getattr(measure, "__name__", "")
        raise InputError(
            f"{folder} was made from Python, not from a job file, so it does not tell how to build its model. Call the "
            f"same landscape.{name}(..., out={str(folder)!r}) again: it goes on from the rows that are there."
        )
    job = parse_job(text, Path(folder) / "run.json")
    return job.model_copy(update={"run": job.run.model_copy(update={"out": Path(folder).resolve()})})
