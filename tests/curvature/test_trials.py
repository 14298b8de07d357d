"""What the trial of products sees: zero weights, rounding inside, jumps, coupled samples, precisions, gradients."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import spectrum_nets as nets
import torch
import torch.nn.functional as F
from spectrum_nets import Array, close, labels, matrix_of, seeded
from test_routes import Once
from torch import Tensor, nn

import landscape as ls
from landscape.curvature.check import ProductCheck
from landscape.curvature.operator import CurvatureOperator
from landscape.errors import InputError
from landscape.objective.objective import Objective

N = 20
X, Y = seeded(N, 4).float(), labels(N)


def check_of(model: nn.Module, data: Any = (X, Y), **given: Any) -> ProductCheck:
    return CurvatureOperator(Objective(model, "cross_entropy", data), **given).check


def hessian_in(model: nn.Module, *names: str) -> Array:
    """The Hessian of the mean cross entropy in some parameters, by autograd, in the model's precision."""
    chosen = [model.get_parameter(name) for name in names]
    gradient = nets.flat(torch.autograd.grad(F.cross_entropy(model(X), Y), chosen, create_graph=True))
    return nets.rows_of(gradient, chosen).numpy()


def seeded_model(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


# -- steps ------------------------------------------------------------------------------------------------------------


class Normed(nn.Module):
    """RMS normalisation with a scale of 1 + w, w zero at the start, computed in float32 inside."""

    def __init__(self, size: float = 0.0) -> None:
        super().__init__()
        self.one, self.w, self.two = nn.Linear(4, 6), nn.Parameter(torch.full((6,), size)), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.one(x).tanh().float()
        h = h * torch.rsqrt(h.square().mean(-1, keepdim=True) + 1e-6) * (1 + self.w.float())
        return self.two(h.type_as(x))


class Adapted(nn.Module):
    """A low-rank addition that is zero at the start, computed in float32 inside."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 6), nn.Linear(6, 3)
        self.a, self.b = nn.Parameter(torch.randn(4, 2)), nn.Parameter(torch.zeros(2, 6))

    def forward(self, x: Tensor) -> Tensor:
        added = (x.float() @ self.a.float() @ self.b.float()).type_as(x)
        return self.two((self.one(x) + added).tanh())


@pytest.mark.parametrize(
    ("make", "name"),
    [(Normed, "w"), (lambda: Normed(1e-9), "w"), (Adapted, "b")],
    ids=["zero scale", "tiny scale", "zero adapter"],
)
def test_chosen_weights_that_are_zero(make: Callable[[], nn.Module], name: str) -> None:
    """Steps are relative to the chosen weights' share of the whole vector, so that something moves."""
    model = seeded_model(make)
    objective = Objective(model, "cross_entropy", (X, Y))
    check = CurvatureOperator(objective, params=name).check
    assert check.route == "double backward"
    assert not check.refused
    close(matrix_of(objective, params=name), hessian_in(model, name), 1e-5)


class Rounded(nn.Module):
    """Rounds to float32 inside and has no second derivative there."""

    def __init__(self, tanh: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.one, self.two, self._tanh = nn.Linear(4, 6), nn.Linear(6, 3), tanh

    def forward(self, x: Tensor) -> Tensor:
        h = self._tanh(F.linear(x.float(), self.one.weight.float(), self.one.bias.float()))
        return F.linear(h, self.two.weight.float(), self.two.bias.float()).type_as(x)


def test_differences_of_a_model_that_rounds_take_a_longer_step() -> None:
    model = seeded_model(lambda: Rounded(Once.apply))
    with CurvatureOperator(Objective(model, "cross_entropy", (X, Y))) as H:
        assert H.check.route == "finite differences"
        assert 1e-4 < H.check.step < 1e-1
        found = nets.entries(H)
    plain = Rounded(torch.tanh)
    plain.load_state_dict(model.state_dict())
    close(found, hessian_in(plain, "one.weight", "one.bias", "two.weight", "two.bias"), 2e-3)


class Half(nn.Module):
    """Rounds to bfloat16 inside, so that short steps change nothing there."""

    def __init__(self, rounds: bool) -> None:
        super().__init__()
        self.one, self.two, self._rounds = nn.Linear(4, 6), nn.Linear(6, 3), rounds

    def forward(self, x: Tensor) -> Tensor:
        h = self.one(x).tanh()
        return self.two(h.bfloat16().to(h.dtype) if self._rounds else h)


def test_differences_where_nothing_moves_confirm_nothing() -> None:
    """Differences of short steps agree with each other, as if what is rounded were constant."""
    model = seeded_model(lambda: Half(True))
    objective = Objective(model, "cross_entropy", (X, Y))
    found = matrix_of(objective)
    plain = Half(False)
    plain.load_state_dict(model.state_dict())
    true = hessian_in(plain, "one.weight", "one.bias", "two.weight", "two.bias")
    close(found, true, 2e-2)


class Attention(nn.Module):
    """One layer of attention whose softmax and norms are computed in float32, all weights as small as fresh ones."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.head = nn.Linear(width, 7, bias=False)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.02)

    @staticmethod
    def norm(x: Tensor) -> Tensor:
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)).type_as(x)

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.embed(tokens)
        x = self.norm(h)
        scores = (self.q(x) @ self.k(x).transpose(1, 2) / x.shape[-1] ** 0.5).float().softmax(-1).type_as(x)
        return self.head(self.norm(h + self.o(scores @ self.v(x))))


@pytest.mark.parametrize("seed", range(4))
def test_small_curvature_of_a_fresh_network_that_rounds_inside(seed: int) -> None:
    tokens = labels(6, 5, classes=7, seed=seed)
    for name in ("q", "k"):
        check = check_of(seeded_model(Attention, seed), (tokens, tokens.roll(-1, 1)), params=name)
        assert check.route == "double backward"


# -- at theta itself --------------------------------------------------------------------------------------------------


class Gated(nn.Module):
    """Outputs that double where a gate is above zero, where it starts."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.gate = nn.Linear(4, 3), nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * (1 + (self.gate > 0).to(x))


class Counted(nn.Module):
    """A scale that is the whole part of a weight of exactly 2."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.number = nn.Linear(4, 3), nn.Parameter(torch.full((1,), 2.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * self.number.floor()


def orthogonal() -> nn.Module:
    layer = torch.nn.utils.parametrizations.orthogonal(nn.Linear(4, 6))
    return nn.Sequential(layer, nn.Tanh(), nn.Linear(6, 3))


@pytest.mark.parametrize(
    ("make", "name"), [(orthogonal, "0.parametrizations.weight.original"), (Gated, "gate"), (Counted, "number")]
)
@pytest.mark.parametrize("operator", ["hessian", "ggn"])
def test_values_that_jump_at_theta(make: Callable[[], nn.Module], name: str, operator: str) -> None:
    model = seeded_model(make)
    with pytest.raises(InputError, match="values jump at theta: a step of 1e-06") as error:
        check_of(model, operator=operator)
    assert f"The tensors that do it: {name}." in str(error.value)
    others = [n for n, _ in model.named_parameters() if n != name]
    assert check_of(model, operator=operator, params=others).route == "double backward"


def test_no_jump_where_outputs_start_at_zero_or_have_a_kink() -> None:
    zero = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    nn.init.zeros_(zero[0].bias), nn.init.zeros_(zero[2].weight), nn.init.zeros_(zero[2].bias)
    x = X.clone()
    x[0] = 0  # a kink in every unit of the first sample
    check = check_of(zero, (x, Y))
    assert check.route == "double backward"
    assert not check.refused


class Cubed(nn.Module):
    """1 + |g|^3, whose double backward is not finite at g = 0."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.g = nn.Linear(4, 3), nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * (1 + self.g.norm() ** 3)


class Lengthened(Cubed):
    """The same by the length of a vector for each sample."""

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * (1 + (x[:, :3] * self.g).norm(dim=1, keepdim=True) ** 3)


@pytest.mark.parametrize("make", [Cubed, Lengthened])
def test_a_product_that_is_finite_beside_theta_alone(make: Callable[[], nn.Module]) -> None:
    """The route is left for another one, and its products are right: zero in g."""
    model = seeded_model(make)
    objective = Objective(model.double(), "cross_entropy", (X.double(), Y))
    with CurvatureOperator(objective) as H:
        assert "at theta itself" in H.check.refused["double backward"]
        found = nets.entries(H)
    assert abs(found[:3]).max() < 1e-4 * abs(found).max()
    close(found[3:, 3:], nets.hessian_on(model.layer, X.double(), Y), 1e-6)  # type: ignore[arg-type]


def test_a_second_derivative_that_jumps_at_theta_is_told(caplog: pytest.LogCaptureFixture) -> None:
    class Squared(Gated):
        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) * (1 + self.gate.relu() ** 2)

    with caplog.at_level(logging.WARNING):
        check = check_of(seeded_model(Squared))
    assert check.route == "double backward"
    assert check.at_theta > 0.05 > check.difference
    assert "the second derivative jumps there" in caplog.text


# -- samples together and in parts ------------------------------------------------------------------------------------


class Adaptive(nn.Module):
    """Heun's method whose steps follow from the error of the whole batch, or of each sample alone."""

    def __init__(self, coupled: bool, tol: float = 1e-3) -> None:
        super().__init__()
        self.field = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 4))
        self.head, self._coupled, self._tol = nn.Linear(4, 3), coupled, tol

    def _solved(self, x: Tensor) -> Tensor:
        t, h = 0.0, 0.5
        while t < 1:
            h = min(h, 1 - t)
            one = 3 * self.field(x)
            two = 3 * self.field(x + h * one)
            error = float(((two - one) * h / 2).detach().square().mean().sqrt())
            if error <= self._tol:
                x, t = x + h * (one + two) / 2, t + h
            h *= min(2.0, max(0.3, 0.9 * (self._tol / (error + 1e-12)) ** 0.5))
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self._solved(x) if self._coupled else torch.cat([self._solved(row[None]) for row in x]))


