"""Langevin steps against closed forms, and what chains tell against textbook series."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from landscape_kernels.arrays import FloatArray
from landscape_kernels.chains import drift, effective_samples, mean_and_error, r_hat, slow_error
from landscape_kernels.langevin import (
    ChainNoise,
    Losses,
    Places,
    StepSizes,
    Tempered,
    log_acceptance,
    metropolis_step,
    places,
    proposed,
    quadratic_coefficient,
)
from torch import Tensor

H = torch.tensor([10, 1, 0.1, 0.01], dtype=torch.float64)
STIFF = torch.tensor([10, 3], dtype=torch.float64)


def quadratic(h: Tensor) -> Losses:
    """1/2 sum h w^2."""
    return lambda theta: (0.5 * (h * theta**2).sum(1), h * theta)


def test_log_acceptance_is_the_ratio_of_densities() -> None:
    """The plain formula of Metropolis and Hastings, with all of its squares."""
    torch.manual_seed(0)
    target = Tempered(torch.randn(4, dtype=torch.float64), 30.0, 2.0)
    theta, noise = torch.randn(2, 5, 4, dtype=torch.float64)
    steps = torch.linspace(0.001, 0.5, 5, dtype=torch.float64)[:, None]
    at = places(theta, quadratic(H), target)
    there = places(proposed(at, steps, noise), quadratic(H), target)

    def energy(one: Places) -> Tensor:
        return 30.0 * one.losses + ((one.theta - target.centre) ** 2).sum(1)

    def log_proposal(end: Places, start: Places) -> Tensor:
        gap = end.theta - (start.theta - steps / 2 * start.slopes)
        return -(gap**2).sum(1) / (2 * steps[:, 0])

    expected = energy(at) - energy(there) + log_proposal(at, there) - log_proposal(there, at)
    assert (expected < 0).any()
    torch.testing.assert_close(
        log_acceptance(at, there, target, steps, noise), expected.clamp(max=0), rtol=1e-10, atol=1e-10
    )


def walked(step: float, metropolis: bool, chains: int = 200, draws: int = 1000) -> FloatArray:
    """(C, draws - 200) losses times nbeta of chains around 0 with nbeta 100 and localisation 1."""
    target = Tempered(torch.zeros(2, dtype=torch.float64), 100.0, 1.0)
    noise, losses = ChainNoise(2, list(range(chains)), target.centre), quadratic(STIFF)
    at = places(torch.zeros(chains, 2, dtype=torch.float64), losses, target)
    steps = torch.full((chains, 1), step, dtype=torch.float64)
    found = np.empty((chains, draws))
    for draw in range(draws):
        normal, log_uniform = noise.at(draw)
        if metropolis:
            at, _ = metropolis_step(at, losses, target, steps, normal, log_uniform)
        else:
            at = places(proposed(at, steps, normal), losses, target)
        found[:, draw] = 100 * at.losses.numpy()
    return found[:, 200:]


@pytest.mark.parametrize(("step", "metropolis"), [(2e-3, True), (1e-3, False), (3e-3, False)])
def test_quadratic_has_its_closed_form(step: float, metropolis: bool) -> None:
    """Exact by Metropolis' test; without it, with the bias of the step."""
    h = STIFF.numpy()
    mean, error = mean_and_error(walked(step, metropolis))
    assert error < 0.02
    assert abs(mean - quadratic_coefficient(h, 100, 1, 0 if metropolis else step)) < 3 * error
    assert metropolis or abs(mean - quadratic_coefficient(h, 100, 1)) > 5 * error


def test_published_quadratic() -> None:
    h = H.numpy()
    assert quadratic_coefficient(h, 100, 1, 1e-3) == pytest.approx(1.8800200, abs=1e-7)
    assert quadratic_coefficient(h, 100, 1) == pytest.approx(1.699095, abs=1e-6)
    assert quadratic_coefficient(h, 1e9, 0) == 2
    assert quadratic_coefficient(np.array([-1.0, 0.0]), 100, 1) == 0
    assert math.isinf(quadratic_coefficient(h, 100, 1, 4 / 1001))


def test_noise_follows_from_seed_and_draw() -> None:
    like = torch.zeros(3)
    both, one = ChainNoise(3, [5, 6], like), ChainNoise(3, [6], like)
    for draw in (2000, 0, 1023, 1024):
        normal, uniform = both.at(draw)
        assert torch.equal(normal[1], one.at(draw)[0][0])
        assert uniform[1] == one.at(draw)[1][0] < 0
        assert not torch.equal(normal[0], normal[1])
    wide = ChainNoise(1 << 16, [5], like)
    assert not torch.equal(wide.at(0)[0], wide.at(1)[0])


