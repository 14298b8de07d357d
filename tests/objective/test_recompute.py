"""Blocks whose activations are computed again: derivatives are the same, and less is kept."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from typing import Any

import pytest
import spectrum_nets as nets
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import landscape as ls
from landscape.curvature.operator import CurvatureOperator

X, Y = nets.seeded(24, 6), nets.labels(24)


def products(objective: ls.Objective, operator: str = "hessian", **asked: Any) -> tuple[Tensor, Tensor, float]:
    """(products with a few vectors, gradient, bytes of a kept graph of a sample)."""
    with CurvatureOperator(objective, operator=operator, **asked) as H:
        assert H.check.route == "double backward"  # the others compute nothing again
        vectors = torch.randn(3, H.size, dtype=H.dtype, generator=torch.Generator().manual_seed(1))
        return H.apply(vectors), H.gradient(), H.check.graph_bytes


def require_same(model: nn.Module, data: Any = (X, Y), recompute: Any = True, **given: Any) -> tuple[float, float]:
    """Derivatives with and without are the same to rounding; (bytes of the graphs)."""
    asked = {name: given.pop(name) for name in ("operator", "params") if name in given}
    own = {name: vars(module).get("forward") for name, module in model.named_modules()}
    before = products(ls.Objective(model, data=data, precision="float64", **given), **asked)
    objective = ls.Objective(model, data=data, precision="float64", recompute=recompute, **given)
    after = products(objective, **asked)
    assert len(objective.recomputed) > 1
    for one, other in zip(before[:2], after[:2], strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-12 * float(one.abs().max()))
        assert bool(one.any())
    assert {name: vars(module).get("forward") for name, module in model.named_modules()} == own
    return before[2], after[2]


def deep(width: int = 6, count: int = 12) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [layer for _ in range(count) for layer in (nn.Linear(width, width), nn.Tanh())]
    return nn.Sequential(*layers, nn.Linear(width, 3))


@dataclasses.dataclass
class Passed:
    """What goes from one block to the next."""

    hidden: Tensor
    steps: int
    mask: Tensor


class Block(nn.Module):
    """With keyword arguments, nested inputs and outputs, dropout, and a weight that may be another's."""

    def __init__(self, shared: nn.Linear | None = None) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 10), shared or nn.Linear(10, 6)
        self.drop = nn.Dropout(0.5)

    def forward(self, passed: Passed, *, scale: dict[str, Tensor], twice: bool = False) -> tuple[Passed, Tensor]:
        hidden = passed.hidden + scale["by"] * self.drop(self.last(torch.tanh(self.first(passed.hidden))))
        hidden = torch.where(passed.mask, hidden, passed.hidden)
        return Passed(2 * hidden if twice else hidden, passed.steps + 1, passed.mask), hidden.square().mean(-1)


