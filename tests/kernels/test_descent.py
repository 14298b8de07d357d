"""Steps of gradient descent on flat vectors, against torch.optim."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from landscape_kernels.descent import Descent, clip_

SIZES = (7, 12, 1)  # of parameters; none a multiple of what a vector register holds
CASES: dict[str, tuple[dict[str, Any], Any]] = {
    "plain": ({"optimizer": "sgd"}, torch.optim.SGD),
    "momentum": ({"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.01}, torch.optim.SGD),
    "nesterov": ({"optimizer": "sgd", "momentum": 0.8, "nesterov": True, "weight_decay": 0.01}, torch.optim.SGD),
    "adam": ({"optimizer": "adam", "weight_decay": 0.01}, torch.optim.Adam),
    "adamw": ({"optimizer": "adamw", "weight_decay": 0.1}, torch.optim.AdamW),
}


def gradients(step: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(sum(SIZES), generator=torch.Generator().manual_seed(step), dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", CASES)
def test_bits_of_torch_optim(case: str, dtype: torch.dtype) -> None:
    """Over steps of changing size, resumed in the middle from its state."""
    options, kind = CASES[case]
    theta = gradients(-1, dtype)
    parameters = [part.clone().requires_grad_() for part in theta.split(SIZES)]
    other = kind(parameters, lr=1.0, foreach=False, **{k: v for k, v in options.items() if k != "optimizer"})
    ours = Descent(theta, **options)
    for step in range(6):
        lr = 0.1 / (step + 1)
        if step == 3:
            state = {name: value.clone() for name, value in ours.state().items()}
            theta = theta.clone()
            ours = Descent(theta, **options)
            ours.restore(state)
        for parameter, part in zip(parameters, gradients(step, dtype).split(SIZES), strict=True):
            parameter.grad = part.clone()
        other.param_groups[0]["lr"] = lr
        other.step()
        ours.step(gradients(step, dtype), lr)
        assert torch.equal(theta, torch.cat([parameter.detach() for parameter in parameters])), step


def test_rows_are_stepped_alone() -> None:
    together = torch.stack([gradients(k, torch.float64) for k in (5, 6)])
    alone = [row.clone() for row in together]
    both = Descent(together, "adam")
    each = [Descent(row, "adam") for row in alone]
    for step in range(3):
        slopes = torch.stack([gradients(10 * step + k, torch.float64) for k in (5, 6)])
        both.step(slopes.clone(), 0.1)
        for descent, slope in zip(each, slopes, strict=True):
            descent.step(slope.clone(), 0.1)
    assert torch.equal(together, torch.stack(alone))


def test_clipping_is_that_of_torch() -> None:
    gradient = torch.stack([gradients(1, torch.float64), 0.01 * gradients(2, torch.float64)])
    expected = []
    for row in gradient:
        parameter = torch.zeros(sum(SIZES), dtype=torch.float64, requires_grad=True)
        parameter.grad = row.clone()
        torch.nn.utils.clip_grad_norm_([parameter], 1.0)
        expected.append(parameter.grad)
    clip_(gradient, 1.0)
    torch.testing.assert_close(gradient, torch.stack(expected), rtol=1e-15, atol=0)
    assert torch.equal(gradient[1], 0.01 * gradients(2, torch.float64))  # shorter than that: as it was
