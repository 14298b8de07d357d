"""How far runs are, as a table that fits the terminal's width."""

from __future__ import annotations

import contextlib
import math
import shlex
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from landscape.results.study import place_text
from landscape_jobs.status.document import total
from landscape_jobs.status.facts import (
    COMPLETE,
    FAILED,
    RUNNING,
    SILENT,
    STOPPED,
    UNREADABLE,
    RunsStatus,
    RunStatus,
    TaskStatus,
)
from landscape_jobs.status.reasons import brief
from landscape_jobs.status.status import Reader

_COLOURS = {COMPLETE: "green", RUNNING: "cyan", STOPPED: "yellow", SILENT: "magenta", FAILED: "red", UNREADABLE: "red"}
_LISTED = 10  # items given up, and runs with advice, that are told one by one

# Heading -> what its cells hold, a line each. The widest layout that a terminal has room for is taken.
_Layout = Mapping[str, Sequence[str]]
_COLUMNS = (
    "run",
    "task",
    "rows",
    "left",
    "failed",
    "rate",
    "time left",
    "ranks",
    "heard",
    "state",
    "result",
    "Slurm",
    "last attempt",
)
_WIDE: _Layout = {name: (name,) for name in _COLUMNS}
_MEDIUM: _Layout = {
    "run": ("run", "task"),
    "rows": ("rows", "left, failed"),
    "pace": ("rate", "so long left"),
    "ranks, heard": ("ranks", "heard"),
    "state": ("state",),
    "Slurm": ("Slurm",),
    "last attempt": ("last attempt", "took"),
}
_NARROW: _Layout = {
    "run": ("run", "task"),
    "rows": ("rows", "left, failed"),
    "pace": ("rate", "so long left", "heard so long ago"),
    "state": ("state", "Slurm", "running on"),
}
_LAYOUTS = ((170, _WIDE), (110, _MEDIUM), (0, _NARROW))  # from so many columns on
_KEPT = ("run", "rows", "state")  # also where they hold nothing
_FOLDED = ("run", "state", "Slurm")  # where there is no room; numbers stay whole


class StatusTable:
    """How far runs are, as rich shows it: a line per task of each run, totals of sweeps, and what there is to do."""

    def __init__(self, found: RunsStatus) -> None:
        self._found = found

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        layout = next(layout for width, layout in _LAYOUTS if options.max_width >= width)
        yield _table(self._found, layout)
        yield from _below(self._found)


def watch_status(reader: Reader, console: Console, every: float) -> None:
    """Show runs again and again, `every` so many seconds, until nothing of them runs or is queued any more."""
    live = Live(console=console, auto_refresh=False) if console.is_terminal else None
    with live or contextlib.nullcontext():
        while True:
            found = reader.read()
            if live is not None:
                live.update(StatusTable(found), refresh=True)
            else:
                console.print(StatusTable(found))
            if not found.active:
                return
            time.sleep(every)


def _table(found: RunsStatus, layout: _Layout) -> Table:
    lines: list[tuple[dict[str, Text], bool]] = []  # cells, and whether a section ends here
    for sweep, group in groupby(found.runs, key=lambda run: run.sweep):
        runs = list(group)
        if sweep is not None and lines:
            lines[-1] = (lines[-1][0], True)
        for run in runs:
            lines += [(cells, False) for cells in _run_lines(run)]
        if sweep is not None:
            lines.append((_total_line(f"{sweep}, total", runs) | {"state": _states_text(runs)}, True))
    if len(found.runs) > 1 and len({run.sweep for run in found.runs}) + (found.runs[0].sweep is None) > 1:
        lines[-1] = (lines[-1][0], True)
        lines.append((_total_line("total", found.runs), False))
    kept = {
        heading: names
        for heading, names in layout.items()
        if heading in _KEPT or any(cells.get(name) for cells, _ in lines for name in names)
    }
    table = Table(title=_title(found), title_justify="left", title_style="bold")
    for heading in kept:
        right = heading in ("left", "failed", "rate")
        table.add_column(heading, overflow="fold", no_wrap=heading not in _FOLDED, justify="right" if right else "left")
    for cells, ends in lines:
        table.add_row(
            *(Text("\n").join(cells[name] for name in names if cells.get(name)) for names in kept.values()),
            end_section=ends,
        )
    return table


