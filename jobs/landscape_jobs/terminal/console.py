"""Standard output of the commands."""

from __future__ import annotations

from rich.console import Console

from landscape.run.comm import launch
from landscape_jobs.terminal.ends import CommandEnded


class Output(Console):
    """Standard output, which mpiexec gives its ranks as a terminal in any case."""

    def __init__(self) -> None:
        super().__init__(force_terminal=False if launch() else None)

    def on_broken_pipe(self) -> None:
        """Stop writing, as for `head`, and end the command as complete."""
        try:
            super().on_broken_pipe()
        except SystemExit:
            raise CommandEnded(0) from None
