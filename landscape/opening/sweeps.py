"""What the folder of a sweep holds: its cells, what each of them changes, and how they stand.

sweep.json                  the sweep as it is now: its text, cells, labels and folders
LABEL-HASH/                 run folder of a cell
LABEL-HASH/cell.json        what the cell changes, and when it began last
LABEL-HASH/failure.json     why the cell failed, until it succeeds
"""

from __future__ import annotations

import contextlib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from landscape.errors import StoreError
from landscape.opening.runs import failed_items, finished
from landscape.run.records import NUMBER, TABLE, TEXT, WHOLE, list_of, read_record, table_with
from landscape.run.store import RESULT

INDEX = "sweep.json"
CELL = "cell.json"
FAILURE = "failure.json"
FORMAT = 1  # of sweep.json
UNREADABLE = "unreadable"  # state of a cell whose folder is damaged
_WAY = "run or submit the sweep file again, which writes it anew."
_CELL_FORM = table_with({"label": TEXT, "folder": TEXT, "text": TEXT, "changes": TABLE, "number": WHOLE})
_LABEL = 80  # characters of a label in a name


@dataclass(frozen=True)
class SweepCell:
    """A cell as the folder of a sweep tells of it."""

    number: int
    label: str
    folder: Path
    failure: str | None  # why its last attempt failed; None where it did not
    exists: bool  # whether there is a run in its folder
    text: str  # key of what its job says
    changes: Mapping[str, Any] = field(default_factory=dict)


def is_sweep(folder: Path) -> bool:
    """Whether a folder is that of a sweep."""
    return (folder / INDEX).is_file()


def sweep_index(folder: Path) -> dict[str, Any]:
    """The content of sweep.json. Raises StoreError for what is no folder of a sweep, is damaged or newer."""
    path = folder / INDEX
    if not path.is_file():
        raise StoreError(f"{folder} is not the folder of a sweep: it holds no {INDEX}. Give the sweep's `out`.")
    if read_record(path, {}, {"format": WHOLE}, way=_WAY).get("format", FORMAT) > FORMAT:
        raise StoreError(f"{path} was written by a newer version; update loss-landscape-engine")
    return read_record(path, {"sweep": TEXT, "cells": list_of(_CELL_FORM, least=1), "written": NUMBER}, way=_WAY)


def sweep_cells(folder: Path) -> tuple[SweepCell, ...]:
    """The cells of the sweep in a folder, by number, each with the folder of its newest attempt.

    Raises StoreError for what is no folder of a sweep.
    """
    index = sweep_index(folder)
    begun = _begun_after(index["written"], folder)
    found: list[SweepCell] = []
    for cell in index["cells"]:
        # a file that the cell names may have changed after the index was written: the cell began in another folder
        home = begun.get(cell["text"], folder / str(cell["folder"]))
        exists = (home / "run.json").is_file() or any(home.glob("*/run.json"))
        text = str(cell["text"])
        found.append(
            SweepCell(int(cell["number"]), str(cell["label"]), home, _failure(home), exists, text, cell["changes"])
        )
    return tuple(found)


def cell_names(cells: Sequence[SweepCell]) -> tuple[str, ...]:
    """A name for each cell, after what it changes; cells of the same name are told apart by their numbers."""
    names = [safe_name(cell.label) for cell in cells]
    return tuple(
        name if names.count(name) == 1 else f"{name}-{cell.number}" for name, cell in zip(names, cells, strict=True)
    )


def sweep_runs(folder: Path) -> tuple[dict[str, Path | None], dict[str, dict[str, Any]]]:
    """({name of a cell: its run folder, or None where there is no run}, {name: what is known of it}).

    Known are the cell's label, its state (complete, partial, failed, unreadable or "not begun"), the reason, and the
    keys that the sweep changes, where the cell leaves one alone with what the base job says. Raises StoreError for
    what is no folder of a sweep, or where its list of cells is damaged.
    """
    cells = sweep_cells(folder)
    stated = _stated(folder, dict.fromkeys(key for cell in cells for key in cell.changes))
    named = dict(zip(cell_names(cells), cells, strict=True))
    folders = {name: cell.folder if cell.exists else None for name, cell in named.items()}
    return folders, {name: _about(cell, stated) for name, cell in named.items()}


def safe_name(label: str) -> str:
    """A label as part of a file's name."""
    return re.sub(r"[^\w.=+-]+", "_", label, flags=re.ASCII)[:_LABEL].strip("_.-") or "cell"


def _stated(folder: Path, keys: Iterable[str]) -> dict[str, Any]:
    """What the base job of the sweep in a folder says of keys; those it leaves to their defaults are missing."""
    try:
        base = tomllib.loads(sweep_index(folder)["sweep"]).get("job", {})
    except tomllib.TOMLDecodeError as error:
        raise StoreError(
            f"cannot read {folder / INDEX}: 'sweep' is no TOML ({error}). It was edited or damaged; {_WAY}"
        ) from error
    found: dict[str, Any] = {}
    for key in keys:
        value: Any = base
        for name in key.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None:
            found[key] = value
    return found


def _about(cell: SweepCell, stated: Mapping[str, Any]) -> dict[str, Any]:
    failed: list[str] = []
    state, unreadable = "not begun", ""
    try:
        failed = failed_items(cell.folder) if cell.exists else []
    except StoreError as error:
        unreadable = str(error)
    if unreadable:
        state = UNREADABLE
    elif cell.failure is not None:
        state = "failed"
    elif cell.exists:
        state = "complete" if finished(cell.folder) else "partial"
    reason = (
        unreadable
        or cell.failure
        or (f"{len(failed)} items failed, the first because it {failed[0].strip()}" if failed else "")
    )
    changed = {
        key: value if isinstance(value, (str, int, float)) else json.dumps(value, ensure_ascii=False, default=str)
        for key, value in {**stated, **cell.changes}.items()
    }
    return {"label": cell.label, "state": state, "reason": reason, **changed}


def _failure(folder: Path) -> str | None:
    """Why a cell failed; None also where its result came later, as when its own folder was resumed."""
    failure, result = folder / FAILURE, folder / RESULT
    try:
        overtaken = result.is_file() and result.stat().st_mtime_ns >= failure.stat().st_mtime_ns
    except OSError:
        return None
    if overtaken or not failure.is_file():
        return None
    try:
        return str(
            read_record(failure, {"reason": TEXT}, way="delete it: it is written again where the cell fails.")["reason"]
        )
    except StoreError as error:
        return str(error)


def _begun_after(written: float, folder: Path) -> dict[str, Path]:
    """Key of a job's text -> the folder where a cell of that text began last, of those begun since `written`."""
    since: list[tuple[float, str, Path]] = []
    for path in folder.glob(f"*/{CELL}"):
        with contextlib.suppress(StoreError):  # where it is damaged, the index alone tells where its cell is
            record = read_record(path, {"begun": NUMBER, "text": TEXT}, way="")
            if record["begun"] > written:
                since.append((record["begun"], record["text"], path.parent))
    return {text: home for _, text, home in sorted(since)}
