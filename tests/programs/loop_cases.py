"""Cases of the run loop that hold on any number of ranks: pytest calls them alone, mpiexec runs this file.

    mpiexec -n 4 python tests/programs/loop_cases.py FOLDER RESULT.json

Every rank runs every case and checks what it sees; what a case returns must not depend on the number of ranks.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    import light  # noqa: F401

import numpy as np
import pytest
from toys import Refining, Shared, Toy, check_rows, digest, noted, true_row

from landscape.errors import InputError, LandscapeError, RunFailedError, RunInterrupted, StoreError
from landscape.run import comm, loop, shards
from landscape.run import progress as progress_module
from landscape.run.comm import world
from landscape.run.loop import run_task
from landscape.run.progress import Progress
from landscape.run.store import Store
from landscape.run.task import Row

COUNT = 60
PATIENCE = 120.0  # seconds after which a wait for other ranks is called a hang


def together() -> None:
    """All ranks have come here, so that all see the same files."""
    world().gather_all(None)


def refused(kind: type[BaseException], action: Callable[[], Any]) -> str:
    """The message of the error that `action` must raise, on every rank."""
    with pytest.raises(kind) as caught:
        action()
    assert caught.type is kind
    together()
    return str(caught.value)


@contextmanager
def patched(owner: Any, name: str, value: Any) -> Iterator[None]:
    old = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, old)


def completes(folder: Path, log: Path, *, again: int = 0) -> str:
    """The run in `folder` is taken up and finished; no item but `again` ones was ever computed twice."""
    outcome = run_task(Toy(COUNT, log), folder)
    together()
    assert outcome.complete
    check_rows(outcome.rows)
    counts = noted(log)
    assert sorted(counts) == list(range(COUNT))
    assert sum(counts.values()) - COUNT <= again, counts
    together()
    return digest(outcome.rows)


def whole_run(folder: Path) -> str:
    """A folder with spaces and letters; NaN, Inf, -1 and 0 rows are results; the second call computes nothing."""
    out = folder / "a run, größer é 面"
    first = completes(out, folder / "log")
    assert completes(out, folder / "log") == first
    assert Store.open(out).rows().done.all()
    assert [a["computed"] for a in Store.open(out).attempts.all()] == [COUNT, 0]
    return first


def memory_run(folder: Path) -> str:
    """Without a folder every rank gets all rows."""
    outcome = run_task(Toy(COUNT, folder / "log"), progress=lambda progress: None)
    together()
    assert outcome.computed == COUNT
    assert outcome.history.attempts[0]["ranks"] == world().size
    check_rows(outcome.rows)
    assert noted(folder / "log") == dict.fromkeys(range(COUNT), 1)
    return digest(outcome.rows)


def limited(folder: Path) -> str:
    """`limit` is exact, in one round and over several, and 0 computes nothing."""
    for limit, total in ((0, 0), (7, 7), (1, 8), (50, 58)):
        outcome = run_task(Toy(COUNT, folder / "log"), folder / "run", limit=limit)
        together()
        assert (outcome.computed, outcome.complete) == (limit, False)
        assert sum(noted(folder / "log").values()) == int(outcome.rows.done.sum()) == total
        check_rows(outcome.rows)
    assert "limit=-1" in refused(InputError, lambda: run_task(Toy(3), limit=-1))
    return completes(folder / "run", folder / "log")


def rounds(folder: Path) -> str:
    """Three rounds; stopped in the middle of the second, the run goes on from there and ends with the same rows."""
    whole = run_task(Refining()).rows
    second = 8 + int((whole.columns["loss"][:5] > 0).sum())
    assert len(whole.done) == second + 4
    log = folder / "log"
    part = run_task(Refining(log), folder / "run", limit=7)
    together()
    assert (len(part.rows.done), int(part.rows.done.sum())) == (second, 7)
    rest = run_task(Refining(log), folder / "run")
    together()
    assert digest(rest.rows) == digest(whole)
    assert rest.computed == len(whole.done) - 7
    assert noted(log) == dict.fromkeys(range(len(whole.done)), 1)
    assert Store.open(folder / "run").manifest()["rounds"] == [5, second, second + 4]
    return digest(whole)


def failing_item(folder: Path) -> str:
    """An item that raises ends the run on every rank with its traceback; rows finished before are kept."""

    def before(item: int) -> None:
        if item == 23:
            raise ArithmeticError("item 23 went wrong")

    for out in (folder / "run", None):
        told = refused(RunFailedError, lambda out=out: run_task(Toy(COUNT, folder / "log", before=before), out))
        assert "item 23 went wrong" in told
        assert "in before" in told
        assert told.startswith("rank ")
        if out is not None:
            check_kept(out, folder / "log")
            assert "item 23" in Store.open(out).attempts.all()[-1]["failure"]
            together()
            result = completes(out, folder / "log")
    return result


def check_kept(out: Path, log: Path) -> None:
    """Every item that was computed has its row in the folder."""
    rows = Store.open(out).rows()
    assert set(np.flatnonzero(rows.done)) == set(noted(log))
    check_rows(rows)
    together()


def failing_rank(folder: Path) -> str:
    """The same where one rank fails whatever it gets, rank 0 or the last, at its first item or its third."""
    for rank in sorted({0, world().size - 1}):
        for nth in (1, 3):
            mine: list[int] = []
            broken = folder / f"broken {rank} {nth}"

            def before(
                item: int, rank: int = rank, nth: int = nth, mine: list[int] = mine, broken: Path = broken
            ) -> None:
                mine.append(item)
                if world().rank == rank and len(mine) == nth:
                    broken.touch()
                    raise ArithmeticError(f"rank {rank} is broken")
                while len(mine) > 2 and world().rank != rank and not broken.exists():
                    time.sleep(1e-3)  # it must get there before the others have finished all

            out, log = folder / f"run {rank} {nth}", folder / f"log {rank} {nth}"
            together()
            task = Toy(COUNT, log, before=before)
            told = refused(RunFailedError, lambda task=task, out=out: run_task(task, out))
            assert f"rank {rank} failed" in told
            check_kept(out, log)
            result = completes(out, log)
    return result


def exit_of_items_own(folder: Path) -> str:
    """Rows of another shape or with other columns are refused at once, and cost only themselves."""

    class Wrong(Toy):
        def evaluate(self, index: int, group: comm.Communicator) -> Row:
            row = dict(super().evaluate(index, group))
            if index == 17:
                del row["vector"]
            return row

    told = refused(RunFailedError, lambda: run_task(Wrong(COUNT, folder / "log"), folder / "run"))
    assert "the row has columns loss; the task describes loss, vector" in told
    kept = set(np.flatnonzero(Store.open(folder / "run").rows().done))
    assert kept == set(noted(folder / "log")) - {17}
    together()
    return completes(folder / "run", folder / "log", again=1)


def reused_array(folder: Path) -> str:
    """A task may return the same array each time; rows are copies."""
    buffer = np.empty(3)

    class Reusing(Toy):
        def evaluate(self, index: int, group: comm.Communicator) -> Row:
            buffer[:] = true_row(index)["vector"]
            return {"loss": true_row(index)["loss"], "vector": buffer}

    for out in (None, folder / "run"):
        outcome = run_task(Reusing(COUNT), out)
        check_rows(outcome.rows)
    return digest(outcome.rows)


def failing_progress(folder: Path) -> str:
    """A progress bar that breaks is switched off; the run goes on."""
    calls: list[int] = []

    def report(progress: Progress) -> None:
        calls.append(progress.done)
        raise BrokenPipeError("the terminal is gone")

    with patched(progress_module, "_REPORT", 0.0):
        outcome = run_task(Toy(COUNT, folder / "log"), folder / "run", progress=report)
    check_rows(outcome.rows)
    assert len(calls) == (world().rank == 0)
    return digest(outcome.rows)


def counted_progress(folder: Path) -> str:
    """The progress counts the rows of all ranks and of earlier attempts, and follows the minimum of the headline."""
    seen: list[Progress] = []
    run_task(Toy(COUNT), folder / "run", limit=10)
    with patched(progress_module, "_REPORT", 0.0):
        outcome = run_task(Toy(COUNT), folder / "run", progress=seen.append)
    check_rows(outcome.rows)
    if world().rank == 0:
        last = seen[-1]
        assert (last.done, last.total, last.computed) == (COUNT, COUNT, COUNT - 10)
        assert [p.done for p in seen] == sorted(p.done for p in seen)
        assert last.minimum == -np.inf
        assert last.remaining_seconds == 0
    else:
        assert not seen
    return digest(outcome.rows)


def without_threads(folder: Path) -> str:
    """Where the MPI library lets one thread talk at a time, rank 0 answers between its items."""
    with patched(comm.Mpi, "concurrent", False):
        return completes(folder / "run", folder / "log")


def long_item_on_rank_0(folder: Path) -> str:
    """While rank 0 is busy with its first item, the others get and finish all the rest."""
    count = 4 * world().size  # so few that each claim is a single item

    def before(item: int) -> None:
        if world().rank != 0 or world().size == 1:
            return
        deadline = time.monotonic() + PATIENCE
        while sum(noted(folder / "log").values()) < count - 1:
            assert time.monotonic() < deadline, "the others wait for rank 0"
            time.sleep(1e-2)

    outcome = run_task(Toy(count, folder / "log", before=before), folder / "run")
    check_rows(outcome.rows)
    return "done"


def stopped(folder: Path) -> str:
    """A signal to any one rank, or to all, stops all after the item in hand; the next call goes on."""
    result = ""
    names = ("SIGINT", "SIGTERM", "SIGUSR1")
    last = world().size - 1
    for number, (name, ranks) in enumerate(zip(names, ([0], [last], range(world().size)), strict=True)):
        result = _stop_and_go_on(folder / f"run {number}", folder / f"log {number}", name, list(ranks), "item")
    _stop_and_go_on(folder / "run 3", folder / "log 3", "SIGTERM", [last], "start")
    _stop_and_go_on(folder / "run 4", folder / "log 4", "SIGINT", [0], "start")
    return result


def _stop_and_go_on(out: Path, log: Path, name: str, ranks: list[int], when: str) -> str:
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    hit = out.with_name(f"{out.name} hit")

    def shoot() -> None:
        os.kill(os.getpid(), getattr(signal, name))
        hit.touch()

    def before(item: int) -> None:
        if when == "item":
            if world().rank in ranks:
                shoot()
            while not hit.exists():
                time.sleep(1e-3)

    original = loop._Run._source

    def source(*arguments: Any) -> Any:
        if when == "start" and world().rank in ranks:
            shoot()
        return original(*arguments)

    with patched(loop._Run, "_source", source):
        told = refused(RunInterrupted, lambda: run_task(Toy(COUNT, log, before=before), out))
    assert f"stopped by {name}" in told
    assert str(out) in told
    assert handlers == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    if log.exists():
        check_kept(out, log)
    assert Store.open(out).attempts.all()[-1]["signal"] == name
    together()
    return completes(out, log)


def signal_between_rounds(folder: Path) -> str:
    """A signal that one rank gets between two rounds, when ranks agree on what is next, divides nobody."""
    sent: list[bool] = []

    def between() -> None:
        if world().rank == world().size - 1 and not sent:
            sent.append(True)
            os.kill(os.getpid(), signal.SIGTERM)

    assert "SIGTERM" in refused(RunInterrupted, lambda: run_task(Refining(between=between), folder / "run"))
    return digest(run_task(Refining(), folder / "run").rows)


def full_disk(folder: Path) -> str:
    """One rank's disk is full: all stop with the reason, rows written before stay, and the next call goes on."""
    original = shards.write_durably
    written: list[Path] = []
    mine: list[int] = []
    full, last = folder / "full", world().rank == world().size - 1

    def write(path: Path, content: bytes) -> None:
        if path.suffix == ".npz" and last:
            if len(written) == 2:
                full.touch()
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written.append(path)
        original(path, content)

    def before(item: int) -> None:
        mine.append(item)
        while len(mine) > 2 and not last and not full.exists():
            time.sleep(1e-3)  # it must get there before the others have finished all

    with patched(shards, "write_durably", write), patched(shards, "_LAST_INTERVAL", 0.0):  # a shard for every row
        told = refused(StoreError, lambda: run_task(Toy(COUNT, folder / "log", before=before), folder / "run"))
    assert "No space left on device" in told
    assert "make room" in told
    assert ".npz" in told
    assert all(path.exists() for path in written)
    kept = set(np.flatnonzero(Store.open(folder / "run").rows().done))
    lost = set(noted(folder / "log")) - kept
    assert len(lost) <= 1, lost  # the row that was refused
    together()
    return completes(folder / "run", folder / "log", again=1)


