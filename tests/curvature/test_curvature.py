"""Hessian and Gauss-Newton products against closed forms and dense float64 matrices."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import spectrum_nets as nets
import torch
import torch.nn.functional as F
from spectrum_nets import CASES, Array, Case, case, close, dense, entries, labels, matrix_of, seeded
from torch import Tensor, nn

import landscape.curvature.operator
from landscape.curvature.check import ProductCheck
from landscape.curvature.operator import CurvatureOperator, product_chunk
from landscape.curvature.routes import ROUTES
from landscape.errors import InputError
from landscape.objective.objective import Objective

N = 23
X, Y = seeded(N, 4), labels(N)


def mlp() -> nn.Module:
    return nets.tanh_net()


def true_hessian(model: nn.Module, x: Tensor = X, y: Tensor = Y) -> Array:
    return nets.hessian_on(model, x, y)


# -- closed forms -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operator", ["hessian", "ggn"])
def test_linear_regression(operator: str) -> None:
    y = seeded(N, 1, seed=1)
    found = matrix_of(Objective(nn.Linear(4, 1).double(), "mse", (X, y)), operator=operator)
    design = np.c_[X.numpy(), np.ones(N)]
    close(found, 2 * design.T @ design / N, 1e-14)


@pytest.mark.parametrize("operator", ["hessian", "ggn"])
def test_softmax_regression(operator: str) -> None:
    """sum_i (diag p_i - p_i p_i') x x_i x_i' / N; a model linear in its parameters has H = G."""
    model = nets.settled(nn.Linear(4, 3, bias=False))
    found = matrix_of(Objective(model, "cross_entropy", (X, Y)), operator=operator)
    p = model(X).softmax(1).detach().numpy()
    bend = p[:, :, None] * np.eye(3) - p[:, :, None] * p[:, None, :]
    true = np.einsum("iab,ij,ik->ajbk", bend, X.numpy(), X.numpy()).reshape(12, 12) / N
    close(found, true, 1e-14)


def test_deep_linear_network() -> None:
    """Of |W2 W1 x - y|^2: dG1 = A2'RX' + W2'dR X', dG2 = dR (W1 X)' + R (A1 X)' with dR = (A2 W1 + W2 A1) X."""
    model = nets.settled(nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 2, bias=False)))
    y = seeded(N, 2, seed=1)
    first, second = (p.detach().numpy() for p in model.parameters())
    x = X.numpy().T
    rest = second @ first @ x - y.numpy().T
    columns = []
    for unit in np.eye(18):
        one, two = unit[:12].reshape(3, 4), unit[12:].reshape(2, 3)
        moved = (two @ first + second @ one) @ x
        upper = two.T @ rest @ x.T + second.T @ moved @ x.T
        lower = moved @ (first @ x).T + rest @ (one @ x).T
        columns.append(np.r_[upper.ravel(), lower.ravel()])
    close(matrix_of(Objective(model, "mse", (X, y))), np.array(columns) * 2 / (2 * N), 1e-13)


@pytest.mark.parametrize("operator", ["hessian", "ggn"])
def test_weight_decay_shifts(operator: str) -> None:
    objective = Objective(mlp(), "cross_entropy", (X, Y))
    plain = matrix_of(objective, operator=operator)
    close(matrix_of(objective, operator=operator, weight_decay=0.5), plain + 0.5 * np.eye(len(plain)), 1e-14)
    with CurvatureOperator(objective, operator=operator, weight_decay=0.5) as H:
        parts = H.by_chunk(torch.eye(H.size, dtype=torch.float64)[:3])
        whole = parts.forms.sum(0) / parts.denominators.sum()
        close(whole, (plain + 0.5 * np.eye(len(plain)))[:3, :3], 1e-13)


# -- dense matrices ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operator", ["hessian", "ggn"])
@pytest.mark.parametrize("name", list(CASES))
def test_dense(name: str, operator: str) -> None:
    true = dense(name, operator)
    step = {"mixed": 13, "smooth": 5, "relu": 3}[name]
    with CurvatureOperator(case(name).objective(), operator=operator) as found:
        assert found.check.route == "double backward"
        assert found.check.difference < 1e-6
        close(entries(found, step), true[::step], 1e-13)
        assert found.products == len(true[::step])
        assert found.passes == -(-len(true[::step]) // 64)


def test_operators_differ() -> None:
    """Else the dense tests of one would pass with the other; ReLU networks have the same diagonal."""
    H, G = dense("smooth"), dense("smooth", "ggn")
    assert np.abs(H - G).max() > 0.05 * np.abs(H).max()
    assert np.abs(np.diag(H - G)).max() > 0.01 * np.abs(H).max()
    H, G = dense("relu"), dense("relu", "ggn")
    assert np.abs(H - G).max() > 0.05 * np.abs(H).max()
    close(np.diag(H), np.diag(G), 1e-13)


def route(name: str) -> ProductCheck:
    return ProductCheck(name, 0.0, 0.0, 0.0, 0.0, {})


@pytest.mark.parametrize("name", ROUTES["hessian"])
@pytest.mark.parametrize("which", ["mixed", "relu"])  # torch's group_norm takes no channels-last dual numbers
def test_routes_agree(which: str, name: str) -> None:
    """Central differences are right to eps^(2/3) |theta|^2 |H''| or so, the others to rounding."""
    true = dense(which)
    step = len(true) // 12
    with CurvatureOperator(case(which).objective(), check=route(name)) as H:
        close(entries(H, step), true[::step], 1e-6 if name == "finite differences" else 1e-13)


@pytest.mark.parametrize("name", ROUTES["hessian"])
def test_routes_of_a_part(name: str) -> None:
    true = dense("mixed")
    with CurvatureOperator(case("mixed").objective(), params=["up", "conv.weight"], check=route(name)) as H:
        rows = rows_of(case("mixed"), "conv.weight", "up.weight", "up.bias")
        close(entries(H, 32), true[np.ix_(rows, rows)][::32], 1e-6 if name == "finite differences" else 1e-12)


def rows_of(which: Case, *names: str) -> Array:
    """Places of the named parameters in the flat vector."""
    found, place = [], 0
    for name, parameter in which.model.named_parameters():
        if name in names:
            found.append(np.arange(place, place + parameter.numel()))
        place += parameter.numel()
    return np.concatenate(found)


@pytest.mark.parametrize(
    ("params", "names"),
    [
        ("up", ["up.weight", "up.bias"]),
        ("norm1.weight", ["norm1.weight"]),
        (["down.bias", "conv"], ["conv.weight", "conv.bias", "down.bias"]),
        ("norm?.bias", ["norm1.bias", "norm2.bias"]),
        (
            "attention.*",
            [f"attention.{n}" for n in ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")],
        ),
        ("attention.out_proj", ["attention.out_proj.weight", "attention.out_proj.bias"]),
    ],
)
@pytest.mark.parametrize("operator", ["hessian", "ggn"])
def test_params(params: str | list[str], names: list[str], operator: str) -> None:
    true = dense("mixed", operator)
    rows = rows_of(case("mixed"), *names)
    step = -(-len(rows) // 40)
    with CurvatureOperator(case("mixed").objective(), operator=operator, params=params) as found:
        assert [block.name for block in found.blocks] == names
        close(entries(found, step), true[np.ix_(rows[::step], rows)], 1e-12)


def test_elsewhere() -> None:
    """At another theta and other BatchNorm statistics; the model itself stays where it is."""
    here = nets.relu(samples=20)
    objective = here.objective()
    theta = objective.theta + 0.1 * seeded(objective.layout.size, seed=8)
    buffers = {"bn.running_mean": seeded(4, seed=9), "bn.running_var": 0.5 + seeded(4, seed=9).abs()}
    before = {name: value.clone() for name, value in here.model.state_dict().items()}
    found = matrix_of(objective, theta=theta, buffers=buffers)
    assert all(torch.equal(value, before[name]) for name, value in here.model.state_dict().items())
    moved = nets.relu(samples=20)
    torch.nn.utils.vector_to_parameters(theta, moved.model.parameters())
    moved.model.load_state_dict(buffers, strict=False)
    close(found, nets.dense_hessian(moved))


def test_gradient() -> None:
    for which in ("mixed", "smooth"):
        loss = nets.mean_loss(case(which))
        true = nets.flat(torch.autograd.grad(loss, nets.trainable(case(which).model)))
        with CurvatureOperator(case(which).objective(), weight_decay=0.25) as H:
            close(H.gradient().numpy(), (true + 0.25 * case(which).objective().theta).numpy(), 1e-13)


def test_float32_is_near() -> None:
    true = dense("smooth")
    with CurvatureOperator(case("smooth").objective(precision="float32")) as H:
        assert H.dtype == torch.float32
        assert 1e-9 < H.check.rounding < 1e-4
        close(entries(H, 8), true[::8], 1e-5)


@pytest.mark.parametrize("which", ["smooth", "mixed"])
@pytest.mark.parametrize("operator", ["hessian", "ggn"])
def test_products_outlive_an_operator_of_another_precision_inside(which: str, operator: str) -> None:
    """Tensors of another type in a parameter cut the graphs that were kept, and their derivatives were 0."""
    objective = case(which).objective(precision="float32")
    with CurvatureOperator(objective, operator=operator) as H:
        vectors = seeded(2, H.size).float()
        before = H.apply(vectors)
        with CurvatureOperator(objective.on(objective.data, precision="float64"), operator=operator) as D:
            D.apply(vectors.double())
        assert before.abs().max() > 0
        assert torch.equal(H.apply(vectors), before)


def test_an_operator_is_not_used_while_another_one_holds_the_model() -> None:
    objective = case("smooth").objective()
    with CurvatureOperator(objective) as H:
        vectors = seeded(1, H.size)
        H.apply(vectors)
        moved = CurvatureOperator(objective, theta=objective.theta + 1)
        with moved, pytest.raises(RuntimeError, match="bound to other parameters"):
            H.apply(vectors)
        H.apply(vectors)


def test_bf16_is_never_used() -> None:
    """Autocast is left off for curvature: the products are those of float32, bit for bit."""
    found = [matrix_of(case("smooth").objective(precision=p), params="head") for p in ("float32", "bf16")]
    assert np.array_equal(*found)


def test_ragged_batches_weigh_their_samples() -> None:
    """The same samples in other batches have the same Hessian, the mean of the batches' means another one."""
    model = mlp()
    true = true_hessian(model)
    cuts = (0, 9, 18, N)
    batches = [(X[a:b], Y[a:b]) for a, b in itertools.pairwise(cuts)]
    one = matrix_of(Objective(model, "cross_entropy", batches))
    two = matrix_of(Objective(model, "cross_entropy", batches, forward=lambda m, b: (m(b[0]), b[1])))
    close(one, true)
    close(two, true)
    means = np.mean([true_hessian(model, *batch) for batch in batches], axis=0)
    assert np.abs(means - true).max() > 0.01 * np.abs(true).max()


def test_tokens_weigh_alike() -> None:
    """Ignored labels count in no denominator: the mean is over tokens kept, not over texts."""
    tokens = labels(9, 6, classes=7, seed=2)
    targets = tokens.roll(1, 1).where(seeded(9, 6) > -0.3, -100)
    model = nets.settled(nn.Sequential(nn.Embedding(7, 3), nn.Linear(3, 7)))
    found = matrix_of(Objective(model, "cross_entropy", (tokens, targets)))
    loss = F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
    gradient = nets.flat(torch.autograd.grad(loss, list(model.parameters()), create_graph=True))
    close(found, nets.rows_of(gradient, list(model.parameters())).numpy())


# -- what chunks have in a product ------------------------------------------------------------------------------------


def test_by_chunk() -> None:
    model = mlp()
    objective = Objective(model, "cross_entropy", (X, Y))
    vectors = seeded(3, objective.layout.size, seed=4)
    with CurvatureOperator(objective) as H:
        parts = H.by_chunk(vectors)
        assert torch.equal(parts.images, H.apply(vectors))
        assert H.chunks == 12
    assert parts.denominators.tolist() == [2] * 11 + [1]
    for number, count in enumerate(parts.denominators):
        rows = slice(2 * number, 2 * number + 2)
        images = vectors.numpy() @ true_hessian(model, X[rows], Y[rows]) * count
        close(parts.forms[number], vectors.numpy() @ images.T)
        close(parts.squares[number], (images**2).sum(1))
    close(parts.forms.sum(0) / N, (vectors @ parts.images.T).numpy())


def test_by_chunk_weighted() -> None:
    """`weighted` is sum_c d_c H_c v / sum_c d_c, with chunks of 5, 5, 5 and 3 samples."""
    which = case("mixed")
    vectors = seeded(2, which.objective().layout.size, seed=4)
    with CurvatureOperator(which.objective()) as H:
        parts = H.by_chunk(vectors)
    assert parts.denominators.tolist() == [5, 5, 5, 3]
    sums = torch.zeros_like(vectors)
    for batch, size in zip(which.batches, (5, 5, 5, 3), strict=True):
        one = Case(which.model, [batch], which.forward)
        with CurvatureOperator(one.objective()) as H:
            sums += size**2 * H.apply(vectors)
    close(parts.weighted.numpy(), (sums / 18).numpy())


def test_weights() -> None:
    """sum_i w_i H_i / total, H_i the Hessian of one sample's loss."""
    model = mlp()
    weights, total = seeded(N, seed=6).abs(), 31.0
    found = matrix_of(Objective(model, "cross_entropy", (X, Y)), weights=weights, total=total)
    singles = [true_hessian(model, X[i : i + 1], Y[i : i + 1]) for i in range(N)]
    close(found, np.tensordot(weights.numpy(), singles, 1) / total)


class Half:
    """One of two ranks that hold the same chunks: what the other would add is looked up."""

    def __init__(self, rank: int, others: list[Array] | None = None) -> None:
        self.rank, self.size, self.told, self._others = rank, 2, [], others

    def allreduce_(self, array: Array) -> None:
        self.told.append(array.copy())
        if self._others is not None:
            array += self._others[len(self.told) - 1]


def test_ranks_share_the_chunks() -> None:
    objective = case("smooth").objective()
    vectors = seeded(2, objective.layout.size, seed=4)
    with CurvatureOperator(objective) as H:
        alone = H.by_chunk(vectors)
    second = Half(1)
    with CurvatureOperator(objective, group=second) as H:  # type: ignore[arg-type]
        H.by_chunk(vectors)
    with CurvatureOperator(objective, group=Half(0, second.told)) as H:  # type: ignore[arg-type]
        both = H.by_chunk(vectors)
    close(both.images.numpy(), alone.images.numpy(), 1e-14)
    assert np.array_equal(both.forms, alone.forms)
    assert np.array_equal(both.squares, alone.squares)
    assert np.array_equal(both.denominators, alone.denominators)


def test_graphs_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for no graph, or for some, products have the same bits."""
    objective = case("smooth").objective()
    vectors = seeded(2, objective.layout.size, seed=4)
    with CurvatureOperator(objective) as H:
        kept = [H.apply(vectors), H.apply(vectors)]
        size = int(H.check.graph_bytes * product_chunk(objective))
    for room in (0, 3 * size):
        monkeypatch.setattr(landscape.curvature.operator, "_GRAPH_BYTES", room)
        with CurvatureOperator(objective) as H:
            assert not H.keeps_graphs
            assert torch.equal(H.apply(vectors), kept[0])
            assert torch.equal(H.apply(vectors), kept[1])


def test_an_operator_of_ones_own_is_checked_as_that_of_a_study() -> None:
    objective = Objective(nn.Linear(2, 1), "mse", (torch.randn(6, 2), torch.randn(6, 1)))
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"theta": torch.tensor([1.0, math.nan, math.inf])}, "theta holds 2 values"),
        ({"weights": torch.ones(5)}, r"shape \(5,\); give \(6,\)"),
        ({"weights": -torch.ones(6)}, "0 or more"),
        ({"total": 3.0}, "total=3.0"),
        ({"weights": torch.ones(6), "total": 0.0}, "total=0.0"),
        ({"chunk": 0}, "chunk=0"),
    ]
    for given, told in wrong:
        with pytest.raises(InputError, match=told):
            CurvatureOperator(objective, **given)


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_products_where_autograd_is_off_are_refused_and_not_zero(off: Any) -> None:
    objective = Objective(nn.Linear(2, 1), "mse", (torch.randn(6, 2), torch.randn(6, 1)))
    with CurvatureOperator(objective) as H, off():
        with pytest.raises(InputError, match="autograd is off"):
            H.apply(torch.eye(3))
        with pytest.raises(InputError, match="autograd is off"):
            H.gradient()
    with torch.no_grad(), CurvatureOperator(objective) as H:
        assert H.apply(torch.eye(3)).any()


def test_weights_are_those_of_samples_in_batches_of_any_length() -> None:
    x, y, weights = seeded(9, 2), seeded(9, 1, seed=1), torch.arange(9).double()

    def forward(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return model(batch[0]), batch[1]

    batches = [(x[:2], y[:2]), (x[2:7], y[2:7]), (x[7:], y[7:])]
    model = nn.Linear(2, 1).double()
    with CurvatureOperator(Objective(model, "mse", batches, forward=forward), weights=weights, total=9.0) as H:
        found = H.apply(torch.eye(3).double())
    design = torch.cat([x, torch.ones(9, 1)], 1)
    close(found.numpy(), (2 / 9 * design.T @ (weights[:, None] * design)).numpy())
