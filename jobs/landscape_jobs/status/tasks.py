"""How far one task of a run is: its rows, the record of its last attempt, and that attempt's signs of life."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from landscape.run.store import Store
from landscape_jobs.status.facts import AHEAD, COMPLETE, FAILED, NOT_BEGUN, RUNNING, SILENT, STOPPED, TaskStatus
from landscape_jobs.status.reasons import why

_SILENCE = 60.0  # seconds; a run gives a sign of life every ten
_BEATS = 15.0  # seconds; ranks that go on without rank 0 are heard within them


class TaskReader:
    """Reads the same tasks again and again, of their shards only the new ones; `steady` gives seconds without jumps."""

    def __init__(self, steady: Callable[[], float]) -> None:
        self._steady = steady
        self._shards: dict[Path, dict[str, npt.NDArray[np.int64]]] = {}  # folder of a task -> its shards
        self._beats: dict[Path, tuple[float, float | None]] = {}  # -> its last beat, and when that was seen to come

    def read(
        self,
        store: Store,
        name: str,
        attempts: Sequence[Mapping[str, Any]],
        failed: int,
        written: bool,
        now: float,
    ) -> TaskStatus:
        """How far a task is at `now`, POSIX seconds.

        `attempts` and `failed`, how many items were given up, are what its store holds; `written` says whether what
        follows its rows is there: the result, or the next task.
        """
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
            return replace(status, state=FAILED, detail=why(str(last["failure"])))
        if "ended" in last:
            return replace(status, **_ended(last, left, now))
        return self._begun(status, store, last, now)

    def _begun(self, status: TaskStatus, store: Store, last: Mapping[str, Any], now: float) -> TaskStatus:
        """A task whose last attempt has recorded no end: it runs, or is silent."""
        beat = store.attempts.beat()
        age = self._age(store.folder, beat.when if beat is not None else _seconds(last["started"]), now)
        alone = last.get("ranks") == 1 or age is None or age > _BEATS
        if _gone(last) and alone and "ended" not in store.attempts.all()[-1]:
            return replace(status, state=SILENT, heartbeat_age=age, detail=f"its process {last['process']} is gone")
        if age is not None and age > _SILENCE:
            return replace(status, state=SILENT, heartbeat_age=age)
        status = replace(status, state=RUNNING, heartbeat_age=age, detail="" if age is not None else AHEAD)
        if beat is None:
            return status
        rate = _positive(beat.computed, beat.elapsed)
        remaining = _positive(beat.total - beat.done - beat.failed, rate or 0.0)
        if remaining is not None:
            remaining = max(0.0, remaining - (age or 0.0))
        return replace(status, rate=rate, remaining=remaining, note=beat.note)

    def _age(self, folder: Path, beat: float, now: float) -> float | None:
        """Seconds since the last sign of life; None where it is dated in the future, as by a clock that was set back.

        The clock of the machine that gave it does not matter where it came while this looked on.
        """
        known, came = self._beats.get(folder, (beat, None))
        if beat != known:
            came = self._steady()
        self._beats[folder] = (beat, came)
        if came is not None:
            return max(0.0, self._steady() - came)
        age = now - beat
        return max(0.0, age) if age >= -_SILENCE else None


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


def _positive(numerator: float, denominator: float) -> float | None:
    """A ratio above 0, None where it is none or not finite."""
    ratio = numerator / denominator if denominator else 0.0
    return ratio if 0 < ratio < math.inf else None


def _seconds(when: str) -> float:
    moment = datetime.fromisoformat(when)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
