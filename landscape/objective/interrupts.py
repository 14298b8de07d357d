"""What has to be done whole, also where Ctrl-C comes in the middle of it."""

from __future__ import annotations

from collections.abc import Callable


def until_done(action: Callable[[], None]) -> None:
    """Do what may be begun again, until it is done; a KeyboardInterrupt that came meanwhile is raised then."""
    interrupt: KeyboardInterrupt | None = None
    done = False
    while not done:
        try:
            action()
            done = True
        except KeyboardInterrupt as error:
            interrupt = error
    if interrupt is not None:
        raise interrupt
