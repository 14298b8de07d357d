"""How a route to second derivatives is chosen, and what products refuse."""

from __future__ import annotations

import gc
import logging
import warnings
import weakref
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
import spectrum_nets as nets
import torch
import torch.nn.functional as F
from spectrum_nets import Array, close, labels, matrix_of, seeded
from torch import Tensor, nn

from landscape.curvature.check import ProductCheck
from landscape.curvature.operator import CurvatureOperator
from landscape.curvature.routes import ROUTES
from landscape.errors import InputError, NumericalError
from landscape.objective.objective import Objective
from landscape.objective.parameters import select_blocks

N = 23
X, Y = seeded(N, 4), labels(N)


def route(name: str) -> ProductCheck:
    return ProductCheck(name, 0.0, 0.0, 0.0, 0.0, {})


def mlp() -> nn.Module:
    return nets.tanh_net()


def true_hessian(model: nn.Module) -> Array:
    return nets.hessian_on(model, X, Y)


# -- the self-check ---------------------------------------------------------------------------------------------------


class Once(torch.autograd.Function):
    """tanh whose derivative is right and has none of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.tanh()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return slope * (1 - y * y)


class Wrong(torch.autograd.Function):
    """tanh whose derivative is right, and the derivative of that wrong without a word: y is taken for a constant."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.tanh()
        ctx.y = y.detach()
        return y

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return slope * (1 - ctx.y * ctx.y)


class Applied(nn.Module):
    def __init__(self, function: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.one, self.two, self._function = nn.Linear(4, 5), nn.Linear(5, 3), function

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self._function.apply(self.one(x)))


@pytest.mark.parametrize(
    ("function", "reason"),
    [(Once, "off by"), (Wrong, "off by")],
)
def test_second_derivative_missing_or_wrong(
    function: type[torch.autograd.Function], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Another route is taken, and the reason told; products are right.

    autograd.grad stops at a once-differentiable function without its error, so that it is silently wrong as well.
    """
    model = nets.settled(Applied(function))
    objective = Objective(model, "cross_entropy", (X, Y))
    with caplog.at_level(logging.WARNING), CurvatureOperator(objective) as H:
        assert H.check.route == "finite differences"
        assert set(H.check.refused) == {"double backward", "forward over reverse"}
        assert reason in H.check.refused["double backward"]
        found = nets.entries(H)
    assert "double backward is not used for hessian products" in caplog.text
    plain = mlp()
    plain.load_state_dict(dict(zip(plain.state_dict(), model.state_dict().values(), strict=True)))
    close(found, true_hessian(plain), 1e-7)
    close(
        matrix_of(objective, params="two"), true_hessian(plain)[25:, 25:], 1e-12
    )  # the way out that the message names


@pytest.mark.parametrize("dim", [0, 1, None])
def test_old_weight_norm(dim: int | None) -> None:
    """Its second derivative is silently wrong for dim=0; whatever the route, the product is right."""
    model = nets.settled(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.nn.utils.weight_norm(model[0], dim=dim)
    with torch.no_grad():
        model[0].weight_g.mul_(1.3)
    with CurvatureOperator(Objective(model, "cross_entropy", (X, Y))) as H:
        found = nets.entries(H)
        route, refused = H.check.route, H.check.refused
    if dim == 0:
        assert route != "double backward"
        assert "off by" in refused["double backward"]
    close(found, differences(model), 1e-7)


def differences(model: nn.Module) -> Array:
    """Central differences of the gradient of the cross entropy, along each parameter."""
    parameters = list(model.parameters())
    theta = nets.flat(parameters).detach()

    def gradient(at: Tensor) -> Tensor:
        torch.nn.utils.vector_to_parameters(at, parameters)
        return nets.flat(torch.autograd.grad(F.cross_entropy(model(X), Y), parameters))

    rows = [(gradient(theta + step) - gradient(theta - step)) / 2e-5 for step in 1e-5 * torch.eye(len(theta)).double()]
    torch.nn.utils.vector_to_parameters(theta, parameters)
    return torch.stack(rows).numpy()


def test_no_route_is_right() -> None:
    """A gradient that is wrong itself agrees with no second derivative."""

    class Off(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.tanh()

        @staticmethod
        def backward(ctx: Any, slope: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            return slope * (x.roll(1, 1).cos() + 1)

    objective = Objective(nets.settled(Applied(Off)), "cross_entropy", (X, Y))
    with pytest.raises(InputError, match="no route to hessian products is right for this model") as error:
        CurvatureOperator(objective)
    for name in (*ROUTES["hessian"], "params= to leave"):
        assert name in str(error.value)


def test_all_parameters_zero() -> None:
    """The self-check says something there, too: its steps have a length."""
    model = nn.Linear(4, 3).double()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    with CurvatureOperator(Objective(model, "cross_entropy", (X, Y))) as H:
        assert H.check.difference < 1e-6
        close(nets.entries(H), true_hessian(model))
        assert not H.check.refused
    for name in ROUTES["hessian"]:
        close(matrix_of(Objective(model, "cross_entropy", (X, Y)), check=route(name)), true_hessian(model), 1e-7)


# -- bad input --------------------------------------------------------------------------------------------------------


class LinearOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(seeded(4, 3, seed=3))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


def chosen_score(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.gather(1, targets[:, None])[:, 0]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("operator", ["hessian", "ggn"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_loss_linear_in_the_parameters(operator: str, dtype: torch.dtype) -> None:
    objective = Objective(LinearOutputs().to(dtype), chosen_score, (X, Y))
    assert not matrix_of(objective, operator=operator).any()
    assert np.array_equal(matrix_of(objective, operator=operator, weight_decay=0.5), 0.5 * np.eye(12))
    for name in ROUTES["hessian"]:
        if operator == "hessian" and name != "finite differences":
            assert not matrix_of(objective, check=route(name)).any()


class Idle(nn.Module):
    """One parameter is frozen, one is used for nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 5), nn.Linear(5, 3)
        self.unused = nn.Parameter(torch.ones(3))
        self.one.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(torch.tanh(self.one(x)))


