"""BatchNorm folded into the layer before it: the same losses as the model as it is, and not where that is in doubt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landscape.objective.folding import Pair, foldable_pairs, folded
from landscape.objective.objective import Objective

N, CLASSES = 21, 3
IMAGES, VOLUMES, SIGNALS, ROWS = (2, 6, 6), (2, 4, 4, 4), (2, 9), (5,)


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def conv(inputs: int = 2, outputs: int = 4, **settings: Any) -> nn.Module:
    return nn.Conv2d(inputs, outputs, 3, **{"padding": 1, **settings})


class Net(nn.Module):
    """Layers by name and a forward pass over them up to 4 channels, which are pooled to scores."""

    def __init__(self, forward: Callable[..., Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(layers)
        self.pass_, self.head = forward, nn.Linear(4, CLASSES)

    def forward(self, x: Tensor, skipped: Tensor | None = None) -> Tensor:
        features = self.pass_(self, x, **self.layers)
        if skipped is not None:  # by default not there, and a tracer must not think it is
            features = features + self.layers["conv"](x)
        return self.head(features.flatten(2).mean(2) if "conv" in self.layers else features.mean(1))


def chain(*layers: nn.Module) -> nn.Module:
    tail = [nn.Flatten(2), nn.AdaptiveAvgPool1d(1), nn.Flatten()] if not isinstance(layers[0], nn.Linear) else []
    return nn.Sequential(*layers, *tail, nn.Linear(4, CLASSES))


def net(forward: Callable[..., Tensor], **layers: nn.Module) -> Callable[[], nn.Module]:
    return lambda: Net(forward, **{"conv": conv(), "bn": nn.BatchNorm2d(4), **layers})


class Subclass(nn.Conv2d):
    """Like those of torch's own quantised networks, which a tracer does not look into."""

    __module__ = "torch.nn.quantised"

    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class Statistics(nn.Module):
    """What feeds a BatchNorm through a function, not a layer."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, torch.ones(4, 2, 3, 3, dtype=x.dtype), padding=1)


def hooked() -> nn.Module:
    model = chain(conv(), nn.BatchNorm2d(4), nn.ReLU())
    model[2].register_forward_hook(lambda module, inputs, output: 2 * output)
    return model


def replaced() -> nn.Module:
    layer = conv()
    layer.forward = lambda x: 2 * nn.Conv2d.forward(layer, x)
    return chain(layer, nn.BatchNorm2d(4))


def shared_conv(m: nn.Module, x: Tensor, conv: nn.Module, bn: nn.Module, other: nn.Module) -> Tensor:
    return bn(conv(x)) + other(conv(x + 1))


def clamped(m: nn.Module, x: Tensor, conv: nn.Module, bn: nn.Module) -> Tensor:
    conv.weight.data.clamp_(-0.1, 0.1)
    return bn(conv(x))


def branching(m: nn.Module, x: Tensor, conv: nn.Module, bn: nn.Module) -> Tensor:
    y = conv(x)
    return bn(y) if bool(x.sum() < 1e6) else bn(y) + y


def joined(m: nn.Module, x: Tensor, conv: nn.Module, bn: nn.Module) -> Tensor:
    """A tracer's stand-ins for tensors are no Tensor, so it goes past the second reader of the convolution's output."""
    y = conv(x)
    return bn(y) + (y if isinstance(x, Tensor) else 0)


def written(m: nn.Module, x: Tensor, conv: nn.Module, bn: nn.Module) -> Tensor:
    bn.num_batches_tracked.add_(1)
    return bn(conv(x))


# name: (model, shape of a sample, pairs that are folded)
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "two": (
        lambda: chain(conv(2, 6, bias=False), nn.BatchNorm2d(6), nn.ReLU(True), conv(6, 4), nn.BatchNorm2d(4)),
        IMAGES,
        2,
    ),
    "before it": (
        lambda: chain(nn.BatchNorm2d(2), nn.ReLU(), conv(), nn.BatchNorm2d(4, eps=0.1), nn.ReLU(), conv(4, 4)),
        IMAGES,
        1,
    ),
    "not affine": (lambda: chain(conv(bias=False), nn.BatchNorm2d(4, affine=False)), IMAGES, 1),
    "not affine, bias": (lambda: chain(conv(), nn.BatchNorm2d(4, affine=False)), IMAGES, 1),
    "grouped, strided": (lambda: chain(conv(groups=2, stride=2, dilation=2), nn.BatchNorm2d(4)), IMAGES, 1),
    "reflected": (lambda: chain(conv(padding_mode="reflect"), nn.BatchNorm2d(4)), IMAGES, 1),
    "1-d": (lambda: chain(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4)), SIGNALS, 1),
    "3-d": (lambda: chain(nn.Conv3d(2, 4, 3), nn.BatchNorm3d(4)), VOLUMES, 1),
    "linear": (lambda: chain(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU()), ROWS, 1),
    # Axis 1, which the norm's scales go by, is not the axis of the Linear's outputs, though both are 4 long.
    "linear, other axis": (
        lambda: Net(lambda m, x, fc, bn: bn(fc(x)).tanh(), fc=nn.Linear(5, 4), bn=nn.BatchNorm1d(4)),
        (4, 5),
        1,
    ),
    "optional argument": (net(lambda m, x, conv, bn: bn(conv(x))), IMAGES, 1),
    "transposed": (lambda: chain(nn.ConvTranspose2d(2, 4, 3), nn.BatchNorm2d(4)), IMAGES, 0),
    "pooled between": (lambda: chain(conv(), nn.AvgPool2d(2), nn.BatchNorm2d(4)), IMAGES, 0),
    "function": (lambda: chain(Statistics(), nn.BatchNorm2d(4)), IMAGES, 0),
    "subclass": (lambda: chain(Subclass(2, 4, 3), nn.BatchNorm2d(4), conv(4, 4)), IMAGES, 0),
    "parametrised": (
        lambda: chain(torch.nn.utils.parametrizations.weight_norm(conv()), nn.BatchNorm2d(4)),
        IMAGES,
        0,
    ),
    "hook": (hooked, IMAGES, 0),
    "output read twice": (net(lambda m, x, conv, bn: bn(y := conv(x)) + y), IMAGES, 0),
    "output read as a view": (net(lambda m, x, conv, bn: bn(y := conv(x)) + y.detach()), IMAGES, 0),
    "read where a tracer does not look": (net(joined), IMAGES, 0),
    "shared convolution": (net(shared_conv, other=nn.BatchNorm2d(4)), IMAGES, 0),
    "shared norm": (net(lambda m, x, conv, bn, other: bn(conv(x)) + bn(other(x)), other=conv()), IMAGES, 0),
    "weights written to": (net(clamped), IMAGES, 0),
    "buffers written to": (net(written), IMAGES, 0),
    "forward replaced": (replaced, IMAGES, 0),
    "branch on values": (net(branching), IMAGES, 0),
}


def disturbed(model: nn.Module) -> nn.Module:
    """Trained for a while, as it were: no BatchNorm near the identity."""
    model = model.double().eval()
    generator = torch.Generator().manual_seed(3)

    def noise(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, dtype=tensor.dtype, generator=generator)

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.copy_(noise(module.running_mean))
                module.running_var.copy_((noise(module.running_var) / 2).exp())
                if module.affine:
                    module.weight.copy_(noise(module.weight))
                    module.bias.copy_(noise(module.bias))
    return model


def data(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return seeded(N, *shape, seed=2).to(dtype), torch.randint(CLASSES, (N,), generator=generator)


def oracle(objective: Objective, model: nn.Module, theta: Tensor, buffers: dict[str, Tensor], inputs: Tensor) -> Tensor:
    """The model's outputs by its own modules, all of them."""
    values = {block.name: theta[block.slice].view(block.shape) for block in objective.layout.blocks}
    with torch.no_grad():
        return torch.func.functional_call(model, {**objective.buffers, **values, **buffers}, (inputs,))


