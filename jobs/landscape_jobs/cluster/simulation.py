"""A run on up to 65,536 ranks on paper: the scheduler's own code, with virtual ranks, messages and clocks.

`ManagedClaims`, `RequestedClaims` and `Claims` run as they are, over a communicator whose messages take a stated time;
what happens when is a discrete-event simulation, without a clock and without chance. Only the pauses are told a second
time: rank 0's thread sleeps a millisecond when it finds no request, and a rank that waits sleeps ever longer.
"""

from __future__ import annotations

import contextlib
import heapq
import math
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from landscape_kernels.arrays import FloatArray

from landscape.errors import InputError
from landscape.run import claims, comm
from landscape.run.claims import BYE, ManagedClaims, RequestedClaims, Source
from landscape.run.comm import Serial
from landscape.run.failures import Ledger
from landscape.run.progress import Tally
from landscape.run.schedule import Claims
from landscape.run.shards import flush_interval, flush_lead

NODE = 64  # ranks
_Message = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Machine:
    """What a run is simulated on, all in seconds."""

    latency: float = 1e-5  # of a message
    service: float = 2e-5  # of rank 0's thread for a request, on the core that computes rank 0's items
    shard: float = 5e-3  # of a rank for writing a shard
    thread_polls: tuple[float, float] = (claims.FIRST_POLL, claims.LAST_POLL)  # pauses of rank 0's thread, doubling
    polls: tuple[float, float] = (comm.FIRST_POLL, comm.LAST_POLL)  # pauses of a rank that waits for rank 0, doubling


@dataclass(frozen=True)
class Simulated:
    """What a simulated run took. The five shares are of ranks x makespan and add up to 1."""

    ranks: int
    items: int
    makespan: float  # seconds from the first request until the last rank has left
    efficiency: float  # share in items
    start: float  # share before a rank's first item
    waiting: float  # share between items: waiting for a block or, on rank 0, answering requests
    writing: float  # share in writing shards
    tail: float  # share after a rank's last item
    requests: int  # answered by rank 0
    busy: float  # share of the makespan in which rank 0's thread answers
    shards: int  # files written, the last of each rank included


def item_times(kind: str, items: int, mean: float, seed: int) -> FloatArray:
    """Seconds of each item, (items,): `kind` "constant", or "log-normal" and its sigma, as in "log-normal 0.3".

    Raises InputError for another kind.
    """
    name, _, sigma = kind.partition(" ")
    if kind == "constant":
        return np.full(items, mean)
    if name != "log-normal" or not sigma:
        raise InputError(f"item times {kind!r}; give 'constant', or 'log-normal' and its sigma as in 'log-normal 0.3'")
    s = float(sigma)
    return np.asarray(np.random.default_rng(seed).lognormal(math.log(mean) - s * s / 2, s, items))