def others_wait(item: int, rank: int, there: Path) -> None:
    """In groups of two, those without `rank` keep some items back until it has left its mark."""
    while item > 9 and world().rank // 2 != rank // 2 and not there.exists():
        time.sleep(1e-3)


def groups(folder: Path) -> str:
    """Ranks that share items: the same bits; a failure or a signal inside a group ends it for all."""
    size = 2 if world().size % 2 == 0 else 1
    out, log = folder / "run", folder / "log"
    outcome = run_task(Shared(COUNT, log), out, ranks_per_item=size)
    together()
    assert noted(log) == dict.fromkeys(range(COUNT), 1)
    if size == 2:
        for broken in (0, world().size - 1):  # a leader, a follower
            there = folder / f"{broken} is broken"

            def before(item: int, broken: int = broken, there: Path = there) -> None:
                if world().rank == broken and item > 5:
                    there.touch()
                    raise ArithmeticError("half of a group is broken")
                others_wait(item, broken, there)

            again, trace = folder / f"run {broken}", folder / f"log {broken}"
            task = Shared(COUNT, trace, before=before)
            told = refused(RunFailedError, lambda task=task, again=again: run_task(task, again, ranks_per_item=2))
            assert f"rank {broken} failed" in told
            assert "half of a group is broken" in told
            assert set(np.flatnonzero(Store.open(again).rows().done)) == set(noted(trace))
            together()
            assert digest(run_task(Shared(COUNT, trace), again, ranks_per_item=2).rows) == digest(outcome.rows)

        shot = folder / "is shot"

        def shoot(item: int) -> None:
            if world().rank == world().size - 1:
                os.kill(os.getpid(), signal.SIGTERM)
                shot.touch()
            others_wait(item, world().size - 1, shot)
            time.sleep(1e-2)

        task = Shared(COUNT, before=shoot)
        assert "SIGTERM" in refused(RunInterrupted, lambda: run_task(task, folder / "shot", ranks_per_item=2))
        assert Store.open(folder / "shot").rows().done.sum() < COUNT
        together()
        resumed = run_task(Shared(COUNT), folder / "shot", ranks_per_item=1)
        assert digest(resumed.rows) == digest(outcome.rows)
    for wrong in (0, -1, world().size + 1):
        told = refused(InputError, lambda wrong=wrong: run_task(Toy(3), ranks_per_item=wrong))
        assert f"ranks_per_item={wrong}" in told
    return digest(outcome.rows)


