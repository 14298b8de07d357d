"""Coherence of networks as they are trained, and what it is told where gradients at the centre are not finite."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import landscape as ls
from landscape.errors import InputError
from landscape.network.rules import product


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


DATA = seeded(40, 2, 4, 4), torch.arange(40) % 3


def normed(*more: nn.Module) -> nn.Module:
    """Two BatchNorm layers, the second fed by the first, with statistics of other data."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 5), nn.BatchNorm1d(5), *more,
        nn.Linear(5, 3),
    ).double()  # fmt: skip
    model(3 * seeded(20, 2, 4, 4, seed=1))
    return model.eval()


def by_loop(model: nn.Module) -> float:
    """Alpha of single samples, BatchNorm on what torch stores after one pass in train mode over all of them."""
    twin = copy.deepcopy(model).train()
    for module in twin.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.momentum = 1.0
    with torch.no_grad():
        twin(DATA[0])
    twin.eval()
    rows = []
    for x, y in zip(*DATA, strict=True):
        found = torch.autograd.grad(F.cross_entropy(twin(x[None]), y[None]), list(twin.parameters()))
        rows.append(torch.cat([g.flatten() for g in found]))
    g = torch.stack(rows).numpy()
    return float(np.square(g.mean(0)).sum() / np.square(g).sum(1).mean())


def test_batchnorm_has_the_statistics_of_the_data() -> None:
    model, other = normed(), copy.deepcopy(normed())
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.7)
    objective = ls.Objective(model, "cross_entropy", DATA)
    thetas = [model, torch.cat([p.detach().flatten() for p in other.parameters()])]  # the second without statistics
    found = ls.measure_coherence(objective, thetas, train=True)
    assert found.alpha == pytest.approx([by_loop(model), by_loop(other)], rel=1e-10)
    assert found.attributes["mode"] == "train"
    stored = ls.measure_coherence(objective)
    assert abs(float(stored.alpha) - found.alpha[0]) > 1e-3
    assert stored.attributes["mode"] == "eval"


def test_networks_without_batchnorm_are_alike_in_both_modes() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.0), nn.Linear(32, 3)).double()
    objective = ls.Objective(model, "cross_entropy", DATA)
    assert float(ls.measure_coherence(objective, train=True).alpha) == float(ls.measure_coherence(objective).alpha)


class Masks(nn.Module):
    """Dropout that is no module."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, self.training)


class Keeps(nn.BatchNorm1d):
    """A layer that is never trained."""

    def train(self, mode: bool = True) -> Keeps:
        super().train(False)
        return self


@pytest.mark.parametrize(
    ("layer", "told"),
    [
        (nn.Dropout(0.2), r"by 6 \(Dropout\)\. Under dropout the gradient of a sample is random"),
        (Masks(), r"by 6 \(Masks\)"),
        (Keeps(5), "leaves BatchNorm 6 in eval mode"),
    ],
)
def test_what_else_differs_in_training_is_refused(layer: nn.Module, told: str) -> None:
    objective = ls.Objective(normed(layer), "cross_entropy", DATA)
    with pytest.raises(InputError, match=told):
        ls.measure_coherence(objective, train=True)
    assert np.isfinite(float(ls.measure_coherence(objective).alpha))


# -- routes where nothing is finite -----------------------------------------------------------------------------------


def test_routes_are_tried_where_the_centre_is_not_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that is wrong is seen although every gradient at the objective's own parameters is NaN."""
    broken = normed()
    state = copy.deepcopy(broken.state_dict())
    nn.init.constant_(broken[4].weight, torch.nan)
    right = ls.measure_coherence(ls.Objective(broken, "cross_entropy", DATA), [broken, state], examples=True)
    assert right.attributes["route"] == "rules"
    assert "at the objective's own parameters" in right.attributes["route_reasons"]
    assert right.undefined[right.labels[0], "all"] == "a gradient is NaN or infinite"
    monkeypatch.setattr(product, "norms", lambda vectors: 1.01 * product.inner(vectors, vectors))
    found = ls.measure_coherence(ls.Objective(broken, "cross_entropy", DATA), [broken, state], examples=True)
    assert found.attributes["route"] == "vmap"
    assert found.alpha[1] == pytest.approx(right.alpha[1], rel=1e-10)


def test_samples_that_are_never_finite_are_taken_one_by_one() -> None:
    """Where no number can be compared, nothing but plain backward passes is trusted."""
    inputs = DATA[0].clone()
    inputs[:2] = torch.inf
    found = ls.measure_coherence(ls.Objective(normed(), "cross_entropy", (inputs, DATA[1])), examples=True)
    assert found.attributes["route"] == "single"
    assert "at others" in found.attributes["route_reasons"]
    assert np.isnan(found.lengths[0]).tolist() == [True, True] + 38 * [False]


# -- pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("thetas", [1, 3])
def test_legend_names_the_errors_that_are_drawn(thetas: int) -> None:
    objective = ls.Objective(normed(), "cross_entropy", DATA)
    found = ls.measure_coherence(objective, thetas * [normed()], train=False)
    for quantity, drawn in (("m_coherence", True), ("share", False)):
        legend: Any = found.plot(quantity).legends
        texts = [text.get_text() for one in legend for text in one.get_texts()]
        assert ("±2 standard errors" in texts) == drawn
