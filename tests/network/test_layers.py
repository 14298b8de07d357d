"""Per-sample gradient norms by layer rules, factors of output Hessians, and which networks are piecewise linear."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landscape.errors import InputError
from landscape.network import layers
from landscape.network.layers import GradientSquares
from landscape.network.piecewise import piecewise_linear
from landscape.network.rules import product
from landscape.network.rules.convolution import Convolution
from landscape.network.rules.layer import BLOCK_BYTES
from landscape.network.rules.product import Product
from landscape.network.seeds import output_seeds, softmax_seeds

EPS = torch.finfo(torch.float64).eps


def names_of(model: nn.Module) -> list[str]:
    return [name for name, p in model.named_parameters() if p.requires_grad]


def by_loop(model: nn.Module, run: Callable[[], Tensor], seeds: Tensor, names: list[str]) -> Tensor:
    """(B, len(names)): one autograd.grad for each sample and seed."""
    parameters = dict(model.named_parameters())
    outputs = run()
    result = torch.zeros(len(outputs), len(names), dtype=torch.float64)
    for i in range(len(outputs)):
        for seed in seeds:
            value = (seed[i] * outputs[i]).sum()
            gradients = torch.autograd.grad(
                value, [parameters[n] for n in names], retain_graph=True, allow_unused=True, materialize_grads=True
            )
            result[i] += torch.stack([g.double().square().sum() for g in gradients])
    return result


def by_rules(model: nn.Module, run: Callable[[], Tensor], seeds: Tensor, names: list[str]) -> Tensor:
    squares = GradientSquares(model, names)
    assert not squares.unsupported
    with squares.recording():
        outputs = run()
    result = squares.of(outputs, seeds)
    assert result.shape == (len(outputs), len(names))
    assert result.dtype == torch.float64
    return result


def entries_by_loop(model: nn.Module, run: Callable[[], Tensor], seeds: Tensor, names: list[str]) -> list[Tensor]:
    """Squares of the same gradients entry by entry, summed over samples and seeds."""
    parameters = [dict(model.named_parameters())[name] for name in names]
    outputs = run()
    result = [torch.zeros_like(p) for p in parameters]
    for i in range(len(outputs)):
        for seed in seeds:
            value = (seed[i] * outputs[i]).sum()
            found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
            result = [total + g.square() for total, g in zip(result, found, strict=True)]
    return [total.detach() for total in result]


def entries_by_rules(model: nn.Module, run: Callable[[], Tensor], seeds: Tensor, names: list[str]) -> list[Tensor]:
    squares = GradientSquares(model, names)
    with squares.recording():
        outputs = run()
    return squares.entries(outputs, seeds)


def agree(model: nn.Module, run: Callable[[], Tensor], count: int = 3) -> None:
    """Rules and loop give the same squares of every trainable parameter, none of them zero throughout."""
    generator = torch.Generator().manual_seed(1)
    outputs = run()
    seeds = torch.randn(count, *outputs.shape, generator=generator, dtype=outputs.dtype)
    names = names_of(model)
    expected, found = by_loop(model, run, seeds, names), by_rules(model, run, seeds, names)
    torch.testing.assert_close(found, expected, rtol=1e4 * EPS, atol=1e2 * EPS * float(expected.max()))
    assert bool((expected.amax(0) > 0).all())
    for one, true in zip(
        entries_by_rules(model, run, seeds, names), entries_by_loop(model, run, seeds, names), strict=True
    ):
        torch.testing.assert_close(one, true, rtol=1e4 * EPS, atol=1e2 * EPS * float(true.max()))


def evaluated(model: nn.Module) -> nn.Module:
    """In float64 and eval mode, with statistics and affine parameters away from their trivial start."""
    torch.manual_seed(0)
    model = model.double().eval()
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_floating_point():
                buffer.copy_(torch.rand_like(buffer) + 0.5 if name == "running_var" else torch.randn_like(buffer))
        if "Norm" in type(module).__name__:
            for parameter in module.parameters(recurse=False):
                parameter.data.copy_(torch.randn_like(parameter))
    return model


class Head(nn.Module):
    """A layer between others, so that its input depends on parameters and its output goes on."""

    def __init__(self, layer: nn.Module, first: nn.Module, width: int) -> None:
        super().__init__()
        self.first, self.layer, self.last = first, layer, nn.LazyLinear(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layer(F.relu(self.first(x))).flatten(1))


# layer, a layer before it, shape of a sample
CASES: dict[str, tuple[nn.Module, nn.Module, tuple[int, ...]]] = {
    "Linear": (nn.Linear(5, 4), nn.Linear(3, 5), (3,)),
    "Linear, no bias": (nn.Linear(5, 4, bias=False), nn.Linear(3, 5), (3,)),
    "Linear, positions": (nn.Linear(5, 4), nn.Linear(3, 5), (6, 3)),
    "Linear, two axes of positions": (nn.Linear(5, 4), nn.Linear(3, 5), (2, 40, 3)),
    "Conv1d": (nn.Conv1d(4, 6, 3, stride=2, padding=1), nn.Conv1d(2, 4, 2), (2, 11)),
    "Conv1d, circular": (nn.Conv1d(4, 6, 3, padding=2, padding_mode="circular"), nn.Conv1d(2, 4, 2), (2, 11)),
    "Conv2d": (nn.Conv2d(4, 5, (3, 2), padding=(1, 0)), nn.Conv2d(2, 4, 1), (2, 6, 7)),
    "Conv2d, stride": (nn.Conv2d(4, 5, 3, stride=(2, 3), padding=1, bias=False), nn.Conv2d(2, 4, 1), (2, 8, 9)),
    "Conv2d, dilation": (nn.Conv2d(4, 5, 3, dilation=(2, 1), padding=2), nn.Conv2d(2, 4, 1), (2, 8, 7)),
    "Conv2d, same": (nn.Conv2d(4, 5, (3, 5), padding="same"), nn.Conv2d(2, 4, 1), (2, 6, 7)),
    "Conv2d, reflect": (nn.Conv2d(4, 5, 3, padding=2, padding_mode="reflect"), nn.Conv2d(2, 4, 1), (2, 6, 7)),
    "Conv2d, groups": (nn.Conv2d(4, 6, 3, groups=2, stride=2), nn.Conv2d(2, 4, 1), (2, 8, 7)),
    "Conv2d, depthwise": (nn.Conv2d(4, 8, 3, groups=4, padding=1), nn.Conv2d(2, 4, 1), (2, 5, 5)),
    "Conv2d, few positions": (nn.Conv2d(16, 20, 3), nn.Conv2d(2, 16, 1), (2, 4, 4)),
    "Conv3d": (nn.Conv3d(3, 4, 2, stride=(1, 2, 1), dilation=(1, 1, 2)), nn.Conv3d(2, 3, 1), (2, 4, 5, 6)),
    "ConvTranspose1d": (nn.ConvTranspose1d(4, 3, 3, stride=2, padding=1), nn.Conv1d(2, 4, 2), (2, 6)),
    "ConvTranspose2d": (
        nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2, dilation=(2, 1)),
        nn.Conv2d(2, 4, 1),
        (2, 4, 5),
    ),
    "BatchNorm1d": (nn.BatchNorm1d(5), nn.Linear(3, 5), (3,)),
    "BatchNorm1d, positions": (nn.BatchNorm1d(5), nn.Conv1d(3, 5, 1), (3, 7)),
    "BatchNorm2d": (nn.BatchNorm2d(5), nn.Conv2d(3, 5, 1), (3, 4, 6)),
    "BatchNorm3d": (nn.BatchNorm3d(5), nn.Conv3d(3, 5, 1), (3, 2, 3, 2)),
    "GroupNorm": (nn.GroupNorm(2, 6), nn.Conv2d(3, 6, 1), (3, 4, 3)),
    "LayerNorm": (nn.LayerNorm(5), nn.Linear(3, 5), (3,)),
    "LayerNorm, positions": (nn.LayerNorm(5), nn.Linear(3, 5), (4, 3)),
    "LayerNorm, two axes": (nn.LayerNorm((4, 5)), nn.Linear(3, 5), (2, 4, 3)),
    "LayerNorm, no bias": (nn.LayerNorm(5, bias=False), nn.Linear(3, 5), (4, 3)),
    "RMSNorm": (nn.RMSNorm(5), nn.Linear(3, 5), (4, 3)),
}


def network(name: str) -> tuple[nn.Module, Tensor]:
    layer, first, shape = CASES[name]
    torch.manual_seed(0)
    model = Head(copy.deepcopy(layer), copy.deepcopy(first), 3)
    inputs = torch.randn(4, *shape)
    model(inputs)  # the lazy layer learns its width
    return evaluated(model), inputs.double()


@pytest.mark.parametrize("name", CASES)
def test_squares_of_per_sample_gradients(name: str) -> None:
    model, inputs = network(name)
    agree(model, lambda: model(inputs))


@pytest.mark.parametrize("name", ["Conv2d", "Conv2d, groups", "Conv2d, depthwise", "BatchNorm2d", "ConvTranspose2d"])
def test_channels_last(name: str) -> None:
    model, inputs = network(name)
    model = model.to(memory_format=torch.channels_last)
    agree(model, lambda: model(inputs.contiguous(memory_format=torch.channels_last)))


@pytest.mark.parametrize("samples", [1, 100])
@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("name", ["Conv2d", "Linear, positions"])
def test_divided_work_gives_the_same(name: str, samples: int, seeds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sample at a time or all; three seeds one at a time or two and one."""
    model, inputs = network(name)
    values = 0

    def count(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        nonlocal values
        values += output.numel()

    handles = [module.register_forward_hook(count) for module in model.children()]
    model(inputs)
    for handle in handles:
        handle.remove()
    monkeypatch.setitem(BLOCK_BYTES, "cpu", samples << 20 if samples > 1 else 1)
    monkeypatch.setattr(layers, "_HELD_BYTES", {"cpu": seeds * values * inputs.element_size()})
    agree(model, lambda: model(inputs), count=3)


def test_both_forms_of_the_product_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few positions go by inner products of positions, many by the gradient itself."""
    used: list[tuple[str, int]] = []
    for form in ("squares_by_places", "norms"):
        original = getattr(product, form)

        def spy(*args: Tensor, form: str = form, original: Any = original) -> Tensor:
            if args[0].ndim == 4:
                used.append((form, args[0].shape[-1]))
            return original(*args)

        monkeypatch.setattr(product, form, spy)
    for positions, form in ((2, "squares_by_places"), (200, "norms")):
        used.clear()
        model = nn.Sequential(nn.Conv1d(8, 9, 1), nn.ReLU(), nn.Flatten(), nn.Linear(9 * positions, 1)).double()
        inputs = torch.randn(3, 8, positions, dtype=torch.float64)
        agree(model, lambda model=model, inputs=inputs: model(inputs))
        assert used[0][0] == form


CONVOLUTIONS = {
    "padding": (nn.Conv2d(3, 4, 3, padding=1), (3, 5, 5)),
    "rows left over by the stride": (
        nn.Conv2d(3, 4, (3, 2), stride=(2, 3), dilation=(2, 1), padding=(1, 2)),
        (3, 8, 6),
    ),
    "a stride beyond the gaps": (nn.Conv1d(3, 4, 5, stride=3, padding=2, dilation=2), (3, 12)),
    "three axes, circular": (
        nn.Conv3d(2, 3, (2, 3, 2), stride=(1, 2, 1), padding=1, padding_mode="circular"),
        (2, 3, 4, 3),
    ),
}


@pytest.mark.parametrize("by_rows", [True, False])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_formed_gradients_of_convolutions(name: str, by_rows: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums and squares where the gradients of samples are formed, by either way."""
    monkeypatch.setattr(Convolution, "_forms_gradients", lambda self: True)
    monkeypatch.setattr(Convolution, "_has_long_rows", lambda self: by_rows)
    torch.manual_seed(0)
    layer, shape = CONVOLUTIONS[name]
    model = nn.Sequential(copy.deepcopy(layer), nn.Tanh(), nn.Flatten()).double()
    inputs = torch.randn(4, *shape, dtype=torch.float64)
    squares = GradientSquares(model, names_of(model))
    with squares.recording():
        values = model(inputs).square().sum(1)
    sums, found = squares.sums_and_squares(values, 4)
    rows = [torch.autograd.grad(model(one[None]).square().sum(), list(model.parameters())) for one in inputs]
    expected = torch.tensor([[float(g.square().sum()) for g in row] for row in rows], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e4 * EPS, atol=0)
    for total, parts in zip(sums, zip(*rows, strict=True), strict=True):
        torch.testing.assert_close(total, sum(parts), rtol=1e4 * EPS, atol=1e3 * EPS)


class Twice(nn.Module):
    """A layer that is called on images as they come, and on others with their channels last."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        turned = x.tanh().contiguous(memory_format=torch.channels_last)
        return self.layer(x).flatten(1) * self.layer(turned).flatten(1)


@pytest.mark.parametrize("forms", [True, False])
@pytest.mark.parametrize("layer", [nn.ConvTranspose2d(4, 5, (3, 2)), nn.Conv2d(4, 5, (3, 2))])
def test_calls_in_two_memory_formats(layer: nn.Module, forms: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Convolution, "_forms", lambda self, length: forms)
    model = Twice(copy.deepcopy(layer)).double()
    inputs = torch.randn(4, 4, 5, 6, generator=torch.Generator().manual_seed(0)).double()
    agree(model, lambda: model(inputs))
    squares = GradientSquares(model, names_of(model))
    with squares.recording():
        values = model(inputs).square().sum(1)
    _, found = squares.sums_and_squares(values, 4)
    rows = [torch.autograd.grad(model(one[None]).square().sum(), list(model.parameters())) for one in inputs]
    expected = torch.stack([torch.stack([g.square().sum() for g in row]) for row in rows])
    torch.testing.assert_close(found, expected, rtol=1e4 * EPS, atol=0)


@pytest.mark.parametrize("by_patches", [True, False])
@pytest.mark.parametrize("layer", [nn.ConvTranspose2d(4, 6, (3, 2), groups=2), nn.Conv2d(4, 6, (3, 2))])
def test_sums_of_channels_last(layer: nn.Module, by_patches: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient that comes back from a pooling layer has its channels last, too."""
    if by_patches:  # as on a GPU
        monkeypatch.setattr(Convolution, "formed", Convolution._formed_by_patches)
        monkeypatch.setattr(Convolution, "arranged", Product.arranged)
    model = nn.Sequential(copy.deepcopy(layer), nn.AdaptiveAvgPool2d(2), nn.Flatten()).double()
    inputs = torch.randn(4, 4, 5, 6, generator=torch.Generator().manual_seed(0)).double()
    for given in (inputs, inputs.contiguous(memory_format=torch.channels_last)):
        squares = GradientSquares(model, names_of(model))
        with squares.recording():
            values = model(given).square().sum(1)
        sums, _ = squares.sums_and_squares(values, 4)
        expected = torch.autograd.grad(model(given).square().sum(), list(model.parameters()))
        for one, true in zip(sums, expected, strict=True):
            torch.testing.assert_close(one, true, rtol=1e4 * EPS, atol=1e3 * EPS)


@pytest.mark.parametrize("names", [None, ["0.weight", "4.bias"], ["1.weight", "3.weight"]])
@pytest.mark.parametrize("forms", [True, False])
def test_batchnorm_behind_a_convolution(names: list[str] | None, forms: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one layer: in place behind it, a factor of zero, groups, no factors; and where gradients are not formed."""
    monkeypatch.setattr(Convolution, "_forms", lambda self, length: forms)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(inplace=True),
        nn.Conv2d(6, 8, 3, stride=2, padding="valid"), nn.BatchNorm2d(8), nn.Tanh(),
        nn.Conv2d(8, 4, (1, 3), groups=2, dilation=(2, 1)), nn.BatchNorm2d(4, affine=False), nn.Flatten(),
    ).double()  # fmt: skip
    inputs = torch.randn(5, 3, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        model(3 * inputs + 1)
        for k in (1, 4):
            model[k].weight.normal_()
            model[k].bias.normal_()
        model[1].weight[2] = 0
    model.eval()
    names = names or names_of(model)
    squares = GradientSquares(model, names, pairs=[("0", "1"), ("3", "4"), ("6", "7")])
    with squares.recording():
        values = model(inputs).square().sum(1)
    assert {folded.folds for folded in squares._folded} == {forms}
    sums, found = squares.sums_and_squares(values, 5)
    chosen = [dict(model.named_parameters())[name] for name in names]
    rows = [torch.autograd.grad(model(one[None]).square().sum(), chosen) for one in inputs]
    expected = torch.tensor([[float(g.square().sum()) for g in row] for row in rows], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e4 * EPS, atol=1e2 * EPS * float(expected.max()))
    for total, parts in zip(sums, zip(*rows, strict=True), strict=True):
        torch.testing.assert_close(total, sum(parts), rtol=1e4 * EPS, atol=1e3 * EPS * float(total.abs().max()))
    assert "forward" not in vars(model[0])
    assert "forward" not in vars(model[1])


class Words(nn.Module):
    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(7, 4, **settings), nn.Linear(4, 3)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.table(words)).relu().sum(1)


@pytest.mark.parametrize("settings", [{}, {"padding_idx": 2}])
def test_embedding(settings: dict[str, Any]) -> None:
    model = Words(**settings).double()
    words = torch.tensor([[1, 2, 1, 5, 1], [2, 2, 0, 3, 6], [4, 4, 4, 4, 4], [0, 1, 2, 3, 4]])
    agree(model, lambda: model(words))


class Remembers(nn.Module):
    """An LSTM whose first states depend on parameters, and whose outputs and last states all count."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.rnn = nn.LSTM(3, 4, **settings)
        self.states, self.places = nn.Linear(3, 4), self.rnn.num_layers * (1 + self.rnn.bidirectional)

    def forward(self, x: Tensor) -> Tensor:
        first = torch.tanh(self.states(x[:, :2]))  # (B, 2, H)
        hx = [first[:, k].expand(self.places, -1, -1).contiguous() for k in (0, 1)]
        outputs, (hidden, cell) = self.rnn(x if self.rnn.batch_first else x.transpose(0, 1), (hx[0], hx[1]))
        outputs = outputs if self.rnn.batch_first else outputs.transpose(0, 1)
        return outputs.sin().sum((1, 2)) + hidden.square().sum((0, 2)) + cell.cos().sum((0, 2))


@pytest.mark.parametrize(
    "settings", [{"batch_first": True}, {"num_layers": 2, "bidirectional": True}, {"bias": False, "batch_first": True}]
)
def test_lstms_in_one_piece(settings: dict[str, Any]) -> None:
    """Values, sums, squares and rows are those of torch's own LSTM, sample by sample."""
    torch.manual_seed(0)
    model, inputs = Remembers(**settings).double(), torch.randn(4, 5, 3, dtype=torch.float64)
    rows = [torch.autograd.grad(model(one[None]).sum(), list(model.parameters())) for one in inputs]
    squares = GradientSquares(model, names_of(model))
    with squares.recording():
        values = model(inputs)
    torch.testing.assert_close(values, model(inputs), rtol=1e2 * EPS, atol=1e2 * EPS)
    for number, part, found in squares.rows(values, 1 << 10):
        expected = torch.stack([row[number].flatten()[part] for row in rows], 1)
        torch.testing.assert_close(found, expected, rtol=1e4 * EPS, atol=1e3 * EPS)
    sums, norms = squares.sums_and_squares(values, 4)
    expected = torch.stack([torch.stack([g.square().sum() for g in row]) for row in rows])
    torch.testing.assert_close(norms, expected, rtol=1e4 * EPS, atol=1e3 * EPS)
    for total, parts in zip(sums, zip(*rows, strict=True), strict=True):
        torch.testing.assert_close(total.double(), sum(parts), rtol=1e4 * EPS, atol=1e3 * EPS)


class Shared(nn.Module):
    """Every kind of layer called twice, on inputs of other sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(x)))
        x = F.relu(self.norm(self.conv(x[:, :, ::2])))
        x = x.mean((2, 3))
        return self.head(x) + self.head(x.square())


def test_calls_of_a_shared_module_add_up() -> None:
    model = evaluated(Shared())
    inputs = torch.randn(3, 2, 4, 5, dtype=torch.float64)
    agree(model, lambda: model(inputs))
    words, first = Words().double(), torch.tensor([[1, 2, 3], [4, 4, 0]])
    agree(words, lambda: words(first) + words(first.flip(0)[:, :2]))


@pytest.mark.parametrize("layer", ["Linear, positions", "Conv2d", "BatchNorm2d"])
def test_outputs_written_to_in_place(layer: str) -> None:
    """The gradient is that of the layer's own output, also where a ReLU takes its memory."""
    model, inputs = network(layer)
    assert isinstance(model, Head)
    body = nn.Sequential(model.first, nn.ReLU(inplace=True), model.layer, nn.ReLU(inplace=True))
    run = functools.partial(body, inputs)
    agree(model.first, lambda: run().flatten(1))
    agree(model.layer, lambda: run().flatten(1))


def test_hooks_of_the_user_are_seen_behind_the_layer() -> None:
    model, inputs = network("Linear")
    model.get_submodule("layer").register_forward_hook(lambda _module, _inputs, output: 3 * output)
    agree(model, lambda: model(inputs))


def test_unused_layers_and_no_seeds_give_zeros() -> None:
    model = nn.ModuleDict({"used": nn.Linear(2, 3), "unused": nn.Linear(2, 3), "uncalled": nn.Linear(2, 3)}).double()
    inputs = torch.randn(4, 2, dtype=torch.float64)
    squares = GradientSquares(model, names_of(model))
    with squares.recording():
        outputs = model["used"](inputs)
        model["unused"](inputs)
    result = squares.of(outputs, torch.ones_like(outputs)[None])
    assert bool((result[:, :2] > 0).all())
    assert not result[:, 2:].any()
    fresh = GradientSquares(model, names_of(model))
    with fresh.recording():
        outputs = model["used"](inputs)
    assert not fresh.of(outputs, outputs.new_zeros(0, *outputs.shape)).any()


def test_only_the_named_parameters_in_their_order() -> None:
    model, inputs = network("BatchNorm2d")
    names = ["layer.bias", "first.weight"]
    seeds = torch.ones(1, 4, 3, dtype=torch.float64)
    expected = by_loop(model, lambda: model(inputs), seeds, names)
    torch.testing.assert_close(by_rules(model, lambda: model(inputs), seeds, names), expected, rtol=1e4 * EPS, atol=0)
    with pytest.raises(InputError, match=r"did you mean 'layer.weight'"):
        GradientSquares(model, ["layer.weigth"])
    model.get_parameter("layer.bias").requires_grad_(False)
    with pytest.raises(InputError, match=r"no trainable parameter is called 'layer.bias'"):
        GradientSquares(model, names)


def test_chunks_of_other_sizes_follow_each_other() -> None:
    model, inputs = network("Conv2d")
    squares = GradientSquares(model, names_of(model))
    for chunk in (inputs[:3], inputs[3:], inputs[:2], inputs):
        seeds = torch.randn(2, len(chunk), 3, dtype=torch.float64)
        with squares.recording():
            outputs = model(chunk)
        expected = by_loop(model, lambda chunk=chunk: model(chunk), seeds, names_of(model))
        torch.testing.assert_close(squares.of(outputs, seeds), expected, rtol=1e4 * EPS, atol=0)


def test_places_with_a_large_common_part() -> None:
    """Whose gradients all but take each other out: float32 sees what float64 does."""
    torch.manual_seed(0)
    layer, parts = nn.Linear(40, 40, bias=False), torch.randn(6, 5, 40)
    inputs, seeds = 1 + 1e-2 * torch.randn(6, 5, 40), parts - parts.mean(1, keepdim=True)
    found = []
    for dtype in (torch.float32, torch.float64):
        model, x = copy.deepcopy(layer).to(dtype), inputs.to(dtype)
        squares = GradientSquares(model, ["weight"])
        with squares.recording():
            values = (model(x) * seeds.to(dtype)).flatten(1).sum(1)
        found.append(squares.sums_and_squares(values, 6)[1])
    torch.testing.assert_close(found[0], found[1], rtol=2e-5, atol=0)


def test_float32_models() -> None:
    model, inputs = network("Conv2d")
    seeds = torch.randn(2, 4, 3)
    exact = by_loop(model, lambda: model(inputs), seeds.double(), names_of(model))
    single = copy.deepcopy(model).float()
    found = by_rules(single, lambda: single(inputs.float()), seeds, names_of(model))
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=0)


# -- what has no rule ---------------------------------------------------------------------------------------------


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.embed(words)).sum(1)


