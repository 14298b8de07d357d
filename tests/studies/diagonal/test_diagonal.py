"""The diagonal of the Hessian and the Gauss-Newton matrix against dense matrices, its errors and runs."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spectrum_nets as nets
import torch
from diagonal_cases import network
from landscape_jobs.cli import app
from torch import nn
from typer.testing import CliRunner

import landscape as ls
from landscape.curvature.sampling import Sample
from landscape.errors import InputError, NumericalError
from landscape.run.comm import SERIAL
from landscape.run.store import History
from landscape.run.task import Rows, checked_row
from landscape.studies.diagonal.measure import DiagonalTask, diagonal_from_rows, diagonal_task
from landscape.studies.diagonal.settings import DiagonalSettings

Array = np.ndarray
EXACT = 1e-8


class Twice(nn.Module):
    """One linear layer called twice on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.first(torch.relu(self.first(x)))))


def sequence(*layers: nn.Module) -> nn.Module:
    return nets.settled(nn.Sequential(*layers))


def plain(model: nn.Module, outputs: int = 0) -> nets.Case:
    """The model on random data: three classes, or regression with so many outputs."""
    x, loss = nets.seeded(33, 4), "mse" if outputs else "cross_entropy"
    y = nets.seeded(33, outputs, seed=9) if outputs else nets.labels(33)
    return nets.Case(model, [(x, y)], lambda m, batch: (m(batch[0]), batch[1]), loss, whole=(x, y))


CASES: dict[str, Any] = {
    "relu": lambda: plain(network(nn.ReLU())),
    "tanh": lambda: plain(network(nn.Tanh())),
    "convolution and frozen BatchNorm": lambda: nets.relu(12),
    "several outputs": lambda: plain(sequence(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)), outputs=2),
    "a layer called twice": lambda: plain(nets.settled(Twice())),
}


def vector(measures: ls.Measures, name: str = "diagonal") -> Array:
    return np.concatenate([values.ravel() for values in measures.arrays[name].values()])


def true_diagonal(case: nets.Case, operator: str) -> Array:
    return np.diagonal(nets.dense_hessian(case) if operator == "hessian" else nets.dense_ggn(case))


# -- exact -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "operator", "method"),
    [
        ("relu", "hessian", "exact"),
        ("relu", "ggn", "exact"),
        ("tanh", "hessian", "products"),
        ("tanh", "ggn", "exact"),
        ("convolution and frozen BatchNorm", "hessian", "exact"),
        ("several outputs", "hessian", "exact"),
        ("a layer called twice", "hessian", "products"),
        ("a layer called twice", "ggn", "exact"),
    ],
)
def test_dense_matrices_have_the_same_diagonal(name: str, operator: str, method: str) -> None:
    case = CASES[name]()
    objective, true = case.objective(precision="float64"), true_diagonal(case, operator)
    found = ls.measure_diagonal(objective, operator)
    assert found.attributes["method"] == method
    nets.close(vector(found), true, EXACT)
    shapes = {n: tuple(p.shape) for n, p in case.model.named_parameters()}
    assert {n: values.shape for n, values in found.arrays["diagonal"].items()} == shapes
    sums = [true[start:stop].sum() for start, stop in layer_places(found)]
    nets.close(found.values["trace"], np.array(sums), EXACT)
    assert found.attributes["trace"] == pytest.approx(true.sum(), rel=EXACT)
    np.testing.assert_allclose(found.values["mean"] * found.values["size"], found.values["trace"])


def layer_places(found: ls.Measures) -> list[tuple[int, int]]:
    ends = np.cumsum(found.values["size"]).astype(int).tolist()
    return list(zip([0, *ends[:-1]], ends, strict=True))


@pytest.mark.parametrize("method", ["exact", "products"])
def test_batches_of_the_users_own(method: str) -> None:
    case = CASES["relu"]()
    x, y = case.whole
    batches = list(zip(x.split(7), y.split(7), strict=True))  # the last has five samples
    objective = ls.Objective(case.model, "cross_entropy", batches, forward=case.forward, precision="float64")
    found = ls.measure_diagonal(objective, method=method)
    nets.close(vector(found), true_diagonal(case, "hessian"), EXACT)
    assert np.isfinite(found.stderr["trace"]).all()


def test_large_matrices_are_probed() -> None:
    objective = plain(sequence(nn.Linear(4, 40), nn.Tanh(), nn.Linear(40, 3))).objective()
    assert ls.measure_diagonal(objective, tol=0.9).attributes["method"] == "probes"
    assert diagonal_task(objective, DiagonalSettings(max_probes=323)).method == "products"


def test_some_parameters_and_weight_decay() -> None:
    case = CASES["relu"]()
    objective, true = case.objective(precision="float64"), true_diagonal(case, "hessian")
    for method in ("exact", "products", "probes"):
        found = ls.measure_diagonal(objective, params="2.weight", weight_decay=0.5, method=method, tol=0.5)
        assert found.rows == ("2",)
        error = EXACT if method != "probes" else 0.5
        nets.close(vector(found), true[25:40] + 0.5, error)
    plain_errors = ls.measure_diagonal(objective).stderr["trace"]
    np.testing.assert_allclose(ls.measure_diagonal(objective, weight_decay=0.5).stderr["trace"], plain_errors)


