"""Tensors of other layouts, offsets and kinds of numbers than a dense real one of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import landscape as ls
from landscape.curvature.operator import CurvatureOperator
from landscape.errors import InputError
from landscape.objective.objective import Objective


def seeded(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


N = 12
X, Y = seeded(N, 4), torch.arange(N) % 3
GRAPH = torch.eye(N) + (seeded(N, N, seed=1) > 1).float()


# -- sparse and nested ------------------------------------------------------------------------------------------------


class OnGraph(nn.Module):
    def __init__(self, graph: Tensor) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        with torch.no_grad():
            self.layer.weight.copy_(seeded(3, 4, seed=2)), self.layer.bias.zero_()
        self.register_buffer("graph", graph)

    def forward(self, x: Tensor, graph: Tensor | None = None) -> Tensor:
        return (self.graph if graph is None else graph) @ self.layer(x)  # type: ignore[no-any-return, operator]


def per_node(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(*batch[:-1]), batch[-1], reduction="none")


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc])
@pytest.mark.parametrize("where", ["buffer", "batch"])
def test_sparse_tensors(layout: torch.layout, where: str) -> None:
    """In a buffer or a batch: the loss and the Hessian are those of the dense one."""
    dense, sparse = (
        Objective(
            OnGraph(graph if where == "buffer" else torch.eye(N)),
            loss=None,
            data=[(X, Y) if where == "buffer" else (X, graph, Y)],
            forward=per_node,
        )
        for graph in (GRAPH, GRAPH.to_sparse(layout=layout))
    )
    assert abs(sparse.evaluate()["loss"] - dense.evaluate()["loss"]) < 1e-6
    assert sparse.identity()["parameters"] == 15
    with CurvatureOperator(dense) as H, CurvatureOperator(sparse) as S:
        torch.testing.assert_close(S.apply(torch.eye(15)), H.apply(torch.eye(15)), rtol=1e-4, atol=1e-6)
    other = GRAPH.clone()
    other[0, 1] += 1
    again, changed = (
        Objective(OnGraph(g.to_sparse(layout=layout)), loss=None, data=[(X, Y)], forward=per_node)
        for g in (GRAPH, other)
    )
    assert again.identity()["fixed"] != changed.identity()["fixed"]


class Written(nn.Module):
    """Writes to a sparse buffer in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.register_buffer("seen", torch.eye(3).to_sparse())

    def forward(self, x: Tensor) -> Tensor:
        result = self.layer(x) @ self.seen.to_dense()  # type: ignore[operator, union-attr]
        self.seen.mul_(1.5)  # type: ignore[operator, union-attr]
        return result  # type: ignore[no-any-return]


def test_a_sparse_buffer_that_is_written_to_is_put_back() -> None:
    model = Written()
    objective = Objective(model, "cross_entropy", (X, Y))
    alone = F.cross_entropy(model.layer(X), Y).item()
    assert abs(objective.evaluate()["loss"] - alone) < 1e-6
    assert abs(objective.on(objective.data, chunk=3).evaluate()["loss"] - alone) < 1e-6
    assert torch.equal(model.seen.to_dense(), torch.eye(3))  # type: ignore[operator, union-attr]


class Pooled(nn.Module):
    """The mean over the rows of each sample of a nested batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.layer(sample).tanh().mean(0) for sample in x.unbind()])


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
@pytest.mark.parametrize("form", ["whole", "batches"])
def test_nested_tensors(layout: torch.layout, form: str) -> None:
    samples = [seeded(2 + k % 3, 4, seed=k) for k in range(N)]
    model = Pooled()

    def nested(part: slice) -> Tensor:
        return torch.nested.nested_tensor(samples[part], layout=layout)

    data: Any = (nested(slice(None)), Y)
    if form == "batches":
        data = [(nested(slice(0, 7)), Y[:7]), (nested(slice(7, N)), Y[7:])]
    true = F.cross_entropy(torch.stack([model.layer(s).tanh().mean(0) for s in samples]), Y).item()
    objective = Objective(model, "cross_entropy", data)
    assert objective.samples == N
    assert abs(objective.evaluate()["loss"] - true) < 1e-6
    assert CurvatureOperator(objective).check.route == "double backward"
    assert Objective(model, "cross_entropy", data).identity()["data"] == objective.identity()["data"]


# -- offsets ----------------------------------------------------------------------------------------------------------


class Paired(nn.Module):
    """Complex weights stored as pairs, behind or before a parameter of odd length."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        if not first:
            self.gain = nn.Parameter(torch.ones(1))
        self.w = nn.Parameter(seeded(4, 2, seed=3))
        if first:
            self.gain = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.irfft(torch.fft.rfft(x)[:, :4] * torch.view_as_complex(self.w) * self.gain, n=8)


