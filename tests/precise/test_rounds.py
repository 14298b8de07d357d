"""The rounds of a surface to a stated error, on losses written out: no model, every sample's value known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from landscape_kernels.arrays import FloatArray

from landscape.precise.foretell import foretold, probes
from landscape.precise.rounds import (
    ANCHOR,
    FULL,
    INTERPOLATED,
    OWN,
    SAMPLED,
    Asked,
    Estimated,
    Held,
    Item,
    aims,
    board,
    estimate,
    lattice,
    meeting,
    next_items,
    reached,
    tiers,
    trial_points,
)

SAMPLES, BLOCK = 1024, 64
X, Y = np.linspace(-1, 1, 15), np.linspace(-1, 1, 13)


def waves(seed: int = 0) -> FloatArray:
    """Losses of 1,024 samples of logistic regressions plus a wave each, (points, samples): skewed, half shared."""
    rng = np.random.default_rng(seed)
    inputs, shift = rng.standard_normal((2, SAMPLES)), rng.standard_normal((2, SAMPLES))
    y, x = (part.ravel()[:, None] for part in np.meshgrid(Y, X, indexing="ij"))
    slope = x * inputs[0] + y * inputs[1]
    return np.log1p(np.exp(3 * slope + shift[0])) + 0.5 + 0.5 * np.sin(3 * slope + 9 * shift[1])


def asked(error: float = 0.02, **changes: object) -> Asked:
    first = tuple(lattice((len(Y), len(X))))
    return replace(Asked((Y, X), first, SAMPLES, BLOCK, 8, error, "relative", 0.9), **changes)  # type: ignore[arg-type]


def run(losses: FloatArray, wish: Asked, seed: int = 0) -> tuple[Estimated, Held, int]:
    """(what is known at the end, what was measured, samples spent), the sub-sample drawn by `seed`."""
    order = np.random.default_rng(seed).permutation(losses.shape[1])
    full, units, spent = np.zeros(len(losses), dtype=bool), dict[int, FloatArray](), 0
    values, stderr = losses.mean(1), losses.std(1, ddof=1) / np.sqrt(losses.shape[1])
    items: list[Item] = [(p, FULL) for p in wish.first]
    tried: set[Item] = set()
    while items:
        for p, level in items:
            spent += wish.cost(level)
            full[p] |= level == FULL
            k = max(level, 1) if p not in units or level > 1 else 0
            if k:
                assert len(units.get(p, ())) == (k - 1) * wish.block, "blocks come in order"
                part = losses[p, order[(k - 1) * wish.block : k * wish.block]]
                units[p] = np.concatenate([units.get(p, np.empty(0)), part])
        tried |= set(items)
        of = meeting(wish.axes, wish.lines)
        shared = {p: units[k] for p, k in enumerate(of.tolist()) if k in units}
        held = Held(full[of], values, stderr, shared)
        items = next_items(wish, held, tried)
        assert not set(items) & tried
    return estimate(wish, held, positive=True), held, spent


def test_error_is_reached_and_covers_at_a_part_of_the_work() -> None:
    losses = waves()
    true, inside = losses.mean(1), []
    for seed in range(3):
        now, _, spent = run(losses, asked(), seed)
        assert reached(asked(), now).mean() >= 0.9
        assert spent < 0.6 * losses.size
        gap, unsure = np.abs(now.values - true), now.found != ANCHOR
        assert np.median(gap / true) < 0.02
        assert not gap[~unsure].any()
        inside.append((gap <= 1.96 * now.error)[unsure])
        spread = losses.std(1, ddof=1) / np.sqrt(SAMPLES)
        assert np.median(np.abs(now.stderr / spread - 1)) < 0.1
    # Points of a draw share its samples: three draws are no thousand trials.
    assert 0.88 < np.concatenate(inside).mean() <= 0.995


def test_less_error_takes_more_work_and_all_scales_are_kept() -> None:
    losses = waves()
    spent = [run(losses, asked(error))[2] for error in (0.05, 0.014)]
    assert spent[0] < spent[1]
    for scale, error in (("absolute", 0.06), ("range", 0.04), ("log", 0.02)):
        wish = asked(error, scale=scale)
        now = run(losses, wish)[0]
        allowed = {
            "absolute": np.full(wish.size, error),
            "range": np.full(wish.size, error * np.ptp(now.values)),
            "log": error * np.log(10) * now.values,
        }[scale]
        np.testing.assert_allclose(aims(wish, now.values), allowed, rtol=1e-12)
        assert (now.error <= allowed).mean() >= 0.9


@pytest.mark.parametrize("error", [0.03, 0.1])
def test_work_is_foretold_from_one_block_at_a_few_points(error: float) -> None:
    losses, wish = waves(), asked(error)
    coarse, between = probes(wish)
    assert len(coarse) == 25
    assert len(between) == 16
    told = foretold(wish, {p: losses[p, :BLOCK] for p in [*coarse, *between]})
    spent = run(losses, wish)[2] / SAMPLES
    assert spent / 2 < told.passes < 2 * spent
    assert told.share == pytest.approx(told.passes / wish.size)
    assert told.full + told.blocks * BLOCK / SAMPLES == pytest.approx(told.passes)


def test_foretold_work_of_samples_that_share_nothing_is_that_of_plain_means() -> None:
    rng, samples, axis = np.random.default_rng(0), 10**6, np.linspace(-1, 1, 51)
    wish = Asked((axis, axis), tuple(lattice((51, 51))), samples, BLOCK, 10**4, 0.005, "absolute", 1.0)
    points = {p: rng.standard_normal(BLOCK) for part in probes(wish) for p in part}
    # Of tiers whose points are so many steps apart; 25 of the coarse grid, 13 of that looked at.
    counts = {13: 25 - 9, 7: 81 - 25, 4: 289 - 81, 1: 0}
    counts[1] = int(board(wish).sum() - board(wish)[lattice((51, 51), 3)].sum())
    needed = {13: (1 / 0.5) ** 2, 7: (1 / 0.6 * 14 / 13) ** 2, 4: (1 / 0.7 * 8 / 13) ** 2, 1: (1 / 0.8 * 2 / 13) ** 2}
    for k, wider in ((7, 14 / 13), (4, 8 / 13), (1, 2 / 13)):  # what is left is their own error
        needed[k] /= 1 - (1 - OWN**2) * max(0.0, 1 - wider**2)
    plain = sum(counts[k] / (1 / (needed[k] / 0.005**2) + 1 / samples) for k in counts)
    assert foretold(wish, points).passes == pytest.approx(9 + plain / samples, rel=0.1)


def test_tiers_are_nested_and_halve_the_steps() -> None:
    tier, apart = tiers((51, 51))
    assert apart == [25, 13, 7, 4, 1]
    assert np.bincount(tier).tolist() == [9, 25 - 9, 81 - 25, 289 - 81, 2601 - 289]
    places = np.argwhere(tier.reshape(51, 51) <= 2)
    assert np.diff(np.unique(places[:, 0])).max() == 7
    assert tiers((8, 7))[1] == [4, 2, 1]  # 5 x 5 points are a tier of small grids, too
    assert tiers((5, 5))[1] == [2, 1, 1]
    assert len(tiers((9, 9, 9))[1]) == 3


def test_every_second_point_is_measured_and_some_of_the_others() -> None:
    now, held, _ = run(waves(), asked(0.2))
    measured = set(held.units) | set(np.flatnonzero(held.full).tolist())
    assert set(np.flatnonzero(board(asked())).tolist()) <= measured
    assert set(trial_points(asked()).tolist()) <= measured
    assert (now.found == INTERPOLATED).sum() > 50
    for p in np.flatnonzero(now.found == INTERPOLATED).tolist():
        j, i = divmod(p, len(X))
        beside = [(j + dj, i + di) for dj, di in ((0, 1), (1, 0), (0, -1), (-1, 0))]
        assert all(b * len(X) + a in measured for b, a in beside if 0 <= b < len(Y) and 0 <= a < len(X))


def _ravine(losses: FloatArray) -> FloatArray:
    found = losses.reshape(len(Y), len(X), -1).copy()
    found[:, 5:7] *= 0.02  # between the lines of anchors at 4 and 7
    return found.reshape(losses.shape)


def _cliff(losses: FloatArray) -> FloatArray:
    found = losses.reshape(len(Y), len(X), -1).copy()
    found[:, 9:] = 50.0  # clipped
    return found.reshape(losses.shape)


@pytest.mark.parametrize("made", [_ravine, _cliff])
def test_no_smooth_lie(made: Callable[[FloatArray], FloatArray]) -> None:
    """What anchors do not see is found, and no value is off by more than its error says."""
    losses = made(waves())
    now = run(losses, asked(0.05))[0]
    gap = np.abs(now.values - losses.mean(1))
    assert (gap <= 6 * now.error + 1e-12).all()
    assert np.median(gap / losses.mean(1)) < 0.05


def test_nan_and_infinity_are_found_as_they_are() -> None:
    losses = waves().reshape(len(Y), len(X), -1)
    losses[:5, :5] = np.nan
    losses[10:, 12:] = np.inf
    losses[6, 7, 3] = np.inf  # of one sample alone
    losses = losses.reshape(len(X) * len(Y), -1)
    now, held, _ = run(losses, asked(0.05))
    true = losses.mean(1)
    corner = np.flatnonzero(np.isnan(true) | np.isinf(true))
    known = corner[(now.found == ANCHOR)[corner] | (now.found == SAMPLED)[corner]]
    np.testing.assert_array_equal(now.values[known], true[known])
    beside = [5 * len(X) + 2, 5 * len(X) + 5, 2 * len(X) + 5]  # next to the corner of NaN
    assert held.full[beside].all()
    finite = np.isfinite(true)
    assert np.isfinite(now.values[finite]).all()
    assert (np.abs(now.values - true)[finite] <= 6 * now.error[finite] + 1e-12).all()
    hidden = (now.found == INTERPOLATED) & ~finite
    assert not hidden.any()


def test_a_constant_loss_is_known_at_once() -> None:
    losses = np.full((len(X) * len(Y), SAMPLES), 0.7)
    now, held, _ = run(losses, asked(1e-6))
    np.testing.assert_allclose(now.values, 0.7, rtol=1e-14)
    assert held.full.sum() == len(asked().first)


def test_without_blocks_every_point_gets_a_full_pass() -> None:
    now, _, spent = run(waves(), asked(blocks=0))
    assert (now.found == ANCHOR).all()
    assert spent == len(X) * len(Y) * SAMPLES


def test_a_line_has_nothing_between() -> None:
    line = waves()[: len(X)]
    wish = Asked((X,), tuple(lattice((len(X),))), SAMPLES, BLOCK, 8, 0.05, "relative", 0.9)
    now = run(line, wish)[0]
    assert set(now.found.tolist()) == {ANCHOR, SAMPLED}


def test_the_error_of_what_a_point_is_regressed_on_is_handed_on() -> None:
    """A point whose losses are those of a better known one: known as well as that, and no better."""
    losses = np.random.default_rng(0).exponential(size=SAMPLES)
    wish = Asked((np.arange(2.0),), (), SAMPLES, BLOCK, 8, 0.05, "relative", 0.9)
    nowhere = np.zeros(2, dtype=bool)
    now = estimate(
        wish, Held(nowhere, np.full(2, np.nan), np.full(2, np.nan), {0: losses[:512], 1: losses[:BLOCK]}), positive=True
    )
    np.testing.assert_allclose(now.values, losses[:512].mean(), rtol=1e-4)
    spread = losses[:512].std(ddof=1) / np.sqrt(512) * np.sqrt(1 - 512 / SAMPLES)
    np.testing.assert_allclose(now.error, spread, rtol=0.01)


def _rare() -> FloatArray:
    """Losses of which three quarters are those of ten samples in a thousand, as near a trained minimum."""
    rng = np.random.default_rng(0)
    inputs, shift = rng.standard_normal((2, SAMPLES)), rng.standard_normal(SAMPLES)
    y, x = (part.ravel()[:, None] for part in np.meshgrid(Y, X, indexing="ij"))
    return np.log1p(np.exp(2 * (x * inputs[0] + y * inputs[1]) + 4 * shift - 12))


def test_errors_cover_where_few_samples_make_up_the_loss() -> None:
    """What a sub-sample without them says of its own error is far too small; full passes tell."""
    losses = _rare()
    for seed in (0, 1):
        now = run(losses, asked(scale="range"), seed)[0]
        unsure = now.found != ANCHOR
        gap = np.abs(now.values - losses.mean(1))[unsure]
        assert (gap <= 1.96 * now.error[unsure]).mean() > 0.88


def test_a_count_of_which_the_sub_sample_holds_none_is_not_known_exactly() -> None:
    losses = np.zeros((len(X) * len(Y), SAMPLES))
    wish = asked()
    for p in wish.first:
        losses[p, 900 + p % 7] = 1.0
    full = np.zeros(wish.size, dtype=bool)
    full[list(wish.first)] = True
    units = {p: losses[p, :BLOCK] for p in [*wish.first, 1]}
    now = estimate(wish, Held(full, losses.mean(1), losses.std(1), units), positive=False)
    assert now.found[1] == SAMPLED
    assert 0.3 / SAMPLES < now.error[1] < 3 / SAMPLES


def test_a_count_that_full_passes_explain_exactly_may_be_off_by_a_sample() -> None:
    """A point that agrees with its controls on all of the sub-sample has no residuals, and is not known exactly."""
    losses = np.zeros((len(X) * len(Y), SAMPLES))
    losses[:, ::3] = 1.0
    losses[1, -9:] = 1 - losses[1, -9:]  # samples that are not drawn
    wish = asked()
    full = np.zeros(wish.size, dtype=bool)
    full[list(wish.first)] = True
    units = {p: losses[p, :BLOCK] for p in [*wish.first, 1]}
    now = estimate(wish, Held(full, losses.mean(1), losses.std(1), units), positive=False)
    assert now.error[1] == pytest.approx(np.sqrt(1 - BLOCK / SAMPLES) / BLOCK, rel=1e-3)
    assert abs(now.values[1] - losses[1].mean()) < now.error[1]


def test_a_count_without_residuals_is_not_known_exactly_beside_points_that_have_some() -> None:
    """These hold one mistake of the sub-sample, which alone does not tell of those that it lacks."""
    losses = np.zeros((len(X) * len(Y), SAMPLES))
    wish = asked()
    for n, p in enumerate(wish.first):
        losses[p, 900 : 900 + 3] = 1.0
        losses[p, 0] = n % 2
    losses[1, 900 : 900 + 3] = 1.0
    full = np.zeros(wish.size, dtype=bool)
    full[list(wish.first)] = True
    units = {p: losses[p, :BLOCK] for p in [*wish.first, 1]}
    now = estimate(wish, Held(full, losses.mean(1), losses.std(1), units), positive=False)
    assert now.found[1] == SAMPLED
    assert abs(now.values[1] - losses[1].mean()) <= 1.96 * now.error[1] < 9 / SAMPLES


def test_large_residuals_nearby_do_not_hide_what_small_ones_lack() -> None:
    """Every second full pass states a large error and is right; the others state hardly one and miss three samples."""
    samples, losses = np.arange(SAMPLES), np.zeros((len(X) * len(Y), SAMPLES))
    wish = asked()
    for n, p in enumerate([*wish.first, 1]):
        losses[p] = 1 + 1e-6 * np.sin(samples * (n + 1))
        losses[p, 900 : 900 + 3] += 1.0
        if n % 2:
            losses[p] = 1 + (-1.0) ** (samples >> n % 5)
    losses[1] = losses[0]
    full = np.zeros(wish.size, dtype=bool)
    full[list(wish.first)] = True
    units = {p: losses[p, :BLOCK] + 1e-7 * np.cos(samples[:BLOCK] * p) for p in [*wish.first, 1]}
    now = estimate(wish, Held(full, losses.mean(1), losses.std(1), units), positive=False)
    assert abs(now.values[1] - losses[1].mean()) <= 1.96 * now.error[1] < 30 / SAMPLES


def test_what_failed_is_not_asked_for_again() -> None:
    wish = asked(0.2)
    first: list[Item] = [(p, FULL) for p in wish.first]
    losses = waves()
    full = np.zeros(wish.size, dtype=bool)
    full[list(wish.first[1:])] = True
    held = Held(full, losses.mean(1), losses.std(1), {p: losses[p, :BLOCK] for p in wish.first[1:]})
    assert (wish.first[0], FULL) not in next_items(wish, held, set(first))
