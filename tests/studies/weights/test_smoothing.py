"""Truncated weights against the exact ones, and what is lost by it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import landscape as ls


def test_the_largest_singular_values_stay() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 11), nn.Conv2d(10, 6, 3, groups=2))
    found = ls.truncate_weights(net, 0.2)
    u, s, vh = torch.linalg.svd(net[0].weight.detach().double(), full_matrices=False)
    np.testing.assert_allclose(found["0.weight"], (u[:, :2] * s[:2]) @ vh[:2], atol=1e-7, rtol=1e-6)
    taps = found["1.weight"].flatten(2)
    assert {int(torch.linalg.matrix_rank(taps[3 * g : 3 * g + 3, :, k])) for g in (0, 1) for k in range(9)} == {1}
    assert torch.equal(found["0.bias"], net[0].bias)
    whole = ls.truncate_weights(net, 1.0)
    np.testing.assert_allclose(whole["1.weight"], net[1].weight.detach(), atol=1e-7, rtol=1e-6)


def test_loss_and_accuracy_of_truncated_weights() -> None:
    """Those of a plain evaluation of the truncated network; as it is, nothing is lost."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 4)).eval()
    data = torch.randn(50, 12), torch.randint(0, 4, (50,))
    objective = ls.Objective(net, "cross_entropy", data, metrics=("accuracy",), precision="float64")
    found = ls.measure_smoothing(objective, shares=(0.25, 1.0))
    assert found.rows == ("full", "0.25", "1")
    assert found.values["loss"][2] == pytest.approx(found.values["loss"][0], rel=1e-6)
    other = nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 4)).eval()
    other.load_state_dict(ls.truncate_weights(net, 0.25))
    outputs: Tensor = other.double()(data[0].double()).detach()
    assert found.values["loss"][1] == pytest.approx(float(F.cross_entropy(outputs, data[1])), rel=1e-6)
    assert found.values["accuracy"][1] == pytest.approx(float((outputs.argmax(1) == data[1]).double().mean()))


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_refused(share: float) -> None:
    with pytest.raises(ls.InputError, match="above 0 and at most 1"):
        ls.truncate_weights(nn.Linear(3, 3), share)