def rank_factors(kind: str, ranks: int) -> FloatArray:
    """How many times the stated time each rank takes for an item, (ranks,).

    `kind` "equal": once; "two speeds": the second half of the ranks twice; "straggler": the last node ten times (64
    ranks, or a quarter of fewer than 256). Raises InputError for another kind.
    """
    factors = np.ones(ranks)
    if kind == "two speeds":
        factors[(ranks + 1) // 2 :] = 2.0
    elif kind == "straggler":
        factors[ranks - min(NODE, ranks // 4) :] = 10.0
    elif kind != "equal":
        raise InputError(f"ranks {kind!r}; give 'equal', 'two speeds' or 'straggler'")
    return factors


def listed(times: FloatArray, factors: FloatArray) -> float:
    """Seconds of a run where each item goes to the rank that is free first, at no cost: list scheduling.

    times: (items,); factors: (ranks,). On equal ranks at most twice the shortest possible (Graham 1966, Bell Syst.
    Tech. J.), and hardly beaten by a scheduler that cannot foresee the times.
    """
    free = [(0.0, rank) for rank in range(len(factors))]
    slow = factors.tolist()
    for time in times.tolist():
        at, rank = free[0]
        heapq.heapreplace(free, (at + time * slow[rank], rank))
    return max(at for at, _ in free)


@dataclass(frozen=True)
class Traffic:
    """The shards of a run, but for the last of each rank, which all come at its end."""

    shards: int
    peak: int  # in the busiest second
    unsaved: float  # seconds of work that a rank has in no shard, mean over ranks and time


def traffic(ranks: int, seconds: float, item: float) -> Traffic:
    """What `ranks` ranks write in a run of `seconds` where each finishes a row every `item` seconds."""
    shards, lost = array("d"), 0.0
    for rank in range(ranks):
        flushed, time = -flush_lead(rank, ranks), item * (rank + 1) / ranks
        begun = 0.0  # of the work since the last shard
        while True:
            # The interval never shrinks: before it has passed, no row needs a look.
            while time < (due := flushed + flush_interval(time, ranks)):
                time += math.ceil((due - time) / item) * item
            end = min(time, seconds)
            lost += (end - begun) ** 2 / 2
            if time >= seconds:
                break
            shards.append(time)
            begun = flushed = time
            time += item
    by_second = np.bincount(np.asarray(shards, dtype=np.int64), minlength=1)
    return Traffic(len(shards), int(by_second.max()), lost / ranks / seconds)


def simulate(times: FloatArray, factors: FloatArray, machine: Machine | None = None) -> Simulated:
    """A run of items that take `times` (items,) seconds on ranks that take `factors` (ranks,) times as long."""
    return _Simulation(times, factors, machine or Machine()).run()


def noticed(since: float, arrival: float, polls: tuple[float, float]) -> float:
    """When one who looks from `since` on, with pauses that double from `polls[0]` to `polls[1]`, sees what arrives."""
    pause, longest = polls
    look = since
    while look < arrival and pause < longest:
        look, pause = look + pause, 2 * pause
    if arrival <= look or longest == 0.0:
        return max(look, arrival)
    return look + math.ceil((arrival - look) / longest) * longest


class _Waits(Exception):  # noqa: N818  (a result, like StopIteration)
    """A rank can do nothing until it hears from rank 0."""


class _Wire(Serial):
    """A rank's end of the messages."""

    def __init__(self, rank: int, post: Callable[[int, int, _Message], None]) -> None:
        self.rank, self._post = rank, post
        self.arrived: tuple[int, _Message] | None = None

    def send(self, value: _Message, to: int, tag: int) -> None:
        self._post(self.rank, to, value)

    def receive(self, tag: int, *, wait: bool) -> tuple[int, _Message] | None:
        message, self.arrived = self.arrived, None
        if wait and message is None:
            raise _Waits
        return message


class _Rank:
    """What a rank has done and waits for."""

    source: Source
    items: Iterator[int]

    def __init__(self, wire: _Wire, factor: float, flushed: float) -> None:
        self.wire, self.factor, self.flushed = wire, factor, flushed
        self.work = self.written = self.last = 0.0  # seconds in items and in shards; when the last item ended
        self.first: float | None = None  # begin of the first item
        self.unsaved = False  # whether there are rows in no shard yet
        self.waits_since: float | None = None
        self.answer: tuple[float, _Message] | None = None  # when it arrives, and what
        self.leaving = False


class _Simulation:
    def __init__(self, times: FloatArray, factors: FloatArray, machine: Machine) -> None:
        self._machine, self._times = machine, times.tolist()
        count = len(factors)
        self._ranks = [
            _Rank(_Wire(rank, self._post), float(factor), -flush_lead(rank, count))
            for rank, factor in enumerate(factors)
        ]
        self._now = 0.0
        self._events: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._order = 0  # of events at the same time
        # `_serve` plays rank 0's thread, so its communicator is one without threads.
        self._manager = ManagedClaims(
            Claims(range(len(times)), count),
            Ledger((), 0),
            Tally(None, 0, len(times)),
            self._ranks[0].wire,
            list(range(1, count)),
            lambda: False,
            self._clock,
        )
        self._queue: deque[tuple[int, _Message]] = deque()  # requests that have arrived
        self._serving, self._idle_since = False, 0.0
        self._requests, self._busy = 0, 0.0
        self._shards, self._last_shards = 0, 0

    def run(self) -> Simulated:
        first, *others = self._ranks
        first.source, first.items = self._manager, iter(self._manager)
        self._next_of_first()
        for rank in others:
            rank.source = RequestedClaims(rank.wire, self._clock)
            rank.items = iter(rank.source)
            rank.waits_since = self._now
        while self._events:
            self._now, _, action, arguments = heapq.heappop(self._events)
            action(*arguments)
        return self._summary()

    def _clock(self) -> float:
        return self._now

    def _at(self, time: float, action: Callable[..., None], *arguments: object) -> None:
        self._order += 1
        heapq.heappush(self._events, (time, self._order, action, arguments))

    # -- messages -----------------------------------------------------------------------------------------------

    def _post(self, sender: int, to: int, value: _Message) -> None:
        if to == 0:
            self._at(self._now + self._machine.latency, self._request, sender, value)
            return
        # The answer is worked out as rank 0 turns to the request, and leaves when that is done.
        rank, arrival = self._ranks[to], self._now + self._machine.service + self._machine.latency
        rank.answer = arrival, value
        if rank.waits_since is not None:
            self._at(noticed(rank.waits_since, arrival, self._machine.polls), self._hear, rank)

    def _request(self, sender: int, value: _Message) -> None:
        self._queue.append((sender, value))
        if not self._serving:
            self._serving = True
            self._at(noticed(self._idle_since, self._now, self._machine.thread_polls), self._serve)

    def _serve(self) -> None:
        """One turn of the loop of rank 0's thread."""
        if not self._queue:
            self._serving, self._idle_since = False, self._now
            return
        self._ranks[0].wire.arrived = self._queue.popleft()
        self._manager.answer_waiting()
        self._requests += 1
        self._busy += self._machine.service
        self._at(self._now + self._machine.service, self._serve)

    # -- ranks that ask -----------------------------------------------------------------------------------------

    def _hear(self, rank: _Rank) -> None:
        """What rank 0 answered is seen: a block, an empty one, or a goodbye."""
        assert rank.answer is not None
        (_, value), rank.answer, rank.waits_since = rank.answer, None, None
        if rank.leaving:
            return
        rank.wire.arrived = 0, value
        time, item = self._now, next(rank.items, None)
        if item is None:
            self._at(time + self._last_flush(rank), self._leave, rank)
            return
        if rank.first is None:
            rank.first = time
        for left in range(len(value) - 2, -1, -1):  # without events: nothing that happens meanwhile changes a block
            duration = self._times[item] * rank.factor
            rank.work += duration
            time += duration
            time += self._add(rank, time)
            rank.last = self._now = time
            rank.source.finished(0.0)
            if left:
                item = next(rank.items)
        self._at(time, self._block_done, rank)

    def _block_done(self, rank: _Rank) -> None:
        if rank.answer is None:
            rank.waits_since = self._now
        else:
            self._at(noticed(self._now, rank.answer[0], self._machine.polls), self._hear, rank)

    def _leave(self, rank: _Rank) -> None:
        rank.leaving, rank.waits_since = True, self._now
        with contextlib.suppress(_Waits):
            rank.source.close(BYE)

    # -- rank 0 -------------------------------------------------------------------------------------------------

    def _next_of_first(self) -> None:
        first = self._ranks[0]
        item = next(first.items, None)
        if item is None:
            self._at(self._now + self._last_flush(first), lambda: None)
            return
        if first.first is None:
            first.first = self._now
        duration = self._times[item] * first.factor
        self._at(self._now + duration, self._item_done, duration, self._busy)

    def _item_done(self, duration: float, busy: float) -> None:
        """The item is done, but for the time in which the thread answered requests on the same core meanwhile."""
        first = self._ranks[0]
        if self._busy > busy:
            self._at(self._now + self._busy - busy, self._item_done, duration, self._busy)
            return
        first.work += duration
        first.last = self._now + self._add(first, self._now)
        first.source.finished(0.0)
        self._at(first.last, self._next_of_first)

    # -- shards -------------------------------------------------------------------------------------------------

    def _add(self, rank: _Rank, time: float) -> float:
        """A row is finished at `time`, as in `ShardWriter.add`; returns the seconds of writing a shard, or 0."""
        rank.unsaved = True
        return self._flush(rank, time) if time - rank.flushed >= flush_interval(time, len(self._ranks)) else 0.0

    def _last_flush(self, rank: _Rank) -> float:
        self._last_shards += rank.unsaved
        return self._flush(rank, self._now) if rank.unsaved else 0.0

    def _flush(self, rank: _Rank, time: float) -> float:
        rank.unsaved, rank.flushed = False, time + self._machine.shard
        rank.written += self._machine.shard
        self._shards += 1
        return self._machine.shard

    # -- result -------------------------------------------------------------------------------------------------

    def _summary(self) -> Simulated:
        makespan, ranks = self._now, self._ranks
        all_time = makespan * len(ranks) or 1.0  # a run without items may take no time
        work, written = sum(rank.work for rank in ranks), sum(rank.written for rank in ranks)
        start, tail = sum(rank.first or 0.0 for rank in ranks), sum(makespan - rank.last for rank in ranks)
        # The last shard of a rank falls into its tail.
        shares = np.array([work, start, written, tail - self._last_shards * self._machine.shard]) / all_time
        efficiency, begin, writing, end = shares.tolist()
        return Simulated(
            ranks=len(ranks),
            items=len(self._times),
            makespan=makespan,
            efficiency=efficiency,
            start=begin,
            waiting=1.0 - float(shares.sum()),
            writing=writing,
            tail=end,
            requests=self._requests,
            busy=self._busy / (makespan or 1.0),
            shards=self._shards,
        )
