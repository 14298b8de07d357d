"""How far runs are, as plain JSON values for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from landscape_jobs.cluster.queue import JobName, QueuedJob
from landscape_jobs.status.facts import COMPLETE, RunsStatus, RunStatus, TaskStatus

FORMAT = 1


def document(found: RunsStatus) -> dict[str, Any]:
    """How far runs are as plain JSON values. Numbers are numbers, seconds are seconds, null is unknown.

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
        "time": found.when,
        "slurm_problem": found.problem or None,
        "runs": [_run_document(run) for run in found.runs],
        "total": total(found.runs),
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
