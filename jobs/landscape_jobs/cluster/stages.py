"""Stages: jobs, sweeps and shell commands that follow one another, as TOML, for one submission.

    [[stage]]
    name = "train"
    command = "python train.py --seed 0"    # started once, in this file's folder
    options = { time = "02:00:00", gpus-per-task = 1 }

    [[stage]]
    name = "measure"
    job = "sweep.toml"                      # a job file, or a sweep
    after = ["train"]                       # starts when these have ended well
    options = { ntasks-per-node = 4 }

`options` are those of `landscape submit`, as in a site profile, and win over those of profiles. Batch script, log and
record of a command are in STEM/NAME beside this file, whose name is STEM.toml.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from landscape.errors import InputError, StoreError, nearest
from landscape.opening.runs import finished, run_stores
from landscape.run.store import RESULT
from landscape_jobs.cluster.options import checked
from landscape_jobs.cluster.script import FINISHED
from landscape_jobs.cluster.site import anchored
from landscape_jobs.spec.job import Job, parse_job
from landscape_jobs.spec.toml import TomlFile, read_toml
from landscape_jobs.sweeps.folder import named_files, text_key

_KEYS = ("name", "job", "command", "after", "options")
_NAME = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True)
class StagedJob:
    """One stage: a job (or sweep) or a shell command; one of the two is None."""

    name: str
    job: Path | None
    command: str | None
    home: Path  # where a command starts, the folder of the file of stages
    folder: Path  # of a command's batch script and record
    after: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """SHA-256 of the command, which its record holds once it has succeeded."""
        return hashlib.sha256((self.command or "").encode()).hexdigest()


def load_stages(path: str | Path | TomlFile) -> tuple[StagedJob, ...]:
    """The stages in a TOML file, each behind those it waits for, else in the file's order.

    Raises InputError for what cannot be read, unknown keys, names and options, and stages that wait for each other.
    """
    file = path if isinstance(path, TomlFile) else read_toml(path, "stages file")
    path, tables = file.path, file.content.get("stage")
    for key in file.content:
        if key != "stage":
            raise InputError(f"stages file {path}: {key!r} is unknown; it holds [[stage]] tables alone")
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise InputError(f"stages file {path} holds no stages; begin each with [[stage]]")
    stages = [_stage(table, number, path) for number, table in enumerate(tables)]
    names = [stage.name for stage in stages]
    for stage in stages:
        if names.count(stage.name) > 1:
            raise InputError(f"stages file {path}: two stages have the name {stage.name!r}; name one otherwise")
        for name in stage.after:
            if name not in names:
                raise InputError(f"stages file {path}: stage {stage.name!r} is after {name!r}; {nearest(name, names)}")
    return _ordered(stages, path)


def command_finished(stage: StagedJob) -> bool:
    """Whether the command of a stage has succeeded as it stands."""
    record = stage.folder / FINISHED
    try:
        return record.read_text(encoding="utf-8").strip() == stage.key
    except OSError:
        return False


def job_finished(job: Job) -> bool:
    """Whether a job's folder holds its finished result.

    It was made by a job of the same content, and no file that the job names has changed since. Where that cannot be
    told it is False: to run a finished job again takes seconds and changes nothing.
    """
    if not finished(job.out):
        return False
    try:
        text = str(run_stores(job.out)[0].manifest()["job"])
        same = bool(text) and text_key(parse_job(text, job.out / "run.json")) == text_key(job)
        made = (job.out / RESULT).stat().st_mtime
        # not the time of modification, which a copy may take over from the file it was made of
        return same and all(path.stat().st_ctime < made for path in named_files(job))
    except (OSError, InputError, StoreError):
        return False


def _stage(table: Mapping[str, Any], number: int, path: Path) -> StagedJob:
    name = table.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InputError(
            f"stages file {path}: name = {name!r} of stage {number + 1} cannot be used; letters, digits, '_', '.' and "
            "'-' make a name"
        )
    where = f"stages file {path}: stage {name!r}"
    for key in table:
        if key not in _KEYS:
            raise InputError(f"{where}: {key!r} is unknown; {nearest(key, _KEYS)}")
    job, command = (_text(table.get(key), key, where) for key in ("job", "command"))
    if (job is None) == (command is None):
        raise InputError(f"{where} needs one of job (a job file or a sweep) and command (a shell command)")
    after, options = table.get("after", []), table.get("options", {})
    after = [after] if isinstance(after, str) else after
    if not isinstance(after, list) or not all(isinstance(other, str) for other in after):
        raise InputError(f"{where}: after = {after!r} is not a list of names of stages")
    if not isinstance(options, dict):
        raise InputError(f"{where}: options = {options!r} is no table, such as {{ time = '01:00:00' }}")
    home = path.resolve().parent
    return StagedJob(
        name=name,
        job=None if job is None else home / Path(job).expanduser(),
        command=command,
        home=home,
        folder=home / path.stem / name,
        after=tuple(dict.fromkeys(after)),
        options=anchored({option: checked(option, value, where) for option, value in options.items()}, home),
    )


def _text(value: Any, key: str, where: str) -> str | None:
    if value is not None and not (isinstance(value, str) and value.strip()):
        raise InputError(f"{where}: {key} = {value!r} is not a text")
    return value


def _ordered(stages: Sequence[StagedJob], path: Path) -> tuple[StagedJob, ...]:
    ordered: list[StagedJob] = []
    waiting = list(stages)
    while waiting:
        placed = {stage.name for stage in ordered}
        ready = next((stage for stage in waiting if placed.issuperset(stage.after)), None)
        if ready is None:
            raise InputError(
                f"stages file {path}: {_cycle(waiting)}, so none of them could begin; leave out one `after`"
            )
        ordered.append(ready)
        waiting.remove(ready)
    return tuple(ordered)


def _cycle(waiting: Sequence[StagedJob]) -> str:
    """Stages that wait for each other, in words; each of those given waits for another of them."""
    named = {stage.name: stage for stage in waiting}
    chain = [waiting[0].name]
    while chain.count(chain[-1]) < 2:
        chain.append(next(name for name in named[chain[-1]].after if name in named))
    return " is after ".join(chain[chain.index(chain[-1]) :])