class Centred(nn.Module):
    """A ten-thousandth of the batch's mean is taken off, which values let pass as rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.one(x).tanh()
        return self.two(h - 5e-4 * h.mean(0, keepdim=True))


@pytest.mark.parametrize("make", [lambda: Adaptive(True), Centred], ids=["adaptive", "centred"])
def test_samples_that_are_coupled(make: Callable[[], nn.Module]) -> None:
    model = seeded_model(make)
    with pytest.raises(InputError, match="together and in two parts they differ by") as error:
        check_of(model)
    assert "list of batches with forward=" in str(error.value)


class Late(nn.Module):
    """What `act` makes of the outputs of samples that begin with more than 5, and of these alone."""

    def __init__(self, act: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.q, self._act = nn.Linear(4, 3), nn.Parameter(torch.zeros(1)), act

    def forward(self, x: Tensor) -> Tensor:
        marked = x[:, 0] > 5
        outputs = self.layer(x) * (1 + self.q)
        return torch.where(marked[:, None], self._act(self, outputs * marked[:, None]), outputs)


@pytest.mark.parametrize(
    ("act", "told"),
    [
        (lambda m, z: z + 1e-3 * z.square().sum(0), "together and in two parts they differ by"),
        (lambda m, z: z + 3 * m.q.sign(), "values jump at theta"),
    ],
    ids=["coupled", "jump"],
)
def test_what_later_samples_do_alone_is_seen(act: Callable[[nn.Module, Tensor], Tensor], told: str) -> None:
    x = seeded(60, 4).float()
    x[30:50, 0] = 6
    with pytest.raises(InputError, match=told):
        check_of(seeded_model(lambda: Late(act)), (x, labels(60)))


def test_samples_that_are_not_coupled_or_whose_batches_are_fixed() -> None:
    alone = seeded_model(lambda: Adaptive(False, 3e-4))
    assert check_of(alone, (X[:4], Y[:4])).parts < 1e-12
    batches = [(X[:10], Y[:10]), (X[10:], Y[10:])]
    model = seeded_model(Centred)
    objective = Objective(model, "cross_entropy", batches, forward=lambda m, b: (m(b[0]), b[1]))
    losses = [F.cross_entropy(model(x), y) for x, y in batches]
    gradient = nets.flat(torch.autograd.grad(sum(losses) / 2, list(model.parameters()), create_graph=True))
    true = nets.rows_of(gradient, list(model.parameters())).numpy()
    close(matrix_of(objective), true, 1e-5)


# -- precisions -------------------------------------------------------------------------------------------------------


class Made(nn.Module):
    """A constant made in forward, in float32 whatever it meets."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 5), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x).tanh() @ torch.eye(5)[:, :3])


