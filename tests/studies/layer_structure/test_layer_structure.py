"""Factors of layers, Kronecker products beside dense Hessian blocks, overlaps and rank one; what cannot be measured."""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spectrum_nets as nets
import torch
import torch.nn.functional as F
from landscape_jobs.build.objects import build
from landscape_jobs.spec.job import load_job
from landscape_kernels.kronecker import (
    eigenspace_overlaps,
    kronecker_order,
    leading,
    product_errors,
    rank_one_share,
)
from structure_cases import case, structure
from torch import Tensor, nn

import landscape as ls
from landscape.errors import InputError, NumericalError
from landscape.studies.layer_structure import factors as factors_module
from landscape.studies.layer_structure.factors import LayerSums, layer_sums
from landscape.studies.layer_structure.measure import StructurePlan, factor_structure
from landscape.studies.layer_structure.settings import LayerStructureSettings

Array = np.ndarray
EXACT = 1e-10  # float64, sums of some hundred terms: 1e6 roundings


# -- the naive twin: one sample at a time, by Jacobians in the layer's output ------------------------------------------


def naive(model: nn.Module, layer: nn.Module, x: Tensor, y: Tensor, places: str, loss: str) -> tuple[Array, Array]:
    """(E[M], E[x x']) of a layer, from per-sample Jacobians of the outputs in what is added to the layer's output."""
    total_m: Any = 0.0
    total_x: Any = 0.0
    for i in range(len(x)):
        rows, jacobian, p = one_sample(model, layer, x[i : i + 1])
        bend = 2 * torch.eye(len(p), dtype=p.dtype) / len(p) if loss == "mse" else torch.diag(p) - torch.outer(p, p)
        if loss != "mse" and y[i] == -100:
            bend = bend * 0
        if places == "reduce":
            g, a = jacobian.sum(2), rows.mean(0)
            total_m, total_x = total_m + g.T @ bend @ g, total_x + torch.outer(a, a)
        else:
            length = rows.shape[0]
            each = [jacobian[:, :, place].T @ bend @ jacobian[:, :, place] / length for place in range(length)]
            total_m, total_x = total_m + sum(each), total_x + rows.T @ rows
    count = len(x) if loss == "mse" else int((y != -100).sum())
    return (total_m / count).numpy(), (total_x / len(x)).numpy()


def one_sample(model: nn.Module, layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(inputs (L, p), Jacobian (C, m, L), probabilities (C,)) of a sample at a layer."""
    seen: dict[str, Tensor] = {}

    def outputs_of(delta: Tensor) -> Tensor:
        def hook(_: nn.Module, args: Any, output: Tensor) -> Tensor:
            seen["input"], seen["shape"] = args[0].detach(), torch.tensor(output.shape)
            return output + delta.reshape(output.shape) if delta.numel() else output

        handle = layer.register_forward_hook(hook)
        try:
            return model(x)[0]
        finally:
            handle.remove()

    p = outputs_of(torch.zeros(0, dtype=x.dtype)).detach().softmax(0)
    shape = tuple(seen["shape"].tolist())
    jacobian = torch.autograd.functional.jacobian(outputs_of, torch.zeros(shape, dtype=x.dtype))
    assert isinstance(jacobian, Tensor)
    jacobian = jacobian[:, 0].detach()
    if isinstance(layer, nn.Conv2d):
        rows = F.unfold(
            seen["input"], layer.kernel_size, padding=layer.padding, stride=layer.stride, dilation=layer.dilation
        )[0].T
        return rows, jacobian.flatten(2), p
    rows = seen["input"].reshape(-1, seen["input"].shape[-1])
    return rows, jacobian.reshape(len(p), -1, shape[-1]).transpose(1, 2), p


class Tokens(nn.Module):
    """A linear layer over the tokens of a text, whose outputs are averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.each, self.head = nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.each(x)).mean(1))


def mlp(*between: nn.Module, seed: int = 0) -> nn.Module:
    return nets.settled(nn.Sequential(nn.Linear(4, 6), *between, nn.Linear(6, 3)), seed)


def conv(pool: bool = False, stride: int = 2) -> nn.Module:
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3)] if pool else [nn.Flatten(), nn.Linear(12, 3)]
    return nets.settled(nn.Sequential(nn.Conv2d(2, 3, 3, stride=stride, padding=1), nn.ReLU(), *head))


