"""Descents along medians and winsorised means, against numpy and loops of single examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from landscape_kernels.robust import median_of_three, winsorised_mean
from torch import Tensor, nn

import landscape as ls
from landscape.descents import M3, RA3, RM3, WinsorisedSGD
from landscape.descents import winsorised as module
from landscape.errors import InputError

EPS = torch.finfo(torch.float64).eps


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("count", [3, 6, 10, 26, 51, 64, 100])
@pytest.mark.parametrize("percent", [0.0, 1.0, 2.0, 2.5, 8.0, 10.0, 25.0, 49.0])
def test_winsorised_mean_is_that_of_numpys_percentiles(count: int, percent: float) -> None:
    values = seeded(7, count, seed=count)
    low, high = np.percentile(values.numpy(), (percent, 100 - percent), axis=1, method="nearest", keepdims=True)
    expected = np.clip(values.numpy(), low, high).mean(1)
    np.testing.assert_allclose(winsorised_mean(values.clone(), percent).numpy(), expected, rtol=0, atol=50 * EPS)


def test_what_is_not_a_number_is_kept() -> None:
    values = seeded(3, 20)
    values[1, 4] = torch.nan
    found = winsorised_mean(values, 10.0)
    assert found.isnan().tolist() == [False, True, False]
    assert median_of_three(torch.tensor([[torch.nan, 1.0], [0.0, 2.0], [0.0, 3.0]])).isnan().tolist() == [True, False]


def test_median_of_three() -> None:
    assert median_of_three(torch.tensor([[1.0, 5.0], [2.0, -7.0], [9.0, 0.0]])).tolist() == [2.0, 0.0]
    window = seeded(3, 50)
    assert torch.equal(median_of_three(window), window.median(0).values)


@pytest.mark.parametrize(("kind", "name"), [(M3, "m3"), (RM3, "rm3"), (RA3, "ra3")])
def test_windows_step_as_a_naive_twin(kind: Any, name: str) -> None:
    """Every third gradient, or from the third on; weight decay in each gradient; resumed from its state_dict."""
    start = seeded(4, 3)
    parameter = start.clone().requires_grad_()
    theta, gradients = start.clone(), []
    optimizer = kind([parameter], lr=0.1, weight_decay=0.01)
    for step in range(8):
        gradient = seeded(4, 3, seed=10 + step)
        gradients.append(gradient + 0.01 * theta)
        if len(gradients) >= 3 and (name != "m3" or len(gradients) % 3 == 0):
            last = torch.stack(gradients[-3:])
            theta = theta - 0.1 * (last.mean(0) if name == "ra3" else last.median(0).values)
        if step == 4:
            state = optimizer.state_dict()
            optimizer = kind([parameter], lr=0.5)
            optimizer.load_state_dict(state)
        parameter.grad = gradient
        optimizer.step()
        torch.testing.assert_close(parameter.detach(), theta, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("kind", [M3, RM3, RA3])
def test_sparse_gradients_are_as_dense_ones(kind: Any) -> None:
    tables = [nn.Embedding(5, 2, sparse=sparse, _weight=seeded(5, 2)) for sparse in (True, False)]
    for table in tables:
        optimizer = kind(table.parameters(), lr=0.1, weight_decay=0.01)
        for step in range(4):
            optimizer.zero_grad()
            table(torch.arange(3) + step % 3).sum().backward()
            optimizer.step()
    assert torch.equal(tables[0].weight, tables[1].weight)


class Net(nn.Module):
    """Layers with rules, one without, and a parameter of the model itself."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(2, 3, 3, padding=1), nn.GroupNorm(1, 3)
        self.scale = nn.Parameter(torch.ones(3))
        self.head = nn.Linear(12, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x)) * self.scale[:, None, None]
        return self.head(torch.tanh(y).flatten(1))


def clipped(model: nn.Module, x: Tensor, y: Tensor, percent: float) -> list[Tensor]:
    """Winsorised gradients from a loop of single examples."""
    rows = []
    for i in range(len(x)):
        value = F.cross_entropy(model(x[i : i + 1]), y[i : i + 1])
        rows.append(torch.autograd.grad(value, list(model.parameters())))
    found = []
    for parts in zip(*rows, strict=True):
        g = torch.stack(parts).numpy()
        low, high = np.percentile(g, (percent, 100 - percent), axis=0, method="nearest")
        found.append(torch.from_numpy(np.clip(g, low, high).mean(0)))
    return found