class Backward32(torch.autograd.Function):
    """sin whose derivative makes a constant in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return slope @ torch.eye(5) * x.cos()


class Custom(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(Backward32.apply(self.one(x)))


@pytest.mark.parametrize("operator", ["hessian", "ggn"])
@pytest.mark.parametrize("make", [Made, Custom])
def test_a_model_that_does_not_run_in_float64(
    make: Callable[[], nn.Module], operator: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is tried in its own precision, which the check tells with the operation that raised."""
    model = seeded_model(make)
    objective = Objective(model, "cross_entropy", (X, Y))
    with caplog.at_level(logging.WARNING):
        check = CurvatureOperator(objective, operator=operator).check
    assert (check.route, check.precision) == ("double backward", "float32")
    assert "torch.eye(5)" in check.in_float64
    assert "tried in float32, because the model does not run in float64" in caplog.text
    if operator == "hessian":
        close(matrix_of(objective), hessian_in(model, *(n for n, _ in model.named_parameters())), 1e-5)


def test_a_loss_that_does_not_run_in_float64() -> None:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs @ torch.eye(3), targets, reduction="none")

    model = seeded_model(lambda: nn.Linear(4, 3))
    objective = Objective(model, loss, (X, Y))
    assert CurvatureOperator(objective).check.precision == "float32"
    close(matrix_of(objective), hessian_in(model, "weight", "bias"), 1e-5)
    spectrum = ls.measure_spectrum(objective, k=1, trace=False, density=False)
    assert "torch.eye(3)" in str(spectrum.attributes["check"])


