"""Which axes of a parameter number its filters, seen from a forward pass."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import landscape as ls
from landscape.objective.objective import Objective

X, Y = torch.randn(12, 6, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3


class Net(nn.Module):
    """A forward pass of parameters that belong to no known layer."""

    def __init__(self, use: Callable[[Any, Tensor], Tensor], **shapes: tuple[int, ...]) -> None:
        super().__init__()
        for number, (name, shape) in enumerate(shapes.items()):
            self.register_parameter(
                name, nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(number)))
            )
        self.gate, self.head, self._use = nn.Linear(6, 4), nn.LazyLinear(3), use
        self.register_buffer("mask", (torch.arange(6 * 5) % 3 > 0).view(6, 5))
        with torch.no_grad():
            self(X)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self._use(self, x).flatten(1).tanh())


def soft_experts(m: Any, x: Tensor) -> Tensor:
    return (torch.einsum("bi,eio->beo", x, m.w) * m.gate(x).softmax(-1)[..., None]).sum(1)


def gathered_experts(m: Any, x: Tensor) -> Tensor:
    return torch.bmm(x[:, None], m.w[m.gate(x).argmax(-1)])[:, 0]


def experts_in_turn(m: Any, x: Tensor) -> Tensor:
    return sum((x @ w for w in m.w), torch.zeros(5))


def heads(m: Any, x: Tensor) -> Tensor:
    return torch.einsum("bi,ihd->bhd", x, m.w.view(6, 2, 4))


def joined(m: Any, x: Tensor) -> Tensor:
    return x @ torch.cat([m.u, m.w], 1)


def standardised(m: Any, x: Tensor) -> Tensor:
    return x @ ((m.w - m.w.mean(0)) / m.w.std(0) * m.mask)


CASES: dict[str, tuple[Callable[[Any, Tensor], Tensor], dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]] = {
    # name: (use, shapes, axes of each parameter that run over the weights of one output)
    "x @ W": (lambda m, x: x @ m.w, {"w": (6, 5)}, {"w": (0,)}),
    "keras": (lambda m, x: torch.addmm(m.b, x, m.w), {"w": (6, 5), "b": (5,)}, {"w": (0,)}),
    "positions": (lambda m, x: x.view(-1, 2, 3) @ m.w, {"w": (3, 5)}, {"w": (0,)}),
    "linear": (lambda m, x: F.linear(x, m.w), {"w": (5, 6)}, {"w": (1,)}),
    "einsum": (lambda m, x: torch.einsum("bi,oi->bo", x, m.w), {"w": (5, 6)}, {"w": (1,)}),
    "soft experts": (soft_experts, {"w": (4, 6, 5)}, {"w": (1,)}),
    "gathered experts": (gathered_experts, {"w": (4, 6, 5)}, {"w": (1,)}),
    "experts in turn": (experts_in_turn, {"w": (4, 6, 5)}, {"w": (1,)}),
    "heads": (heads, {"w": (6, 8)}, {"w": (0,)}),
    "written out": (lambda m, x: (x[:, :, None] * m.w).sum(1), {"w": (6, 5)}, {"w": (0,)}),
    "joined": (joined, {"u": (6, 2), "w": (6, 3)}, {"u": (0,), "w": (0,)}),
    "standardised": (standardised, {"w": (6, 5)}, {"w": (0,)}),
    "low rank": (lambda m, x: x @ (m.u @ m.v), {"u": (6, 2), "v": (2, 5)}, {"u": (0,), "v": (0,)}),
    "low rank, turned": (lambda m, x: F.linear(x, m.v @ m.u), {"v": (5, 2), "u": (2, 6)}, {"v": (1,), "u": (1,)}),
    "transposed convolution": (lambda m, x: F.conv_transpose1d(x.view(-1, 3, 2), m.w), {"w": (3, 5, 4)}, {"w": (0, 2)}),
    "table": (lambda m, x: m.w[(2 * x).long().clamp(0, 8)], {"w": (9, 5)}, {"w": (1,)}),
}


@pytest.mark.parametrize("name", CASES)
def test_filters_of_layers_that_are_not_known(name: str) -> None:
    """The direction has the weights' norm in every filter, the oracle's filters written by hand."""
    use, shapes, inner = CASES[name]
    objective = Objective(Net(use, **shapes), "cross_entropy", (X, Y))
    assert not objective.along_axis_0
    plane = ls.random_plane(objective, axes=1, ignore=())
    assert "along_axis_0" not in plane.about
    direction, theta = (objective.layout.unflatten(v) for v in (plane.directions[0], objective.theta))
    for parameter, axes in inner.items():
        torch.testing.assert_close(direction[parameter].norm(dim=axes), theta[parameter].norm(dim=axes))


def tied(m: Any, x: Tensor) -> Tensor:
    return (x @ m.w).tanh() @ m.w.T


def added(m: Any, x: Tensor) -> Tensor:
    return x.view(-1, 2, 3) + m.w


@pytest.mark.parametrize(("use", "shape"), [(tied, (6, 5)), (added, (2, 3)), (lambda m, x: x + 0 * m.w.sum(), (4, 3))])
def test_what_is_not_seen_is_told(use: Any, shape: tuple[int, ...], caplog: pytest.LogCaptureFixture) -> None:
    """Axis 0 is taken; the plane's record, a warning and the surface name the tensor, the run's identity does not."""
    objective = Objective(Net(use, w=shape), "cross_entropy", (X, Y))
    assert objective.along_axis_0 == ("w",)
    with caplog.at_level(logging.WARNING):
        plane = ls.random_plane(objective, axes=1)
    assert plane.about["along_axis_0"] == ["w"]
    assert "one filter per index of axis 0 in w" in caplog.text
    direction, theta = (objective.layout.unflatten(v)["w"] for v in (plane.directions[0], objective.theta))
    torch.testing.assert_close(direction.norm(dim=1), theta.norm(dim=1))
    assert ls.measure_surface(objective, plane, x=(-1, 1, 3)).attributes["plane"]["along_axis_0"] == ["w"]
    assert "along_axis_0" not in plane.made
    for given in ({"normalize": "layer"}, {"params": "head"}, {"ignore": ["w"]}):
        assert "along_axis_0" not in ls.random_plane(objective, **given).about  # type: ignore[arg-type]
    profiles = ls.measure_profiles(objective, n=1, x=(-1, 1, 3))
    assert profiles.attributes["along_axis_0"] == ["w"]


def test_a_forward_pass_that_cannot_be_traced_is_none_the_worse() -> None:
    def untraced(m: Any, x: Tensor) -> Tensor:
        if torch.utils._python_dispatch._get_current_dispatch_mode() is not None:
            raise ValueError
        return x @ m.w

    assert Objective(Net(untraced, w=(6, 5)), "cross_entropy", (X, Y)).along_axis_0 == ("w",)


def test_known_layers_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their filters are those of before, bit for bit, and no forward pass is traced for them."""

    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("landscape.objective.model.axes_of_outputs", never)
    model = nn.Sequential(nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    layout = Objective(model, "cross_entropy", (X, Y)).layout
    assert [block.filters.shape for block in layout.blocks if block.filters] == [(2, 3), (3, 8)]
