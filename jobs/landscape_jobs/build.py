"""From a job to the objects it names, and to its result."""

from __future__ import annotations

import glob
import importlib
import inspect
import logging
import math
import os
import re
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

import landscape as ls
from landscape.checkpoints.reading import in_step_order, load_state, step_files
from landscape.errors import InputError, nearest
from landscape.opening.opening import Result
from landscape.opening.runs import run_stores
from landscape.run.comm import RanksLostError, processor_count, world
from landscape.run.together import agree
from landscape_jobs.reading import from_rank_0
from landscape_jobs.spec import (
    RETURNED,
    CurvePlane,
    DataTable,
    DirectionsPlane,
    Job,
    ModelTable,
    PcaPlane,
    RandomPlane,
    SurfaceTable,
    ThroughPlane,
    parse_job,
)

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


@dataclass(frozen=True)
class Built:
    """The objects that a job of a surface names."""

    objective: ls.Objective
    plane: ls.Plane
    axes: tuple[tuple[float, float, int], ...]
    batchnorm: str | None
    statistics: Any  # data to re-estimate BatchNorm on; None for the objective's own
    known: ls.Surface | None


@dataclass(frozen=True)
class BuiltPairs:
    """The objects that a job of pairs of models names."""

    objective: ls.Objective
    models: list[Path]
    data: dict[str, Any]  # train, statistics and test, those given


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


def build(job: Job) -> Built:
    """Import the factories of a surface's job and make what they name, on all ranks, with this rank's threads set.

    Raises InputError for a callable that cannot be imported or called with its arguments, a checkpoint that does not
    fit, and all that `landscape.Objective` and the planes refuse; what a factory raises comes through.
    """
    set_threads(job.run.threads)
    read = _read(job, _checkpoints)
    return agree(world(), lambda: _build(job, read))


def build_objective(job: Job) -> ls.Objective:
    """What a job measures, made like all that `build` makes."""
    set_threads(job.run.threads)
    read = _read(job, lambda job: [])
    return agree(world(), lambda: _objective(job, [], read))


def build_pairs(job: Job) -> BuiltPairs:
    """What a job of pairs of models names, made like all that `build` makes."""
    set_threads(job.run.threads)
    read = _read(job, _models)
    return agree(world(), lambda: _pairs(job, read))


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


def set_threads(threads: int | None) -> None:
    """Torch threads of this rank: as asked, else as OMP_NUM_THREADS says, else its share of the cores it may use."""
    if threads is None and "OMP_NUM_THREADS" in os.environ:
        return  # torch has read it
    if threads is None:
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        place = (socket.gethostname(), cores)
        sharing = world().gather_all(place).count(place)
        threads = max(1, processor_count() // sharing)
    torch.set_num_threads(threads)


@dataclass(frozen=True)
class _Read:
    """What rank 0 read for all."""

    data: Any
    state: dict[str, torch.Tensor] | None  # of the model's checkpoint


def _read(job: Job, checkpoints: Callable[[Job], list[Path]]) -> _Read | None:
    """The data and the model's checkpoint read on rank 0 alone, on all ranks; None where each reads for itself."""
    if job.run.read == "each":
        return None
    _find_modules(job)
    centre = agree(world(), lambda: _centre(job, checkpoints(job)))
    data = from_rank_0(lambda: _made("data", job.data))
    return _Read(data, None if centre is None else from_rank_0(lambda: ls.read_state(centre)))


def _checkpoints(job: Job) -> list[Path]:
    """The files of the models that a surface's plane goes through."""
    if not isinstance(job.plane, ThroughPlane | PcaPlane):
        return []
    files = _files(job, "plane.checkpoints", job.plane.checkpoints)
    if isinstance(job.plane, ThroughPlane):
        return files
    return step_files(files[0]) if len(files) == 1 and files[0].is_dir() else [files[i] for i in in_step_order(files)]


def _models(job: Job) -> list[Path]:
    """The files of the models of a sweep over pairs."""
    assert job.connectivity is not None
    return _files(job, "connectivity.models", job.connectivity.models)


def _build(job: Job, read: _Read | None) -> Built:
    surface = job.surface
    assert surface is not None, "a job that measures curvature has no plane; see build_objective"
    checkpoints = _checkpoints(job)
    objective = _objective(job, checkpoints, read)
    return Built(
        objective,
        _plane(job, surface, objective, checkpoints),
        surface.ranges,
        surface.batchnorm,
        _made("surface.statistics", surface.statistics) if surface.statistics is not None else None,
        _known(job.path(surface.known)) if surface.known is not None else None,
    )


def _pairs(job: Job, read: _Read | None) -> BuiltPairs:
    table = job.connectivity
    assert table is not None
    models = _models(job)
    given = {"train": table.train, "statistics": table.statistics, "test": table.test}
    objective = _objective(job, models, read)
    data = {name: _made(f"connectivity.{name}", source) for name, source in given.items() if source is not None}
    return BuiltPairs(objective, models, data)


def _known(path: Path) -> ls.Surface:
    found = ls.open(path, group="surface")
    assert isinstance(found, ls.Surface)
    return found


def _find_modules(job: Job) -> None:
    for folder in (Path.cwd(), job.folder):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))