def test_steps_come_to_the_rate_asked_for() -> None:
    """An acceptance of exp(-sqrt(eps)), which is 0.8 at eps = ln(0.8)^2."""
    sizes = StepSizes(1e-6, 2, 0.8)
    for draw in range(400):
        sizes.update(-np.sqrt(sizes.now))
        if draw == 200:
            again = StepSizes(1e-6, 2, 0.8)
            again.restore(sizes.state())
    for _ in range(199):
        again.update(-np.sqrt(again.now))
    np.testing.assert_array_equal(again.settled, sizes.settled)
    np.testing.assert_allclose(sizes.settled, math.log(0.8) ** 2, rtol=0.1)


def test_a_proposal_without_a_loss_is_refused() -> None:
    target = Tempered(torch.zeros(1), 1.0, 0.0)

    def wall(theta: Tensor) -> tuple[Tensor, Tensor]:
        loss = torch.where(theta[:, 0].abs() < 1, 0.0, torch.nan).double()
        return loss, torch.zeros_like(theta) * loss[:, None].float()

    at = places(torch.zeros(2, 1), wall, target)
    moved, chance = metropolis_step(
        at, wall, target, torch.ones(2, 1), torch.tensor([[0.5], [1.5]]), torch.full((2,), -1e-9).double()
    )
    assert moved.theta[:, 0].tolist() == [0.5, 0.0]
    assert moved.losses.tolist() == [0.0, 0.0]
    assert chance.tolist() == [0.0, -math.inf]


def series(phi: float, chains: int, draws: int, seed: int = 0) -> FloatArray:
    """Autoregressive chains of variance 1."""
    noise = np.random.default_rng(seed).standard_normal((chains, draws + 200))
    for k in range(1, noise.shape[1]):
        noise[:, k] = phi * noise[:, k - 1] + math.sqrt(1 - phi**2) * noise[:, k]
    return noise[:, 200:]


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9, -0.4])
def test_effective_samples_of_autoregressive_chains(phi: float) -> None:
    """C N (1 - phi) / (1 + phi)."""
    found = effective_samples(series(phi, 8, 4000))
    assert found == pytest.approx(32000 * (1 - phi) / (1 + phi), rel=0.1)


def test_error_of_a_mean_covers_it() -> None:
    """Over 300 sets of four chains, two standard errors hold the mean in 90 to 99.5 %."""
    held = []
    for seed in range(300):
        mean, error = mean_and_error(series(0.9, 4, 500, seed))
        held.append(abs(mean) <= 2 * error)
    assert 0.90 < np.mean(held) < 0.995


def test_one_chain_that_has_been_where_the_others_were_not_counts_for_them() -> None:
    """Of C = 4 the mean m of squared errors is a quarter of that chain's, and so is the error of m: sqrt(3 / 16)."""
    random = np.random.default_rng(0)
    chains = 1e-9 * random.normal(size=(4, 400))
    chains[2] = random.normal(size=400)
    assert slow_error(chains) == pytest.approx(math.sqrt(3 / 16) * mean_and_error(chains[2:3])[1], rel=1e-6)
    alike = random.normal(size=(40, 400))
    assert slow_error(alike) == pytest.approx(1 / math.sqrt(alike.size), rel=0.2)
    assert slow_error(alike[:1]) == mean_and_error(alike[:1])[1]
    assert math.isnan(slow_error(np.ones((2, 400))))


def test_chains_that_disagree_or_drift_are_seen() -> None:
    good = series(0.5, 4, 1000)
    assert r_hat(good) == pytest.approx(1, abs=0.01)
    apart = good + np.array([0, 0, 0, 2])[:, None]
    halves = np.concatenate([apart[:, :500], apart[:, 500:]])
    inside, between = halves.var(1, ddof=1).mean(), halves.mean(1).var(ddof=1)
    assert r_hat(apart) == pytest.approx(math.sqrt((0.998 * inside + between) / inside), rel=1e-12)
    assert r_hat(apart) > 1.2
    slope = good + np.linspace(0, 3, 1000)
    assert r_hat(slope) > 1.1
    change, error = drift(slope)
    assert abs(change - 1.5) < 4 * error < 1.5
    assert abs(drift(good)[0]) < 3 * drift(good)[1]
    assert math.isnan(r_hat(np.ones((2, 100))))
    assert math.isinf(r_hat(np.ones((2, 100)) * np.array([[1], [2]])))
    assert math.isnan(effective_samples(np.ones((2, 100))))
    assert math.isnan(r_hat(good[:, :7]))
