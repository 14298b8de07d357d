"""Filters and kinds of parameters; binding and restoring a model; BatchNorm statistics."""

from __future__ import annotations

import linecache
import random
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from landscape_kernels.layout import Filters
from landscape_kernels.normalise import block_norms
from torch import Tensor, nn

import landscape as ls
from landscape.errors import InputError
from landscape.objective.model import BoundModel, parameter_layout

CPU = torch.device("cpu")


class Conv1D(nn.Module):
    """As in transformers: y = x w + b with w of shape (in, out)."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs)), nn.Parameter(torch.zeros(outputs))


class Holder(nn.Module):
    def __init__(self, **parameters: Tensor) -> None:
        super().__init__()
        for name, value in parameters.items():
            setattr(self, name, nn.Parameter(value))


def rows(weight: Tensor) -> list[Tensor]:
    return list(weight)


def transposed(weight: Tensor, groups: int) -> list[Tensor]:
    """Naive: output channel o of group g is fed by the inputs of group g."""
    each = weight.shape[0] // groups
    return [weight[g * each : (g + 1) * each, o] for g in range(groups) for o in range(weight.shape[1])]


# module, {parameter: its filters by a naive loop}
CASES: dict[str, tuple[nn.Module, dict[str, list[Tensor]]]] = {}


def case(name: str, module: nn.Module, groups: int | None = None, *names: str) -> None:
    for parameter in names or ("weight",):
        weight = module.get_parameter(parameter).detach()
        filters = rows(weight) if groups is None else transposed(weight, groups)
        CASES.setdefault(name, (module, {}))[1][parameter] = filters


torch.manual_seed(0)
case("Linear", nn.Linear(3, 5))
case("Conv1d", nn.Conv1d(3, 5, 2))
case("Conv2d", nn.Conv2d(3, 5, 2))
case("Conv3d", nn.Conv3d(3, 5, 2))
case("grouped", nn.Conv2d(6, 4, 3, groups=2))
case("depthwise", nn.Conv2d(6, 6, 3, groups=6))
case("ConvTranspose1d", nn.ConvTranspose1d(3, 5, 2), 1)
case("ConvTranspose2d", nn.ConvTranspose2d(6, 8, (2, 3), groups=2), 2)
case("ConvTranspose2d depthwise", nn.ConvTranspose2d(4, 4, 3, groups=4), 4)
case("Embedding", nn.Embedding(7, 3, padding_idx=0))
case("EmbeddingBag", nn.EmbeddingBag(7, 3))
case("attention", nn.MultiheadAttention(4, 2), None, "in_proj_weight", "out_proj.weight")
case("attention, other keys", nn.MultiheadAttention(4, 2, kdim=3, vdim=5), None, "q_proj_weight", "v_proj_weight")
case("LSTM", nn.LSTM(3, 4, 2), None, "weight_ih_l0", "weight_hh_l0", "weight_ih_l1", "weight_hh_l1")
case("RNN", nn.RNN(3, 4), None, "weight_ih_l0", "weight_hh_l0")
CONV1D = Conv1D(5, 3)
CASES["Conv1D"] = (CONV1D, {"weight": list(CONV1D.weight.detach().T)})
POSITIONS = Holder(pos=torch.randn(1, 6, 4), token=torch.randn(1, 1, 4))
CASES["positions"] = (POSITIONS, {name: list(p.detach()[0]) for name, p in POSITIONS.named_parameters()})
UP = torch.nn.utils.parametrizations.spectral_norm(nn.ConvTranspose2d(6, 8, 3, groups=2))
case("parametrised", UP, 2, "parametrizations.weight.original")


@pytest.mark.parametrize("name", CASES)
def test_a_filter_is_what_makes_one_output(name: str) -> None:
    module, expected = CASES[name]
    layout = parameter_layout(module)
    theta = layout.flatten(dict(module.named_parameters()))
    blocks = {block.name: block for block in layout.blocks}
    for parameter, filters in expected.items():
        norms = block_norms(theta, blocks[parameter], "filter").reshape(-1)
        assert torch.allclose(norms, torch.stack([f.norm() for f in filters]), rtol=1e-6), parameter


def test_groups_do_not_mix_in_a_transposed_convolution() -> None:
    """Each filter perturbed alone changes exactly one output channel."""
    module = nn.ConvTranspose2d(4, 6, 2, groups=2, bias=False)
    block = parameter_layout(module).blocks[0]
    assert block.filters == Filters((2, 2, 3, 4), (1, 3))
    x = torch.randn(1, 4, 3, 3)
    plain = module(x)
    for number, (group, channel) in enumerate((g, o) for g in range(2) for o in range(3)):
        with torch.no_grad():
            kept = module.weight.clone()
            module.weight.view(2, 2, 3, 4)[group, :, channel] += 1
            changed = (module(x) - plain).abs().amax((0, 2, 3)) > 0
            module.weight.copy_(kept)
        assert changed.nonzero().flatten().tolist() == [number]


def kinds(module: nn.Module) -> dict[str, str]:
    return {block.name: block.kind for block in parameter_layout(module).blocks}


def test_kinds() -> None:
    class LlamaRMSNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

    model = nn.ModuleDict(
        {
            "linear": nn.Linear(2, 3),
            "bn": nn.BatchNorm2d(3),
            "ln": nn.LayerNorm((3, 4)),
            "gn": nn.GroupNorm(1, 3),
            "rms": LlamaRMSNorm(),
            "emb": nn.Embedding(4, 2),
            "lstm": nn.LSTM(2, 3),
            "att": nn.MultiheadAttention(4, 2, add_bias_kv=True),
            "prelu": nn.PReLU(),
            "own": Holder(scale=torch.tensor(1.0), pos_embed=torch.zeros(1, 5, 2), rel_bias=torch.zeros(1, 5, 2)),
        }
    )
    found = kinds(model)
    expected = {
        "linear.weight": "weight",
        "linear.bias": "bias",
        **{f"{n}.{p}": "norm" for n in ("bn", "ln", "gn") for p in ("weight", "bias")},
        "rms.weight": "norm",
        "emb.weight": "embedding",
        "lstm.weight_ih_l0": "weight",
        "lstm.bias_hh_l0": "bias",
        "att.in_proj_weight": "weight",
        "att.in_proj_bias": "bias",
        "att.bias_k": "bias",
        "att.out_proj.bias": "bias",
        "prelu.weight": "weight",
        "own.scale": "weight",
        "own.pos_embed": "embedding",
        "own.rel_bias": "bias",
    }
    assert {name: found[name] for name in expected} == expected
    assert next(b for b in parameter_layout(model).blocks if b.name == "ln.weight").filters is None


def test_tied_and_frozen_parameters_and_their_order() -> None:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 4), nn.Linear(3, 5, bias=False))
    model[2].weight = model[0].weight
    model[1].bias.requires_grad_(False)
    layout = parameter_layout(model)
    assert layout.names == ("0.weight", "1.weight")
    assert layout.size == 15 + 12


def test_models_that_cannot_be_measured() -> None:
    with pytest.raises(InputError, match="weight has no shape yet"):
        parameter_layout(nn.LazyLinear(3))
    with pytest.raises(InputError, match=r"w is torch.sparse_coo; keep what varies dense, by .to_dense"):
        parameter_layout(Holder(w=torch.zeros(2, 2).to_sparse()))
    with pytest.raises(InputError, match="no trainable parameter"):
        BoundModel(nn.ReLU(), CPU, torch.float32)
    with pytest.raises(InputError, match="TorchScript"):
        BoundModel(nn.Sequential(torch.jit.script(nn.Linear(2, 2))), CPU, torch.float32)  # type: ignore[no-untyped-call]
    with pytest.raises(InputError, match=r"'0' has track_running_stats=False.*reestimated"):
        BoundModel(nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False)), CPU, torch.float32)


# -- binding and restoring -----------------------------------------------------------------------------------


class Busy(nn.Module):
    """Trained in part, with gradients, buffers it writes to, and a thirst for random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn, self.b = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("phase", torch.ones(2, dtype=torch.complex64))
        self.b.bias.requires_grad_(False)
        self.a.train()
        self.b.eval()
        for parameter in self.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.randn_like(parameter)
        self.fail: type[BaseException] | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.calls = self.calls + 1
        torch.rand(3)
        np.random.rand(3)
        random.random()
        self.b.train()
        self.a.weight.requires_grad_(False)
        self.a.bias.grad = torch.ones_like(self.a.bias)
        if self.fail is not None:
            raise self.fail("stop")
        assert not self.bn.training
        return self.b(self.bn(self.a(x))) * self.phase.abs()


