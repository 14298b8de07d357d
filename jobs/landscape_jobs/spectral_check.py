"""What a job that measures curvature would take, from two products and a piece of the trace; nothing is written."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from landscape_kernels.probes import normal_vector

from landscape.curvature.matrix import Matrix, matrix_of
from landscape.curvature.sampling import Sample
from landscape.objective.parameters import layers_of
from landscape.opening.runs import run_stores
from landscape.results.stages import require_stages
from landscape.run.comm import SERIAL, world
from landscape.run.store import Store
from landscape.run.task import Task
from landscape.run.together import agree
from landscape.studies.layer_spectra.measure import STAGES as LAYER_STAGES
from landscape.studies.layer_spectra.measure import LayerTask
from landscape.studies.spectrum.density import DensityTask
from landscape.studies.spectrum.eigen import EigenTask, space_rows
from landscape.studies.spectrum.measure import STAGES, stored_space, trace_task
from landscape.studies.spectrum.trace import FIRST_PROBES, PROBES, XTRACE_PROBES
from landscape.studies.spectrum.ways import choose_method
from landscape_jobs.build.objects import build_objective
from landscape_jobs.check import peak_memory, require_writable
from landscape_jobs.spec.job import Job, LayersTable, SpectrumTable

# Krylov products for each eigenpair (28 for ten of a ResNet-20 to residuals of 1e-3), and the check of its residual
_PRODUCTS_PER_PAIR = 4
# Products of the trace's first round; more follow where the error that was asked for is not reached
_TRACE_PRODUCTS = {
    "split": 2 * FIRST_PROBES * PROBES,
    "deflated": FIRST_PROBES * PROBES,
    "hutchinson": FIRST_PROBES * PROBES,
    "xtrace": 2 * XTRACE_PROBES,
}


@dataclass(frozen=True)
class CurvatureTrial:
    """What the self-check, two products and a piece of the trace tell about a run."""

    matrix: Matrix
    parameters: int  # of the network
    layers: int  # that have a block in the matrix
    chunks: int
    method: str  # of the trace, "" where none is asked for
    gradients: float  # backward passes per sample for the trace
    products: Mapping[str, int]  # task -> products expected
    done: Mapping[str, str]  # task -> rows that the run folder holds already
    product_seconds: float  # one product on one rank, the slowest of this run's ranks
    gradient_seconds: float  # likewise one gradient of the mean loss
    trace_seconds: float  # likewise the backward passes of the trace
    threads: int  # of each rank
    ranks: int  # of this run
    memory: int  # bytes, largest so far of any rank's process
    device_memory: int  # bytes, likewise on its GPU; 0 on the CPU
    basis: int  # bytes of Krylov vectors that come on top
    result: int  # bytes of the result's arrays

    def duration(self, ranks: int) -> float:
        """Estimated seconds of the whole run on so many ranks, each with its own threads or GPU."""
        return (sum(self.products.values()) * self.product_seconds + self.trace_seconds) / ranks


def check_curvature(job: Job, table: SpectrumTable | LayersTable) -> CurvatureTrial:
    """Build the job on all ranks, check its products, compare it with what its run folder holds, and time it.

    Raises what a run would raise for anything that cannot be measured as asked.
    """
    objective = build_objective(job)
    sampled = table if isinstance(table, SpectrumTable) else SpectrumTable()
    matrix, independent = agree(
        world(),
        lambda: matrix_of(
            objective,
            params=table.params,
            operator=table.operator,
            theta=None,
            buffers=None,
            weight_decay=table.weight_decay,
            samples=sampled.samples,
            sampling=sampled.sampling,
            seed=table.seed,
        ),
    )
    pairs = table.k if isinstance(table, SpectrumTable) else 0
    method = agree(world(), lambda: choose_method(matrix, table.trace, pairs)) if table.trace else ""
    tasks = agree(world(), lambda: _tasks(table, matrix, independent, method, job.out))
    done = agree(world(), lambda: _done(job, table, tasks) if world().rank == 0 else {})
    chunks, product_seconds, gradient_seconds = agree(world(), lambda: _timed_product(matrix))
    gradients, trace_seconds = agree(world(), lambda: _timed_trace(tasks, matrix))
    found = world().gather_all((product_seconds, gradient_seconds, trace_seconds, *peak_memory()))
    slowest = [max(column) for column in zip(*found, strict=True)]
    layers = len(layers_of(matrix.names))
    kept = 2 * (table.k + sampled.smallest) + 42  # vectors; see `landscape_kernels.krylov.eigenpairs`
    return CurvatureTrial(
        matrix,
        objective.layout.size,
        layers,
        chunks,
        method,
        gradients,
        _products(table, matrix, method, layers),
        world().broadcast(done),
        product_seconds=slowest[0],
        gradient_seconds=slowest[1],
        trace_seconds=slowest[2],
        threads=torch.get_num_threads(),
        ranks=world().size,
        memory=int(slowest[3]),
        device_memory=int(slowest[4]),
        basis=min(kept, matrix.size) * matrix.size * matrix.theta.element_size(),
        result=8 * sum(_row_size(task) for task in tasks.values()),
    )


def _tasks(
    table: SpectrumTable | LayersTable, matrix: Matrix, independent: Sample | None, method: str, out: Path
) -> dict[str, Task]:
    """The tasks of the run in their order, but for a trace that needs the eigenvectors."""
    tasks: dict[str, Task] = {}
    if isinstance(table, LayersTable):
        tasks["layers"] = LayerTask(matrix, table.k, tol=table.tol, seed=table.seed)
    elif table.k + table.smallest:
        tasks["eigenpairs"] = EigenTask(
            matrix,
            table.k,
            smallest=table.smallest,
            tol=table.tol,
            block=table.block,
            start=None,
            seed=table.seed,
            independent=independent,
            max_products=table.max_products,
            space=stored_space(out, space_rows(table.k, matrix.size) if method == "deflated" else 0),
        )
    if method and method != "deflated":
        tasks["trace"] = trace_task(matrix, method, table.trace_tol, table.seed, {})
    if isinstance(table, SpectrumTable) and table.density:
        tasks["density"] = DensityTask(
            matrix, probes=table.density_probes, steps=table.density_steps, seed=table.seed, deflate=None
        )
    return tasks


def _products(table: SpectrumTable | LayersTable, matrix: Matrix, method: str, layers: int) -> dict[str, int]:
    """{task: products expected}, without tasks that take none."""
    if isinstance(table, LayersTable):
        found = {"layers": _PRODUCTS_PER_PAIR * table.k * layers}
    else:
        found = {
            "eigenpairs": _PRODUCTS_PER_PAIR * (table.k + table.smallest),
            "density": table.density_probes * min(table.density_steps, matrix.size) if table.density else 0,
        }
    found["trace"] = _TRACE_PRODUCTS.get(method, 0)
    return {name: count for name, count in found.items() if count}


def _done(job: Job, table: SpectrumTable | LayersTable, tasks: Mapping[str, Task]) -> dict[str, str]:
    """Rows that the run folder holds. Raises InputError where it belongs to another run."""
    require_writable(job.out)
    stages = LAYER_STAGES if isinstance(table, LayersTable) else STAGES
    require_stages(job.out, stages)
    first = next(iter(tasks.items()), None)
    if first is not None and first[0] == stages[0] and (job.out / stages[0] / "run.json").exists():
        # A folder that has its run.json is only compared with the task, not written to.
        Store.create(job.out / stages[0], first[1].describe(), first[1].count, "")
    if not any((job.out / name / "run.json").exists() for name in stages):
        return {}
    rows = {store.folder.name: store.rows().done for store in run_stores(job.out)}
    return {name: f"{int(done.sum())} of {len(done)}" for name, done in rows.items()}


def _timed_product(matrix: Matrix) -> tuple[int, float, float]:
    """(chunks, seconds of a product, seconds of a gradient), each with all the data on this rank."""
    vector = normal_vector(matrix.size, 0, "trial").to(matrix.theta)[None]
    with matrix.bind(SERIAL) as H:
        H.apply(vector)  # builds what later products use again
        started = time.perf_counter()
        H.apply(vector)
        product = time.perf_counter() - started
        started = time.perf_counter()
        float(H.gradient().norm())
        return H.chunks, product, time.perf_counter() - started


def _timed_trace(tasks: Mapping[str, Task], matrix: Matrix) -> tuple[float, float]:
    """(backward passes per sample, their seconds on one rank) of the trace's part that takes gradients."""
    if "trace" not in tasks:
        return 0.0, 0.0
    task, objective = tasks["trace"], matrix.sample.objective
    description = task.describe()
    method = description.identity["method"]
    if method not in ("exact", "split", "sampled"):
        return 0.0, 0.0
    items = task.count if method == "sampled" else int(description.about["exact_items"])
    task.evaluate(0, SERIAL)  # warms up
    started = time.perf_counter()
    row = task.evaluate(0, SERIAL)
    seconds = time.perf_counter() - started
    each = objective.samples / items if method == "sampled" else min(objective.chunk, objective.samples)
    return float(np.asarray(row["cost"])) / each, seconds * items


def _row_size(task: Task) -> int:
    columns = task.describe().columns.values()
    return task.count * sum(int(np.prod(shape)) for shape in columns)
