"""Symmetries found from a traced pass: random permutations of every group found leave the function as it is."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import test_zoo as zoo
import torch
import torch.nn.functional as F
from landscape_kernels.matching import permuted
from shared import Dense, ResNet20
from torch import Tensor, nn

from landscape.errors import InputError
from landscape.network.symmetry import Symmetry, find_symmetry, symmetry_from_table
from landscape.objective.objective import Objective


def objective_of(model: nn.Module, *shape: int, tokens: int = 0, forward: Any = None) -> Objective:
    """An objective in float64 with BatchNorm statistics and parameters away from their first values."""
    generator = torch.Generator().manual_seed(0)
    model = model.double().eval()
    with torch.no_grad():
        for tensor in [*model.parameters(), *(b for n, b in model.named_buffers() if "running" in n)]:
            tensor += 0.1 * torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
    size = (6, *shape)
    inputs = (
        torch.randint(1, tokens, size, generator=generator)
        if tokens
        else torch.randn(size, generator=generator, dtype=torch.float64)
    )
    return Objective(model, None if forward else "cross_entropy", (inputs, torch.zeros(6, dtype=torch.long)))


def change(objective: Objective, symmetry: Symmetry, seed: int = 0) -> tuple[float, float]:
    """(largest relative change of an output, part of the values that moved) by random permutations of all groups."""
    generator = np.random.default_rng(seed)
    permutations = {g.name: np.stack([generator.permutation(g.size) for _ in range(g.blocks)]) for g in symmetry.groups}
    state = {
        n: t.numpy() for n, t in [*objective.layout.unflatten(objective.theta).items(), *objective.buffers.items()]
    }
    moved = permuted(state, symmetry.groups, permutations)
    tensors = {name: torch.from_numpy(value) for name, value in moved.items()}
    batch = objective.batch(0)
    states = (
        (objective.theta, objective.buffers),
        (objective.layout.flatten(tensors), {name: tensors[name] for name in objective.buffers}),
    )
    outputs = []
    for theta, buffers in states:
        with objective.differentiable(theta, buffers) as (model, _):
            outputs.append(objective.outputs(model, batch)[0].detach().double())
    values = sum(value.size for value in moved.values())
    part = sum(value.size for name, value in moved.items() if not np.array_equal(value, state[name])) / values
    return float((outputs[0] - outputs[1]).abs().max() / outputs[0].abs().max()), part


def size_of(symmetry: Symmetry) -> list[tuple[str, int, int]]:
    return [(group.name, group.size, group.blocks) for group in symmetry.groups]


# -- small networks, one idea each ------------------------------------------------------------------------------------


class Net(nn.Module):
    """Layers and the function that joins them."""

    def __init__(self, join: Callable[[Any, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self._join = join

    def forward(self, x: Tensor) -> Tensor:
        return self._join(self, x)


def test_hidden_units_of_a_dense_network() -> None:
    objective = objective_of(Dense(3, 5, 4, 2), 3)
    found = find_symmetry(objective)
    assert size_of(found) == [("fc1.weight", 5, 1), ("fc2.weight", 4, 1)]
    assert {(a.tensor, a.axis) for a in found.groups[0].actions} == {
        ("fc1.weight", 0),
        ("fc1.bias", 0),
        ("fc2.weight", 1),
    }
    gap, part = change(objective, found)
    assert gap < 1e-12
    assert part > 0.9
    assert not found.pinned


def test_residual_stream_with_batchnorm_statistics() -> None:
    net = Net(
        lambda m, x: m.head((lambda y: y + m.bn2(m.conv2(F.relu(m.bn1(m.conv1(y))))))(m.stem(x)).flatten(1)),
        stem=nn.Conv2d(2, 5, 3, padding=1), conv1=nn.Conv2d(5, 4, 3, padding=1), bn1=nn.BatchNorm2d(4),
        conv2=nn.Conv2d(4, 5, 3, padding=1), bn2=nn.BatchNorm2d(5), head=nn.Linear(80, 3),
    )  # fmt: skip
    objective = objective_of(net, 2, 4, 4)
    found = find_symmetry(objective)
    assert size_of(found) == [("stem.weight", 5, 1), ("conv1.weight", 4, 1)]
    stream = {a.tensor: a for a in found.groups[0].actions}
    assert {"bn2.running_mean", "bn2.running_var", "conv2.bias"} < set(stream)
    assert stream["head.weight"].places.shape == (1, 5, 16)  # 80 features are 5 channels of 16 positions
    assert change(objective, found)[0] < 1e-12


def test_zero_padded_shortcuts() -> None:
    """The channels that the padding adds, before and after, are one group; the old ones keep theirs."""
    objective = objective_of(ResNet20(), 3, 8, 8)
    found = find_symmetry(objective)
    sizes = {group.name: group.size for group in found.groups}
    assert sizes["conv1.weight"] == 16
    assert sizes["layer2.0.conv2.weight"] == 16
    assert sizes["layer3.0.conv2.weight"] == 32
    assert len(sizes) == 12
    gap, part = change(objective, found)
    assert gap < 1e-12
    assert part > 0.999


def test_groups_of_a_convolution_and_units_within_them() -> None:
    net = Net(
        lambda m, x: m.head(m.split(F.relu(m.each(m.mix(x)))).mean((2, 3))),
        mix=nn.Conv2d(2, 12, 1), each=nn.Conv2d(12, 12, 3, groups=12), split=nn.Conv2d(12, 6, 1, groups=3),
        head=nn.Linear(6, 2),
    )  # fmt: skip
    objective = objective_of(net, 2, 4, 4)
    found = find_symmetry(objective)
    assert size_of(found) == [("mix.weight", 3, 1), ("mix.weight#2", 4, 3), ("split.weight", 2, 3)]
    assert [group.base for group in found.groups] == [None, "mix.weight", "mix.weight"]
    assert change(objective, found)[0] < 1e-12


def test_transposed_convolution_in_groups() -> None:
    net = nn.Sequential(
        nn.Conv2d(2, 6, 1), nn.ReLU(), nn.ConvTranspose2d(6, 4, 2, groups=2), nn.ReLU(),
        nn.ConvTranspose2d(4, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(48, 2),
    )  # fmt: skip
    objective = objective_of(net, 2, 2, 2)
    found = find_symmetry(objective)
    assert size_of(found) == [("0.weight", 2, 1), ("0.weight#2", 3, 2), ("2.weight", 2, 2), ("4.weight", 3, 1)]
    assert change(objective, found)[0] < 1e-12


def test_group_norm_and_gates() -> None:
    net = nn.Sequential(
        nn.Linear(3, 8), nn.GroupNorm(2, 8), nn.GELU(), nn.Linear(8, 10), nn.GLU(), nn.RMSNorm(5), nn.Linear(5, 2)
    )
    objective = objective_of(net, 3)
    found = find_symmetry(objective)
    assert size_of(found) == [("0.weight", 2, 1), ("0.weight#2", 4, 2), ("3.weight", 5, 1)]
    assert change(objective, found)[0] < 1e-12


def attention(width: int = 8) -> nn.Module:
    layer = nn.TransformerEncoderLayer(width, 2, 12, batch_first=True, norm_first=True)
    return nn.Sequential(nn.Linear(3, width), layer, nn.Flatten(), nn.Linear(4 * width, 2))


def test_heads_and_dimensions_within_each_head() -> None:
    """q and k share their dimensions, v and the way out theirs, in each head on its own."""
    objective = objective_of(attention(), 4, 3)
    found = find_symmetry(objective)
    packed = "1.self_attn.in_proj_weight"
    assert size_of(found) == [
        ("0.weight", 8, 1), (packed, 2, 1), (f"{packed}#2", 4, 2), (f"{packed}#3", 4, 2), ("1.linear1.weight", 12, 1),
    ]  # fmt: skip
    q_and_k, v = found.groups[2:4]
    assert {a.tensor for a in q_and_k.actions} == {packed, "1.self_attn.in_proj_bias"}
    assert "1.self_attn.out_proj.weight" in {a.tensor for a in v.actions}
    gap, part = change(objective, found)
    assert gap < 1e-12
    assert part > 0.99


class ByIndex(nn.Module):
    """q, k and v by index out of one projection, with a norm of q and k that all heads share."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        self.qkv, self.out, self.norm = nn.Linear(3, 24), nn.Linear(8, 2), nn.LayerNorm(4) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, 2, 4).permute(2, 0, 3, 1, 4)
        y = F.softmax(self.norm(q) @ self.norm(k).transpose(-1, -2), -1) @ v
        return self.out(y.transpose(1, 2).flatten(2).mean(1))


