"""A run as a terminal shows it while it goes on: how far it is, and a picture of what is known so far."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from landscape.errors import LandscapeError, StoreError
from landscape.opening.opening import open_result
from landscape.opening.sweeps import is_sweep
from landscape.results.summary import result_tables
from landscape.results.tables import Table
from landscape_jobs.cluster.queue import Queue
from landscape_jobs.status.facts import NOT_BEGUN, UNREADABLE, RunsStatus
from landscape_jobs.status.status import Reader, require_runs
from landscape_jobs.status.tables import StatusTable, watch_status
from landscape_jobs.terminal.console import Output
from landscape_jobs.terminal.pictures import picture
from landscape_jobs.terminal.tables import as_rich

_ROWS = 20  # of a table


def watch_folder(folder: Path, every: float) -> None:
    """Watch a run, or the table of a sweep, on standard output; see `watch_run`.

    Raises StoreError for what is neither.
    """
    require_runs([folder])
    console = Output()
    reader = Reader([folder], Queue(os.environ))
    if not is_sweep(folder):
        watch_run(folder, reader, console, every)
    elif console.is_terminal:
        watch_status(reader, console, every)
    else:
        console.print(StatusTable(reader.read()))


def watch_run(
    folder: Path,
    reader: Reader,
    console: Console,
    every: float,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Show a run's picture and progress, `every` so many seconds, until nothing of it runs or is queued any more.

    Where the console is no terminal it is shown once. Raises StoreError for what cannot be read, once it is shown.
    """
    if not console.is_terminal:
        shown, found = _shown(folder, reader, console)
        console.print(Group(*shown))
        if not found.active:
            _require_readable(found)
        return
    with Live(console=console, auto_refresh=False, vertical_overflow="visible") as live:
        while True:
            shown, found = _shown(folder, reader, console)
            live.update(Group(*shown), refresh=True)
            if not found.active:
                break
            sleep(every)
    _require_readable(found)


def _require_readable(found: RunsStatus) -> None:
    """Raise StoreError for a run of which nothing can be read."""
    run = found.runs[0]
    if run.state == UNREADABLE:
        raise StoreError(run.detail)


def _shown(folder: Path, reader: Reader, console: Console) -> tuple[list[RenderableType], RunsStatus]:
    """What there is to see now, and how far the run is."""
    found = reader.read()
    parts: list[RenderableType] = []
    if any(run.state not in (NOT_BEGUN, UNREADABLE) for run in found.runs):
        try:
            parts += _of_result(open_result(folder), console)
        except LandscapeError as error:  # a run that is being written, or cannot be read: the table below tells more
            parts.append(Text(f"no picture: {error}"))
    return [*parts, StatusTable(found)], found


def _of_result(result: Any, console: Console) -> Iterator[RenderableType]:
    drawn = picture(result, console)
    if drawn is not None:
        yield drawn
        return
    for table in result_tables(result, type(result).__name__):
        if not table.pairs or any(cell.stderr is not None for row in table.rows for cell in row):
            yield as_rich(_first(table))


def _first(table: Table) -> Table:
    left = len(table.rows) - _ROWS
    title = f"{table.title} (and {left:,} more rows)" if left > 0 else table.title
    return replace(table, title=title, rows=table.rows[:_ROWS])