def other_job(folder: Path) -> str:
    """A folder of another job is refused on every rank with what differs, and stays as it is."""
    completes(folder / "run", folder / "log")
    before = sorted((p.name, p.read_bytes()) for p in (folder / "run").rglob("*") if p.is_file())
    other = Toy(COUNT, identity={"seed": 7, "count": COUNT})
    told = refused(InputError, lambda: run_task(other, folder / "run"))
    assert "seed: 2024 there, 7 now" in told
    assert "count" not in told
    assert before == sorted((p.name, p.read_bytes()) for p in (folder / "run").rglob("*") if p.is_file())
    return "refused"


def known_rows(folder: Path) -> str:
    """Rows known before are taken over into a new run, with a note, and not computed."""
    known = {item: true_row(item) for item in range(0, COUNT, 2)}
    for out in (None, folder / "run"):
        log = folder / f"log {out is None}"
        outcome = run_task(Toy(COUNT, log), out, known=known)
        together()
        check_rows(outcome.rows)
        assert noted(log) == dict.fromkeys(range(1, COUNT, 2), 1)
        assert outcome.history.attempts[0]["rows_taken_over"] == len(known)
    return digest(outcome.rows)


def unlike_ranks(folder: Path) -> str:
    """Ranks that were given different models or data would mix their rows: refused before anything is written."""
    out = folder / "run"
    task = Toy(COUNT, identity={"model": "trained on this rank", "centre": world().rank})
    if world().size == 1:
        return digest(run_task(task, out).rows)
    told = refused(InputError, lambda: run_task(task, out))
    assert "something else than rank 0" in told
    assert "centre: 0 on rank 0, 1 here" in told
    together()
    assert not out.exists()
    return digest(run_task(Toy(COUNT), out).rows)


CASES: tuple[Callable[[Path], str], ...] = (
    whole_run,
    memory_run,
    limited,
    rounds,
    failing_item,
    failing_rank,
    exit_of_items_own,
    reused_array,
    failing_progress,
    counted_progress,
    without_threads,
    long_item_on_rank_0,
    stopped,
    signal_between_rounds,
    full_disk,
    groups,
    other_job,
    known_rows,
    unlike_ranks,
)


def main(cases: Sequence[Callable[[Path], str]]) -> None:
    """Run the cases on the ranks that are there."""
    folder, result = Path(sys.argv[1]), Path(sys.argv[2])
    results: dict[str, str] = {}
    for case in cases:
        place = folder / case.__name__
        if world().rank == 0:
            place.mkdir(parents=True)
        together()
        try:
            results[case.__name__] = case(place)
        except LandscapeError as error:
            raise AssertionError(f"{case.__name__}: {error}") from error
        assert len(set(world().gather_all(results[case.__name__]))) == 1, case.__name__
    if world().rank == 0:
        result.write_text(json.dumps(results))


if __name__ == "__main__":
    main(CASES)
