"""Pieces in threads: results in order, and nothing at work any more once it has ended."""

from __future__ import annotations

import time

import pytest

from landscape.objective.threads import in_threads


@pytest.mark.parametrize("threads", [1, 3])
def test_results_come_in_order(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    assert in_threads(lambda n: n * n, range(50)) == [n * n for n in range(50)]
    assert in_threads(lambda n: n, ()) == []


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_after_an_error_none_is_at_work(kind: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 3)
    begun, ended = [], []

    def work(number: int) -> None:
        begun.append(number)
        if number == 2:
            raise kind
        time.sleep(0.01)
        ended.append(number)

    with pytest.raises(kind):
        in_threads(work, range(1000))
    assert sorted(begun) == sorted([*ended, 2])
    assert len(begun) < 1000
