"""Planes in the space of an adapter alone, on a model in half precision that is used as it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import landscape as ls

TOKENS = torch.randint(11, (12, 6), generator=torch.Generator().manual_seed(2))


class Adapted(nn.Module):
    """W x + B A x, with W in half precision and the rank-2 A and B in float32, as PEFT makes them."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.base = layer.requires_grad_(False)
        self.lora_a = nn.Parameter(torch.randn(2, layer.in_features) * 0.3)
        self.lora_b = nn.Parameter(torch.randn(layer.out_features, 2) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.base(x) + (x.to(self.lora_a.dtype) @ self.lora_a.T @ self.lora_b.T).to(x.dtype)
        return found


class Decoder(nn.Module):
    """Tokens to the scores of the next ones."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(11, 8).bfloat16().requires_grad_(False)
        self.first = Adapted(nn.Linear(8, 8).bfloat16())
        self.last = Adapted(nn.Linear(8, 11).bfloat16())

    def forward(self, tokens: Tensor) -> Tensor:
        found: Tensor = self.last(torch.tanh(self.first(self.table(tokens))))
        return found


def forward(model: nn.Module, batch: tuple[Tensor]) -> tuple[Tensor, Tensor]:
    scores = model(batch[0])
    return scores[:, :-1].flatten(0, 1), batch[0][:, 1:].flatten()


def test_a_plane_of_an_adapter_on_a_large_model_in_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("landscape.objective.centre.LARGE", 0)
    model = Decoder()
    held = {name: value.clone() for name, value in model.state_dict().items()}
    objective = ls.Objective(model, data=(TOKENS,), forward=forward, precision="own")
    assert objective.layout.names == ("first.lora_a", "first.lora_b", "last.lora_a", "last.lora_b")
    plane = ls.random_plane(objective, params="*.lora_*", normalize="filter", seed=4)
    assert plane.streamed
    found = ls.measure_surface(objective, plane, x=(-1, 1, 3), y=(-1, 1, 3))
    for name, value in model.state_dict().items():
        assert torch.equal(value, held[name]), name
        assert value.dtype == held[name].dtype

    # a naive twin: the adapter set by hand, the sum in float64; and the same with every tensor in float32
    def loss(x: float, y: float, dtype: torch.dtype) -> float:
        twin = Decoder()
        at = plane.centre + x * plane.directions[0] + y * plane.directions[1]
        parts = at.split([block.size for block in objective.layout.blocks])
        with torch.no_grad():
            for block, part in zip(objective.layout.blocks, parts, strict=True):
                twin.get_parameter(block.name).copy_(part.view(block.shape))
            if dtype == torch.float32:
                twin = twin.float()
            scores, targets = forward(twin, (TOKENS,))
        return float(F.cross_entropy(scores.float(), targets, reduction="none").double().mean())

    expected = np.array([[loss(x, y, torch.bfloat16) for x in (-1, 0, 1)] for y in (-1, 0, 1)])
    np.testing.assert_allclose(found.values["loss"], expected, rtol=1e-5)
    assert np.ptp(expected) > 0.05
    wide = np.array([[loss(x, y, torch.float32) for x in (-1, 0, 1)] for y in (-1, 0, 1)])
    error = np.abs(found.values["loss"] - wide) / wide
    assert found.attributes["precision_error_relative"] == pytest.approx(error.max(), rel=1e-3)
    assert error.max() > 1e-4


def test_it_is_what_the_model_in_float32_gives_to_its_rounding() -> None:
    half, full = Decoder(), Decoder()
    values = []
    for model, precision in ((half, "own"), (full.float(), None)):
        objective = ls.Objective(model, data=(TOKENS,), forward=forward, precision=precision)
        values.append(
            ls.measure_surface(objective, ls.random_plane(objective, seed=4, axes=1), x=(-1, 1, 3)).values["loss"]
        )
    np.testing.assert_allclose(values[0], values[1], rtol=2e-2)
