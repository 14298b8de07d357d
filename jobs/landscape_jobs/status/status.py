"""How far runs are: facts read from their folders and from Slurm.

What a run's state is follows from its folder alone: its rows, the records of its attempts, its last sign of life.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shlex
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from landscape.errors import LandscapeError, StoreError
from landscape.opening.runs import run_record, run_stores
from landscape.opening.sweeps import is_sweep, sweep_cells
from landscape.results.study import study_of
from landscape.run.store import FAILURES, RESULT, Store
from landscape_jobs.cluster.queue import (
    Answer,
    JobName,
    Queue,
    QueuedJob,
    attempts_of,
    by_age,
    job_of,
    stages_file,
    submitted_as,
    waits_for,
)
from landscape_jobs.cluster.slurm import FINISHED
from landscape_jobs.cluster.submit import SUBMITTED
from landscape_jobs.sweeps.folder import text_key
from landscape_jobs.sweeps.sweep_file import parse_sweep

FORMAT = 1  # of the document

# States, and what each means.
COMPLETE = "complete"  # every row is done or given up, and the result is written
RUNNING = "running"
STOPPED = "stopped"  # by a signal or a limit, rows are left
FAILED = "failed"
SILENT = "silent"  # no end was recorded, and no sign of life for long: killed, or its node is lost
NOT_BEGUN = "not begun"
UNREADABLE = "unreadable"  # its folder is damaged
_AHEAD = "Its last sign of life is dated in the future: a clock was set back, or two machines' clocks differ"
_LONGEST = 200  # characters of a reason in advice
_SILENCE = 60.0  # seconds; a run gives a sign of life every ten
_BEATS = 15.0  # seconds; ranks that go on without rank 0 are heard within them


@dataclass(frozen=True)
class GivenUp:
    """An item that failed too often: its row stays masked."""

    task: str
    item: int
    reason: str
    failures: Path  # the folder of what is known of it; without that it is tried again
    place: Mapping[str, float | str] = field(default_factory=dict)  # where it is: coordinates, a layer, two models


@dataclass(frozen=True)
class TaskStatus:
    """How far one task of a run is; None is unknown, or means nothing in its state."""

    task: str
    items: int  # in all rounds so far
    done: int  # rows in the folder
    failed: int  # items given up
    state: str
    detail: str = ""  # how it stopped or failed
    rate: float | None = None  # rows per second of the running attempt, all ranks together
    remaining: float | None = None  # seconds
    note: str = ""  # how far the item in hand is
    heartbeat_age: float | None = None  # seconds since the last sign of life of an attempt whose end is not recorded
    attempts: int = 0
    ranks: int | None = None  # of the last attempt, as all below
    nodes: tuple[str, ...] = ()
    started: str | None = None  # UTC, ISO 8601
    ended: str | None = None
    restarts: int | None = None  # of its Slurm job when it began

    @property
    def left(self) -> int:
        """Items neither done nor given up."""
        return self.items - self.done - self.failed


@dataclass(frozen=True)
class RunStatus:
    """How far a run is. `tasks` is empty where it has not begun or cannot be read."""

    folder: Path
    state: str  # of its first task that is not complete
    detail: str = ""
    tasks: tuple[TaskStatus, ...] = ()
    result: Path | None = None  # once it is complete
    given_up: tuple[GivenUp, ...] = ()
    names: tuple[JobName, ...] = ()  # of its Slurm jobs, oldest first
    jobs: tuple[QueuedJob, ...] = ()  # those that Slurm knows
    go_on: str = ""  # what goes on with it
    again: str = ""  # what tries items again that were given up, once it is forgotten that they failed
    after: tuple[str, ...] = ()  # numbers of jobs that its newest job was to wait for
    stages: str = ""  # what submits again those it waited for, and it
    log: Path | None = None  # of its newest job, once there is one
    sweep: Path | None = None  # the sweep it is a cell of
    cell: int | None = None
    label: str = ""  # of the cell

    @property
    def active(self) -> bool:
        """Whether anything may still change without a user: it runs, or a job of it waits or runs."""
        return self.state == RUNNING or (self.state != COMPLETE and any(job.active for job in self.jobs))

    @property
    def advice(self) -> str:
        """What a user may want to do about it; "" for nothing."""
        if self.state == UNREADABLE or (self.state == RUNNING and self.detail == _AHEAD):
            return self.detail
        if self.state in (COMPLETE, RUNNING):
            return ""
        waiting = next((job for job in self.jobs if job.active), None)
        if self.state == SILENT:
            how = f"{self.detail}, killed" if self.detail else "killed, or its node is lost"
            cause = f"It ended without a word: {how}"
            if waiting is not None and waiting.state == "RUNNING":
                return f"{cause}, or it hangs, since Slurm still runs its job {waiting.name}; see the job's log"
            return f"{cause}. " + (f"Job {waiting.name} goes on with it" if waiting else self._going_on)
        reason = f"{_sentence(self.detail)}. " if self.state == FAILED and self.detail else ""
        if waiting is not None:
            return reason.strip()
        newest = next((job for job in self.jobs if self.names and job.is_of(self.names[-1])), None)
        if newest is not None and newest.in_vain and self.state in (NOT_BEGUN, STOPPED):
            other = f"job {' or '.join(self.after)}" if self.after else "another job"
            told = f"Its job {newest.name.number} was cancelled before it began: {other}, which it waited for, failed"
            again = self.stages or "the same stages again"
            return f"{told} or was cancelled. Mend that first, then go on with: {again}"
        if self.state == NOT_BEGUN and self.sweep is None:
            see = f"; see {self.log}" if self.log is not None else ""
            if newest is None and self.names:  # it may be queued for all that is known
                told = f"Nothing was computed, and Slurm tells nothing of its job {self.names[-1]}{see}. "
                return told + (f"Where it is not queued, go on with: {self.go_on}" if self.go_on else "")
            ended = f"Its job {newest.name} is {newest.state}, and n" if newest is not None else "N"
            return f"{ended}othing was computed{see}. {self._going_on}".strip()
        return reason + self._going_on

    @property
    def _going_on(self) -> str:
        if not self.go_on:
            return ""
        return f"{'Mend the cause first, then go' if self.state == FAILED else 'Go'} on with: {self.go_on}"


@dataclass(frozen=True)
class RunsStatus:
    """What is known of several runs at one moment."""

    when: float  # POSIX seconds
    runs: tuple[RunStatus, ...]
    problem: str = ""  # why Slurm told nothing

    @property
    def active(self) -> bool:
        """Whether anything may still change without a user, as far as is known."""
        return any(run.active or (self.problem and run.names and run.state != COMPLETE) for run in self.runs)


@dataclass(frozen=True)
class _Place:
    """A run folder to be read, and the cell of a sweep it is."""

    folder: Path
    sweep: Path | None = None
    cell: int | None = None
    label: str = ""
    failure: str = ""  # why the sweep has no such run
    text: str = ""  # key of the cell's text


class Reader:
    """Reads the same runs again and again, of their shards only the new ones.

    `clock` gives POSIX seconds, `steady` seconds that never jump.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        queue: Queue,
        *,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folders, self._queue = tuple(folders), queue
        self._clock, self._steady = clock, steady
        self._shards: dict[Path, dict[str, npt.NDArray[np.int64]]] = {}  # folder of a task -> its shards
        self._beats: dict[Path, tuple[float, float | None]] = {}  # -> its last beat, and when that was seen to come
        self._arrays: dict[Path, dict[str, str]] = {}  # record of a submission -> key of a cell's text -> task
        self._elsewhere: dict[Path, dict[JobName, Path]] = {}  # sweep -> job -> the folder that its cell was begun in
        self._stages: dict[Path, Path | None] = {}  # folder of a run or sweep -> the file of stages it is one of
        self._finished: dict[_Place, RunStatus] = {}  # complete without failures, which is how they stay

    def read(self) -> RunsStatus:
        """How far the runs are now."""
        now = self._clock()
        runs = [run for folder in self._folders for run in self._runs(folder, now)]
        asked = {name for run in runs if run.state != COMPLETE for name in run.names}
        answer = self._queue.ask(asked) if asked else Answer()
        runs = [replace(run, jobs=answer.of(run.names)) if run.state != COMPLETE else run for run in runs]
        return RunsStatus(now, tuple(runs), answer.problem)

    def _runs(self, folder: Path, now: float) -> list[RunStatus]:
        try:
            return [self._run(place, now) for place in self._places(folder)]
        except (StoreError, OSError) as error:  # a sweep's list of cells
            return [RunStatus(folder, UNREADABLE, str(error))]

    def _run(self, place: _Place, now: float) -> RunStatus:
        folder = place.folder
        if place in self._finished:
            return self._finished[place]
        names = self._job_names(place)
        run = RunStatus(folder, COMPLETE if (folder / FINISHED).is_file() else NOT_BEGUN, names=names)
        if run_record(folder) is not None:
            try:
                run = self._begun(folder, names, now)
            except StoreError as error:
                run = replace(run, state=UNREADABLE, detail=str(error))
            except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:  # records of another form
                run = replace(run, state=UNREADABLE, detail=f"cannot read {folder}: {error!r}")
        if place.failure and run.state in (NOT_BEGUN, STOPPED):
            run = replace(run, state=FAILED, detail=brief(place.failure))
        if place.sweep is not None:
            go_on = self._sweep_go_on(place)
            run = replace(run, sweep=place.sweep, cell=place.cell, label=place.label, go_on=go_on)
        if run.state in (NOT_BEGUN, STOPPED) and names:
            run = self._waiting(run)
        if run.state == COMPLETE and not run.given_up:
            self._finished[place] = run
        return run

    def _places(self, folder: Path) -> list[_Place]:
        if not is_sweep(folder):
            return [_Place(folder)]
        cells = sweep_cells(folder)
        if folder not in self._elsewhere:
            self._elsewhere[folder] = attempts_of(folder)
        return [_Place(c.folder, folder, c.number, c.label, c.failure or "", c.text) for c in cells]

    def _job_names(self, place: _Place) -> tuple[JobName, ...]:
        """The Slurm jobs that were submitted for a run, oldest first; of a sweep a cell is a task of an array."""
        names = []
        if place.sweep is not None:
            elsewhere = self._elsewhere[place.sweep]
            for path in _submissions(place.sweep):
                task = self._tasks(path).get(place.text)
                name = None if task is None else submitted_as(path, task)
                # a file of tensors that the cell names may have changed since, so that the job computed another run
                if name is not None and elsewhere.get(replace(name, cluster=""), place.folder) == place.folder:
                    names.append(name)
        names += [name for path in _submissions(place.folder) if (name := submitted_as(path)) is not None]
        return by_age(names)

    def _tasks(self, record: Path) -> dict[str, str]:
        """Key of a cell's text -> its task of the array, of the sweep as it was when it was submitted."""
        if record not in self._arrays:
            tasks: dict[str, str] = {}
            text = record.with_suffix(".toml")
            with contextlib.suppress(OSError, ValueError, LandscapeError):
                for cell in parse_sweep(text.read_text(encoding="utf-8"), text).cells:
                    tasks.setdefault(text_key(cell.job), str(cell.number))  # those that are alike are computed once
            self._arrays[record] = tasks
        return self._arrays[record]

    def _sweep_go_on(self, place: _Place) -> str:
        """What goes on with a cell: the newest submission only where it has this cell."""
        sweep = place.sweep or place.folder
        newest = _submissions(sweep)[-1:]
        if newest and place.text in self._tasks(newest[0]):
            return _submit(newest[0].with_suffix(".toml"))
        return f"landscape resume {shlex.quote(str(sweep))}"

    def _waiting(self, run: RunStatus) -> RunStatus:
        """A run with what is known of its newest submission."""
        home = run.sweep or run.folder
        newest = (_submissions(home) or _submissions(run.folder))[-1:]
        if not newest:
            return run
        script, log, text = (newest[0].with_suffix(ending) for ending in (".sh", ".log", ".toml"))
        with contextlib.suppress(OSError, ValueError):
            run = replace(run, after=waits_for(script.read_text(encoding="utf-8")))
        if run.after or not text.exists():  # a command is a stage in any case
            if home not in self._stages:
                self._stages[home] = stages_file(home, newest[0])
            stages = self._stages[home]
            run = replace(run, stages=_submit(stages) if stages is not None else "")
        go_on = run.go_on or run.stages or (_submit(text) if text.exists() else "")
        return replace(run, log=log if log.is_file() else None, go_on=go_on)

    def _begun(self, folder: Path, names: tuple[JobName, ...], now: float) -> RunStatus:
        stores = run_stores(folder)
        result = folder / RESULT if (folder / RESULT).is_file() else None
        tasks: list[TaskStatus] = []
        given_up: list[GivenUp] = []
        jobs = list(names)
        for store in stores:
            name = store.description().name
            attempts = store.attempts.all()
            reasons = store.failed()
            written = result is not None or store is not stores[-1]
            tasks.append(self._task(store, name, attempts, len(reasons), written, now))
            given_up += _given_up(store, name, reasons)
            cluster = names[-1].cluster if names else ""
            jobs += [job for record in attempts if (job := job_of(record, cluster)) is not None]
        text = str(stores[-1].manifest()["job"])
        first = next((task for task in tasks if task.state != COMPLETE), tasks[-1])
        return RunStatus(
            folder,
            first.state,
            first.detail,
            tuple(tasks),
            result if first.state == COMPLETE else None,
            tuple(given_up),
            by_age(jobs),
            go_on=_go_on(folder, text),
            again=_resume(folder, text),
        )

    def _task(
        self,
        store: Store,
        name: str,
        attempts: Sequence[Mapping[str, Any]],
        failed: int,
        written: bool,
        now: float,
    ) -> TaskStatus:
        done = store.done_items(self._shards.setdefault(store.folder, {}))
        left = len(done) - int(done.sum()) - failed
        status = TaskStatus(name, len(done), int(done.sum()), failed, COMPLETE, attempts=len(attempts))
        if not attempts:
            return status if left == 0 and written else replace(status, state=NOT_BEGUN)
        last = attempts[-1]
        status = replace(
            status,
            ranks=last.get("ranks"),
            nodes=tuple(last.get("nodes") or [last["host"]]),
            started=last["started"],
            ended=last.get("ended"),
            restarts=last.get("slurm", {}).get("restart"),
        )
        if left == 0 and written:
            return status
        if "failure" in last:
            return replace(status, state=FAILED, detail=_why(str(last["failure"])))
        if "ended" in last:
            return replace(status, **_ended(last, left, now))
        beat = store.attempts.beat()
        age = self._age(store.folder, beat.when if beat is not None else _seconds(last["started"]), now)
        gone = _gone(last)
        if gone and (last.get("ranks") == 1 or age is None or age > _BEATS) and "ended" not in store.attempts.all()[-1]:
            return replace(status, state=SILENT, heartbeat_age=age, detail=f"its process {last['process']} is gone")
        if age is not None and age > _SILENCE:
            return replace(status, state=SILENT, heartbeat_age=age)
        status = replace(status, state=RUNNING, heartbeat_age=age, detail="" if age is not None else _AHEAD)
        if beat is None:
            return status
        rate = _positive(beat.computed, beat.elapsed)
        remaining = _positive(beat.total - beat.done - beat.failed, rate or 0.0)
        if remaining is not None:
            remaining = max(0.0, remaining - (age or 0.0))
        return replace(status, rate=rate, remaining=remaining, note=beat.note)

    def _age(self, folder: Path, beat: float, now: float) -> float | None:
        """Seconds since the last sign of life; None where it is dated in the future, as by a clock that was set back.

        Of a beat that came while this looked on, the clock of the machine that gave it does not matter.
        """
        known, came = self._beats.get(folder, (beat, None))
        if beat != known:
            came = self._steady()
        self._beats[folder] = (beat, came)
        if came is not None:
            return max(0.0, self._steady() - came)
        age = now - beat
        return max(0.0, age) if age >= -_SILENCE else None


