"""Objective, plane, models, data that a job names."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import landscape as ls
from landscape.checkpoints.reading import checkpoint_files, in_step_order, load_state, step_files
from landscape.errors import InputError, nearest, text_of, user_code
from landscape.files.slices import StoredTensors
from landscape.objective.batches import as_whole, inputs_and_targets
from landscape.objective.centre import LARGE
from landscape.objective.model import choose_device
from landscape.opening.opening import is_result
from landscape.results.study import Input
from landscape.run.comm import processor_count, world
from landscape.run.together import agree
from landscape_jobs.build.models import files_named, named_models
from landscape_jobs.build.reading import from_rank_0
from landscape_jobs.spec.job import Job
from landscape_jobs.spec.planes import CurvePlane, DirectionsPlane, PcaPlane, RandomPlane, ThroughPlane
from landscape_jobs.spec.tables import RETURNED, DataTable, ModelTable


@dataclass(frozen=True)
class Built:
    """The objects that a job names."""

    subject: Any  # what is measured: an objective, a factory of models, trained models, weights, or a table
    arguments: Mapping[str, Any]  # of the study's function: plain values, models, data, planes, those given


def build(job: Job) -> Built:
    """Import the factories of a job and make what they name, on all ranks, with this rank's threads set.

    Raises InputError for a callable that cannot be imported or called with its arguments, a checkpoint that does not
    fit, and all that `landscape.Objective` and the planes refuse; what a factory raises is told as a UserCodeError.
    """
    set_threads(job.run.threads)
    read = _read(job)
    return agree(world(), lambda: _build(job, read))


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


@dataclass(frozen=True)
class _Used:
    """The tables of a job that its study is measured with; others may be there, for a study that has its place."""

    model: ModelTable | None
    data: DataTable | None


def _used(job: Job) -> _Used:
    given = job.study.inputs.get(job.study.subject)
    if given is None or given.form == "trained":
        return _Used(job.model, job.data)
    return _Used(job.model if given.form == "models" and job.study.subject not in job.table.inputs() else None, None)


def _read(job: Job) -> _Read | None:
    """The data and the model's checkpoint read on rank 0 alone, on all ranks; None where each reads for itself."""
    if job.run.read == "each":
        return None
    _find_modules(job)
    used = _used(job)
    centre = None if used.model is None else agree(world(), lambda: _centre(job, _models(job)))
    data = None if (table := used.data) is None else from_rank_0(lambda: _made("data", table))
    return _Read(data, None if centre is None else from_rank_0(lambda: ls.read_state(centre)))


def _models(job: Job) -> list[Path]:
    """The files of the models that a job names beside its own: those of its plane, or of its table."""
    if isinstance(job.plane, ThroughPlane):
        return files_named(job, "plane.checkpoints", job.plane.checkpoints)
    if isinstance(job.plane, PcaPlane):
        files = files_named(job, "plane.checkpoints", job.plane.checkpoints)
        whole = len(files) == 1 and files[0].is_dir()
        return step_files(files[0]) if whole else [files[i] for i in in_step_order(files)]
    found: list[Path] = []
    for argument, (given, value) in job.table.inputs().items():
        key = f"{job.study.name}.{given.key or argument}"
        if given.form == "models":
            found += named_models(job, key, value)[0]
        elif given.form == "curve" and len(value) == 2:
            found += files_named(job, key, value)
        elif given.form == "model":
            found.append(job.located(value))
    return found


def _build(job: Job, read: _Read | None) -> Built:
    models, study, used = _models(job), job.study, _used(job)
    of_subject, made = study.inputs.get(study.subject), dict[str, Any]()
    subject: Any = None
    if of_subject is not None and of_subject.form == "trained":
        made = _given_to_models(job, read)
    elif used.model is not None and of_subject is not None:
        subject = _network(job, used.model, models, read)
    elif study.subject == "factory":
        subject, made = _factory(job), _given_to_factory(job, read)
    elif study.subject == "data":
        subject, made = _inputs_and_labels(job, read)
    elif of_subject is None:
        subject = _objective(job, models, read)
    made |= {
        argument: _input(job, f"{study.name}.{given.key or argument}", given, value)
        for argument, (given, value) in job.table.inputs().items()
    }
    for argument, (of, value) in job.table.inputs().items():
        if of.labels:
            made[of.labels] = named_models(job, f"{study.name}.{of.key or argument}", value)[1]
    if "plane" in study.inputs:
        made["plane"] = _plane(job, job.table.axes, subject, models)
    subject = made.pop(study.subject, subject)
    return Built(subject, {**job.table.arguments(), **made})