class RuledNet(Net):
    """All of whose parameters have rules."""

    def __init__(self) -> None:
        super().__init__()
        del self.scale
        self.scale = torch.ones(3, dtype=torch.float64)


@pytest.mark.parametrize("net", [Net, RuledNet])
@pytest.mark.parametrize("block", [1 << 20, 60])
def test_winsorised_steps_are_those_of_a_loop(net: Any, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", block)
    model = net()
    x, y = seeded(20, 2, 2, 2), torch.arange(20) % 3
    expected = clipped(model, x, y, 10.0)
    before = [p.detach().clone() for p in model.parameters()]
    losses = F.cross_entropy(model(x), y, reduction="none").detach()
    optimizer = WinsorisedSGD(model, lr=0.5, percent=10.0, weight_decay=0.1)
    assert torch.equal(optimizer.step(lambda: F.cross_entropy(model(x), y, reduction="none")), losses)
    for parameter, old, gradient in zip(model.parameters(), before, expected, strict=True):
        torch.testing.assert_close(parameter.detach(), old - 0.5 * (gradient + 0.1 * old), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("weights", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("images", [torch.contiguous_format, torch.channels_last])
def test_winsorised_steps_in_every_memory_format(images: Any, weights: Any) -> None:
    torch.manual_seed(0)
    model: nn.Module = nn.Sequential(nn.Conv2d(2, 3, (2, 3)), nn.Tanh(), nn.Conv2d(3, 2, 2), nn.Flatten())
    model = model.double().to(memory_format=weights)
    x, y = seeded(20, 2, 3, 4).contiguous(memory_format=images), torch.arange(20) % 2
    expected = [p.detach() - 0.5 * g for p, g in zip(model.parameters(), clipped(model, x, y, 10.0), strict=True)]
    WinsorisedSGD(model, lr=0.5, percent=10.0).step(lambda: F.cross_entropy(model(x), y, reduction="none"))
    for found, value in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(found.detach(), value, rtol=1e-12, atol=1e-13)


def test_recipes_winsorise_convolutions(tmp_path: Path) -> None:
    """Whose images a training lays out with their channels last."""
    x, y = seeded(20, 2, 3, 4), torch.arange(20) % 2
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, (2, 3)), nn.Tanh(), nn.Conv2d(3, 2, 2), nn.Flatten()).double()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    recipe = {"lr": 0.5, "momentum": 0.0, "batch_size": 20, "epochs": 1, "winsorise": 10.0}
    run = ls.train_models(lambda: model, (x, y), recipe=recipe, out=tmp_path / "run")
    model.load_state_dict(start)
    gradients = clipped(model, x, y, 10.0)
    final = ls.read_state(run.checkpoints.final[0])
    for (name, value), gradient in zip(model.named_parameters(), gradients, strict=True):
        torch.testing.assert_close(final[name], value.detach() - 0.5 * gradient, rtol=1e-10, atol=1e-12)


class Last(nn.Module):
    """The last output of a recurrent layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0][:, -1]


@pytest.mark.parametrize(
    "layer",
    [
        nn.LSTM(3, 4, 2, dropout=0.5, batch_first=True),
        nn.GRU(3, 4, 2, dropout=0.5, batch_first=True),
        nn.LSTM(3, 4, proj_size=2, batch_first=True),
    ],
)
def test_recurrent_layers_run_as_they_are(layer: nn.Module) -> None:
    """With the masks of dropout between their layers, and with projections, of which there are no rules."""
    model = Last(layer).double().train()
    x, y, optimizer = seeded(10, 5, 3), torch.arange(10) % 2, WinsorisedSGD(model, lr=0.5, percent=0)
    torch.manual_seed(1)
    gradients = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
    expected = [p.detach() - 0.5 * g for p, g in zip(model.parameters(), gradients, strict=True)]
    torch.manual_seed(1)
    optimizer.step(lambda: F.cross_entropy(model(x), y, reduction="none"))
    for found, value in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(found.detach(), value, rtol=1e-10, atol=1e-12)


def test_the_matrix_of_gradients_is_never_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def spy(values: Tensor, percent: float) -> Tensor:
        seen.append(values.numel())
        return winsorised_mean(values, percent)

    monkeypatch.setattr(module, "winsorised_mean", spy)
    monkeypatch.setattr(module, "_BLOCK", 20 * 50 * 4)
    model = nn.Linear(50, 40).double()
    x = seeded(20, 50)
    WinsorisedSGD(model, lr=0.1, percent=5).step(lambda: model(x).square().sum(1))
    assert max(seen) == 20 * 50 * 4
    assert sum(seen) == 20 * (50 * 40 + 40)


def test_nothing_clipped_is_sgd() -> None:
    model, twin = nn.Linear(5, 3).double(), nn.Linear(5, 3).double()
    twin.load_state_dict(model.state_dict())
    x, y = seeded(16, 5), torch.arange(16) % 3
    optimizer, other = WinsorisedSGD(model, lr=0.5, percent=0), torch.optim.SGD(twin.parameters(), lr=0.5)
    for _ in range(3):
        optimizer.step(lambda: F.cross_entropy(model(x), y, reduction="none"))
        other.zero_grad()
        F.cross_entropy(twin(x), y).backward()
        other.step()
    torch.testing.assert_close(model.weight, twin.weight, rtol=1e-12, atol=1e-13)


def test_bad_input_is_told() -> None:
    model = nn.Linear(5, 3)
    with pytest.raises(InputError, match="percent=50"):
        WinsorisedSGD(model, lr=0.1, percent=50)
    with pytest.raises(InputError, match="percent='a'"):
        WinsorisedSGD(model, lr=0.1, percent="a")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="one group"):
        WinsorisedSGD(model, lr=0.1, percent=5).add_param_group({"params": nn.Linear(2, 2).parameters()})
    with pytest.raises(InputError, match="lr='a'"):
        WinsorisedSGD(model, lr="a", percent=5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="lr=0"):
        RM3(model.parameters(), lr=0)
    with pytest.raises(InputError, match="weight_decay=-1"):
        M3(model.parameters(), lr=1, weight_decay=-1)
    with pytest.raises(InputError, match="one of each example"):
        WinsorisedSGD(model, lr=0.1, percent=5).step(lambda: model(torch.randn(4, 5)).sum())
    with pytest.raises(InputError, match="needs a function"):
        WinsorisedSGD(model, lr=0.1, percent=5).step()
    with pytest.raises(InputError, match="winsorise=50"):
        ls.Recipe(winsorise=50)


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)).double()


@pytest.mark.parametrize("keys", [{"optimizer": "rm3"}, {"optimizer": "m3"}, {"winsorise": 10.0, "momentum": 0.0}])
def test_recipes_train_by_them(keys: dict[str, Any], tmp_path: Path) -> None:
    """One epoch by a recipe ends at the weights of a loop of the user's own over the same batches."""
    data = seeded(24, 5), torch.arange(24) % 3
    recipe = {"lr": 0.1, "batch_size": 24, "epochs": 4, **keys}
    run = ls.train_models(net, data, recipe=recipe, out=tmp_path / "run")
    model = net()
    model.load_state_dict(ls.read_state(run.checkpoints.initial[0]))
    kinds = {"rm3": RM3, "m3": M3}
    for _ in range(1) if "optimizer" in keys else ():
        optimizer = kinds[keys["optimizer"]](model.parameters(), lr=0.1)
    for _ in range(4):
        if "winsorise" in keys:
            optimizer = WinsorisedSGD(model, lr=0.1, percent=10.0)
            optimizer.step(lambda: F.cross_entropy(model(data[0]), data[1], reduction="none"))
            continue
        optimizer.zero_grad()
        F.cross_entropy(model(data[0]), data[1]).backward()
        optimizer.step()
    final = ls.read_state(run.checkpoints.final[0])
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, final[name], rtol=1e-10, atol=1e-12)


def test_clipping_does_not_fit_what_few_examples_ask_for(tmp_path: Path) -> None:
    """With a third of the labels redrawn, SGD fits the noise of a small set, and a descent that clips does not."""
    x = seeded(90, 20, seed=3)
    labels = (x[:, :3]).argmax(1)
    recipe = {"lr": 0.3, "momentum": 0.0, "batch_size": 90, "epochs": 200, "label_noise": 0.3}
    cells = {"winsorise": [0.0, 10.0]}

    def wide() -> nn.Module:
        return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 3)).double()

    run = ls.train_models(wide, (x, labels), recipe=recipe, cells=cells, out=tmp_path / "run")
    sgd, clipping = run.final("error")
    assert sgd < 0.02
    assert clipping > 0.06
