"""Signals: those that ask the run to end after the item in hand, and the alarm of an item that takes too long."""

from __future__ import annotations

import contextlib
import faulthandler
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from landscape.errors import InputError

_ALARM_EVERY, _GRACE = 0.5, 30.0  # seconds
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))


class StopSignals:
    """While active, the first Ctrl-C, SIGTERM or SIGUSR1 sets `received`; a second Ctrl-C interrupts at once.

    mpiexec forwards SIGUSR1 and does nothing else. After Ctrl-C or SIGTERM it kills its ranks a quarter of a second
    later (Open MPI 5): `at_once` is what must be done in that time.
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


class ItemOverdueError(Exception):
    """An item took longer than it may."""


class TimeLimit:
    """While active, raises `ItemOverdueError` in the main thread after `seconds`; None for no limit.

    It waits where `unless` is true, in the middle of a message that other ranks need, and while a context manager is
    entered or left, so that what it changes is put back. Code that does not return to Python (a loop in compiled code,
    a device that hangs) ends the process after twice the time and 30 s more, and standard error then tells where each
    of its threads was.
    """

    def __init__(self, seconds: float | None, *, unless: Callable[[], bool]) -> None:
        self._unless = unless
        self._seconds = seconds if hasattr(signal, "setitimer") else None
        self._previous: Any = None
        self._outside: FrameType | None = None

    @staticmethod
    def require(seconds: float | None) -> None:
        """Raise InputError where a limit cannot be kept: away from the main thread, the one that handles signals."""
        if seconds is not None and threading.current_thread() is not threading.main_thread():
            raise InputError(
                f"item_seconds={seconds:g} works on a process's main thread alone, where signals are handled; start "
                "the run from there, or leave it out"
            )

    def __enter__(self) -> TimeLimit:
        if self._seconds is not None:
            self._outside = sys._getframe(1)
            self._previous = signal.signal(signal.SIGALRM, self._handle)
            # again and again: a model may catch all exceptions
            signal.setitimer(signal.ITIMER_REAL, self._seconds, _ALARM_EVERY)
            faulthandler.dump_traceback_later(2 * self._seconds + _GRACE, exit=True, file=sys.__stderr__ or 2)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._seconds is not None:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            signal.signal(signal.SIGALRM, self._previous)
            faulthandler.cancel_dump_traceback_later()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._unless() or _in_passing(frame, self._outside):
            return
        raise ItemOverdueError(f"it took longer than {self._seconds:g} s, the limit that is set for an item")


def _in_passing(frame: FrameType | None, outside: FrameType | None) -> bool:
    """Whether a context manager is being entered or left in `frame` or a caller of it, up to `outside`."""
    while frame is not None and frame is not outside:
        if frame.f_code.co_name in ("__enter__", "__exit__") or frame.f_globals.get("__name__") == "contextlib":
            return True
        frame = frame.f_back
    return False


def _nothing() -> None:
    return None
