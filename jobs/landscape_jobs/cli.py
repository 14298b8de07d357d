"""The command `landscape`.

Exit codes: 0 all done (of `submit`: submitted), 1 a crash, 2 input that cannot be used, 3 work is left (stopped by a
signal or a limit), 4 all done but items that failed and were left out.
What takes long to import is imported inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path
from typing import Annotated

import typer

from landscape_jobs.codes import COMPLETE, CRASHED
from landscape_jobs.commands.check import check
from landscape_jobs.commands.corpus import corpus
from landscape_jobs.commands.results import merge, plot, report, show
from landscape_jobs.commands.run import resume, run
from landscape_jobs.commands.shared import exit_codes, on_rank_0
from landscape_jobs.commands.status import StatusCommand, status, watch
from landscape_jobs.commands.submit import submit
from landscape_jobs.commands.topology import topology

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Entry point of the command `landscape`."""
    try:
        app(prog_name="landscape")
    except SystemExit as end:
        comm = sys.modules.get("landscape.run.comm")  # of what needs no ranks it is not loaded
        if comm is not None:
            comm.end_process(end.code if isinstance(end.code, int) else CRASHED if end.code else COMPLETE)
        raise


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"landscape {importlib.metadata.version('loss-landscape-engine')}")
        raise typer.Exit(COMPLETE)


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and end.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Loss landscapes of neural networks, on one process or under mpiexec."""


def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to work in.")] = Path("landscape-demo"),
) -> None:
    """Train small nets on handwritten digits, measure surfaces, a spectrum and a curve; leave one file and pictures."""
    with exit_codes():
        from landscape_jobs.demo import make_demo

        left = make_demo(out)
        on_rank_0(lambda: typer.echo(left.text()))


app.command(no_args_is_help=True)(run)
app.command(no_args_is_help=True)(resume)
app.command(
    no_args_is_help=True,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},  # answered there, with the valid ones
)(submit)
app.command(no_args_is_help=True)(check)
app.command()(demo)
app.command(no_args_is_help=True, cls=StatusCommand)(status)
for command in (merge, show, plot, report, watch, topology, corpus):
    app.command(no_args_is_help=True)(command)


if __name__ == "__main__":
    main()