def objective_of(model: nn.Module, x: Tensor, y: Tensor, loss: str = "cross_entropy") -> ls.Objective:
    return ls.Objective(model, loss, (x, y))


def block(model: nn.Module, name: str, x: Tensor, y: Tensor) -> Array:
    """The dense Hessian block of one weight."""
    names = [n for n, _ in model.named_parameters()]
    sizes = [p.numel() for p in model.parameters()]
    start = sum(sizes[: names.index(name)])
    place = slice(start, start + sizes[names.index(name)])
    whole: Array = nets.hessian_on(model, x, y)[place, place]
    return whole


def images(count: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    return nets.seeded(count, 2, 4, 4, seed=seed), nets.labels(count, seed=seed)


SOME_IGNORED = torch.tensor([0, -100, 2, 1, 0, 2, -100, 1, 2, 0, 0])
CASES: dict[str, Any] = {
    "relu": lambda: (mlp(nn.ReLU()), nets.seeded(11, 4), nets.labels(11), "cross_entropy"),
    "tanh": lambda: (mlp(nn.Tanh()), nets.seeded(11, 4), nets.labels(11), "cross_entropy"),
    "frozen BatchNorm": lambda: (mlp(nn.BatchNorm1d(6), nn.ReLU()), nets.seeded(9, 4), nets.labels(9), "cross_entropy"),
    "squared loss": lambda: (mlp(nn.ReLU()), nets.seeded(9, 4), nets.seeded(9, 3, seed=3), "mse"),
    "ignored labels": lambda: (mlp(nn.ReLU()), nets.seeded(11, 4), SOME_IGNORED, "cross_entropy"),
    "convolution": lambda: (conv(), *images(7), "cross_entropy"),
    "tokens": lambda: (nets.settled(Tokens()), nets.seeded(7, 5, 3), nets.labels(7), "cross_entropy"),
}


def factors_of(objective: ls.Objective, places: str, params: str | None = None) -> dict[str, tuple[Array, Array]]:
    """{layer: (E[M], E[x x'])} without the blocks."""
    settings = LayerStructureSettings(params=None if params is None else (params,), places=places)
    task = StructurePlan(objective, settings).factors
    description, rows = task.describe(), ls.run_task(task).rows
    found = {}
    for i, layer in enumerate(description.identity["layers"]):
        sums = layer_sums(description, rows, i)
        total = sums.outputs.sum(0) / sums.denominators.sum(), sums.inputs.sum(0) / sums.samples.sum()
        found[str(layer["name"])] = total
    return found


@pytest.mark.parametrize("places", ["reduce", "expand"])
@pytest.mark.parametrize("name", CASES)
def test_factors_are_those_of_the_naive_twin(name: str, places: str) -> None:
    model, x, y, loss = CASES[name]()
    found = factors_of(objective_of(model, x, y, loss), places)
    modules = dict(model.named_modules())
    assert len(found) == 2
    for layer, pair in found.items():
        for ours, twin in zip(pair, naive(model, modules[layer], x, y, places, loss), strict=True):
            np.testing.assert_allclose(ours, twin, atol=EXACT * np.abs(twin).max())


def test_convolutions_of_every_kind_unfold_as_torch_does() -> None:
    layer = nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 1), dilation=(1, 2))
    model = nets.settled(nn.Sequential(layer, nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3)))
    x, y = nets.seeded(5, 2, 5, 6), nets.labels(5)
    for places in ("reduce", "expand"):
        found = factors_of(objective_of(model, x, y), places, "0")["0"]
        for ours, twin in zip(found, naive(model, layer, x, y, places, "cross_entropy"), strict=True):
            np.testing.assert_allclose(ours, twin, atol=EXACT * np.abs(twin).max())


# -- exact cases -------------------------------------------------------------------------------------------------------