def _input(job: Job, key: str, given: Input, value: Any) -> Any:
    """What a key of the study's table stands for."""
    if given.form == "data":
        made = _made(key, value)
        if made is None:
            raise InputError(
                f"{key}.factory = {value.factory!r} returned None; let it return the data (its return statement may be "
                f"missing), or leave {key} out"
            )
        return made
    if given.form in ("model", "checkpoint", "trained"):
        return job.located(value)
    if given.form == "surface":
        return ls.open(job.located(value), group="surface")
    if given.form == "curve" and len(value) == 1:
        return ls.open(job.located(value[0]), group="curve")
    if given.form == "models":
        return named_models(job, key, value)[0]
    if given.form == "table":
        return [ls.open(path) if is_result(path) else path for path in files_named(job, key, value)]
    files = files_named(job, key, value)
    if given.form == "curve" and len(files) != 2:
        raise InputError(f"{key} = {list(value)} are {len(files)} models; give two, or the run or file of a curve")
    return files


def _find_modules(job: Job) -> None:
    for folder in (Path.cwd(), job.folder):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))


def _factory(job: Job) -> Callable[..., Any] | None:
    """The model's factory, with the arguments that the job gives it; the cells' keys come on top."""
    _find_modules(job)
    model = job.model
    return None if model is None else functools.partial(_imported("model.factory", model.factory), **model.args)


def _given_to_factory(job: Job, read: _Read | None) -> dict[str, Any]:
    """What a study of a factory is given beside its own table: data, loss, how the model is called."""
    asked = job.objective
    if job.model is not None and job.model.checkpoint is not None:
        raise InputError("model.checkpoint: models that are trained begin as their factory makes them; leave it out")
    for key, value, way in (
        ("metrics", asked.metrics, "loss and error are measured"),
        ("precision", asked.precision, f"say {job.study.name}.recipe.precision"),
        ("batch_size", asked.batch_size, "samples are counted by the data"),
        ("chunk", asked.chunk, "it follows from the model's sizes"),
        ("channels_last", not asked.channels_last, "it follows from the model"),
        ("cuda_graphs", asked.cuda_graphs, "trainings are not recorded"),
        ("recompute", asked.recompute, "trainings keep activations"),
    ):
        if value:
            raise InputError(f"objective.{key} is not used by [{job.study.name}]: {way}; leave it out")
    return {
        "data": _data(job, read),
        "loss": None if asked.loss == RETURNED else _named("objective.loss", asked.loss),
        "forward": _imported("objective.forward", asked.forward) if asked.forward is not None else None,
        "device": asked.device,
    }


def _given_to_models(job: Job, read: _Read | None) -> dict[str, Any]:
    """What a study of trained models is given beside its own table: how they are made, data, loss."""
    factory, given = _factory(job), _given_to_factory(job, read)
    if given.pop("forward") is not None:
        raise InputError(
            f"objective.forward is not used by [{job.study.name}]: it takes samples one by one, which batches of "
            "forward's own do not allow; leave it out"
        )
    return {"factory": factory, **given}


def _data(job: Job, read: _Read | None) -> Any:
    if read is not None:
        return read.data
    return None if job.data is None else _made("data", job.data)


def _inputs_and_labels(job: Job, read: _Read | None) -> tuple[Any, dict[str, Any]]:
    """The inputs, and what a study of data is given beside its own table: labels, and how networks are made."""
    given = _given_to_models(job, read)
    del given["loss"]
    whole = as_whole(given.pop("data"))
    if whole is None:
        raise InputError(
            f"[{job.study.name}] needs data = (inputs, labels) as tensors or arrays; let data.factory return those"
        )
    inputs, named, labels = inputs_and_targets(whole)
    if len(inputs) != 1 or named:
        raise InputError(
            f"[{job.study.name}] needs samples that are one tensor each; {len(inputs) + len(named)} are given"
        )
    return inputs[0], {"labels": labels, **given}


def _network(job: Job, table: ModelTable, models: list[Path], read: _Read | None) -> Any:
    """The module, with the parameters of its checkpoint."""
    _find_modules(job)
    model = _made("model", table)
    if not hasattr(model, "named_parameters"):
        raise InputError(f"model.factory = {table.factory!r} returned {type(model).__name__}; return an nn.Module")
    checkpoint = _centre(job, models)
    if checkpoint is not None:
        state = read.state if read is not None and read.state is not None else ls.read_state(checkpoint)
        load_state(model, state, checkpoint)
    return model