class Own(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).square()


def recorded(model: nn.Module, run: Callable[[], Tensor]) -> tuple[str, ...]:
    """What `of` finds unsupported, which it must refuse."""
    squares = GradientSquares(model, names_of(model))
    with squares.recording():
        outputs = run()
    with pytest.raises(InputError, match="per-sample gradients cannot be had") as caught:
        squares.of(outputs, torch.ones_like(outputs)[None])
    assert squares.unsupported
    assert all(reason in str(caught.value) for reason in squares.unsupported)
    return squares.unsupported


def test_modules_without_a_rule() -> None:
    for model, reason in [
        (Tied(), "embed.weight and head.weight are tied"),
        (nn.LSTM(2, 3), "weight_ih_l0 belongs to a LSTM, which has no rule for it"),
        (Own(2, 3), "weight belongs to a Own, which has no rule for it"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(2, 3)), "parametrizations.weight.original0 belongs to a "),
        (nn.Embedding(3, 2, max_norm=1.0), "max_norm and scale_grad_by_freq couple its rows"),
        (nn.MultiheadAttention(4, 2), "in_proj_weight belongs to a MultiheadAttention"),
    ]:
        assert any(reason in found for found in GradientSquares(model, names_of(model)).unsupported), reason
    patched = nn.Linear(2, 3)
    patched.forward = lambda x: x  # type: ignore[method-assign]
    assert GradientSquares(patched, ["weight"]).unsupported
    plain = type("Renamed", (nn.Linear,), {})(2, 3)
    assert not GradientSquares(plain, ["weight"]).unsupported


