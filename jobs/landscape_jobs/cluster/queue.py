"""What Slurm says of jobs: squeue for those it still knows, sacct for older ones; and which jobs runs were given to.

Where there is no Slurm, nothing is said; where it does not answer within seconds, that is said instead. Source:
squeue(1), sacct(1) of Slurm 22.05.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from landscape.errors import LandscapeError, StoreError
from landscape.run.records import TABLE, TEXT, or_none, read_record
from landscape_jobs.cluster.stages import load_stages
from landscape_jobs.spec.toml import STAGES, read_toml

_PATIENCE = 5.0  # seconds for an answer
_ASK_EVERY = 15.0  # seconds: a controller serves everybody
_FIELDS = ("JobID", "ArrayJobID", "ArrayTaskID", "State", "Reason", "RestartCnt")  # of squeue
_WIDTH = 64  # characters of each field; squeue may cut them at 20 where none is given

# Codes of states that a job does not leave by itself; of all others it is waiting, running, or about to end.
_ENDED = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "LAUNCH_FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "RECONFIG_FAIL",
    "REVOKED",
    "TIMEOUT",
}


@dataclass(frozen=True, order=True)
class JobName:
    """A job, or one task of a job array, by the numbers Slurm gave."""

    number: str  # of a task of a job array: the array's number, or its own
    array_task: str = ""
    cluster: str = ""  # "" for the one at hand

    def __str__(self) -> str:
        return self.number + (f"_{self.array_task}" if self.array_task else "")


@dataclass(frozen=True)
class QueuedJob:
    """What Slurm says of one job, or of one task of a job array."""

    name: JobName  # of a task of a job array by the array's number
    own_number: str  # a task of an array gets one, too, when it begins
    state: str  # in Slurm's words: PENDING, RUNNING, COMPLETED, ...
    reason: str = ""  # why it waits, or how it failed
    restarts: int | None = None

    @property
    def active(self) -> bool:
        """Whether it waits, runs, or is about to end."""
        return self.state not in _ENDED

    @property
    def in_vain(self) -> bool:
        """Whether it was cancelled while it waited for another job, as when that one fails."""
        return self.state == "CANCELLED" and self.reason.startswith("Dependency")

    def is_of(self, name: JobName) -> bool:
        """Whether this is the job `name`, or a task of the array `name`."""
        if name.cluster != self.name.cluster:
            return False
        if name.number == self.own_number != self.name.number:
            return True
        return name.number == self.name.number and name.array_task in ("", self.name.array_task)


@dataclass(frozen=True)
class Answer:
    """What is known of the jobs that were asked for, and why no more is."""

    jobs: tuple[QueuedJob, ...] = ()
    problem: str = ""

    def of(self, names: Collection[JobName]) -> tuple[QueuedJob, ...]:
        """Those of the jobs that `names` name, each once, in the order of the names."""
        return tuple(dict.fromkeys(job for name in names for job in self.jobs if job.is_of(name)))


class Queue:
    """Slurm, asked at most every quarter of a minute for the same jobs.

    `environment` is that of the commands, `steady` gives seconds that never jump.
    """

    def __init__(self, environment: Mapping[str, str], *, steady: Callable[[], float] = time.monotonic) -> None:
        # SQUEUE_USERS, SACCT_FORMAT and their like would change what is answered
        self._environment = {k: v for k, v in environment.items() if not k.startswith(("SQUEUE_", "SACCT_"))}
        self._steady = steady
        self._answered: frozenset[JobName] = frozenset()
        self._answer = Answer()
        self._when = 0.0

    def ask(self, names: Collection[JobName]) -> Answer:
        """What Slurm says of these jobs, now or a few seconds ago; never raises."""
        asked = frozenset(names)
        if asked and (asked != self._answered or self._steady() - self._when >= _ASK_EVERY):
            self._answer = self._asked(asked)
            self._answered, self._when = asked, self._steady()
        return self._answer

    def _asked(self, names: frozenset[JobName]) -> Answer:
        jobs: list[QueuedJob] = []
        problems: list[str] = []
        for cluster in sorted({name.cluster for name in names}):
            mine = [name for name in names if name.cluster == cluster]
            text, problem = self._run(squeue_command(mine, cluster))
            found = list(squeue_jobs(text, cluster))
            older = [name for name in mine if not any(job.is_of(name) for job in found)]
            if older:
                found += sacct_jobs(self._run(sacct_command(older, cluster))[0], cluster)  # many sites keep no accounts
            jobs += found
            problems += [problem] if problem else []
        return Answer(tuple(jobs), "; ".join(problems))

    def _run(self, command: Sequence[str]) -> tuple[str, str]:
        """(what it wrote, why it failed or "")."""
        if shutil.which(command[0], path=self._environment.get("PATH")) is None:
            return "", ""
        try:
            done = subprocess.run(
                command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_PATIENCE,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return "", f"{command[0]} did not answer in {_PATIENCE:.0f} s"
        except OSError as error:
            return "", f"{command[0]} cannot be started: {error}"
        words = done.stderr.strip().splitlines()
        unknown = "Invalid job id" in done.stderr  # all the jobs asked for ended some minutes ago
        return done.stdout, words[-1] if done.returncode and words and not unknown else ""


def squeue_command(names: Collection[JobName], cluster: str) -> list[str]:
    """The command that tells of jobs in the queue, and of those that ended in the last minutes."""
    fields = ",".join(f"{name}:{_WIDTH}|" for name in _FIELDS)
    return ["squeue", "--noheader", "--array", "--states=all", *_which(names, cluster), f"--Format={fields}"]


def sacct_command(names: Collection[JobName], cluster: str) -> list[str]:
    """The command that tells of jobs long since ended, where a site keeps accounts."""
    options = ["--noheader", "--parsable2", "--allocations", "--format=JobID,JobIDRaw,State"]
    return ["sacct", *options, *_which(names, cluster)]


def _which(names: Collection[JobName], cluster: str) -> list[str]:
    numbers = sorted({name.number for name in names})
    return [f"--jobs={','.join(numbers)}", *([f"--clusters={cluster}"] if cluster else [])]


def squeue_jobs(text: str, cluster: str = "") -> Iterator[QueuedJob]:
    """The jobs in an answer to `squeue_command`; lines of another form, as the cluster's name, are passed over.

    >>> [job] = squeue_jobs("17 |12 |3 |PENDING |Priority |1 |")
    >>> str(job.name), job.own_number, job.state, job.reason, job.restarts
    ('12_3', '17', 'PENDING', 'Priority', 1)
    """
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) != len(_FIELDS) + 1 or not cells[0].isdecimal():
            continue
        own, number, task, state, reason, restarts, _ = cells
        task = task if task.isdecimal() else ""  # N/A of a job that is no array
        kept = state in ("COMPLETED", "CANCELLED")  # which keep why they waited
        if reason in ("None", "N/A") or (kept and not (state == "CANCELLED" and reason.startswith("Dependency"))):
            reason = ""
        restarted = int(restarts) if restarts.isdecimal() else None
        yield QueuedJob(JobName(number or own, task, cluster), own, state, reason, restarted)


def sacct_jobs(text: str, cluster: str = "") -> Iterator[QueuedJob]:
    """The jobs in an answer to `sacct_command`; tasks of an array that have not begun are passed over.

    >>> [job] = sacct_jobs("12_3|17|CANCELLED by 1000")
    >>> str(job.name), job.own_number, job.state, job.active
    ('12_3', '17', 'CANCELLED', False)
    """
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) != 3 or not cells[1].isdecimal() or not cells[2]:
            continue
        number, _, task = cells[0].partition("_")
        if number.isdecimal() and (not task or task.isdecimal()):
            yield QueuedJob(JobName(number, task, cluster), cells[1], cells[2].split()[0])


def submitted_as(path: Path, task: str = "") -> JobName | None:
    """The Slurm job that a record of a submission tells of; None where it cannot be read."""
    with contextlib.suppress(StoreError):
        record = read_record(path, {"job_id": TEXT}, {"cluster": or_none(TEXT)}, way="")
        return JobName(record["job_id"], task, record.get("cluster") or "")
    return None


def job_of(record: Mapping[str, Any], cluster: str) -> JobName | None:
    """The Slurm job that an attempt was made by."""
    slurm = record.get("slurm")
    if not slurm or not slurm.get("job"):
        return None
    return JobName(str(slurm["job"]), str(slurm.get("array_task") or ""), cluster)


def by_age(names: Sequence[JobName]) -> tuple[JobName, ...]:
    """Jobs, each once, oldest first, by the numbers that Slurm counts up."""
    return tuple(sorted(dict.fromkeys(names), key=lambda name: int(name.number) if name.number.isdecimal() else 0))


def waits_for(script: str) -> tuple[str, ...]:
    """The numbers of the jobs that are to end before a batch script starts.

    >>> waits_for("#SBATCH --dependency=afterok:20:21,afterany:7\\n")
    ('20', '21', '7')
    """
    found = re.search(r"^#SBATCH --dependency=(\S+)", script, flags=re.MULTILINE)
    return tuple(re.findall(r"\d+", found[1])) if found else ()


def stages_file(folder: Path, record: Path) -> Path | None:
    """The file of stages that made a submission for a folder, as far as it can be found beside the job."""
    with contextlib.suppress(OSError, ValueError, LandscapeError, TypeError):
        text = record.with_suffix(".toml")
        if not text.exists():  # a command's folder is STEM/NAME beside STEM.toml
            stem = folder.absolute().parent
            file = stem.with_name(f"{stem.name}.toml")
            return file if read_toml(file).kind == STAGES else None
        content = read_toml(text).content
        beside = Path(str(content.get("job", content)["folder"]))
        for file in sorted(beside.glob("*.toml")):
            with contextlib.suppress(LandscapeError):
                found = read_toml(file)
                stages = load_stages(found) if found.kind == STAGES else ()
                if any(_out(stage.job) == folder.resolve() for stage in stages if stage.job is not None):
                    return file
    return None


def _out(file: Path) -> Path:
    """The folder of a job file's run, or of a sweep."""
    content = read_toml(file).content
    run = content.get("run", {})
    out = content.get("out") or (run.get("out") if isinstance(run, dict) else None)
    return (file.parent / str(content.get("folder", "")) / Path(str(out)).expanduser()).resolve()


def attempts_of(sweep: Path) -> dict[JobName, Path]:
    """Job -> the run folder in a sweep that an attempt of it was made in, its cluster left out."""
    found: dict[JobName, Path] = {}
    for path in (*sweep.glob("*/attempts/*.json"), *sweep.glob("*/*/attempts/*.json")):
        with contextlib.suppress(StoreError):
            name = job_of(read_record(path, {}, {"slurm": TABLE}, way=""), "")
            if name is not None:
                found[name] = sweep / path.relative_to(sweep).parts[0]
    return found
