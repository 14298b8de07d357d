"""What a report is made of: the results in a run folder, the folder of a sweep or a file, and what they miss."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from landscape.errors import LandscapeError
from landscape.files import hdf5
from landscape.opening.opening import Place, open_folder
from landscape.opening.sweeps import sweep_runs
from landscape.results.kind import kind_of
from landscape_jobs.cluster.queue import Queue
from landscape_jobs.report.page import Part, write_report
from landscape_jobs.status.facts import COMPLETE, NOT_BEGUN, RUNNING, RunStatus
from landscape_jobs.status.status import Reader
from landscape_jobs.status.tables import span

_ABOUT = ("label", "state", "reason")  # what a sweep says of every cell, beside what the cell changes


def report_run(source: Path, out: Path, run: str | None = None, group: str | None = None) -> Path:
    """Write the report of what is at `source` to `out`; returns its path. See `read_parts` and `write_report`.

    `run` and `group` pick of several results, as in `read_parts`.
    """
    parts = read_parts(source, run, group)
    unfinished = [name for name, part in parts.items() if part.state != COMPLETE]
    notes = []
    if unfinished:
        picked = "".join(f" --{k} {shlex.quote(v)}" for k, v in (("run", run), ("group", group)) if v is not None)
        again = f"landscape report {shlex.quote(str(source))}{picked} -o {shlex.quote(str(out))}"
        what = f"{len(unfinished)} of {len(parts)} results are" if len(parts) > 1 else "This result is"
        notes.append(f"{what} not complete; to draw this page again later: {again}")
    return write_report(parts, out, title=source.resolve().name, notes=notes)


def read_parts(source: Path, run: str | None = None, group: str | None = None) -> dict[str, Part]:
    """{name: result} of a run folder, finished or not, the folder of a sweep, or a file of one or several results.

    `run` picks one run of a sweep or of a merged file, `group` one of the results that lie side by side. Raises
    StoreError for what is none of these or cannot be read, InputError for a run or a result that is not there; a cell
    of a sweep that cannot be read is told of.
    """
    place = Place(source)
    if place.tree is not None:
        return _parts_of_file(place, place.tree, run, group)
    if not place.is_sweep:
        return {source.resolve().name: _with_status(place.open(run, group), source)}
    if run is not None or group is not None:
        result = place.open(run, group)
        missing = missing_notes(result)
        return {run or source.resolve().name: Part(result, "partial" if missing else COMPLETE, missing)}
    folders, about = sweep_runs(source)
    parts: dict[str, Part] = {}
    for name, folder in folders.items():
        state, reason = str(about[name]["state"]), str(about[name]["reason"])
        changes = {key: value for key, value in about[name].items() if key not in _ABOUT}
        notes = (reason.strip().splitlines()[-1],) if reason.strip() else ()
        found: Any = None
        if folder is None:
            notes = notes or ("Nothing of this cell is computed yet.",)
        else:
            try:
                found = open_folder(folder)
            except LandscapeError as error:
                state, notes = "unreadable", (*notes, str(error))
            else:
                notes = (*notes, *missing_notes(found))
        parts[name] = Part(found, state, notes, changes)
    return parts


def missing_notes(result: Any) -> tuple[str, ...]:
    """What of a result is not there, in a sentence; none where all is."""
    computed = getattr(result, "computed", None)
    if computed is not None and not computed.all():
        done = int(computed.sum())
        return (f"{done:,} of {computed.size:,} {kind_of(result).unit} are computed; the others are masked.",)
    if not getattr(result, "complete", True):
        return ("Not all of the data are in these values yet.",)
    return ()


def _with_status(result: Any, folder: Path) -> Part:
    """A run's result with how far it is and what a user may do."""
    run = Reader([folder], Queue(os.environ)).read().runs[0]
    if run.state == COMPLETE:
        return Part(result, notes=missing_notes(result))
    notes = [f"This run is not finished: {progress_text(run)}.", *missing_notes(result)]
    return Part(result, run.state, tuple(notes + ([run.advice] if run.advice else [])))


def progress_text(run: RunStatus) -> str:
    """How far a run is, in words: its state, and the rows of each task."""
    parts = [run.state]
    for task in run.tasks:
        text = f"{task.done:,} of {task.items:,} rows"
        left = f", about {span(task.remaining)} left" if task.state == RUNNING and task.remaining is not None else ""
        note = f", {task.note}" if task.note else ""
        parts.append(f"{task.task} {NOT_BEGUN if task.state == NOT_BEGUN else text}{note}{left}")
    return "; ".join(parts)


def _parts_of_file(place: Place, tree: hdf5.Group, run: str | None, group: str | None) -> dict[str, Part]:
    """The results of a file, under the names of its runs, and of its groups where one holds several."""
    names = place.run_names if run is None else [run]
    about = _about(tree) if names else {}
    parts: dict[str, Part] = {}
    runs: list[str | None] = [*names] or [None]
    for name in runs:
        groups: list[str | None] = [*place.group_names(name)] if group is None else [group]
        for which in groups if len(groups) > 1 or group else [None]:
            label = " ".join(word for word in (name, which) if word) or place.path.stem
            result = place.open(name, which)
            notes = missing_notes(result)
            known = about.get(name or "", {})
            state = str(known.get("state") or ("partial" if notes else COMPLETE))
            changes = {key: value for key, value in known.items() if key not in (*_ABOUT, "name")} or None
            parts[label] = Part(result, state, notes, changes)
    for name in about if run is None else ():
        if name not in names:
            state = str(about[name].get("state", NOT_BEGUN))
            reason = str(about[name].get("reason", ""))
            parts[name] = Part(None, state, (reason or "Nothing of this cell is in the file.",), about[name])
    return parts


def _about(tree: hdf5.Group) -> dict[str, Mapping[str, Any]]:
    """{run: what the root of a merged file says of it}."""
    if "name" not in tree.variables:
        return {}
    rows = zip(*(variable.data.tolist() for variable in tree.variables.values()), strict=True)
    table = [dict(zip(tree.variables, row, strict=True)) for row in rows]
    return {str(row["name"]): row for row in table}
