"""Traces with a Krylov space taken out, probes of each chunk's own, and what the exact trace is checked by."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spectrum_nets as nets
import spectrum_population as people
import torch
from spectrum_nets import Array, case, dense, labels, seeded
from torch import Tensor, nn

import landscape as ls
from landscape.curvature.matrix import matrix_of
from landscape.curvature.operator import ChunkForms, CurvatureOperator
from landscape.errors import InputError
from landscape.objective.objective import Objective
from landscape.results.stages import read_stage
from landscape.run.comm import SERIAL
from landscape.run.task import ItemStopped, Rows
from landscape.studies.spectrum import eigen, ways
from landscape.studies.spectrum.eigen import EigenTask, space_rows
from landscape.studies.spectrum.result import Trace
from landscape.studies.spectrum.trace import Deflated, TraceTask, trace_from_rows

N = 23
RUNS = 200
X, Y = seeded(N, 4), labels(N)


def mlp(dtype: torch.dtype = torch.float64) -> nn.Module:
    return nets.settled(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))).to(dtype)


def hessian(x: Tensor = X, y: Tensor = Y) -> Array:
    return nets.dense_hessian(nets.Case(mlp(), [(x, y)], lambda m, b: (m(b[0]), b[1])))


def chunk_hessians(decay: float) -> list[Array]:
    """Of the summed loss of each chunk of two samples."""
    rows = [slice(start, min(start + 2, N)) for start in range(0, N, 2)]
    return [(hessian(X[r], Y[r]) + decay * np.eye(43)) * (r.stop - r.start) for r in rows]


# -- probes of each chunk's own ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_forms_of_each_chunks_own_vectors(decay: float) -> None:
    with CurvatureOperator(Objective(mlp(), "cross_entropy", (X, Y)), weight_decay=decay) as H:
        found = H.own_forms(3, lambda chunk: seeded(3, 43, seed=chunk))
        assert (H.products, H.passes) == (3, 1)
        with pytest.raises(InputError, match=r"vectors of shape \(2, 43\); give \(b, 43\)"):
            H.own_forms(3, lambda chunk: seeded(2, 43))
    overlaps = np.zeros((3, 43))
    for chunk, matrix in enumerate(chunk_hessians(decay)):
        z = seeded(3, 43, seed=chunk).numpy()
        overlaps += z * (z @ matrix) / N
        nets.close(found.forms[chunk], (z @ matrix * z).sum(1))
    nets.close(found.overlaps.numpy(), overlaps)
    assert found.denominators.tolist() == [2] * 11 + [1]


class Own(people.Dense):
    def own_forms(self, count: int, draw: Any) -> ChunkForms:
        self.products, self.passes = self.products + count, self.passes + 1
        z = np.stack([draw(chunk).numpy() for chunk in range(self.chunks)])
        overlaps = z * (z @ self._chunks)
        total = torch.from_numpy(overlaps.sum(0) / self._denominators.sum())
        return ChunkForms(overlaps.sum(2), total, self._denominators.copy())


class OwnMatrix(people.DenseMatrix):
    def bind(self, group: Any, params: Any = None, sample: Any = None) -> Own:
        return Own(self._chunks, self._denominators)


@functools.cache
def population() -> people.Population:
    return people.population(256)


def deflated_runs(hessians: Array, V: Array, items: int, runs: int) -> list[tuple[Trace, dict[str, Array]]]:
    """The first `items` items of a trace with the rows of V taken out, for each seed."""
    matrix = OwnMatrix(hessians)
    parts = np.einsum("vi,cij,vj->c", V, matrix._chunks, V)
    whole = matrix._chunks.sum(0) / matrix._denominators.sum()
    P = np.eye(len(whole)) - V.T @ V
    square = float((whole**2).sum() - ((P @ whole @ P) ** 2).sum())
    deflated = Deflated(parts, np.array([np.trace(V @ whole @ V.T)]), square)
    taken: dict[str, Any] = {"deflate": torch.from_numpy(V.copy()), "deflated": deflated}
    found = []
    for seed in range(runs):
        task = TraceTask(matrix, "deflated", tol=0.5, seed=seed, **taken)  # type: ignore[arg-type]
        rows = [task.evaluate(i, SERIAL) for i in range(items)]
        columns = {name: np.stack([np.asarray(row[name], np.float64) for row in rows]) for name in rows[0]}
        trace = trace_from_rows(task.describe(), Rows(columns, np.ones(items, bool)), deflated)
        assert trace is not None
        found.append((trace, columns))
    return found


def test_own_probes_are_unbiased_cover_and_scatter_less() -> None:
    """The variance of a chunk's own random signs is 2 sum_c (|B_c|_F^2 - sum_i B_c,ii^2), B_c its projected Hessian."""
    hessians = population().hessians[:256]
    true = hessians.mean(0)
    V = np.linalg.qr(np.linalg.eigh(true)[1][:, -3:] + 0.05 * seeded(43, 3).numpy())[0].T  # no eigenvectors
    found = deflated_runs(hessians, V, 4, RUNS)
    traces = [trace for trace, _ in found]
    off = np.array([t.value for t in traces]) - np.trace(true)
    assert abs(off.mean()) <= 3 * off.std() / np.sqrt(RUNS)
    assert 0.9 <= np.mean([abs(e) <= 2 * t.stderr_probes for e, t in zip(off, traces, strict=True)]) <= 0.99
    layers = np.array([t.layers["all"] for t in traces]) - np.trace(true)
    np.testing.assert_allclose(layers, off, atol=1e-9 * np.trace(true))
    norms = np.array([t.frobenius for t in traces]) ** 2 - (true**2).sum()
    assert abs(norms.mean()) <= 3 * norms.std() / np.sqrt(RUNS)

    def variance(chunks: Array) -> float:
        P = np.eye(43) - V.T @ V
        B = P @ chunks @ P
        return float(2 * ((B**2).sum() - (np.diagonal(B, axis1=1, axis2=2) ** 2).sum()))

    size = people.chunk_for(256)
    by_chunk = np.stack([hessians[i : i + size].sum(0) for i in range(0, 256, size)]) / 256
    forms = np.stack([columns["forms"] for _, columns in found]).sum(3) / 256  # (RUNS, 4, probes)
    common, own = forms[:, 0].reshape(-1), forms[:, 1:].reshape(-1)
    for values, expected in ((common, variance(true[None])), (own, variance(by_chunk))):
        spread = (values - values.mean()) ** 2
        assert abs(spread.mean() - expected) <= 3 * spread.std() / np.sqrt(len(spread))
    assert variance(by_chunk) < 0.7 * variance(true[None])


