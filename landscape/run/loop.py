"""The run loop: any Task, on any number of ranks, into a run folder or memory."""

from __future__ import annotations

import contextlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from landscape.arguments import Count, Natural, checked
from landscape.errors import InputError, LandscapeError, RunFailedError, RunInterrupted, StoreError, raised_by
from landscape.run.book import Book
from landscape.run.claims import BYE, FAILED, STOPPED, ManagedClaims, RequestedClaims, Source
from landscape.run.comm import Communicator, PartnerFailedError, RanksLostError, world
from landscape.run.failures import Failure, Ledger, Tolerance, ended
from landscape.run.heartbeat import Heartbeat
from landscape.run.progress import Progress, Tally
from landscape.run.records import in_lines, task_differences
from landscape.run.schedule import Claims
from landscape.run.signals import StopSignals, TimeLimit
from landscape.run.store import History, Store
from landscape.run.task import Description, ItemStopped, Planned, Row, Rows, Task, Telling, checked_row
from landscape.run.together import agree, raise_first, reason_of, told_error

logger = logging.getLogger(__name__)
_TOLD = 3  # failures that say the same are told one by one
_HOPELESS = 50  # where so many different items fail in a row on one rank, the rank or the model is broken


@dataclass(frozen=True)
class Outcome:
    """What a run left."""

    rows: Rows
    store: Store | None
    computed: int  # rows computed in this attempt, over all ranks
    history: History
    stopped: str | None = None  # the signal that asked to stop; the rows were finished all the same
    read_only: bool = False  # nothing can be written into the folder, and nothing had to be

    @property
    def complete(self) -> bool:
        """Whether every row is there."""
        return bool(self.rows.done.all())

    @property
    def ended(self) -> bool:
        """Whether every row is there or given up."""
        return bool(ended(self.rows.done, self.history.failed).all())