@pytest.mark.parametrize("name", ROUTES["hessian"])
def test_unused_and_frozen_parameters(name: str) -> None:
    """Rows of zeros for what is not used, none for what is frozen."""
    model = nets.settled(Idle())
    objective = Objective(model, "cross_entropy", (X, Y))
    true = true_hessian(model)
    assert len(true) == 3 + 20 + 18
    assert [b.name for b in select_blocks(objective, None)] == ["unused", "one.weight", "two.weight", "two.bias"]
    found = matrix_of(objective, check=route(name))
    close(found, true, 1e-7 if name == "finite differences" else 1e-13)
    assert not found[:3].any()
    assert not matrix_of(objective, operator="ggn")[:3].any()
    assert not matrix_of(objective, params="unused").any()
    with pytest.raises(InputError, match=r"params='one.bias' matches no trainable parameter; did you mean"):
        select_blocks(objective, "one.bias")
    assert model.unused.requires_grad
    assert not model.one.bias.requires_grad


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ("0.wieght", r"params='0.wieght' matches no trainable parameter; did you mean '0.weight' or '2.weight'\?"),
        (
            ["0", "9.*"],
            r"params='9.\*' matches no trainable parameter; known: 0, 0.bias, 0.weight, 2, 2.bias, 2.weight",
        ),
        ([], "params is empty; leave it out to take all"),
        ("0.w", "params='0.w' matches no trainable parameter; known: 0, 0.bias, 0.weight"),  # half a name
        ("", "params='' matches no trainable parameter; known: 0"),
    ],
)
def test_patterns_without_a_match(params: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        CurvatureOperator(Objective(mlp(), "cross_entropy", (X, Y)), params=params)


class Broken(nn.Module):
    """Its second derivative is not finite where the first input is above a bound."""

    def __init__(self, bound: float) -> None:
        super().__init__()
        self.net, self.bound = mlp(), bound

    def forward(self, x: Tensor) -> Tensor:
        y = self.net(x)
        (rows,) = torch.where(x[:, 0] > self.bound)
        return y.index_add(0, rows, (y[rows] - y[rows].detach()).abs() ** 1.5)


@pytest.mark.parametrize("sample", [20, 0])
def test_not_finite(sample: int) -> None:
    """A product stops at once and says where."""
    x = X.clone()
    x[sample, 0] = 9.0
    model = Broken(8.0)
    before = [p.clone() for p in model.parameters()]
    objective = Objective(model, "cross_entropy", (x, Y))
    message = f"a hessian product is not finite for sample {sample}: the loss is finite there"
    check = route("double backward")
    with CurvatureOperator(objective, check=check) as H, pytest.raises(NumericalError, match=message):
        H.apply(torch.ones(1, H.size).double())
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("operator", ["hessian", "ggn"])
def test_self_check_says_what_is_not_finite(operator: str) -> None:
    """A gap that is NaN is no agreement."""
    x = X.clone()
    x[0, 0] = 9.0
    objective = Objective(Broken(8.0), "cross_entropy", (x, Y))
    if operator == "ggn":  # has no second derivative of the model in it
        with CurvatureOperator(objective, operator=operator) as found:
            assert np.isfinite(nets.entries(found)).all()
        return
    with CurvatureOperator(objective) as found:
        assert found.check.route == "finite differences"
        assert "is not finite on the first samples" in found.check.refused["double backward"]
        assert np.isfinite(found.check.difference)


def test_ggn_needs_outputs() -> None:
    objective = Objective(mlp(), None, (X, Y), forward=lambda m, b: F.cross_entropy(m(b[0]), b[1], reduction="none"))
    with pytest.raises(InputError, match="operator='ggn' needs outputs and a loss of them; with loss=None"):
        CurvatureOperator(objective, operator="ggn")
    close(matrix_of(objective), matrix_of(Objective(mlp(), "cross_entropy", (X, Y))))


def test_denominators_that_depend_on_parameters() -> None:
    def normalised(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return F.cross_entropy(outputs, targets, reduction="none"), 1 + outputs[:, 0] ** 2

    with pytest.raises(InputError, match="the second changes with the model's parameters"):
        CurvatureOperator(Objective(mlp(), normalised, (X, Y)))


def test_denominators_that_sum_to_zero() -> None:
    with (
        CurvatureOperator(
            Objective(mlp(), "cross_entropy", (X, torch.full_like(Y, -100))), check=route("double backward")
        ) as H,
        pytest.raises(InputError, match="denominators sum to 0"),
    ):
        H.apply(torch.ones(1, H.size).double())


def test_weights_need_values_per_sample() -> None:
    objective = Objective(mlp(), None, (X, Y), forward=lambda m, b: F.cross_entropy(m(b[0]), b[1]))
    with (
        CurvatureOperator(objective, weights=torch.ones(N).double(), total=1.0) as H,
        pytest.raises(InputError, match="the loss gives one value per batch; return values per sample"),
    ):
        H.apply(torch.ones(1, H.size).double())


@pytest.mark.parametrize("decay", [-1.0, float("nan"), float("inf")])
def test_bad_weight_decay(decay: float) -> None:
    with pytest.raises(InputError, match="give a finite number of 0 or more"):
        CurvatureOperator(Objective(mlp(), "cross_entropy", (X, Y)), weight_decay=decay)


def test_bad_vectors_and_operator() -> None:
    objective = Objective(mlp(), "cross_entropy", (X, Y))
    with CurvatureOperator(objective) as H:
        for shape in ((43,), (1, 42), (1, 1, 43)):
            with pytest.raises(InputError, match=r"give \(b, 43\), one vector a row"):
                H.apply(torch.ones(shape).double())
    with pytest.raises(InputError, match="operator='fisher' is not one of hessian, ggn"):
        CurvatureOperator(objective, operator="fisher")


class Normalised(nn.Module):
    """A network with BatchNorm that takes its statistics from the batch."""

    def __init__(self, by_batch: bool) -> None:
        super().__init__()
        self.one, self.bn, self.two = nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)
        self._by_batch = by_batch

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        return self.two(torch.tanh(F.batch_norm(x, None, None, training=True) if self._by_batch else self.bn(x)))


def test_batch_statistics_are_refused() -> None:
    """They couple samples; eval mode, or saying how batches are made, is the way out."""
    with pytest.raises(InputError, match=r"changes with the other samples of its batch.*with fixed statistics"):
        Objective(Normalised(True).double(), "cross_entropy", (X, Y))
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, track_running_stats=False), nn.Linear(5, 3))
    with pytest.raises(InputError, match="Build the model with track_running_stats=True"):
        Objective(model, "cross_entropy", (X, Y))


