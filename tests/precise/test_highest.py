"""The highest place of a line to a stated error, on losses written out: no model, every sample's value known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from landscape_kernels.arrays import FloatArray
from landscape_kernels.gaps import above_ends
from test_rounds import BLOCK, SAMPLES, run

from landscape.precise.rounds import Asked, aims, lattice, squared_rises

T = np.linspace(0, 1, 25)


def hump(seed: int = 0, height: float = 1.0) -> FloatArray:
    """Losses of 1,024 samples along a line, (places, samples): a hump whose place differs over samples."""
    rng = np.random.default_rng(seed)
    low, high = rng.exponential(size=(2, SAMPLES))
    place, bent = 0.4 + 0.05 * rng.standard_normal(SAMPLES), rng.exponential(size=SAMPLES)
    t = T[:, None]
    wave = 0.3 * np.sin(9 * t + 6 * rng.standard_normal(SAMPLES))
    return 1 + (1 - t) * low + t * high + height * bent * np.exp(-np.square((t - place) / 0.2)) + wave


def wish(error: float = 0.02, **changes: object) -> Asked:
    asked = Asked((T,), tuple(lattice((len(T),))), SAMPLES, BLOCK, 8, error, "relative", 0.8, highest=True)
    return replace(asked, **changes)  # type: ignore[arg-type]


def test_rises_are_those_of_random_numbers() -> None:
    draws = np.random.default_rng(0).standard_normal(250_000)
    for below, error in ((0.0, 1.0), (-0.5, 1.0), (-2.0, 0.8), (0.7, 0.5)):
        found = np.square(np.maximum(below + error * draws, 0.0))
        expected = squared_rises(np.array([below]), np.array([error]))[0]
        assert abs(expected - found.mean()) < 3.5 * found.std() / 500
    assert squared_rises(np.array([-1.0, 2.0]), np.zeros(2)).tolist() == [0.0, 4.0]


@pytest.mark.parametrize("height", [1.0, 0.0])
def test_the_barrier_is_known_to_the_error_and_its_error_covers(height: float) -> None:
    inside, errors = [], []
    for seed in range(8):
        losses = hump(seed, height)
        true = above_ends(T, losses.mean(1))
        now, held, spent = run(losses, wish(), seed)
        heights = above_ends(T, now.values)
        top = int(np.argmax(heights))
        assert held.full[[0, top, -1]].all()
        others = np.delete(np.arange(len(T)), top)
        error = math.sqrt(squared_rises(heights[others] - heights[top], now.error[others]).sum())
        assert error <= aims(wish(), now.values)[top]
        assert spent < losses.size
        inside.append(true.max() - heights[top] <= 1.96 * error + 1e-12)
        errors.append(true.max() - heights[top])
    assert np.mean(inside) > 0.8
    assert np.max(errors) < 0.04


def test_less_is_spent_where_the_highest_is_not_asked_for() -> None:
    losses = hump()
    spent = [run(losses, wish(highest=highest))[2] for highest in (True, False)]
    assert spent[1] < spent[0] < spent[1] + 6 * SAMPLES


def test_a_place_that_is_not_finite_ends_the_search() -> None:
    losses = hump()
    losses[12] = np.inf
    losses[13] = np.nan
    now, _, spent = run(losses, wish(0.5))
    np.testing.assert_array_equal(np.isfinite(now.values), np.isfinite(losses.mean(1)))
    assert spent < 0.7 * losses.size
