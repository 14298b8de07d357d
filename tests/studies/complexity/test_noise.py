"""The noise that costs a tenth of the accuracy: closed forms, its error, and the measures made of it."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
from torch import nn

import landscape as ls
from landscape.studies.complexity.noise import Sigma, find_sigma
from landscape.studies.complexity.subject import Subject

QUANTILE = 1.2815515655446004  # of a tenth, of the normal distribution


def one_example(x: list[float], w: list[float]) -> ls.Objective:
    """One example with the label 1, and one score w.x."""
    model = nn.Linear(len(x), 1, bias=False).double()
    model.weight.data = torch.tensor([w], dtype=torch.float64)
    data = (torch.tensor([x], dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64))
    return ls.Objective(model, "binary_cross_entropy_with_logits", data)


def sigma(
    of: ls.Objective, magnitude: bool = False, tol: float = 0.1, seed: int = 0, parity: str | None = None
) -> Sigma:
    return find_sigma(Subject(of, tol=tol, seed=seed, parity=parity), magnitude)


def margins_of_one() -> ls.Objective:
    """64 examples with scores of their own, all of them 1: noise of size s makes each wrong with P(N > 1 / s)."""
    model = nn.Linear(64, 1, bias=False).double()
    model.weight.data.fill_(1.0)
    data = (torch.eye(64, dtype=torch.float64), torch.ones(64, 1, dtype=torch.float64))
    return ls.Objective(model, "binary_cross_entropy_with_logits", data)


def test_noise_that_is_known() -> None:
    of, expected = margins_of_one(), 1 / QUANTILE
    found = [sigma(of, tol=0.08, seed=seed) for seed in range(5)]
    gaps = [(one.value - expected) / one.stderr for one in found]
    assert all(one.stderr <= 0.08 * one.value for one in found)
    assert np.abs(gaps).max() < 3.5  # of 5
    assert 0.3 < np.sqrt(np.mean(np.square(gaps))) < 2.0  # the error told is the error made
    close = sigma(of, tol=0.02)
    assert abs(close.value - expected) < 3 * close.stderr


def test_magnitude_aware_noise_of_one_example() -> None:
    x, w = [1.0, 2.0], [2.0, 0.5]
    needed = (3.0 / QUANTILE) ** 2  # variance of the score
    expected = math.sqrt((needed - 1e-6 * (1 + 4)) / (4 + 4 * 0.25))
    found = sigma(one_example(x, w), magnitude=True, tol=0.2)
    assert abs(found.value - expected) < 3.5 * found.stderr


def test_the_reference_takes_the_square_for_the_standard_deviation() -> None:
    of = one_example([0.6, 0.8], [0.6, 0.8])  # a margin of 1
    right = sigma(of, tol=0.3)
    found = [sigma(of, parity="jiang", seed=seed) for seed in range(6)]
    assert abs(right.value - 1 / QUANTILE) < 3.5 * right.stderr
    values = [one.value for one in found]
    error = np.std(values, ddof=1) / math.sqrt(len(values))
    assert abs(np.mean(values) - math.sqrt(1 / QUANTILE)) < 3.5 * error
    assert error < 0.05  # so that 1 / QUANTILE itself would be told apart
    assert all(math.isnan(one.stderr) for one in found)


@functools.cache
def digits() -> tuple[ls.Objective, torch.Tensor]:
    """A network of two layers that tells 300 points in three clusters apart, and where it began."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    centres = 3 * torch.randn(3, 5, generator=generator)
    inputs = centres[labels] + torch.randn(300, 5, generator=generator)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    start = torch.cat([p.detach().flatten() for p in model.parameters()])
    optimiser = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimiser.step()
    return ls.Objective(model, data=(inputs, labels)), start


def test_measures_follow_from_sigma() -> None:
    of, start = digits()
    names = ["pacbayes_init", "pacbayes_orig", "pacbayes_flatness"]
    names += [name.replace("_", "_mag_") for name in names]
    found = ls.measure_complexity(of, measures=names, initial=start, tol=0.4)
    s, t = (float(found[name]) ** -0.5 for name in ("pacbayes_flatness", "pacbayes_mag_flatness"))
    weights = [0, 40, 48, 72]  # of theta: weight, bias, weight, bias
    rows = np.r_[weights[0] : weights[1], weights[2] : weights[3]]
    w, w0 = (v.double().numpy()[rows] for v in (of.theta, start))
    m, eps, n = 300, 1e-3, len(rows)
    expected = {
        "pacbayes_init": ((w - w0) ** 2).sum() / (4 * s**2) + math.log(m / s) + 10,
        "pacbayes_orig": (w**2).sum() / (4 * s**2) + math.log(m / s) + 10,
    }
    for name, r in (("pacbayes_mag_init", w - w0), ("pacbayes_mag_orig", w)):
        above = eps**2 + (t**2 + 1) * (r**2).sum() / n
        expected[name] = np.log(above / (eps**2 + t**2 * (w - w0) ** 2)).sum() / 4 + math.log(m / t) + 10
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(float(value), rel=1e-9), name
    flat = found["pacbayes_flatness"]
    relative = flat.stderr / float(flat) / 2  # of sigma
    assert 0 < relative <= 0.4
    assert found["pacbayes_orig"].stderr == pytest.approx(
        relative * (2 * (expected["pacbayes_orig"] - math.log(m / s) - 10) + 1), rel=0.05
    )


def test_draws_are_those_of_the_seed() -> None:
    of, _ = digits()
    first, again, other = (sigma(of, tol=0.5, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first.value != other.value


def test_noise_moves_no_scale_of_a_fused_batchnorm() -> None:
    """Biases and weights of the fused network alone: its function has no other parameters."""
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    of = ls.Objective(model, data=(torch.randn(20, 3), torch.arange(20) % 2))
    free = Subject(of).fused.free
    assert free.tolist() == [True] * 12 + [False] * 4 + [True] * 4 + [True] * 10


def test_the_reference_moves_scales_of_fused_batchnorms_too() -> None:
    """f = (1 + n1) (1 + n2) + n3 on an input of 0: noise on the scale of 1, the layer's bias and the norm's own."""
    model = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1)).double().eval()
    nn.init.ones_(model[0].bias)  # type: ignore[arg-type]
    data = (torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64))
    of = ls.Objective(model, "binary_cross_entropy_with_logits", data)
    n = np.random.default_rng(0).normal(size=(3, 100_000))
    drops = {s: float(((1 + s * n[0]) * (1 + s * n[1]) + s * n[2] < 0).mean()) for s in (0.4, 0.5)}
    assert drops[0.4] < 0.1 < drops[0.5]
    values = [sigma(of, parity="jiang", seed=seed).value for seed in range(4)]
    # Each errs by 0.05 or so; with noise on the norm's own bias alone they are sqrt(1 / QUANTILE) = 0.88.
    assert math.sqrt(0.4) - 0.08 < np.mean(values) < math.sqrt(0.5) + 0.08


def test_where_no_noise_costs_that_much() -> None:
    near_chance = one_example([1.0], [-1.0])
    with pytest.raises(ls.InputError, match="accuracy without noise is 0"):
        sigma(near_chance)
    small = one_example([1.0], [1e-4])  # less than the noise of 1e-3 that there is besides
    found = ls.measure_complexity(small, measures="pacbayes_mag_flatness", tol=0.3)
    assert "0.001" in found.skipped["pacbayes_mag_flatness"]
