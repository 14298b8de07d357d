"""Cases of items that fail and are tolerated, on any number of ranks: pytest calls them alone, mpiexec runs this file.

mpiexec -n 4 python tests/programs/failure_cases.py FOLDER RESULT.json
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":
    import light  # noqa: F401

import numpy as np
from loop_cases import COUNT, digest, main, patched, refused, together
from toys import Shared, Toy, check_rows, noted

from landscape.errors import InputError, RunFailedError
from landscape.run import signals
from landscape.run.comm import world
from landscape.run.failures import Tolerance
from landscape.run.loop import Outcome, run_task
from landscape.run.store import Store

BAD = (7, 23, 24, COUNT - 1)


def breaks(tries: Path, bad: tuple[int, ...], times: int = 1000) -> Callable[[int], None]:
    """What to do before an item: raise for the bad ones, the first so many times, each try noted in a folder."""

    def before(item: int) -> None:
        if item not in bad:
            return
        tries.mkdir(parents=True, exist_ok=True)
        number = len(list(tries.glob(f"{item}-*")))
        (tries / f"{item}-{number}").touch()
        if number < times:
            raise ArithmeticError(f"item {item} went wrong")

    return before


def tried(tries: Path, item: int) -> int:
    return len(list(tries.glob(f"{item}-*")))


def masked(outcome: Outcome, bad: tuple[int, ...]) -> None:
    """Every item but the bad ones has its row, and every bad one its reason."""
    assert set(np.flatnonzero(~outcome.rows.done)) == set(bad) == set(outcome.history.failed)
    assert (outcome.complete, outcome.ended) == (False, True)
    check_rows(outcome.rows)
    for item in bad:
        assert f"ArithmeticError: item {item} went wrong" in outcome.history.failed[item]


def left_out(folder: Path) -> str:
    """Items that fail again and again are tried three times and left out; the next call does not try them."""
    for out in (folder / "run", None):
        tries = folder / f"tries {out}"
        task = Toy(COUNT, before=breaks(tries, BAD))
        outcome = run_task(task, out, tolerance=Tolerance())
        together()
        masked(outcome, BAD)
        assert [tried(tries, item) for item in BAD] == [3] * len(BAD)
        if out is not None:
            store = Store.open(out)
            assert store.complete
            assert set(store.failed()) == set(BAD)
            assert len(store.failures.all()) == 3 * len(BAD)
            again = run_task(task, out, tolerance=Tolerance())
            together()
            masked(again, BAD)
            assert again.computed == 0
            assert tried(tries, BAD[0]) == 3
            more = run_task(task, out, tolerance=Tolerance(retries=3))
            together()
            masked(more, BAD)
            assert tried(tries, BAD[0]) == 4
    return digest(outcome.rows)


def succeeds_later(folder: Path) -> str:
    """An item that fails twice and then does not is a row like any other, and nothing is told of it."""
    task = Toy(COUNT, before=breaks(folder / "tries", BAD, times=2))
    outcome = run_task(task, folder / "run", tolerance=Tolerance(retries=2))
    together()
    assert outcome.complete
    assert not outcome.history.failed
    assert not Store.open(folder / "run").failed()
    return digest(outcome.rows)


def without_a_tolerance(folder: Path) -> str:
    """What was left out is asked for again by a call that tolerates nothing."""
    bad = breaks(folder / "tries", BAD[:1])
    run_task(Toy(COUNT, before=bad), folder / "run", tolerance=Tolerance(retries=0))
    together()
    assert "item 7 went wrong" in refused(RunFailedError, lambda: run_task(Toy(COUNT, before=bad), folder / "run"))
    assert not Store.open(folder / "run").complete
    together()
    return digest(run_task(Toy(COUNT), folder / "run").rows)


def everything_fails(folder: Path) -> str:
    """Where all items fail the run does, soon, and its items are not to blame afterwards."""
    for count in (3, 10_000):
        out, tries = folder / f"run {count}", folder / f"tries {count}"
        task = Toy(count, before=breaks(tries, tuple(range(count))))
        told = refused(RunFailedError, lambda task=task, out=out: run_task(task, out, tolerance=Tolerance(retries=1)))
        assert "went wrong" in told
        assert len(list(tries.glob("*"))) <= 60 * world().size
        assert not Store.open(out).failures.all()
        together()
        if count == 3:
            outcome = run_task(Toy(3), out, tolerance=Tolerance(retries=1))
            assert outcome.complete
    return digest(outcome.rows)


def a_corner_fails(folder: Path) -> str:
    """Neighbours that fail one after another, the first of all among them, are left out like others."""
    corner = tuple(range(20))
    outcome = run_task(Toy(COUNT, before=breaks(folder / "tries", corner)), folder / "run", tolerance=Tolerance())
    together()
    masked(outcome, corner)
    return digest(outcome.rows)


def overdue(folder: Path) -> str:
    """An item that takes too long is interrupted, also where a model catches all exceptions, and left out."""

    def before(item: int) -> None:
        if item == 11:
            time.sleep(60)
        if item == 12:
            while True:
                try:
                    time.sleep(0.01)
                except Exception:
                    if time.monotonic() - begun.setdefault(item, time.monotonic()) > 0.3:
                        raise

    begun: dict[int, float] = {}
    with patched(signals, "_ALARM_EVERY", 0.1):
        # tried again, since on a crowded machine a rank may get no processor for so long
        outcome = run_task(Toy(COUNT, before=before), folder / "run", tolerance=Tolerance(retries=1, item_seconds=0.5))
    together()
    assert set(outcome.history.failed) == {11, 12}
    assert "longer than 0.5 s" in outcome.history.failed[11]
    check_rows(outcome.rows)
    return digest(outcome.rows)


def failing_groups(folder: Path) -> str:
    """In a group of ranks that share items, whichever of them fails: the item is left out, and the group goes on."""
    size = 2 if world().size % 2 == 0 else 1
    expected = run_task(Shared(COUNT))
    for broken in sorted({0, world().size - 1}):
        place = folder / f"{broken}"

        def before(item: int, broken: int = broken) -> None:
            if item in BAD and world().rank % size == broken % size:
                raise ArithmeticError(f"item {item} went wrong")

        for name, task in (("early", Shared(COUNT, before=before)), ("late", Late(COUNT, before=before))):
            outcome = run_task(task, place / name, ranks_per_item=size, tolerance=Tolerance(retries=1))
            together()
            assert set(outcome.history.failed) == set(BAD)
            done = outcome.rows.done
            assert set(np.flatnonzero(~done)) == set(BAD)
            assert outcome.rows.columns["vector"][done].tobytes() == expected.rows.columns["vector"][done].tobytes()
    return digest(outcome.rows)


class Late(Shared):
    """Fails after the ranks have met."""

    def evaluate(self, index, group):  # type: ignore[no-untyped-def]
        before, self._before = self._before, lambda item: None
        try:
            row = super().evaluate(index, group)
        finally:
            self._before = before
        before(index)
        return row


def wrong_values(folder: Path) -> str:
    """Values that cannot be are refused before anything runs."""
    assert "retries=-1" in refused(InputError, lambda: Tolerance(retries=-1))
    for seconds in (0.0, -1.0, float("nan")):
        assert "item_seconds" in refused(InputError, lambda seconds=seconds: Tolerance(item_seconds=seconds))
    assert not noted(folder / "log")
    return "refused"


CASES: tuple[Callable[[Path], str], ...] = (
    left_out,
    succeeds_later,
    without_a_tolerance,
    everything_fails,
    a_corner_fails,
    overdue,
    failing_groups,
    wrong_values,
)

if __name__ == "__main__":
    main(CASES)
