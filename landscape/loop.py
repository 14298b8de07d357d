"""The run loop: any Task, on any number of ranks, into a run folder or memory."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from landscape.claims import BYE, FAILED, STOPPED, ManagedClaims, Progress, RequestedClaims, Source, Tally
from landscape.comm import Communicator, world
from landscape.errors import InputError, LandscapeError, RunFailedError, RunInterrupted
from landscape.provenance import attempt_record, time_now
from landscape.schedule import Claims
from landscape.signals import StopSignals
from landscape.store import ShardWriter, Store
from landscape.task import Description, Row, Rows, Task

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Outcome:
    """What a run left."""

    rows: Rows
    store: Store | None
    computed: int  # rows computed in this attempt, over all ranks

    @property
    def complete(self) -> bool:
        """Whether every row is there."""
        return bool(self.rows.done.all())


def agree(comm: Communicator, action: Callable[[], T]) -> T:
    """Run `action` on every rank; where it raises on any rank, raise on all, so that none waits for another."""
    results: list[T] = []
    problem: LandscapeError | None = None
    try:
        results.append(action())
    except Exception as error:
        if comm.size == 1:
            raise
        problem = _told(error)
    _raise_first(comm.gather_all(problem))
    return results[0]


def run_task(
    task: Task,
    out: str | Path | None = None,
    *,
    ranks_per_item: int = 1,
    limit: int | None = None,
    known: Mapping[int, Row] | None = None,
    progress: Callable[[Progress], None] | None = None,
    job: str = "",
) -> Outcome:
    """Compute the rows of `task` that are not in the folder `out` yet (in memory without one), on all ranks.

    `limit` ends the run after that many new rows. `known` rows are taken over as finished into a new folder. Every
    rank returns the same rows. Raises InputError for a folder of another task, StoreError when it cannot be written,
    RunFailedError with the traceback of the item that failed, RunInterrupted after Ctrl-C or SIGTERM; rows finished
    before any of these are kept, and the same call goes on from there.
    """
    comm = world()
    if limit is not None and limit < 0:
        raise InputError(f"limit={limit} items; give 0 or more")
    group = agree(comm, lambda: comm.groups_of(ranks_per_item))
    description = agree(comm, task.describe)
    book = _Book(description, task.count, out, comm, known or {}, job)
    with StopSignals() as signals:
        rows, computed = _Run(task, book, comm, group, ranks_per_item, progress).until_done(limit, signals)
        book.end(rows, computed, signals.received)
    if signals.received is not None and not rows.done.all():
        place = f"; the same command goes on from {out}" if out is not None else ""
        raise RunInterrupted(
            f"stopped by {signals.received} with {int(rows.done.sum())} of {len(rows.done)} rows finished{place}"
        )
    return Outcome(rows, book.store, computed)


class _Book:
    """Where rows go and come from: a run folder, or the ranks' memory."""

    def __init__(
        self,
        description: Description,
        count: int,
        out: str | Path | None,
        comm: Communicator,
        known: Mapping[int, Row],
        job: str,
    ) -> None:
        self._comm = comm
        self._columns = description.columns
        self._count = count
        self._memory: dict[int, Row] = dict(known) if comm.rank == 0 else {}
        self._attempt = 0
        self.store: Store | None = None
        if out is not None:
            self.store = Store(out)
            begun = agree(comm, lambda: self._begin(out, description, known, job) if comm.rank == 0 else None)
            self._attempt, self._count = comm.broadcast(begun)

    def _begin(self, out: str | Path, description: Description, known: Mapping[int, Row], job: str) -> tuple[int, int]:
        store = Store.create(out, description, self._count, job)
        attempt = store.begin_attempt(attempt_record(self._comm.size))
        if known and not store.rows().done.any():
            writer = store.writer(0, 0, self._columns)
            for item, row in known.items():
                writer.add(item, row)
            writer.flush()
        return attempt, store.count

    def writer(self) -> ShardWriter | _MemoryWriter:
        """Where this rank puts its rows."""
        if self.store is None:
            return _MemoryWriter(self._memory)
        return self.store.writer(self._attempt, self._comm.rank, self._columns)

    def rows(self) -> Rows:
        """All rows so far, the same on every rank."""
        if self.store is not None:
            store = self.store
            read = agree(self._comm, lambda: store.rows() if self._comm.rank == 0 else None)
            result: Rows = self._comm.broadcast(read)
            return result
        rows = Rows.empty(self._columns, self._count)
        for part in self._comm.gather_all(self._memory):
            for item, row in part.items():
                rows.done[item] = True
                for name in self._columns:
                    rows.columns[name][item] = row[name]
        return rows

    def extend(self, count: int) -> None:
        """A new round makes it `count` items."""
        self._count = count
        if self.store is not None:
            store = self.store
            agree(self._comm, lambda: store.add_round(count) if self._comm.rank == 0 else None)

    def end(self, rows: Rows, computed: int, signal: str | None) -> None:
        """Note how the attempt ended."""
        if self.store is not None and self._comm.rank == 0:
            outcome = {"ended": time_now(), "computed": computed, "done": int(rows.done.sum()), "signal": signal}
            self.store.end_attempt(self._attempt, outcome)