def moved(objective: Objective, seed: int = 5) -> Tensor:
    return objective.theta + 0.2 * seeded(objective.layout.size, seed=seed).to(objective.theta)


@pytest.mark.parametrize("name", CASES)
def test_losses_are_those_of_the_model_as_it_is(name: str) -> None:
    build, shape, pairs = CASES[name]
    torch.manual_seed(0)
    model = disturbed(build())
    inputs, targets = data(shape)
    objective = Objective(model, "cross_entropy", (inputs, targets))
    assert len(objective._folding.pairs) == pairs
    given = {k: b + 0.5 for k, b in objective.buffers.items() if k.endswith(("running_mean", "running_var"))}
    for theta in (objective.theta, moved(objective)):
        for buffers in ({}, given):
            expected = F.cross_entropy(oracle(objective, model, theta, buffers, inputs), targets)
            assert float(objective.evaluate(theta, buffers=buffers)["loss"]) == pytest.approx(
                float(expected), rel=1e-12
            )


# What the graph cannot show, and the trial of the outputs or the objective's other questions do.
UNSEEN = ("read where a tracer does not look", "buffers written to")


@pytest.mark.parametrize("name", CASES)
def test_the_graph_shows_who_reads_an_output(name: str) -> None:
    build, shape, pairs = CASES[name]
    with torch.no_grad():
        found = foldable_pairs(build().double().eval(), lambda model, batch: (model(batch[0]), batch[1]), data(shape))
    assert len(found) == pairs + (name in UNSEEN)