class Packed(nn.Module):
    """Memory read as another type, which must begin at a multiple of 8 bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.w = nn.Parameter(torch.ones(3)), nn.Parameter(seeded(8, seed=3))

    def forward(self, x: Tensor) -> Tensor:
        assert self.w.data.view(torch.complex128).ndim == 1
        return x * self.w.tanh() * self.gain.sum()


SIGNALS, SHAPES = seeded(N, 8, seed=4), seeded(N, 8, seed=5)


def hessian(model: nn.Module) -> Tensor:
    """By autograd, complex parameters as real and imaginary parts in turn."""
    parameters = list(model.parameters())
    loss = F.mse_loss(model(SIGNALS), SHAPES)

    def real(parts: Any) -> Tensor:
        return torch.cat([(torch.view_as_real(p) if p.is_complex() else p).reshape(-1) for p in parts])

    gradients = torch.autograd.grad(loss, parameters, create_graph=True)
    entries = [entry for part in gradients for entry in real([part])]
    found = [torch.autograd.grad(entry, parameters, retain_graph=True, allow_unused=True) for entry in entries]
    return torch.stack(
        [real([torch.zeros_like(p) if g is None else g for g, p in zip(r, parameters, strict=True)]) for r in found]
    )


class Spectral(nn.Module):
    """Complex weights, as spectral layers of neural operators have them."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))
        self.w = nn.Parameter(torch.view_as_complex(0.3 * seeded(2, 4, 2, seed=3)))

    def forward(self, x: Tensor) -> Tensor:
        kept = torch.einsum("bk,ok->bok", torch.fft.rfft(x)[:, :4], self.w)
        return torch.fft.irfft(kept, n=8).tanh().sum(1) * self.gain


MODELS: dict[str, Any] = {
    "after": lambda: Paired(False),
    "before": lambda: Paired(True),
    "packed": Packed,
    "complex": Spectral,
}


@pytest.mark.parametrize("name", MODELS)
def test_values_and_products_at_any_offset(name: str) -> None:
    model = MODELS[name]()
    true = F.mse_loss(model(SIGNALS), SHAPES).item()
    matrix = hessian(model)
    objective = Objective(model, "mse", (SIGNALS, SHAPES))
    assert abs(objective.evaluate()["loss"] - true) < 1e-5
    for route in ("double backward", "forward over reverse", "finite differences"):
        check = CurvatureOperator(objective).check
        if route == "double backward":
            assert (check.route, dict(check.refused)) == (route, {})
        given = type(check)(route, 0.0, 0.0, 0.0, 0.0, {})
        with CurvatureOperator(objective, check=given) as H:
            torch.testing.assert_close(H.apply(torch.eye(H.size)), matrix, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_a_curve_is_trained_at_any_offset(name: str) -> None:
    """Parameters that cannot be views of the point that is trained follow it, and their gradients are added."""
    model = MODELS[name]()
    objective = Objective(model, "mse", (SIGNALS, SHAPES))
    theta = objective.theta + 0.1 * seeded(objective.layout.size, seed=9)
    moving, gradient = torch.zeros_like(theta), torch.zeros_like(theta)
    with objective.training(moving, gradient) as bound:
        moving.copy_(theta)
        for _ in range(2):
            objective.units(bound, (SIGNALS, SHAPES))[0].numerators.sum().backward()
    with CurvatureOperator(objective, theta=theta) as H:
        torch.testing.assert_close(gradient / (2 * SHAPES.numel()), H.gradient(), rtol=1e-4, atol=1e-6)


# -- complex numbers --------------------------------------------------------------------------------------------------


def test_complex_parameters() -> None:
    model = Spectral()
    objective = Objective(model, "mse", (SIGNALS, SHAPES))
    assert objective.complex_names == ("w",)
    assert objective.layout.shapes == ((1,), (2, 4, 2))
    assert torch.equal(objective.theta[1:], torch.view_as_real(model.w.detach()).reshape(-1))
    plane = ls.random_plane(objective, axes=2, ignore=())
    assert plane.about["complex"] == ["w"]
    direction = torch.view_as_complex(objective.layout.unflatten(plane.directions[0])["w"].clone())
    torch.testing.assert_close(direction.norm(dim=1), model.w.detach().norm(dim=1))  # of the complex weights
    surface = ls.measure_surface(objective, plane, x=(-1, 1, 3), y=(0, 1, 2))
    by_hand = Spectral()
    with torch.no_grad():
        by_hand.w.add_(direction)
        by_hand.gain.add_(plane.directions[0][:1])
    assert abs(surface.values["loss"][0, 2] - F.mse_loss(by_hand(SIGNALS), SHAPES).item()) < 1e-5
    spectrum = ls.measure_spectrum(objective, k=3, trace=False, density=False)
    assert spectrum.attributes["complex"] == ["w"]
    true = np.linalg.eigvalsh(hessian(model).numpy())[::-1]
    np.testing.assert_allclose(spectrum.eigenvalues, true[np.argsort(-abs(true))][:3], rtol=1e-4)
    through = ls.plane_through(objective, [model, by_hand.state_dict()])
    torch.testing.assert_close(through.directions[0], plane.directions[0], rtol=1e-4, atol=1e-5)
    wide = Spectral()
    for parameter in wide.parameters():
        parameter.data = parameter.data.to(torch.complex128 if parameter.is_complex() else torch.float64)
    assert Objective(wide, "mse", (SIGNALS, SHAPES)).precision == "float64"


def test_the_trace_of_a_complex_linear_layer() -> None:
    """Rules for per-sample gradients are those of real layers, so that another way to the trace is taken."""

    class Magnitude(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8, dtype=torch.complex64)
            with torch.no_grad():
                for number, parameter in enumerate(self.layer.parameters()):
                    real = seeded(*parameter.shape, 2, seed=number)
                    parameter.copy_(torch.view_as_complex(0.3 * real))

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x.to(self.layer.weight.dtype)).real.tanh()

    model = Magnitude()
    objective = Objective(model, "mse", (SIGNALS, SHAPES))
    spectrum = ls.measure_spectrum(objective, k=0, density=False, params="layer.bias", trace="xtrace")
    assert spectrum.attributes["complex"] == ["layer.bias"]
    true = float(hessian(model)[-16:, -16:].trace())
    assert abs(spectrum.trace.value - true) < 4 * spectrum.trace.stderr_probes + 1e-3 * abs(true)
    with pytest.raises(InputError, match=r"layer\.bias is complex"):
        ls.measure_spectrum(objective, k=0, density=False, params="layer.bias", trace="exact", operator="ggn")