@checked()
def run_task(
    task: Task,
    out: str | Path | None = None,
    *,
    ranks_per_item: Count = 1,
    limit: Natural | None = None,
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
    book = Book(description, task.count, out, comm, known or {}, job, tolerance)
    if recheck is not None and out is not None:
        found = book.rows()
        _plan(comm, task, found)
        agree(comm, lambda: _recheck(task, found, recheck, out, group) if comm.rank < group.size else None)
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
    return Outcome(rows, book.store, computed, history, stopped, book.read_only)


def _require_one_task(comm: Communicator, description: Description, count: int) -> None:
    """Refuse ranks that hold different models, data or settings: their rows would be mixed without a word."""
    mine = json.loads(json.dumps({"task": description.name, "identity": description.identity, "items": count}))
    first = comm.broadcast(mine)

    def check() -> None:
        unlike = task_differences(first, mine)
        if unlike:
            raise InputError(
                f"rank {comm.rank} would compute something else than rank 0:\n  "
                + in_lines([line.replace(" there, ", " on rank 0, ").replace(" now", " here") for line in unlike])
                + "\nEvery rank must build the same model and data: seed it, or train once and load the checkpoint."
            )

    agree(comm, check)


def _plan(comm: Communicator, task: Task, rows: Rows) -> None:
    """Tell a task that plans its rounds the rows that are there."""
    if isinstance(task, Planned):
        agree(comm, lambda: task.plan(rows))


def _recheck(task: Task, rows: Rows, rtol: float, out: str | Path, group: Communicator) -> None:
    """Compute two finished rows again, in the first group of ranks, before the others are believed.

    The identity of a task cannot hold everything that its values depend on: a loss may read a global variable. The
    headline may differ by `rtol`, as between machines, and the other columns by 100 times that.
    """
    done = np.flatnonzero(rows.done)
    for item in sorted({int(done[0]), int(done[len(done) // 2])}) if len(done) else ():
        try:
            again = task.evaluate(item, group)
        except Exception:
            group.leave()
            raise
        for name, values in rows.columns.items():
            stored, known = values[item], np.isfinite(values[item])
            allowed = rtol if name == task.headline else 100 * rtol
            if not np.allclose(np.asarray(again[name])[known], stored[known], rtol=allowed, atol=allowed * 1e-3):
                raise InputError(
                    f"{out} holds {name} = {stored} for item {item}, and this run computes {again[name]}: the model, "
                    "loss or a metric was changed since. Name another folder, or delete this one."
                )


@dataclass
class _Share:
    """What one rank did in a round."""

    computed: int = 0  # rows
    error: LandscapeError | None = None  # that ends the run
    partner_failed: bool = False  # another rank of its group has such an error

    @property
    def failed(self) -> bool:
        """Whether the run cannot go on."""
        return self.error is not None or self.partner_failed


class _Run:
    """One attempt on one rank."""

    def __init__(
        self,
        task: Task,
        description: Description,
        book: Book,
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
        self._said: Counter[str] = Counter()  # how often items failed with the same line

    def until_done(self, limit: int | None, signals: StopSignals) -> tuple[Rows, int, str | None]:
        """Round after round; returns the rows known at the end, how many were computed, and the signal that stopped it.

        A signal reaches the ranks at different moments, so they decide here by what they have told each other alone.
        """
        with Heartbeat(self._book.beat_file, self._comm.size, self._progress_now):
            found = self._rounds(limit, signals)
        self._book.hand.close()  # also where nothing was left to do, after a failure that the attempt before told
        return found

    def _progress_now(self) -> Progress | None:
        return None if self._tally is None else self._tally.progress()

    def _rounds(self, limit: int | None, signals: StopSignals) -> tuple[Rows, int, str | None]:
        rows, failures, computed = self._book.rows(), self._book.failures(), 0
        stopped: str | None = None
        while True:
            left = None if limit is None else limit - computed
            if not self._over(rows, failures) and left != 0:
                _plan(self._comm, self._task, rows)
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

        def at_once() -> None:
            self._book.hand.clear()
            self._book.writer.flush()

        signals.at_once = at_once
        source = self._source(rows, failures, limit, signals)
        try:
            share = self._share(source, signals)
            if source is not None:
                source.close(FAILED if share.failed else STOPPED if signals.received else BYE)
            states = self._comm.gather_all((share.error, share.computed, signals.received))
        except RanksLostError:
            self._abandon(source)
            raise
        except Exception:
            raise
        except BaseException as problem:  # an exit in the callback, once the items are done
            if self._comm.size > 1:
                self._comm.abort(raised_by(problem))
            raise
        self._book.hand.close()
        if any(isinstance(error, _ItemAfterItemError) for error, _, _ in states):
            agree(self._comm, self._book.forget_failures)
        raise_first([error for error, _, _ in states])
        return sum(count for _, count, _ in states), next((signal for _, _, signal in states if signal), None)

    def _share(self, source: Source | None, signals: StopSignals) -> _Share:
        """Compute this rank's items until none is left or the run ends; what is finished is written."""
        share = _Share()
        try:
            for item in self._items(source, signals):
                self._compute(item, source, share)
                if share.error is not None:
                    break
        except RanksLostError:
            raise
        except PartnerFailedError:
            share.partner_failed = True
        except Exception as problem:  # of this rank alone: its disk, say
            share.error = told_error(problem)
            self._group.leave()
        except BaseException as problem:  # a second Ctrl-C, or an exit from inside an item
            with contextlib.suppress(LandscapeError):
                self._book.writer.flush()
            if self._comm.size > 1:
                self._comm.abort(raised_by(problem))
            raise
        for line, times in self._said.items():
            if times > _TOLD:
                logger.warning("%d more failures say the same: %s", times - _TOLD, line)
        self._said.clear()
        try:
            self._book.writer.flush()
        except LandscapeError as problem:
            share.error = share.error or problem
        return share

    def _compute(self, item: int, source: Source | None, share: _Share) -> None:
        """Compute one item and note what came of it: a row, a failure that is tolerated, or the error of the run."""
        hand = self._book.hand
        hand.take(item)
        try:
            row, reason = self._row(item)
        except ItemStopped:
            return  # a signal reached this group, so there is no next item
        except (PartnerFailedError, RanksLostError):
            raise
        except Exception as problem:
            share.error = told_error(problem)  # the group has heard of it: it need not be left
            return
        finally:
            hand.clear()
        if source is None:
            return
        if row is None:
            self._failed(item, reason)
            source.failed(item)
            return
        self._failed_in_a_row.clear()
        self._book.writer.add(item, row)
        headline = np.asarray(row[self._task.headline])
        source.finished(float(headline.min()) if headline.ndim else headline.item())
        share.computed += 1

    def _row(self, item: int) -> tuple[Row | None, str]:
        """The row of an item; None and the reason where it failed and that is tolerated, on all ranks of the group.

        Where it is not, raises the error on the rank that had it, and PartnerFailedError on the others of its group.
        """
        error: Exception | None = None
        try:
            seconds = None if self._tolerance is None else self._tolerance.item_seconds
            with TimeLimit(seconds, unless=lambda: self._group.talking):
                row = checked_row(self._task.evaluate(item, self._group), self._columns)
            row = {name: row[name] for name in self._book.columns}
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
        told = [problem for problem in self._group.gather_all(error and (fatal, reason_of(error))) if problem]
        if any(is_fatal for is_fatal, _ in told):
            raise error or PartnerFailedError("another rank of this group failed")
        return None, told[0][1]

    def _failed(self, item: int, reason: str) -> None:
        """Note a failure. Raises RunFailedError where item after item fails, which is not the fault of the items."""
        self._book.note_failure(item, reason)
        line = reason.strip().rpartition("\n")[2]
        self._said[line] += 1
        if self._said[line] <= _TOLD:
            logger.warning("item %d failed: %s", item, line)
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
    """Item after item fails, so it is the rank, its device or the model that is broken."""
