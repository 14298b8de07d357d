"""Coherence of networks against loops of single samples, closed forms, and themselves on other ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import landscape as ls
from landscape.errors import InputError
from landscape.network.samples import SampleGradients

EPS = torch.finfo(torch.float64).eps


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mlp(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()


DATA = seeded(40, 5), torch.arange(40) % 3


def by_loop(model: nn.Module, data: Any = DATA, loss: Any = F.cross_entropy) -> list[dict[str, Tensor]]:
    """{parameter: gradient} of each sample."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = []
    for i in range(len(data[1])):
        value = loss(model(data[0][i : i + 1]), data[1][i : i + 1])
        found.append(dict(zip(names, torch.autograd.grad(value, parameters), strict=True)))
    return found


def flat(gradients: list[dict[str, Tensor]], prefix: str = "") -> np.ndarray:
    """(m, P) of the parameters whose names begin so."""
    rows = [torch.cat([g.flatten() for name, g in one.items() if name.startswith(prefix)]) for one in gradients]
    return torch.stack(rows).double().numpy()


def alpha_of(g: np.ndarray) -> float:
    return float(np.square(g.mean(0)).sum() / np.square(g).sum(1).mean())


# -- published forms --------------------------------------------------------------------------------------------------


def lines(m: int, *, common: bool) -> tuple[Tensor, Tensor]:
    """x_i = y_i (e_i + e_{m+1}), with or without what is common, and y_i = +-1."""
    y = torch.where(torch.arange(m) % 2 == 0, 1.0, -1.0).double()
    x = torch.eye(m, m + 1, dtype=torch.float64)
    x[:, m] = float(common)
    return x * y[:, None], y[:, None]


@pytest.mark.parametrize("m", [4, 40])
@pytest.mark.parametrize("common", [True, False])
def test_coherence_out_of_nothing(m: int, common: bool) -> None:
    """alpha = (1 + 1/m)/2 at 0 with a common feature, 1/m without; where descent ends, and the loss of a new sample."""
    model = nn.Linear(m + 1, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    x, y = lines(m, common=common)
    found = ls.measure_coherence(ls.Objective(model, "mse", (x, y)))
    expected = (1 + 1 / m) / 2 if common else 1 / m
    assert float(found.alpha) == pytest.approx(expected, rel=1e2 * EPS)
    assert float(found.m_coherence) == pytest.approx(m * expected, rel=1e2 * EPS)
    if m == 4 and common:
        assert float(found.alpha) == pytest.approx(0.625)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.4)
        for _ in range(600):
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()
        weight = model.weight.detach()[0]
        assert weight.tolist() == pytest.approx([0.2] * 4 + [0.8], abs=1e-9)
        assert float((1 - weight[m]) ** 2) == pytest.approx(0.04, abs=1e-9)  # of a sample with a new e_i


# -- against loops ----------------------------------------------------------------------------------------------------


def test_numbers_are_those_of_a_loop() -> None:
    model = mlp()
    groups = np.array(["a", "b", "b", "c"] * 10)
    found = ls.measure_coherence(ls.Objective(model, "cross_entropy", DATA), groups=groups, examples=True)
    gradients = by_loop(model)
    g = flat(gradients)
    assert found.rows == ("all", "0", "2")
    for k, row in enumerate(found.rows):
        own = flat(gradients, "" if row == "all" else f"{row}.")
        assert found.norms[0, k] == pytest.approx(np.square(own.mean(0)).sum(), rel=1e-10)
        assert found.squares[0, k] == pytest.approx(np.square(own).sum(1).mean(), rel=1e-10)
        assert found.quantity("alpha")[0, k] == pytest.approx(alpha_of(own), rel=1e-10)
    alpha = alpha_of(g)
    assert float(found.m_coherence) == pytest.approx(40 * alpha, rel=1e-10)
    assert float(found.noise_scale) == pytest.approx(
        np.trace(np.cov(g.T, bias=True)) / np.square(g.mean(0)).sum(), rel=1e-10
    )
    assert found.quantity("signal_to_noise")[0, 0] == pytest.approx(alpha / (1 - alpha), rel=1e-10)
    shares, alphas = found.quantity("share")[0], found.quantity("alpha")[0]
    assert shares[1:].sum() == pytest.approx(1, rel=1e-12)
    assert (shares[1:] * alphas[1:]).sum() == pytest.approx(alphas[0], rel=1e-12)
    np.testing.assert_allclose(found.alignments[0], g @ g.mean(0) / np.square(g.mean(0)).sum(), rtol=1e-9)
    np.testing.assert_allclose(found.lengths[0], np.square(g).sum(1), rtol=1e-10)
    means = np.stack([g[groups == name].mean(0) for name in "abc"])
    np.testing.assert_allclose(found.between, means @ means.T, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.within, [alpha_of(g[groups == name]) for name in "abc"], rtol=1e-9)
    parts = np.stack([g[groups == name].sum(0) / 40 for name in "abc"]) @ g.mean(0)
    np.testing.assert_allclose(found.parts, parts / parts.sum(), rtol=1e-9)
    np.testing.assert_array_equal(found.group_sizes, [10, 20, 10])