# -- tensors without values here --------------------------------------------------------------------------------------


def test_parameters_without_values_are_refused_in_a_sentence() -> None:
    with pytest.raises(InputError, match="parameter weight is on the meta device and has no values; load the weights"):
        Objective(nn.Linear(4, 3, device="meta"), "cross_entropy", (X, Y))

    class Shard:
        dim = 1

        def is_replicate(self) -> bool:
            return False

    class DTensor(nn.Parameter):
        placements = (Shard(),)

    model = nn.Linear(4, 3)
    model.weight = DTensor(model.weight.detach())
    with pytest.raises(InputError, match=r"weight is a DTensor placed as .*: rows of axis 0, split once"):
        Objective(model, "cross_entropy", (X, Y))
    model = nn.Linear(4, 3)
    model.register_buffer("mask", DTensor(torch.ones(3)).detach().as_subclass(DTensor))
    with pytest.raises(InputError, match="mask is a DTensor, of which this process holds a part; give it whole"):
        Objective(model, "cross_entropy", (X, Y))
    model = nn.Linear(4, 3)
    model.register_buffer("mask", torch.empty(3, device="meta"))
    with pytest.raises(InputError, match="buffer mask is on the meta device and has no values"):
        Objective(model, "cross_entropy", (X, Y))


@pytest.mark.parametrize("budget", [0, 1 << 30])
def test_data_without_values_are_refused_in_a_sentence(budget: int) -> None:
    class DTensor(Tensor):
        pass

    class Sampled(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, i: int) -> Any:
            return torch.empty(4, device="meta"), 0

    there = torch.empty(20, 4, device="meta")
    model = nn.Linear(4, 3)
    for data in ((there, Y), [(X, Y), (there, Y)], {"x": there, "labels": Y}, Sampled(), torch.empty(2, device="meta")):
        with pytest.raises(
            InputError, match=r"a tensor of shape \(\d+,.*\) in the data is on the meta device and has no"
        ):
            Objective(model, "cross_entropy", data, memory_budget=budget)
    with pytest.raises(
        InputError, match=r"a tensor of shape \(12, 4\) in the data is a DTensor, of which this process"
    ):
        Objective(model, "cross_entropy", (X.as_subclass(DTensor), Y), memory_budget=budget)
