"""Curvature of an objective: eigenpairs, trace and density of its Hessian, as one run of up to three tasks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from landscape_kernels.arrays import FloatArray
from torch import Tensor

from landscape.arguments import Count, Natural, Seed, checked
from landscape.curvature.check import check_products
from landscape.curvature.matrix import Matrix, matrix_of
from landscape.curvature.sampling import Balanced, Sample
from landscape.curvature.small import small
from landscape.errors import InputError
from landscape.objective.gate import of_objective
from landscape.objective.objective import Objective, real_tensor
from landscape.objective.parameters import layers_of
from landscape.results.attributes import result_attributes, whole_time
from landscape.results.measured import Measurement
from landscape.results.settings import name_tuple
from landscape.results.stages import Stage
from landscape.run.comm import world
from landscape.run.failures import Tolerance
from landscape.run.progress import Progress
from landscape.run.store import Store
from landscape.run.task import Description, Task
from landscape.run.together import agree
from landscape.studies.spectrum.density import DensityTask, check_density, density_from_rows
from landscape.studies.spectrum.eigen import EigenTask, space_rows
from landscape.studies.spectrum.filed import FILED, FiledEigenTask, is_streamed
from landscape.studies.spectrum.precise import PRODUCTS_PER_PAIR, PreciseTask, settled
from landscape.studies.spectrum.result import Density, Eigenpairs, Spectrum, Trace
from landscape.studies.spectrum.sampled_trace import METHOD, SampledTraceTask, sampled_trace
from landscape.studies.spectrum.settings import SpectrumSettings
from landscape.studies.spectrum.trace import FIRST_PROBES, PROBES, Deflated, TraceTask, trace_from_rows
from landscape.studies.spectrum.ways import check_trace_probes, check_trace_tol, choose_method, exact_reasons

STAGES = ("eigenpairs", "trace", "density")  # folders in a spectrum's run folder, each the run of one task
KRYLOV_STATE = "krylov.npz"  # in the folder of the eigenpairs while they are computed
DENSITY_DRAWS = 1024  # of the sample that a density is of, with error=
_SMALLEST = 200  # more of them for one of the smallest, which lie close together where many are almost 0: 250 were seen


@of_objective
@checked(SpectrumSettings)
def measure_spectrum(
    objective: Objective,
    k: int = 10,
    tol: float = 1e-3,
    trace: bool | str = True,
    density: bool = True,
    params: str | Sequence[str] | None = None,
    operator: str = "hessian",
    out: str | Path | None = None,
    *,
    smallest: int = 0,
    theta: Any = None,
    buffers: Mapping[str, Tensor] | None = None,
    weight_decay: float = 0.0,
    samples: int | None = None,
    sampling: str = "uniform",
    trace_tol: float = 0.02,
    density_probes: int = 4,
    density_steps: int = 32,
    trace_probes: int = 64,
    block: int | None = None,
    start: Any = None,
    max_products: int | None = None,
    seed: Seed = 0,
    error: float | None = None,
    memory: str | None = None,
    vectors: str | None = None,
    ranks_per_item: Count = 1,
    limit_items: Natural | None = None,
    tolerance: Tolerance | None = None,
    progress: Callable[[Progress], None] | None = None,
    job: str = "",
) -> Spectrum:
    """The k largest eigenpairs, the trace and the spectral density of the Hessian of the mean loss, on all ranks.

    `k` largest eigenvalues by value, to relative residuals |Hv - lambda v| <= `tol` |lambda|, and the `smallest`
    smallest ones (most negative) from the same Krylov space; with `smallest=0` the lower end is told as far as it was
    seen. `operator` is "hessian" or "ggn" (Gauss-Newton matrix J'H_L J). `params` (a module's name, a parameter's, a
    pattern such as "*.weight", or a list of these) restricts it to the diagonal block of some parameters; `theta`
    (size,) and `buffers` take it elsewhere than at the model's own; `weight_decay` w adds w I.

    `samples` takes that many of the data's samples, drawn by `sampling` "uniform" or "importance" (with a probability
    by the curvature of the loss in a sample's outputs, and weights that keep the mean right). The eigenvalues are then
    those of the sample (biased up), and `largest.independent` holds v'Hv of their vectors on a second sample (biased
    down).

    `trace` is True (the cheapest way that is right here), False, or a way: "exact" (per-sample gradients; networks
    piecewise linear layer by layer, or operator="ggn"), "sampled" (the same from draws by importance), "split" (tr G
    exactly, tr(H - G) by probes), "deflated" (the Krylov space of the eigenpairs exactly, or where it is too large to
    be stored the eigenpairs alone, and probes on the complement: the first four for the Frobenius norm, too, the
    later ones of each chunk of the data its own, which makes the error of their sum smaller), "hutchinson", "xtrace"
    (Epperly et al. 2024; its error estimate is seen to be up to 1.6 times too small), "products" (all unit vectors,
    exact). Ways with probes or draws go on until their relative standard error is `trace_tol`, or `trace_probes` probes
    are spent; a call with the same `out` and more of them goes on from there.

    `density` asks for stochastic Lanczos quadrature with `density_probes` probes of `density_steps` products each, on
    the complement of the eigenpairs.

    `error` is what each of the k largest eigenvalues may be off from that of all data, relative to it (one standard
    error and half the width of its bracket); the samples are then chosen so that they reach it, in rounds: vectors of
    a sample, quotients on independent draws, and more of whichever is the cheaper to add. `largest.lower` and `upper`
    are the brackets, `eigenvalue_error` what was reached, `attributes["work"]` what was spent. The trace goes on until
    its relative standard error is `error`, by draws, too; the density is that of a sample. Small data are measured
    whole, and so are those of which samples would not be cheaper; there is no `tol`, `smallest`, `samples`, `block`
    or `max_products` beside it.

    A small matrix, of up to 256 rows, or of up to 2,048 where that is cheaper than what was asked, is computed whole,
    by the products of all unit vectors in float64: eigenvalues with all copies, trace (where it is not had from
    per-sample gradients) and density are then exact for the data given, and `whole` is set. `block`, `start` or
    `max_products` ask for a Krylov run all the same. There, once all pairs have converged, products from random vectors
    look for copies that one Krylov space does not hold, and `completeness` says with what chance one is missed.

    Where it costs little against the rest, the values of a run in float32 are quotients in float64 of the vectors
    found; elsewhere `rounding` tells what rounding moves them by.

    `memory` is "flat", vectors held in memory, or "streamed": Krylov vectors in a file (below `out`, else in the folder
    of temporary files), products in at most four copies of the parameters beside the model, one rank; of eigenpairs
    alone (trace=False, density=False), without a search for copies and `rounding`. Eigenvectors are then files in
    `out`. By default it is "streamed" where that is all that is asked and the parameters take 256 MiB or more.

    `vectors` is the type of these Krylov vectors in the file: "float32", or "bf16" for about 0.6 of the disk. Rounding
    then leaves residuals of up to 0.0008 of what lies between the ends of the spectrum (0.0002 to 0.0006 of the largest
    eigenvalues were seen); an eigenvalue, whose error is quadratic in it, is off by r^2 / gap at most, r its residual
    and gap the distance to the next one. The vector that is multiplied and the eigenvectors stay in float32;
    eigenvalues and residuals are of the eigenvectors returned, by products of their own.

    `block` vectors share a pass over the data; by default 1, or 2 where the graph of the data does not fit in memory.
    `start` (j, size) are guesses of eigenvectors.
    `out` is the run folder: what is found there is not computed again, a killed run goes on from the Krylov vectors it
    stored last, and when all is there it holds `landscape.h5`. Eigenpairs are computed by all ranks together, probes
    and parts of the trace are shared out, `ranks_per_item` ranks each.

    Raises InputError for anything that cannot be measured as asked, before computing; NumericalError for NaN or Inf in
    a product.
    """
    settings = SpectrumSettings(
        k=k,
        tol=tol,
        trace=trace,
        density=density,
        params=name_tuple(params),
        operator=operator,
        smallest=smallest,
        weight_decay=weight_decay,
        samples=samples,
        sampling=sampling,
        trace_tol=trace_tol,
        density_probes=density_probes,
        density_steps=density_steps,
        trace_probes=trace_probes,
        block=block,
        max_products=max_products,
        seed=seed,
        error=error,
        memory=memory,
        vectors=vectors,
    )
    folder = None if out is None else Path(out)
    elsewhere = theta is not None or buffers is not None or start is not None
    streamed = agree(world(), lambda: is_streamed(objective, settings, elsewhere))
    run = Measurement(
        out,
        stages=STAGES,
        ranks_per_item=ranks_per_item,
        limit_items=limit_items,
        tolerance=tolerance,
        progress=progress,
        job=job,
    )
    if streamed:
        place = None if run.folder is None else run.folder / "eigenpairs"
        task = agree(world(), lambda: FiledEigenTask(objective, settings, place))
        run.run(task, ranks_per_item=1, tolerant=False, kept=None if place is None else place / FILED)
        return run.result(spectrum_from_stages)
    plan = agree(world(), lambda: Plan.of(objective, settings, folder, theta=theta, buffers=buffers, start=start))
    eigen = agree(world(), lambda: plan.eigenpairs(run.folder))
    if eigen is not None:
        state = None if run.folder is None else run.folder / "eigenpairs" / KRYLOV_STATE
        run.run(eigen, ranks_per_item=world().size, tolerant=False, kept=state)
    if plan.method and run.going:
        run.run(agree(world(), lambda: plan.trace(run.found, run.folder)), tolerant=False)
    if density and run.going:
        run.run(agree(world(), lambda: plan.density(run.found, run.folder)), tolerant=False)
    return run.result(spectrum_from_stages)


@dataclass(frozen=True)
class Plan:
    """The tasks of a spectrum, put together in one place for a run and for a trial of it."""

    settings: SpectrumSettings
    matrix: Matrix
    independent: Sample | None  # beside the sample that the matrix is of
    method: str  # of the trace; empty where none is asked for
    whole: bool  # whether the matrix is computed whole
    start: Tensor | None = None  # guesses of eigenvectors

    @classmethod
    def of(
        cls,
        objective: Objective,
        settings: SpectrumSettings,
        folder: Path | None = None,
        *,
        theta: Any = None,
        buffers: Mapping[str, Tensor] | None = None,
        start: Any = None,
    ) -> Plan:
        """Choose the matrix and the way to its trace. Raises InputError for what cannot be measured as asked.

        What was begun in the `folder` another way, by an earlier version, goes on that way.
        """
        if settings.trace:
            check_trace_tol(settings.trace_tol)
            check_trace_probes(settings.trace_probes)
        if settings.density:
            check_density(settings.density_probes, settings.density_steps)
        matrix, independent = matrix_of(
            objective,
            params=settings.params,
            operator=settings.operator,
            weight_decay=settings.weight_decay,
            seed=settings.seed,
            theta=theta,
            buffers=buffers,
            samples=settings.samples,
            sampling=settings.sampling,
        )
        krylov = start is not None or settings.block is not None or settings.max_products is not None
        ahead = expected_products(settings, matrix.size) + _SMALLEST * settings.smallest
        whole = not krylov and small(matrix, ahead)
        for stage, word in (("density", "whole"), ("eigenpairs", "all_values")):
            if (known := begun(folder, stage)) is not None:
                whole = word in known.columns or word in known.identity
        sampled = settings.error is not None and not whole
        if sampled and start is not None:
            raise InputError(f"start= and error={settings.error:g}: the vectors are those of samples; leave out one")
        known = begun(folder, "trace")
        if sampled and settings.trace:
            method = METHOD if settings.trace is True and exact_reasons(matrix) else "sampled"
            if method == "sampled":
                choose_method(matrix, method, settings.k)
        elif settings.trace is True and known is not None:
            method = str(known.identity["method"])
        else:
            method = choose_method(matrix, settings.trace, settings.k, whole=whole) if settings.trace else ""
        if start is not None:
            start = real_tensor(start, "start", f"give guesses of eigenvectors, a tensor (j, {matrix.size})")
            if start.ndim not in (1, 2) or start.shape[-1] != matrix.size:
                raise InputError(
                    f"start has shape {tuple(start.shape)}; give guesses of eigenvectors, (j, {matrix.size})"
                )
            start = start.to(objective.device, objective.dtype)
        return cls(settings, matrix, independent, method, whole, start)

    @property
    def sampled(self) -> float | None:
        """The error that samples of the data are to reach; None where all data are measured."""
        return None if self.whole else self.settings.error

    def eigenpairs(self, folder: Path | None) -> EigenTask | PreciseTask | None:
        """The first task, whose state goes below `folder`; None where no eigenpair is asked for."""
        asked, matrix = self.settings, self.matrix
        if not asked.k + asked.smallest:
            return None
        state = None if folder is None else folder / "eigenpairs" / KRYLOV_STATE
        if self.sampled is not None:
            return PreciseTask(matrix, asked.k, error=self.sampled, tol=asked.tol, seed=asked.seed, state=state)
        known = begun(folder, "eigenpairs")
        rows = space_rows(asked.k, matrix.size) if self.method == "deflated" and not self.whole else 0
        return EigenTask(
            matrix,
            asked.k,
            smallest=asked.smallest,
            tol=asked.tol,
            block=asked.block,
            start=self.start,
            seed=asked.seed,
            independent=self.independent,
            max_products=asked.max_products,
            state=state,
            space=rows if known is None else known.columns["space"][0],
            whole=self.whole,
            beside=expected_products(asked, matrix.size) - PRODUCTS_PER_PAIR * (asked.k + asked.smallest),
            begun=known,
        )

    def trace(self, found: Mapping[str, Stage], folder: Path | None = None) -> TraceTask | SampledTraceTask:
        """The task of the trace after those `found`."""
        asked = self.settings
        probes, found = asked.trace_probes, settled_stages(found)
        if self.sampled is not None:
            if self.method == METHOD:
                vectors = _vectors(found, "vectors")
                return SampledTraceTask(
                    self.matrix, error=self.sampled, seed=asked.seed, vectors=vectors, most=probes + asked.k
                )
            return TraceTask(self.matrix, self.method, tol=self.sampled, seed=asked.seed)
        return trace_task(self.matrix, self.method, asked.trace_tol, asked.seed, found, probes=probes, folder=folder)

    def density(self, found: Mapping[str, Stage], folder: Path | None = None) -> DensityTask:
        """The task of the density after those `found`, whose eigenvectors it takes out."""
        asked, matrix, found = self.settings, self.matrix, settled_stages(found)
        if self.sampled is not None and not _measured_whole(found):
            draws = Balanced.of(matrix.sample.objective, matrix.theta, matrix.buffers)
            matrix = replace(matrix, sample=draws.drawn(1, DENSITY_DRAWS, asked.seed, "density"))
        return DensityTask(
            matrix,
            probes=asked.density_probes,
            steps=asked.density_steps,
            seed=asked.seed,
            deflate=_vectors(found, "vectors", "smallest_vectors"),
            whole=self.whole,
            values=_column(found, "all_values"),
            begun=begun(folder, "density"),
        )

    def tasks_ahead(self, folder: Path) -> dict[str, Task]:
        """All tasks as they are before any is run, but for a trace that needs the eigenvectors."""
        eigen = self.eigenpairs(folder)
        tasks: dict[str, Task] = {} if eigen is None else {"eigenpairs": eigen}
        if self.method and self.method != "deflated":
            tasks["trace"] = self.trace({}, folder)
        if self.settings.density:
            tasks["density"] = self.density({}, folder)
        return tasks


def spectrum_from_stages(stages: Mapping[str, Stage]) -> Spectrum:
    """The result of what its tasks left."""
    stages = settled_stages(stages)
    first = next(iter(stages.values()))
    identity, about = first.description.identity, first.description.about
    nothing: FloatArray = np.zeros(0)
    none = Eigenpairs(nothing, nothing, nothing.astype(bool), nothing, nothing)
    largest = smallest = none
    products = passes = searched = 0
    missed, whole = math.nan, False
    size = int(about["size"])
    curve: Density | None = None
    attributes = result_attributes(first.description, first.history) | {
        "task": "spectrum",
        **{name: identity[name] for name in ("operator", "weight_decay")},
        "params": identity["params"],
        "route": about["check"]["route"],
        "check": about["check"],
        **({"complex": about["complex"]} if "complex" in about else {}),
        "tensors": about["tensors"],
        **whole_time(stage.history for stage in stages.values()),
    }
    if "eigenpairs" in stages:
        stage = stages["eigenpairs"]
        row = {name: values[0] for name, values in stage.rows.columns.items()}
        largest, smallest = _pairs(row, ""), _pairs(row, "smallest_")
        done = bool(stage.rows.done[0])
        products, passes = (int(row["products"]), int(row["passes"])) if done else (0, 0)
        searched = int(row["searched"]) if done and "searched" in row else 0
        missed = float(row["missed"]) if "missed" in row else math.nan
        whole = done and "all_values" in row
        attributes |= {name: stage.description.identity[name] for name in ("tol", "seed")}
        attributes["error"] = (
            "eigenvalues are those of the data used, to their residuals; stderr and bias are for the population it was "
            "drawn from"
        )
        if "error" in row:
            about = stage.description.about
            attributes |= {"error_asked": about["error_asked"], **({"work": about["work"]} if "work" in about else {})}
            attributes["error"] = (
                "eigenvalue_error is what an eigenvalue may be off from that of all data: one standard error over "
                "draws and half the width of its bracket"
            )
            if "density" in stages and not _measured_whole(stages):
                attributes["density_samples"] = DENSITY_DRAWS
    trace = trace_of_stage(stages)
    if "density" in stages and stages["density"].rows.done.any():
        values = np.concatenate([nothing, *(pairs.values for pairs in _deflating(stages, largest, smallest))])
        every = bool(stages["density"].description.identity.get("whole"))
        curve = density_from_rows(stages["density"].rows, values, size, whole=every)
    return Spectrum(largest, smallest, size, products, passes, trace, curve, attributes, searched, missed, whole)


def settled_stages(stages: Mapping[str, Stage]) -> Mapping[str, Stage]:
    """The same, where the rounds of eigenvalues to a stated error are one row of an EigenTask."""
    stage = stages.get("eigenpairs")
    if stage is None or "error" not in stage.description.identity or "kind" not in stage.rows.columns:
        return stages
    rows, about = settled(stage.description, stage.rows)
    description = replace(stage.description, about={**stage.description.about, **about})
    return {**stages, "eigenpairs": Stage(description, rows, stage.history)}


def _measured_whole(stages: Mapping[str, Stage]) -> bool:
    """Whether the eigenvalues turned out to need all data."""
    return "eigenpairs" in stages and not np.any(stages["eigenpairs"].rows.columns["error"])


def _deflating(stages: Mapping[str, Stage], largest: Eigenpairs, smallest: Eigenpairs) -> list[Eigenpairs]:
    """The pairs whose vectors were computed to be taken out."""
    if "eigenpairs" not in stages:
        return []
    return [largest, smallest] if stages["eigenpairs"].description.identity["smallest"] else [largest]


def _pairs(row: Mapping[str, Any], prefix: str) -> Eigenpairs:
    vectors = row[f"{prefix}vectors"]
    # pairs beyond the rows of the matrix, or not seen of an end that was not asked for
    there = slice(None) if len(vectors) else ~np.isnan(row[f"{prefix}values"])
    independent = None if prefix or np.isnan(row["independent"]).all() else row["independent"]
    return Eigenpairs(
        row[f"{prefix}values"][there],
        row[f"{prefix}residuals"][there],
        row[f"{prefix}converged"][there] == 1,
        row[f"{prefix}stderr"][there],
        row[f"{prefix}bias"][there],
        vectors if len(vectors) else None,
        independent,
        None if independent is None else row["independent_stderr"],
        row[f"{prefix}rounding"][there] if f"{prefix}rounding" in row else np.zeros(0),
        *((row[name] for name in ("error", "lower", "upper")) if not prefix and "error" in row else ()),
    )


def expected_products(asked: SpectrumSettings, size: int) -> int:
    """Products that are made for what is asked, about, without a matrix that is computed whole."""
    density = asked.density_probes * min(asked.density_steps, size) if asked.density else 0
    return PRODUCTS_PER_PAIR * (asked.k + asked.smallest) + density + (FIRST_PROBES * PROBES if asked.trace else 0)


def trace_task(
    matrix: Matrix,
    method: str,
    tol: float,
    seed: int,
    stages: Mapping[str, Stage],
    *,
    probes: int,
    folder: Path | None = None,
) -> TraceTask:
    """The task of the trace, which deflates with the eigenpairs that are there."""
    gauss_newton = None
    if method == "split":
        blocks = matrix.sample.objective.layout.blocks
        chosen = [i for i, block in enumerate(blocks) if block.name in matrix.sizes]
        check = check_products(matrix.sample.objective, "ggn", chosen, matrix.theta, matrix.buffers)
        gauss_newton = matrix.as_gauss_newton(check)
    deflate, deflated = None, None
    if method == "deflated":
        deflate, deflated = _vectors(stages, "space"), _deflated_part(stages, matrix.sizes)
        if deflate is None:
            deflate = _vectors(stages, "vectors")
    parts, weights = _column(stages, "unit_parts"), _column(stages, "unit_denominators")
    return TraceTask(
        matrix,
        method,
        tol=tol,
        seed=seed,
        deflate=deflate,
        deflated=deflated,
        gauss_newton=gauss_newton,
        probes=probes,
        begun=begun(folder, "trace"),
        units=None if parts is None or weights is None else (parts, weights),
    )


def _vectors(stages: Mapping[str, Stage], *names: str) -> Tensor | None:
    """Rows of eigenvectors (j, size) that were computed."""
    if "eigenpairs" not in stages:
        return None
    found = [stages["eigenpairs"].rows.columns[name][0] for name in names]
    rows = np.concatenate([block[~np.isnan(block).any(1)] for block in found])
    return torch.from_numpy(rows) if len(rows) else None


def _column(stages: Mapping[str, Stage], name: str) -> FloatArray | None:
    """A column of the eigenpairs' row, where it has been computed."""
    if "eigenpairs" not in stages or not stages["eigenpairs"].rows.done[0]:
        return None
    return stages["eigenpairs"].rows.columns[name][0] if name in stages["eigenpairs"].rows.columns else None