def test_softmax_regression_in_closed_form() -> None:
    """H = mean of (diag p - p p') (x) x x', E[M] the mean of diag p - p p'."""
    model, x, y = nets.settled(nn.Linear(4, 3)), nets.seeded(40, 4), nets.labels(40)
    found = ls.measure_layer_structure(objective_of(model, x, y), k=6, params="weight")
    p = model(x).detach().softmax(1)
    M = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    np.testing.assert_allclose(found.output_factors["weight"], M.mean(0).numpy(), atol=EXACT)
    np.testing.assert_allclose(found.input_factors["weight"], (x.T @ x / 40).numpy(), atol=EXACT)
    H = torch.einsum("nab,ni,nj->aibj", M, x, x).reshape(12, 12) / 40
    values, vectors = torch.linalg.eigh(H)
    np.testing.assert_allclose(found.eigenvalues[0], values.flip(0)[:6].numpy(), rtol=EXACT)
    approximate = torch.linalg.eigh(torch.kron(M.mean(0), x.T @ x / 40))
    np.testing.assert_allclose(found.kronecker[0], approximate[0].flip(0)[:6].numpy(), rtol=EXACT)
    top, other = vectors.flip(1)[:, :6], approximate[1].flip(1)[:, :6]
    for j in range(1, 7):
        expected = float((top[:, :j].T @ other[:, :j]).square().sum()) / j
        assert abs(found.overlap[0, j - 1] - expected) < 1e-9
    shares = [float(torch.linalg.svdvals(v.reshape(3, 4))[0] ** 2) for v in top.T]
    np.testing.assert_allclose(found.rank_one[0], shares, rtol=1e-9)
    mean = x.mean(0)
    first = torch.linalg.eigh(x.T @ x)[1][:, -1]
    assert abs(found.mean_alignment[0] - float((first @ mean).abs() / mean.norm())) < EXACT


def test_ignored_labels_count_in_neither_block_nor_factor() -> None:
    """E[M] is per kept label, as the block is: with all inputs alike the product is exact."""
    model, x = nets.settled(nn.Linear(4, 3, bias=False)), nets.seeded(1, 4).expand(11, 4).contiguous()
    found = ls.measure_layer_structure(objective_of(model, x, SOME_IGNORED), k=2)
    np.testing.assert_allclose(found.kronecker, found.eigenvalues, rtol=EXACT)
    np.testing.assert_allclose(found.output_factors["weight"], naive_softmax(model(x[:1])), atol=EXACT)


def test_a_loss_without_curvature_in_the_outputs_has_factors_of_zero() -> None:
    model, x = nets.settled(nn.Linear(4, 3, bias=False)), nets.seeded(8, 4)
    found = ls.measure_layer_structure(objective_of(model, x, nets.seeded(8, 3, seed=4), "l1"), k=2)
    assert not found.output_factors["weight"].any()
    assert not found.kronecker.any()
    assert not found.eigenvalues.any()


def naive_softmax(scores: Tensor) -> Array:
    p = scores.detach().softmax(1)[0]
    return (torch.diag(p) - torch.outer(p, p)).numpy()


@pytest.mark.parametrize("places", ["reduce", "expand"])
def test_inputs_that_are_all_alike_make_the_product_exact(places: str) -> None:
    """x is the same for all samples: H = E[M] (x) x x', of rank 2, whose eigenvectors are of rank one."""
    model, x = nets.settled(nn.Linear(4, 3, bias=False)), nets.seeded(1, 4).expand(12, 4).contiguous()
    found = ls.measure_layer_structure(objective_of(model, x, nets.labels(12)), k=2, places=places)
    np.testing.assert_allclose(found.kronecker, found.eigenvalues, rtol=EXACT)
    np.testing.assert_allclose(found.overlap, 1, rtol=EXACT)
    np.testing.assert_allclose(found.rank_one, 1, rtol=EXACT)
    np.testing.assert_allclose(found.mean_alignment, 1, rtol=EXACT)