def test_parameters_used_outside_their_module() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    inputs = torch.randn(4, 3)
    assert recorded(model, lambda: model(inputs) + F.linear(inputs, model[0].weight)) == (
        "0.weight is used outside the module it belongs to",
    )
    assert recorded(model, lambda: model[1](model[0](inputs) + F.linear(inputs, model[0].weight))) == (
        "0.weight is used outside the module it belongs to",
    )
    attention = nn.MultiheadAttention(4, 2, batch_first=True)
    names = ["out_proj.weight"]
    squares = GradientSquares(attention, names)
    with squares.recording():
        outputs = attention(*[torch.randn(2, 3, 4)] * 3)[0]
    with pytest.raises(InputError, match=r"out_proj.weight is used outside"):
        squares.of(outputs, torch.ones_like(outputs)[None])


class Sequence(nn.Module):
    """Takes (B, L, C) and runs its layer on (L, B, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.transpose(0, 1)).sum(0)


def test_samples_must_be_the_first_axis() -> None:
    model = Sequence()
    assert "does not run over 4 samples" in recorded(model, lambda: model(torch.randn(4, 5, 3)))[0]
    # As many positions as samples: the shape does not tell.
    assert recorded(model, lambda: model(torch.randn(4, 4, 3))) == (
        "layer: samples meet behind it, or are not the first axis of its input",
    )


def test_samples_must_not_meet() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    assert any("statistics of the batch" in reason for reason in recorded(model, lambda: model(torch.randn(4, 3))))
    mixing = nn.Linear(3, 2)
    assert "samples meet" in recorded(mixing, lambda: mixing(torch.randn(4, 3)).softmax(0))[0]


def test_inputs_written_to_and_missing_derivatives() -> None:
    model = nn.Linear(3, 2)
    x = torch.randn(4, 3)

    def write() -> Tensor:
        outputs = model(x)
        x.zero_()
        return outputs

    assert "written to" in recorded(model, write)[0]

    def without() -> Tensor:
        with torch.no_grad():
            model(x)
        return model(x)

    assert "runs without derivatives" in recorded(model, without)[0]


def test_the_model_is_left_as_it_was() -> None:
    model, inputs = network("Conv2d")

    def state() -> list[Any]:
        return [
            [(len(m._forward_hooks), len(m._forward_pre_hooks), m.training) for m in model.modules()],
            [(p.requires_grad, p.grad, p.data_ptr(), p._version) for p in model.parameters()],
            torch.is_grad_enabled(),
            torch.random.get_rng_state().tolist(),
        ]

    before = state()
    by_rules(model, lambda: model(inputs), torch.ones(1, 4, 3, dtype=torch.float64), names_of(model))
    assert piecewise_linear(model, lambda: model(inputs)) == ()
    assert state() == before

    def fails() -> Tensor:
        model(inputs)
        return model(inputs[0, 0, 0])

    squares = GradientSquares(model, names_of(model))
    with pytest.raises(RuntimeError), squares.recording():
        fails()
    with pytest.raises(RuntimeError):
        piecewise_linear(model, fails)
    assert state() == before


# -- factors of output Hessians -----------------------------------------------------------------------------------


def outer(seeds: Tensor) -> Tensor:
    flat = seeds.flatten(2)
    return torch.einsum("sbc,sbd->bcd", flat, flat)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_softmax_seeds(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    outputs = torch.randn(50, 7, dtype=dtype) * torch.logspace(-2, 2.5, 50, dtype=dtype)[:, None]
    p = outputs.double().softmax(1)
    exact = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    seeds = softmax_seeds(outputs)
    assert seeds.shape == (6, 50, 7)
    assert seeds.dtype == dtype
    eps = torch.finfo(dtype).eps
    # The softmax itself has relative errors of eps |outputs|.
    torch.testing.assert_close(outer(seeds.double()), exact, rtol=0, atol=20 * eps)
    small = torch.tensor([[40.0, 0.0, -3.0]], dtype=dtype)  # 1 - p_0 = 4e-18 is below eps, and still right
    q = small.double().softmax(1)
    torch.testing.assert_close(
        outer(softmax_seeds(small).double())[0, 0, 0], q[0, 0] * (q[0, 1] + q[0, 2]), rtol=100 * eps, atol=0
    )


@pytest.mark.parametrize("logits", [[0.0, -1e4, -2e4], [-1e4, 0.0, -1e4], [-2e4, -1e4, 0.0]])
def test_softmax_seeds_of_certain_samples_are_finite(logits: list[float]) -> None:
    assert float(softmax_seeds(torch.tensor([logits])).abs().amax()) < 1e-18  # NaN fails, too


def test_output_seeds_agree_with_the_closed_forms() -> None:
    torch.manual_seed(0)
    z, targets = torch.randn(6, 5, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 4, 0])
    seeds = output_seeds(lambda o: F.cross_entropy(o, targets, reduction="none"), z)
    assert seeds.shape == (4, 6, 5)
    torch.testing.assert_close(outer(seeds), outer(softmax_seeds(z)), rtol=0, atol=50 * EPS)
    squared = output_seeds(lambda o: (o - 1).square().sum(1), z)
    torch.testing.assert_close(outer(squared), 2 * torch.eye(5, dtype=torch.float64).expand(6, 5, 5))
    images = torch.randn(3, 2, 4)
    weighted = output_seeds(lambda o: torch.tensor([1.0, 0.0, 3.0]) * o.square().flatten(1).sum(1), images)
    assert weighted.shape == (8, 3, 2, 4)
    assert weighted.dtype == torch.float32
    torch.testing.assert_close(outer(weighted)[2], 6 * torch.eye(8))
    assert not weighted[:, 1].any()


def test_output_seeds_where_a_network_is_sure() -> None:
    """Curvatures of a loss of the user's own are then differences of numbers near 1; -1e-17 is no negative one."""
    z = torch.tensor([[gap, 0.0, 1.0, -2.0] for gap in range(25, 45)], dtype=torch.float64)
    for sample in z[:, None]:
        seeds = output_seeds(lambda o: F.cross_entropy(o, torch.tensor([0]), reduction="none"), sample)
        torch.testing.assert_close(outer(seeds), outer(softmax_seeds(sample)), rtol=0, atol=4 * EPS)


def test_output_seeds_of_losses_without_curvature() -> None:
    z = torch.randn(4, 3)
    assert output_seeds(lambda o: o.sum(1), z).shape == (0, 4, 3)
    assert output_seeds(lambda o: (o - 5).abs().sum(1), z).shape == (0, 4, 3)
    assert output_seeds(lambda o: torch.ones(4), z).shape == (0, 4, 3)


def test_output_seeds_refuse() -> None:
    z = torch.randn(4, 3)
    with pytest.raises(ValueError, match=r"sample 2 is not convex .* eigenvalue -4"):
        output_seeds(lambda o: torch.tensor([1.0, 1.0, -2.0, 1.0]) * o.square().sum(1), z)
    with pytest.raises(ValueError, match="depends on the outputs of others"):
        output_seeds(lambda o: (o - o.mean(0)).square().sum(1), z)
    with pytest.raises(ValueError, match=r"shape \(\) for 4 samples"):
        output_seeds(lambda o: o.square().sum(), z)
