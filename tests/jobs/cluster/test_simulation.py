"""Simulated runs against closed forms and bounds, and against the code they stand for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from landscape_jobs.cluster import simulation
from landscape_jobs.cluster.simulation import (
    Machine,
    Simulated,
    item_times,
    listed,
    noticed,
    rank_factors,
    simulate,
    traffic,
)

from landscape.errors import InputError
from landscape.run import shards
from landscape.run.schedule import Claims

FREE = Machine(latency=0.0, service=0.0, shard=0.0, thread_polls=(0.0, 0.0), polls=(0.0, 0.0))


def work(run: Simulated) -> float:
    return run.efficiency * run.ranks * run.makespan


# -- closed forms and bounds --------------------------------------------------------------------------------------


def test_one_rank_loses_only_what_its_shards_take() -> None:
    times = item_times("log-normal 1", 300, 0.1, seed=0)
    alone = simulate(times, np.ones(1))
    assert alone.makespan == pytest.approx(times.sum() + 5e-3 * alone.shards)
    assert (alone.requests, alone.busy, alone.start) == (0, 0.0, 0.0)
    assert simulate(times, np.ones(1), FREE).efficiency == pytest.approx(1.0)


@pytest.mark.parametrize("ranks", [2, 7, 64])
@pytest.mark.parametrize("each", [1, 2, 7])
def test_equal_items_on_equal_ranks_leave_nothing_to_lose(ranks: int, each: int) -> None:
    run = simulate(np.full(ranks * each, 0.5), np.ones(ranks), FREE)
    assert run.makespan == pytest.approx(0.5 * each)
    assert run.efficiency == pytest.approx(1.0)


@pytest.mark.parametrize("sigma", ["0.3", "1", "2"])
@pytest.mark.parametrize("ranks", [2, 5, 40])
def test_no_later_than_two_items_after_the_mean(sigma: str, ranks: int) -> None:
    """While items are left, all ranks are at work; then each has at most one in hand and one ahead."""
    times = item_times(f"log-normal {sigma}", 7 * ranks, 1.0, seed=ranks)  # so few that every block is one item
    mean, longest = float(times.sum()) / ranks, float(times.max())
    run = simulate(times, np.ones(ranks), FREE)
    assert max(mean, longest) <= run.makespan * (1 + 1e-12)
    assert run.makespan <= mean + 2 * longest


def test_rank_0_answers_as_many_requests_as_it_can() -> None:
    machine = Machine(service=1e-3)
    run = simulate(np.full(2000, 1e-6), np.ones(200), machine)
    assert 0.98 < run.requests * machine.service / run.makespan < 1.0
    assert run.busy == pytest.approx(run.requests * machine.service / run.makespan)


def test_first_items_begin_one_after_another() -> None:
    """All requests arrive together; each answer takes its time and then its way."""
    ranks, latency, service = 6, 0.01, 0.001
    machine = Machine(latency, service, 0.0, (0.0, 0.0), (0.0, 0.0))
    run = simulate(np.full(12, 1.0), np.ones(ranks), machine)
    begins = [2 * latency + place * service for place in range(1, ranks)]
    assert run.start * ranks * run.makespan == pytest.approx(sum(begins))


def test_latency_is_hidden_by_asking_ahead() -> None:
    times = np.full(2000, 0.1)
    near, far = (simulate(times, np.ones(20), Machine(latency=latency)).efficiency for latency in (1e-6, 1e-2))
    assert near > 0.98
    assert near - far < 5e-3  # of 100 items each; a round trip before each of its last nine would cost 1.8 %
    assert simulate(times, np.ones(20), Machine(latency=0.3)).efficiency < 0.95


def test_answering_takes_time_from_rank_0s_items() -> None:
    times = np.full(400, 0.05)
    quick, slow = (simulate(times, np.ones(40), Machine(service=service)) for service in (1e-6, 1e-3))
    assert quick.waiting < 1e-3 < slow.waiting
    assert slow.busy > 0.4


@pytest.mark.parametrize("machine", [FREE, Machine(), Machine(latency=1e-3, service=1e-3)])
@pytest.mark.parametrize(("ranks", "items"), [(1, 50), (3, 1), (3, 0), (16, 1000), (300, 100)])
def test_every_item_once_and_all_time_accounted_for(ranks: int, items: int, machine: Machine) -> None:
    times = item_times("log-normal 0.3", items, 0.1, seed=items)
    factors = np.ones(ranks)
    run = simulate(times, factors, machine)
    shares = (run.efficiency, run.start, run.waiting, run.writing, run.tail)
    assert work(run) == pytest.approx(times.sum())
    if items:
        assert sum(shares) == pytest.approx(1.0)
        assert min(shares) > -1e-9
    assert run == simulate(times, factors, machine)


def test_a_waiting_rank_looks_ever_more_seldom() -> None:
    looks = {noticed(10.0, arrival / 2, (1.0, 4.0)) for arrival in range(0, 60)}
    assert sorted(looks) == [10.0, 11.0, 13.0, 17.0, 21.0, 25.0, 29.0, 33.0]
    assert noticed(10.0, 10.0, (1.0, 4.0)) == 10.0
    assert noticed(10.0, 10.3, (0.0, 0.0)) == 10.3


def test_list_scheduling() -> None:
    assert listed(np.array([3.0, 1.0, 1.0, 2.0]), np.ones(2)) == 4.0
    assert listed(np.array([3.0, 1.0, 1.0, 2.0]), np.array([1.0, 10.0])) == 10.0


# -- what it stands for -------------------------------------------------------------------------------------------


def test_the_schedulers_own_code_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def everything(self: Claims, *_: float) -> list[int]:
        block = self._pending[self._next :]
        self.stop()
        return list(block)

    times = np.full(100, 0.1)
    assert simulate(times, np.ones(4), FREE).efficiency > 0.9
    monkeypatch.setattr(Claims, "take", everything)
    assert simulate(times, np.ones(4), FREE).efficiency == pytest.approx(0.25)


def test_a_shard_when_shard_writer_writes_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, written = [0.0], []
    monkeypatch.setattr(shards, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(shards, "write_shard", lambda *_: written.append(now[0]))
    for ranks, rank in ((1, 0), (64, 0), (64, 48)):
        now[0] = 0.0
        written.clear()
        writer = shards.ShardWriter(tmp_path, "", {}, rank, ranks)
        for step in range(1, 8001):
            now[0] = 0.125 * step
            writer.add(step, {})
        writer.flush()
        assert 100 < len(written) < 250
        if ranks == 1:
            run = simulate(np.full(8000, 0.125), np.ones(1), FREE)
            assert run.shards == len(written)
            assert traffic(1, 1000.0, 0.125).shards == pytest.approx(len(written), abs=1)
        assert written[0] == pytest.approx(shards.flush_interval(0.0, ranks) * (1 - rank / ranks), abs=0.125)


# -- what is asked of it ------------------------------------------------------------------------------------------


def test_4096_ranks_with_short_items_lose_less_than_a_twentieth() -> None:
    run = simulate(item_times("constant", 40 * 4096, 0.1, seed=0), np.ones(4096))
    assert run.efficiency > 0.95
    assert run.busy < 0.5


def test_a_node_ten_times_slower_holds_nobody_up() -> None:
    times, factors = np.full(256 * 100, 0.1), rank_factors("straggler", 256)
    assert simulate(times, factors).makespan < 1.1 * listed(times, factors)


@pytest.mark.parametrize("ranks", [1, 32, 1000, 1920, 4096, 20_000])
def test_all_ranks_together_write_few_files_a_second(ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = 3 * shards.flush_interval(1e9, ranks)
    seen = traffic(ranks, seconds, 0.1)
    assert seen.shards / seconds <= 32.0 * 1.1
    assert seen.peak <= 2 * 32
    assert seen.unsaved <= shards.flush_interval(seconds, ranks)
    monkeypatch.setattr(simulation, "flush_lead", lambda rank, ranks: 0.0)
    assert traffic(ranks, seconds, 0.1).peak >= min(ranks, 1000)  # what all of them at once would do


def test_files_of_an_hour_on_one_rank() -> None:
    # One a second until 2 % of the time is a second, then 1/0.02 for each e-fold, then one a minute.
    expected = 50 + 50 * np.log(3000 / 50) + 600 / 60
    assert traffic(1, 3600.0, 0.01).shards == pytest.approx(expected, rel=0.03)


def test_distributions() -> None:
    times = item_times("log-normal 1", 200_000, 0.1, seed=3)
    assert times.mean() == pytest.approx(0.1, rel=0.02)
    assert np.log(times).std() == pytest.approx(1.0, rel=0.02)
    assert set(item_times("constant", 3, 0.1, seed=0)) == {0.1}
    assert rank_factors("two speeds", 5).tolist() == [1, 1, 1, 2, 2]
    assert rank_factors("straggler", 1).tolist() == [1]
    assert (rank_factors("straggler", 1024) == 10).sum() == 64
    assert rank_factors("equal", 2).tolist() == [1, 1]


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(InputError, match=r"'log-normal 0\.3'"):
        item_times("normal 1", 3, 0.1, seed=0)
    with pytest.raises(InputError, match="'two speeds'"):
        rank_factors("three speeds", 3)
