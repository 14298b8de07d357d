"""Standard output of the commands."""

from __future__ import annotations

from rich.console import Console

from landscape.run.comm import launch


class OutputClosed(SystemExit):
    """Who read the output has read enough, as `head` does; no exit of a user's code, and no failure."""


class Output(Console):
    """Standard output, which mpiexec gives its ranks as a terminal in any case."""

    def __init__(self) -> None:
        super().__init__(force_terminal=False if launch() else None)

    def on_broken_pipe(self) -> None:
        """Stop writing, and end the command as complete."""
        try:
            super().on_broken_pipe()
        except SystemExit:
            raise OutputClosed(0) from None
