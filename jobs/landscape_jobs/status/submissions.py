"""What was submitted to Slurm for runs, read from the records beside them, and what goes on with a run."""

from __future__ import annotations

import contextlib
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from landscape.errors import LandscapeError
from landscape_jobs.cluster.queue import JobName, attempts_of, by_age, stages_file, submitted_as, waits_for
from landscape_jobs.cluster.submit import SUBMITTED
from landscape_jobs.status.facts import RunStatus
from landscape_jobs.sweeps.folder import text_key
from landscape_jobs.sweeps.sweep_file import parse_sweep


@dataclass(frozen=True)
class RunFolder:
    """A run folder, and the cell of a sweep it is."""

    folder: Path
    sweep: Path | None = None
    cell: int | None = None
    label: str = ""
    failure: str = ""  # why the sweep has no such run
    text: str = ""  # key of the cell's text


class Submissions:
    """Records of submissions, read as often as they are asked for; what cannot change in them is kept."""

    def __init__(self) -> None:
        self._arrays: dict[Path, dict[str, str]] = {}  # record of a submission -> key of a cell's text -> task
        self._elsewhere: dict[Path, dict[JobName, Path]] = {}  # sweep -> job -> the folder that its cell was begun in
        self._stages: dict[Path, Path | None] = {}  # folder of a run or sweep -> the file of stages it is one of

    def jobs(self, run: RunFolder) -> tuple[JobName, ...]:
        """The Slurm jobs that were submitted for a run, oldest first; of a sweep a cell is a task of an array."""
        names = []
        if run.sweep is not None:
            if run.sweep not in self._elsewhere:
                self._elsewhere[run.sweep] = attempts_of(run.sweep)
            elsewhere = self._elsewhere[run.sweep]
            for path in submitted(run.sweep):
                task = self._tasks(path).get(run.text)
                name = None if task is None else submitted_as(path, task)
                # a file of tensors that the cell names may have changed since, so that the job computed another run
                if name is not None and elsewhere.get(replace(name, cluster=""), run.folder) == run.folder:
                    names.append(name)
        names += [name for path in submitted(run.folder) if (name := submitted_as(path)) is not None]
        return by_age(names)

    def go_on_with_cell(self, run: RunFolder) -> str:
        """What goes on with a cell: the newest submission only where it has this cell."""
        sweep = run.sweep or run.folder
        newest = submitted(sweep)[-1:]
        if newest and run.text in self._tasks(newest[0]):
            return _submit(newest[0].with_suffix(".toml"))
        return f"landscape resume {shlex.quote(str(sweep))}"

    def of_waiting(self, run: RunStatus) -> RunStatus:
        """A run with what is known of its newest submission."""
        home = run.sweep or run.folder
        newest = (submitted(home) or submitted(run.folder))[-1:]
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


def submitted(folder: Path) -> list[Path]:
    """Records of what was submitted for a folder, oldest first."""
    return sorted((folder / SUBMITTED).glob("*.json"))


def go_on(folder: Path, job: str) -> str:
    """What goes on with a run: submitted again, resumed here, or made again by the program that began it."""
    files = sorted((folder / SUBMITTED).glob("*.toml"))
    return _submit(files[-1]) if files else resume(folder, job)


def resume(folder: Path, job: str) -> str:
    """What goes on here with a run that has this job text."""
    if job:
        return f"landscape resume {shlex.quote(str(folder))}"
    return "the program that made it; rows that are there are not computed again"


def _submit(file: Path) -> str:
    return f"landscape submit {shlex.quote(str(file))}"
