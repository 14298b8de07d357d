"""The commands status and watch."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer.core

from landscape_jobs.commands.shared import exit_codes, on_rank_0, print_tables

WATCH_EVERY = 5  # seconds


class StatusCommand(typer.core.TyperCommand):
    """A command whose option --watch may go without its number, which the parser of options knows nothing of."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        for i in range(end):
            if args[i] == "--watch" and not (i + 1 < end and args[i + 1].isdecimal()):
                args[i] = f"--watch={WATCH_EVERY}"
        return super().parse_args(ctx, args)


def status(
    folders: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run folders, and folders of sweeps.", show_default=False)
    ],
    watch: Annotated[
        int | None,
        typer.Option(
            "--watch",
            min=1,
            metavar="[SECONDS]",
            help=f"Show it again every so often ({WATCH_EVERY}), until nothing runs or is queued; Ctrl-C ends it.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document, for programs.")] = False,
) -> None:
    """How far runs are: rows, pace, signs of life, what Slurm says of their jobs, and what there is to do.

    States: complete; running; stopped (by a signal or a limit; rows are left); failed; silent (no sign of life for a
    minute and no end recorded: killed, or its node is lost); not begun; unreadable.

    Exit codes: 0 whatever the states are, which programs find in --json; 2 where there is no run folder.
    """
    with exit_codes():
        import json
        import os

        from landscape.errors import InputError
        from landscape_jobs.cluster.queue import Queue
        from landscape_jobs.status.document import document
        from landscape_jobs.status.status import Reader, require_runs

        if as_json and watch is not None:
            raise InputError("--json is one document, and --watch a table that is shown again; leave one of them out")

        def tell() -> None:
            from landscape_jobs.status.tables import StatusTable, watch_status
            from landscape_jobs.terminal.console import Output

            runs, others = require_runs(folders)
            if others:
                more = f" and {len(others) - 1} more are no run folders" if len(others) > 1 else " is no run folder"
                typer.echo(f"left out: {others[0]}{more}", err=True)
            reader = Reader(runs, Queue(os.environ))
            if as_json:
                typer.echo(json.dumps(document(reader.read()), indent=1, allow_nan=False))
            elif watch is None:
                print_tables(StatusTable(reader.read()))
            else:
                with suppress(KeyboardInterrupt):
                    watch_status(reader, Output(), watch)

        on_rank_0(tell)


def watch(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.", show_default=False)],
    every: Annotated[
        float, typer.Option("--every", min=0.2, metavar="SECONDS", help="How often it is drawn again.")
    ] = WATCH_EVERY,
) -> None:
    """See a run go on: its picture or numbers so far, progress and time left, until it ends; Ctrl-C ends it earlier."""
    with exit_codes():
        from landscape_jobs.status.watch import watch_folder

        def show() -> None:
            with suppress(KeyboardInterrupt):
                watch_folder(folder, every)

        on_rank_0(show)