def test_the_route_that_is_left_in_a_models_own_precision_is_finite_differences() -> None:
    class Neither(Made):
        def forward(self, x: Tensor) -> Tensor:
            return self.two(Once.apply(self.one(x)) @ torch.eye(5)[:, :3])

    model = seeded_model(Neither)
    objective = Objective(model, "cross_entropy", (X, Y))
    check = CurvatureOperator(objective).check
    assert (check.route, check.precision) == ("finite differences", "float32")
    plain = Made()
    plain.load_state_dict(model.state_dict())
    close(matrix_of(objective), hessian_in(plain, *(n for n, _ in plain.named_parameters())), 2e-2)


class Holding(nn.Module):
    """Plain tensors as attributes, one of them in a dict in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.plain = nn.Linear(4, 3), torch.eye(3)
        self.nested = [{"turn": torch.eye(3).flip(0)}, "words"]
        self.wide = torch.ones(3, dtype=torch.float64)  # in float64 by intent

    def forward(self, x: Tensor) -> Tensor:
        return (self.layer(x).tanh() @ self.plain @ self.nested[0]["turn"]) * self.wide.to(x)  # type: ignore[index]


def test_plain_tensors_follow_the_precision() -> None:
    model = seeded_model(Holding)
    before = model.plain, model.nested, model.wide
    objective = Objective(model, "cross_entropy", (X, Y))
    assert CurvatureOperator(objective).check.precision == "float64"
    wide = Objective(model, "cross_entropy", (X, Y), precision="float64")
    true = F.cross_entropy(wide_outputs(model), Y).item()
    assert abs(wide.evaluate()["loss"] - true) < 1e-12
    assert all(a is b for a, b in zip(before, (model.plain, model.nested, model.wide), strict=True))


def wide_outputs(model: nn.Module) -> Tensor:
    layer: Any = model.layer
    return F.linear(X.double(), layer.weight.double(), layer.bias.double()).tanh().flip(1)


def test_a_precision_that_a_model_has_not_is_refused_with_the_operation() -> None:
    with pytest.raises(InputError, match=r"runs in float32, its own precision, and not in float64.*`.*torch\.eye"):
        Objective(Made(), "cross_entropy", (X, Y), precision="float64")
    objective = Objective(Made(), "cross_entropy", (X, Y))
    with pytest.raises(InputError, match=r"runs in float32 and not in float64.*register_buffer"):
        objective.on(objective.data, precision="float64")


def test_any_exception_of_a_route_is_a_reason_to_try_the_next() -> None:
    class Hooked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 5), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.one(x).tanh()
            if h.requires_grad:
                h.register_hook(self._hook)
            return self.two(h)

        @staticmethod
        def _hook(slope: Tensor) -> None:
            if slope.requires_grad:
                raise KeyError("no graphs here")

    check = check_of(seeded_model(Hooked))
    assert check.route != "double backward"
    assert check.refused["double backward"].startswith("KeyError: 'no graphs here', in `raise KeyError")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sparse_gradients(dtype: torch.dtype) -> None:
    """What the check runs is what the products run: a gradient that is sparse is made dense in both."""
    tokens = labels(N, 4, classes=7)

    def net(sparse: bool) -> nn.Module:
        return nn.Sequential(nn.Embedding(7, 2, sparse=sparse), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3)).to(dtype)

    model, plain = seeded_model(lambda: net(True)), seeded_model(lambda: net(False))
    found, true = (matrix_of(Objective(m, "cross_entropy", (tokens, Y))) for m in (model, plain))
    close(found, true, 1e-6)
    found, true = (
        CurvatureOperator(Objective(m, "cross_entropy", (tokens, Y))).__enter__().gradient() for m in (model, plain)
    )
    torch.testing.assert_close(found, true)


# -- gradients that are not those of the loss -------------------------------------------------------------------------


class Through(nn.Module):
    """Straight through a sign, or past a norm that is taken for a constant, or behind no_grad."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.one, self.two, self._how = nn.Linear(4, 6), nn.Linear(6, 3), how

    def forward(self, x: Tensor) -> Tensor:
        h = self.one(x).tanh()
        if self._how == "sign":
            h = h + (h.sign() - h).detach()
        elif self._how == "norm":
            h = h / h.norm(dim=1, keepdim=True).detach()
        elif self._how == "train":
            h = h if self.training else h.detach() + 0 * h
        return self.two(h if self._how != "nothing" else h.detach())