def test_population_forms_are_those_of_an_objective() -> None:
    world = population()
    objective = Objective(world.model, "cross_entropy", (world.inputs[:256], world.targets[:256]))
    found = OwnMatrix(world.hessians[:256]).bind(SERIAL).own_forms(2, lambda c: seeded(2, 43, seed=c))
    with CurvatureOperator(objective) as H:
        true = H.own_forms(2, lambda c: seeded(2, 43, seed=c))
    nets.close(found.forms, true.forms, 1e-10)
    nets.close(found.overlaps.numpy(), true.overlaps.numpy(), 1e-10)


# -- the space taken out ----------------------------------------------------------------------------------------------


def eigen_task(objective: Objective, k: int, **options: Any) -> EigenTask:
    matrix = matrix_of(objective, params=None, operator="hessian", weight_decay=0.25, seed=0)[0]
    none: dict[str, Any] = {"smallest": 0, "block": None, "start": None, "independent": None, "max_products": None}
    return EigenTask(matrix, k, seed=0, **(none | {"tol": 1e-3, "space": space_rows(k, matrix.size)} | options))


@pytest.mark.parametrize(
    ("options", "krylov"),
    [
        ({}, True),
        ({"space": 0}, False),
        ({"block": 2}, True),
        ({"tol": 1e-7, "space": 12}, True),  # more products than there is room for
        ({"basis_limit": 10}, False),  # restarted
    ],
)
def test_what_the_space_contributes(options: dict[str, Any], krylov: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunk by chunk, tensor by tensor, and to the Frobenius norm, all from products that are made in any case."""
    name = "relu"
    if "basis_limit" in options:
        monkeypatch.setattr(eigen, "eigenpairs", functools.partial(eigen.eigenpairs, **options))
        options = {}
    A = dense(name) + 0.25 * np.eye(len(dense(name)))
    task = eigen_task(case(name).objective(), 3, **options)
    row = task.evaluate(0, SERIAL)
    space = np.asarray(row["space"])
    V = space[~np.isnan(space).any(1)]
    assert bool(len(V)) == krylov
    without = eigen_task(case(name).objective(), 3, **options | {"space": 0}).evaluate(0, SERIAL)
    assert row["products"] == without["products"]
    if not krylov:
        V = np.asarray(row["vectors"])
    np.testing.assert_allclose(V @ V.T, np.eye(len(V)), atol=1e-12)
    P = np.eye(len(A)) - V.T @ V
    np.testing.assert_allclose(row["space_square"], (A**2).sum() - ((P @ A @ P) ** 2).sum(), rtol=1e-10)
    samples = case(name).objective().samples
    np.testing.assert_allclose(np.sum(row["space_chunks"]) / samples, np.trace(V @ A @ V.T), rtol=1e-10)
    sizes = [p.numel() for p in case(name).model.parameters()]
    true = np.add.reduceat((V * (V @ A)).sum(0), np.r_[0, np.cumsum(sizes)[:-1]])
    np.testing.assert_allclose(row["space_tensors"], true, rtol=1e-9, atol=1e-12 * np.abs(true).max())
    with task._matrix.bind(SERIAL) as H:
        forms = np.diagonal(H.by_chunk(torch.from_numpy(V)).forms, axis1=1, axis2=2)
    np.testing.assert_allclose(row["space_chunks"], forms.sum(1), rtol=1e-10)


def test_how_many_vectors_are_stored() -> None:
    assert space_rows(10, 269_722) == 38
    assert space_rows(10, 700_000) == 23
    assert [space_rows(*given) for given in ((10, 1_000_000), (0, 50), (3, 4), (1, 10**9))] == [0, 0, 4, 0]


def test_a_stopped_run_has_the_same_space(tmp_path: Path) -> None:
    whole = eigen_task(case("smooth").objective(), 3).evaluate(0, SERIAL)
    state = tmp_path / "krylov.npz"
    for stops in (4, 3):
        steps = 0

        def stopping() -> bool:
            nonlocal steps
            steps += 1
            return steps == stops  # noqa: B023

        task = eigen_task(case("smooth").objective(), 3, state=state)
        task.stopping = stopping
        with pytest.raises(ItemStopped):
            task.evaluate(0, SERIAL)
    resumed = eigen_task(case("smooth").objective(), 3, state=state).evaluate(0, SERIAL)
    for name, values in whole.items():
        assert np.array_equal(resumed[name], values, equal_nan=True), name


def test_folder(tmp_path: Path) -> None:
    """The same trace when opened again, extended, or begun without one."""
    objective = Objective(mlp(), "cross_entropy", (X, Y))
    options: dict[str, Any] = {"k": 3, "density": False}
    found = ls.measure_spectrum(objective, trace="deflated", out=tmp_path / "run", **options)
    assert ls.measure_spectrum(objective, trace="deflated", out=tmp_path / "run", **options).trace == found.trace
    assert ls.measure_spectrum(objective, trace="deflated", **options).trace == found.trace
    reopened = ls.open(tmp_path / "run")
    assert reopened.trace == found.trace
    without = ls.measure_spectrum(objective, trace=False, out=tmp_path / "run", **options)
    assert np.array_equal(without.eigenvalues, found.eigenvalues)
    assert ls.open(tmp_path / "run").trace == found.trace
    ls.measure_spectrum(objective, trace=False, out=tmp_path / "later", **options)
    later = ls.measure_spectrum(objective, trace="deflated", out=tmp_path / "later", **options).trace
    columns = read_stage(tmp_path / "later" / "eigenpairs").rows.columns
    assert columns["space"].shape[1] == 0  # the eigenvectors are taken out instead
    assert found.trace is not None
    assert later is not None
    true = np.trace(hessian())
    for trace in (found.trace, later):
        assert abs(trace.value - true) <= 3 * trace.stderr_probes


# -- what is said, and checked ----------------------------------------------------------------------------------------


def test_a_tolerance_that_is_missed_is_told(caplog: pytest.LogCaptureFixture) -> None:
    objective = Objective(mlp(), "cross_entropy", (X, Y))
    with caplog.at_level(logging.WARNING, "landscape"):
        missed = ls.measure_spectrum(objective, 0, trace="hutchinson", trace_tol=1e-6, density=False).trace
    assert missed is not None
    assert missed.stderr_probes > 1e-6 * missed.value
    assert "not to trace_tol=1e-06, after the 64 probes" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, "landscape"):
        ls.measure_spectrum(objective, 0, trace="hutchinson", trace_tol=0.9, density=False)
    assert "trace_tol" not in caplog.text


class Once(torch.autograd.Function):
    """tanh whose derivative is right and has none of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.y = x.tanh().detach()
        return x.tanh()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return slope * (1 - ctx.y**2)


class Applied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(Once.apply(self.one(x)))


def test_differences_of_gradients_are_taken_in_float64() -> None:
    """For a network in float32, too: differences of its own gradients have three digits."""
    model = nets.settled(Applied()).float()
    with CurvatureOperator(Objective(model, "cross_entropy", (X.float(), Y))) as H:
        assert H.check.route == "finite differences"
        assert H.dtype == torch.float32
        found = nets.entries(H)
    twin = mlp()
    twin.load_state_dict(dict(zip(twin.state_dict(), model.state_dict().values(), strict=True)))
    rounded = nets.Case(twin, [(X.float().double(), Y)], lambda m, b: (m(b[0]), b[1]))
    nets.close(found, nets.dense_hessian(rounded), 1e-6)


def test_blocks_of_h_and_g_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were the operations of a network with GELU thought linear, the products would show it."""
    x = seeded(8, 4)
    model = nets.settled(nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 3)))
    objective = Objective(model, "cross_entropy", (x, labels(8)))
    monkeypatch.setattr(ways, "piecewise_linear", lambda *_: ())
    with pytest.raises(InputError, match=r"products of H and G within a tensor differ by \d\.\de-\d+ of the largest"):
        ls.measure_spectrum(objective, 0, trace="exact", density=False)
    model[1] = nn.ReLU()
    objective = Objective(model, "cross_entropy", (x, labels(8)))
    assert ls.measure_spectrum(objective, 0, trace="exact", density=False).trace is not None