def require_runs(folders: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """(run folders and sweeps, what is neither) of what a user named, in order.

    Raises StoreError for a path that does not exist, and where nothing is a run folder.
    """
    missing = next((folder for folder in folders if not folder.exists()), None)
    if missing is not None:
        raise StoreError(f"{missing} does not exist; give the folder a run was told to use")
    runs = [folder for folder in folders if is_sweep(folder) or run_record(folder) is not None or _submissions(folder)]
    if not runs:
        if any(folders[0].glob("*/run.json")):
            raise StoreError(f"{folders[0]} is not a run folder, but holds some; name them, as in {folders[0]}/*")
        run_stores(folders[0])  # tells what is wrong with it
    return runs, [folder for folder in folders if folder not in runs]


def document(report: RunsStatus) -> dict[str, Any]:
    """A report as plain JSON values. Numbers are numbers, seconds are seconds, null is unknown.

        format, time (POSIX seconds), slurm_problem (why Slurm told nothing, or null)
        runs[]        run (its folder), sweep, cell, label (null outside a sweep), state, detail, result (path), active
                      (whether it may still change by itself), advice (what to do), go_on (what goes on with it)
          tasks[]     task, state, detail, items, done, left, failed, rate (rows per second), remaining (seconds), note,
                      heartbeat_age (seconds), ranks, nodes[], attempts, started, ended (ISO 8601), restarts
          given_up[]  task, item, coordinates {axis: number, or what: name; null where the
                      number says it all}, reason
          jobs[]      job, array_task, cluster, state, reason, restarts; state is null for a job Slurm does not know
        total         runs, states {state: runs}, not_begun (runs that have not begun or cannot be read), items, done,
                      left, failed (of the runs that have begun)

    States are complete (also with items given up), running, stopped, failed, silent, not begun, unreadable.
    """
    return {
        "format": FORMAT,
        "time": report.when,
        "slurm_problem": report.problem or None,
        "runs": [_run_document(run) for run in report.runs],
        "total": total(report.runs),
    }


def total(runs: Sequence[RunStatus]) -> dict[str, Any]:
    """Sums over runs: how many there are in each state, and the rows of those that have begun."""
    tasks = [task for run in runs for task in run.tasks]
    sums = {key: sum(getattr(task, key) for task in tasks) for key in ("items", "done", "left", "failed")}
    not_begun = sum(not run.tasks and run.state != COMPLETE for run in runs)
    return {"runs": len(runs), "states": dict(Counter(run.state for run in runs)), "not_begun": not_begun, **sums}


def _run_document(run: RunStatus) -> dict[str, Any]:
    known = {job.name for job in run.jobs}
    unknown = [name for name in run.names if not any(job.is_of(name) for job in run.jobs) and name not in known]
    return {
        "run": str(run.folder),
        "sweep": None if run.sweep is None else str(run.sweep),
        "cell": run.cell,
        "label": run.label or None,
        "state": run.state,
        "detail": run.detail or None,
        "result": None if run.result is None else str(run.result),
        "active": run.active,
        "advice": run.advice or None,
        "go_on": run.go_on or None,
        "tasks": [_task_document(task) for task in run.tasks],
        "given_up": [
            {"task": one.task, "item": one.item, "coordinates": dict(one.place) or None, "reason": one.reason}
            for one in run.given_up
        ],
        "jobs": [
            *(_job_document(name, None) for name in unknown),
            *(_job_document(job.name, job) for job in run.jobs),
        ],
    }


def _task_document(task: TaskStatus) -> dict[str, Any]:
    keys = ("task", "state", "items", "done", "left", "failed", "rate", "remaining", "heartbeat_age", "ranks")
    texts = {"detail": task.detail or None, "note": task.note or None, "nodes": list(task.nodes)}
    last = ("attempts", "started", "ended", "restarts")
    return {**{key: getattr(task, key) for key in keys}, **texts, **{key: getattr(task, key) for key in last}}


def _job_document(name: JobName, job: QueuedJob | None) -> dict[str, Any]:
    return {
        "job": name.number,
        "array_task": int(name.array_task) if name.array_task else None,
        "cluster": name.cluster or None,
        "state": job.state if job else None,
        "reason": (job.reason or None) if job else None,
        "restarts": job.restarts if job else None,
    }


def _given_up(store: Store, task: str, reasons: Mapping[int, str]) -> Iterator[GivenUp]:
    if not reasons:
        return
    description = store.description()
    place = study_of(task).place
    for item, reason in reasons.items():
        yield GivenUp(task, item, reason, store.folder / FAILURES, place(description, item))


def _gone(last: Mapping[str, Any]) -> bool:
    """Whether rank 0 of an attempt ran on this machine and does not any more."""
    process = last.get("process")
    if last.get("host") != socket.gethostname() or not isinstance(process, int) or process <= 0:
        return False
    try:
        os.kill(process, 0)  # which sends nothing
    except OSError as error:
        return isinstance(error, ProcessLookupError)
    return False


def _ended(last: Mapping[str, Any], left: int, now: float) -> dict[str, Any]:
    """State and detail of a task whose last attempt ended by itself."""
    if left == 0:  # what follows its rows, their file or the next task, takes a moment
        fresh = abs(now - _seconds(last["ended"])) <= _SILENCE
        detail = "its result is being written" if fresh else "before its result was written"
        return {"state": RUNNING if fresh else STOPPED, "detail": detail}
    signal = last.get("signal")
    return {"state": STOPPED, "detail": f"by {signal}" if signal else "at a limit of items"}


def _submissions(folder: Path) -> list[Path]:
    """Records of what was submitted for a folder, oldest first."""
    return sorted((folder / SUBMITTED).glob("*.json"))


def _submit(file: Path) -> str:
    return f"landscape submit {shlex.quote(str(file))}"


def _go_on(folder: Path, job: str) -> str:
    """What goes on with a run: submitted again, resumed here, or made again by the program that began it."""
    submitted = sorted((folder / SUBMITTED).glob("*.toml"))
    if submitted:
        return _submit(submitted[-1])
    return _resume(folder, job)


def _resume(folder: Path, job: str) -> str:
    if job:
        return f"landscape resume {shlex.quote(str(folder))}"
    return "the program that made it; rows that are there are not computed again"


def _positive(numerator: float, denominator: float) -> float | None:
    """A ratio above 0, None where it is none or not finite."""
    ratio = numerator / denominator if denominator else 0.0
    return ratio if 0 < ratio < math.inf else None


def _seconds(when: str) -> float:
    moment = datetime.fromisoformat(when)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def brief(reason: str) -> str:
    """A reason in one line: of a traceback what was raised, of other texts the first line.

    >>> brief("rank 3 failed:\\nTraceback (most recent call last):\\n  File ...\\nValueError: no")
    'ValueError: no'
    """
    head, traceback, rest = reason.partition("Traceback (most recent call last):")
    lines = (rest if traceback else head).strip().splitlines() or [""]
    return lines[-1 if traceback else 0].strip()


def _sentence(reason: str) -> str:
    """The first sentence of a reason, without its full stop, cut where it is long.

    >>> _sentence("a.pt cannot be read. It was cut.")
    'a.pt cannot be read'
    """
    first = re.split(r"(?<=\w{2}[^\s.])[.;](?=\s|$)", reason.strip(), maxsplit=1)[0].rstrip(" .:;")
    return first if len(first) <= _LONGEST else f"{first[:_LONGEST].rpartition(' ')[0] or first[:_LONGEST]} ..."


def _why(failure: str) -> str:
    """Why an attempt failed, in one line: what was raised, and where item after item failed, that.

    >>> _why("rank 0 failed; rows finished before are kept:\\n5 items failed one after another, the last so:\\nno")
    '5 items failed one after another, the last so: no'
    """
    text = re.sub(r"\Arank \d+ failed;[^\n]*:\n", "", failure)
    items = re.match(r"([^\n]* failed[^\n]*, the last[^\n]* so:)\n", text)
    return f"{items[1]} {brief(text[items.end() :])}" if items else brief(text)
