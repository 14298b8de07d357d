"""What is known of runs: their states, how far their tasks are, what was given up, and their jobs of Slurm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from landscape_jobs.cluster.queue import JobName, QueuedJob

# States, and what each means.
COMPLETE = "complete"  # every row is done or given up, and the result is written
RUNNING = "running"
STOPPED = "stopped"  # by a signal or a limit, rows are left
FAILED = "failed"
SILENT = "silent"  # no end was recorded, and no sign of life for long: killed, or its node is lost
NOT_BEGUN = "not begun"
UNREADABLE = "unreadable"  # its folder is damaged
AHEAD = "Its last sign of life is dated in the future: a clock was set back, or two machines' clocks differ"


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
    advice: str = ""  # what a user may want to do about it

    @property
    def active(self) -> bool:
        """Whether anything may still change without a user: it runs, or a job of it waits or runs."""
        return self.state == RUNNING or (self.state != COMPLETE and any(job.active for job in self.jobs))


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