def test_images_alike_at_all_places_make_reduce_exact() -> None:
    """Constant images without padding: every place sees the same input, and g_l add up."""
    model = nets.settled(nn.Sequential(nn.Conv2d(2, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(27, 3)))
    x = nets.seeded(1, 2, 1, 1).expand(6, 2, 4, 4).contiguous()
    objective = objective_of(model, x, nets.labels(6))
    reduced, expanded = (
        ls.measure_layer_structure(objective, k=3, params="0", operator="ggn", places=places)
        for places in ("reduce", "expand")
    )
    known = reduced.eigenvalues[0] > 1e-9
    assert known.sum() >= 2
    np.testing.assert_allclose(reduced.kronecker[0, known], reduced.eigenvalues[0, known], rtol=1e-9)
    assert reduced.overlap[0, 1] > 1 - 1e-9
    assert reduced.places.tolist() == [9]
    assert abs(expanded.kronecker[0, 0] / expanded.eigenvalues[0, 0] - 1) > 0.01


def test_the_output_factor_is_the_block_of_the_bias() -> None:
    """Of a bias the input is 1 at every place, so with "reduce" E[M] is its block, here of a piecewise linear net."""
    model, (x, y) = conv(pool=True, stride=1), images(9)
    found = ls.measure_layer_structure(objective_of(model, x, y), k=1)
    for layer in found.layers:
        dense = block(model, f"{layer}.bias", x, y)
        np.testing.assert_allclose(found.output_factors[layer], dense, atol=EXACT * np.abs(dense).max())


# -- blocks, overlaps --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", [False, True])
def test_blocks_are_those_of_the_dense_hessian(pool: bool) -> None:
    model, (x, y) = conv(pool), images(9)
    found = ls.measure_layer_structure(objective_of(model, x, y), k=5)
    for i, layer in enumerate(found.layers):
        values, vectors = np.linalg.eigh(block(model, f"{layer}.weight", x, y))
        np.testing.assert_allclose(found.eigenvalues[i], values[:-6:-1], atol=1e-9 * values[-1])
        assert found.converged[i].all()
        kron = np.kron(found.output_factors[layer], found.input_factors[layer])
        other = np.linalg.eigh(kron)[1]
        for j in (1, 2):  # of distinct eigenvalues
            expected = np.square(vectors[:, -j:].T @ other[:, -j:]).sum() / j
            assert abs(found.overlap[i, j - 1] - expected) < 1e-8
        share = np.linalg.svd(vectors[:, -1].reshape(found.outputs[i], -1), compute_uv=False)[0] ** 2
        assert abs(found.rank_one[i, 0] - share) < 1e-9


def test_krylov_blocks_in_float32_are_those_of_float64() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 24), nn.ReLU(), nn.Linear(24, 3))
    x, y = nets.seeded(60, 20).float(), nets.labels(60)
    found = ls.measure_layer_structure(objective_of(model, x, y), k=2, params="0")
    exact = copy.deepcopy(model).double()
    values, vectors = np.linalg.eigh(block(exact, "0.weight", x.double(), y))
    np.testing.assert_allclose(found.eigenvalues[0], values[:-3:-1], rtol=1e-5)
    share = np.linalg.svd(vectors[:, -1].reshape(24, 20), compute_uv=False)[0] ** 2
    assert abs(found.rank_one[0, 0] - share) < 1e-3  # residuals of 1e-3


def test_a_model_overlaps_with_itself_and_with_another_as_dense_blocks_say() -> None:
    model, other, x, y = mlp(nn.ReLU()), mlp(nn.ReLU(), seed=5), nets.seeded(20, 4), nets.labels(20)
    objective = objective_of(model, x, y)
    same = ls.measure_layer_structure(objective, k=4, other=model.state_dict())
    np.testing.assert_allclose(same.other_overlap, 1, rtol=1e-12)
    found = ls.measure_layer_structure(objective, k=4, other=objective_of(other, x, y))
    again = ls.measure_layer_structure(objective, k=4, other=other)
    assert found.other_overlap is not None
    np.testing.assert_allclose(again.other_overlap, found.other_overlap, rtol=1e-12)
    for i, layer in enumerate(found.layers):
        ours, theirs = (np.linalg.eigh(block(net, f"{layer}.weight", x, y))[1][:, ::-1] for net in (model, other))
        for j in range(1, 5):
            expected = np.square(ours[:, :j].T @ theirs[:, :j]).sum() / j
            assert abs(found.other_overlap[i, j - 1] - expected) < 1e-8
    np.testing.assert_allclose(found.chance[0], np.arange(1, 5) / 24)