class _MemoryWriter:
    def __init__(self, rows: dict[int, Row]) -> None:
        self._rows = rows

    def add(self, item: int, row: Row) -> None:
        self._rows[item] = row

    def flush(self) -> None:
        return None


class _Run:
    """One attempt on one rank."""

    def __init__(
        self,
        task: Task,
        book: _Book,
        comm: Communicator,
        group: Communicator,
        group_size: int,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self._task, self._book, self._comm, self._group = task, book, comm, group
        self._leaders = list(range(0, comm.size, group_size))
        self._progress = progress

    def until_done(self, limit: int | None, signals: StopSignals) -> tuple[Rows, int]:
        """Round after round; returns the rows known at the end, complete or not, and how many were computed."""
        rows, computed = self._book.rows(), 0
        while not signals.received:
            left = None if limit is None else limit - computed
            if not rows.done.all() and left != 0:
                computed += self._round(rows, left, signals)
                rows = self._book.rows()
            if not rows.done.all():
                break
            count = self._extended(rows)
            if count <= len(rows.done):
                break
            self._book.extend(count)
            rows = self._book.rows()
        return rows, computed

    def _extended(self, rows: Rows) -> int:
        return agree(self._comm, lambda: self._task.extend(rows))

    def _round(self, rows: Rows, limit: int | None, signals: StopSignals) -> int:
        """Compute pending rows until none is left or a rank stops; returns the number computed on all ranks."""
        writer = self._book.writer()
        source = self._source(rows, limit)
        failure: LandscapeError | None = None
        computed = 0
        try:
            for item in self._items(source, signals):
                row = self._task.evaluate(item, self._group)
                if source is not None:
                    writer.add(item, row)
                    source.finished(float(np.min(row[self._task.headline])))
                    computed += 1
        except Exception as error:
            failure = _told(error)
            if self._group.size > 1:
                self._comm.abort(str(failure))  # its partners wait inside a collective: only this frees them
        try:
            writer.flush()
        except LandscapeError as error:
            failure = failure or error
        if source is not None:
            source.close(FAILED if failure else STOPPED if signals.received else BYE)
        states = self._comm.gather_all((failure, computed, signals.received))
        _raise_first([state[0] for state in states])
        signals.received = next((state[2] for state in states if state[2]), None)
        return sum(state[1] for state in states)

    def _items(self, source: Source | None, signals: StopSignals) -> Iterator[int]:
        """This rank's items: those it claims, or in a group those its leader does."""
        if source is None:
            while (item := int(self._group.broadcast(None))) >= 0:
                yield item
            return
        for item in source:
            if signals.received:
                break
            yield int(self._group.broadcast(item))
        self._group.broadcast(-1)

    def _source(self, rows: Rows, limit: int | None) -> Source | None:
        """Where this rank's items come from; None for the ranks of a group that follow its leader."""
        if self._group.rank != 0:
            return None
        if self._comm.rank != 0:
            return RequestedClaims(self._comm)
        pending = np.flatnonzero(~rows.done).tolist()
        tally = Tally(self._progress, int(rows.done.sum()), len(rows.done))
        return ManagedClaims(Claims(pending, len(self._leaders), limit), tally, self._comm, self._leaders[1:])


def _told(error: Exception) -> LandscapeError:
    """The error as other ranks can be told it: our own as they are, any other with its traceback."""
    if isinstance(error, LandscapeError):
        return error
    return RunFailedError("".join(traceback.format_exception(error)))


def _raise_first(problems: list[LandscapeError | None]) -> None:
    for rank, problem in enumerate(problems):
        if isinstance(problem, RunFailedError):
            raise RunFailedError(f"rank {rank} failed; rows finished before are kept:\n{problem}")
        if problem is not None:
            raise problem