def test_weighted_losses_and_some_parameters() -> None:
    """The gradient of the mean loss is that of sums over sums; a layer alone has alphas of its own."""
    model, weight = mlp(), torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
    objective = ls.Objective(model, nn.CrossEntropyLoss(weight=weight), DATA)
    found = ls.measure_coherence(objective, params="2")
    g = flat(by_loop(model, loss=lambda o, t: F.cross_entropy(o, t, weight=weight, reduction="sum")), "2.")
    assert found.rows == ("all", "2")
    assert float(found.alpha) == pytest.approx(alpha_of(g), rel=1e-10)
    mean = F.cross_entropy(model(DATA[0]), DATA[1], weight=weight)
    gradient = torch.autograd.grad(mean, list(model[2].parameters()))
    assert found.norms[0, 0] == pytest.approx(float(sum(p.square().sum() for p in gradient)), rel=1e-10)


class Odd(nn.Module):
    """A parameter of the model itself, used in a way no rule knows; `looped` where vmap cannot go."""

    def __init__(self, looped: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.scale, self.layer, self.looped = nn.Parameter(torch.ones(5)), nn.Linear(5, 3), looped

    def forward(self, x: Tensor) -> Tensor:
        if self.looped and float(x.sum()) > 1e9:
            return x
        return self.layer(torch.sin(x * self.scale))


@pytest.mark.parametrize(("model", "route"), [(mlp(), "rules"), (Odd(False), "vmap"), (Odd(True), "single")])
def test_every_route_gives_the_gradients_of_single_samples(model: nn.Module, route: str) -> None:
    model = model.double()
    found = ls.measure_coherence(ls.Objective(model, "cross_entropy", DATA), examples=True)
    g = flat(by_loop(model))
    assert found.attributes["route"] == route
    assert float(found.alpha) == pytest.approx(alpha_of(g), rel=1e-10)
    np.testing.assert_allclose(found.alignments[0], g @ g.mean(0) / np.square(g.mean(0)).sum(), rtol=1e-9, atol=1e-12)


def test_a_rule_that_is_wrong_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    from landscape.network.rules import product

    monkeypatch.setattr(product, "norms", lambda vectors: 1.01 * product.inner(vectors, vectors))
    found = ls.measure_coherence(ls.Objective(mlp(), "cross_entropy", DATA))
    assert found.attributes["route"] == "vmap"
    assert float(found.alpha) == pytest.approx(alpha_of(flat(by_loop(mlp()))), rel=1e-10)


def test_texts_whose_outputs_are_rows_of_tokens() -> None:
    """With forward= the samples are the texts, and a sample's loss is the sum over its tokens."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(11, 6), nn.Linear(6, 11)).double()
    tokens = torch.randint(0, 11, (12, 8), generator=torch.Generator().manual_seed(0))

    def forward(m: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        return m(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten()

    batches = list(tokens.split(3))
    objective = ls.Objective(model, "cross_entropy", batches, forward=forward, batch_size=len)
    found = ls.measure_coherence(objective)
    rows = []
    for text in tokens:
        outputs, targets = forward(model, text[None])
        value = F.cross_entropy(outputs, targets, reduction="sum")
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(value, list(model.parameters()))]))
    assert found.attributes["route"] == "rules"
    assert found.samples == 12
    assert float(found.alpha) == pytest.approx(alpha_of(torch.stack(rows).numpy()), rel=1e-10)


def test_float32_sums_are_those_of_float64() -> None:
    double = float(ls.measure_coherence(ls.Objective(mlp(), "cross_entropy", DATA)).alpha)
    single = ls.measure_coherence(ls.Objective(mlp().float(), "cross_entropy", (DATA[0].float(), DATA[1])))
    assert float(single.alpha) == pytest.approx(double, rel=1e3 * torch.finfo(torch.float32).eps)


def test_a_module_that_stands_at_two_places() -> None:
    """Of which vmap and dual numbers put other parameters in: at later theta, and in the model itself."""
    torch.manual_seed(0)
    layer, bend = nn.Linear(5, 5), nn.PReLU(5)
    model = nn.Sequential(layer, bend, layer, bend, nn.Linear(5, 3)).double()
    objective = ls.Objective(model, "cross_entropy", DATA)
    thetas = [objective.theta * scale for scale in (1.0, 1.5, 0.3)]
    found = ls.measure_coherence(objective, iter(thetas), examples=True)
    assert found.attributes["route"] == "vmap"
    assert all(isinstance(parameter, nn.Parameter) for parameter in model.parameters())
    for t, theta in enumerate(thetas):
        nn.utils.vector_to_parameters(theta, model.parameters())
        g = flat(by_loop(model))
        assert found.alpha[t] == pytest.approx(alpha_of(g), rel=1e-10)
        np.testing.assert_allclose(found.alignments[t], g @ g.mean(0) / np.square(g.mean(0)).sum(), rtol=1e-8)


def test_group_norm_of_single_samples_in_channels_last() -> None:
    """Few samples in groups are blocks of one, whose axes are in another order than memory."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.GroupNorm(3, 6), nn.Tanh(), nn.Flatten(), nn.Linear(72, 3)).double()
    data = seeded(20, 2, 6, 5), torch.arange(20) % 3
    found = ls.measure_coherence(ls.Objective(model, "cross_entropy", data), groups=np.arange(20) % 3)
    assert found.attributes["route"] == "rules"
    assert float(found.alpha) == pytest.approx(alpha_of(flat(by_loop(model, data))), rel=1e-10)


def test_sparse_gradients_of_a_table() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(11, 6, sparse=True), nn.Flatten(), nn.Tanh(), nn.Linear(24, 3)).double()
    data = torch.arange(80).view(20, 4) % 11, torch.arange(20) % 3
    found = ls.measure_coherence(ls.Objective(model, "cross_entropy", data))
    rows = [{name: g.to_dense() for name, g in one.items()} for one in by_loop(model, data)]
    assert found.attributes["route"] == "rules"
    assert float(found.alpha) == pytest.approx(alpha_of(flat(rows)), rel=1e-10)