def test_hidden_units_in_another_order_change_no_eigenvalue_and_are_another_model() -> None:
    model, x, y = mlp(nn.ReLU()), nets.seeded(20, 4), nets.labels(20)
    order = torch.tensor([2, 0, 1, 5, 3, 4])
    permuted = copy.deepcopy(model)
    permuted[0].weight.data, permuted[0].bias.data = model[0].weight.data[order], model[0].bias.data[order]
    permuted[2].weight.data = model[2].weight.data[:, order]
    one = ls.measure_layer_structure(objective_of(model, x, y), k=3, other=permuted)
    two = ls.measure_layer_structure(objective_of(permuted, x, y), k=3)
    for name in ("eigenvalues", "kronecker", "output_eigenvalues", "input_eigenvalues", "overlap", "rank_one"):
        np.testing.assert_allclose(getattr(two, name), getattr(one, name), rtol=1e-8, atol=1e-12, err_msg=name)
    np.testing.assert_allclose(two.output_factors["0"], one.output_factors["0"][order][:, order], atol=EXACT)
    np.testing.assert_allclose(two.input_factors["2"], one.input_factors["2"][order][:, order], atol=EXACT)
    assert one.other_overlap is not None
    assert one.other_overlap[0, 0] < 0.9


def test_random_subspaces_overlap_by_chance() -> None:
    """j / n within 3 standard errors of 400 draws, and k / d = 5 / 60."""
    draws = []
    for seed in range(400):
        u, v = (torch.linalg.qr(nets.seeded(60, 5, seed=2 * seed + side))[0].T for side in (0, 1))
        draws.append(eigenspace_overlaps(u, v))
    mean, error = np.mean(draws, axis=0), np.std(draws, axis=0, ddof=1) / math.sqrt(len(draws))
    assert (np.abs(mean - np.arange(1, 6) / 60) < 3 * error).all()
    np.testing.assert_allclose(eigenspace_overlaps(u, u), 1)
    turned = torch.linalg.qr(nets.seeded(5, 5))[0] @ u  # the same space
    assert abs(eigenspace_overlaps(u, turned)[-1] - 1) < 1e-12


def test_products_in_order_and_rank_one_of_products() -> None:
    first, second = np.array([4.0, 2.0, 0.5]), np.array([3.0, 1.0, 0.25])
    i, j = kronecker_order(first, second, 5)
    np.testing.assert_array_equal(first[i] * second[j], np.sort(np.multiply.outer(first, second).ravel())[:-6:-1])
    u, v = nets.seeded(3), nets.seeded(7)
    full = torch.eye(3, 7, dtype=torch.float64).flatten()
    np.testing.assert_allclose(rank_one_share(torch.stack([torch.kron(u, v), full]), 3), [1, 1 / 3])
    assert leading(np.eye(2), 5).vectors.shape == (2, 2)


# -- errors ------------------------------------------------------------------------------------------------------------


def test_errors_of_products_are_the_scatter_of_new_data() -> None:
    """Two ratios with common units, over 300 draws of 40 units: within 3 standard errors of a standard deviation."""
    generator = np.random.default_rng(0)
    values, errors = [], []
    for _ in range(300):
        common = generator.normal(size=(40, 1))
        forms = 2 + common + generator.normal(size=(40, 2)), 3 - 0.5 * common + generator.normal(size=(40, 1))
        weights = 1 + 0.2 * generator.normal(size=40), np.ones(40)
        values.append(forms[0].sum(0) / weights[0].sum() * (forms[1].sum(0) / 40))
        errors.append(product_errors(forms, weights, (np.array([0, 1]), np.array([0, 0]))))
    scatter = np.std(values, axis=0, ddof=1)
    told = np.sqrt(np.mean(np.square(errors), axis=0))
    assert (np.abs(told / scatter - 1) < 3 / math.sqrt(2 * 299)).all()


def test_errors_of_eigenvalues_are_the_scatter_over_new_data() -> None:
    """16 blocks of 20 new samples each time: the mean stated variance is that of the values, to 3 standard errors."""
    found = []
    for seed in range(200):
        x = nets.seeded(16, 20, 3, seed=seed).numpy() + np.array([1.5, 0.0, 0.0])
        p = nets.seeded(16, 20, 3, seed=1000 + seed).add(torch.from_numpy(0.5 * x)).softmax(2).numpy()
        M = np.einsum("bna,ac->bnac", p, np.eye(3)) - np.einsum("bna,bnc->bnac", p, p)
        count = np.full(16, 20.0)
        sums = LayerSums(M.sum(1), np.einsum("bni,bnj->bij", x, x), x.sum(1), count, count)
        found.append(factor_structure(sums, 2)[0])
    for value, error in (
        ("kronecker", "kronecker_stderr"),
        ("input_eigenvalues", "input_stderr"),
        ("output_eigenvalues", "output_stderr"),
    ):
        scatter = np.std([one[value][0] for one in found], ddof=1)
        told = math.sqrt(np.mean([one[error][0] ** 2 for one in found]))
        # 200 draws, of 16 blocks each: relative errors 1/sqrt(2 199) and 1/sqrt(2 15 200)
        assert abs(told / scatter - 1) < 3 * math.hypot(1 / math.sqrt(398), 1 / math.sqrt(6000)), value


