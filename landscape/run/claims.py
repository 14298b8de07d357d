"""Claims over messages: rank 0 hands out items while it computes its own, and others ask one block ahead."""

from __future__ import annotations

import logging
import math
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np

from landscape.run.comm import Communicator, RanksLostError
from landscape.run.failures import Ledger
from landscape.run.progress import Tally
from landscape.run.schedule import Claims

logger = logging.getLogger(__name__)
BYE, STOPPED, FAILED = 1.0, 2.0, 3.0  # how a rank left
_ASKING, _GAVE_BACK = 0.0, 4.0
_BLOCK, _HALT, _GOODBYE = 0.0, 1.0, 2.0  # kinds of answers
_REQUEST, _ANSWER = 1, 2  # message tags; one tag for all answers, since MPI keeps the order only within a tag
# Seconds between looks for requests, doubling while none comes: each look takes the interpreter from the thread that
# computes. Requests come one block ahead, and the pause is no longer than the quiet before it, so nobody waits for it.
FIRST_POLL, LAST_POLL = 1e-3, 2e-2


class _Pace:
    """How long this rank's items take."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._items, self._spent = 0, 0.0

    @property
    def seconds(self) -> float:
        """Seconds of an item, on average; infinity before the first."""
        return self._spent / self._items if self._items else math.inf

    def timed(self, block: list[int]) -> Iterator[int]:
        """The items of a block, each timed until the next is asked for."""
        for item in block:
            began = self._clock()
            yield item
            self._spent += self._clock() - began
            self._items += 1


class Source(Protocol):
    """Where a rank gets its items from."""

    def __iter__(self) -> Iterator[int]:
        """The items of this rank, until none is left or the run is stopped."""

    def finished(self, value: float) -> None:
        """One row is finished; `value` is its headline."""

    def failed(self, item: int) -> None:
        """An item failed: it is handed out again, or given up."""

    def abandon(self) -> None:
        """Ranks were lost: nothing more is sent or answered."""

    def close(self, how: float) -> None:
        """This rank takes no more items: BYE, STOPPED or FAILED. The last two end the run for all."""


class ManagedClaims:
    """Rank 0's items, and the answers to every other rank's requests.

    Requests are answered by a thread, so that a long item on rank 0 delays nobody; where the MPI library allows only
    one thread to talk, between rank 0's items instead.
    """

    def __init__(
        self,
        claims: Claims,
        ledger: Ledger,
        tally: Tally,
        comm: Communicator,
        others: list[int],
        stopping: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pace = _Pace(clock)
        self._claims, self._ledger, self._tally, self._comm, self._stopping = claims, ledger, tally, comm, stopping
        self._present = set(others)  # ranks that have not left
        self._stopped = False
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        if others and comm.concurrent:
            self._thread = threading.Thread(target=self._serve_or_abort, name="claims", daemon=True)
            self._thread.start()

    def __iter__(self) -> Iterator[int]:
        while block := self._take(self._pace.seconds):
            for item in self._pace.timed(block):
                if self._stopped:
                    return
                yield item
                while self._thread is None and self.answer_waiting():
                    pass

    def finished(self, value: float) -> None:
        self._tally.add(1, value)

    def failed(self, item: int) -> None:
        with self._lock:
            again = self._ledger.failed(item)
            if again and not self._stopped:
                self._claims.put_back(item)
        if not again:
            self._tally.give_up()

    def abandon(self) -> None:
        self._present.clear()
        if self._thread is not None:
            self._thread.join()

    def close(self, how: float) -> None:
        if how != BYE:
            self._stop()
        if self._thread is None:
            self._serve()
        else:
            while self._thread.is_alive():
                self._thread.join(0.1)  # in slices, so that a signal is still handled

    def _take(self, seconds: float) -> list[int]:
        with self._lock:
            return self._claims.take(seconds)

    def _stop(self) -> None:
        """Hand out nothing more, and tell the ranks that have items in hand."""
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
            self._claims.stop()
            for rank in self._present:
                self._send(rank, _HALT)

    def _serve_or_abort(self) -> None:
        try:
            self._serve()
        except RanksLostError:
            return  # the main thread meets the same error at its next message
        except BaseException:  # also an exit in a callback: nobody else would answer, and all would wait for ever
            self._comm.abort(traceback.format_exc())

    def _serve(self) -> None:
        pause = FIRST_POLL
        while self._present:
            if self._stopping():
                self._stop()
            if self.answer_waiting():
                pause = FIRST_POLL
            else:
                time.sleep(pause)
                pause = min(2 * pause, LAST_POLL)

    def answer_waiting(self) -> bool:
        """Answer one request, on rank 0's thread; False when there is none."""
        request = self._comm.receive(_REQUEST, wait=False) if self._present else None
        if request is None:
            return False
        sender, (state, count, minimum, seconds) = request
        if state == _GAVE_BACK:
            self.failed(int(count))
            return True
        if count:
            self._tally.add(int(count), minimum)
        if state == _ASKING:
            self._send(sender, _BLOCK, self._take(seconds))
        else:
            if state != BYE:
                self._stop()
            with self._lock:
                self._present.discard(sender)
            self._send(sender, _GOODBYE)
        return True

    def _send(self, rank: int, kind: float, items: list[int] | None = None) -> None:
        self._comm.send(np.array([kind, *(items or [])], dtype=np.float64), rank, _ANSWER)


class RequestedClaims:
    """Items asked of rank 0: the next block is requested before the one in hand is begun."""

    def __init__(self, comm: Communicator, clock: Callable[[], float] = time.monotonic) -> None:
        self._comm, self._pace = comm, _Pace(clock)
        self._count, self._minimum = 0, math.nan
        self._next: list[int] | None = None  # a block that arrived
        self._halted = self._gave_back = False
        self._tell(_ASKING)

    def __iter__(self) -> Iterator[int]:
        while True:
            block = self._arrived()
            if not block and not self._gave_back:
                return
            self._gave_back = False  # what was given back since the last question may be there for the next
            self._tell(_ASKING)
            for item in self._pace.timed(block):
                yield item
                self._hear(wait=False)
                if self._halted:
                    return

    def finished(self, value: float) -> None:
        self._count += 1
        self._minimum = float(np.fmin(self._minimum, value))

    def failed(self, item: int) -> None:
        self._comm.send(np.array([_GAVE_BACK, item, math.nan, math.nan]), 0, _REQUEST)
        self._gave_back = True

    def abandon(self) -> None:
        return None

    def close(self, how: float) -> None:
        self._tell(how)
        # A block still under way is dropped: its items stay pending for the next attempt.
        while self._hear(wait=True) != _GOODBYE:
            pass

    def _arrived(self) -> list[int]:
        while self._next is None and not self._halted:
            self._hear(wait=True)
        block, self._next = self._next, None
        return [] if self._halted or block is None else block

    def _hear(self, *, wait: bool) -> float | None:
        """Take in one message from rank 0, if there is one; returns its kind."""
        message = self._comm.receive(_ANSWER, wait=wait)
        if message is None:
            return None
        kind, *items = message[1]
        if kind == _BLOCK:
            self._next = [int(item) for item in items]
        elif kind == _HALT:
            self._halted = True
        return float(kind)

    def _tell(self, state: float) -> None:
        self._comm.send(np.array([state, self._count, self._minimum, self._pace.seconds]), 0, _REQUEST)
        self._count, self._minimum = 0, math.nan
