"""What the commands share: arguments, exit codes, and speaking with one voice for all ranks."""

from __future__ import annotations

import csv
import io
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from landscape_jobs.codes import BAD_INPUT, CRASHED, WORK_LEFT
from landscape_jobs.terminal.ends import CommandEnded

if TYPE_CHECKING:
    from rich.console import RenderableType


T = TypeVar("T")
JobFile = Annotated[Path, typer.Argument(metavar="JOB", help="Job file (TOML), or sweep.", show_default=False)]
Overrides = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="Replace a value of the job, as in --set plane.seed=3."),
]


@contextmanager
def exit_codes() -> Iterator[None]:
    """End with the code that belongs to an error, which rank 0 tells without a traceback."""
    from landscape.errors import LandscapeError, RunFailedError, RunInterrupted, told_at_the_end

    try:
        yield
    except RunInterrupted as stop:
        tell(f"landscape: {stop}")
        raise typer.Exit(WORK_LEFT) from None
    except RunFailedError as error:
        from landscape_jobs.status.reasons import of_user

        told = of_user(str(error))
        tell(f"landscape: {told or error}")
        raise typer.Exit(BAD_INPUT if told else CRASHED) from None
    except LandscapeError as error:
        tell(f"landscape: {error}")
        raise typer.Exit(BAD_INPUT) from None
    except CommandEnded:
        raise
    except OSError as error:  # names that are too long, folders that may not be read, full disks
        if error.filename is None:
            raise
        tell(f"landscape: {error.filename}: {error.strerror}; name another path")
        raise typer.Exit(BAD_INPUT) from None
    except (SystemExit, MemoryError) as error:
        users = told_at_the_end(error)
        if users is None:
            raise
        tell(f"landscape: {users}", of_all=True)  # it may be of one rank alone
        raise typer.Exit(BAD_INPUT) from None


@contextmanager
def stopped_at_once() -> Iterator[None]:
    """At Ctrl-C, SIGTERM or SIGUSR1 end with the code for work that is left: no item is computed, so nothing is lost.

    While items are computed, the run loop has handlers of its own.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        typer.echo(f"landscape: stopped by {signal.Signals(number).name}; the same command goes on", err=True)
        raise CommandEnded(WORK_LEFT)

    names = ("SIGINT", "SIGTERM", "SIGUSR1")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
        numbers = []
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def on_rank_0(action: Callable[[], T]) -> T:
    """What `action` returns on rank 0, on every rank; see `landscape.run.together`, which takes long to import."""
    from landscape.run import together

    return together.on_rank_0(action)


def tell(message: str, *, of_all: bool = False) -> None:
    """A message on rank 0's standard error; where the ranks do not find together, on the first of each machine.

    `of_all` ranks tell theirs.
    """
    from landscape.errors import InputError
    from landscape.run.comm import local_rank, world

    try:
        rank = world().rank
    except InputError:
        rank = local_rank()
    if rank == 0 or of_all:
        typer.echo(message, err=True)


def print_tables(*tables: RenderableType) -> None:
    """Tables on standard output."""
    from landscape_jobs.terminal.console import Output

    console = Output()
    for table in tables:
        console.print(table)


def quoted(path: Path) -> str:
    """A path as a word of a shell's command line."""
    import shlex

    return shlex.quote(str(path))


def write_columns(path: Path, columns: Mapping[str, Any]) -> Path:
    """Columns as a CSV file, whole or not at all; numbers in full, so that they are read as they were.

    Raises InputError for a path of another suffix and StoreError where it cannot be written.
    """
    from landscape.errors import InputError, StoreError
    from landscape.files.durable import write_durably

    if path.suffix != ".csv":
        raise InputError(f"--table {path}: give the name of a .csv file")
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(columns)
    listed = [column.tolist() if hasattr(column, "tolist") else column for column in columns.values()]
    rows.writerows(zip(*listed, strict=True))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, text.getvalue().encode())
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error}; free space there, or choose a folder you may write to"
        ) from error
    return path
