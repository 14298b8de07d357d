"""Curvature against what theory says: a logistic model's random-matrix spectrum, and the edge of stability."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import landscape as ls


def logistic(samples: int, features: int, mean: Tensor | None = None) -> ls.Objective:
    """Logistic regression at w = 0 on Gaussian inputs, classes of means +-mu: H = X'X / 4n (Liao & Mahoney 2021)."""
    generator = torch.Generator().manual_seed(4)
    inputs = torch.randn(samples, features, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, 2, (samples, 1), generator=generator).double()
    if mean is not None:
        inputs = inputs + (2 * targets - 1) * mean
    net = nn.Linear(features, 1, bias=False).double()
    nn.init.zeros_(net.weight)
    return ls.Objective(net, "binary_cross_entropy_with_logits", (inputs, targets))


def test_logistic_bulk_has_marchenko_pastur_edges() -> None:
    n, p = 1024, 256
    c = p / n
    objective = logistic(n, p)
    spectrum = ls.measure_spectrum(objective, k=1, smallest=1, tol=1e-6, trace="exact", max_products=300)
    low, high = (0.25 * (1 + sign * math.sqrt(c)) ** 2 for sign in (-1, 1))
    # Edges of a finite matrix fluctuate by n^(-2/3) of the width (Tracy-Widom).
    slack = 3 * (high - low) * n ** (-2 / 3)
    assert spectrum.eigenvalues[0] == pytest.approx(high, abs=slack)
    assert spectrum.smallest.values[0] == pytest.approx(low, abs=slack)
    assert spectrum.trace is not None
    assert spectrum.density is not None
    inputs = objective.data.first[0]
    assert spectrum.trace.value == pytest.approx(float((inputs**2).sum()) / (4 * n), rel=1e-12)
    grid, width = spectrum.density.grid, spectrum.density.width
    inside = (grid > low - 5 * width - slack) & (grid < high + 5 * width + slack)
    assert np.trapezoid(spectrum.density.values * inside, grid) == pytest.approx(1, abs=1e-3)


def test_logistic_spike_stands_where_theory_puts_it() -> None:
    n, p = 4096, 512
    c = p / n
    direction = torch.zeros(p, dtype=torch.float64)
    direction[0] = 1.0
    rho = 2.0
    objective = logistic(n, p, math.sqrt(rho) * direction)
    spectrum = ls.measure_spectrum(objective, k=1, tol=1e-6, trace=False, density=False)
    spike = 0.25 * (1 + rho + c * (rho + 1) / rho)
    overlap = (rho**2 - c) / (rho * (rho + c))
    # fluctuations of a spike are of order n^(-1/2)
    assert spectrum.eigenvalues[0] == pytest.approx(spike, rel=4 / math.sqrt(n))
    assert spectrum.eigenvectors is not None
    assert spectrum.eigenvectors[0, 0] ** 2 == pytest.approx(overlap, rel=4 / math.sqrt(n))


def test_gradient_descent_ends_at_the_edge_of_stability() -> None:
    """Full-batch descent with step eta keeps sharpening until lambda_1 is near 2 / eta (Cohen et al. 2021)."""
    datasets = pytest.importorskip("sklearn.datasets")
    digits = datasets.load_digits()
    inputs = torch.from_numpy(digits.data[:300] / 16.0).float()
    targets = F.one_hot(torch.from_numpy(digits.target[:300]), 10).float()
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    eta = 0.05
    optimiser = torch.optim.SGD(net.parameters(), lr=eta)
    sharpness: list[float] = []
    for step in range(2001):
        if step % 500 == 0:
            objective = ls.Objective(net, lambda o, t: ((o - t) ** 2).sum(1), (inputs, targets), check=False)
            found = ls.measure_spectrum(objective, k=1, trace=False, density=False)
            sharpness.append(float(found.eigenvalues[0]))
        optimiser.zero_grad()
        ((net(inputs) - targets) ** 2).sum(1).mean().backward()
        optimiser.step()
    assert sharpness[0] < 0.6 * 2 / eta
    assert sharpness[-1] == pytest.approx(2 / eta, rel=0.05)
