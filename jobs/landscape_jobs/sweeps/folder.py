"""The folder of a sweep: which cells it has, where each is computed, and how they stand; see `sweep_file`.

A cell has a run folder in `out`, found by its content: the hash of what its job computes and of the files of tensors
that it names. So a value added to the sweep later keeps the cells that are finished, and a checkpoint that changed
makes a new one. Where such a file does not exist yet, the folder is known when the cell begins. What the folder holds
is read by `landscape.opening.sweeps`.
"""

from __future__ import annotations

import glob
import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import landscape as ls
from landscape.checkpoints.reading import SUFFIXES
from landscape.errors import InputError, StoreError
from landscape.files.durable import write_durably
from landscape.files.provenance import time_now
from landscape.opening.runs import finished, run_record, run_stores
from landscape.opening.sweeps import CELL, FAILURE, FORMAT, INDEX, is_sweep, safe_name, sweep_index, sweep_runs
from landscape.run.store import RESULT
from landscape_jobs.spec.job import Job
from landscape_jobs.sweeps.sweep_file import JobCell, Sweep, parse_sweep

_HASH = 12  # hexadecimal digits in a folder's name

_MODEL_AND_PLANE = (("model", "checkpoint"), ("plane", "checkpoints"), ("plane", "file"), ("plane", "curve"))
_FORMS = ("model", "models", "checkpoint", "curve", "surface", "table", "trained")  # of inputs that files are named for


@dataclass(frozen=True)
class Place:
    """Where a cell is computed: its job with the run folder, and files it names that do not exist yet."""

    cell: JobCell
    job: Job
    missing: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.job.out


# -- content and places ----------------------------------------------------------------------------------------------


def content_key(job: Job, digests: dict[Path, str] | None = None) -> tuple[str, tuple[str, ...]]:
    """(SHA-256 of what a job computes, files it names that do not exist).

    What a job computes is its content without [run] and without defaults, where files of tensors count by what they
    hold, and those that do not exist by their names. `digests` keeps what was read, for jobs that name the same files.
    Raises InputError where a file cannot be read.
    """
    digests = {} if digests is None else digests
    missing: list[str] = []
    content = _content(job)
    for table, key, names in _naming(job):
        held: list[str] = []
        for name in names:
            found = [_digest(path, digests) for path in _matching(job, name)]
            if not found or None in found:
                missing.append(name)
                held.append(f"missing {name}")
            else:
                held += [digest for digest in found if digest is not None]
        content[table][key] = held
    return _hashed(content), tuple(missing)


def text_key(job: Job) -> str:
    """SHA-256 of what a job computes as far as its text tells, files by their names."""
    return _hashed(_content(job))


def named_files(job: Job) -> list[Path]:
    """Files of tensors and results that a job names and that exist."""
    names = [name for _, _, named in _naming(job) for name in named]
    return [path for name in names for path in _matching(job, name) if path.exists()]


def places(sweep: Sweep, cells: Iterable[JobCell] | None = None) -> tuple[Place, ...]:
    """Where cells (by default all) are computed, by their content as it is now.

    Cells that compute the same have the same folder. Raises InputError for files that cannot be read, and where the
    folder for the cells is that of a run.
    """
    _require_no_run(sweep.out)
    digests: dict[Path, str] = {}
    there = {path.name.rpartition("-")[2]: path for path in sorted(sweep.out.glob("*-*")) if path.is_dir()}
    found: list[Place] = []
    for cell in sweep.cells if cells is None else cells:
        key, missing = content_key(cell.job, digests)
        name = f"{safe_name(cell.label)}-{key[:_HASH]}"
        folder = there.setdefault(key[:_HASH], sweep.out / name)
        job = cell.job.model_copy(update={"run": cell.job.run.model_copy(update={"out": folder})})
        found.append(Place(cell, job, missing))
    return tuple(found)


def stop_signal(folder: Path, since: str) -> str | None:
    """The signal that the newest attempt in a run folder was told to stop by, where it ended at `since` or later."""
    newest = max(
        (a for store in run_stores(folder) for a in store.attempts.all()), key=lambda a: str(a.get("ended", ""))
    )
    return newest.get("signal") if str(newest.get("ended", "")) >= since else None


def _require_no_run(out: Path) -> None:
    """Raise InputError where the folder of a sweep that is to begin holds a run, which the sweep would hide."""
    if is_sweep(out):
        return
    record = run_record(out)
    if record is not None:
        raise InputError(
            f"out = {str(out)!r} is the folder of a run (it holds {record.relative_to(out)}), which the sweep would "
            "hide; name another folder as `out` of the sweep"
        )


