"""How far runs are: facts read from their folders and from Slurm.

What a run's state is follows from its folder alone: its rows, the records of its attempts, its last sign of life.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from landscape.errors import StoreError
from landscape.opening.runs import run_record, run_stores
from landscape.opening.sweeps import is_sweep, sweep_cells
from landscape.results.study import study_of
from landscape.run.store import RESULT, Store
from landscape_jobs.cluster.queue import Answer, JobName, Queue, by_age, job_of
from landscape_jobs.cluster.script import FINISHED
from landscape_jobs.status.advice import advice
from landscape_jobs.status.facts import (
    COMPLETE,
    FAILED,
    NOT_BEGUN,
    STOPPED,
    UNREADABLE,
    GivenUp,
    RunsStatus,
    RunStatus,
    TaskStatus,
)
from landscape_jobs.status.reasons import brief
from landscape_jobs.status.submissions import RunFolder, Submissions, go_on, resume, submitted
from landscape_jobs.status.tasks import TaskReader

_ODD = (OSError, ValueError, LookupError, TypeError, AttributeError)  # what records of another form raise


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
        self._folders, self._queue, self._clock = tuple(folders), queue, clock
        self._tasks, self._submissions = TaskReader(steady), Submissions()
        self._finished: dict[RunFolder, RunStatus] = {}  # complete without failures, which is how they stay

    def read(self) -> RunsStatus:
        """How far the runs are now."""
        now = self._clock()
        runs = [run for folder in self._folders for run in self._runs(folder, now)]
        asked = {name for run in runs if run.state != COMPLETE for name in run.names}
        answer = self._queue.ask(asked) if asked else Answer()
        runs = [replace(run, jobs=answer.of(run.names)) if run.state != COMPLETE else run for run in runs]
        return RunsStatus(now, tuple(replace(run, advice=advice(run)) for run in runs), answer.problem)

    def _runs(self, folder: Path, now: float) -> list[RunStatus]:
        try:
            return [self._run(one, now) for one in _run_folders(folder)]
        except (StoreError, OSError) as error:  # a sweep's list of cells
            return [RunStatus(folder, UNREADABLE, str(error))]

    def _run(self, one: RunFolder, now: float) -> RunStatus:
        folder = one.folder
        if one in self._finished:
            return self._finished[one]
        names = self._submissions.jobs(one)
        run = RunStatus(folder, COMPLETE if (folder / FINISHED).is_file() else NOT_BEGUN, names=names)
        if run_record(folder) is not None:
            try:
                run = self._begun(folder, names, now)
            except StoreError as error:
                run = replace(run, state=UNREADABLE, detail=str(error))
            except _ODD as error:
                run = replace(run, state=UNREADABLE, detail=f"cannot read {folder}: {error!r}")
        if one.failure and run.state in (NOT_BEGUN, STOPPED):
            run = replace(run, state=FAILED, detail=brief(one.failure))
        if one.sweep is not None:
            again = self._submissions.go_on_with_cell(one)
            run = replace(run, sweep=one.sweep, cell=one.cell, label=one.label, go_on=again)
        if run.state in (NOT_BEGUN, STOPPED) and names:
            run = self._submissions.of_waiting(run)
        if run.state == COMPLETE and not run.given_up:
            self._finished[one] = run
        return run

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
            tasks.append(self._tasks.read(store, name, attempts, len(reasons), written, now))
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
            go_on=go_on(folder, text),
            again=resume(folder, text),
        )


def require_runs(folders: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """(run folders and sweeps, what is neither) of what a user named, in order.

    Raises StoreError for a path that does not exist, and where nothing is a run folder.
    """
    missing = next((folder for folder in folders if not folder.exists()), None)
    if missing is not None:
        raise StoreError(f"{missing} does not exist; give the folder a run was told to use")
    runs = [folder for folder in folders if is_sweep(folder) or run_record(folder) is not None or submitted(folder)]
    if not runs:
        if any(folders[0].glob("*/run.json")):
            raise StoreError(f"{folders[0]} is not a run folder, but holds some; name them, as in {folders[0]}/*")
        run_stores(folders[0])  # tells what is wrong with it
    return runs, [folder for folder in folders if folder not in runs]


def _run_folders(folder: Path) -> list[RunFolder]:
    """The run in a folder, or those of a sweep's cells."""
    if not is_sweep(folder):
        return [RunFolder(folder)]
    cells = sweep_cells(folder)
    return [RunFolder(c.folder, folder, c.number, c.label, c.failure or "", c.text) for c in cells]


def _given_up(store: Store, task: str, reasons: Mapping[int, str]) -> Iterator[GivenUp]:
    if not reasons:
        return
    description, study = store.description(), study_of(task)
    for item, reason in reasons.items():
        try:
            at = study.place(description, item)
        except _ODD:  # of an identity of another form: the number of the item is told all the same
            at = {}
        yield GivenUp(task, item, reason, store.failures.folder, at)