def photograph(model: nn.Module) -> list[Any]:
    seen: list[Any] = []
    for name, parameter in model.named_parameters():
        seen += [name, id(parameter), parameter.data_ptr(), parameter.detach().clone(), parameter.dtype]
        seen += [
            parameter.requires_grad,
            id(parameter.grad),
            None if parameter.grad is None else parameter.grad.clone(),
        ]
    for name, buffer in model.named_buffers():
        seen += [name, id(buffer), buffer.data_ptr(), buffer.clone()]
    seen += [(name, module.training) for name, module in model.named_modules()]
    return [*seen, torch.get_rng_state(), np.random.get_state()[1].copy(), np.random.get_state()[2], random.getstate()]


def unchanged(before: list[Any], after: list[Any]) -> bool:
    same = [
        torch.equal(a, b) if isinstance(a, Tensor) else np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b
        for a, b in zip(before, after, strict=True)
    ]
    return all(same)


X, Y = torch.randn(10, 3), torch.arange(10) % 2


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("fail", [None, ValueError, KeyboardInterrupt])
def test_everything_is_as_it_was_after_any_exit(fail: type[BaseException] | None, precision: str) -> None:
    model = Busy()
    before = photograph(model)
    objective = ls.Objective(model, data=(X, Y), precision=precision)
    assert unchanged(before, photograph(model))
    here = objective.evaluate(objective.theta)["loss"]
    model.fail = fail
    if fail is None:
        assert objective.evaluate(objective.theta * 2)["loss"] != here
        objective.reestimate(objective.theta)
    else:
        with pytest.raises(fail, match="stop"):
            objective.evaluate(objective.theta * 2)
        with pytest.raises(fail, match="stop"):
            objective.reestimate(objective.theta * 2)
    assert unchanged(before, photograph(model))
    model.fail = None
    assert objective.evaluate()["loss"] == here  # and what one evaluation writes, the next does not see


