"""The run loop: any Task, on any number of ranks, into a run folder or memory."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from landscape.claims import BYE, FAILED, STOPPED, ManagedClaims, Progress, RequestedClaims, Source, Tally
from landscape.comm import SERIAL, Communicator, PartnerFailedError, RanksLostError, world
from landscape.errors import InputError, LandscapeError, RunFailedError, RunInterrupted, StoreError
from landscape.failures import Failure, Hand, Ledger, Tolerance, ended, failure, given_up
from landscape.heartbeat import Heartbeat
from landscape.provenance import attempt_record, time_now
from landscape.schedule import Claims
from landscape.signals import StopSignals, TimeLimit
from landscape.store import History, ShardWriter, Store, json_differences
from landscape.task import Description, ItemStopped, Row, Rows, Task, Telling, checked_row

logger = logging.getLogger(__name__)

T = TypeVar("T")

_HOPELESS = 50  # different items that fail on a rank without one between that does not: the rank or the model is broken


@dataclass(frozen=True)
class Outcome:
    """What a run left."""

    rows: Rows
    store: Store | None
    computed: int  # rows computed in this attempt, over all ranks
    history: History
    stopped: str | None = None  # the signal that asked to stop; the rows were finished all the same

    @property
    def complete(self) -> bool:
        """Whether every row is there."""
        return bool(self.rows.done.all())

    @property
    def ended(self) -> bool:
        """Whether every row is there or given up."""
        return bool(ended(self.rows.done, self.history.failed).all())


def write_result(save: Callable[[Path], object], path: Path) -> None:
    """Have rank 0 write a result by its `save`; where that fails, raise on all ranks."""
    agree(world(), lambda: save(path) if world().rank == 0 else None)


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
    recheck: float | None = None,
    tolerance: Tolerance | None = None,
) -> Outcome:
    """Compute the rows of `task` that are not in the folder `out` yet (in memory without one), on all ranks.

    All ranks must hold the same task. With `recheck`, two rows found in the folder are computed again and may be off by
    that relative gap. `limit` ends the run after that many new rows. `known` rows are taken over as finished into a new
    folder. With a `tolerance` items that fail are tried again and then left out: their rows stay masked, and the
    reasons are in the outcome's history. Every rank returns the same rows.

    Raises InputError for a folder of another task, StoreError when it cannot be written, RunFailedError with the
    traceback of an item that failed (with a tolerance where items fail one after another), RunInterrupted after Ctrl-C
    or SIGTERM, RanksLostError where ranks died and the others can go on; rows finished before any of these are kept,
    and the same call goes on from there.
    """
    comm = world()
    if limit is not None and limit < 0:
        raise InputError(f"limit={limit} items; give 0 or more")
    if tolerance is not None:
        TimeLimit.require(tolerance.item_seconds)
    group = agree(comm, lambda: comm.groups_of(ranks_per_item))
    description = agree(comm, task.describe)
    _require_one_task(comm, description, task.count)
    book = _Book(description, task.count, out, comm, known or {}, job, tolerance)
    if recheck is not None and out is not None:
        found = book.rows()
        agree(comm, lambda: _recheck(task, found, recheck, out) if comm.rank == 0 else None)
    run = _Run(task, description, book, comm, group, ranks_per_item, progress, tolerance)
    try:
        with StopSignals() as signals:
            rows, computed, stopped = run.until_done(limit, signals)
    except LandscapeError as error:
        with contextlib.suppress(LandscapeError):  # a full disk refuses this, too; the first reason is the one to tell
            book.end({"failure": str(error)}, {})
        raise
    done, failed = int(rows.done.sum()), book.given_up(book.failures())
    history = book.end({"computed": computed, "done": done, "failed": len(failed), "signal": stopped}, failed)
    if stopped is not None and not ended(rows.done, failed).all():
        place = (
            f"the same command goes on from {out}" if out is not None else "they were in memory only; out= keeps them"
        )
        raise RunInterrupted(f"stopped by {stopped} with {done} of {len(rows.done)} rows finished; {place}")
    return Outcome(rows, book.store, computed, history, stopped)


def _require_one_task(comm: Communicator, description: Description, count: int) -> None:
    """Refuse ranks that hold different models, data or settings: their rows would be mixed without a word."""
    mine = json.loads(json.dumps({"task": description.name, **description.identity, "items": count}))
    first = comm.broadcast(mine)

    def check() -> None:
        unlike = list(json_differences(first, mine))
        if unlike:
            raise InputError(
                f"rank {comm.rank} would compute something else than rank 0:\n  "
                + "\n  ".join(line.replace(" there, ", " on rank 0, ").replace(" now", " here") for line in unlike)
                + "\nEvery rank must build the same model and data: seed it, or train once and load the checkpoint."
            )

    agree(comm, check)


def _recheck(task: Task, rows: Rows, rtol: float, out: str | Path) -> None:
    """Compute two finished rows again before the others are believed.

    An identity holds what can be put into words; a loss that reads a global, say, it cannot see into. The headline may
    be off by `rtol`, which other hardware explains, the other columns by 100 times that.
    """
    done = np.flatnonzero(rows.done)
    for item in sorted({int(done[0]), int(done[len(done) // 2])}) if len(done) else ():
        again = task.evaluate(item, SERIAL)
        for name, values in rows.columns.items():
            stored, known = values[item], np.isfinite(values[item])
            allowed = rtol if name == task.headline else 100 * rtol
            if not np.allclose(np.asarray(again[name])[known], stored[known], rtol=allowed, atol=allowed * 1e-3):
                raise InputError(
                    f"{out} holds {name} = {stored} for item {item}, and this run computes {again[name]}: the model, "
                    "loss or a metric was changed since. Name another folder, or delete this one."
                )


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
        tolerance: Tolerance | None,
    ) -> None:
        self._comm = comm
        self._columns = description.columns
        self._job = job
        self._tolerance = tolerance
        self._memory: dict[int, Row] = dict(known) if comm.rank == 0 else {}
        self._failures: list[Failure] = []  # without a folder
        self.store: Store | None = None if out is None else Store(out)
        nodes = sorted(set(comm.gather_all(socket.gethostname())))
        begun = agree(comm, lambda: self._begin(out, description, count, known, nodes) if comm.rank == 0 else None)
        self._attempt, self._count, self._record = comm.broadcast(begun)
        # One for all rounds: it numbers this rank's shards.
        self.writer: ShardWriter | _MemoryWriter = _MemoryWriter(self._memory)
        if self.store is not None:
            self.writer = self.store.writer(self._attempt, comm.rank, self._columns, ranks=comm.size)
        kept = self.store is not None and tolerance is not None
        self.hand = self.store.hand(self._attempt, comm.rank) if self.store is not None and kept else Hand(None)

    def _begin(
        self,
        out: str | Path | None,
        description: Description,
        count: int,
        known: Mapping[int, Row],
        nodes: list[str],
    ) -> tuple[int, int, dict[str, Any]]:
        """(number of this attempt, items, record of the attempt)."""
        record = {**attempt_record(self._comm.size), "nodes": nodes, "rows_taken_over": len(known)}
        if self._tolerance is not None:
            record["retries"] = self._tolerance.retries
        if out is None:
            return 0, count, record
        store = Store.create(out, description, count, self._job)
        if self._tolerance is not None:
            store.note_crashes()
        attempt = store.begin_attempt(record)
        if known and not store.rows().done.any():
            writer = store.writer(0, 0, self._columns)
            for item, row in known.items():
                writer.add(item, row)
            writer.flush()
        return attempt, store.count, record

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

    def failures(self) -> tuple[Failure, ...]:
        """All failures of items so far, the same on every rank."""
        if self._tolerance is None:
            return ()
        if self.store is not None:
            store = self.store
            read = agree(self._comm, lambda: store.failures() if self._comm.rank == 0 else None)
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
            self.store.note_failure(found)

    def forget_failures(self, *, of_all_attempts: bool = False) -> None:
        """Take back the failures of this attempt: it was not its items that caused them. Called on all ranks."""
        self._failures.clear()
        if self.store is not None and self._comm.rank == 0:
            self.store.forget_failures(None if of_all_attempts else self._attempt)

    @property
    def beat_file(self) -> Path | None:
        """Where rank 0 gives signs of life."""
        return self.store.beat_file(self._attempt) if self.store is not None and self._comm.rank == 0 else None

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
        self.store.end_attempt(self._attempt, record)
        return self.store.history()


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
        description: Description,
        book: _Book,
        comm: Communicator,
        group: Communicator,
        group_size: int,
        progress: Callable[[Progress], None] | None,
        tolerance: Tolerance | None,
    ) -> None:
        self._task, self._book, self._comm, self._group = task, book, comm, group
        self._name, self._columns = description.name, description.columns
        self._leaders = list(range(0, comm.size, group_size))
        self._progress, self._tolerance = progress, tolerance
        self._tally: Tally | None = None  # on rank 0
        self._failed_in_a_row: set[int] = set()

    def until_done(self, limit: int | None, signals: StopSignals) -> tuple[Rows, int, str | None]:
        """Round after round; returns the rows known at the end, how many were computed, and the signal that stopped it.

        A signal reaches the ranks at different moments, so all they decide here rests on what they told each other.
        """
        with Heartbeat(self._book.beat_file, self._comm.size, self._progress_now):
            return self._rounds(limit, signals)

    def _progress_now(self) -> Progress | None:
        return None if self._tally is None else self._tally.progress()

    def _rounds(self, limit: int | None, signals: StopSignals) -> tuple[Rows, int, str | None]:
        rows, failures, computed = self._book.rows(), self._book.failures(), 0
        stopped: str | None = None
        while True:
            left = None if limit is None else limit - computed
            if not self._over(rows, failures) and left != 0:
                more, stopped = self._round(rows, failures, left, signals)
                computed += more
                rows, failures = self._book.rows(), self._book.failures()
            if not self._over(rows, failures):
                break
            self._require_rows(rows, failures)
            count = self._extended(rows)
            if count <= len(rows.done):
                break
            self._book.extend(count)  # also when stopped, so that finished rounds do not look like a finished run
            rows = self._book.rows()
            if stopped is not None:
                break
        return rows, computed, stopped

    def _over(self, rows: Rows, failures: Sequence[Failure]) -> bool:
        return bool(ended(rows.done, self._book.given_up(failures)).all())

    def _require_rows(self, rows: Rows, failures: Sequence[Failure]) -> None:
        """A run without a single row has failed, whatever it tolerates."""
        if failures and not rows.done.any():
            agree(self._comm, lambda: self._book.forget_failures(of_all_attempts=True))
            raise RunFailedError(f"every item failed, the last of them so:\n{failures[-1].reason}")

    def _extended(self, rows: Rows) -> int:
        return agree(self._comm, lambda: self._task.extend(rows))

    def _round(
        self, rows: Rows, failures: Sequence[Failure], limit: int | None, signals: StopSignals
    ) -> tuple[int, str | None]:
        """Compute pending rows until none is left or a rank stops.

        Returns the number computed on all ranks, and the first signal any of them received.
        """
        writer, hand = self._book.writer, self._book.hand

        def at_once() -> None:
            hand.clear()
            writer.flush()

        signals.at_once = at_once
        source = self._source(rows, failures, limit, signals)
        error: LandscapeError | None = None
        partner_failed = False
        computed = 0
        try:
            for item in self._items(source, signals):
                hand.take(item)
                try:
                    row, reason = self._row(item)
                except ItemStopped:
                    continue  # a signal reached this group, so there is no next item
                except PartnerFailedError:
                    partner_failed = True
                    break
                except RanksLostError:
                    raise
                except Exception as problem:
                    error = _told(problem)
                    break
                finally:
                    hand.clear()
                if source is None:
                    continue
                if row is None:
                    self._failed(item, reason)
                    source.failed(item)
                else:
                    self._failed_in_a_row.clear()
                    writer.add(item, row)
                    source.finished(float(np.min(row[self._task.headline])))
                    computed += 1
        except RanksLostError:
            self._abandon(source)
            raise
        except PartnerFailedError:
            partner_failed = True
        except Exception as problem:  # of this rank alone: its disk, say
            error = _told(problem)
            self._group.leave()
        except BaseException as problem:  # a second Ctrl-C, or an exit from inside an item
            with contextlib.suppress(LandscapeError):
                writer.flush()
            if self._comm.size > 1:
                self._comm.abort(repr(problem))
            raise
        try:
            writer.flush()
        except LandscapeError as problem:
            error = error or problem
        try:
            if source is not None:
                source.close(FAILED if error or partner_failed else STOPPED if signals.received else BYE)
            states = self._comm.gather_all((error, computed, signals.received))
        except RanksLostError:
            self._abandon(source)
            raise
        hand.close()
        if any(isinstance(state[0], _ItemAfterItemError) for state in states):
            agree(self._comm, self._book.forget_failures)
        _raise_first([state[0] for state in states])
        return sum(state[1] for state in states), next((state[2] for state in states if state[2]), None)

    def _row(self, item: int) -> tuple[Row | None, str]:
        """The row of an item; None and the reason where it failed and that is tolerated, on all ranks of the group.

        Where it is not, raises the error on the rank that had it, and PartnerFailedError on the others of its group.
        """
        error: Exception | None = None
        try:
            seconds = None if self._tolerance is None else self._tolerance.item_seconds
            with TimeLimit(seconds, unless=lambda: self._group.talking):
                row = checked_row(self._task.evaluate(item, self._group), self._columns)
            self._group.gather_all(None)  # where one fails, the others hear of it here at the latest
            return row, ""
        except (ItemStopped, RanksLostError):
            raise
        except PartnerFailedError:
            pass
        except Exception as problem:
            error = problem
            self._group.leave()
        self._group.rejoin()
        fatal = self._tolerance is None or isinstance(error, StoreError)
        told = [problem for problem in self._group.gather_all(error and (fatal, str(_told(error)))) if problem]
        if any(is_fatal for is_fatal, _ in told):
            raise error or PartnerFailedError("another rank of this group failed")
        return None, told[0][1]

    def _failed(self, item: int, reason: str) -> None:
        """Note a failure. Raises RunFailedError where item after item fails, which is not the fault of the items."""
        self._book.note_failure(item, reason)
        logger.warning("item %d failed: %s", item, reason.strip().rpartition("\n")[2])
        self._failed_in_a_row.add(item)
        if len(self._failed_in_a_row) >= _HOPELESS:
            raise _ItemAfterItemError(f"{_HOPELESS} items failed one after another, the last so:\n{reason}")

    def _abandon(self, source: Source | None) -> None:
        """Ranks were lost: keep what is finished, for those that go on."""
        if source is not None:
            source.abandon()
        with contextlib.suppress(LandscapeError):
            self._book.writer.flush()
        self._book.hand.close()

    def _items(self, source: Source | None, signals: StopSignals) -> Iterator[int]:
        """This rank's items: those it claims or, in a group, those its leader does; none after a signal."""
        claimed = iter(source) if source is not None else None
        while True:
            item = next(claimed, None) if claimed is not None and not signals.received else None
            told = self._group.gather_all((item, signals.received))
            item, received = told[0][0], next((signal for _, signal in told if signal), None)
            if received is not None:
                signals.received = received
            if item is None or received is not None:
                return
            yield item

    def _source(
        self, rows: Rows, failures: Sequence[Failure], limit: int | None, signals: StopSignals
    ) -> Source | None:
        """Where this rank's items come from; None for the ranks of a group that follow its leader."""
        hand, task = self._book.hand, self._task
        if isinstance(task, Telling):
            task.stopping = lambda: signals.received is not None
            task.report = hand.note if self._group.rank == 0 else None
        if self._group.rank != 0:
            return None
        if self._comm.rank != 0:
            return RequestedClaims(self._comm)
        failed = self._book.given_up(failures)
        suspected = {failure.item for failure in failures}  # last, so that they cost the others nothing
        pending = sorted(np.flatnonzero(~ended(rows.done, failed)).tolist(), key=lambda item: (item in suspected, item))
        headline = rows.columns[task.headline]
        smallest = float(np.fmin.reduce(headline, axis=None))
        done, total = int(rows.done.sum()), len(rows.done)
        self._tally = tally = Tally(self._progress, done, total, smallest, task=self._name, failed=len(failed))
        if isinstance(task, Telling):

            def report(text: str) -> None:
                hand.note(text)
                tally.note(text)

            task.report = report
        claims = Claims(pending, len(self._leaders), limit)
        ledger = Ledger(failures, self._tolerance.retries if self._tolerance is not None else 0)
        return ManagedClaims(claims, ledger, tally, self._comm, self._leaders[1:], lambda: signals.received is not None)


class _ItemAfterItemError(RunFailedError):
    """What fails is the rank, its device or the model, and no item of its own."""


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