def _objective(job: Job, checkpoints: list[Path], read: _Read | None) -> ls.Objective:
    _find_modules(job)
    model = _made("model", job.model)
    if not hasattr(model, "named_parameters"):
        raise InputError(f"model.factory = {job.model.factory!r} returned {type(model).__name__}; return an nn.Module")
    checkpoint = _centre(job, checkpoints)
    if checkpoint is not None:
        state = read.state if read is not None and read.state is not None else ls.read_state(checkpoint)
        load_state(model, state, checkpoint)
    asked = job.objective
    return ls.Objective(
        model,
        None if asked.loss == RETURNED else _named("objective.loss", asked.loss),
        read.data if read is not None else _made("data", job.data),
        metrics=[_named("objective.metrics", metric) for metric in asked.metrics],
        forward=_imported("objective.forward", asked.forward) if asked.forward is not None else None,
        precision=asked.precision,
        device=asked.device,
    )


def _centre(job: Job, checkpoints: list[Path]) -> Path | None:
    """The checkpoint the model gets; see `spec.ModelTable`."""
    if job.model.checkpoint is not None:
        return job.path(job.model.checkpoint)
    if checkpoints:
        return checkpoints[-1] if isinstance(job.plane, PcaPlane) else checkpoints[0]
    return None


def _plane(job: Job, surface: SurfaceTable, objective: ls.Objective, checkpoints: list[Path]) -> ls.Plane:
    plane, axes = job.plane, len(surface.ranges)
    if isinstance(plane, RandomPlane):
        return ls.random_plane(
            objective,
            normalize=plane.normalize,
            ignore=plane.ignore,
            seed=plane.seed,
            axes=axes,
            orthogonal=plane.orthogonal,
            params=plane.params,
        )
    if isinstance(plane, DirectionsPlane):
        directions = ls.read_loss_landscape_directions(job.path(plane.file), objective)
        if len(directions) != axes:
            raise InputError(
                f"plane.file = {str(plane.file)!r} holds {len(directions)} directions, and [surface] has {axes} ranges "
                f"({', '.join('xyz'[:axes])}); give one for each"
            )
        return ls.plane_from_directions(objective, directions)
    if isinstance(plane, CurvePlane):
        curve = ls.open(job.path(plane.curve), group="curve")
        assert isinstance(curve, ls.Curve)
        if axes != 2:
            raise InputError(f"plane.kind = 'curve' has 2 axes, and [surface] has {axes} ranges; give x and y")
        return ls.curve_plane(objective, curve)
    if isinstance(plane, PcaPlane):
        return ls.pca_plane(objective, checkpoints, axes=axes)
    if len(checkpoints) != axes + 1:
        raise InputError(
            f"plane.checkpoints = {list(plane.checkpoints)} are {len(checkpoints)} models, and [surface] has {axes} "
            f"ranges; n ranges go through n + 1 models"
        )
    return ls.plane_through(objective, checkpoints)


def _files(job: Job, key: str, patterns: tuple[str, ...]) -> list[Path]:
    """The files named, in order; those of a glob pattern in natural order, so that epoch10 follows epoch9."""
    files: list[Path] = []
    for pattern in patterns:
        path = job.path(pattern)
        if path.exists() or not glob.has_magic(pattern):
            files.append(path)
            continue
        # not Path.glob: the pattern may be absolute, and the folder's own name may hold a "["
        found = sorted((job.path(p) for p in glob.glob(pattern, root_dir=job.folder)), key=_natural)  # noqa: PTH207
        if not found:
            raise InputError(f"{key} = {pattern!r} matches no file; it starts from {job.folder}")
        files += found
    return files


def _natural(path: Path) -> list[tuple[bool, int, str]]:
    parts = re.split(r"(\d+)", str(path))
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def _named(key: str, name: str) -> Any:
    """A name the library knows as it is, the callable where it names one; a class (a criterion) is instantiated."""
    if ":" not in name:
        return name
    found = _imported(key, name)
    return found() if isinstance(found, type) else found


def _made(key: str, table: ModelTable | DataTable) -> Any:
    """What a factory returns. Raises InputError when its arguments do not fit its signature."""
    factory = _imported(f"{key}.factory", table.factory)
    try:
        signature = inspect.signature(factory)
    except ValueError:  # some callables written in C have none
        return factory(**table.args)
    try:
        signature.bind(**table.args)
    except TypeError as error:
        unknown = [name for name in table.args if name not in signature.parameters]
        advice = "; ".join(f"{name}: {nearest(name, signature.parameters)}" for name in unknown)
        raise InputError(
            f"{key}.args = {table.args} do not fit {table.factory}{signature}: {error}"
            + (f" ({advice})" if advice and signature.parameters else "")
        ) from error
    return factory(**table.args)


def _imported(key: str, name: str) -> Callable[..., Any]:
    """The callable "package.module:callable" (or ":class.method"). Raises InputError saying what failed."""
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a module can raise anything while it is executed
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        advice = (
            f"install it, or put {module_name.partition('.')[0]} beside the job file or into the current folder"
            if missing is not None and f"{module_name}.".startswith(f"{missing}.")
            else f"install {missing!r}"
            if missing is not None
            else f"'python -c \"import {module_name}\"' shows where"
        )
        raise InputError(
            f"{key} = {name!r}: module {module_name!r} cannot be imported, {type(error).__name__}: {error}. "
            f"{advice[0].upper()}{advice[1:]}."
        ) from error
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            known = dir(found) if isinstance(found, type) else list(vars(found))
            public = [n for n in known if not n.startswith("_") and callable(getattr(found, n, None))]
            raise InputError(f"{key} = {name!r}: {module_name} has no {attribute!r}; {nearest(part, public)}")
        found = getattr(found, part)
    if not callable(found):
        raise InputError(f"{key} = {name!r} is a {type(found).__name__}, not a callable")
    return found  # type: ignore[no-any-return]