def unfinished(found: Sequence[Place]) -> list[Place]:
    """Places that are not finished, each folder once."""
    once = {place.folder: place for place in reversed(found)}
    left = [place for place in once.values() if not finished(place.folder)]
    return sorted(left, key=lambda place: place.cell.number)


def _naming(job: Job) -> Iterator[tuple[str, str, list[str]]]:
    """(table, key, names) of the keys of a job that name files of tensors, or results."""
    for table, key in _MODEL_AND_PLANE:
        yield from _named(table, key, getattr(getattr(job, table), key, None))
    for argument, (given, value) in job.table.inputs().items():
        if given.form in _FORMS:
            yield from _named(job.study.name, given.key or argument, value)


def _named(table: str, key: str, value: Any) -> Iterator[tuple[str, str, list[str]]]:
    if value is not None:
        yield table, key, [str(name) for name in ([value] if isinstance(value, (str, Path)) else value)]


def _content(job: Job) -> dict[str, Any]:
    return job.model_dump(exclude_defaults=True, exclude={"folder", "run"})


def _hashed(content: Mapping[str, Any] | list[Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _matching(job: Job, name: str) -> list[Path]:
    """The files that a name or pattern in a job stands for; the name itself where nothing matches."""
    path = job.located(name)
    if path.exists() or not glob.has_magic(name):
        return [path]
    return sorted(job.located(match) for match in glob.glob(name, root_dir=job.folder))  # noqa: PTH207  (may be absolute)


def _digest(path: Path, known: dict[Path, str]) -> str | None:
    """SHA-256 of a file, of the result in a run folder, or of the tensors in a folder; None where there is none."""
    if path.is_dir() and not (path / RESULT).is_file():
        held = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file())
        return _hashed([[str(file.relative_to(path)), _digest(file, known)] for file in held]) if held else None
    file = path / RESULT if path.is_dir() else path
    if not file.is_file():
        return None
    if file not in known:
        try:
            with file.open("rb") as content:
                known[file] = hashlib.file_digest(content, "sha256").hexdigest()
        except OSError as error:
            raise InputError(f"{file}, which the job names, cannot be read: {error.strerror}") from error
    return known[file]


# -- the folder of a sweep -------------------------------------------------------------------------------------------


def index_alone(sweep: Sweep, cell: JobCell) -> None:
    """Write which cells the sweep has, before one is run alone, unless its folder knows of that one."""
    if not is_sweep(sweep.out) or cell.label not in (known["label"] for known in sweep_index(sweep.out)["cells"]):
        write_index(sweep, places(sweep))


def write_index(sweep: Sweep, found: Sequence[Place]) -> None:
    """Write which cells the sweep has now, and where. Raises StoreError where the disk refuses."""
    cells = [
        {
            "number": place.cell.number,
            "label": place.cell.label,
            "changes": place.cell.changes,
            "folder": place.folder.name,
            "text": text_key(place.job),
        }
        for place in found
    ]
    _write(sweep.out / INDEX, {"format": FORMAT, "written": time.time(), "sweep": sweep.text(), "cells": cells})


def stored_sweep(folder: Path) -> Sweep:
    """The sweep that a folder belongs to, with that folder as its `out` even where it was moved.

    Raises StoreError for what is no folder of a sweep.
    """
    text = str(sweep_index(folder)["sweep"])
    sweep = parse_sweep(text, folder / INDEX)
    return Sweep(sweep.source, folder.resolve(), sweep.base, sweep.cells)


def begin_cell(place: Place) -> None:
    """Note in its folder that a cell begins. Raises StoreError where the disk refuses."""
    cell = place.cell
    record = {"label": cell.label, "changes": cell.changes, "text": text_key(place.job), "begun": time.time()}
    _write(place.folder / CELL, record)


def note_failure(folder: Path, reason: str, code: int) -> None:
    """Keep why a cell failed, and the exit code that tells of it, until it succeeds."""
    _write(folder / FAILURE, {"reason": reason, "code": code, "when": time_now()})


def forget_failure(folder: Path) -> None:
    """Take back what `note_failure` kept."""
    (folder / FAILURE).unlink(missing_ok=True)


def merge_sweep(folder: Path, path: Path) -> Path:
    """Write the sweep in a folder as one file, a group for each cell, named after what it changes.

    Cells that are not finished are masked; those there is no run of are groups without variables. What is known of the
    cells (see `sweep_runs`) stands in attributes of the groups and at the root as variables over the cells. Raises
    StoreError for folders and files that cannot be read or written.
    """
    folders, about = sweep_runs(folder)
    return ls.merge_runs(folders, path, about=about)


def _write(path: Path, content: Mapping[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, json.dumps(content, indent=1, default=str).encode())
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error}. Free space there, or choose a folder you may write to, then repeat the "
            "command; finished rows are kept."
        ) from error
