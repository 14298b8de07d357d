"""How far a run is."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

logger = logging.getLogger(__name__)

_REPORT = 0.1  # seconds between two calls of the progress callback


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    done: int  # rows finished, those of earlier attempts included
    total: int
    computed: int  # rows finished in this attempt
    elapsed: float  # seconds since this attempt began
    minimum: float  # of the task's headline column, earlier attempts included; NaN before the first row
    task: str = ""  # name of the task
    note: str = ""  # how far the item in hand is, where the task tells (see `task.Telling`)
    failed: int = 0  # rows given up

    @property
    def remaining_seconds(self) -> float:
        """Estimated time left, NaN before the first row."""
        left = self.total - self.done - self.failed
        return left * self.elapsed / self.computed if self.computed else math.nan


class Tally:
    """Counts finished rows and reports them, a few times a second."""

    def __init__(
        self,
        report: Callable[[Progress], None] | None,
        done: int,
        total: int,
        minimum: float = math.nan,
        *,
        task: str = "",
        failed: int = 0,
    ) -> None:
        self._report, self._done, self._total, self._task = report, done, total, task
        self._failed = failed
        self._lock = threading.Lock()
        self._computed, self._minimum, self._note = 0, minimum, ""
        self._started = self._reported = time.monotonic()

    def add(self, count: int, minimum: float) -> None:
        """`count` more rows are finished, the smallest headline value among them `minimum`."""
        with self._lock:
            self._computed += count
            if not minimum >= self._minimum and not math.isnan(minimum):  # NaN before the first row
                self._minimum = minimum
            self._note = ""
            self._tell()

    def give_up(self) -> None:
        """One row will not be computed."""
        with self._lock:
            self._failed += 1
            self._tell()

    def note(self, text: str) -> None:
        """How far the item in hand is."""
        with self._lock:
            self._note = text
            self._tell()

    def progress(self) -> Progress:
        """How far the run is now."""
        return Progress(
            self._done + self._computed,
            self._total,
            self._computed,
            time.monotonic() - self._started,
            self._minimum,
            self._task,
            self._note,
            self._failed,
        )

    def _tell(self) -> None:
        now = time.monotonic()
        ended = self._done + self._computed + self._failed >= self._total
        if self._report is None or (now - self._reported < _REPORT and not ended):
            return
        self._reported = now
        try:
            self._report(self.progress())
        except Exception:  # a closed terminal must not cost a run
            logger.exception("the progress report failed; it is switched off, the run goes on")
            self._report = None