def _title(found: RunsStatus) -> Text:
    return Text("runs: ") + _states_text(found.runs) if len(found.runs) > 1 else Text("runs")


def _states_text(runs: Sequence[RunStatus]) -> Text:
    return Text(", ".join(f"{count:,} {state}" for state, count in Counter(run.state for run in runs).most_common()))


def _run_lines(run: RunStatus) -> Iterator[dict[str, Text]]:
    name = Text(f"{run.cell}: {run.label}" if run.sweep is not None else str(run.folder))
    jobs = Text(_jobs_text(run))
    if not run.tasks:
        yield {"run": name, "state": _state(run.state), "Slurm": jobs}
    for task in run.tasks:
        first, last = task is run.tasks[0], task is run.tasks[-1]
        yield {
            "run": name if first else Text(),
            "task": Text(task.task),
            **_task_cells(task),
            "result": _result(run) if last else Text(),
            "Slurm": jobs if first else Text(),
        }


def _task_cells(task: TaskStatus) -> dict[str, Text]:
    remaining = "" if task.remaining is None else span(task.remaining)
    heard = "" if task.heartbeat_age is None else f"{span(task.heartbeat_age)} ago"
    cells = {
        "rows": f"{task.done:,} of {task.items:,}",
        "left": f"{task.left:,}" if task.left else "",
        "failed": f"{task.failed:,}" if task.failed else "",
        "left, failed": _held(task.left, task.failed),
        "rate": "" if task.rate is None else _rate(task.rate),
        "time left": remaining,
        "so long left": f"{remaining} left" if remaining else "",
        "ranks": _ranks(task),
        "running on": _ranks(task, " ranks, ") if task.state == RUNNING else "",
        "heard": heard,
        "heard so long ago": f"heard {heard}" if heard else "",
        "last attempt": _attempt(task),
        "took": _took(task),
    }
    detail = {
        COMPLETE: f", {task.failed:,} failed" if task.failed else "",
        STOPPED: f" {task.detail}",
        RUNNING: f": {task.note}" if task.note else "",
    }.get(task.state, "")
    return {**{name: Text(text) for name, text in cells.items()}, "state": _state(task.state, detail)}


def _total_line(name: str, runs: Sequence[RunStatus]) -> dict[str, Text]:
    sums = total(runs)
    rows = f"{sums['done']:,} of {sums['items']:,}"
    if sums["not_begun"]:
        begun = sums["runs"] - sums["not_begun"]
        of = "the 1 run\nthat has begun" if begun == 1 else f"the {begun:,} runs\nthat have begun"
        rows = f"{rows} rows\nof {of}" if begun else "none has begun"
    return {
        "run": Text(name, style="bold"),
        "rows": Text(rows),
        "left": Text(f"{sums['left']:,}" if sums["left"] else ""),
        "failed": Text(f"{sums['failed']:,}" if sums["failed"] else ""),
        "left, failed": Text(_held(sums["left"], sums["failed"])),
    }


def _held(left: int, failed: int) -> str:
    return "\n".join(f"{count:,} {word}" for count, word in ((left, "left"), (failed, "failed")) if count)


def _state(state: str, detail: str = "") -> Text:
    return Text(state, style=_COLOURS.get(state, "")) + Text(detail, style="")


def _result(run: RunStatus) -> Text:
    return Text(run.result.name if run.result is not None else "not yet")


def _ranks(task: TaskStatus, between: str = " on ") -> str:
    if task.ranks is None:
        return ""
    between = between.replace("ranks", "rank") if task.ranks == 1 else between
    nodes = len(task.nodes)
    return f"{task.ranks:,}{between}{task.nodes[0] if nodes == 1 else f'{nodes:,} nodes'}"


