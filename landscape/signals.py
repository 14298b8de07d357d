"""Stopping on request: a signal asks the run to end after the item in hand."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))


class StopSignals:
    """While active, the first Ctrl-C, SIGTERM or SIGUSR1 sets `received`; a second Ctrl-C interrupts at once.

    SIGUSR1 is the one that mpiexec forwards and leaves at that: after Ctrl-C or SIGTERM it gives its ranks a quarter
    of a second (Open MPI 5) before it kills them. `at_once` is what must be done within that.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self.at_once: Callable[[], None] = _nothing
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():  # only there may handlers be set
            self._previous = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name
        with contextlib.suppress(Exception):  # what went wrong shows when the item in hand is done
            self.at_once()


def _nothing() -> None:
    return None
