"""Measures of flatness against closed forms of quadratic losses and dense derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import landscape as ls
from landscape.studies.complexity.critical import loss_and_gradient, search

RHO, ADAPTIVE = 0.05, 0.5


def quadratic(theta: list[float] | None = None, count: int = 12) -> tuple[ls.Objective, Tensor, Tensor]:
    """Linear regression with the squared loss; its Hessian, and its gradient at theta (by default its minimum)."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 3, generator=generator, dtype=torch.float64) * torch.tensor([3.0, 1.0, 0.3]).double()
    y = torch.randn(count, 1, generator=generator, dtype=torch.float64)
    model = nn.Linear(3, 1, bias=False).double()
    best = torch.linalg.lstsq(x, y).solution.flatten()
    at = best if theta is None else torch.tensor(theta, dtype=torch.float64)
    model.weight.data = at[None].clone()
    H = 2 * x.T @ x / count
    return ls.Objective(model, "mse", (x, y)), H, H @ (at - best)


def measured(of: ls.Objective, name: str, **options: object) -> ls.Estimate:
    return ls.measure_complexity(of, measures=name, **options)[name]  # type: ignore[arg-type]


# -- critical sharpness ----------------------------------------------------------------------------------------------


def test_critical_sharpness_of_a_quadratic_loss() -> None:
    of, H, g = quadratic([1.0, -2, 0.5])
    assert float(ls.critical_sharpness(of)) == pytest.approx(float(g @ H @ g / (g @ g)), rel=1e-9)
    d = torch.tensor([-0.3, 0.2, 0.1], dtype=torch.float64)
    d = d * -torch.sign(g @ d)
    for scale in (1.0, 1e-6, 1e5):
        found = search(of, scale * d)
        assert float(found.value) == pytest.approx(float(scale * d @ H @ d / (-g @ d)), rel=1e-6)
    assert search(of).passes <= 3 + 5


def test_error_of_critical_sharpness_is_that_of_other_data() -> None:
    """Losses of samples of a wide population, along one direction."""
    theta, d = torch.tensor([[1.0, -1.0]]).double(), torch.tensor([-1.0, 0.7]).double()
    found = []
    for seed in range(24):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(64, 2, generator=generator, dtype=torch.float64)
        model = nn.Linear(2, 1, bias=False).double()
        model.weight.data = theta.clone()
        data = (x, 0.1 * torch.randn(64, 1, generator=generator, dtype=torch.float64))
        found.append(ls.critical_sharpness(ls.Objective(model, "mse", data, check=False), d))
    told = math.sqrt(float(np.mean([one.stderr**2 for one in found])))
    assert told == pytest.approx(float(np.std(found, ddof=1)), rel=0.5)  # 3 standard errors of a spread over 24


def test_directions_without_a_critical_step() -> None:
    of, _, g = quadratic([1.0, -2, 0.5])
    with pytest.raises(ls.InputError, match="does not fall"):
        ls.critical_sharpness(of, g)
    torch.manual_seed(0)
    single = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))  # float32, whose loss falls by its rounding
    classes = ls.Objective(single, data=(torch.randn(64, 3), torch.arange(64) % 2))
    _, up = loss_and_gradient(classes, classes.theta)
    assert float(ls.critical_sharpness(classes, -up)) > 0
    for scale in (1e-4, 1.0, 1e4):
        with pytest.raises(ls.InputError, match="does not fall"):
            ls.critical_sharpness(classes, scale * up)
    with pytest.raises(ls.InputError, match="length 0"):
        ls.critical_sharpness(of, torch.zeros(3))
    falling = ls.Objective(nn.Linear(1, 1), lambda out, _: -out.squeeze(1), (torch.ones(4, 1), torch.ones(4)))
    with pytest.raises(ls.InputError, match="no critical step"):
        ls.critical_sharpness(falling)


# -- the loss around theta ------------------------------------------------------------------------------------------


def test_worst_and_average_case_of_a_quadratic_loss() -> None:
    of, H, _ = quadratic()
    assert float(measured(of, "sam_worst_case")) == pytest.approx(float(RHO**2 / 2 * torch.linalg.eigvalsh(H)[-1]))
    average = measured(of, "sam_average_case", tol=0.02)
    # at a minimum of the data the sum over samples of each slope is 0: draws alone are the error of this value
    assert abs(float(average) - float(RHO**2 / 2 * H.trace() / 3)) < 3 * average.stderr