# -- many parameter vectors, ranks, files -----------------------------------------------------------------------------


def test_checkpoints_of_a_folder_in_their_order(tmp_path: Path) -> None:
    for step in (0, 2, 10):
        torch.save(mlp(step).state_dict(), tmp_path / f"step-{step}.pt")
    objective = ls.Objective(mlp(), "cross_entropy", DATA)
    found = ls.measure_coherence(objective, tmp_path, out=tmp_path / "run")
    assert found.labels == ("0", "2", "10")
    assert found.alpha == pytest.approx([alpha_of(flat(by_loop(mlp(step)))) for step in (0, 2, 10)], rel=1e-10)
    frame = found.to_pandas()
    assert len(frame) == 3 * 3
    assert {"theta", "layer", "alpha", "alpha_stderr", "m_coherence", "share", "noise_scale"} <= set(frame)
    again = ls.open(tmp_path / "run")
    np.testing.assert_array_equal(again.quantity("m_coherence"), found.quantity("m_coherence"))


def test_statistics_of_batchnorm_come_with_the_model() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 3)).double()
    model(DATA[0])
    model.eval()
    other = {name: value + 0.1 if value.is_floating_point() else value for name, value in model.state_dict().items()}
    objective = ls.Objective(model, "cross_entropy", DATA)
    found = ls.measure_coherence(objective, [model.state_dict(), other])
    first = alpha_of(flat(by_loop(model)))
    model.load_state_dict(other)
    assert found.alpha == pytest.approx([first, alpha_of(flat(by_loop(model)))], rel=1e-10)
    with pytest.raises(InputError, match="without BatchNorm statistics"):
        ls.measure_coherence(objective, [objective.theta + 1])


