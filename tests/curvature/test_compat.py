"""The class for PyHessian's users, against pyhessian itself and dense Hessians, and the comparison of products."""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyhessian
import pytest
import torch
import torch.nn.functional as F
from pyhessian.utils import hessian_vector_product
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import landscape as ls
from landscape.compat import PyHessian, compare_with_pyhessian

pytestmark = pytest.mark.filterwarnings("ignore:Using backward:UserWarning")  # pyhessian keeps the graph of gradients

SAMPLES, BATCH = 26, 8  # the last batch has 2
PRECISE = [(torch.float64, 1e-12), (torch.float32, 1e-6)]


def net(dtype: torch.dtype = torch.float64) -> nn.Module:
    """Convolution, BatchNorm with statistics of its own, ReLU, pooling: 131 parameters."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(3), nn.Flatten(),
        nn.Linear(16, 3),
    )  # fmt: skip
    model[1].running_mean.normal_()
    model[1].running_var.uniform_(0.5, 2.0)
    return model.to(dtype).eval()


def data(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(SAMPLES, 2, 6, 6, generator=generator, dtype=torch.float64)
    return inputs.to(dtype), torch.randint(0, 3, (SAMPLES,), generator=generator)


def loader(dtype: torch.dtype = torch.float64) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*data(dtype)), batch_size=BATCH)


def dense(model: nn.Module, loss: Callable[[nn.Module], Tensor]) -> Tensor:
    """The Hessian of a loss in all trainable parameters."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    gradient = torch.autograd.grad(loss(model), parameters, create_graph=True)
    flat = torch.cat([g.reshape(-1) for g in gradient])
    rows = [torch.autograd.grad(value, parameters, retain_graph=True) for value in flat]
    return torch.stack([torch.cat([part.reshape(-1) for part in row]) for row in rows])


@functools.cache
def truth(model: nn.Module | None = None) -> Tensor:
    """Of `net`, or of a model that stays as it is."""
    inputs, targets = data()
    return dense(model or net(), lambda m: F.cross_entropy(m(inputs), targets))


def by_magnitude(values: Tensor) -> Tensor:
    return values[values.abs().argsort(descending=True)]


def flat(vector: list[Tensor]) -> Tensor:
    return torch.cat([part.reshape(-1) for part in vector])


def ours(**given: Any) -> PyHessian:
    return PyHessian(net(), nn.CrossEntropyLoss(), cuda=False, **(given or {"data": data()}))


