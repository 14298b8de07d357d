"""From a job to the objects it names, and to its result."""

from __future__ import annotations

import logging
import landscape as ls
from collections.abc import Callable
from landscape.run.comm import RanksLostError
from landscape_jobs.spec.job import Job
from landscape.run.comm import world
import math
from landscape.opening.opening import Result
from landscape_jobs.build.objects import build
from landscape_jobs.build.objects import build_pairs
from landscape.errors import InputError
from functools import partial
from landscape_jobs.build.objects import build_objective
from pathlib import Path
from landscape.opening.runs import run_stores
from landscape_jobs.spec.job import parse_job


logger = logging.getLogger(__name__)

# First task of a run -> the function of the library that runs it
_MEASURE = {
    "surface": "measure_surface",
    "layers": "measure_layer_spectra",
    "connectivity": "measure_connectivity",
    "path": "measure_path",
    "curve": "fit_curve",
    "agreement": "measure_agreement",
}



def run_job(
    job: Job, *, limit_items: int | None = None, progress: Callable[[ls.Progress], None] | None = None
) -> Result:
    """Run a job on all ranks and return what it measured.

    Where ranks die and the MPI library lets the others live, these begin again without them, and go on from the rows
    that are there. Raises what the function of the library raises that measures it.
    """
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
    tolerance = ls.Tolerance(job.run.retries, job.run.item_seconds)
    if job.connectivity is not None:
        pairs = build_pairs(job)
        return ls.measure_connectivity(
            pairs.objective,
            pairs.models,
            **job.connectivity.arguments(),
            **pairs.data,
            out=job.out,
            ranks_per_item=job.run.ranks_per_item,
            limit_items=limit_items,
            tolerance=tolerance,
            progress=progress,
            job=job.text(),
        )
    table = job.spectrum or job.layers
    if table is not None:
        if limit_items is not None:
            raise InputError(
                f"--limit-items={limit_items} counts points of a surface or pairs of models, and this job measures "
                "curvature. Leave it out; Ctrl-C stops a run, and landscape resume goes on with it."
            )
        measure = (
            ls.measure_spectrum if job.spectrum is not None else partial(ls.measure_layer_spectra, tolerance=tolerance)
        )
        return measure(
            build_objective(job),
            **table.arguments(),
            out=job.out,
            ranks_per_item=job.run.ranks_per_item,
            progress=progress,
            job=job.text(),
        )
    built = build(job)
    return ls.measure_surface(
        built.objective,
        built.plane,
        axes=built.axes,
        out=job.out,
        batchnorm=built.batchnorm,
        statistics=built.statistics,
        known=built.known,
        ranks_per_item=job.run.ranks_per_item,
        limit_items=limit_items,
        tolerance=tolerance,
        progress=progress,
        job=job.text(),
    )



def stored_job(folder: str | Path) -> Job:
    """The job a run folder was made from, with that folder as its `out` even where it was moved.

    Of several tasks in it, each with the job that began it, the first that is not finished says what is to be done.
    Raises StoreError for what is no run folder, InputError for a run made from Python.
    """
    stores = run_stores(folder)
    store = next((store for store in stores if not store.complete), stores[-1])
    text = store.manifest()["job"]
    if not text:
        measure = _MEASURE.get(stores[0].description().name, "measure_spectrum")
        raise InputError(
            f"{folder} was made from Python, not from a job file, so it does not tell how to build its model. Call the "
            f"same landscape.{measure}(..., out={str(folder)!r}) again: it goes on from the rows that are there."
        )
    job = parse_job(text, Path(folder) / "run.json")
    return job.model_copy(update={"run": job.run.model_copy(update={"out": Path(folder).resolve()})})
