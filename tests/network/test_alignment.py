"""Alignment: networks permuted by hand come back exactly; trained ones keep their function and lose their barrier."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from landscape_kernels import matching
from shared import Dense
from sklearn.datasets import load_digits
from torch import Tensor, nn

import landscape.network.symmetry
from landscape.errors import InputError
from landscape.network.alignment import align, find_alignment
from landscape.objective.objective import Objective

State = dict[str, Tensor]


def shuffled(size: int, seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).permutation(size))


def spread(model: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter and running statistic away from its first value, so that no two units are alike."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in [*model.parameters(), *(b for name, b in model.named_buffers() if "running" in name)]:
            tensor += 0.2 * torch.rand(tensor.shape, generator=generator)
    return model.eval()


# -- networks, and permutations of them written by hand ---------------------------------------------------------------


def dense() -> tuple[nn.Module, State, tuple[int, ...]]:
    torch.manual_seed(0)
    model = spread(Dense(6, 9, 7, 3))
    s, p, q = model.state_dict(), shuffled(9, 1), shuffled(7, 2)
    s |= {"fc1.weight": s["fc1.weight"][p], "fc1.bias": s["fc1.bias"][p]}
    s |= {"fc2.weight": s["fc2.weight"][q][:, p], "fc2.bias": s["fc2.bias"][q]}
    return model, s | {"fc3.weight": s["fc3.weight"][:, q]}, (6,)


class Residual(nn.Module):
    """Two blocks on one stream, with BatchNorm."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        for i in (1, 2):
            setattr(self, f"conv{i}a", nn.Conv2d(width, width, 3, padding=1, bias=False))
            setattr(self, f"bn{i}a", nn.BatchNorm2d(width))
            setattr(self, f"conv{i}b", nn.Conv2d(width, width, 3, padding=1, bias=False))
            setattr(self, f"bn{i}b", nn.BatchNorm2d(width))
        self.head = nn.Linear(4 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        for i in "12":
            y = F.relu(getattr(self, f"bn{i}a")(getattr(self, f"conv{i}a")(x)))
            x = F.relu(x + getattr(self, f"bn{i}b")(getattr(self, f"conv{i}b")(y)))
        return self.head(F.adaptive_avg_pool2d(x, 2).flatten(1))


def residual() -> tuple[nn.Module, State, tuple[int, ...]]:
    torch.manual_seed(0)
    model = spread(Residual())
    s, p = model.state_dict(), shuffled(8, 1)

    def norm(name: str, order: Tensor) -> State:
        kinds = ("weight", "bias", "running_mean", "running_var")
        return {f"{name}.{kind}": s[f"{name}.{kind}"][order] for kind in kinds}

    moved = {"stem.weight": s["stem.weight"][p], **norm("norm", p)}
    for i in (1, 2):
        q = shuffled(8, 1 + i)
        moved |= {f"conv{i}a.weight": s[f"conv{i}a.weight"][q][:, p], **norm(f"bn{i}a", q)}
        moved |= {f"conv{i}b.weight": s[f"conv{i}b.weight"][p][:, q], **norm(f"bn{i}b", p)}
    moved["head.weight"] = s["head.weight"].view(10, 8, 4)[:, p].reshape(10, 32)
    return model, s | moved, (1, 8, 8)


class Grouped(nn.Module):
    """A depthwise convolution between a full and a grouped one."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.each = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.norm = nn.BatchNorm2d(12)
        self.split, self.head = nn.Conv2d(12, 6, 1, groups=3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.each(F.relu(self.mix(x)))))
        return self.head(F.relu(self.split(x)).mean((2, 3)))


def grouped() -> tuple[nn.Module, State, tuple[int, ...]]:
    torch.manual_seed(0)
    model = spread(Grouped())
    s, groups = model.state_dict(), shuffled(3, 1)
    inner, outer = [shuffled(4, 2 + g) for g in range(3)], [shuffled(2, 10 + g) for g in range(3)]
    p = torch.cat([4 * groups[g] + inner[g] for g in range(3)])
    q = torch.cat([2 * groups[g] + outer[g] for g in range(3)])
    named = ["mix.weight", "mix.bias", "each.weight", "each.bias", "norm.weight", "norm.bias"]
    moved = {name: s[name][p] for name in [*named, "norm.running_mean", "norm.running_var"]}
    rows = s["split.weight"][q]
    moved["split.weight"] = torch.cat([rows[2 * g : 2 * g + 2][:, inner[g]] for g in range(3)])
    return model, s | moved | {"split.bias": s["split.bias"][q], "head.weight": s["head.weight"][:, q]}, (3, 5, 5)


def transformer() -> tuple[nn.Module, State, tuple[int, ...]]:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(12, 3, 16, batch_first=True, norm_first=True)
    model = spread(nn.Sequential(nn.Linear(5, 12), layer, nn.Flatten(), nn.Linear(48, 3)))
    s, p, f, heads = model.state_dict(), shuffled(12, 1), shuffled(16, 2), shuffled(3, 3)
    qk = torch.cat([4 * heads[h] + shuffled(4, 20 + h) for h in range(3)])
    v = torch.cat([4 * heads[h] + shuffled(4, 30 + h) for h in range(3)])
    packed = torch.cat([qk, 12 + qk, 24 + v])
    moved = {"0.weight": s["0.weight"][p], "0.bias": s["0.bias"][p]}
    moved |= {f"1.norm{i}.{kind}": s[f"1.norm{i}.{kind}"][p] for i in (1, 2) for kind in ("weight", "bias")}
    moved["1.self_attn.in_proj_weight"] = s["1.self_attn.in_proj_weight"][packed][:, p]
    moved["1.self_attn.in_proj_bias"] = s["1.self_attn.in_proj_bias"][packed]
    moved["1.self_attn.out_proj.weight"] = s["1.self_attn.out_proj.weight"][p][:, v]
    moved["1.self_attn.out_proj.bias"] = s["1.self_attn.out_proj.bias"][p]
    moved |= {"1.linear1.weight": s["1.linear1.weight"][f][:, p], "1.linear1.bias": s["1.linear1.bias"][f]}
    moved |= {"1.linear2.weight": s["1.linear2.weight"][p][:, f], "1.linear2.bias": s["1.linear2.bias"][p]}
    moved["3.weight"] = s["3.weight"].view(3, 4, 12)[:, :, p].reshape(3, 48)
    return model, s | moved, (4, 5)


def objective_of(model: nn.Module, shape: Sequence[int], count: int = 64) -> Objective:
    generator = torch.Generator().manual_seed(5)
    return Objective(model, "cross_entropy", (torch.randn(count, *shape, generator=generator), torch.arange(count) % 3))


def outputs(objective: Objective, state: State) -> Tensor:
    theta, buffers = objective.layout.flatten(state), {name: state[name] for name in objective.buffers}
    with objective.differentiable(theta, buffers) as (model, _):
        return torch.cat([objective.outputs(model, batch)[0].detach() for _, batch in objective.batches()])


@pytest.mark.parametrize("method", ["weights", "activations"])
@pytest.mark.parametrize("make", [dense, residual, grouped, transformer])
def test_a_network_permuted_by_hand_comes_back(make: Any, method: str) -> None:
    """To the bit, statistics of BatchNorm and all; and it had the same outputs before it came back."""
    model, permuted, shape = make()
    objective, state = objective_of(model, shape), model.state_dict()
    theirs, ours = outputs(objective, permuted), outputs(objective, state)
    assert (theirs - ours).abs().max() < 1e-5 * ours.abs().max()
    assert not torch.equal(objective.layout.flatten(permuted), objective.theta)
    back = align(objective, state, permuted, method)
    assert list(back) == list(permuted)
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_the_form_given_comes_back(tmp_path: Path) -> None:
    model, permuted, shape = residual()
    objective = objective_of(model, shape)
    path = tmp_path / "b.pt"
    torch.save({f"module.{name}": value for name, value in permuted.items()}, path)
    other = Residual()
    other.load_state_dict(permuted)
    for given in (path, other):
        back = align(objective, model, given)
        assert all(torch.equal(back[name], value) for name, value in model.state_dict().items())
    vector = objective.layout.flatten(permuted)
    found = align(objective, objective.theta, vector)
    assert isinstance(found, Tensor)
    assert torch.equal(found, objective.theta)
    parameters = {name: permuted[name] for name in objective.layout.names}
    assert list(align(objective, model, parameters)) == list(parameters)
    halves = align(objective, model, {name: value.to(torch.bfloat16) for name, value in parameters.items()})
    assert {value.dtype for value in halves.values()} == {torch.bfloat16}
    alignment = find_alignment(objective, model, vector)
    statistics = alignment.permute({name: permuted[name] for name in objective.buffers})
    assert torch.equal(statistics["bn1a.running_var"], model.state_dict()["bn1a.running_var"])


class Gain(nn.Module):
    """A buffer per hidden unit that training sets."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 5), nn.Linear(5, 3)
        self.register_buffer("gain", torch.linspace(1, 2, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.relu(self.fc1(x)) * self.gain)


def test_buffers_that_differ_between_the_models_move_along() -> None:
    """One that is the same in both belongs to the architecture and fixes the units it stands beside."""
    torch.manual_seed(0)
    model, p = spread(Gain()), shuffled(5, 1)
    state, objective = model.state_dict(), objective_of(model, (6,))
    permuted = {name: value[p] if value.ndim == 1 and len(value) == 5 else value for name, value in state.items()}
    permuted |= {"fc1.weight": state["fc1.weight"][p], "fc2.weight": state["fc2.weight"][:, p]}
    back = align(objective, model, permuted)
    assert all(torch.equal(back[name], value) for name, value in state.items())
    with pytest.raises(InputError, match="no unit of the model can be permuted"):
        align(objective, model, permuted | {"gain": state["gain"]})


class Tied(nn.Module):
    """A table of tokens that is read at the start and at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.out = nn.Embedding(7, 6), nn.Linear(6, 6), nn.Linear(6, 7, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(torch.tanh(self.mix(self.embed(tokens))).mean(1))


def test_tied_tensors_stay_tied() -> None:
    torch.manual_seed(0)
    model, p = Tied(), shuffled(6, 1)
    tokens = torch.arange(40).view(8, 5) % 7
    objective = Objective(model, "cross_entropy", (tokens, tokens[:, 0]))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    table = {"embed.weight": state["embed.weight"][:, p], "out.weight": state["out.weight"][:, p]}
    permuted = state | table | {"mix.weight": state["mix.weight"][p][:, p], "mix.bias": state["mix.bias"][p]}
    back = align(objective, model, permuted, "activations")
    assert list(back) == ["embed.weight", "mix.weight", "mix.bias", "out.weight"]
    assert all(torch.equal(back[name], value) for name, value in state.items())


def test_what_an_alignment_says_of_itself() -> None:
    model, permuted, shape = dense()
    objective = objective_of(model, shape)
    found = find_alignment(objective, model, permuted, seed=3)
    a, b = objective.theta.double(), objective.layout.flatten(permuted).double()
    assert found.similarity == pytest.approx(1.0, abs=1e-12)
    assert found.similarity_before == pytest.approx(float(a @ b / (a.norm() * b.norm())), rel=1e-12)
    assert found.permutations["fc1.weight"].tolist() == [torch.argsort(shuffled(9, 1)).tolist()]
    assert (found.method, found.seed) == ("weights", 3)
    assert found.sweeps >= 1
    assert found.change < 1e-5
    assert (objective.theta == a.float()).all()


# -- trained networks -------------------------------------------------------------------------------------------------


@functools.cache
def digits() -> tuple[Tensor, Tensor]:
    data = load_digits()
    return torch.tensor(data.images, dtype=torch.float32)[:, None] / 16, torch.tensor(data.target)


def trained(model: nn.Module, seed: int, steps: int) -> nn.Module:
    x, y = digits()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    model.train()
    for _ in range(steps):
        rows = torch.randint(len(x), (128,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    return model.eval()


def mlp(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return trained(Dense(64, 128, 64, 10), seed, 300)


def conv(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return trained(Residual(16), seed, 120)


def barrier(objective: Objective, a: State, b: State) -> float:
    """max over t of the loss on the line minus the straight line between the losses of its ends."""
    first, last = (objective.layout.flatten(state) for state in (a, b))
    losses = []
    for t in np.linspace(0, 1, 5):
        theta = (1 - t) * first + t * last
        buffers = objective.reestimate(theta) if objective.batchnorm_names else None
        losses.append(float(objective.evaluate(theta, buffers=buffers)["loss"]))
    return float(np.max(losses - np.linspace(losses[0], losses[-1], 5)))


@pytest.mark.parametrize("make", [mlp, conv])
def test_alignment_lowers_the_barrier_and_keeps_the_function(make: Any) -> None:
    x, y = digits()
    a, b = make(1), make(2)
    objective = Objective(a, "cross_entropy", (x[:300], y[:300]))
    before = barrier(objective, a.state_dict(), b.state_dict())
    whole = Objective(b, "cross_entropy", (x[600:], y[600:]))
    theirs = outputs(whole, b.state_dict())
    for method in ("weights", "activations"):
        aligned = align(objective, a, b, method)
        assert (outputs(whole, aligned) - theirs).abs().max() < 1e-5 * theirs.abs().max()
        assert barrier(objective, a.state_dict(), aligned) < 0.6 * before
    assert before > 0.3


def test_activations_of_other_data_and_in_chunks() -> None:
    """Sums over chunks are those over the whole; other data give other correlations."""
    a, b = mlp(1), mlp(2)
    x, y = digits()
    objective = Objective(a, "cross_entropy", (x[:500], y[:500]))
    whole = find_alignment(objective, a, b, "activations")
    chunks = find_alignment(objective.on(objective.data, chunk=64), a, b, "activations")
    other = find_alignment(objective, a, b, "activations", data=(x[500:540], y[500:540]))
    for name, permutation in whole.permutations.items():
        assert np.array_equal(permutation, chunks.permutations[name])
    assert any(not np.array_equal(p, other.permutations[name]) for name, p in whole.permutations.items())


def test_activation_matching_is_the_best_assignment_of_correlations() -> None:
    """One hidden layer: its input and output correlations by numpy, assigned by trying every permutation."""
    torch.manual_seed(0)
    a, b = spread(Dense(3, 5, 3)), spread(Dense(3, 5, 3), seed=1)
    with torch.no_grad():
        b.fc1.weight.copy_(torch.randn(5, 3))
        for model in (a, b):
            model.fc1.weight.abs_()  # with inputs around 3, no unit is ever silent, and products are mostly means
    data = 3 + torch.randn(40, 3, generator=torch.Generator().manual_seed(5)), torch.arange(40) % 3
    objective = Objective(a, "cross_entropy", data)
    found = find_alignment(objective, a, b, "activations").permutations["fc1.weight"][0]
    with torch.no_grad():
        made = [m.fc1(data[0]).double().numpy() for m in (a, b)]
    total = sum(np.corrcoef(u, v, rowvar=False)[:5, 5:] for u, v in (made, [np.maximum(h, 0) for h in made]))
    best = max(itertools.permutations(range(5)), key=lambda p: sum(total[u, v] for u, v in enumerate(p)))
    assert tuple(found) == best


def test_activations_beside_units_that_move_are_left_out() -> None:
    """Heads through one layer: until they are matched, rows of the two models are not the same samples."""

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.make, self.each, self.head = nn.Linear(3, 8), nn.Linear(4, 5), nn.Linear(10, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.relu(self.each(torch.tanh(self.make(x)).view(-1, 2, 4))).flatten(1))

    torch.manual_seed(0)
    model = spread(Shared())
    state, objective = model.state_dict(), objective_of(model, (3,))
    make, each = state["make.weight"].view(2, 4, 3), state["each.weight"]
    p, q, heads = shuffled(4, 1), shuffled(5, 2), torch.tensor([1, 0])
    permuted = {
        "make.weight": make[heads][:, p].reshape(8, 3),
        "make.bias": state["make.bias"].view(2, 4)[heads][:, p].reshape(8),
        "each.weight": each[q][:, p],
        "each.bias": state["each.bias"][q],
        "head.weight": state["head.weight"].view(3, 2, 5)[:, heads][:, :, q].reshape(3, 10),
        "head.bias": state["head.bias"],
    }
    found = find_alignment(objective, model, permuted, "activations")
    assert all((permutation == np.arange(permutation.shape[1])).all() for permutation in found.permutations.values())
    assert found.similarity == found.similarity_before
    back = align(objective, model, permuted)
    assert all(torch.equal(back[name], value) for name, value in state.items())


# -- what is refused --------------------------------------------------------------------------------------------------


def test_tables_are_taken_as_they_are_and_checked_by_the_outputs() -> None:
    model, permuted, shape = dense()
    objective = objective_of(model, shape)
    one, two = [("fc1.weight", 0), ("fc1.bias", 0), ("fc2.weight", 1)], [("fc2.weight", 0), ("fc2.bias", 0)]
    table = {"one": one, "two": [*two, ("fc3.weight", -1)]}
    back = align(objective, model, permuted, table=table)
    assert all(torch.equal(back[name], value) for name, value in model.state_dict().items())
    with pytest.raises(
        InputError, match=r"changes the outputs by .* first layer .* is 'fc3' \(Linear\).*missing in the table"
    ):
        align(objective, model, permuted, table={"one": one, "two": two})
    with pytest.raises(InputError, match="table does not say"):
        align(objective, model, permuted, "activations", table=table)


def test_a_wrong_permutation_is_refused_with_the_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """An axis that the trace has missed: here the input of the second layer of three."""
    model, permuted, shape = dense()
    objective = objective_of(model, shape)
    whole = landscape.network.symmetry._group

    def lacking(*args: Any, **options: Any) -> matching.Group:
        group = whole(*args, **options)
        kept = tuple(a for a in group.actions if (a.tensor, a.axis) != ("fc2.weight", 1))
        return matching.Group(group.name, group.size, kept, group.blocks, group.base)

    monkeypatch.setattr(landscape.network.symmetry, "_group", lacking)
    with pytest.raises(InputError, match=r"is 'fc2' \(Linear\)\. .*could not be followed"):
        align(objective, model, permuted)


def test_statistics_left_behind_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters permuted, BatchNorm statistics not: the fault of hand-written tables."""
    model, permuted, shape = residual()
    whole = landscape.network.symmetry._group

    def lacking(*args: Any, **options: Any) -> matching.Group:
        group = whole(*args, **options)
        kept = tuple(a for a in group.actions if "running" not in a.tensor)
        return matching.Group(group.name, group.size, kept, group.blocks, group.base)

    monkeypatch.setattr(landscape.network.symmetry, "_group", lacking)
    with pytest.raises(InputError, match=r"\(BatchNorm2d\)"):
        align(objective_of(model, shape), model, permuted)


def test_models_that_do_not_fit_or_diverged() -> None:
    model, permuted, shape = dense()
    objective = objective_of(model, shape)
    with pytest.raises(InputError, match="of another shape"):
        align(objective, model, Dense(6, 8, 7, 3))
    with pytest.raises(InputError, match="has 10 values"):
        align(objective, objective.theta, torch.zeros(10))
    bad = permuted | {"fc2.bias": torch.full((7,), float("nan"))}
    with pytest.raises(InputError, match=r"theta_b has values that are not finite, the first in 'fc2.bias'"):
        align(objective, model, bad)
    with pytest.raises(InputError, match="did you mean 'weights'"):
        align(objective, model, permuted, "weight")
    with pytest.raises(InputError, match="sweeps=0"):
        align(objective, model, permuted, sweeps=0)


class Opaque(nn.Module):
    """Leaves torch in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 9), nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(torch.linalg.qr(self.fc1(x)[:, :, None])[1][:, 0] * self.fc1(x))


def test_a_model_that_cannot_be_followed_names_the_module() -> None:
    torch.manual_seed(0)
    model = Opaque()
    objective = objective_of(model, (6,))
    with pytest.raises(InputError, match=r"linalg_qr in Opaque fixes 9 units.*table="):
        align(objective, model, Opaque())