class Saddle(nn.Module):
    """outputs_i = sum_j curvature_j p_j^2 / 2: a loss that returns them has the Hessian diag(curvature)."""

    def __init__(self, curvature: list[float]) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.ones(len(curvature), dtype=torch.float64))
        self.register_buffer("curvature", torch.tensor(curvature, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.curvature * self.p**2).sum() / 2


def saddle(curvature: list[float]) -> PyHessian:
    ones = torch.ones(4, dtype=torch.float64)
    return PyHessian(Saddle(curvature), lambda o, t: o.mean(), data=(ones, ones), cuda=False)


# -- eigenvalues --------------------------------------------------------------------------------------------------


def test_eigenvalues_and_vectors_are_those_of_the_dense_hessian() -> None:
    H = truth()
    values, vectors = ours().eigenvalues(tol=1e-8, top_n=5)
    assert values == pytest.approx(by_magnitude(torch.linalg.eigvalsh(H))[:5].tolist(), rel=1e-10)
    V = torch.stack([flat(vector) for vector in vectors])
    torch.testing.assert_close(V @ V.T, torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-12)
    theta = torch.tensor(values, dtype=torch.float64)
    assert ((V @ H - theta[:, None] * V).norm(dim=1) <= 1.01e-8 * theta.abs()).all()
    assert min(values) < 0  # the largest magnitudes here, of both signs


def test_eigenvalues_agree_with_pyhessian_driven_to_a_tight_tolerance() -> None:
    torch.manual_seed(0)
    # its power iteration measures agreement of iterates, in products that it makes with the same Hessian
    theirs, vectors = pyhessian.hessian(net(), nn.CrossEntropyLoss(), data=data(), cuda=False).eigenvalues(
        maxIter=5000, tol=1e-13, top_n=3
    )
    values, found = ours().eigenvalues(tol=1e-8, top_n=3)
    assert values == pytest.approx(theirs, rel=1e-5)
    assert [type(v) for v in values] == [type(v) for v in theirs]
    for vector, other, parameter in zip(found[0], vectors[0], net().parameters(), strict=True):
        assert (vector.shape, vector.dtype) == (other.shape, other.dtype) == (parameter.shape, parameter.dtype)
    overlap = [abs(float(flat(a) @ flat(b))) for a, b in zip(found, vectors, strict=True)]
    assert min(overlap) > 1 - 1e-4


def test_ragged_batches_weigh_what_they_hold() -> None:
    for given in ({"dataloader": loader()}, {"dataloader": list(loader())}):
        values, _ = ours(**given).eigenvalues(tol=1e-8, top_n=3)
        assert values == pytest.approx(by_magnitude(torch.linalg.eigvalsh(truth()))[:3].tolist(), rel=1e-10)


@pytest.mark.parametrize(
    "curvature",
    [
        [3.0, -2.0, 1.0, -0.5],
        [-4.0, -3.0, -2.0, 1.0, 0.5],
        [-1.0, -2.0, -3.0],
        [1.0, 2.0, 3.0, 0.0, 0.0],
        [*np.linspace(-9, -5, 5), *np.linspace(0, 4, 40), 7.0],
        [*np.linspace(-9, -5, 5), *(-1e-7 * np.ones(60)), *np.linspace(-1e-3, -1e-6, 40)],
    ],
)
def test_the_largest_magnitudes_with_their_signs(curvature: list[float]) -> None:
    for count in (1, 2, 3):
        expected = by_magnitude(torch.tensor(curvature, dtype=torch.float64))[:count]
        values, vectors = saddle(curvature).eigenvalues(tol=1e-6, top_n=count)
        assert values == pytest.approx(expected.tolist(), rel=1e-9)
        assert len(vectors) == count


def test_copies_of_an_eigenvalue_are_all_there() -> None:
    """I_4 x A has every eigenvalue four times, in a linear model with four outputs under the mean square error."""
    torch.manual_seed(0)
    x, y = torch.randn(50, 5, dtype=torch.float64), torch.randn(50, 4, dtype=torch.float64)
    linear = nn.Linear(5, 4).double()
    A = torch.cat([x, torch.ones(50, 1)], 1)
    true = torch.linalg.eigvalsh(torch.kron(torch.eye(4), 2 / 200 * A.T @ A)).flip(0)
    values, vectors = PyHessian(linear, nn.MSELoss(), data=(x, y), cuda=False).eigenvalues(top_n=6)
    np.testing.assert_allclose(values, true[:6].numpy(), rtol=1e-3)
    basis = torch.stack([flat(vector) for vector in vectors])
    assert torch.allclose(basis @ basis.T, torch.eye(6, dtype=torch.float64), atol=1e-9)


def test_pairs_that_did_not_converge_are_returned_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "landscape"):
        values, vectors = ours().eigenvalues(maxIter=2, tol=1e-6, top_n=3)
    assert len(values) == len(vectors) == 3
    assert "did not reach" in caplog.text
    assert "in 6 products" in caplog.text


def test_the_random_stream_decides() -> None:
    compat = ours()
    torch.manual_seed(3)
    first, second = compat.trace(maxIter=8), compat.trace(maxIter=8)
    torch.manual_seed(3)
    assert compat.trace(maxIter=8) == first
    assert first != second


# -- trace and density --------------------------------------------------------------------------------------------


def test_trace_has_one_number_per_probe_whose_mean_is_the_trace() -> None:
    torch.manual_seed(0)
    found = ours().trace(maxIter=100, tol=0)
    assert len(found) == 100
    assert all(type(value) is float for value in found)
    stderr = np.std(found, ddof=1) / 10
    assert abs(np.mean(found) - float(truth().trace())) < 3 * stderr


def test_trace_goes_on_to_the_standard_error_asked_for() -> None:
    torch.manual_seed(0)
    found = ours().trace(maxIter=2000, tol=0.1)
    errors = [np.std(found[:n], ddof=1) / n**0.5 / abs(np.mean(found[:n])) for n in (len(found) - 4, len(found))]
    assert errors[1] <= 0.1 < errors[0]
    assert len(ours().trace(maxIter=6, tol=0.5)) == 6


def test_trace_of_negative_curvature_does_not_stop_after_two_probes() -> None:
    model, (x, y) = net(), data()
    theirs = pyhessian.hessian(model, lambda o, t: -F.cross_entropy(o, t), data=(x, y), cuda=False).trace()
    assert len(theirs) == 2
    found = PyHessian(net(), lambda o, t: -F.cross_entropy(o, t), data=(x, y), cuda=False).trace(maxIter=20)
    assert len(found) == 20
    assert np.mean(found) == pytest.approx(-float(truth().trace()), rel=0.5)


