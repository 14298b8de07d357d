"""What a spectrum would take, from two products and a piece of the trace."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from landscape_kernels.probes import normal_vector

from landscape.curvature.matrix import Matrix
from landscape.objective.objective import Objective
from landscape.objective.parameters import layers_of
from landscape.results.stages import require_stages
from landscape.results.trial import Trial, require_writable, slowest
from landscape.run.comm import SERIAL, world
from landscape.run.store import Store
from landscape.run.task import Task
from landscape.run.together import agree, on_rank_0
from landscape.studies.spectrum.filed import FiledEigenTask, is_streamed
from landscape.studies.spectrum.foretell import FIRST, Foretold, first_rounds, foretold
from landscape.studies.spectrum.measure import DENSITY_DRAWS, STAGES, Plan
from landscape.studies.spectrum.precise import PRODUCTS_PER_PAIR, PreciseTask, head
from landscape.studies.spectrum.settings import SpectrumSettings
from landscape.studies.spectrum.trace import FIRST_PROBES, PROBES, XTRACE_PROBES

# Products of the trace's first round; more follow where the error that was asked for is not reached
_TRACE_PRODUCTS = {
    "split": 2 * FIRST_PROBES * PROBES,
    "deflated": FIRST_PROBES * PROBES,
    "hutchinson": FIRST_PROBES * PROBES,
    "xtrace": 2 * XTRACE_PROBES,
}


def spectrum_trial(objective: Objective, arguments: Mapping[str, Any], out: Path, ranks_per_item: int) -> Trial:
    """The check of products, two products, a gradient and a piece of the trace."""
    settings = SpectrumSettings(**arguments)
    if agree(world(), lambda: is_streamed(objective, settings, False)):
        return _streamed_trial(objective, settings, out)
    plan = agree(world(), lambda: Plan.of(objective, settings))
    tasks = agree(world(), lambda: plan.tasks_ahead(out))
    products = {
        "eigenpairs": PRODUCTS_PER_PAIR * (settings.k + settings.smallest),
        "density": settings.density_probes * min(settings.density_steps, plan.matrix.size) if settings.density else 0,
    }
    work: dict[str, str] = {}
    if isinstance(eigen := tasks.get("eigenpairs"), PreciseTask):
        samples = plan.matrix.sample.objective.samples
        told = agree(world(), lambda: _foretold(eigen, out / STAGES[0]))
        products["eigenpairs"] = math.ceil(told.products)
        work["work"] = f"{told}, for an error of {settings.error:g}; a guess from the first rounds"
        products["density"] = math.ceil(products["density"] * min(1.0, DENSITY_DRAWS / samples))
    if plan.whole:
        whole = plan.matrix.size + settings.k + settings.smallest
        products = {"eigenpairs": whole} if "eigenpairs" in tasks else {"density": whole if settings.density else 0}
    pairs = settings.k + settings.smallest
    trial = curvature_trial(objective, plan.matrix, plan.method, tasks, products, pairs, STAGES, out)
    return replace(trial, said={**trial.said, **work})


def _foretold(task: PreciseTask, folder: Path) -> Foretold:
    """The work to an error, from the rounds that the folder holds, or else from the first ones."""
    if (folder / "run.json").exists():
        store = Store.open(folder)
        rows = store.rows()
        if rows.done.sum() >= FIRST and rows.done[:FIRST].all():
            return foretold(store.description(), head(rows, int(rows.done.argmin()) or len(rows.done)))
    return foretold(task.describe(), first_rounds(task))


def _streamed_trial(objective: Objective, settings: SpectrumSettings, out: Path) -> Trial:
    """The check of products and one product, of vectors in a file."""
    task = agree(world(), lambda: FiledEigenTask(objective, settings, out / STAGES[0]))
    done = on_rank_0(lambda: _done(out, {STAGES[0]: task}, STAGES))
    chunks, seconds = agree(world(), task.timed_product)
    product, expected = slowest(seconds), PRODUCTS_PER_PAIR * (settings.k + settings.smallest)
    said = {
        "matrix": f"hessian of size {task.size:,}",
        "data": f"{objective.samples:,} samples in {chunks} chunks",
        **task.memory,
        **_recomputed(objective),
        "products": f"eigenpairs about {expected}",
        "time per product": f"{product:.3g} s, on one rank whatever their number",
    }
    return Trial(said, lambda _: expected * product, result=8 * _row_size(task), done=done or {"nothing": "nothing"})


def curvature_trial(
    objective: Objective,
    matrix: Matrix,
    method: str,
    tasks: Mapping[str, Task],
    products: Mapping[str, int],
    pairs: int,
    stages: tuple[str, ...],
    out: Path,
) -> Trial:
    """The trial of a study of `matrix` by `tasks`, with so many `products` expected of each and the trace by `method`.

    `pairs` eigenpairs are computed at once, which their vectors take memory for.
    """
    done = on_rank_0(lambda: _done(out, tasks, stages))
    chunks, product_seconds, gradient_seconds = agree(world(), lambda: _timed_product(matrix))
    gradients, trace_seconds = agree(world(), lambda: _timed_trace(tasks, matrix))
    product, gradient, trace = (slowest(found) for found in (product_seconds, gradient_seconds, trace_seconds))
    expected = {name: n for name, n in {**products, "trace": _TRACE_PRODUCTS.get(method, 0)}.items() if n}
    check, layers = matrix.check, len(layers_of(matrix.names))
    whole = "all" if matrix.size == objective.layout.size else f"of {objective.layout.size:,}"
    said = {
        "matrix": f"{matrix.operator} of size {matrix.size:,} ({whole} parameters, {layers} layers)",
        "data": f"{matrix.sample.objective.samples:,} samples in {chunks} chunks",
        **_recomputed(objective),
        "route of products": check.route,
        "seen on a few samples": f"off from central differences by {check.difference:.1e}, from symmetry by "
        f"{check.symmetry:.1e}, from {check.precision} by {check.rounding:.1e}",
        **({"not in float64": check.in_float64} if check.in_float64 else {}),
        **{f"not by {route}": reason for route, reason in check.refused.items()},
        "trace": _trace_words(method, gradients, expected),
        "products": ", ".join(f"{name} about {count}" for name, count in expected.items()) or "none",
        "time per product": f"{product:.3g} s, {product / gradient:.2g} gradients of the loss",
    }
    whole_seconds = sum(expected.values()) * product + trace
    kept = min(2 * pairs + 42, matrix.size)  # vectors; see `landscape_kernels.krylov.eigenpairs`
    return Trial(
        said,
        lambda ranks: whole_seconds / ranks,
        vectors=kept * matrix.size * matrix.theta.element_size(),
        result=8 * sum(_row_size(task) for task in tasks.values()),
        done=done or {"nothing": "nothing"},
    )


def _recomputed(objective: Objective) -> dict[str, str]:
    """Which activations are not kept, where any are not."""
    names = objective.recomputed
    more = ", ..." if len(names) > 3 else ""
    text = f"of {len(names)} blocks ({', '.join(names[:3])}{more}) computed again, and not kept"
    return {"activations": text} if names else {}


def _trace_words(method: str, gradients: float, products: Mapping[str, int]) -> str:
    if not method:
        return "not asked for"
    cost = f", {gradients:.3g} backward passes per sample" if gradients else ""
    more = "; more products until its error is small enough" if products.get("trace") else ""
    return method + cost + (more if method != "xtrace" else "")


def _done(out: Path, tasks: Mapping[str, Task], stages: tuple[str, ...]) -> dict[str, str]:
    """Rows that the run folder holds. Raises InputError where it belongs to another run."""
    require_writable(out)
    require_stages(out, stages)
    first = next(iter(tasks.items()), None)
    if first is not None and first[0] == stages[0] and (out / stages[0] / "run.json").exists():
        # A folder that has its run.json is only compared with the task, not written to.
        Store.create(out / stages[0], first[1].describe(), first[1].count, "")
    stores = {name: Store.open(out / name) for name in stages if (out / name / "run.json").exists()}
    rows = {name: store.rows().done for name, store in stores.items()}
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
