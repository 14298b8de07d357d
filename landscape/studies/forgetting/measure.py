"""Forgetting against curvature: one item for each run and task, and the result."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from landscape_kernels.arrays import FloatArray
from landscape_kernels.moments import jackknife
from landscape_kernels.perturbation import form_errors
from torch import Tensor

from landscape.arguments import Count, Natural, Seed, checked
from landscape.curvature.matrix import Matrix
from landscape.curvature.operator import CurvatureOperator
from landscape.errors import told_of
from landscape.objective.losses import LossLike
from landscape.objective.parameters import layers_of
from landscape.objective.random_state import keeps_random_state
from landscape.results.attributes import result_attributes
from landscape.results.inside import run_inside
from landscape.results.measured import Measurement
from landscape.results.study import of_rows
from landscape.run.comm import Communicator, world
from landscape.run.failures import Tolerance
from landscape.run.progress import Progress
from landscape.run.store import History
from landscape.run.task import Description, Row, Rows
from landscape.run.together import agree
from landscape.studies.forgetting.models import Models
from landscape.studies.forgetting.result import OF_LAYERS, Forgetting
from landscape.studies.forgetting.runs import runs_of
from landscape.studies.forgetting.settings import ForgettingSettings
from landscape.studies.spectrum.measure import Plan, spectrum_from_stages
from landscape.studies.spectrum.settings import SpectrumSettings
from landscape.studies.training.sources import ModelsLike, resolved, warn_of_other_data

logger = logging.getLogger(__name__)
_PAIRED = ("forgetting", "gradient", "quadratic")  # with errors of their own
_ERROR = (
    "values are exact for the data given, but for the residual of the largest eigenvalue, which its error has in it; "
    "stderr is for the population they were drawn from: of forgetting by a jackknife over groups of samples, paired at "
    "both weights, of gradient and quadratic form over chunks of the data"
)


class ForgettingTask:
    """Item i: a run and a task, at the weights that this left and at those of every later one."""

    headline = "lambda_max"

    def __init__(self, models: Models, settings: ForgettingSettings) -> None:
        self._models, self._settings = models, settings
        self.count = len(models.items)
        self.report: Callable[[str], None] | None = None  # see `task.Telling`
        self.stopping: Callable[[], bool] | None = None

    def describe(self) -> Description:
        """See `Task`."""
        return self._description

    @cached_property
    def _description(self) -> Description:
        models, runs = self._models, self._models.runs
        tasks, layers = len(runs.tasks), len(models.layers)
        columns: dict[str, tuple[int, ...]] = {"lambda_max": (), "lambda_max_stderr": (), "products": ()}
        columns |= dict.fromkeys([f"{n}{e}" for n in (*models.quantities, *_PAIRED) for e in ("", "_stderr")], (tasks,))
        columns |= {"distance": (tasks,), "layer_distance": (tasks, layers)}
        columns |= {f"layer_{n}{e}": (tasks, layers) for n in OF_LAYERS[:2] for e in ("", "_stderr")}
        seen = models.looked
        identity = {
            "objective": seen[0].identity,
            "items": [
                {
                    "run": run,
                    "task": place,
                    "later": list(models.later(item)),
                    "objective": seen[item].identity,
                    "models": list(seen[item].models),
                    "test": seen[item].test,
                }
                for item, (run, place) in enumerate(models.items)
            ],
            "tol": self._settings.tol,
            "seed": self._settings.seed,
        }
        about = {
            "sequence": runs.key,
            "tasks": list(runs.tasks),
            "runs": [[dict(run.keys), run.seed] for run in runs.runs],
            "lost": dict(runs.lost),
            "layers": list(models.layers),
            "quantities": list(models.quantities),
            "device": str(models.objective(0)[0].device),
            "batchnorm": "each model's own" if models.objective(0)[0].batchnorm_names else "",
            "other_data": models.of_other_data,
        }
        return Description("forgetting", columns, identity, about)

    def evaluate(self, index: int, group: Communicator) -> Row:
        """See `Task`; the ranks of `group` share the data."""
        with told_of(f"model {self._models.label(index)}"):
            row: dict[str, Any] = {name: np.full(shape, np.nan) for name, shape in self._description.columns.items()}
            matrix = self._models.matrix(index)
            self._losses(index, row, group)
            self._expansion(index, matrix, row, group)
            self._largest(index, matrix, row, group)
        return row

    def extend(self, rows: Rows) -> int:
        """See `Task`: one round."""
        return self.count

    def _losses(self, index: int, row: dict[str, Any], group: Communicator) -> None:
        """Every quantity of the task at its own weights and at the later ones, and how the loss rose."""
        models, here = self._models, self._models.items[index][1]
        objective, test = models.objective(index)
        without: dict[int, FloatArray] = {}
        for place in (here, *models.later(index)):
            self._tell(index, f"loss at {models.runs.key}={models.runs.tasks[place]}")
            theta, buffers = models.model(index, place)
            found, left = objective.estimates_and_replicates(theta, buffers=buffers or None, group=group)
            without[place] = left["loss"]
            held_out = {} if test is None else test.estimates(theta, buffers=buffers or None, group=group)
            for name, estimate in (*found.items(), *((f"test_{name}", one) for name, one in held_out.items())):
                row[name][place], row[f"{name}_stderr"][place] = float(estimate), estimate.stderr
        for place in models.later(index):
            rise = without[place] - without[here]
            row["forgetting"][place] = row["loss"][place] - row["loss"][here]
            row["forgetting_stderr"][place] = jackknife(rise[np.isfinite(rise)])[0]

    def _expansion(self, index: int, matrix: Matrix, row: dict[str, Any], group: Communicator) -> None:
        """g'd and d'Hd / 2 along the way d to the weights of each later task, by layer, over chunks of the data."""
        models = self._models
        places, layout = list(models.later(index)), models.objective(index)[0].layout
        own, sizes = layers_of(layout.names), [block.size for block in layout.blocks]

        def of_layers(entries: Tensor) -> Tensor:
            """(b, L) sums of entries (b, size) over the parameters of each layer of this model."""
            parts = dict(zip(layout.names, torch.split(entries, sizes, dim=1), strict=True))
            layers = [torch.stack([parts[name].sum(1) for name in names]).sum(0) for names in own.values()]
            return torch.stack(layers, dim=1)

        ways = torch.stack([models.model(index, place)[0].double() - matrix.theta.double() for place in places])
        self._tell(index, f"{len(places)} products")
        with matrix.bind(group) as H:
            slopes, forms = _by_chunk(H, ways, of_layers)
            denominators = H.denominators
            row["products"] = H.products
        of = np.ix_(places, [models.layers.index(name) for name in own])
        for name, parts in (("gradient", slopes), ("quadratic", forms / 2)):
            row[name][places], row[f"{name}_stderr"][places] = form_errors(parts.sum(2), denominators)
            each = form_errors(parts.reshape(len(parts), -1), denominators)
            for end, found in zip(("", "_stderr"), each, strict=True):
                row[f"layer_{name}{end}"][of] = found.reshape(len(places), -1)
        squares = of_layers(ways.square()).cpu().numpy()
        row["distance"][places], row["layer_distance"][of] = np.sqrt(squares.sum(1)), np.sqrt(squares)

    def _largest(self, index: int, matrix: Matrix, row: dict[str, Any], group: Communicator) -> None:
        """The largest eigenvalue; where it has not converged its residual counts as an error, too."""
        asked = SpectrumSettings(k=1, tol=self._settings.tol, trace=False, density=False, seed=self._settings.seed)
        eigen = Plan(asked, matrix, None, "", whole=False).eigenpairs(None)
        assert eigen is not None
        eigen.report, eigen.stopping = (lambda text: self._tell(index, text)), self.stopping
        found = spectrum_from_stages({"eigenpairs": run_inside(eigen, group)})
        value = float(found.largest.values[0])
        error = math.hypot(float(found.largest.stderr[0]), float(found.largest.residuals[0]) * value)
        row["lambda_max"], row["lambda_max_stderr"] = value, error
        row["products"] += found.products

    def _tell(self, index: int, text: str) -> None:
        if self.report is not None:
            self.report(f"{self._models.label(index)}: {text}")


def _by_chunk(
    H: CurvatureOperator, ways: Tensor, of_layers: Callable[[Tensor], Tensor]
) -> tuple[FloatArray, FloatArray]:
    """(g_c'd, d'H_c d) of every chunk c, way d and layer, (C, b, L) each; H is bound."""
    slopes: dict[int, Tensor] = {number: of_layers(ways * part.double()) for number, part in H.chunk_gradients()}
    forms = {number: of_layers(d * image.double()) for number, d, image in H.chunk_products(len(ways), lambda _: ways)}
    layers = of_layers(ways).shape[1]
    found = torch.zeros((2, H.chunks, len(ways), layers), dtype=torch.float64, device=ways.device)
    for number in forms:
        found[0, number], found[1, number] = slopes[number], forms[number]
    both: FloatArray = H.over_ranks(found).cpu().numpy()
    return both[0], both[1]


@keeps_random_state
@checked(ForgettingSettings)
def measure_forgetting(
    models: ModelsLike,
    *,
    sequence: str | None = None,
    factory: Callable[..., Any] | None = None,
    data: Any = None,
    test: Any = None,
    loss: LossLike | None = None,
    device: str | torch.device | None = None,
    tol: float = 1e-3,
    seed: Seed = 0,
    out: str | Path | None = None,
    ranks_per_item: Count = 1,
    limit_items: Natural | None = None,
    tolerance: Tolerance | None = None,
    progress: Callable[[Progress], None] | None = None,
    job: str = "",
) -> Forgetting:
    """How much of each task its later ones cost, against the curvature at the weights it left, on all MPI ranks.

    `models` are what `train_models` with a `sequence` returned, the folder of its run, or a table of models or its path
    (see `landscape.checkpoints.trained.read_models`), for which `sequence` names the key whose values are the tasks, in
    the order of their rows. A training of this process brings factory, data, test data and loss; else `factory`, whose
    arguments are keys of the models, and `data`, a function of the task, are needed. Data that differ from those that a
    training recorded are told, in a warning and in the result. Without `loss` it is the cross entropy.

    With w the weights after a task, v those after a later one, d = v - w, and L the loss of the task on its training
    data, in eval mode, measured are, for every pair of a task and a later one of each run (a cell and a seed):

        F = L(v) - L(w)             forgetting, and loss and error at both, of the test data, too
        g'd                         g the gradient of L at w, which is no exact minimum
        d'Hd / 2                    H the Hessian of L at w, by products with vectors: F = g'd + d'Hd / 2 + O(|d|^3)
        lambda_max(H) |d|^2 / 2     a bound of d'Hd / 2, so of F where gradient and third order do not matter

    The part of layer l is d_l'(Hd)_l / 2, which the layers share d'Hd / 2 by; it has the cross terms with other layers
    in it, and may be negative. `tol` is the relative residual of lambda_max. BatchNorm statistics are those that each
    model brings, of which the quadratic form knows nothing.

    An item is a run and a task; the ranks share items, and `ranks_per_item` of them the data of each. `out` is the run
    folder: what is found there is not computed again.

    Raises InputError for models that did not follow each other, keys that are not there (the nearest are named),
    checkpoints that do not fit or hold NaN, and what cannot be measured as asked, before computing; see `run_task` for
    the rest. Mirzadeh et al., "Understanding the role of training regimes in continual learning", arXiv 2006.06958.
    """
    task = forgetting_task(
        models,
        factory=factory,
        data=data,
        test=test,
        loss=loss,
        device=device,
        sequence=sequence,
        tol=tol,
        seed=seed,
    )
    run = Measurement(
        out, ranks_per_item=ranks_per_item, limit_items=limit_items, tolerance=tolerance, progress=progress, job=job
    )
    run.run(task)
    return run.result(of_rows(forgetting_from_rows))


def forgetting_task(
    models: ModelsLike,
    *,
    factory: Callable[..., Any] | None = None,
    data: Any = None,
    test: Any = None,
    loss: LossLike | None = None,
    device: str | torch.device | None = None,
    **asked: Any,
) -> ForgettingTask:
    """The task of `measure_forgetting`, `asked` being the fields of `ForgettingSettings`; all ranks call this."""
    comm = world()
    settings = ForgettingSettings(**asked)

    def found() -> Models:
        source = resolved(models, factory, data, test, loss)
        return Models(source, runs_of(source.models, source.sequence, settings.sequence), device)

    prepared = agree(comm, found).prepare(comm, settings.tol)
    if comm.rank == 0:
        warn_of_other_data(
            prepared.of_other_data,
            "what is measured is how the loss of these data went on, and no forgetting of what was learnt",
        )
    if comm.rank == 0 and len({seen.identity["data"] for seen in prepared.looked}) == 1 < len(prepared.runs.tasks) - 1:
        logger.warning(
            "all tasks have the same data: what is measured is how the loss went on, and no forgetting; let data= be a "
            "function of %r",
            prepared.runs.key,
        )
    return ForgettingTask(prepared, settings)


def forgetting_from_rows(description: Description, rows: Rows, history: History) -> Forgetting:
    """The result in the rows of the items, masked where items are missing."""
    identity, about, columns = description.identity, description.about, rows.columns
    pairs = [(number, item, later) for number, item in enumerate(identity["items"]) for later in item["later"]]
    numbers = np.array([number for number, _, _ in pairs], dtype=np.int64)
    before = np.array([item["task"] for _, item, _ in pairs], dtype=np.int64)
    after = np.array([later for _, _, later in pairs], dtype=np.int64)
    cells = [about["runs"][item["run"]] for _, item, _ in pairs]

    def of(end: str) -> dict[str, FloatArray]:
        found = {name: columns[f"{name}{end}"][numbers, after] for name in _PAIRED}
        if not end:
            found["distance"] = columns["distance"][numbers, after]
        found["lambda_max"] = columns[f"lambda_max{end}"][numbers]
        for name in about["quantities"]:
            for when, place in (("before", before), ("after", after)):
                found[f"{name}_{when}"] = columns[f"{name}{end}"][numbers, place]
        return found

    attributes = {
        **result_attributes(description, history),
        "tol": identity["tol"],
        "seed": identity["seed"],
        "error": _ERROR,
        **({"batchnorm": about["batchnorm"]} if about["batchnorm"] else {}),
        **({"lost": about["lost"]} if about["lost"] else {}),
    }
    return Forgetting(
        sequence=about["sequence"],
        keys={name: tuple(keys[name] for keys, _ in cells) for name in (cells[0][0] if cells else {})},
        seed=tuple(seed for _, seed in cells),
        task=tuple(about["tasks"][k] for k in before),
        later=tuple(about["tasks"][k] for k in after),
        layers=tuple(about["layers"]),
        values=of(""),
        stderr=of("_stderr"),
        layer_values={name: columns[f"layer_{name}"][numbers, after] for name in OF_LAYERS},
        layer_stderr={name: columns[f"layer_{name}_stderr"][numbers, after] for name in OF_LAYERS[:2]},
        computed=rows.done[numbers],
        attributes=attributes,
    )
