"""The folder of a sweep: which cells it has, where each is computed, and how they stand; see `sweep_file`.

A cell has a run folder in `out`, found by its content: the hash of what its job computes and of the files of tensors
that it names. So a value added to the sweep later keeps the cells that are finished, and a checkpoint that changed
makes a new one. Where such a file does not exist yet, the folder is known when the cell begins.

    sweep.json                  the sweep as it is now: its text, cells, labels and folders
    LABEL-HASH/                 run folder of a cell
    LABEL-HASH/cell.json        what the cell changes, and when it began last
    LABEL-HASH/failure.json     why the cell failed, until it succeeds
"""

from __future__ import annotations

import glob
import hashlib
import json
import re
import time
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import landscape as ls
from landscape.errors import InputError, StoreError
from landscape.files import write_durably
from landscape.opening import run_stores
from landscape.provenance import time_now
from landscape.store import RESULT
from landscape_jobs.spec import Job, to_toml
from landscape_jobs.sweep_file import Cell, Sweep, parse_sweep, run_record

INDEX = "sweep.json"
CELL = "cell.json"
FAILURE = "failure.json"

_FORMAT = 1  # of sweep.json
_HASH = 12  # hexadecimal digits in a folder's name
_LABEL = 80  # characters of a label in a folder's name

# Keys of a job that name files of tensors, or results
_FILES = (
    ("model", "checkpoint"),
    ("plane", "checkpoints"),
    ("plane", "file"),
    ("plane", "curve"),
    ("surface", "known"),
    ("connectivity", "models"),
)


@dataclass(frozen=True)
class Place:
    """Where a cell is computed: its job with the run folder, and files it names that do not exist yet."""

    cell: Cell
    job: Job
    missing: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.job.out


@dataclass(frozen=True)
class SweepCell:
    """A cell as the folder of a sweep tells of it."""

    number: int
    label: str
    folder: Path
    failure: str | None  # why its last attempt failed; None where it did not
    exists: bool  # whether there is a run in its folder
    changes: Mapping[str, Any] = field(default_factory=dict)


# -- content and places ----------------------------------------------------------------------------------------------


def content_key(job: Job, digests: dict[Path, str] | None = None) -> tuple[str, tuple[str, ...]]:
    """(SHA-256 of what a job computes, files it names that do not exist).

    That is its content without [run], defaults left out, and in the place of files of tensors what they hold; a file
    that does not exist stands with its name. `digests` keeps what was read, for jobs that name the same files. Raises
    InputError where a file cannot be read.
    """
    digests = {} if digests is None else digests
    missing: list[str] = []
    content = _content(job)
    for table, key in _FILES:
        given = getattr(getattr(job, table), key, None)
        if given is None:
            continue
        held: list[str] = []
        for name in [given] if isinstance(given, (str, Path)) else given:
            found = [_digest(path, digests) for path in _matching(job, str(name))]
            if not found or None in found:
                missing.append(str(name))
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
    given = (getattr(getattr(job, table), key, None) for table, key in _FILES)
    names = [name for one in given if one for name in ([one] if isinstance(one, (str, Path)) else one)]
    return [path for name in names for path in _matching(job, str(name)) if path.exists()]


def places(sweep: Sweep, cells: Iterable[Cell] | None = None) -> tuple[Place, ...]:
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
        name = f"{_safe(cell.label)}-{key[:_HASH]}"
        folder = there.setdefault(key[:_HASH], sweep.out / name)
        job = cell.job.model_copy(update={"run": cell.job.run.model_copy(update={"out": folder})})
        found.append(Place(cell, job, missing))
    return tuple(found)


def finished(folder: Path) -> bool:
    """Whether a run folder holds a result and every item of its stores is done or given up."""
    try:
        return (folder / RESULT).is_file() and all(store.complete for store in run_stores(folder))
    except StoreError:
        return False


def failed_items(folder: Path) -> list[str]:
    """Why items of the run in a folder were given up, those of all its stores."""
    return [reason for store in run_stores(folder) for reason in store.failed().values()]


def stop_signal(folder: Path, since: str) -> str | None:
    """The signal that the newest attempt in a run folder was told to stop by, where it ended at `since` or later."""
    newest = max((a for store in run_stores(folder) for a in store.attempts()), key=lambda a: str(a.get("ended", "")))
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


def _content(job: Job) -> dict[str, Any]:
    return job.model_dump(exclude_defaults=True, exclude={"folder", "run"})


