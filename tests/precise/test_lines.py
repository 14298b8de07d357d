"""The rounds of several lines to a stated error, on losses written out: no model, every sample's value known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from landscape_kernels.arrays import FloatArray
from test_rounds import BLOCK, SAMPLES, run

from landscape.precise.foretell import foretold, probes
from landscape.precise.rounds import (
    ANCHOR,
    FULL,
    SAMPLED,
    Asked,
    Held,
    estimate,
    lattice,
    meeting,
    next_items,
    places_of,
    reached,
)

X, LINES = np.linspace(-1, 1, 21), 4


def losses_of(seed: int = 0) -> FloatArray:
    """Losses of 1,024 samples along four lines through one point, (lines * points, samples)."""
    rng = np.random.default_rng(seed)
    slopes, shift = rng.standard_normal((LINES, SAMPLES)), rng.standard_normal((2, SAMPLES))
    slope = slopes[:, None] * X[:, None]
    found = np.log1p(np.exp(3 * slope + shift[0])) + 0.5 + 0.5 * np.sin(3 * slope + 9 * shift[1])
    return found.reshape(-1, SAMPLES)


def wish(error: float = 0.02, **changes: object) -> Asked:
    coarse = {int(meeting((X,), LINES)[k * len(X) + p]) for k in range(LINES) for p in lattice((len(X),))}
    asked = Asked((X,), tuple(sorted(coarse)), SAMPLES, BLOCK, 8, error, "relative", 0.9, lines=LINES)
    return replace(asked, **changes)  # type: ignore[arg-type]


def test_lines_meet_at_the_centre_alone_and_are_apart_elsewhere() -> None:
    of = meeting((X,), LINES).reshape(LINES, -1)
    assert (of[:, 10] == 10).all()
    rest = np.delete(of, 10, 1)
    assert (rest == np.delete(np.arange(of.size).reshape(of.shape), 10, 1)).all()
    assert meeting((X + 0.01,), LINES).tolist() == list(range(of.size))
    places = places_of(wish())
    own = np.abs(places[1:] - places[0])[: len(X) - 1].sum(1).max()
    assert own < np.linalg.norm(places[len(X) :] - places[0], axis=1).min()


def test_all_lines_are_measured_to_the_error_and_their_centre_once() -> None:
    inside, ratios = [], []
    for seed in range(8):
        losses = losses_of(seed)
        true = losses.mean(1)
        now, held, spent = run(losses, wish(), seed)
        assert reached(wish(), now).mean() >= 0.9
        assert spent < 0.6 * losses.size
        assert held.full.sum() >= 5 * LINES
        gap, unsure = np.abs(now.values - true), now.found != ANCHOR
        assert set(now.found[unsure].tolist()) == {SAMPLED}
        assert not now.error[~unsure].any()
        assert np.median(gap / true) < 0.02
        inside.append((gap <= 1.96 * now.error)[unsure])
        ratios.append(np.square(gap[unsure] / now.error[unsure]))
    # Points of a draw share its samples: eight draws are no thousand trials.
    assert np.concatenate(inside).mean() > 0.88
    assert 0.6 < np.sqrt(np.concatenate(ratios).mean()) < 1.5
    first = next_items(wish(), Held(np.zeros(wish().size, dtype=bool), true, true, {}), set())
    assert len(first) == LINES * (len(X) - 1) + 1


def test_a_ravine_one_point_wide_a_cliff_and_a_constant_line_are_seen() -> None:
    whole = losses_of().reshape(LINES, len(X), SAMPLES)
    whole[1, 3] *= 0.02  # between the anchors at 0 and 5
    whole[2, 12:] = 50.0
    whole[3] = whole[0, 10]  # as at the centre, where all lines meet
    losses = whole.reshape(-1, SAMPLES)
    now = run(losses, wish(0.05))[0]
    gap = np.abs(now.values - losses.mean(1))
    assert (gap <= 6 * now.error + 1e-12).all()
    values = now.values.reshape(LINES, -1)
    assert values[1, 3] < 0.2 * min(values[1, 2], values[1, 4])
    np.testing.assert_allclose(values[2, 12:], 50.0, rtol=1e-12)
    np.testing.assert_allclose(values[3], losses[10].mean(), rtol=1e-4)


def test_beside_what_is_not_finite_full_passes_are_of_the_same_line() -> None:
    whole = losses_of().reshape(LINES, len(X), SAMPLES)
    whole[1, 18:] = np.nan
    whole[2, 0, 3] = np.inf  # of one sample alone
    losses = whole.reshape(-1, SAMPLES)
    now, held, _ = run(losses, wish(0.5))
    true, full = losses.mean(1), held.full.reshape(LINES, -1)
    np.testing.assert_array_equal(np.isfinite(now.values), np.isfinite(true))
    assert full[1, 17]
    assert full[2, 1]
    assert not full[[0, 2], 17].any()
    assert not full[[1, 3], 1].any()


def test_work_is_foretold_from_the_first_lines() -> None:
    losses, asked = losses_of(), wish(0.02)
    coarse, between = probes(asked)
    assert (len(coarse), len(between)) == (5 * LINES, 4 * LINES)
    told = foretold(asked, {p: losses[p, :BLOCK] for p in [*coarse, *between]})
    spent = run(losses, asked)[2] / SAMPLES
    assert spent / 2 < told.passes < 2 * spent
    assert told.share == told.passes / asked.size
    many = replace(asked, lines=50)
    assert max(p for part in probes(many) for p in part) < 4 * len(X)


def test_without_blocks_every_point_gets_a_full_pass_and_the_centre_one() -> None:
    now, held, spent = run(losses_of(), wish(blocks=0))
    assert held.full.all()
    assert (now.found == ANCHOR).all()
    assert spent == (LINES * (len(X) - 1) + 1) * SAMPLES
    assert next_items(wish(blocks=0), held, {(p, FULL) for p in range(wish().size)}) == []


def test_a_count_whose_residuals_are_none_is_not_known_exactly() -> None:
    """Full passes nearby state errors as large as what they miss; a point has the same samples wrong as one of them."""
    losses = (np.random.default_rng(6).random((LINES * len(X), SAMPLES)) < 0.02).astype(float)
    asked = wish()
    of = meeting(asked.axes, LINES)
    full = np.isin(of, asked.first)
    known = [*np.flatnonzero(full).tolist(), 1]
    units = {p: losses[of[p], :BLOCK] for p in known} | {1: losses[0, :BLOCK]}
    now = estimate(asked, Held(full, losses.mean(1)[of], losses.std(1)[of], units), positive=False)
    assert now.found[1] == SAMPLED
    assert 2 / SAMPLES < now.error[1] < 40 / SAMPLES