# -- memory, groups, resuming ------------------------------------------------------------------------------------------


def test_groups_of_layers_and_fewer_blocks_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = structure()
    monkeypatch.setattr(factors_module, "_GROUP_BYTES", 1)
    plan = StructurePlan(case(), LayerStructureSettings(k=3))
    assert plan.factors.count == 2 * plan.factors.blocks == 20
    np.testing.assert_equal(fields(structure()), fields(whole))
    monkeypatch.undo()
    each = 8 * (2**2 + 4**2 + 4 + 3**2 + 8**2 + 8)  # bytes of the factors and mean inputs
    for blocks in (2, 1):
        few = ls.measure_layer_structure(case(), k=3, memory_budget=blocks * each + 7)
        assert few.attributes["blocks"] == blocks
        np.testing.assert_allclose(few.kronecker, whole.kronecker, rtol=1e-12)
        assert np.isnan(few.kronecker_stderr).all() == (blocks == 1)


def fields(found: ls.LayerStructure) -> dict[str, Any]:
    return {name: value for name, value in vars(found).items() if name != "attributes"}


@pytest.mark.parametrize("limit", [1, 11])
def test_a_run_that_ended_early_goes_on_to_the_same_bits(limit: int, tmp_path: Path) -> None:
    objective = case()
    begun = ls.measure_layer_structure(objective, k=3, out=tmp_path / "run", limit_items=limit)
    assert not begun.complete
    assert ls.open(tmp_path / "run").layers == begun.layers
    assert (begun.output_factors == {}) == (limit == 1)
    found = ls.measure_layer_structure(objective, k=3, out=tmp_path / "run")
    np.testing.assert_equal(fields(found), fields(ls.measure_layer_structure(objective, k=3)))
    again = ls.open(tmp_path / "run")
    np.testing.assert_equal(fields(again), fields(found))
    with pytest.raises(InputError, match="places"):
        ls.measure_layer_structure(objective, k=3, out=tmp_path / "run", places="expand")


# -- what cannot be measured -------------------------------------------------------------------------------------------


def test_layers_without_factors_are_left_out_with_a_reason() -> None:
    plan = StructurePlan(nets.ragged().objective(), LayerStructureSettings())
    assert [layer.name for layer in plan.layers] == ["conv", "up", "down", "head"]
    left_out = plan.left_out
    assert set(left_out) == {"bn", "embed", "norm1", "norm2", "attention", "attention.out_proj"}
    assert left_out["bn"] == "a BatchNorm2d does not multiply its input by a matrix"
    assert "no parameter named weight" in left_out["attention"]
    assert "used outside the module" in left_out["attention.out_proj"]
    grouped = nets.settled(nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.Flatten(), nn.Linear(16, 3)))
    plan = StructurePlan(objective_of(grouped, *images(4)), LayerStructureSettings())
    assert [layer.name for layer in plan.layers] == ["2"]
    assert "2 groups of channels" in plan.left_out["0"]
    assert "BatchNorm2d does not multiply" in structure().left_out["1"]


def test_tied_weights_and_layers_called_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.head_of(self.a(x)))

        def head_of(self, x: Tensor) -> Tensor:
            return torch.tanh(self.b(torch.tanh(x)))

    plan = StructurePlan(
        objective_of(nets.settled(Twice()), nets.seeded(6, 4), nets.labels(6)), LayerStructureSettings()
    )
    assert [layer.name for layer in plan.layers] == ["head"]
    assert "tied" in plan.left_out["a"]

    class Again(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.tanh(self.a(torch.tanh(self.a(x)))))

    plan = StructurePlan(
        objective_of(nets.settled(Again()), nets.seeded(6, 4), nets.labels(6)), LayerStructureSettings()
    )
    assert [(layer.name, layer.places) for layer in plan.layers] == [("a", 2), ("head", 1)]


