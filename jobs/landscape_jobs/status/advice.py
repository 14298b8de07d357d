"""What a user may want to do about a run, by its state and by what Slurm says of its jobs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from landscape_jobs.cluster.queue import QueuedJob
from landscape_jobs.status.facts import (
    AHEAD,
    COMPLETE,
    FAILED,
    NOT_BEGUN,
    RUNNING,
    SILENT,
    STOPPED,
    UNREADABLE,
    RunStatus,
)
from landscape_jobs.status.reasons import sentence


def advice(run: RunStatus) -> str:
    """What a user may want to do about a run; "" for nothing."""
    return _OF_STATE[run.state](run)


def _of_complete(run: RunStatus) -> str:
    return ""


def _of_running(run: RunStatus) -> str:
    return run.detail if run.detail == AHEAD else ""


def _of_unreadable(run: RunStatus) -> str:
    return run.detail


def _of_silent(run: RunStatus) -> str:
    cause = f"It ended without a word: {f'{run.detail}, killed' if run.detail else 'killed, or its node is lost'}"
    job = _waiting(run)
    if job is None:
        return f"{cause}. {_going_on(run)}"
    if job.state == "RUNNING":
        return f"{cause}, or it hangs, since Slurm still runs its job {job.name}; see the job's log"
    return f"{cause}. Job {job.name} goes on with it"


def _of_failed(run: RunStatus) -> str:
    reason = f"{sentence(run.detail)}." if run.detail else ""
    return reason if _waiting(run) is not None else f"{reason} {_going_on(run)}".strip()


def _of_stopped(run: RunStatus) -> str:
    return "" if _waiting(run) is not None else _in_vain(run) or _going_on(run)


def _of_not_begun(run: RunStatus) -> str:
    if _waiting(run) is not None:
        return ""
    return _in_vain(run) or (_nothing_computed(run) if run.sweep is None else _going_on(run))


_OF_STATE: Mapping[str, Callable[[RunStatus], str]] = {
    COMPLETE: _of_complete,
    RUNNING: _of_running,
    UNREADABLE: _of_unreadable,
    SILENT: _of_silent,
    FAILED: _of_failed,
    STOPPED: _of_stopped,
    NOT_BEGUN: _of_not_begun,
}


def _waiting(run: RunStatus) -> QueuedJob | None:
    """A job of it that waits or runs."""
    return next((job for job in run.jobs if job.active), None)


def _newest(run: RunStatus) -> QueuedJob | None:
    """Its newest job, where Slurm knows it."""
    return next((job for job in run.jobs if run.names and job.is_of(run.names[-1])), None)


def _going_on(run: RunStatus) -> str:
    if not run.go_on:
        return ""
    return f"{'Mend the cause first, then go' if run.state == FAILED else 'Go'} on with: {run.go_on}"


def _in_vain(run: RunStatus) -> str:
    """Of a run whose job waited for another one that failed; "" of any other."""
    job = _newest(run)
    if job is None or not job.in_vain:
        return ""
    other = f"job {' or '.join(run.after)}" if run.after else "another job"
    told = f"Its job {job.name.number} was cancelled before it began: {other}, which it waited for, failed"
    return f"{told} or was cancelled. Mend that first, then go on with: {run.stages or 'the same stages again'}"


def _nothing_computed(run: RunStatus) -> str:
    job = _newest(run)
    see = f"; see {run.log}" if run.log is not None else ""
    if job is None and run.names:  # it may be queued for all that is known
        told = f"Nothing was computed, and Slurm tells nothing of its job {run.names[-1]}{see}. "
        return told + (f"Where it is not queued, go on with: {run.go_on}" if run.go_on else "")
    told = "Nothing was computed" if job is None else f"Its job {job.name} is {job.state}, and nothing was computed"
    return f"{told}{see}. {_going_on(run)}".strip()
