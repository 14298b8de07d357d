"""Where rows go and come from: a folder, or memory."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from landscape.errors import StoreError
from landscape.files.provenance import attempt_record, time_now
from landscape.run.comm import Communicator
from landscape.run.failures import Failure, Tolerance, failure, given_up
from landscape.run.hands import Hand
from landscape.run.records import refused
from landscape.run.shards import ShardWriter
from landscape.run.store import History, Store
from landscape.run.task import Description, Row, Rows
from landscape.run.together import agree

_NO_ATTEMPT = 0  # in the place of its number, where a complete run is only read


class Book:
    """Where rows go and come from: a run folder, or the ranks' memory."""

    def __init__(
        self,
        description: Description,
        count: int,
        out: str | Path | None,
        comm: Communicator,
        known: Mapping[int, Row],
        job: str,
        tolerance: Tolerance | None,
    ) -> None:
        self._comm = comm
        self.columns = description.columns  # but for later ones that a folder was begun without
        self._job = job
        self._tolerance = tolerance
        self._memory: dict[int, Row] = dict(known) if comm.rank == 0 else {}
        self._failures: list[Failure] = []  # without a folder
        self.store: Store | None = None if out is None else Store(out)
        nodes = sorted(set(comm.gather_all(socket.gethostname())))
        begun = agree(comm, lambda: self._begin(out, description, count, known, nodes) if comm.rank == 0 else None)
        self._attempt, self._count, self._record, self.columns = comm.broadcast(begun)
        self.read_only = self.store is not None and self._attempt == _NO_ATTEMPT
        # One for all rounds: it numbers this rank's shards.
        self.writer: ShardWriter | _MemoryWriter = _MemoryWriter(self._memory)
        if self.store is not None:
            self.writer = self.store.writer(self._attempt, comm.rank, self.columns, ranks=comm.size)
        kept = self.store is not None and tolerance is not None and not self.read_only
        self.hand = self.store.hands.of(self._attempt, comm.rank) if self.store is not None and kept else Hand(None)

    def _begin(
        self,
        out: str | Path | None,
        description: Description,
        count: int,
        known: Mapping[int, Row],
        nodes: list[str],
    ) -> tuple[int, int, dict[str, Any], Mapping[str, tuple[int, ...]]]:
        """(number of this attempt, items, record of the attempt, columns)."""
        record = {**attempt_record(self._comm.size), "nodes": nodes, "rows_taken_over": len(known)}
        if self._tolerance is not None:
            record["retries"] = self._tolerance.retries
        if out is None:
            return 0, count, record, self.columns
        store = Store.create(out, description, count, self._job)
        columns = description.columns_of(store.description().columns)
        try:
            if self._tolerance is not None:
                for found in store.hands.left():
                    store.failures.add(found)
            attempt = store.attempts.begin(record)
        except StoreError as error:
            if refused(error) and store.complete:
                return _NO_ATTEMPT, store.count, record, columns
            raise
        if known and not store.rows().done.any():
            writer = store.writer(0, 0, columns)
            for item, row in known.items():
                writer.add(item, row)
            writer.flush()
        return attempt, store.count, record, columns

    def rows(self) -> Rows:
        """All rows so far, the same on every rank."""
        if self.store is not None:
            store = self.store
            read = agree(self._comm, lambda: store.rows() if self._comm.rank == 0 else None)
            result: Rows = self._comm.broadcast(read)
            return result
        rows = Rows.empty(self.columns, self._count)
        for part in self._comm.gather_all(self._memory):
            for item, row in part.items():
                rows.done[item] = True
                for name in self.columns:
                    rows.columns[name][item] = row[name]
        return rows

    def failures(self) -> tuple[Failure, ...]:
        """All failures of items so far, the same on every rank."""
        if self._tolerance is None:
            return ()
        if self.store is not None:
            store = self.store
            read = agree(self._comm, lambda: store.failures.all() if self._comm.rank == 0 else None)
            result: tuple[Failure, ...] = self._comm.broadcast(read)
            return result
        return tuple(failure for part in self._comm.gather_all(self._failures) for failure in part)

    def given_up(self, failures: Sequence[Failure]) -> dict[int, str]:
        """Items given up after these failures, and why."""
        return {} if self._tolerance is None else given_up(failures, self._tolerance.retries)

    def note_failure(self, item: int, reason: str) -> None:
        """Keep why an item failed."""
        found = failure(item, reason, self._attempt, self._comm.rank)
        if self.store is None:
            self._failures.append(found)
        else:
            self.store.failures.add(found)

    def forget_failures(self, *, of_all_attempts: bool = False) -> None:
        """Take back the failures of this attempt: it was not its items that caused them. Called on all ranks."""
        self._failures.clear()
        if self.store is not None and self._comm.rank == 0:
            self.store.failures.forget(None if of_all_attempts else self._attempt)

    @property
    def beat_file(self) -> Path | None:
        """Where rank 0 gives signs of life."""
        if self.store is None or self.read_only or self._comm.rank != 0:
            return None
        return self.store.attempts.beat_file(self._attempt)

    def extend(self, count: int) -> None:
        """A new round makes it `count` items."""
        self._count = count
        if self.store is not None:
            store = self.store
            agree(self._comm, lambda: store.add_round(count) if self._comm.rank == 0 else None)

    def end(self, outcome: Mapping[str, Any], failed: Mapping[int, str]) -> History:
        """Note how the attempt ended; returns all attempts, the same on every rank."""
        ended = agree(self._comm, lambda: self._end(outcome, failed) if self._comm.rank == 0 else None)
        history: History = self._comm.broadcast(ended)
        return history

    def _end(self, outcome: Mapping[str, Any], failed: Mapping[int, str]) -> History:
        record = {**self._record, "ended": time_now(), **outcome}
        if self.store is None:
            return History((record,), self._job, failed)
        if not self.read_only:
            self.store.attempts.end(self._attempt, record)
        return self.store.history()


class _MemoryWriter:
    def __init__(self, rows: dict[int, Row]) -> None:
        self._rows = rows

    def add(self, item: int, row: Row) -> None:
        self._rows[item] = row

    def flush(self) -> None:
        return None
