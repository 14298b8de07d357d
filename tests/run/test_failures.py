"""Items that fail: when they are given up, and how an item that ends its rank is found out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import GUARD, PROGRAMS, mpi_command, mpi_environment
from toys import Toy, check_rows

from landscape.run.failures import Failure, Failures, Ledger, Tolerance, given_up
from landscape.run.hands import Hand, Hands
from landscape.run.loop import run_task
from landscape.run.store import Store


def failed(item: int, share: float = 1.0, place: str = "") -> Failure:
    return Failure(item, "it broke", 1, 0, "here", "2026-01-01T00:00:00+00:00", share, place)


def test_given_up_after_one_try_and_its_retries() -> None:
    assert given_up([failed(3), failed(3), failed(4)], retries=2) == {}
    assert given_up([failed(4), failed(3), failed(3), failed(3)], retries=2) == {
        3: "failed 3 times; the last: it broke"
    }
    assert set(given_up([failed(3), failed(4)], retries=0)) == {3, 4}


def test_of_ranks_that_end_together_each_item_has_a_share_of_the_blame() -> None:
    thirds = [failed(3, share=1 / 3) for _ in range(3)]
    assert given_up(thirds[:2], retries=0) == {}
    assert set(given_up(thirds, retries=0)) == {3}


def test_a_long_item_killed_at_different_places_is_not_to_blame() -> None:
    moving = [failed(3, place=f"epoch {number}") for number in range(10)]
    assert given_up(moving, retries=1) == {}
    assert set(given_up([*moving, failed(3, place="epoch 4")], retries=1)) == {3}


@pytest.mark.parametrize("retries", [0, 1, 2])
def test_ledger_agrees_with_what_is_given_up(retries: int) -> None:
    """The rank that hands items out and the store count alike, also over attempts."""
    for before in range(retries + 1):
        ledger = Ledger([failed(3)] * before, retries)
        answers = [ledger.failed(3) for _ in range(retries + 1 - before)]
        assert answers == [True] * (retries - before) + [False]
        assert set(given_up([failed(3)] * (before + len(answers)), retries)) == {3}


def test_failures_come_back_as_noted(tmp_path: Path) -> None:
    kept = Failures(tmp_path / "failures")
    found = [failed(3), failed(4, 0.5, "größer\n面"), failed(3)]
    for failure in found:
        kept.add(failure)
    (tmp_path / "failures" / "0001-00000-000009.json").write_text("{cut off")
    assert list(kept.all()) == found
    kept.forget(2)
    assert len(kept.all()) == 3
    kept.forget(1)
    assert kept.all() == ()


def test_a_hand_tells_what_was_in_it_once(tmp_path: Path) -> None:
    """Two ranks end in the middle of an item, a third between two, a fourth in good order."""
    hands = [Hand(tmp_path / "hands" / f"0002-{rank:05d}") for rank in range(4)]
    for item, hand in enumerate(hands):
        hand.take(item)
    hands[1].note("epoch 7 " + "面" * 300)
    hands[2].clear()
    hands[3].close()
    del hands
    first, second = Hands(tmp_path / "hands").left()
    assert [(f.item, f.rank, f.attempt, f.share) for f in (first, second)] == [(0, 0, 2, 0.5), (1, 1, 2, 0.5)]
    assert first.place == ""
    assert second.place.startswith("epoch 7 面")
    assert "rank 1 of attempt 2" in second.reason
    assert Hands(tmp_path / "hands").left() == ()


def test_what_is_news_is_not_a_place(tmp_path: Path) -> None:
    hand = Hand(tmp_path / "hands" / "0001-00000")
    hand.take(3)
    hand.note("epoch 1 of 4, step 7; loss 0.3, 0:01:00 left")
    assert b"epoch 1 of 4, step 7" in (tmp_path / "hands" / "0001-00000").read_bytes()
    assert b"loss" not in (tmp_path / "hands" / "0001-00000").read_bytes()
    hand.close()


def test_hands_of_a_run_that_lives_are_left_alone(tmp_path: Path) -> None:
    hand = Hand(tmp_path / "hands" / "0001-00000")
    hand.take(3)
    assert Hands(tmp_path / "hands").left() == ()
    assert (tmp_path / "hands" / "0001-00000").exists()
    del hand
    assert [failure.item for failure in Hands(tmp_path / "hands").left()] == [3]


def test_a_single_item_that_was_killed_is_tried_again_once_the_cause_is_gone(tmp_path: Path) -> None:
    command = [sys.executable, str(PROGRAMS / "poisoned.py"), str(tmp_path), "1"]
    codes = [
        subprocess.run([*command, poison], check=False, capture_output=True, timeout=GUARD).returncode
        for poison in ("0", "0", "99", "99")
    ]
    assert codes == [-9, -9, 1, 0]  # the third start says that every item failed, and forgets it


def test_a_hand_that_cannot_be_kept_costs_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "hands").write_text("a file")
    hand = Hand(tmp_path / "hands" / "0001-00000")
    hand.take(3)
    hand.close()
    assert (tmp_path / "hands").read_text() == "a file"


def test_an_item_that_ends_the_process_is_left_out_at_last(tmp_path: Path) -> None:
    """One rank: it dies twice of the same item, having done all the others, and the third run leaves it out."""
    command = [sys.executable, str(PROGRAMS / "poisoned.py"), str(tmp_path), "12", "5"]
    codes = [subprocess.run(command, check=False, timeout=GUARD).returncode for _ in range(3)]
    assert codes == [-9, -9, 0]
    ended_with_only_item_left_out(tmp_path, 5, 12)


@pytest.mark.mpi
def test_an_item_that_ends_its_rank_is_left_out_at_last(tmp_path: Path) -> None:
    """Three ranks, all ended by the launcher: the others in hand share the blame, and are computed."""
    for _ in range(12):
        done = subprocess.run(
            mpi_command(3, "poisoned.py", tmp_path, 40, 17), env=mpi_environment(), capture_output=True, timeout=GUARD,
            check=False,
        )  # fmt: skip
        if done.returncode == 0:
            break
    assert done.returncode == 0
    ended_with_only_item_left_out(tmp_path, 17, 40)


@pytest.mark.mpi
@pytest.mark.parametrize("item", [0, 17, 39])
def test_survivors_leave_it_out_in_the_same_job(item: int, tmp_path: Path) -> None:
    """Where the MPI library lets ranks live on, the item costs two of four, and the other two finish the run."""
    command = mpi_command(4, "poisoned.py", tmp_path, 40, item)
    done = subprocess.run(
        [command[0], "--with-ft", "ulfm", *command[1:]], env=mpi_environment(), capture_output=True, timeout=GUARD,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ended_with_only_item_left_out(tmp_path, item, 40)
    assert [record["ranks"] for record in Store.open(tmp_path / "run").attempts.all()] == [4, 3, 2]


def ended_with_only_item_left_out(folder: Path, item: int, count: int) -> None:
    store = Store.open(folder / "run")
    rows = store.rows()
    assert np.flatnonzero(~rows.done).tolist() == [item]
    assert len(rows.done) == count
    check_rows(rows)
    assert store.complete
    assert list(store.failed()) == [item]
    assert "was killed or crashed" in store.failed()[item]
    assert not list((folder / "run" / "hands").iterdir())


def test_an_attempt_that_finds_nothing_left_to_do_has_nothing_in_hand(tmp_path: Path) -> None:
    """As where the last item of all ended its rank for the second time, and the ranks that live on begin anew."""
    tolerant = Tolerance(retries=0)
    run_task(Toy(3), out=tmp_path / "run", limit=2, tolerance=tolerant)
    store = Store.open(tmp_path / "run")
    store.failures.add(failed(2))
    run_task(Toy(3), out=tmp_path / "run", tolerance=tolerant)
    assert list(store.failed()) == [2]
    assert not list((tmp_path / "run" / "hands").iterdir())
