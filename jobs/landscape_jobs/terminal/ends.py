"""How a command ends that the terminal ends."""

from __future__ import annotations


class CommandEnded(SystemExit):
    """A signal, or a reader of the output who has enough, ends the command; no exit of a user's code."""