def test_a_norm_that_heads_share_ties_their_dimensions() -> None:
    free, tied = (objective_of(ByIndex(norm), 4, 3) for norm in (False, True))
    assert size_of(find_symmetry(free)) == [("qkv.weight", 2, 1), ("qkv.weight#2", 4, 2), ("qkv.weight#3", 4, 2)]
    assert size_of(find_symmetry(tied)) == [("qkv.weight", 2, 1), ("qkv.weight#2", 4, 1), ("qkv.weight#3", 4, 2)]
    for objective in (free, tied):
        assert change(objective, find_symmetry(objective))[0] < 1e-12


@pytest.mark.parametrize(("axis", "expected"), [(1, [(2, 4), (4, 1)]), (2, [(2, 1), (4, 2)])])
def test_units_that_are_compared_within_an_outer_factor_move_together(axis: int, expected: Any) -> None:
    """A softmax over heads: each dimension may have its heads in another order, but no head its dimensions; and v.v."""
    net = Net(
        lambda m, x: m.head(F.softmax(m.make(x).view(-1, 2, 4), axis).flatten(1)),
        make=nn.Linear(3, 8), head=nn.Linear(8, 2),
    )  # fmt: skip
    objective = objective_of(net, 3)
    found = find_symmetry(objective)
    assert [(group.size, group.blocks) for group in found.groups] == expected
    assert change(objective, found)[0] < 1e-12