def test_train_mode_is_left_for_the_statistics_kept() -> None:
    """A model in train mode is measured in eval mode, and is in train mode after."""
    model = nets.settled(Normalised(False))
    true = true_hessian(model)
    model.train()
    close(matrix_of(Objective(model, "cross_entropy", (X, Y))), true)
    assert all(module.training for module in model.modules())


def test_state_is_restored() -> None:
    """Parameters, gradients, buffers, modes, requires_grad and random states, also after an exception inside."""
    model = nets.settled(Normalised(False)).train()
    model.one.bias.requires_grad_(False)
    model.two.weight.grad = torch.ones_like(model.two.weight)
    model.two.eval()
    objective = Objective(model, "cross_entropy", (X, Y))

    def state() -> Iterator[Any]:
        for parameter in model.parameters():
            yield from (parameter.data_ptr(), parameter.detach().clone(), parameter.requires_grad, parameter.grad)
        yield from (buffer.clone() for buffer in model.buffers())
        yield from (module.training for module in model.modules())
        yield torch.get_rng_state()

    before = list(state())
    with CurvatureOperator(objective, theta=objective.theta + 1, check=route("finite differences")) as H:
        assert not model.training
        H.apply(torch.ones(1, H.size).double())
    assert same(before, list(state()))
    with (
        pytest.raises(InputError, match="one vector a row"),
        CurvatureOperator(objective, theta=objective.theta + 1) as H,
    ):
        H.apply(torch.ones(1, 3).double())
    assert same(before, list(state()))


