"""Standard errors and biases of curvature against a population whose Hessians are known: do they cover the truth?"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import spectrum_nets as nets
import spectrum_population as people
from spectrum_nets import Array, labels, seeded
from torch import Tensor, nn

import landscape as ls
from landscape.curvature.matrix import matrix_of
from landscape.curvature.sampling import draw, importance
from landscape.objective.objective import Objective
from landscape.studies.spectrum.trace import TraceTask, trace_from_rows

RUNS = 200
COVERED = (0.9, 0.99)  # of runs, by two standard errors


@functools.cache
def population() -> people.Population:
    return people.population()


@functools.cache
def drawn(sampling: str) -> dict[str, Array]:
    """The rows of an eigenpair task on 200 pairs of samples of 256."""
    rows = [
        people.finished(people.eigen_task(own, 3, other)).columns
        for own, other in people.draws(population(), 256, sampling, RUNS)
    ]
    return {name: np.stack([row[name][0] for row in rows]) for name in rows[0]}


@pytest.mark.parametrize("sampling", ["uniform", "importance"])
def test_eigenvalue_errors_cover(sampling: str) -> None:
    true = np.linalg.eigvalsh(population().mean)[::-1][:3]
    rows = drawn(sampling)
    inside = np.abs(rows["values"] - rows["bias"] - true) <= 2 * rows["stderr"]
    for covered in inside.mean(0):
        assert COVERED[0] <= covered <= COVERED[1]
    # and not because the errors are too large: they are those of the values to a quarter
    np.testing.assert_allclose(np.sqrt((rows["stderr"] ** 2).mean(0)), rows["values"].std(0), rtol=0.25)


@pytest.mark.parametrize("sampling", ["uniform", "importance"])
def test_own_sample_is_biased_up_and_independent_down(sampling: str) -> None:
    """On average, by more than three standard errors; the bias that is told explains the first."""
    true = np.linalg.eigvalsh(population().mean)[::-1][:3]
    rows = drawn(sampling)
    above, below = rows["values"] - true, rows["independent"] - true
    error = above.std(0) / np.sqrt(RUNS), below.std(0) / np.sqrt(RUNS)
    assert above[:, 0].mean() > 3 * error[0][0]
    assert (below.mean(0) < 0).all()
    assert below[:, 0].mean() < -3 * error[1][0]
    told = rows["bias"].mean(0)
    assert 0.5 * above[:, 0].mean() <= told[0] <= 1.5 * above[:, 0].mean() + 3 * error[0][0]


def test_population_tasks_are_those_of_an_objective() -> None:
    """What the coverage rests on: an objective's own sample gives the same numbers as its samples' Hessians."""
    world = population()
    objective = Objective(world.model, "cross_entropy", (world.inputs, world.targets))
    for sampling in ("uniform", "importance"):
        own, other = draw(objective, 100, sampling, 5)
        assert other is not None
        rows = [find_rows(world.inputs, sample.objective.data.first[0]) for sample in (own, other)]
        weights = [None if s.weights is None else s.weights.numpy() / len(world.inputs) for s in (own, other)]
        if sampling == "importance":
            q, total = importance(objective)
            np.testing.assert_allclose(q, world.importance, rtol=1e-12)
            assert total == len(world.inputs)
            for sample, i in zip((own, other), rows, strict=True):
                assert sample.weights is not None
                np.testing.assert_allclose(sample.weights.numpy(), 1 / (100 * q[i]), rtol=1e-12)
        else:
            assert not set(rows[0]) & set(rows[1])
            assert len(set(rows[0])) == 100
        matrices = [people.DenseMatrix(world.hessians[i], w) for i, w in zip(rows, weights, strict=True)]
        row = people.finished(people.eigen_task(*matrices[:1], 3, matrices[1])).columns
        found = ls.measure_spectrum(
            objective, 3, 1e-6, trace=False, density=False, samples=100, sampling=sampling, seed=5
        )
        for name, values in (
            ("values", found.eigenvalues),
            ("stderr", found.eigenvalue_stderr),
            ("bias", found.largest.bias),
            ("independent", found.largest.independent),
            ("independent_stderr", found.largest.independent_stderr),
        ):
            # the bias rests on further Ritz vectors, which are not converged and follow rounding
            slack = 0.01 * float(np.abs(values).max()) if name == "bias" else 0.0
            np.testing.assert_allclose(row[name][0], values, rtol=1e-5, atol=slack, err_msg=name)


def find_rows(whole: Tensor, part: Tensor) -> Array:
    places = {row.numpy().tobytes(): i for i, row in enumerate(whole)}
    return np.array([places[row.numpy().tobytes()] for row in part])


def traces(task: TraceTask) -> Any:
    return trace_from_rows(task.describe(), people.finished(task), None)


def test_probe_errors_cover() -> None:
    """Of the trace and the Frobenius norm, for the data given."""
    matrix = people.DenseMatrix(population().hessians[:256])
    true = population().hessians[:256].mean(0)
    found = [traces(TraceTask(matrix, "hutchinson", tol=1e-9, seed=seed)) for seed in range(RUNS)]  # type: ignore[arg-type]
    inside = [abs(t.value - np.trace(true)) <= 2 * t.stderr_probes for t in found]
    assert COVERED[0] <= np.mean(inside) <= COVERED[1]
    inside = [abs(t.frobenius - np.linalg.norm(true)) <= 2 * t.frobenius_stderr for t in found]
    assert COVERED[0] <= np.mean(inside) <= COVERED[1]


def test_probe_and_data_errors_cover() -> None:
    """Both together, for the population."""
    true = np.trace(population().mean)
    inside = []
    for seed, (matrix, _) in enumerate(people.draws(population(), 256, "uniform", RUNS)):
        found = traces(TraceTask(matrix, "hutchinson", tol=0.1, seed=seed))  # type: ignore[arg-type]
        inside.append(abs(found.value - true) <= 2 * found.stderr)
        assert max(found.stderr_probes, found.stderr_data) <= found.stderr
    assert COVERED[0] <= np.mean(inside) <= COVERED[1]


def test_trace_errors_of_draws_cover() -> None:
    """The exact trace of a sample for the population, and the sampled route's for the data given."""
    size, samples = 2000, 60
    model = nets.settled(nn.Linear(4, 3))
    x = seeded(size, 4)
    objective = Objective(model, "cross_entropy", (x, labels(size)))
    p = model(x).softmax(1).detach()
    # H_i is (diag p - pp') times (x, 1)(x, 1)', as Kronecker products go
    single = (1 - (p**2).sum(1)).numpy() * (1 + (x**2).sum(1).numpy())
    found = ls.measure_spectrum(objective, 0, trace="exact", density=False).trace
    assert found is not None
    np.testing.assert_allclose(found.value, single.mean(), rtol=1e-12)
    np.testing.assert_allclose(found.stderr, single.std(ddof=1) / np.sqrt(size), rtol=1e-10)
    generator = np.random.default_rng(3)
    inside = []
    for _ in range(RUNS):  # the same formula on what an exact trace of a sample rests on
        part = single[generator.choice(size, samples)]
        inside.append(abs(part.mean() - single.mean()) <= 2 * part.std(ddof=1) / np.sqrt(samples))
    assert COVERED[0] <= np.mean(inside) <= COVERED[1]
    inside = []
    matrix = sampled_matrix(objective)
    for seed in range(RUNS):
        task = TraceTask(matrix, "sampled", tol=0.99, seed=seed)
        part_found = traces(task)
        inside.append(abs(part_found.value - single.mean()) <= 2 * part_found.stderr_probes)
        assert part_found.stderr_probes > 0
    assert COVERED[0] <= np.mean(inside) <= COVERED[1]


def sampled_matrix(objective: Objective) -> Any:
    return matrix_of(objective, params=None, operator="hessian", weight_decay=0.0, seed=0)[0]