def trace_of_stage(stages: Mapping[str, Stage]) -> Trace | None:
    """The trace, where it was asked for and enough of it is computed."""
    if "trace" not in stages:
        return None
    stage = stages["trace"]
    if stage.description.identity["method"] == METHOD:
        return sampled_trace(stage.description, stage.rows) if stage.rows.done.sum() > 1 else None
    deflated: Deflated | None = None
    if stage.description.identity["method"] == "deflated":
        shapes: Mapping[str, Sequence[int]] = stage.description.about["tensors"]
        deflated = _deflated_part(stages, {name: int(np.prod(shape)) for name, shape in shapes.items()})
    return trace_from_rows(stage.description, stage.rows, deflated)


def _deflated_part(stages: Mapping[str, Stage], sizes: Mapping[str, int]) -> Deflated:
    """What the vectors taken out contribute to the trace of the whole and of each layer."""
    columns = {name: values[0] for name, values in stages["eigenpairs"].rows.columns.items()}
    place = {name: i for i, names in enumerate(layers_of(list(sizes)).values()) for name in names}
    blocks = np.zeros(len(set(place.values())))
    np.add.at(blocks, [place[name] for name in sizes], columns["space_tensors"])
    return Deflated(columns["space_chunks"], blocks, float(columns["space_square"]))


def begun(folder: str | Path | None, stage: str) -> Description | None:
    """What the task of a stage was when the folder was begun; None where it was not."""
    if folder is None or not (Path(folder) / stage / "run.json").is_file():
        return None
    return Store.open(Path(folder) / stage).description()