def test_another_place() -> None:
    case = CASES["relu"]()
    objective = case.objective(precision="float64")
    theta = objective.theta + 0.1 * nets.seeded(len(objective.theta), seed=4)
    found = ls.measure_diagonal(objective, theta=theta)
    torch.nn.utils.vector_to_parameters(theta, case.model.parameters())
    nets.close(vector(found), true_diagonal(case, "hessian"), EXACT)


def test_layers_sum_to_the_trace_that_a_spectrum_has() -> None:
    objective = CASES["convolution and frozen BatchNorm"]().objective()
    found = ls.measure_diagonal(objective)
    trace = ls.measure_spectrum(objective, 0, trace="exact", density=False).trace
    assert trace is not None
    assert dict(zip(found.rows, found.values["trace"], strict=True)) == pytest.approx(dict(trace.layers), rel=1e-5)
    assert found.attributes["trace_stderr"] == pytest.approx(trace.stderr, rel=0.5)  # from 12 blocks of data


def test_ignored_targets_do_not_count() -> None:
    case = CASES["relu"]()
    x, y = case.whole
    y = torch.where(torch.arange(33) % 3 == 0, -100, y)
    kept = nets.Case(case.model, [(x[y >= 0], y[y >= 0])], case.forward)
    found = ls.measure_diagonal(ls.Objective(case.model, "cross_entropy", (x, y), precision="float64"))
    nets.close(vector(found), true_diagonal(kept, "hessian"), EXACT)


# -- errors ----------------------------------------------------------------------------------------------------------


def rows_of(task: DiagonalTask, count: int) -> Rows:
    columns = task.describe().columns
    rows = [checked_row(task.evaluate(i, SERIAL), columns) for i in range(count)]
    return Rows({name: np.stack([row[name] for row in rows]) for name in columns}, np.ones(count, dtype=bool))


def covered(found: list[tuple[Array, Array]], true: Array) -> float:
    """The share of values within two of their errors."""
    return float(np.mean([np.abs(values - true) <= 2 * errors for values, errors in found]))


def within_binomial(share: float, trials: int, expected: float = 0.95) -> bool:
    return abs(share - expected) < 3 * np.sqrt(expected * (1 - expected) / trials) + 0.01


def test_errors_of_probes_cover() -> None:
    x, y = nets.seeded(6, 4), nets.labels(6)
    objective = ls.Objective(nets.tanh_net(), "cross_entropy", (x, y), precision="float64")
    settings = DiagonalSettings(method="probes")
    first = diagonal_task(objective, settings)
    exact = ls.measure_diagonal(objective)
    layers, entries = [], []
    for seed in range(120):
        task = DiagonalTask(first._matrix, replace(settings, seed=seed))
        one = diagonal_from_rows(task.describe(), rows_of(task, 1), History((), "", {}))
        layers.append((one.values["trace"], one.values["stderr_probes"]))
        entries.append((vector(one), vector(one, "stderr_probes")))
    assert within_binomial(covered(layers, exact.values["trace"]), 120)  # errors of a seed's layers are related
    assert 0.88 < covered(entries, vector(exact)) < 0.99
    means = np.mean([values for values, _ in entries], axis=0)
    spread = np.std([values for values, _ in entries], axis=0, ddof=1)
    assert np.all(np.abs(means - vector(exact)) < 4.5 * spread / np.sqrt(120) + 1e-12)


