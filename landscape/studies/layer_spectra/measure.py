"""Eigenvalues and trace of the diagonal block of every layer, one item a layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from landscape_kernels.krylov import eigenpairs
from landscape_kernels.probes import derive_seed
from torch import Tensor

from landscape.curvature.matrix import Matrix, matrix_of
from landscape.curvature.pairs import check_tol, pair_columns, pair_row
from landscape.errors import InputError, RunInterrupted
from landscape.objective.objective import Objective
from landscape.objective.parameters import layers_of
from landscape.results.attributes import result_attributes, whole_time
from landscape.results.stages import Stage, read_stage, require_stages
from landscape.run.comm import Communicator, world
from landscape.run.failures import Tolerance
from landscape.run.loop import run_task
from landscape.run.progress import Progress
from landscape.run.store import RESULT
from landscape.run.task import Description, Row, Rows
from landscape.run.together import agree, write_result
from landscape.studies.layer_spectra.result import LayerSpectra
from landscape.studies.spectrum.measure import trace_of_stage, trace_task
from landscape.studies.spectrum.result import Trace
from landscape.studies.spectrum.ways import choose_method

STAGES = ("layers", "trace")


class LayerTask:
    """Item i: the k largest eigenpairs of the diagonal block of layer i."""

    headline = "products"

    def __init__(self, matrix: Matrix, k: int, *, tol: float, seed: int) -> None:
        if k < 1:
            raise InputError(f"k={k}; give 1 or more eigenvalues per layer")
        self._matrix, self._k, self._tol, self._seed = matrix, k, tol, seed
        self._layers = layers_of(matrix.names)
        self.count = len(self._layers)
        check_tol(tol, matrix.sample.objective, matrix.check)

    def describe(self) -> Description:
        """See `Task`."""
        sizes = [sum(self._matrix.sizes[name] for name in names) for names in self._layers.values()]
        columns: dict[str, tuple[int, ...]] = pair_columns(self._k, "") | {"products": (), "passes": ()}
        identity = {**self._matrix.identity(), "k": self._k, "tol": self._tol, "seed": self._seed}
        about = {**self._matrix.about(), "layers": list(self._layers), "sizes": sizes}
        return Description("layers", columns, identity, about)

    def evaluate(self, index: int, group: Communicator) -> Row:
        """See `Task`."""
        layer = list(self._layers)[index]
        with self._matrix.bind(group, params=self._layers[layer]) as H:
            k = min(self._k, H.size)
            found = eigenpairs(H, k, tol=self._tol, seed=derive_seed(self._seed, "layer", layer))
            vectors = found.largest.vectors
            parts = H.by_chunk(vectors, found.further.vectors)
            known = np.concatenate([found.largest.values, found.further.values])
            row = pair_row(known, vectors, parts, 0, self._tol, self._k, "")
            return {**row, "products": H.products, "passes": H.passes}

    def extend(self, rows: Rows) -> int:
        """See `Task`: one round."""
        return self.count


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
    seed: int = 0,
    ranks_per_item: int = 1,
    tolerance: Tolerance | None = None,
    progress: Callable[[Progress], None] | None = None,
    job: str = "",
) -> LayerSpectra:
    """The k largest eigenvalues and the trace of every layer's diagonal block, layers shared out over the ranks.

    A layer is a module that holds parameters of its own; `params` takes some of them. The blocks' traces sum to the
    trace of the whole. Layers that fail stay masked where a `tolerance` says so (see `run_task`). The other arguments
    are those of `measure_spectrum`.
    """
    matrix, _ = agree(
        world(), lambda: matrix_of(objective, params, operator, theta, buffers, weight_decay, None, "uniform", seed)
    )
    task = agree(world(), lambda: LayerTask(matrix, k, tol=tol, seed=seed))
    method = agree(world(), lambda: choose_method(matrix, trace, 0)) if trace else ""
    folder = None if out is None else Path(out)
    if folder is not None:
        agree(world(), lambda: require_stages(folder, STAGES))
    stages: dict[str, Stage] = {}

    def run(name: str, task: Any, tolerance: Tolerance | None) -> None:
        place = None if folder is None else folder / name
        outcome = run_task(task, place, ranks_per_item=ranks_per_item, progress=progress, job=job, tolerance=tolerance)
        stages[name] = Stage(task.describe(), outcome.rows, outcome.history)
        if outcome.stopped is not None:
            raise RunInterrupted(f"stopped by {outcome.stopped} after its {name}; the same call goes on from there")

    run("layers", task, tolerance)
    if method:
        run("trace", agree(world(), lambda: trace_task(matrix, method, trace_tol, seed, stages)), None)
    result = layers_from_stages(stages)
    if folder is not None:
        write_result(result.save, folder / RESULT)
    return result


def layers_from_folder(folder: str | Path) -> LayerSpectra:
    """The table in a run folder, masked where a layer is not computed yet."""
    return layers_from_stages({n: read_stage(folder, n) for n in STAGES if (Path(folder) / n / "run.json").is_file()})


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
    )
