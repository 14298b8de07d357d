"""How far a run is, told while it runs: a bar for each task on a terminal, a line a minute elsewhere."""

from __future__ import annotations

import math
import time
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from landscape import Progress
from landscape.results.study import study_of

_LINE_EVERY = 60.0  # seconds


class ProgressDisplay:
    """The `progress=` callback of one run; a context manager, so that the last state is shown and the bar closed.

    Writes to standard error, which leaves standard output to results.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._last: Progress | None = None
        self._written = time.monotonic()
        self._bar: Bar | None = None

    def __enter__(self) -> ProgressDisplay:
        return self

    def __call__(self, progress: Progress) -> None:
        """Show `progress`, if it is time to."""
        before, self._last = self._last, progress
        begun = before is None or before.task != progress.task
        if self._console.is_terminal:
            if self._bar is None:  # not earlier: only rank 0 is called
                self._bar = Bar(BarColumn(), TextColumn("{task.description}"), console=self._console)
                self._bar.start()
            if begun:
                self._bar.add_task("")
            self._bar.update(
                self._bar.task_ids[-1],
                description=progress_text(progress),
                completed=progress.done,
                total=progress.total,
            )
        elif before is not None and begun:
            self._write(before)
        elif time.monotonic() - self._written >= _LINE_EVERY:
            self._write(progress)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._last is not None:
            self._write(self._last)

    def _write(self, progress: Progress) -> None:
        self._written = time.monotonic()
        self._console.print(progress_text(progress), highlight=False, soft_wrap=True)


def progress_text(progress: Progress) -> str:
    """One line: the task, rows, rate, time left, smallest value, how far the item in hand is.

    >>> progress_text(Progress(done=50, total=200, computed=50, elapsed=10.0, minimum=0.25))
    '50 of 200 rows (25 %), 5/s, 0:00:30 left, minimum 0.25'
    >>> progress_text(Progress(0, 1, 0, 9.0, math.nan, task="eigenpairs", note="21 products, 3 of 10 pairs converged"))
    'eigenpairs: 0 of 1 rows (0 %), 21 products, 3 of 10 pairs converged, 0:00:09 so far'
    """
    left = progress.remaining_seconds
    parts = [f"{progress.done} of {progress.total} rows ({100 * progress.done // max(1, progress.total)} %)"]
    if progress.note:
        parts += [progress.note, f"{_duration(progress.elapsed)} so far"]
    else:
        rate = progress.computed / progress.elapsed if progress.elapsed > 0 else math.nan
        parts += [f"{rate:.3g}/s", f"{_duration(left) if math.isfinite(left) else 'unknown time'} left"]
        if not progress.task or study_of(progress.task).minimum:
            parts.append(f"minimum {progress.minimum:.6g}")
    return (f"{progress.task}: " if progress.task else "") + ", ".join(parts)


def _duration(seconds: float) -> timedelta:
    return timedelta(seconds=round(seconds))