def test_stopped_and_resumed(tmp_path: Path) -> None:
    objective = ls.Objective(mlp(), "cross_entropy", DATA)
    thetas = [objective.theta * scale for scale in (1.0, 0.5)]
    part = ls.measure_coherence(objective, thetas, out=tmp_path / "run", limit_items=1)
    assert part.computed.sum() == 1
    assert not part.complete
    whole = ls.measure_coherence(objective, thetas, out=tmp_path / "run")
    np.testing.assert_array_equal(whole.norms, ls.measure_coherence(objective, thetas).norms)


# -- what cannot be measured ------------------------------------------------------------------------------------------


def test_zero_and_broken_gradients_are_undefined_with_a_reason() -> None:
    model = mlp()
    nn.init.zeros_(model[2].weight)
    found = ls.measure_coherence(ls.Objective(model, lambda o, t: 0 * o.sum(1), DATA))
    assert np.isnan(float(found.alpha))
    assert found.undefined[found.labels[0], "all"] == "the gradient of every sample is zero"
    part = ls.measure_coherence(ls.Objective(model, "cross_entropy", DATA))
    assert set(part.undefined) == {("centre", "0")}  # behind a layer of zeros
    assert np.isfinite(float(part.alpha))
    broken = ls.measure_coherence(ls.Objective(mlp(), "cross_entropy", DATA), [torch.full((66,), torch.nan)])
    assert "NaN" in broken.undefined["0", "all"]