@pytest.mark.parametrize("method", ["exact", "probes"])
def test_errors_over_data_cover_the_population(method: str) -> None:
    rounds = 60 if method == "exact" else 40
    population = 1000
    x = nets.seeded(population, 4)
    model = sequence(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    objective = ls.Objective(model, "cross_entropy", (x, nets.labels(population)), precision="float64")
    true = ls.measure_diagonal(objective).values["trace"]
    draws = np.random.default_rng(0)
    settings = DiagonalSettings(method=method)
    first = diagonal_task(objective, settings)
    found = []
    for seed in range(rounds):
        rows = draws.choice(population, 16, replace=False).tolist()
        sample = Sample(objective.on(objective.data.taken(rows)), None, None)
        task = DiagonalTask(replace(first._matrix, sample=sample), replace(settings, seed=seed))
        count = task.count if method == "exact" else 1
        one = diagonal_from_rows(task.describe(), rows_of(task, count), History((), "", {}))
        found.append((one.values["trace"], one.stderr["trace"]))
    assert within_binomial(covered(found, true), rounds, 0.93)  # 16 blocks of data, of skewed values
    typical = np.mean([errors for _, errors in found], axis=0) / np.std([values for values, _ in found], axis=0, ddof=1)
    np.testing.assert_allclose(typical, 1, atol=0.25)


def test_probes_go_on_until_the_error_is_small_enough_or_they_are_spent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    objective = CASES["tanh"]().objective()
    few = ls.measure_diagonal(objective, method="probes", tol=0.9)
    assert few.attributes["probes"] == 16
    with caplog.at_level(logging.WARNING):
        more = ls.measure_diagonal(objective, method="probes", tol=1e-6, max_probes=48, out=tmp_path)
    assert more.attributes["probes"] == 48
    assert "after 48 probes; max_probes= allows more" in caplog.text
    assert np.all(more.values["stderr_probes"] < few.values["stderr_probes"])
    most = ls.measure_diagonal(objective, method="probes", tol=1e-6, max_probes=64, out=tmp_path)  # goes on
    assert most.attributes["probes"] == 64
    whole = ls.measure_diagonal(objective, method="probes", tol=1e-6, max_probes=64)
    np.testing.assert_array_equal(vector(most), vector(whole))


# -- runs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["exact", "products", "probes"])
def test_a_run_that_was_cut_off_goes_on(method: str, tmp_path: Path) -> None:
    objective = CASES["relu"]().objective()
    whole = ls.measure_diagonal(objective, method=method)
    part = ls.measure_diagonal(objective, method=method, out=tmp_path, limit_items=2)
    assert not (tmp_path / "landscape.h5").exists()
    assert part.computed.tolist() == [method == "probes"] * 2
    assert np.isfinite(part.values["trace"]).all() == (method == "probes")
    assert np.isnan(part.values["size"]).sum() == 0
    assert ls.open(tmp_path).computed.tolist() == part.computed.tolist()
    found = ls.measure_diagonal(objective, method=method, out=tmp_path)
    for one in (found, ls.open(tmp_path), ls.open(tmp_path / "landscape.h5")):
        assert isinstance(one, ls.Measures)
        assert one.complete
        for name, values in whole.values.items():
            np.testing.assert_array_equal(one.values[name], values)
        for name in whole.arrays:
            np.testing.assert_array_equal(vector(one, name), vector(whole, name))
        assert one.words == whole.words
        assert one.attributes["method"] == method
        assert one.attributes["tensors"]["0.weight"] == [5, 4]


NETS = """
import torch
from torch import nn

def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))

def data():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(40, 3, generator=generator), torch.arange(40) % 2
"""
JOB = """
[model]
factory = "diagonal_nets:mlp"
[data]
factory = "diagonal_nets:data"
[diagonal]
operator = "ggn"
method = "probes"
params = ["0", "2.weight"]
tol = 0.5
[run]
out = "run"
"""


def test_a_job_file(tmp_path: Path) -> None:
    (tmp_path / "diagonal_nets.py").write_text(NETS)
    job = tmp_path / "job.toml"
    job.write_text(JOB)

    def landscape(*words: object, code: int = 0) -> str:
        done = CliRunner().invoke(app, [str(word) for word in words])
        assert done.exit_code == code, done.output or done.exception
        return done.output

    assert "time per item" in landscape("check", job)
    landscape("run", job, "--limit-items", 2, code=3)
    assert "2 of 4" in landscape("status", tmp_path / "run")
    landscape("resume", tmp_path / "run")
    assert "16" in landscape("show", tmp_path / "run")
    landscape("report", tmp_path / "run", "-o", tmp_path / "report.html")
    assert "one measure against another" in (tmp_path / "report.html").read_text()
    landscape("plot", tmp_path / "run", "--kind", "scatter", "-q", "trace")
    found = ls.open(tmp_path / "run")
    assert isinstance(found, ls.Measures)
    assert found.rows == ("0", "2")
    assert "max_probes" in landscape("check", job, "--set", "diagonal.max_probes=3", code=2)


# -- what cannot be --------------------------------------------------------------------------------------------------


def test_what_cannot_be_measured_is_said_before() -> None:
    objective = CASES["tanh"]().objective()
    with pytest.raises(InputError, match="piecewise linear layer by layer"):
        ls.measure_diagonal(objective, method="exact")
    with pytest.raises(InputError, match="method='guess'; give one of exact, products, probes"):
        ls.measure_diagonal(objective, method="guess")
    with pytest.raises(InputError, match=r"tol=1\.5; give a finite number between 0 and 1"):
        ls.measure_diagonal(objective, tol=1.5)
    with pytest.raises(InputError, match="max_probes=8; give a whole number of 16 or more"):
        ls.measure_diagonal(objective, max_probes=8)
    with pytest.raises(InputError, match="fist"):
        ls.measure_diagonal(objective, params="fist")


def test_gradients_that_are_not_finite_are_no_diagonal() -> None:
    model = sequence(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    x = nets.seeded(33, 4)
    x[20] = 1e200
    objective = ls.Objective(model, "cross_entropy", (x, nets.labels(33)), precision="float64")
    with pytest.raises((NumericalError, ls.RunFailedError), match="not finite"):
        ls.measure_diagonal(objective, operator="ggn")
