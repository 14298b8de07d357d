"""Bounds by the marginal likelihood: classes, kernels of networks, errors by the jackknife, what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from landscape_kernels.evidence import (
    bound_on_draw,
    bound_on_error,
    exact_orthant,
    signed_correlations,
)
from landscape_kernels.nngp import nngp_kernel
from landscape_kernels.propagation import propagated_orthant
from torch import Tensor, nn

import landscape as ls
from landscape.network.random_kernel import initial_network, network_kernel
from landscape.results.summary import result_tables

M = 30


def inputs(m: int = M) -> Tensor:
    """m samples of four numbers."""
    return torch.randn(m, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def labels(m: int = M) -> Tensor:
    """Three classes that the inputs tell."""
    return inputs(m)[:, :3].argmax(1)


def wide(width: int = 300) -> nn.Module:
    """One hidden layer with the default variances of the closed form."""
    model = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3)).double()
    for layer in (model[0], model[2]):
        nn.init.normal_(layer.weight, std=math.sqrt(2 / layer.in_features))
        nn.init.normal_(layer.bias, std=0.1)
    return model


def by_hand(kernel: np.ndarray, y: Tensor) -> list[float]:
    """log P of each class against the others."""
    return [propagated_orthant(signed_correlations(kernel, np.where(y.numpy() == c, 1.0, -1.0))).log for c in range(3)]


def test_classes_add_up_and_bounds_follow() -> None:
    found = ls.marginal_likelihood_bound(inputs(), labels(), depth=1)
    expected = by_hand(nngp_kernel(inputs().numpy(), 1), labels())
    np.testing.assert_array_equal(found.log_evidences, expected)
    assert found.classes == ("0", "1", "2")
    assert found.log_evidence == pytest.approx(sum(expected), rel=1e-14)
    assert found.log_evidence.stderr == 0
    assert found.bound == bound_on_error(-float(found.log_evidence), M)
    assert found.bound_on_draw == bound_on_draw(float(found.log_evidence), M)
    assert found.bias == 0
    assert found.complete
    two = ls.marginal_likelihood_bound(inputs(), labels() == 0, depth=1)
    assert two.log_evidence == expected[0]
    assert two.classes == ("0 or 1",)
    shuffled = ls.marginal_likelihood_bound(inputs(), labels().flip(0), depth=1)
    assert shuffled.log_evidence < found.log_evidence - 10  # labels that the inputs do not tell
    assert shuffled.bound > found.bound


def test_methods_agree() -> None:
    x, y = inputs(3), labels(3) == 0
    ask: Callable[..., Any] = ls.marginal_likelihood_bound
    exact = ask(x, y, method="exact")
    assert ask(x, y, method="orthant").log_evidence == pytest.approx(exact.log_evidence, abs=1e-4)
    assert ask(x, y).log_evidence == pytest.approx(exact.log_evidence, abs=0.03)
    soft = {method: ask(x, y, method=method, link="probit").log_evidence for method in ("exact", "ep", "laplace")}
    noisy = signed_correlations(nngp_kernel(x.numpy(), 2) + np.eye(3), np.where(y.numpy(), 1.0, -1.0))
    assert soft["exact"] == exact_orthant(noisy).log
    assert soft["ep"] == pytest.approx(soft["exact"], abs=0.01)
    assert soft["laplace"] == pytest.approx(soft["exact"], abs=0.2)
    assert abs(soft["laplace"] - soft["exact"]) > abs(soft["ep"] - soft["exact"])


def test_regression_has_a_training_error() -> None:
    found = ls.marginal_likelihood_bound(inputs(), labels() == 0, method="regression", noise=0.5)
    assert 0 < found.train_errors[0] < 0.5
    assert found.bound == bound_on_error(float(found.kls[0]), M, float(found.train_errors[0]))
    assert math.isnan(found.bound_on_draw)


def test_random_networks_come_near_the_closed_form() -> None:
    closed = ls.marginal_likelihood_bound(inputs(), labels(), depth=1).log_evidence
    found = ls.marginal_likelihood_bound(inputs(), labels(), "empirical", factory=wide, nets=32)
    error = found.log_evidence.stderr
    assert 0 < error < 3
    assert abs(found.log_evidence - found.bias - closed) < 3 * error


def test_groups_are_left_out_in_turn() -> None:
    found = ls.marginal_likelihood_bound(inputs(), labels(), "empirical", factory=wide, nets=10, seed=3)
    parts = [network_kernel(initial_network(wide, 3, k), inputs(), torch.device("cpu")) for k in range(10)]
    groups = [range(10 * g // 8, 10 * (g + 1) // 8) for g in range(8)]
    np.testing.assert_allclose(found.log_evidences, by_hand(np.mean(parts, 0), labels()), rtol=1e-9)
    left = np.array(
        [by_hand(np.mean([p for k, p in enumerate(parts) if k not in group], 0), labels()) for group in groups]
    ).T
    np.testing.assert_allclose(found.without[0], left, rtol=1e-9)
    sums = left.sum(0)
    assert found.log_evidence.stderr == pytest.approx(math.sqrt(7 / 8 * ((sums - sums.mean()) ** 2).sum()), rel=1e-6)
    assert found.bias == pytest.approx(7 * (sums.mean() - found.log_evidence), rel=1e-6)
    bounds = np.array([bound_on_error(-one, M) for one in sums])
    assert found.bound.stderr == pytest.approx(math.sqrt(7 / 8 * ((bounds - bounds.mean()) ** 2).sum()), rel=1e-6)


def test_last_layer_in_closed_form_and_outputs_of_others() -> None:
    model, x, cpu = wide(20), inputs(5), torch.device("cpu")
    phi = torch.relu(model[0](x)).detach()
    expected = model[2].weight.square().mean() * phi @ phi.T + model[2].bias.square().mean()
    np.testing.assert_allclose(network_kernel(model, x, cpu), expected.detach(), rtol=1e-12)
    other = nn.Sequential(model, nn.Tanh())
    f = other(x).detach()
    np.testing.assert_allclose(network_kernel(other, x, cpu), f @ f.T / 3, rtol=1e-12)
    draws = [wide(20)[2] for _ in range(400)]
    with torch.no_grad():  # what the closed form is the mean of
        products = np.stack([(layer(phi) @ layer(phi).T / 3).numpy() for layer in draws])
    near = np.mean([float(layer.weight.detach().square().mean()) for layer in draws]) * (phi @ phi.T).numpy() + 0.01
    assert (np.abs(products.mean(0) - near) < 4 * products.std(0) / math.sqrt(400)).all()


def test_streams_of_the_caller_go_on() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    ls.marginal_likelihood_bound(inputs(4), labels(4), "empirical", factory=wide, nets=2)
    assert torch.equal(torch.rand(3), expected)


def test_what_cannot_settle_is_told() -> None:
    """A kernel of rank 2 for forty labels, and copies with different labels: the other classes keep their numbers."""
    thin = ls.marginal_likelihood_bound(
        torch.randn(40, 2, dtype=torch.float64), torch.arange(40) % 2, depth=0, bias_variance=0.0
    )
    assert math.isnan(thin.log_evidence)
    assert math.isnan(thin.bound)
    assert "too low a rank" in str([table.rows for table in result_tables(thin, "thin")])
    x = inputs(6)
    x[1] = x[0]
    copies = ls.marginal_likelihood_bound(x, torch.tensor([0, 1, 2, 0, 1, 2]))
    assert np.isneginf(copies.log_evidences).tolist() == [True, True, False]
    assert copies.bound == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kernel": "cnn"}, "kernel='cnn'; give one of nngp, empirical"),
        ({"kernel": "empirical"}, r"needs factory= \(in a job \[model\]\)"),
        ({"kernel": "empirical", "factory": lambda: 3}, "returned int"),
        ({"kernel": "empirical", "factory": lambda: nn.Unflatten(1, (2, 2))}, r"returned \(30, 2, 2\)"),
        ({"kernel": "empirical", "factory": lambda: nn.Linear(5, 2)}, "cannot be called"),
        ({"inputs": torch.full((M, 2), torch.nan)}, "NaN or Inf in 30 samples, the first of them sample 0"),
        ({"inputs": torch.zeros(M, 2), "bias_variance": 0.0}, "all 0, the first of them sample 0"),
        ({"inputs": inputs(5)}, "5 inputs and 30 labels"),
        ({"inputs": "images"}, "inputs are a str"),
        ({"labels": torch.full((M,), 0.5)}, "one whole number for each sample"),
        ({"method": "laplace"}, "needs link='probit'"),
        ({"method": "exact"}, "for 3 samples at most, and there are 30"),
        ({"method": "orthant", "inputs": inputs(51), "labels": labels(51)}, "for 50 samples at most"),
        ({"nets": 1}, "nets=1; give a whole number of 2 or more"),
        ({"noise": 0.0}, "noise=0.0; give a finite number above 0"),
        ({"ranks_per_item": 2}, "ranks_per_item=2"),
    ],
)
def test_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ls.InputError, match=said):
        ls.marginal_likelihood_bound(**{"inputs": inputs(), "labels": labels(), **change})