def test_bad_input_is_told() -> None:
    objective = ls.Objective(mlp(), "cross_entropy", DATA)
    with pytest.raises(InputError, match=r"groups has shape \(3,\)"):
        ls.measure_coherence(objective, groups=[0, 1, 2])
    with pytest.raises(InputError, match="entries that are NaN"):
        ls.measure_coherence(objective, groups=np.where(np.arange(40) % 2, np.nan, 1.0))
    for wrong in ([None] * 20 + ["b"] * 20, [["a"], "b"]):
        with pytest.raises(InputError, match="no list of numbers, nor one of texts"):
            ls.measure_coherence(objective, groups=wrong)
    with pytest.raises(InputError, match="40 different entries"):
        ls.measure_coherence(objective, groups=np.arange(40))
    with pytest.raises(InputError, match="matches no trainable parameter"):
        ls.measure_coherence(objective, params="head")
    with pytest.raises(InputError, match="thetas is empty"):
        ls.measure_coherence(objective, [])
    batches = [(DATA[0][:20], DATA[1][:20]), (DATA[0][20:], DATA[1][20:])]

    def mean(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    with pytest.raises(InputError, match="gradient of a sample is that of its own values"):
        ls.measure_coherence(ls.Objective(mlp(), None, batches, forward=mean))
    fixed = ls.Objective(mlp(), "cross_entropy", batches, forward=lambda m, b: (m(b[0]), b[1]))
    with pytest.raises(InputError, match="data whose batches may be cut"):
        ls.measure_coherence(fixed, groups=DATA[1])
    with pytest.raises(InputError, match="no quantity 'alfa'"):
        ls.measure_coherence(objective).quantity("alfa")


class Joined(nn.Module):
    """Samples meet, in their gradients alone: those of the mean of the batch are taken off."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return y - 0.5 * (y.mean(0) - y.mean(0).detach())


def test_samples_that_meet_are_refused() -> None:
    with pytest.raises(InputError, match="beside another"):
        SampleGradients(ls.Objective(Joined().double(), "cross_entropy", DATA), ["layer.weight"])


class JoinedLater(Joined):
    """Samples meet where the bias is large."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if float(self.layer.bias.detach()[0]) > 1 else self.layer(x)


def test_samples_that_meet_at_a_later_theta_are_refused(tmp_path: Path) -> None:
    objective = ls.Objective(JoinedLater().double(), "cross_entropy", DATA)
    thetas = [objective.theta * 0.5, objective.theta + 2]
    with pytest.raises(InputError, match="at theta '1' samples meet"):
        ls.measure_coherence(objective, thetas, out=tmp_path / "run")
    assert ls.open(tmp_path / "run").computed.tolist() == [True, False]


def test_a_later_theta_that_fits_to_rounding_is_measured() -> None:
    model = mlp()
    with torch.no_grad():
        targets = model(DATA[0])
    objective = ls.Objective(mlp(1), "mse", (DATA[0], targets))
    assert not float(ls.measure_coherence(objective, [model]).alpha) > 1


class Sorts(nn.Module):
    """A layer that sees each sample twice: in its place, and in the order of their first entries."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        order = x[:, 0].argsort()
        return (self.layer(x) * self.layer(x[order])[order.argsort()])[:, :3]


@pytest.mark.parametrize("first", [0.0, 9.0])
def test_layers_that_see_the_samples_in_another_order(first: float) -> None:
    inputs = seeded(120, 5)
    inputs[0, 0], inputs[1, 0] = -first, first
    data = inputs, torch.arange(120) % 3
    torch.manual_seed(0)
    model = Sorts().double()
    found = ls.measure_coherence(ls.Objective(model, "cross_entropy", data), examples=True)
    g = flat(by_loop(model, data))
    assert found.attributes["route"] == "vmap"
    assert float(found.alpha) == pytest.approx(alpha_of(g), rel=1e-10)
    np.testing.assert_allclose(found.lengths[0], np.square(g).sum(1), rtol=1e-10)


def test_a_network_that_fits_to_rounding_is_measured() -> None:
    model = mlp()
    with torch.no_grad():
        targets = model(DATA[0])
    found = ls.measure_coherence(ls.Objective(model, "mse", (DATA[0], targets)))
    assert found.attributes["route"] == "rules"
    assert not float(found.alpha) > 1  # of what rounding left, or NaN of zeros


@pytest.mark.parametrize("row", [0, 1, 7])
def test_a_sample_that_is_not_finite_is_told(row: int) -> None:
    inputs = DATA[0].clone()
    inputs[row, 2] = torch.nan
    found = ls.measure_coherence(ls.Objective(mlp(), "cross_entropy", (inputs, DATA[1])), examples=True)
    assert np.isnan(float(found.alpha))
    assert found.undefined["centre", "all"] == "a gradient is NaN or infinite"
    assert found.attributes["route"] == "rules"
    assert np.isnan(found.lengths[0]).tolist() == [k == row for k in range(40)]


def test_batches_of_one_sample_of_mixed_sizes() -> None:
    """A scalar loss of a batch of one sample is that sample's."""
    torch.manual_seed(0)
    model = nn.Linear(5, 1).double()
    batches = [seeded(1, 3 + k % 4, 5, seed=k) for k in range(12)]

    def forward(m: nn.Module, batch: Tensor) -> Tensor:
        return m(batch).square().mean()

    found = ls.measure_coherence(ls.Objective(model, None, batches, forward=forward, batch_size=len))
    rows = [
        torch.cat([g.flatten() for g in torch.autograd.grad(forward(model, b), list(model.parameters()))])
        for b in batches
    ]
    assert float(found.alpha) == pytest.approx(alpha_of(torch.stack(rows).numpy()), rel=1e-10)


def test_frozen_parameters_do_not_count() -> None:
    model = mlp()
    model[0].requires_grad_(False)
    assert ls.measure_coherence(ls.Objective(model, "cross_entropy", DATA)).rows == ("all", "2")