@pytest.mark.parametrize("how", ["sign", "norm", "nothing", "train"])
def test_a_gradient_that_is_not_that_of_the_loss(how: str) -> None:
    model = seeded_model(lambda: Through(how))
    with pytest.raises(InputError, match="gradient that backward gives is not that of the loss") as error:
        check_of(model)
    for words in (r".train() inside forward=", "surfaces, profiles and paths", "there is no Hessian"):
        assert words in str(error.value)
    objective = Objective(model, "cross_entropy", (X, Y))
    assert ls.measure_surface(objective, ls.random_plane(objective, axes=1), x=(-1, 1, 3)).computed.all()


def test_a_gradient_that_is_all_but_that_of_the_loss() -> None:
    """Along single directions nothing is seen of it; its differences are not symmetric."""

    class Nearly(Half):
        def forward(self, x: Tensor) -> Tensor:
            h = self.one(x).tanh()
            return self.two(h * (1 + 1e-2 * h.norm(dim=1, keepdim=True).detach()))

    with pytest.raises(InputError, match=r"is not that of the loss: its differences are off from symmetry by"):
        check_of(seeded_model(lambda: Nearly(False)))


def test_a_derivative_that_train_mode_has() -> None:
    def forward(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        model.train()
        return model(batch[0]), batch[1]

    model = seeded_model(lambda: Through("train"))
    objective = Objective(model, "cross_entropy", [(X, Y)], forward=forward)
    plain = Half(False)
    plain.load_state_dict(model.state_dict())
    close(matrix_of(objective), hessian_in(plain, "one.weight", "one.bias", "two.weight", "two.bias"), 1e-5)


def test_products_that_are_zero_because_the_gradient_is() -> None:
    """A part of the model behind detach(): zero differences agree with zero products, and the loss moves."""
    model = seeded_model(lambda: Through("nothing"))
    with pytest.raises(InputError, match="is not that of the loss: 0 along a direction"):
        check_of(model, params="one")
    assert check_of(model, params="two").route == "double backward"


@pytest.mark.parametrize("dim", [0, 1, None])
def test_parametrized_weight_norm(dim: int | None) -> None:
    """Its second derivative is wrong for every integer dim (torch 2.13); whatever the route, the product is right."""
    layer = torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 5), dim=dim)  # type: ignore[arg-type]
    model = nn.Sequential(layer, nn.Tanh(), nn.Linear(5, 3)).double()
    x = X.double()
    with CurvatureOperator(Objective(model, "cross_entropy", (x, Y))) as H:
        assert (H.check.route == "double backward") == (dim is None)
        found = nets.entries(H)
    parameters = list(model.parameters())

    def gradient() -> Tensor:
        return nets.flat(torch.autograd.grad(F.cross_entropy(model(x), Y), parameters))

    theta = nets.flat(parameters).detach()
    rows = []
    for step in 1e-5 * torch.eye(len(theta), dtype=torch.float64):
        ends = []
        for sign in (1, -1):
            torch.nn.utils.vector_to_parameters(theta + sign * step, parameters)
            ends.append(gradient())
        rows.append((ends[0] - ends[1]) / 2e-5)
    torch.nn.utils.vector_to_parameters(theta, parameters)
    close(found, torch.stack(rows).numpy(), 1e-7)