@pytest.mark.parametrize(("steps", "probes"), [(20, 3), (1, 1), (140, 1)])
def test_density_has_nodes_and_weights_of_sum_one(steps: int, probes: int) -> None:
    torch.manual_seed(0)
    nodes, weights = ours().density(iter=steps, n_v=probes)
    assert np.shape(nodes) == np.shape(weights) == (probes, steps)
    assert isinstance(nodes, list)
    assert isinstance(nodes[0], list)
    np.testing.assert_allclose(np.sum(weights, axis=1), 1, rtol=1e-12)
    assert np.min(weights) >= 0
    values = torch.linalg.eigvalsh(truth())
    assert float(values[0]) - 1e-9 <= np.min(nodes) <= np.max(nodes) <= float(values[-1]) + 1e-9


def test_density_moments_are_traces() -> None:
    torch.manual_seed(0)
    nodes, weights = ours().density(iter=4, n_v=30)
    H = truth()
    for power in (1, 2):
        by_probe = (np.array(weights) * np.array(nodes) ** power).sum(1)
        expected = float(torch.linalg.matrix_power(H, power).trace()) / len(H)
        assert abs(by_probe.mean() - expected) < 4 * by_probe.std(ddof=1) / np.sqrt(30)


def test_pyhessian_density_crashes_and_ours_does_not() -> None:
    with pytest.raises(RuntimeError, match="eig"):
        pyhessian.hessian(net(), nn.CrossEntropyLoss(), data=data(), cuda=False).density(iter=3)
    assert len(ours().density(iter=3)[0][0]) == 3


# -- how it is given ----------------------------------------------------------------------------------------------


def test_the_model_is_left_as_it_is() -> None:
    model = net().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    compat = PyHessian(model, nn.CrossEntropyLoss(), data=data(), cuda=False)
    compat.eigenvalues()
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_frozen_parameters_are_left_out() -> None:
    model = net()
    model[0].weight.requires_grad_(False)
    values, vectors = PyHessian(model, nn.CrossEntropyLoss(), data=data(), cuda=False).eigenvalues(tol=1e-8)
    assert [part.shape for part in vectors[0]] == [p.shape for p in model.parameters() if p.requires_grad]
    assert values[0] == pytest.approx(float(torch.linalg.eigvalsh(truth(model))[-1]), rel=1e-10)


def test_one_batch_may_be_a_list_as_loaders_make_them() -> None:
    assert ours(data=list(data())).eigenvalues(tol=1e-6)[0] == pytest.approx(ours().eigenvalues(tol=1e-6)[0], rel=1e-9)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "either data"),
        ({"data": data(), "dataloader": [data()]}, "either data"),
        ({"data": data(), "criterion": nn.CrossEntropyLoss(reduction="sum")}, "reduction='sum'"),
        ({"dataloader": DataLoader(TensorDataset(*data()), batch_size=8, shuffle=True)}, "shuffle"),
    ],
)
def test_what_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ls.InputError, match=message):
        PyHessian(net(), **{"criterion": nn.CrossEntropyLoss(), "cuda": False, **given})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_an_error() -> None:
    with pytest.raises(ls.InputError, match="cuda=False"):
        PyHessian(net(), nn.CrossEntropyLoss(), data=data())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_on_a_gpu() -> None:
    compat = PyHessian(net().cuda(), nn.CrossEntropyLoss(), data=data())
    values, vectors = compat.eigenvalues(tol=1e-8, top_n=2)
    assert values == pytest.approx(by_magnitude(torch.linalg.eigvalsh(truth()))[:2].tolist(), rel=1e-10)
    assert vectors[0][0].is_cuda


@pytest.mark.parametrize(
    "call",
    [
        lambda h: h.eigenvalues(top_n=0),
        lambda h: h.eigenvalues(top_n=10_000),
        lambda h: h.eigenvalues(maxIter=0),
        lambda h: h.eigenvalues(tol=0),
        lambda h: h.trace(maxIter=0),
        lambda h: h.density(iter=0),
        lambda h: h.density(n_v=0),
    ],
)
def test_arguments_that_cannot_be(call: Callable[[PyHessian], object]) -> None:
    with pytest.raises(ls.InputError):
        call(ours())