def test_worst_case_away_from_a_minimum() -> None:
    of, H, g = quadratic([0.5, 0.5, -1.0])
    angles = np.linspace(0, 2 * np.pi, 721)
    heights = np.linspace(-1, 1, 361)
    sphere = np.stack(
        [np.outer(np.sqrt(1 - heights**2), f(angles)) for f in (np.cos, np.sin)]
        + [np.outer(heights, np.ones_like(angles))]
    ).reshape(3, -1)
    for name, rho, scale in (
        ("sam_worst_case", RHO, np.ones(3)),
        ("adaptive_sharpness", ADAPTIVE, np.array([0.5, 0.5, 1])),
    ):
        d = rho * scale[:, None] * sphere
        highest = float((g.numpy() @ d + (d * (H.numpy() @ d)).sum(0) / 2).max())
        assert float(measured(of, name)) == pytest.approx(highest, rel=2e-3), name


# -- against dense derivatives --------------------------------------------------------------------------------------


def small() -> tuple[ls.Objective, nn.Sequential, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 3, bias=False)).double()
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=generator, dtype=torch.float64)
    x, y = torch.randn(10, 3, generator=generator, dtype=torch.float64), torch.arange(10) % 3
    return ls.Objective(model, data=(x, y)), model, x, y


def hessian(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """All second derivatives, one row after another."""
    point = at.detach().requires_grad_()
    (slope,) = torch.autograd.grad(function(point), point, create_graph=True)
    return torch.stack([torch.autograd.grad(one, point, retain_graph=True)[0] for one in slope])


def test_fisher_rao_norm() -> None:
    of, model, x, y = small()
    scores = model(x).detach().requires_grad_()
    (slope,) = torch.autograd.grad(F.cross_entropy(scores, y, reduction="sum"), scores)
    by_layers = 2 * (slope * scores).sum(1).square().mean().sqrt()  # Liang et al., theorem 3.1, two layers
    products = []
    for k in range(len(x)):  # and by the gradient of each sample
        gradients = torch.autograd.grad(F.cross_entropy(model(x[k : k + 1]), y[k : k + 1]), tuple(model.parameters()))
        products.append(sum(float((p.detach() * g).sum()) for p, g in zip(model.parameters(), gradients, strict=True)))
    found = measured(of, "fisher_rao")
    assert float(found) == pytest.approx(float(by_layers.detach()), rel=1e-8)
    squares = np.square(products)
    assert float(found) == pytest.approx(math.sqrt(squares.mean()), rel=1e-8)
    assert found.stderr == pytest.approx(squares.std(ddof=1) / math.sqrt(10) / (2 * float(found)), rel=1e-6)


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_relative_flatness(loss: str) -> None:
    _, model, x, y = small()
    targets = y if loss == "cross_entropy" else torch.randn(10, 3, generator=torch.Generator().manual_seed(0)).double()
    last, features = model[2].weight.detach(), model[:2](x).detach()

    def of_last(w: Tensor) -> Tensor:
        scores = features @ w.T
        return F.cross_entropy(scores, y) if loss == "cross_entropy" else F.mse_loss(scores, targets)

    H = hessian(lambda w: of_last(w.reshape(last.shape)), last.flatten()).reshape(3, 4, 3, 4)
    expected = torch.einsum("skuk,su->", H, last @ last.T)
    of = ls.Objective(model, loss, (x, targets))
    assert float(measured(of, "relative_flatness")) == pytest.approx(float(expected), rel=1e-9)


def test_relative_flatness_needs_a_linear_layer_last() -> None:
    of = ls.Objective(nn.Sequential(nn.Linear(2, 3), nn.Softmax(1)), "mse", (torch.randn(8, 2), torch.rand(8, 3)))
    assert "linear layer" in ls.measure_complexity(of, measures="relative_flatness").skipped["relative_flatness"]


def test_eigenvalue_trace_and_weight_metrics() -> None:
    of, model, x, y = small()
    shapes = [p.shape for p in model.parameters()]

    def loss(theta: Tensor) -> Tensor:
        a, b = (part.reshape(s) for part, s in zip(theta.split([12, 12]), shapes, strict=True))
        return F.cross_entropy(torch.relu(x @ a.T) @ b.T, y)

    H = hessian(loss, of.theta)
    names = ("largest_eigenvalue", "hessian_trace", "weights_log_norm", "weights_stable_rank", "weights_alpha")
    found = ls.measure_complexity(of, measures=names)
    assert float(found["largest_eigenvalue"]) == pytest.approx(float(torch.linalg.eigvalsh(H)[-1]), rel=1e-6)
    assert float(found["hessian_trace"]) == pytest.approx(float(H.trace()), rel=1e-6)
    means = ls.measure_weights(model, shuffles=0, roundings=0).model
    assert float(found["weights_log_norm"]) == float(means["log_norm"])
    assert float(found["weights_stable_rank"]) == float(means["stable_rank"])
    assert "measure_weights" in found.skipped["weights_alpha"]  # too few singular values for a power law
