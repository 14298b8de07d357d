"""The models that a job names: files, glob patterns, tables of checkpoints, folders of trainings."""

from __future__ import annotations

import glob
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from landscape.checkpoints.trained import TrainedModels
from landscape.errors import InputError
from landscape.opening.models import open_models, tells_of_models
from landscape_jobs.spec.job import Job

logger = logging.getLogger(__name__)
Named = tuple[list[Path], tuple[str, ...]]  # paths, and labels, which are empty where files name themselves


def named_models(job: Job, key: str, patterns: tuple[str, ...]) -> Named:
    """The models named, in order, and their labels.

    Of a training, or a table of checkpoints, they are those with final weights whose keys have the values that the
    job's own model is made with (`model.args`), and the labels say the other keys. Raises InputError where there are
    none.
    """
    files, args = files_named(job, key, patterns), {} if job.model is None else job.model.args
    told = {path: open_models(path) for path in files if tells_of_models(path)}
    if not told:
        return files, ()
    paths: list[Path] = []
    labels: list[str] = []
    for path in files:
        if path not in told:
            paths.append(path)
            labels.append(path.stem)
            continue
        models = told[path]
        rows = [row for row in models.trained() if _fits(models, row, args)]
        if not rows:
            raise InputError(f"{key} = {str(path)!r} has no trained model with {_asked(models, args)}")
        left = len(models) - len(models.trained())
        if left:
            logger.warning("%s: %d of %d models have no final weights and are left out", path, left, len(models))
        for row in rows:
            final = models.final[row]
            assert final is not None
            paths.append(final)
            labels.append(_label(models, row, args, path if len(told) > 1 else None))
    return paths, tuple(labels)


def _fits(models: TrainedModels, row: int, args: Mapping[str, Any]) -> bool:
    return all(args.get(name, column[row]) == column[row] for name, column in models.keys.items())


def _asked(models: TrainedModels, args: Mapping[str, Any]) -> str:
    shared = {name: args[name] for name in models.keys if name in args}
    return ", ".join(f"{name} = {value!r}" for name, value in shared.items()) + " (model.args)" if shared else "weights"


def _label(models: TrainedModels, row: int, args: Mapping[str, Any], path: Path | None) -> str:
    keys = {name: column[row] for name, column in models.keys.items() if name not in args} | {"seed": models.seed[row]}
    text = ",".join(f"{name}={value}" for name, value in keys.items())
    return text if path is None else f"{path.stem}:{text}"


def files_named(job: Job, key: str, patterns: tuple[str, ...]) -> list[Path]:
    """The files named, in order; those of a glob pattern in natural order, so that epoch10 follows epoch9."""
    files: list[Path] = []
    for pattern in patterns:
        path = job.located(pattern)
        if path.exists() or not glob.has_magic(pattern):
            files.append(path)
            continue
        # not Path.glob: the pattern may be absolute, and the folder's own name may hold a "["
        found = sorted((job.located(p) for p in glob.glob(pattern, root_dir=job.folder)), key=_natural)  # noqa: PTH207
        if not found:
            raise InputError(f"{key} = {pattern!r} matches no file; it starts from {job.folder}")
        files += found
    return files


def _natural(path: Path) -> list[tuple[bool, int, str]]:
    parts = re.split(r"(\d+)", str(path))
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]
