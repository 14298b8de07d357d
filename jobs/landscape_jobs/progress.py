"""How far a run is, told while it runs: a bar on a terminal, a line a minute elsewhere."""

from __future__ import annotations

import math
import time
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from landscape import Progress

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
        self._last = progress
        if self._console.is_terminal:
            if self._bar is None:  # not earlier: only rank 0 is called
                self._bar = Bar(BarColumn(), TextColumn("{task.description}"), console=self._console)
                self._bar.add_task("")
                self._bar.start()
            self._bar.update(
                self._bar.task_ids[0],
                description=progress_text(progress),
                completed=progress.done,
                total=progress.total,
            )
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
    """One line: rows, rate, time left, smallest value.

    >>> progress_text(Progress(done=50, total=200, computed=50, elapsed=10.0, minimum=0.25))
    '50 of 200 rows (25 %), 5/s, 0:00:30 left, minimum 0.25'
    """
    rate = progress.computed / progress.elapsed if progress.elapsed > 0 else math.nan
    left = progress.remaining_seconds
    return (
        f"{progress.done} of {progress.total} rows ({100 * progress.done // max(1, progress.total)} %), {rate:.3g}/s, "
        f"{timedelta(seconds=round(left)) if math.isfinite(left) else 'unknown time'} left, "
        f"minimum {progress.minimum:.6g}"
    )
