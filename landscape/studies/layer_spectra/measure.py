"""Eigenvalues and trace of the diagonal block of every layer, one item a layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from landscape_kernels.krylov import dense_eigenpairs, eigenpairs
from landscape_kernels.probes import derive_seed
from torch import Tensor

from landscape.arguments import Count, Natural, Seed, checked
from landscape.curvature.matrix import Matrix, matrix_of
from landscape.curvature.pairs import check_tol, pair_columns, pair_row
from landscape.curvature.rounding import checked_products
from landscape.curvature.small import small, unit_products
from landscape.errors import InputError
from landscape.objective.gate import of_objective
from landscape.objective.objective import Objective
from landscape.objective.parameters import layers_of
from landscape.results.attributes import result_attributes, whole_time
from landscape.results.measured import Measurement
from landscape.results.settings import name_tuple
from landscape.results.stages import Stage
from landscape.run.comm import Communicator, world
from landscape.run.failures import Tolerance
from landscape.run.progress import Progress
from landscape.run.task import Description, Row, Rows
from landscape.run.together import agree
from landscape.studies.layer_spectra.result import LayerSpectra
from landscape.studies.layer_spectra.settings import LayerSpectraSettings
from landscape.studies.spectrum.measure import begun, trace_of_stage, trace_task
from landscape.studies.spectrum.precise import PRODUCTS_PER_PAIR
from landscape.studies.spectrum.result import Trace
from landscape.studies.spectrum.ways import check_trace_probes, choose_method

STAGES = ("layers", "trace")


class LayerTask:
    """Item i: the k largest eigenpairs of the diagonal block of layer i."""

    headline = "products"

    def __init__(self, matrix: Matrix, k: int, *, tol: float, seed: int, begun: Description | None = None) -> None:
        """`begun` is what the folder of the task was begun with, whose columns are kept."""
        self._begun = None if begun is None else set(begun.columns)
        if k < 1:
            raise InputError(f"k={k}; give 1 or more eigenvalues per layer")
        self._matrix, self._k, self._tol, self._seed = matrix, k, tol, seed
        self._layers = layers_of(matrix.names)
        self._blocks = [replace(matrix, params=tuple(names)) for names in self._layers.values()]
        self.count = len(self._layers)
        check_tol(tol, matrix.sample.objective, matrix.check)

    def describe(self) -> Description:
        """See `Task`."""
        sizes = [sum(self._matrix.sizes[name] for name in names) for names in self._layers.values()]
        columns: dict[str, tuple[int, ...]] = pair_columns(self._k, "") | {"products": (), "passes": ()}
        columns |= {"searched": (), "missed": (), "whole": ()}
        if self._begun is not None:
            columns = {name: shape for name, shape in columns.items() if name in self._begun}
        identity = {**self._matrix.identity(), "k": self._k, "tol": self._tol, "seed": self._seed}
        about = {**self._matrix.about(), "layers": list(self._layers), "sizes": sizes}
        return Description("layers", columns, identity, about)

    def evaluate(self, index: int, group: Communicator) -> Row:
        """See `Task`."""
        layer = list(self._layers)[index]
        block = self._blocks[index]
        row, _ = block_pairs(
            block,
            self._k,
            tol=self._tol,
            seed=derive_seed(self._seed, "layer", layer),
            whole=small(self._matrix, 0),
            group=group,
        )
        return {name: row[name] for name in self.describe().columns}

    def extend(self, rows: Rows) -> int:
        """See `Task`: one round."""
        return self.count


def block_pairs(
    block: Matrix, k: int, *, tol: float, seed: int, whole: bool, group: Communicator
) -> tuple[dict[str, Any], Tensor]:
    """(columns of the k largest eigenpairs of a layer's block and what they cost, eigenvectors (k', size)).

    Computed whole where `whole` says so, as of a small model, and where its products are no more than those of a run.
    """
    columns, k = k, min(k, block.size)
    whole = whole or block.size <= PRODUCTS_PER_PAIR * k
    if whole:
        block = block.double() or block
    with block.bind(group) as H:
        found = dense_eigenpairs(unit_products(H).matrix, k) if whole else eigenpairs(H, k, tol=tol, seed=seed)
        values, vectors, parts, rounding, more = checked_products(
            block,
            H,
            found.largest.values,
            found.largest.vectors.to(H.device, H.dtype),
            found.further.vectors.to(H.device, H.dtype),
            group,
            beside=found.products,
            ends=(k,),
        )
        known = np.concatenate([values, found.further.values])
        row: dict[str, Any] = pair_row(known, vectors, parts, 0, tol, columns, "", dtype=H.dtype, rounding=rounding)
        row |= {"products": found.products + more, "passes": H.passes + (H.products < found.products + more)}
        row |= {"searched": found.searched, "missed": found.missed, "whole": float(whole)}
        return row, vectors


@of_objective
@checked(LayerSpectraSettings)
def measure_layer_spectra(
    objective: Objective,
    k: int = 1,
    tol: float = 1e-3,
    trace: bool | str = True,
    params: str | Sequence[str] | None = None,
    operator: str = "hessian",
    out: str | Path | None = None,
    *,
    theta: Any = None,
    buffers: Mapping[str, Tensor] | None = None,
    weight_decay: float = 0.0,
    trace_tol: float = 0.02,
    seed: Seed = 0,
    trace_probes: int = 64,
    ranks_per_item: Count = 1,
    limit_items: Natural | None = None,
    tolerance: Tolerance | None = None,
    progress: Callable[[Progress], None] | None = None,
    job: str = "",
) -> LayerSpectra:
    """The k largest eigenvalues and the trace of every layer's diagonal block, layers shared out over the ranks.

    A layer is a module that holds parameters of its own; `params` takes some of them. The blocks' traces sum to the
    trace of the whole. A small model's blocks, of up to 256 parameters in all, and blocks whose rows are no more than
    the products of a Krylov run are computed whole: all copies of an eigenvalue are there. Layers that fail stay masked
    where a `tolerance` says so (see `run_task`). The other arguments are those of `measure_spectrum`.
    """
    settings = LayerSpectraSettings(
        k, tol, trace, name_tuple(params), operator, weight_decay, trace_tol, seed, trace_probes
    )
    folder = None if out is None else Path(out)
    plan = agree(world(), lambda: LayerPlan.of(objective, settings, folder, theta=theta, buffers=buffers))
    run = Measurement(
        out,
        stages=STAGES,
        ranks_per_item=ranks_per_item,
        limit_items=limit_items,
        tolerance=tolerance,
        progress=progress,
        job=job,
    )
    run.run(plan.task)
    if plan.method and run.going:
        trace_of_all = agree(
            world(),
            lambda: trace_task(
                plan.matrix, plan.method, trace_tol, seed, run.found, probes=trace_probes, folder=folder
            ),
        )
        run.run(trace_of_all, tolerant=False)
    return run.result(layers_from_stages)


@dataclass(frozen=True)
class LayerPlan:
    """The first task of spectra of layers, and the matrix and the way to its trace that the second is made of."""

    matrix: Matrix
    method: str  # of the trace; empty where none is asked for
    task: LayerTask

    @classmethod
    def of(
        cls,
        objective: Objective,
        settings: LayerSpectraSettings,
        folder: Path | None = None,
        *,
        theta: Any = None,
        buffers: Mapping[str, Tensor] | None = None,
    ) -> LayerPlan:
        """Raises InputError for what cannot be measured as asked; what was begun in the `folder` goes on that way."""
        if settings.trace:
            check_trace_probes(settings.trace_probes)
        matrix, _ = matrix_of(
            objective,
            params=settings.params,
            operator=settings.operator,
            weight_decay=settings.weight_decay,
            seed=settings.seed,
            theta=theta,
            buffers=buffers,
        )
        task = LayerTask(matrix, settings.k, tol=settings.tol, seed=settings.seed, begun=begun(folder, "layers"))
        known = begun(folder, "trace")
        if settings.trace is True and known is not None:
            return cls(matrix, str(known.identity["method"]), task)
        whole = small(matrix, 0)
        return cls(matrix, choose_method(matrix, settings.trace, 0, whole=whole) if settings.trace else "", task)


def layers_from_stages(stages: Mapping[str, Stage]) -> LayerSpectra:
    """The result of what its tasks left."""
    stage = stages["layers"]
    identity, about, columns = stage.description.identity, stage.description.about, stage.rows.columns
    layers: Sequence[str] = about["layers"]
    whole: Trace | None = trace_of_stage(stages)
    known = whole.layers if whole is not None else {}
    errors = whole.layers_stderr if whole is not None else {}
    done = stage.rows.done
    attributes = result_attributes(stage.description, stage.history) | {
        "task": "layer_spectra",
        **{name: identity[name] for name in ("operator", "weight_decay", "params", "tol", "seed")},
        "route": about["check"]["route"],
        "check": about["check"],
        **({"complex": about["complex"]} if "complex" in about else {}),
        "tensors": about["tensors"],
        **whole_time(stage.history for stage in stages.values()),
    }
    return LayerSpectra(
        tuple(layers),
        tuple(about["sizes"]),
        columns["values"],
        columns["residuals"],
        columns["stderr"],
        columns["converged"] == 1,
        np.array([known.get(layer, np.nan) for layer in layers]),
        np.array([errors.get(layer, np.nan) for layer in layers]),
        done,
        int(columns["products"][done].sum()),
        int(columns["passes"][done].sum()),
        whole,
        attributes,
        columns.get("rounding"),
        columns.get("searched"),
        columns.get("missed"),
        columns["whole"] == 1 if "whole" in columns else None,
    )
