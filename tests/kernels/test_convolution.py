"""The convolution that is cheap to differentiate twice, against torch's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from landscape_kernels.convolution import convolution
from torch import Tensor

CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "plain": ((3, 2, 6, 5), (4, 2, 3, 3), {}),
    "stride and padding": ((3, 2, 7, 6), (4, 2, 3, 2), {"stride": (2, 1), "padding": (1, 2)}),
    "dilation": ((2, 2, 9, 8), (3, 2, 3, 3), {"dilation": (2, 1)}),
    "groups": ((2, 4, 6, 6), (6, 2, 3, 3), {"groups": 2}),
    "depthwise": ((2, 4, 6, 6), (4, 1, 3, 3), {"groups": 4, "padding": (1, 1)}),
    "one axis": ((3, 2, 9), (4, 2, 3), {"stride": (2,)}),
    "three axes": ((2, 2, 4, 5, 4), (3, 2, 2, 3, 2), {"padding": (0, 1, 0)}),
}


def tensors(name: str) -> tuple[list[Tensor], dict[str, Any]]:
    x, w, settings = CASES[name]
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in (x, w, (w[0],))]
    axes = len(x) - 2
    full = {"stride": (1,) * axes, "padding": (0,) * axes, "dilation": (1,) * axes, "groups": 1} | settings
    return [t.requires_grad_() for t in made], full


def derivatives(function: Any, inputs: list[Tensor], settings: dict[str, Any]) -> list[Tensor]:
    """Value, gradients of a non-linear function of it, and the gradients of these along fixed directions."""
    value = function(*inputs, **settings)
    first = torch.autograd.grad(torch.tanh(value).sum(), inputs, create_graph=True)
    generator = torch.Generator().manual_seed(1)
    along = [torch.randn(g.shape, generator=generator, dtype=g.dtype) for g in first]
    return [value, *first, *torch.autograd.grad(first, inputs, along)]


@pytest.mark.parametrize("name", CASES)
def test_derivatives_are_those_of_torch(name: str) -> None:
    inputs, settings = tensors(name)
    functional = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[inputs[0].ndim - 2]
    ours, theirs = (derivatives(f, inputs, settings) for f in (convolution, functional))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12 * float(b.detach().abs().max()))


@pytest.mark.parametrize("fixed", [0, 1, 2])
def test_an_input_without_gradient(fixed: int) -> None:
    inputs, settings = tensors("stride and padding")
    inputs[fixed].requires_grad_(False)
    wanted = [t for t in inputs if t.requires_grad]

    def second(function: Any) -> list[Tensor]:
        first = torch.autograd.grad(torch.tanh(function(*inputs, **settings)).sum(), wanted, create_graph=True)
        return list(torch.autograd.grad([g.square().sum() for g in first], wanted))

    for a, b in zip(second(convolution), second(F.conv2d), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-10)


def test_along_one_input_alone() -> None:
    inputs, settings = tensors("groups")
    for k in range(3):

        def second(function: Any, k: int = k) -> tuple[Tensor, ...]:
            first = torch.autograd.grad(torch.tanh(function(*inputs, **settings)).sum(), inputs, create_graph=True)
            return torch.autograd.grad(first[k].square().sum(), inputs)

        for a, b in zip(second(convolution), second(F.conv2d), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-10)