def test_a_new_batchnorm_hides_nothing() -> None:
    """It is the identity but for its eps, so the outputs at the centre are the same whoever reads its input."""
    inputs, targets = data(IMAGES, torch.float32)
    objective = Objective(net(joined)().eval(), "cross_entropy", (inputs, targets))
    assert objective._folding.pairs == ()


def convolutional() -> nn.Sequential:
    torch.manual_seed(0)
    model = disturbed(chain(conv(bias=False), nn.BatchNorm2d(4), nn.ReLU(), conv(4, 4), nn.BatchNorm2d(4)))
    assert isinstance(model, nn.Sequential)
    return model


def test_evaluate_folds_and_nothing_else_does(monkeypatch: pytest.MonkeyPatch) -> None:
    objective = Objective(convolutional(), "cross_entropy", data(IMAGES))

    def forward(*_: object) -> Tensor:
        raise AssertionError("a BatchNorm is called")

    monkeypatch.setattr(nn.BatchNorm2d, "forward", forward)
    objective.evaluate()
    with pytest.raises(AssertionError), objective._model.at(objective.theta) as model:
        model(data(IMAGES)[0])


@pytest.mark.parametrize(("precision", "rtol"), [("float32", 1e-5), ("bf16", 2e-2)])
def test_in_lower_precision(precision: str, rtol: float) -> None:
    model = convolutional().float()
    inputs, targets = data(IMAGES, torch.float32)
    objective = Objective(model, "cross_entropy", (inputs, targets), precision=precision)
    assert len(objective._folding.pairs) == 2
    theta = moved(objective)
    expected = float(F.cross_entropy(oracle(objective, model, theta, {}, inputs), targets))
    assert float(objective.evaluate(theta)["loss"]) == pytest.approx(expected, rel=rtol)
    assert float(objective.evaluate(theta, full_precision=True)["loss"]) == pytest.approx(expected, rel=1e-5)