def interrupted(call: Callable[[], object], number: int) -> bool:
    """Whether Ctrl-C came in `call`: at the line of that number in `objective/`, of those where Python looks for it."""
    seen = 0

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal seen
        if "/landscape/objective/" not in frame.f_code.co_filename:
            return None
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
        if event == "line" and line not in ("try:", "finally:"):
            seen += 1
            if seen == number:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def test_everything_is_as_it_was_after_an_interrupt_at_any_line() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).train()
    model[2].bias.requires_grad_(False)
    model(X).sum().backward()
    objective = ls.Objective(model, data=(X, Y))
    theta = objective.theta * 1.5
    before, right = photograph(model), float(objective.estimates(theta)["loss"])
    number = 1
    while interrupted(lambda: objective.estimates(theta), number):
        assert unchanged(before, photograph(model)), number
        assert float(objective.estimates(theta)["loss"]) == right, number
        number += 1
    assert number > 100


@pytest.mark.parametrize("width", [4, 3])  # whose tensors begin at whole 16 bytes, and not
def test_a_vector_that_is_written_to_again_is_read_again(width: int) -> None:
    """Its views are kept from point to point while it lies where it lay; what has to be aligned is copied anew."""
    model = nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 2))
    objective, other = (ls.Objective(model, data=(X, Y)) for _ in range(2))
    theta = objective.theta
    elsewhere = theta * 3
    seen = []
    for change in (
        lambda: theta,
        lambda: theta.mul_(-2),
        lambda: theta.add_(1),
        lambda: setattr(theta, "data", elsewhere),
    ):
        change()
        with objective.at(theta) as bound:
            assert torch.equal(torch.cat([p.detach().reshape(-1) for p in bound.parameters()]), theta)
        seen.append(float(objective.estimates(theta)["loss"]))
        assert seen[-1] == float(other.estimates(theta.clone())["loss"])
    assert len(set(seen)) == 4