def _objective(job: Job, models: list[Path], read: _Read | None) -> ls.Objective:
    assert job.model is not None, "a job without [model] is refused where its study needs one"
    model = _network(job, job.model, models, read)
    asked = job.objective
    size = asked.batch_size
    return ls.Objective(
        model,
        None if asked.loss == RETURNED else _named("objective.loss", asked.loss),
        _data(job, read),
        metrics=[_named("objective.metrics", metric) for metric in asked.metrics],
        forward=_imported("objective.forward", asked.forward) if asked.forward is not None else None,
        precision=asked.precision,
        device=asked.device,
        batch_size=_imported("objective.batch_size", size) if isinstance(size, str) else size,
        chunk=asked.chunk,
        channels_last=asked.channels_last,
        cuda_graphs=asked.cuda_graphs,
        recompute=asked.recompute,
        checkpoint=None if read and read.state else _put_back_from(model, _centre(job, models), asked.device),
    )


def _put_back_from(model: Any, checkpoint: Path | None, device: str | None) -> Path | None:
    """The checkpoint of a large model where points can be made in the model itself, on the CPU; else None."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if checkpoint is None or sum(p.numel() * p.element_size() for p in model.parameters()) < LARGE:
        return None
    files = checkpoint_files(checkpoint) if checkpoint.is_dir() else [checkpoint]
    on_cpu = choose_device(device).type == "cpu" and not any(p.is_complex() for p in named.values())
    if not on_cpu or any(file.suffix != ".safetensors" for file in files):
        return None
    return checkpoint if set(named) <= StoredTensors(checkpoint).names else None


def _centre(job: Job, models: list[Path]) -> Path | None:
    """The checkpoint the model gets; see `spec.ModelTable`."""
    if job.model is not None and job.model.checkpoint is not None:
        return job.located(job.model.checkpoint)
    if models:
        return models[-1] if isinstance(job.plane, PcaPlane) else _first_of(models[0])
    return None


def _first_of(path: Path) -> Path:
    """The first checkpoint of a folder of several; a file, or the folder of one checkpoint, as it is."""
    if path.is_dir():
        try:
            checkpoint_files(path)
        except InputError:
            return step_files(path)[0]
    return path


def _plane(job: Job, axes: int, objective: ls.Objective, checkpoints: list[Path]) -> ls.Plane:
    plane = job.plane
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
        directions = ls.read_loss_landscape_directions(job.located(plane.file), objective)
        if len(directions) != axes:
            raise InputError(
                f"plane.file = {str(plane.file)!r} holds {len(directions)} directions, and "
                f"[{job.study.name}] has {axes} ranges ({', '.join('xyz'[:axes])}); give one for each"
            )
        return ls.plane_from_directions(objective, directions)
    if isinstance(plane, CurvePlane):
        curve = ls.open(job.located(plane.curve), group="curve")
        assert isinstance(curve, ls.Curve)
        if axes != 2:
            raise InputError(f"plane.kind = 'curve' has 2 axes, and [{job.study.name}] has {axes} ranges; give x and y")
        return ls.curve_plane(objective, curve)
    if isinstance(plane, PcaPlane):
        return ls.pca_plane(objective, checkpoints, axes=axes)
    if len(checkpoints) != axes + 1:
        raise InputError(
            f"plane.checkpoints = {list(plane.checkpoints)} are {len(checkpoints)} models, and "
            f"[{job.study.name}] has {axes} ranges; n ranges go through n + 1 models"
        )
    return ls.plane_through(objective, checkpoints)


def _named(key: str, name: str) -> Any:
    """A name the library knows as it is, the callable where it names one; a class (a criterion) is instantiated."""
    if ":" not in name:
        return name
    found = _imported(key, name)
    if not isinstance(found, type):
        return found
    with user_code(f"{key} = {name!r} is a class, and cannot be made without arguments"):
        return found()


def _made(key: str, table: ModelTable | DataTable) -> Any:
    """What a factory returns. Raises InputError when its arguments do not fit its signature."""
    factory = _imported(f"{key}.factory", table.factory)

    def make() -> Any:
        with user_code(f"{key}.factory = {table.factory!r} cannot be called", lambda: f"args = {table.args}"):
            return factory(**table.args)

    try:
        signature = inspect.signature(factory)
    except ValueError:  # some callables written in C have none
        return make()
    try:
        signature.bind(**table.args)
    except TypeError as error:
        unknown = [name for name in table.args if name not in signature.parameters]
        advice = "; ".join(f"{name}: {nearest(name, signature.parameters)}" for name in unknown)
        raise InputError(
            f"{key}.args = {table.args} do not fit {table.factory}{signature}: {error}"
            + (f" ({advice})" if advice and signature.parameters else "")
        ) from error
    return make()


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
            f"{key} = {name!r}: module {module_name!r} cannot be imported, {type(error).__name__}: {text_of(error)}. "
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