def test_mappings_are_folded_too() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = convolutional()

        def forward(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
            return self.net(images)

    inputs, targets = data(IMAGES)
    objective = Objective(Named(), "cross_entropy", {"images": inputs, "labels": targets})
    assert len(objective._folding.pairs) == 2
    plain = F.cross_entropy(oracle(objective, Named().double(), objective.theta, {}, inputs), targets)
    assert float(objective.evaluate()["loss"]) == pytest.approx(float(plain), rel=1e-12)


def test_functions_of_the_users_call_submodules_as_they_are() -> None:
    model = convolutional()
    inputs, targets = data(IMAGES)

    def forward(m: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        first = m[0](batch[0])
        return m[-1](first.mean((2, 3))) + m(batch[0]), batch[1]

    objective = Objective(model, "cross_entropy", (inputs, targets), forward=forward)
    with torch.no_grad():
        expected = F.cross_entropy(*forward(model, (inputs, targets)))
    assert float(objective.evaluate()["loss"]) == pytest.approx(float(expected), rel=1e-12)


def test_losses_see_weights_and_submodules_as_they_are() -> None:
    model = convolutional()
    inputs, targets = data(IMAGES)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        decay = sum(p.square().sum() for p in model.parameters()) + model[1].running_var.sum()
        own = model[1](model[0](inputs)).square().mean()
        return F.cross_entropy(outputs, targets, reduction="none") + decay + own

    objective = Objective(model, loss, (inputs, targets))
    assert len(objective._folding.pairs) == 2
    with torch.no_grad():
        expected = loss(model(inputs), targets).mean()
    assert float(objective.evaluate()["loss"]) == pytest.approx(float(expected), rel=1e-12)


def test_outputs_that_are_kept_for_the_loss_are_left_alone() -> None:
    class Keeping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.features = convolutional(), torch.zeros(())

        def forward(self, x: Tensor) -> Tensor:
            self.features = self.net[0](x)
            self.seen = x
            if not isinstance(x, Tensor):
                self.traced = x
            y = self.features
            for layer in list(self.net)[1:]:
                y = layer(y)
            return y

    model = Keeping()
    inputs, targets = data(IMAGES)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets, reduction="none") + model.features.square().mean((1, 2, 3))

    objective = Objective(model, loss, (inputs, targets))
    assert [pair.layer for pair in objective._folding.pairs] == [model.net[3]]
    assert type(model.seen) is type(model.features) is Tensor  # not what a tracer passes around
    assert not hasattr(model, "traced")
    with torch.no_grad():
        expected = loss(model(inputs), targets).mean()
    assert float(objective.evaluate()["loss"]) == pytest.approx(float(expected), rel=1e-12)


def test_models_with_derivatives_inside_are_left_alone() -> None:
    def slopes(m: nn.Module, x: Tensor, conv: nn.Module, bn: nn.Module) -> Tensor:
        x = x.detach().requires_grad_()
        return torch.cat(torch.autograd.grad(bn(conv(x)).square().sum(), x) * 2, 1)

    torch.manual_seed(0)
    model = disturbed(net(slopes)())
    inputs, targets = data(IMAGES)
    objective = Objective(model, "cross_entropy", (inputs, targets))
    assert objective._folding.pairs == ()
    expected = F.cross_entropy(model(inputs), targets).item()
    assert float(objective.evaluate()["loss"]) == pytest.approx(expected, rel=1e-12)


def test_hooks_of_a_later_day_see_what_they_always_did() -> None:
    model = convolutional()
    inputs, targets = data(IMAGES)
    objective = Objective(model, "cross_entropy", (inputs, targets))
    seen: list[Tensor] = []
    with torch.no_grad():
        expected = model[0](inputs)
    model[0].register_forward_hook(lambda module, args, output: seen.append(output))
    objective.evaluate()
    assert torch.allclose(torch.cat(seen), expected, rtol=1e-12)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_modules_are_whole_again_after_an_error(error: type[BaseException]) -> None:
    class Failing(nn.Module):
        fails = False

        def forward(self, x: Tensor) -> Tensor:
            if Failing.fails:
                raise error
            return x

    model = convolutional()
    model.insert(3, Failing())
    inputs, targets = data(IMAGES)
    objective = Objective(model, "cross_entropy", (inputs, targets))
    assert len(objective._folding.pairs) == 2
    with torch.no_grad():
        before = model(inputs)
    Failing.fails = True
    with pytest.raises(error):
        objective.evaluate(moved(objective))
    Failing.fails = False
    assert not any("forward" in vars(module) for module in model.modules())
    with torch.no_grad():
        assert torch.equal(model(inputs), before)


def test_ranks_that_share_the_data_get_the_same_bits() -> None:
    class Group:
        size, sums = 2, None

        def allreduce_(self, array: Any) -> None:
            self.sums = array.copy() if self.sums is None else self.sums + array
            array[...] = self.sums

    model = convolutional().float()
    inputs, targets = seeded(50, *IMAGES).float(), torch.arange(50) % CLASSES
    objective = Objective(model, "cross_entropy", [(inputs[i : i + 8], targets[i : i + 8]) for i in range(0, 50, 8)])
    assert len(objective._folding.pairs) == 2
    group: Any = Group()
    for group.rank in range(2):
        shared = objective.evaluate(moved(objective), group=group)["loss"]
    assert shared == objective.evaluate(moved(objective))["loss"]


@pytest.mark.parametrize("affine", [True, False])
def test_all_pairs_at_once_are_each_by_itself_to_the_bit(affine: bool) -> None:
    """Layers with a bias and without, of one kind and of several, in the layout of images; with a graph, one by one."""
    torch.manual_seed(0)
    layers = [
        (conv(bias=False).to(memory_format=torch.channels_last), nn.BatchNorm2d(4)),
        (conv(), nn.BatchNorm2d(4, eps=1e-3, affine=affine)),
        (nn.Linear(5, 4), nn.BatchNorm1d(4)),
        (nn.Linear(5, 3, bias=False), nn.BatchNorm1d(3)),
    ]
    for _, norm in layers:
        for tensor in norm.state_dict().values():
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 2)
    pairs = [Pair(layer, norm) for layer, norm in layers]
    with torch.no_grad():
        together, apart = folded(pairs), [pair.folded() for pair in pairs]
        assert all(
            torch.equal(a, b)
            for one, other in zip(together, apart, strict=True)
            for a, b in zip(one, other, strict=True)
        )
        assert together[0][0].is_contiguous(memory_format=torch.channels_last)
    weight, shift = folded(pairs)[0]
    assert weight.requires_grad
    assert shift.requires_grad
