"""What is faster on this machine, by a clock that the model itself moves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import landscape as ls
from landscape.objective import speed
from landscape.objective.slow_half import tell_slow_half
from landscape.objective.speed import speed_table

CACHE = speed._cache  # before the tests have one of their own


class Clock:
    """Seconds that pass as a model is evaluated: for each call, and for each sample by how it is evaluated."""

    def __init__(self, half: float = 9.0, plain: float = 1.0, second: float = 1e-3) -> None:
        self.now, self.half, self.plain, self.second, self.read = 0.0, half, plain, second, 0

    def __call__(self) -> float:
        self.read += 1
        return self.now

    def passed(self, x: Tensor) -> None:
        """A call costs 32 parts of a second, a sample 1, times what precision and memory format make of it."""
        times = self.half if torch.is_autocast_enabled("cpu") else 1.0
        self.now += (
            self.second * (32 + len(x)) * times * (self.plain if x.is_contiguous() else 1.0) / torch.get_num_threads()
        )


class Timed(nn.Module):
    """A small convolutional network that moves a clock."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock, self.conv, self.head = clock, nn.Conv2d(2, 4, 3), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.clock.passed(x)
        scores: Tensor = self.head(self.conv(x).flatten(1))
        return scores


DATA = torch.randn(300, 2, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(300) % 3


def objective(clock: Clock, **options: object) -> ls.Objective:
    torch.manual_seed(0)
    return ls.Objective(Timed(clock), data=DATA, device="cpu", check=False, **options)  # type: ignore[arg-type]


def warned(clock: Clock, caplog: pytest.LogCaptureFixture) -> tuple[float | None, str]:
    found = objective(clock)
    low = found.on(found.data, precision="bf16")
    caplog.clear()
    return tell_slow_half(low._calls, low._quantities, low.batch(0), timer=clock), caplog.text


def test_slow_half_precision_is_told_with_its_ratio(caplog: pytest.LogCaptureFixture) -> None:
    ratio, told = warned(Clock(half=9.0), caplog)
    assert ratio == pytest.approx(9.0)
    assert "bf16' takes 9.0 times as long as 'float32'" in told
    assert "float32 is faster here, and exact to 1e-7" in told
    assert "Leave precision out" in told


def test_fast_half_precision_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    ratio, told = warned(Clock(half=0.5), caplog)
    assert ratio == pytest.approx(0.5)
    assert told == ""


def test_it_is_told_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """By the Objective itself, of its first chunk; by the first of the ranks of a machine alone."""
    clock = Clock()
    monkeypatch.setattr("landscape.objective.slow_half.tell_slow_half.__defaults__", (clock,))
    objective(clock, precision="bf16", chunk=64)
    assert "9.0 times as long" in caplog.text
    assert "(64, 2, 4, 4)" in caplog.text
    caplog.clear()
    objective(clock)
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_RANK", "1")
    objective(clock, precision="bf16")
    assert caplog.text == ""


def test_a_trial_finds_what_pays_and_changes_nothing(tmp_path: Path) -> None:
    clock = Clock(half=0.25, plain=2.0)
    asked = objective(clock, chunk=16, channels_last=False)
    before, threads = float(asked.evaluate()["loss"]), torch.get_num_threads()
    found = ls.speed_trial(asked, tmp_path, clock)
    assert next(iter(found.chunk)) == 16
    assert set(found.chunk) == {4, 8, 16, 32, 64}
    each = 2e-3 / threads
    assert found.chunk == pytest.approx({size: each * (32 / size + 1) for size in found.chunk})
    assert found.precision["bf16"] == pytest.approx(found.precision["float32"] / 4)
    assert found.proposal["chunk"] == (64, pytest.approx(2.0))
    assert found.proposal["precision"] == ("bf16", pytest.approx(4.0))
    assert (asked.chunk, asked.precision, torch.get_num_threads()) == (16, "float32", threads)
    assert float(asked.evaluate()["loss"]) == before
    if len(found.threads) > 1:
        assert found.threads[1] / found.threads[2] == pytest.approx(2.0)
    last = objective(clock, chunk=16)
    assert last.channels_last
    formats = ls.speed_trial(last, tmp_path, clock).memory_format
    assert formats["contiguous"] / formats["channels last"] == pytest.approx(2.0)
    text = str(speed_table(found))
    assert "objective.chunk = 64 (2 times as fast)" in text
    assert 'objective.precision = "bf16" (4 times as fast)' in text


def test_a_trial_of_a_slow_model_is_short(tmp_path: Path) -> None:
    """One look at each chunk that is no larger than now's."""
    clock = Clock(second=0.1)
    found = ls.speed_trial(objective(clock, chunk=16), tmp_path, clock)
    assert list(found.chunk) == [16, 4, 8]


def test_a_trial_is_remembered_for_model_and_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    first = ls.speed_trial(objective(clock), tmp_path, clock)
    (path,) = tmp_path.iterdir()
    again = objective(clock)
    with torch.no_grad():
        next(iter(again._model.model.parameters())).add_(1.0)  # other values, as fast
    read = clock.read
    assert ls.speed_trial(again, tmp_path, clock) == first
    assert clock.read == read
    path.write_text("{}")
    assert ls.speed_trial(objective(clock), tmp_path, clock).chunk == pytest.approx(first.chunk)
    assert clock.read > read
    monkeypatch.setattr("landscape.objective.speed.processor_count", lambda: 64)
    ls.speed_trial(objective(clock, chunk=8), tmp_path, clock)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_cache_that_cannot_be_written_is_no_matter(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    clock = Clock()
    assert ls.speed_trial(objective(clock), tmp_path / "file", clock).chunk


def test_batches_of_the_users_own_have_no_other_chunk(tmp_path: Path) -> None:
    clock = Clock()
    batches = [(DATA[0][:20], DATA[1][:20]), (DATA[0][20:30], DATA[1][20:30])]
    own = ls.Objective(Timed(clock), data=batches, forward=lambda m, b: (m(b[0]), b[1]), device="cpu")
    found = ls.speed_trial(own, tmp_path, clock)
    assert found.chunk == {}
    assert found.precision["bf16"] / found.precision["float32"] == pytest.approx(9.0)
    with pytest.raises(ls.InputError, match="chunk=8 cannot be used: the batches are the user"):
        ls.Objective(Timed(clock), data=batches, forward=lambda m, b: (m(b[0]), b[1]), chunk=8)


@pytest.mark.parametrize("chunk", [0, 2.5, True])
def test_chunks_are_whole_numbers(chunk: object) -> None:
    with pytest.raises(ls.InputError, match=r"chunk=.*; give a whole number of 1 or more, or leave it out"):
        objective(Clock(), chunk=chunk)


def test_chunk_and_memory_format_are_part_of_what_a_run_is() -> None:
    clock = Clock()
    plain, small, contiguous = (objective(clock, **o) for o in ({}, {"chunk": 8}, {"channels_last": False}))
    assert (small.chunk, small.chunks) == (8, 38)
    assert plain.channels_last
    assert not contiguous.channels_last
    assert contiguous.batch(0)[0].is_contiguous()
    assert not plain.batch(0)[0].is_contiguous()
    identities = [one.identity() for one in (plain, small, contiguous)]
    assert len({str(one) for one in identities}) == 3
    assert "channels_last" not in identities[0]  # a folder begun before goes on
    values = [float(one.evaluate()["loss"]) for one in (plain, small, contiguous)]
    assert values == pytest.approx([values[0]] * 3, rel=1e-6)


def test_the_cache_is_where_the_user_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("landscape.objective.speed._cache", CACHE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    clock = Clock()
    ls.speed_trial(objective(clock), timer=clock)
    assert len(list((tmp_path / "landscape" / "speed").iterdir())) == 1