# -- products beside pyhessian's ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "gap"), PRECISE)
def test_products_are_pyhessians_elementwise(dtype: torch.dtype, gap: float) -> None:
    objective = ls.Objective(net(dtype), "cross_entropy", loader(dtype), device="cpu")
    comparison = compare_with_pyhessian(objective, precision=None)
    assert comparison.gaps.shape == comparison.elementwise.shape == (3,)
    assert comparison.worst <= gap
    assert comparison.agrees
    assert (comparison.samples, comparison.precision) == (SAMPLES, str(dtype).removeprefix("torch."))
    wide = compare_with_pyhessian(objective, samples=10)
    assert (wide.samples, wide.precision) == (10, "float64")
    assert wide.worst <= 1e-12


@pytest.mark.parametrize(("dtype", "gap"), PRECISE)
def test_products_of_one_batch_and_of_ragged_batches(dtype: torch.dtype, gap: float) -> None:
    """pyhessian weighs batches by what they hold, so a short last one is right there, too."""
    model, (inputs, targets) = net(dtype), data(dtype)
    one = pyhessian.hessian(model, nn.CrossEntropyLoss(), data=(inputs, targets), cuda=False)
    vector = [torch.randn(p.shape, dtype=dtype) for p in model.parameters()]
    whole = flat(list(hessian_vector_product(one.gradsH, one.params, vector)))
    model.zero_grad()
    many = pyhessian.hessian(model, nn.CrossEntropyLoss(), dataloader=loader(dtype), cuda=False)
    ragged = flat(many.dataloader_hv_product(vector)[1])
    with ls.CurvatureOperator(ls.Objective(model, "cross_entropy", (inputs, targets), device="cpu")) as H:
        product = H.apply(flat(vector)[None])[0]
    for other in (whole, ragged):
        assert float((product - other.detach()).abs().max() / other.abs().max()) <= gap


def test_a_loss_with_weights_and_ignored_labels() -> None:
    """Its batches weigh by their denominators, which pyhessian is told by way of the criterion."""
    inputs, targets = data()
    targets[::3] = -100
    weight = torch.tensor([1.0, 4.0, 0.5], dtype=torch.float64)
    objective = ls.Objective(net(), nn.CrossEntropyLoss(weight=weight), (inputs, targets), device="cpu")
    assert compare_with_pyhessian(objective).worst <= 1e-12


def test_a_wrong_product_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    objective = ls.Objective(net(), "cross_entropy", data(), device="cpu")
    right = ls.CurvatureOperator.apply
    monkeypatch.setattr(ls.CurvatureOperator, "apply", lambda H, v: right(H, v) * (1 + 1e-6))
    comparison = compare_with_pyhessian(objective)
    assert comparison.worst == pytest.approx(1e-6, rel=1e-3)
    assert not comparison.agrees


class Two(nn.Module):
    """A model of two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.linear(x + y)


def refused() -> Iterator[tuple[str, ls.Objective, str]]:
    x, y = torch.randn(8, 4), torch.randint(0, 3, (8,))
    linear = nn.Linear(4, 3)

    def outputs(model: nn.Module, batch: Any) -> Any:
        return model(batch[0]), batch[1]

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    yield "forward", ls.Objective(linear, "cross_entropy", (x, y), forward=outputs, device="cpu"), "forward="
    yield "loss", ls.Objective(linear, None, (x, y), forward=loss, device="cpu"), "loss=None"
    yield "two inputs", ls.Objective(Two(), "cross_entropy", (x, x, y), device="cpu"), "a tuple of 3"
    named = TensorDataset(x, y)
    batches = [{"input": a, "labels": b} for a, b in DataLoader(named, batch_size=4)]
    yield "mapping", ls.Objective(nn.Linear(4, 3), "cross_entropy", batches, device="cpu"), "dict"


@pytest.mark.parametrize("name", ["forward", "loss", "two inputs", "mapping"])
def test_what_pyhessian_has_no_answer_to(name: str) -> None:
    objective, message = next((o, m) for n, o, m in refused() if n == name)
    with pytest.raises(ls.InputError, match=message):
        compare_with_pyhessian(objective)


def test_a_parameter_that_pyhessian_cannot_take() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.other = nn.Linear(4, 3), nn.Parameter(torch.zeros(2))

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    objective = ls.Objective(Unused(), "cross_entropy", (torch.randn(8, 4), torch.randint(0, 3, (8,))), device="cpu")
    with pytest.raises(ls.InputError, match="pyhessian has no product"):
        compare_with_pyhessian(objective)


def test_comparing_leaves_the_model_as_it_was() -> None:
    model = net().train()
    objective = ls.Objective(model, "cross_entropy", data(), device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compare_with_pyhessian(objective)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
