"""The run loop on one rank: the cases that `test_mpi.py` runs on several, and what only one rank can meet."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import failure_cases
import loop_cases
import numpy as np
import pytest
from toys import Toy, check_rows, noted

from landscape.errors import InputError, RunInterrupted
from landscape.run import signals
from landscape.run.failures import Tolerance
from landscape.run.loop import run_task
from landscape.run.progress import Progress, Tally
from landscape.run.signals import ItemOverdueError, StopSignals, TimeLimit
from landscape.run.store import Store


@pytest.mark.parametrize("case", [*loop_cases.CASES, *failure_cases.CASES], ids=lambda case: case.__name__)
def test_case(case: Callable[[Path], str], tmp_path: Path) -> None:
    case(tmp_path)


def test_second_ctrl_c_interrupts_at_once_and_keeps_rows(tmp_path: Path) -> None:
    handler = signal.getsignal(signal.SIGINT)

    def before(item: int) -> None:
        if item == 5:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as caught:
        run_task(Toy(20, tmp_path / "log", before=before), tmp_path / "run")
    assert caught.type is KeyboardInterrupt  # not the orderly stop between two items
    assert signal.getsignal(signal.SIGINT) is handler
    assert np.flatnonzero(Store.open(tmp_path / "run").rows().done).tolist() == [0, 1, 2, 3, 4]


def test_exit_inside_an_item_keeps_rows(tmp_path: Path) -> None:
    def before(item: int) -> None:
        if item == 5:
            raise SystemExit(7)

    with pytest.raises(SystemExit):
        run_task(Toy(20, before=before), tmp_path / "run")
    assert Store.open(tmp_path / "run").rows().done.sum() == 5


def test_signal_writes_the_rows_at_once(tmp_path: Path) -> None:
    """mpiexec gives its ranks a quarter of a second after SIGTERM: rows must be safe before the item in hand ends."""
    kept: list[int] = []

    def before(item: int) -> None:
        if item == 5:
            os.kill(os.getpid(), signal.SIGTERM)
            kept.append(int(Store.open(tmp_path / "run").rows().done.sum()))

    with pytest.raises(RunInterrupted):
        run_task(Toy(20, before=before), tmp_path / "run")
    assert kept == [5]


def test_signal_in_the_middle_of_a_flush_loses_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from landscape.run import shards

    original = shards.write_durably
    sent: list[bool] = []

    def write(path: Path, content: bytes) -> None:
        if path.suffix == ".npz" and not sent:
            sent.append(True)
            os.kill(os.getpid(), signal.SIGTERM)
        original(path, content)

    monkeypatch.setattr(shards, "write_durably", write)
    monkeypatch.setattr(shards, "_LAST_INTERVAL", 0.0)
    with pytest.raises(RunInterrupted):
        run_task(Toy(20, tmp_path / "log"), tmp_path / "run")
    rows = Store.open(tmp_path / "run").rows()
    assert set(np.flatnonzero(rows.done)) == set(noted(tmp_path / "log"))
    check_rows(rows)


def test_stop_without_a_folder_says_so() -> None:
    def before(item: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(RunInterrupted, match="in memory only"):
        run_task(Toy(20, before=before))


def test_signals_in_another_thread_are_left_alone() -> None:
    import threading

    handlers: list[object] = []

    def inside() -> None:
        with StopSignals():
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGINT)]


def test_tally_ignores_nan_in_the_minimum() -> None:
    seen: list[Progress] = []
    tally = Tally(seen.append, done=1, total=4)
    for value in (np.nan, 2.0, np.nan):
        tally.add(1, value)
    assert (seen[-1].done, seen[-1].minimum) == (4, 2.0)


class Slowly:
    """A context manager that takes its time to put things back, and one that notes whether it did."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    @contextmanager
    def generator(self) -> Iterator[None]:
        try:
            yield
        finally:
            time.sleep(0.3)
            self.steps.append("put back")

    def __enter__(self) -> None:
        return None

    def __exit__(self, *given: object) -> None:
        time.sleep(0.3)
        self.steps.append("put back")


@pytest.mark.parametrize("way", ["generator", "class"])
def test_a_time_limit_waits_until_things_are_put_back(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The alarm comes while a context manager is left: what it puts back, the user's model, say, must be put back."""
    monkeypatch.setattr(signals, "_ALARM_EVERY", 0.05)
    slowly = Slowly()

    def limited() -> None:
        with TimeLimit(0.1, unless=lambda: False):
            with slowly.generator() if way == "generator" else slowly:
                pass
            assert slowly.steps == ["put back"]
            time.sleep(5)

    with pytest.raises(ItemOverdueError):
        limited()
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_time_limit_away_from_the_main_thread_is_refused() -> None:
    found: list[BaseException] = []

    def run() -> None:
        try:
            run_task(Toy(3), tolerance=Tolerance(item_seconds=1.0))
        except InputError as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert "main thread" in str(found[0])