class Scaled(torch.autograd.Function):
    """The same values, and a gradient times a number on its way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        return ctx.factor * slope, None


class Reversed(nn.Module):
    """The gradient of the outputs, or of the first layer alone, is that of the loss times a number."""

    def __init__(self, factor: float, last: bool) -> None:
        super().__init__()
        self.one, self.two, self._factor, self._last = nn.Linear(4, 6), nn.Linear(6, 3), factor, last

    def _turned(self, x: Tensor) -> Tensor:
        turned: Tensor = Scaled.apply(x, self._factor)  # type: ignore[no-untyped-call]
        return turned

    def forward(self, x: Tensor) -> Tensor:
        h = self.one(x).tanh()
        return self._turned(self.two(h)) if self._last else self.two(self._turned(h))


class Halved(Reversed):
    """The same by half of the values, detached."""

    def _turned(self, x: Tensor) -> Tensor:
        half: Tensor = self._factor * x + (1 - self._factor) * x.detach()
        return half


@pytest.mark.parametrize("make", [Reversed, Halved])
@pytest.mark.parametrize(
    ("factor", "last", "params"), [(0.1, True, None), (-1.0, True, None), (0.5, False, "one.*"), (-1.0, False, "one.*")]
)
def test_a_gradient_times_a_number(
    make: Callable[[float, bool], nn.Module], factor: float, last: bool, params: str | None
) -> None:
    """It is as symmetric as the loss's own, and has differences as good."""
    model = seeded_model(lambda: make(factor, last))
    with pytest.raises(InputError, match="The gradient that backward gives is not that of the loss"):
        check_of(model, params=params)
    plain = seeded_model(lambda: make(1.0, last))
    assert check_of(plain, params=params).difference < 1e-4


@pytest.mark.parametrize("scale", [1e-8, 1.0, 100.0])
@pytest.mark.parametrize("act", [nn.ReLU, nn.Tanh, nn.GELU])
def test_gradients_of_plain_models_are_those_of_their_losses(act: type[nn.Module], scale: float) -> None:
    """Also where the loss is flat or saturated, and where it has kinks."""
    model = seeded_model(lambda: nn.Sequential(nn.Linear(4, 8), act(), nn.Linear(8, 3)))
    with torch.no_grad():
        model[2].weight.mul_(scale)  # type: ignore[index]
    assert check_of(model).route == "double backward"