def test_errors_name_what_cannot_be_and_the_way_out() -> None:
    model, x, y = mlp(nn.ReLU()), nets.seeded(20, 4), nets.labels(20)
    objective = objective_of(model, x, y)
    refused: list[tuple[str, Any]] = [
        (r"memory_budget=500 allows 0.488 KiB; give more, or fewer layers in params=.*largest are 0 \(6 x 4, 0.438 KiB",
         lambda: ls.measure_layer_structure(objective, memory_budget=500)),
        ("k=0; give a whole number of 1 or more", lambda: ls.measure_layer_structure(objective, k=0)),
        ("places='mean'; give one of reduce, expand", lambda: ls.measure_layer_structure(objective, places="mean")),
        ("params='fc' matches no", lambda: ls.measure_layer_structure(objective, params="fc")),
        ("no layer has factors.*bias is no weight",
         lambda: ls.measure_layer_structure(objective_of(nets.settled(nn.Linear(4, 3)), x, y), params="bias")),
        ("other: 0.weight has shape .6, 4., and is of shape .5, 4.",
         lambda: ls.measure_layer_structure(
             objective, other=objective_of(nets.settled(nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3))), x, y))),
        ("other: ", lambda: ls.measure_layer_structure(objective, other=nn.Linear(4, 3).state_dict())),
        ("forward returns the loss itself", lambda: ls.measure_layer_structure(
            ls.Objective(model, None, [(x, y)], forward=lambda m, b: F.cross_entropy(m(b[0]), b[1])))),
        ("1,100 outputs.*at most 1,024", lambda: ls.measure_layer_structure(
            objective_of(nets.settled(nn.Linear(4, 1100)), x, nets.labels(20, classes=1100)))),
    ]  # fmt: skip
    for text, call in refused:
        with pytest.raises(InputError, match=f"(?s){text}"):
            call()
    normed = mlp(nn.BatchNorm1d(6), nn.ReLU())
    with pytest.raises(InputError, match="without BatchNorm statistics"):
        ls.measure_layer_structure(objective_of(normed, x, y), other=objective_of(normed, x, y).theta + 1)


def test_a_sample_that_is_not_finite_is_named() -> None:
    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.head = nn.Linear(4, 4, bias=False), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.a(x).abs().sqrt())

    x = nets.seeded(20, 4)
    x[13] = 0
    objective = objective_of(nets.settled(Root()), x, nets.labels(20))
    with pytest.raises(NumericalError, match="not finite for sample 13"):
        ls.measure_layer_structure(objective, k=1)


def test_the_other_model_of_a_job_is_not_its_centre(tmp_path: Path) -> None:
    """A job without model.checkpoint takes the models of its study for its own; the other is none of these."""
    (tmp_path / "other_net.py").write_text(
        "import torch\nfrom torch import nn\ndef net():\n    torch.manual_seed(3)\n    return nn.Linear(4, 3)\n"
        "def data():\n    return torch.ones(6, 4), torch.arange(6) % 3\n"
    )
    torch.save(nn.Linear(4, 3).state_dict(), tmp_path / "b.pt")
    (tmp_path / "job.toml").write_text(
        '[model]\nfactory = "other_net:net"\n[data]\nfactory = "other_net:data"\n'
        '[layer_structure]\nother = "b.pt"\n[run]\nout = "run"\n'
    )
    made = build(load_job(tmp_path / "job.toml"))
    torch.manual_seed(3)
    net = nn.Linear(4, 3)
    assert torch.equal(made.subject.theta, torch.cat([p.detach().flatten() for p in net.parameters()]))
    assert made.arguments["other"] == tmp_path / "b.pt"


def test_columns_and_pictures(tmp_path: Path) -> None:
    found = structure()
    frame = found.to_pandas()
    assert frame["kronecker_0"].tolist() == found.kronecker[:, 0].tolist()
    assert frame["other_overlap_2"].tolist() == found.other_overlap[:, 2].tolist()  # type: ignore[index]
    figure = found.plot()
    assert len(figure.axes) == 3
    names = {text.get_text() for text in figure.legends[0].get_texts()}
    assert names >= {"block", "Kronecker product", "other model", "by chance, of all"}
    assert all(label.get_text() in found.layers for label in figure.axes[0].get_yticklabels())
    for (i, layer), side in itertools.product(enumerate(found.layers), ("outputs", "inputs")):
        factor = (found.output_factors if side == "outputs" else found.input_factors)[layer]
        assert factor.shape == (getattr(found, side)[i],) * 2