class Rarely(nn.Module):
    """It writes to its statistics, but not where it was tried."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn = nn.Linear(3, 4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.bn(self.a(x))
        if float(self.a.bias.detach().max()) > 1e4:
            self.bn.running_mean.add_(1)
        return found


def test_what_is_written_to_lent_statistics_stays_at_that_point() -> None:
    model = Rarely().eval()
    objective = ls.Objective(model, data=(X, Y), chunk=10)
    own, before = model.bn.running_mean, model.bn.running_mean.clone()
    far = torch.full_like(objective.theta, 1e5)
    first = [float(objective.estimates(at)["loss"]) for at in (objective.theta, far)]
    with objective.at(None) as bound:
        lent = bound.bn.running_mean
    with objective.at(None) as bound:
        assert bound.bn.running_mean is lent  # not copied at every point
        bound.bn.running_mean = None  # type: ignore[assignment]
    with objective.at(None, {"bn.running_mean": own + 1}) as bound:
        assert torch.equal(bound.bn.running_mean, own + 1)
    for _ in range(2):
        assert [float(objective.estimates(at)["loss"]) for at in (objective.theta, far)] == first
    with objective.training(objective.theta, torch.zeros_like(objective.theta)) as bound:
        assert bound.bn.running_mean is not lent
        bound(X)
    with objective.at(None) as bound:
        assert torch.equal(bound.bn.running_mean, before)
    assert model.bn.running_mean is own
    assert torch.equal(own, before)


def test_what_is_kept_in_inference_mode_is_not_trained_on() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).eval()
    objective = ls.Objective(model, data=(X, Y))
    theta, gradient = objective.theta, torch.zeros_like(objective.theta)
    here = float(objective.estimates(theta)["loss"])
    with torch.inference_mode():
        assert float(objective.estimates(theta)["loss"]) == here
        assert float(objective.estimates(objective.theta)["loss"]) == here
    with objective.training(theta, gradient) as bound:
        bound(X).sum().backward()
    assert gradient.abs().sum() > 0


def test_a_vector_that_is_gone_is_not_kept() -> None:
    objective = ls.Objective(nn.Linear(4, 4), data=(torch.randn(8, 4), torch.arange(8) % 4))
    theta = objective.theta
    objective.estimates(theta)
    views = objective._model._viewed[2]
    assert [tuple(view.shape) for view in views] == [(4, 4), (4,)]
    del theta
    assert views == []


def test_the_objective_keeps_its_centre_when_the_model_moves_on() -> None:
    model = Busy()
    objective = ls.Objective(model, data=(X, Y))
    here = objective.evaluate()["loss"]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
        model.bn.running_var.fill_(7)
    assert objective.evaluate()["loss"] == here


def test_wrapped_models_are_taken_out_of_their_wrapper() -> None:
    model = nn.Linear(3, 2)
    compiled = torch.compile(model, backend="eager")
    for wrapped in (compiled, nn.DataParallel(model), nn.DataParallel(compiled)):
        objective = ls.Objective(wrapped, data=(X, Y))
        assert objective.layout.names == ("weight", "bias")
        assert objective.evaluate()["loss"] == ls.Objective(model, data=(X, Y)).evaluate()["loss"]


# -- BatchNorm -----------------------------------------------------------------------------------------------


def conv_net() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 5, 2),
        nn.BatchNorm2d(5, affine=False),
        nn.Flatten(),
        nn.Linear(5 * 9, 6),
        nn.BatchNorm1d(6, eps=0.1),
        nn.Tanh(),
        nn.Linear(6, 3),
    ).double()


def by_torch(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """One training-mode pass over everything as one batch, momentum 1."""
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(x)
    return {k: v for k, v in model.named_buffers() if "running" in k}


IMAGES = torch.randn(50, 2, 6, 6, dtype=torch.float64)
LABELS = torch.arange(50) % 3


def as_batches(size: int) -> list[tuple[Tensor, Tensor]]:
    return [(IMAGES[i : i + size], LABELS[i : i + size]) for i in range(0, 50, size)]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("size", [50, 8, 49])
def test_reestimated_statistics_are_torchs(size: int, streamed: bool) -> None:
    objective = ls.Objective(
        conv_net(),
        data=as_batches(size),
        forward=lambda model, batch: (model(batch[0]), batch[1]),
        memory_budget=0 if streamed else 1 << 30,
    )
    theta = objective.theta * 1.5
    found = objective.reestimate(theta)
    twin = conv_net()
    torch.nn.utils.vector_to_parameters(theta, twin.parameters())
    expected = by_torch(twin, IMAGES)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=1e-12, atol=1e-14), name
    loss = objective.evaluate(theta, buffers=found)["loss"]
    truth = nn.functional.cross_entropy(twin.eval()(IMAGES), LABELS).detach()
    assert loss == pytest.approx(float(truth), rel=1e-12)


def test_statistics_from_other_data_and_divided_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    objective = ls.Objective(conv_net(), data=(IMAGES, LABELS))
    other = (IMAGES[:31] + 1, LABELS[:31])
    expected = by_torch(conv_net(), other[0])
    for limit in (1 << 30, 8 * 64 * 10):  # one chunk, several
        monkeypatch.setattr("landscape.objective.objective._STATISTICS_BYTES", limit)
        statistics = objective.read_statistics(other)
        assert (statistics.count > 1) == (limit < 1 << 30)
        found = objective.reestimate(objective.theta, statistics)
        assert all(torch.allclose(found[name], value, rtol=1e-12) for name, value in expected.items())


def test_a_layer_met_twice_or_a_single_value_cannot_be_reestimated() -> None:
    bn = nn.BatchNorm1d(3)
    twice = ls.Objective(nn.Sequential(nn.Linear(3, 3), bn, nn.Linear(3, 3), bn), data=(X, Y))
    with pytest.raises(InputError, match=r"'1' is called more than once.*frozen"):
        twice.reestimate(twice.theta)
    once = ls.Objective(nn.Sequential(nn.Linear(3, 3), bn), data=(X, Y))
    with pytest.raises(InputError, match="1 value per channel"):
        once.reestimate(once.theta, once.read_statistics((X[:1], Y[:1])))


def test_unknown_buffers_are_named() -> None:
    objective = ls.Objective(conv_net(), data=(IMAGES, LABELS))
    with pytest.raises(InputError, match=r"no buffer '1.runing_mean'; did you mean '1.running_mean'"):
        objective.evaluate(buffers={"1.runing_mean": torch.zeros(4)})


def test_attention_of_torch_in_half_precision_is_widened_with_its_projection() -> None:
    """Its output projection is never called, and its tensors are used by the attention itself."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    net = nn.Sequential(layer, nn.Flatten(), nn.Linear(40, 3)).bfloat16()
    before = [p.detach().clone() for p in net.parameters()]
    objective = ls.Objective(net, data=(torch.randn(12, 5, 8), torch.arange(12) % 3), precision="own")
    surface = ls.measure_surface(objective, ls.random_plane(objective), x=(-1, 1, 3), y=(0, 1, 2))
    assert 0 < surface.attributes["precision_error_relative"] < 0.1
    assert float(ls.critical_sharpness(objective)) > 0
    assert all(torch.equal(p, was) for p, was in zip(net.parameters(), before, strict=True))