@pytest.mark.parametrize(
    "join",
    [
        pytest.param(lambda q: q.sum(2), id="sum"),
        pytest.param(lambda q: F.softmax(q, 2)[:, :, 1], id="softmax"),
        pytest.param(lambda q: q[:, :, 0] * q[:, :, 2] + q.amax(2), id="both"),
    ],
)
def test_units_that_are_compared_across_an_outer_factor_move_together(join: Callable[[Tensor], Tensor]) -> None:
    """A function of what stands at one place under several indices: a permutation under each would change it."""
    net = Net(
        lambda m, x: m.head((join(m.make(x).reshape(6, 1, 3, 4)) ** 2).flatten(1)),
        make=nn.Linear(3, 12), head=nn.Linear(4, 2),
    )  # fmt: skip

    def forward(model: Any, batch: Any) -> Tensor:
        return model(batch[0]).square().sum(1)

    x = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    objective = Objective(net.double(), None, [(x, torch.zeros(6))], forward=forward)
    found = find_symmetry(objective)
    assert max(group.size for group in found.groups) == 4
    assert all(group.blocks == 1 for group in found.groups if group.size == 4)
    assert change(objective, found)[0] < 1e-12


def test_what_is_not_known_stays_where_it_is() -> None:
    net = Net(
        lambda m, x: m.head(torch.fft.fft(m.first(F.relu(m.free(x)))).abs()),
        free=nn.Linear(3, 5), first=nn.Linear(5, 6), head=nn.Linear(6, 2),
    )  # fmt: skip
    objective = objective_of(net, 3)
    found = find_symmetry(objective)
    assert size_of(found) == [("free.weight", 5, 1)]
    assert found.pinned == {"_fft_c2c in Net": 6} or found.pinned == {"_fft_r2c in Net": 6}
    assert change(objective, found)[0] < 1e-12


def test_order_and_position_fix_units() -> None:
    """The layer before a sum over places, a step, a constant per unit, an order; the layer after stays free."""
    steps: list[Callable[[Any, Tensor], Tensor]] = [
        lambda m, x: x.cumsum(1),
        lambda m, x: x[:, ::2].repeat_interleave(2, 1),
        lambda m, x: x * torch.arange(6.0, dtype=x.dtype),
        lambda m, x: x.topk(6, 1).values,
        lambda m, x: x.unfold(1, 3, 3).flatten(1),
        lambda m, x: x.flip(1),
    ]
    for step in steps:
        net = Net(
            lambda m, x, step=step: m.head(F.relu(m.last(step(m, m.first(x))))),
            first=nn.Linear(3, 6), last=nn.Linear(6, 5), head=nn.Linear(5, 2),
        )  # fmt: skip
        objective = objective_of(net, 3)
        found = find_symmetry(objective)
        assert ("last.weight", 5, 1) in size_of(found)
        assert not {a.tensor for group in found.groups for a in group.actions} & {"first.weight", "first.bias"}
        assert change(objective, found)[0] < 1e-12


def test_a_cut_leaves_the_rest_of_the_units() -> None:
    net = Net(
        lambda m, x: m.head(torch.cat([torch.tanh(m.first(x)[:, :2]), F.relu(m.first(x)[:, 2:])], 1)),
        first=nn.Linear(3, 6), head=nn.Linear(6, 2),
    )  # fmt: skip
    objective = objective_of(net, 3)
    found = find_symmetry(objective)
    assert sorted(group.size for group in found.groups) == [2, 4]
    assert change(objective, found)[0] < 1e-12


def test_writes_into_slices_are_seen() -> None:
    def join(m: Any, x: Tensor) -> Tensor:
        hidden = torch.zeros(len(x), 7, dtype=x.dtype)
        hidden[:, :3] = m.one(x)
        hidden[:, 3:].copy_(m.two(x))
        return m.head(hidden.relu_().t_().t())

    objective = objective_of(Net(join, one=nn.Linear(3, 3), two=nn.Linear(3, 4), head=nn.Linear(7, 2)), 3)
    found = find_symmetry(objective)
    assert size_of(found) == [("one.weight", 3, 1), ("two.weight", 4, 1)]
    assert change(objective, found)[0] < 1e-12


