"""Which networks are piecewise linear layer by layer, and the trace that follows."""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from shared import ResNet20, cifar10_test, resnet20_checkpoint
from test_layers import Tied, Words, by_rules, evaluated, names_of
from torch import Tensor, nn

from landscape.network.layers import GradientSquares
from landscape.network.piecewise import piecewise_linear
from landscape.network.seeds import softmax_seeds

EPS = torch.finfo(torch.float64).eps


# -- the trace ----------------------------------------------------------------------------------------------------


def small_network(activation: Callable[[], nn.Module]) -> nn.Module:
    return evaluated(
        nn.Sequential(
            nn.Conv2d(1, 3, 3),
            nn.BatchNorm2d(3),
            activation(),
            nn.MaxPool2d(2),
            nn.Conv2d(3, 4, 2, bias=False),
            activation(),
            nn.Flatten(),
            nn.Linear(4, 3),
        )
    )


def diagonals(model: nn.Module, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """(diag(H), diag(G)) of the mean cross entropy by dense autograd."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    sizes = [p.numel() for p in parameters]
    theta = torch.cat([p.detach().flatten() for p in parameters])

    def outputs(vector: Tensor) -> Tensor:
        parts = [v.view_as(p) for v, p in zip(vector.split(sizes), parameters, strict=True)]
        return torch.func.functional_call(model, dict(zip(names, parts, strict=True)), (inputs,))

    hessian = torch.autograd.functional.hessian(lambda v: F.cross_entropy(outputs(v), targets), theta)
    jacobian = torch.autograd.functional.jacobian(outputs, theta)
    p = outputs(theta).softmax(1)
    curvature = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    gauss_newton = torch.einsum("bcn,bcd,bdn->n", jacobian, curvature, jacobian) / len(inputs)
    return hessian.diagonal(), gauss_newton


@pytest.mark.parametrize(
    ("activation", "same"),
    [(nn.ReLU, True), (nn.LeakyReLU, True), (nn.PReLU, True), (nn.GELU, False), (nn.Tanh, False)],
)
def test_diagonal_of_the_hessian(activation: Callable[[], nn.Module], same: bool) -> None:
    """Where no reason is found the diagonals are equal, and the rules give their sum; elsewhere they differ."""
    model = small_network(activation)
    inputs, targets = torch.randn(5, 1, 6, 6, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    hessian, gauss_newton = diagonals(model, inputs, targets)
    reasons = piecewise_linear(model, lambda: model(inputs))
    if same:
        assert reasons == ()
        torch.testing.assert_close(hessian, gauss_newton, rtol=1e-13, atol=1e-14 * float(hessian.max()))
    else:
        assert any("'2' (" in reason for reason in reasons)
        assert any("'5' (" in reason for reason in reasons)
        assert float((hessian.sum() - gauss_newton.sum()).abs()) > 1e-4 * float(gauss_newton.sum())
    if activation is not nn.PReLU:
        found = by_rules(model, lambda: model(inputs), softmax_seeds(model(inputs)), names_of(model)).mean(0)
        sizes = [p.numel() for p in model.parameters()]
        blocks = torch.stack([part.sum() for part in gauss_newton.split(sizes)])
        torch.testing.assert_close(found, blocks, rtol=1e-13, atol=0)


def test_trace_of_a_trained_resnet() -> None:
    model = ResNet20()
    model.load_state_dict({k.removeprefix("module."): v for k, v in load_file(resnet20_checkpoint()).items()})
    model = model.eval().to(memory_format=torch.channels_last)
    images, _ = cifar10_test(64)
    images = images.contiguous(memory_format=torch.channels_last)
    assert piecewise_linear(model, lambda: model(images[:2])) == ()
    squares = GradientSquares(model, names_of(model))
    with squares.recording():
        outputs = model(images)
    # The first of eight chunks whose mean is the 1013.1 that a second program found for 512 images.
    assert float(squares.of(outputs, softmax_seeds(outputs)).sum()) / 64 == pytest.approx(944.85, rel=1e-3)


# -- piecewise linear or not --------------------------------------------------------------------------------------


class Code(nn.Module):
    """Two linear layers and whatever a function makes of them."""

    def __init__(self, function: Callable[[Code, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.function = nn.Linear(4, 4), nn.Linear(4, 4), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


ELIGIBLE: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "residual": (Code(lambda m, x: x + m.b(F.relu(m.a(x)))), (4,)),
    "dense connections": (Code(lambda m, x: m.b(torch.cat([x, F.relu(m.a(x))], 1)[:, 2:6])), (4,)),
    "parallel use": (Code(lambda m, x: F.relu(m.a(x)) + F.relu(m.a(-x))), (4,)),
    "disjoint product": (Code(lambda m, x: m.a(x) * m.b(x)), (4,)),
    "mask": (Code(lambda m, x: m.b(m.a(x) * (m.a(x) > 0))), (4,)),
    "data-dependent scale": (Code(lambda m, x: m.b(m.a(x) * x.tanh() / x.norm())), (4,)),
    "in place": (Code(lambda m, x: m.b(m.a(x).mul_(2).add_(1).relu_())), (4,)),
    "einsum": (Code(lambda m, x: torch.einsum("bi,oi->bo", F.relu(m.a(x)), m.b.weight)), (4,)),
    "convolutions": (
        nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect", groups=2),
            nn.BatchNorm2d(4),
            nn.ReLU6(inplace=True),
            nn.Conv2d(4, 4, 3, padding="same", dilation=2),
            nn.Hardtanh(),
            nn.ConvTranspose2d(4, 3, 2, stride=2),
            nn.AvgPool2d(2),
            nn.LeakyReLU(),
            nn.Dropout(),
            nn.ZeroPad2d(1),
            nn.Upsample(scale_factor=2, mode="bilinear"),
            nn.AdaptiveMaxPool2d(3),
            nn.PReLU(),
            nn.Identity(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(3, 2),
        ),
        (2, 8, 8),
    ),
    "1d and 3d": (
        nn.Sequential(
            nn.Conv1d(2, 3, 2), nn.BatchNorm1d(3), nn.MaxPool1d(2), nn.AvgPool1d(2), nn.AdaptiveAvgPool1d(4),
            nn.Unflatten(2, (1, 2, 2)), nn.Conv3d(3, 2, (1, 2, 1)), nn.MaxPool3d(1), nn.BatchNorm3d(2), nn.Flatten(),
        ),
        (2, 30),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ELIGIBLE)
def test_piecewise_linear(name: str) -> None:
    model, shape = ELIGIBLE[name]
    model = evaluated(copy.deepcopy(model))
    inputs = torch.randn(3, *shape, dtype=torch.float64)
    assert piecewise_linear(model, lambda: model(inputs)) == ()
    if len(shape) == 1:
        hessian, gauss_newton = diagonals(model, inputs, torch.tensor([0, 1, 2]))
        torch.testing.assert_close(hessian, gauss_newton, rtol=1e-12, atol=1e-13 * float(hessian.max()))


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.relu()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients


# model, shape of a sample, what the reasons name
INELIGIBLE: dict[str, tuple[nn.Module, tuple[int, ...], str]] = {
    "F.gelu": (Code(lambda m, x: m.b(F.gelu(m.a(x)))), (4,), "gelu"),
    "torch.tanh": (Code(lambda m, x: m.b(torch.tanh(m.a(x)))), (4,), "tanh"),
    "x sigmoid(x)": (Code(lambda m, x: m.b(m.a(x) * torch.sigmoid(m.a(x)))), (4,), "mul multiplies .* a.bias and 1"),
    "square by power": (Code(lambda m, x: m.a(x) ** 2), (4,), "pow"),
    "square by product": (Code(lambda m, x: m.a(x) * m.a(x)), (4,), "mul multiplies .* depend on a.bias and 1 more"),
    "gate with a common layer": (Code(lambda m, x: m.b(m.a(x)) * m.a(x)), (4,), "mul multiplies"),
    "product of activations": (Code(lambda m, x: m.a(x) @ m.b(m.a(x)).T), (4,), "mm multiplies"),
    "called twice": (Code(lambda m, x: m.a(F.relu(m.a(x)))), (4,), "addmm multiplies .* a.weight, in 'a'"),
    "tied by function": (Code(lambda m, x: F.linear(F.relu(m.a(x)), m.a.weight.t())), (4,), "a.weight"),
    "in place through a view": (Code(lambda m, x: _square_in_view(m.a(x))), (4,), "multiplies"),
    "division": (Code(lambda m, x: x / m.a(x)), (4,), "division by a value that depends on parameters"),
    "norm": (Code(lambda m, x: m.a(x).norm(dim=1)), (4,), "norm"),
    "read into Python": (Code(lambda m, x: m.a(x) * m.a(x).detach().sum().item()), (4,), "_local_scalar_dense"),
    "own derivative": (Code(lambda m, x: m.b(Straight.apply(m.a(x)))), (4,), "Straight has a derivative of its own"),
    "softmax": (Code(lambda m, x: m.b(m.a(x).softmax(1))), (4,), "softmax"),
    "LayerNorm": (nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), (4,), r"native_layer_norm .* '1' \(LayerNorm\)"),
    "GroupNorm": (nn.Sequential(nn.Linear(4, 4), nn.GroupNorm(2, 4)), (4,), r"'1' \(GroupNorm\)"),
    "BatchNorm in train mode": (
        nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4).train()), (4,), r"statistics .* '1' \(BatchNorm1d\)"
    ),
    "BatchNorm without statistics": (
        nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, track_running_stats=False)), (4,), "statistics"
    ),
    "BatchNorm with statistics of its own": (
        Code(lambda m, x: F.batch_norm(m.b(x), m.a.bias.detach(), torch.ones(4))), (4,), "statistics that depend on"
    ),
    "after a caught error": (Code(lambda m, x: F.gelu(_tried(m, x))), (4,), "gelu is not .* piecewise linear, in Code"),
    "SiLU": (nn.Sequential(nn.Linear(4, 4), nn.SiLU()), (4,), r"silu is not known .* '1' \(SiLU\)"),
    "GLU": (nn.Sequential(nn.Linear(4, 4), nn.GLU()), (4,), "glu"),
    "Hardswish": (nn.Sequential(nn.Linear(4, 4), nn.Hardswish()), (4,), "hardswish"),
    "LSTM": (nn.LSTM(4, 3, batch_first=True), (5, 4), "LSTM"),
    "RNN": (nn.RNN(4, 3, nonlinearity="relu", batch_first=True), (5, 4), "RNN"),
    "attention": (nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), (5, 4), "attention"),
    "weight_norm": (nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), (4,), "weight_norm"),
}  # fmt: skip


def _tried(model: Code, x: Tensor) -> Tensor:
    with contextlib.suppress(RuntimeError):
        model.b(x[:, :1])
    return model.a(x)


def _square_in_view(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, 0].copy_(x[:, 1])
    return x[:, :1] * x[:, 1:2]


@pytest.mark.parametrize("name", INELIGIBLE)
def test_not_piecewise_linear(name: str) -> None:
    model, shape, named = INELIGIBLE[name]
    training = [m for m in model.modules() if "train mode" in name and isinstance(m, nn.BatchNorm1d)]
    model = model.eval()
    for module in training:
        module.train()
    reasons = piecewise_linear(model, lambda: model(torch.randn(3, *shape)))
    assert reasons
    assert re.search(named, "\n".join(reasons)), reasons


def test_tied_modules_and_frozen_ones() -> None:
    tied = Tied()
    words = torch.tensor([[0, 1], [2, 3]])
    assert "mm multiplies two values that both depend on embed.weight" in piecewise_linear(tied, lambda: tied(words))[0]
    assert piecewise_linear(Words(), lambda: None) == ()
    model = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 2))
    inputs = torch.randn(3, 4)
    assert piecewise_linear(model, lambda: model(inputs))
    model[0].requires_grad_(False)
    assert piecewise_linear(model, lambda: model(inputs)) == ()


def test_parameters_in_one_storage_are_told_apart() -> None:
    """As they are when a flat vector holds them all."""
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    theta = torch.cat([p.detach().flatten() for p in model.parameters()])
    for p, part in zip(model.parameters(), theta.split([p.numel() for p in model.parameters()]), strict=True):
        p.data = part.view_as(p)
    inputs = torch.randn(3, 4)
    assert piecewise_linear(model, lambda: model(inputs)) == ()


def test_what_could_not_be_followed_is_a_reason() -> None:
    """A value that the derivatives reach and the operations did not show."""
    model = nn.Linear(4, 3)
    earlier = model(torch.randn(2, 4))
    assert piecewise_linear(model, lambda: earlier) == (
        "how the outputs depend on bias could not be followed",
        "how the outputs depend on weight could not be followed",
    )