def _hashed(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _matching(job: Job, name: str) -> list[Path]:
    """The files that a name or pattern in a job stands for; the name itself where nothing matches."""
    path = job.path(name)
    if path.exists() or not glob.has_magic(name):
        return [path]
    return sorted(job.path(match) for match in glob.glob(name, root_dir=job.folder))  # noqa: PTH207  (may be absolute)


def _digest(path: Path, known: dict[Path, str]) -> str | None:
    """SHA-256 of a file, or of the result in a run folder; None where there is none."""
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


def _safe(label: str) -> str:
    """A label as part of a file's name."""
    return re.sub(r"[^\w.=+-]+", "_", label, flags=re.ASCII)[:_LABEL].strip("_.-") or "cell"


# -- the folder of a sweep -------------------------------------------------------------------------------------------


def is_sweep(folder: Path) -> bool:
    """Whether a folder is that of a sweep."""
    return (folder / INDEX).is_file()


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
    _write(sweep.out / INDEX, {"format": _FORMAT, "written": time.time(), "sweep": sweep.text(), "cells": cells})


def stored_sweep(folder: Path) -> Sweep:
    """The sweep that a folder belongs to, with that folder as its `out` even where it was moved.

    Raises StoreError for what is no folder of a sweep.
    """
    text = str(_index(folder)["sweep"])
    sweep = parse_sweep(text, folder / INDEX)
    return Sweep(sweep.source, folder.resolve(), sweep.base, sweep.cells)


def sweep_cells(folder: Path) -> tuple[SweepCell, ...]:
    """The cells of the sweep in a folder, by number, each with the folder of its newest attempt.

    Raises StoreError for what is no folder of a sweep.
    """
    index = _index(folder)
    begun = _begun_after(index["written"], folder)
    found: list[SweepCell] = []
    for cell in index["cells"]:
        # a file that the cell names may have come, or changed, between the index and the cell's begin
        home = begun.get(cell["text"], folder / str(cell["folder"]))
        exists = (home / "run.json").is_file() or any(home.glob("*/run.json"))
        found.append(SweepCell(int(cell["number"]), str(cell["label"]), home, _failure(home), exists, cell["changes"]))
    return tuple(found)


def _failure(folder: Path) -> str | None:
    """Why a cell failed; None also where its result came later, as when its own folder was resumed."""
    failure, result = folder / FAILURE, folder / RESULT
    try:
        overtaken = result.is_file() and result.stat().st_mtime_ns >= failure.stat().st_mtime_ns
    except OSError:
        return None
    return None if overtaken else _read_json(failure).get("reason")


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

    Cells that are not finished are masked; those there is no run of are groups without variables. Attributes of a
    group: the cell's label, its state (complete, partial, failed or "not begun"), the reason, and the keys that the
    sweep changes, where the cell leaves one alone with what the base job says; the same stand at the root as variables
    over the cells. Raises StoreError for folders and files that cannot be read or written.
    """
    cells = sweep_cells(folder)
    stated = _stated(folder, dict.fromkeys(key for cell in cells for key in cell.changes))
    names = [_safe(cell.label) for cell in cells]
    unique = [
        name if names.count(name) == 1 else f"{name}-{cell.number}" for name, cell in zip(names, cells, strict=True)
    ]
    folders = {name: cell.folder if cell.exists else None for name, cell in zip(unique, cells, strict=True)}
    about = {name: _about(cell, stated) for name, cell in zip(unique, cells, strict=True)}
    return ls.merge_runs(folders, path, about=about)


def _stated(folder: Path, keys: Iterable[str]) -> dict[str, Any]:
    """What the base job of the sweep in a folder says of keys; those it leaves to their defaults are missing."""
    base = tomllib.loads(str(_index(folder)["sweep"])).get("job", {})
    found: dict[str, Any] = {}
    for key in keys:
        value: Any = base
        for name in key.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None:
            found[key] = value
    return found


def _about(cell: SweepCell, stated: Mapping[str, Any]) -> dict[str, Any]:
    failed = failed_items(cell.folder) if cell.exists else []
    state = "not begun"
    if cell.failure is not None:
        state = "failed"
    elif cell.exists:
        state = "complete" if finished(cell.folder) else "partial"
    reason = cell.failure or (f"{len(failed)} items failed, the first because it {failed[0].strip()}" if failed else "")
    changed = {
        key: value if isinstance(value, (str, int, float)) else to_toml(value)
        for key, value in {**stated, **cell.changes}.items()
    }
    return {"label": cell.label, "state": state, "reason": reason, **changed}


def _begun_after(written: float, folder: Path) -> dict[str, Path]:
    """Key of a job's text -> the folder where a cell of that text began last, of those begun since `written`."""
    records = [(_read_json(path), path.parent) for path in folder.glob(f"*/{CELL}")]
    since = [
        (record["begun"], str(record["text"]), home) for record, home in records if record.get("begun", 0) > written
    ]
    return {text: home for _, text, home in sorted(since)}


def _index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    if not path.is_file():
        raise StoreError(f"{folder} is not the folder of a sweep: it holds no {INDEX}. Give the sweep's `out`.")
    content = _read_json(path)
    if content.get("format", _FORMAT) > _FORMAT:
        raise StoreError(f"{path} was written by a newer version; update loss-landscape-engine")
    if not {"sweep", "cells", "written"} <= content.keys():
        raise StoreError(f"{path} is damaged; run or submit the sweep file again, which writes it anew")
    return content


def _read_json(path: Path) -> dict[str, Any]:
    """A record, empty where there is none or it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write(path: Path, content: Mapping[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, json.dumps(content, indent=1, default=str).encode())
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error}. Free space there, or choose a folder you may write to, then repeat the "
            "command; finished rows are kept."
        ) from error
