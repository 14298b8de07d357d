"""Samples whose products are not finite are named by the user's numbers, and nothing is said that was not seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import landscape as ls
from landscape.curvature import unfinished
from landscape.errors import NumericalError


class Radial(nn.Module):
    """The norm of a blank sample is zero, where it has no derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.o = nn.Linear(3, 4, bias=False), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.o(torch.linalg.norm(self.a(x)[:, :, None].expand(-1, -1, 3), dim=-1))
        return found


def objective(*blank: int, batches: bool = False) -> ls.Objective:
    torch.manual_seed(0)
    x, y = torch.randn(64, 3), torch.randn(64, 1)
    x[list(blank)] = 0
    model = Radial()
    if batches:
        data = list(zip(x.split(16), y.split(16), strict=True))
        return ls.Objective(model, "mse", data, forward=lambda m, b: (m(b[0]), b[1]))
    return ls.Objective(model, "mse", (x, y))


@pytest.mark.parametrize(("blank", "says"), [((50,), "for sample 50:"), ((40, 41), "for samples 40, 41:")])
def test_samples_are_named_in_the_users_order(blank: tuple[int, ...], says: str) -> None:
    broken = objective(*blank)
    with ls.CurvatureOperator(broken) as H, pytest.raises(NumericalError, match=f"{says}.*loss is finite there"):
        H.apply(torch.ones(1, H.size))
    # whose chunks are of shuffled samples, so that one of them alone may be in the first chunk met
    with pytest.raises(NumericalError, match=f"{says}.*loss is finite there") as told:
        ls.measure_spectrum(broken, k=1, trace=False, density=False)
    assert "float64" not in str(told.value)


def test_samples_of_other_chunks_are_named_too() -> None:
    broken, blank = objective(20, 33, 40, 41, 63), "for samples 20, 33, 40, 41, 63: the loss is finite there"
    with pytest.raises(NumericalError, match=f"a hessian product is not finite {blank}"):
        ls.measure_spectrum(broken, k=1, trace=False, density=False)
    many = objective(*range(20, 40))
    with pytest.raises(
        NumericalError, match=r"for samples [\d, ]+ \(perhaps for others, too: not all were looked at\):"
    ):
        ls.measure_spectrum(many, k=1, trace=False, density=False)
    # of a chunk all are known
    with ls.CurvatureOperator(many) as H, pytest.raises(NumericalError, match=r"samples 20, 21, .* 29 and \d more"):
        H.apply(torch.ones(1, H.size))


@pytest.mark.parametrize(
    "measure",
    [
        lambda o: ls.measure_spectrum(o, k=0, operator="ggn", trace="exact", density=False),
        lambda o: ls.measure_diagonal(o, operator="ggn", method="exact"),
    ],
)
def test_samples_whose_gradients_overflow_are_all_named(measure: Callable[[ls.Objective], Any]) -> None:
    torch.manual_seed(0)
    x = torch.randn(300, 3, dtype=torch.float64)
    x[[20, 150, 151, 299]] = 1e200
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    broken = ls.Objective(model, "cross_entropy", (x, torch.arange(300) % 3))
    with pytest.raises(
        NumericalError, match=r"gradient of the outputs is not finite for samples 20, 150, 151, 299: the"
    ):
        measure(broken)


def test_samples_are_looked_for_while_there_is_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unfinished, "_PATIENCE", -1.0)
    with pytest.raises(NumericalError, match=r"for sample 50 \(perhaps for others, too: not all were looked at\):"):
        ls.measure_spectrum(objective(50), k=1, trace=False, density=False)


def test_batches_of_the_users_own_are_all_named() -> None:
    """And it is said of the loss what holds for all of them."""
    broken = objective(20, 21, 50, batches=True)
    with ls.CurvatureOperator(broken) as H, pytest.raises(NumericalError, match="for batches 1, 3: the loss is finite"):
        H.apply(torch.ones(1, H.size))
    torch.manual_seed(0)
    x, y = torch.randn(64, 3), torch.randn(64, 1)
    x[[40, 41]] = 0
    y[7] = torch.inf
    mixed = ls.Objective(Radial(), "mse", (x, y))
    operator = ls.CurvatureOperator(mixed, check=ls.CurvatureOperator(objective()).check)
    with operator as H, pytest.raises(NumericalError, match=r"samples 7, 40, 41: the loss or a derivative overflows"):
        H.apply(torch.ones(1, H.size))


def test_of_batches_that_are_the_users_own_the_batch_is_named() -> None:
    broken = objective(50, batches=True)
    with ls.CurvatureOperator(broken) as H, pytest.raises(NumericalError, match="for batch 3:"):
        H.apply(torch.ones(1, H.size))


def test_a_loss_that_is_not_finite_is_said_to_be() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 3)
    x[7, 0] = torch.inf
    broken = ls.Objective(nn.Linear(3, 2), "mse", (x, torch.zeros(64, 2)))
    operator = ls.CurvatureOperator(broken, check=ls.CurvatureOperator(objective()).check)
    with operator as H, pytest.raises(NumericalError, match=r"for sample 7: the loss is not finite there"):
        H.apply(torch.ones(1, H.size))