def same(first: list[Any], second: list[Any]) -> bool:
    return all(
        torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a is b or a == b
        for a, b in zip(first, second, strict=True)
    )


def test_a_forward_that_switches_batchnorm_to_train_mode_is_refused() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    data = [(torch.randn(6, 4), torch.randint(0, 2, (6,))) for _ in range(2)]

    def forward(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        model.train()
        return model(batch[0]), batch[1]

    with pytest.raises(InputError, match="BatchNorm '1' into train mode"):
        Objective(net, data=data, forward=forward)


# -- memory -----------------------------------------------------------------------------------------------------------


class Marked(torch.autograd.Function):
    """The identity, whose place in a graph is known to live as long as the graph does."""

    marks: ClassVar[weakref.WeakSet[Any]] = weakref.WeakSet()

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark = torch.nn.Identity()
        Marked.marks.add(ctx.mark)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        return grad_outputs[0]


class WithMark(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Marked.apply(x)  # type: ignore[no-any-return, no-untyped-call]


def test_graphs_are_gone_after_use() -> None:
    """Of operations that keep their own results (ReLU, tanh, exp), too, which would keep themselves alive by them."""
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), WithMark(), nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 3))
    objective = Objective(net, data=(X, Y))
    with CurvatureOperator(objective) as H:
        H.apply(torch.ones((1, H.size), dtype=H.dtype))
        assert len(Marked.marks) > 0
    del H
    gc.collect()
    assert len(Marked.marks) == 0