def test_frozen_layers_and_tied_weights() -> None:
    net = Dense(3, 5, 5, 2)
    net.fc1.requires_grad_(False)
    assert [name for name, *_ in size_of(find_symmetry(objective_of(net, 3)))] == ["fc2.weight"]
    tied = Net(lambda m, x: m.out(torch.tanh(m.mix(m.embed(x))).mean(1)), embed=nn.Embedding(7, 4),
               mix=nn.Linear(4, 4), out=nn.Linear(4, 7, bias=False))  # fmt: skip
    tied.out.weight = tied.embed.weight
    objective = objective_of(tied, 5, tokens=7)
    found = find_symmetry(objective)
    assert size_of(found) == [("embed.weight", 4, 1)]  # read and written by the same table
    assert found.aliases == {"out.weight": "embed.weight"}
    assert change(objective, found)[0] < 1e-12


def test_nothing_to_permute_names_what_fixes_most() -> None:
    net = Net(lambda m, x: m.head(torch.fft.fft(m.first(x)).abs()), first=nn.Linear(3, 6), head=nn.Linear(6, 2))
    with pytest.raises(InputError, match=r"_fft_\w+ in Net fixes 6 units.*table="):
        find_symmetry(objective_of(net, 3))
    with pytest.raises(InputError, match="belongs to inputs, outputs or frozen"):
        find_symmetry(objective_of(nn.Linear(3, 2), 3))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "table is empty"),
        ({"h": []}, "is empty"),
        ({"h": [("fc1.wight", 0)]}, r"'fc1.wight'.*did you mean 'fc1.weight'"),
        ({"h": [("fc1.weight", 2)]}, "no axis 2"),
        ({"h": [("fc1.weight", 0), ("fc2.weight", 0)]}, "length 4, and 'fc1.weight' has 5"),
        ({"h": [("fc1.weight", 0)], "g": [("fc1.weight", -2)]}, "is in 'h' and in 'g'"),
    ],
)
def test_tables_that_cannot_be(table: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        symmetry_from_table(objective_of(Dense(3, 5, 4, 2), 3), table)


# -- networks of others -----------------------------------------------------------------------------------------------

_PARTS = {"GRU": 0.99, "ResNeXt": 0.99, "MobileNetV3": 0.98, "Swin": 0.85, "DenseNet": 0.95, "Llama": 0.99, "T5": 0.98}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", list(_PARTS))
def test_zoo(name: str) -> None:
    """Most tensors move, and the outputs do not; some round to float32 inside."""
    torch.manual_seed(0)
    entry = zoo.ZOO[name]()
    model = entry.model.double().eval()
    zoo.perturb(model)
    objective = Objective(model, "cross_entropy", entry.data, forward=entry.forward)
    gap, part = change(objective, find_symmetry(objective))
    assert gap < (1e-5 if entry.rounds else 1e-12)
    assert part > _PARTS[name]


def test_resnet18() -> None:
    torch.manual_seed(0)
    entry = zoo.resnet18()
    objective = Objective(entry.model.double(), "cross_entropy", entry.data)
    found = find_symmetry(objective)
    sizes = {group.name: group.size for group in found.groups}
    streams = {"conv1.weight": 64, "layer2.0.conv2.weight": 128}
    inner = {f"layer{i}.{j}.conv1.weight": 64 << (i - 1) for i in (1, 2) for j in (0, 1)}
    assert sizes == streams | inner
    stream = {a.tensor for a in next(g for g in found.groups if g.name == "layer2.0.conv2.weight").actions}
    assert {"layer2.0.downsample.0.weight", "layer2.0.downsample.1.running_var", "layer2.1.bn2.bias"} < stream


@pytest.mark.filterwarnings("ignore")
def test_gpt2() -> None:
    torch.manual_seed(0)
    entry = zoo.gpt2()
    objective = Objective(entry.model.double(), "cross_entropy", entry.data, forward=entry.forward)
    found = find_symmetry(objective)
    block = [("attn.c_attn.weight", 2, 1), ("attn.c_attn.weight#2", 8, 2), ("attn.c_attn.weight#3", 8, 2),
             ("mlp.c_fc.weight", 64, 1)]  # fmt: skip
    expected = [(f"transformer.h.{i}.{name}", *rest) for i in (0, 1) for name, *rest in block]
    assert size_of(found) == [("transformer.wte.weight", 16, 1), *expected]
    assert found.aliases == {"lm_head.weight": "transformer.wte.weight"}
    count = sum(math.lgamma(g.size + 1) * g.blocks for g in found.groups)
    assert count > 500  # nats: the number of networks that compute the same function is e to this