def _attempt(task: TaskStatus) -> str:
    """Its number, and when it began."""
    return "" if task.started is None else f"{_ordinal(task.attempts)}, {_moment(task.started):%m-%d %H:%M}"


def _took(task: TaskStatus) -> str:
    if task.started is None or task.ended is None:
        return ""
    return f"took {span(max(0.0, (_moment(task.ended) - _moment(task.started)).total_seconds()))}"


def _jobs_text(run: RunStatus) -> str:
    """The jobs that wait or run; else how the newest one ended; where Slurm does not know it, its number alone."""
    if run.state == COMPLETE:
        return ""
    newest = [job for job in run.jobs if run.names and job.is_of(run.names[-1])]
    known = [job for job in run.jobs if job.active] or newest[-1:]
    if not known:
        return str(run.names[-1]) if run.names else ""
    alike: Counter[str] = Counter()
    for job in known:
        number = str(job.name) if len(known) == 1 else job.name.number
        restarts = f", restart {job.restarts}" if job.restarts else ""
        alike[f"{number} {job.state}{f' ({job.reason})' if job.reason else ''}{restarts}"] += 1
    return "\n".join(text if count == 1 else f"{text}, {count} tasks" for text, count in alike.items())


def _below(found: RunsStatus) -> Iterator[Text]:
    """What a table has no room for: why items were given up, and what a user may do."""
    for run in found.runs:
        yield from _given_up(run)
    alike: dict[tuple[str, str], list[RunStatus]] = {}
    for run in found.runs:
        if run.advice:
            alike.setdefault((run.state, run.advice), []).append(run)
    for (state, advice), runs in list(alike.items())[:_LISTED]:
        more = f" and {len(runs) - 1:,} more" if len(runs) > 1 else ""
        how = " failed:" if state == FAILED else f" {'are' if len(runs) > 1 else 'is'} {state}."
        yield Text(f"{_name(runs[0])}{more}{how} {advice}")
    if len(alike) > _LISTED:
        yield Text("and more, which --json tells")
    if found.problem:
        yield Text(f"Slurm's state of jobs is not known: {found.problem}")


def _given_up(run: RunStatus) -> Iterator[Text]:
    """Which items of a run were given up, where they are, why, and how to have them tried again."""
    for one in run.given_up[:_LISTED]:
        where = place_text(one.place)
        item = f"item {one.item}{f' ({where})' if where else ''} of {one.task}"
        yield Text(f"{_name(run)}: {item} was given up: {brief(one.reason)}")
    count = len(run.given_up)
    if count > _LISTED:
        yield Text(f"{_name(run)}: and {count - _LISTED:,} more items, which --json tells")
    if count and not run.active:
        folders = " and ".join(shlex.quote(str(folder)) for folder in dict.fromkeys(o.failures for o in run.given_up))
        rows, them = ("Its row stays", "it") if count == 1 else ("Their rows stay", "them")
        yield Text(f"{rows} masked. To have {them} tried again, delete {folders} and go on with: {run.again}")


def _name(run: RunStatus) -> str:
    return f"Cell {run.cell} ({run.label}) of {run.sweep}" if run.sweep is not None else str(run.folder)


def _moment(when: str) -> datetime:
    """A recorded time, on this machine's clock."""
    moment = datetime.fromisoformat(when)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone()


def _rate(rate: float) -> str:
    return f"{rate:.3g}/s" if rate >= 0.01 else f"{rate * 3600:.3g}/h"


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def span(seconds: float) -> str:
    """A time span for people.

    >>> span(4.2), span(754), span(200_000), span(1e300)
    ('4 s', '0:12:34', '2 days, 7:33:20', 'years')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    return str(timedelta(seconds=math.ceil(seconds))) if seconds < 3e8 else "years"