class Nested(nn.Module):
    def __init__(self, *, tied: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.scale = nn.Parameter(torch.tensor(0.7))
        first = Block()
        self.blocks = nn.ModuleList([first, Block(first.last if tied else None), Block()])
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        passed, more = Passed(x, 0, torch.tensor([True] * 5 + [False])), torch.zeros(len(x), dtype=x.dtype)
        for number, block in enumerate(self.blocks):
            passed, extra = block(passed, scale={"by": self.scale}, twice=number == 1)
            more = more + extra
        assert passed.steps == 3
        return self.head(passed.hidden) + more[:, None]  # type: ignore[no-any-return]


@pytest.mark.parametrize("operator", ["hessian", "ggn"])
def test_derivatives_of_a_deep_network_are_the_same_and_less_is_kept(operator: str) -> None:
    before, after = require_same(deep(), operator=operator)
    assert after < before / 3


def test_products_are_those_of_the_dense_hessian() -> None:
    model = deep(width=5, count=2)
    inputs = X[:, :5]
    with CurvatureOperator(ls.Objective(model, data=(inputs, Y), precision="float64", recompute=True)) as H:
        found = H.apply(torch.eye(H.size, dtype=torch.float64)).numpy()
    nets.close(found, nets.hessian_on(copy.deepcopy(model).double(), inputs.double(), Y))


def test_nested_arguments_tied_weights_and_dropout() -> None:
    before, after = require_same(Nested())
    assert after < before
    require_same(Nested(), params=["blocks.1.*", "head.bias"])
    require_same(Nested(tied=False), recompute=["blocks.0", "blocks.2"])


def test_hooks_see_what_they_change() -> None:
    model, seen = Nested(), []

    def double(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        seen.append(len(output))
        return 2 * output

    model.blocks[0].first.register_forward_hook(double)  # type: ignore[union-attr]
    model.blocks[1].register_forward_hook(lambda _m, _i, output: (output[0], 3 * output[1]))
    require_same(model)
    assert seen


def test_convolutions_with_frozen_statistics() -> None:
    torch.manual_seed(0)

    def stage(width: int, to: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(width, to, 3, padding=1), nn.BatchNorm2d(to), nn.Tanh())

    layers = nn.Sequential(stage(2, 4), stage(4, 4), stage(4, 3))
    model = nn.Sequential(nn.Unflatten(1, (2, 3, 1)), layers, nn.Flatten(), nn.Linear(9, 3))
    objective = ls.Objective(model, data=(X, Y), recompute=True)
    assert objective.recomputed == ("1.0", "1.1", "1.2")
    require_same(model)


def test_eigenvalues_with_vectors_in_a_file_and_critical_sharpness() -> None:
    plain, again = (ls.Objective(deep(count=4), data=(X, Y), recompute=recompute) for recompute in (False, True))
    asked: dict[str, Any] = {"k": 2, "trace": False, "density": False, "memory": "streamed"}
    one, other = (ls.measure_spectrum(objective, **asked) for objective in (plain, again))
    assert other.eigenvalues == pytest.approx(one.eigenvalues, rel=1e-6)
    assert plain.identity() == again.identity()  # a run that ran out of memory may go on so
    assert float(ls.critical_sharpness(again)) == pytest.approx(float(ls.critical_sharpness(plain)), rel=1e-5)


def test_torchs_own_checkpoint_keeps_as_much_as_without() -> None:
    """If it did not, it could take the place of this."""

    class Checkpointed(nn.Sequential):
        def forward(self, input: Tensor) -> Tensor:
            if not torch.is_grad_enabled():
                return super().forward(input)  # type: ignore[no-any-return]
            for start in range(0, len(self), 5):
                part = nn.Sequential(*list(self)[start : start + 5])
                input = torch.utils.checkpoint.checkpoint(part, input, use_reentrant=False)
            return input

    plain, again = deep(), Checkpointed(*deep())
    kept = []
    for model in (plain, again):
        x = torch.randn(512, 6)
        alive: dict[int, int] = {}
        gradients = torch.autograd.grad(
            F.cross_entropy(model(x), torch.zeros(512).long()), list(model.parameters()), create_graph=True
        )
        nodes = [g.grad_fn for g in gradients]
        seen = set()
        while nodes:
            node = nodes.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            for name in dir(node):
                if name.startswith("_saved_"):
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        tensor = getattr(node, name, None)
                    if isinstance(tensor, Tensor):
                        alive[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            nodes.extend(other for other, _ in node.next_functions)
        kept.append(sum(alive.values()))
    assert kept[1] > 0.8 * kept[0]


# -- what is refused ---------------------------------------------------------------------------------------------------


class Counting(nn.Linear):
    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x) * self.calls


class Borrowing(nn.Linear):
    other: list[nn.Linear]

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + F.linear(x, self.other[0].weight)


class InPlace(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.tanh_(x))


class Listed(nn.Module):
    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Linear(6, 6), middle, nn.Linear(6, 3)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def borrowing() -> nn.Module:
    model = Listed(Borrowing(6, 6))
    model.layers[1].other = [model.layers[0]]  # type: ignore[union-attr]
    return model


def hooked() -> nn.Module:
    model = Listed(nn.Linear(6, 6))
    next(model.layers[1].parameters()).register_hook(lambda slope: 2 * slope)
    return model


class Reset(Listed):
    def forward(self, x: Tensor) -> Tensor:
        vars(self.layers[1])["calls"] = 0
        return super().forward(x)


class Unused(Listed):
    def forward(self, x: Tensor) -> Tensor:
        return self.layers[2](self.layers[0](x))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("model", "recompute", "told"),
    [
        (Listed(InPlace(6, 6)), True, "block 'layers.1'.* writes to what it is given"),
        (borrowing(), True, "takes parameter 'layers.0.*neither given to it nor its own"),
        (hooked(), True, "'layers.1.weight' has a hook"),
        (Reset(Counting(6, 6)), True, "block 'layers.1'.* answers otherwise"),
        (Unused(nn.Linear(6, 6)), True, "block 'layers.1' is not called"),
        (nn.Linear(6, 3), True, "no ModuleList or Sequential"),
        (Nested(tied=False), ["blocks", "blocks.1.last"], "block 'blocks.1.last' lies in block 'blocks.1'"),
        (Nested(tied=False), ["blocks.1.last", "blocks"], "block 'blocks.1.last' lies in block 'blocks.1'"),
        (Listed(nn.Linear(6, 6)), ["layer.1"], "no module 'layer.1'"),
        (Listed(nn.Linear(6, 6)), [], "give true, or names"),
        (Listed(nn.Linear(6, 6)), 3, "give True or False or a text or a list"),
    ],
)
def test_what_cannot_be_computed_again_is_refused(model: nn.Module, recompute: Any, told: str) -> None:
    with pytest.raises(ls.InputError, match=told):
        ls.Objective(model, data=(X, Y), recompute=recompute)


def test_which_modules_are_blocks() -> None:
    def names(model: nn.Module) -> tuple[str, ...]:
        return ls.Objective(model, data=(X, Y), recompute=True).recomputed

    assert names(deep(count=4)) == ("0", "3", "6")  # nine layers, three at a time
    body = nn.Sequential(*[nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(4)])
    assert names(nn.Sequential(nn.Linear(6, 6), body, nn.Linear(6, 3))) == ("1.0", "1.1", "1.2", "1.3")
    shared = Listed(nn.Linear(6, 6))
    shared.layers[1] = shared.layers[0]
    assert names(shared) == ("layers.0", "layers.2")
    require_same(shared)
    assert names(Nested()) == ("blocks.0", "blocks.1", "blocks.2")
