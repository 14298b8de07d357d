"""Fitting curves: the Task, and its result."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from landscape.arguments import Count, Natural, Seed, checked
from landscape.checkpoints.states import ThetaLike, read_model, require_finite
from landscape.errors import InputError, UnfinishedError
from landscape.objective.gate import of_objective
from landscape.objective.objective import Objective
from landscape.objective.training import TrainingData
from landscape.objective.trees import digest
from landscape.results.attributes import result_attributes
from landscape.results.measured import Measurement
from landscape.results.study import of_rows
from landscape.run.comm import Communicator, world
from landscape.run.failures import Tolerance
from landscape.run.progress import Progress
from landscape.run.store import History
from landscape.run.task import Description, Row, Rows
from landscape.run.together import agree
from landscape.studies.curve.fit import CurveFit, Fit, FitSettings
from landscape.studies.curve.result import Curve
from landscape.studies.curve.settings import CurveSettings

logger = logging.getLogger(__name__)

FIT_STATE = "fit.npz"  # in the run folder while a curve is fitted


class FitTask:
    """Item 0: one fitted curve."""

    headline = "loss"
    count = 1

    def __init__(
        self,
        objective: Objective,
        points: Sequence[Tensor],
        data: TrainingData,
        settings: FitSettings,
        seed: int,
        state: Path | None,
    ) -> None:
        self.objective, self.points, self.data = objective, points, data
        self.settings, self.seed, self._state = settings, seed, state
        self.report: Callable[[str], None] | None = None  # see `task.Telling`
        self.stopping: Callable[[], bool] | None = None

    def describe(self) -> Description:
        """See `Task`."""
        columns = {
            "control_points": (len(self.points), self.objective.layout.size),
            "history": (self.settings.epochs, len(self.objective.quantities) + 1),
            "loss": (),
        }
        identity = {
            "objective": self.objective.identity(centre=False),
            "points": [digest(point) for point in self.points],
            "train": self.data.identity(self.seed),
            "settings": {**asdict(self.settings), "lr": self.settings.step_size},
            "seed": self.seed,
        }
        about = {"device": str(self.objective.device), "quantities": list(self.objective.quantities)}
        return Description("curve", columns, identity, about)

    def evaluate(self, index: int, group: Communicator) -> Row:
        """See `Task`."""
        fit = CurveFit(self.objective, self.points, self.data, self.settings, self.seed)
        found = fit.run(group, state=self._state, report=self.report, stopping=self.stopping)
        return {
            "control_points": found.control_points.double().cpu().numpy(),
            "history": found.history,
            "loss": float(found.history[-1, 0]),
        }

    def extend(self, rows: Rows) -> int:
        """See `Task`: one round."""
        return 1


@of_objective
@checked(CurveSettings)
def fit_curve(
    objective: Objective,
    theta_a: ThetaLike,
    theta_b: ThetaLike,
    kind: str = "bezier",
    degree: int = 2,
    epochs: int = 50,
    train: Any = None,
    seed: Seed = 0,
    out: str | Path | None = None,
    *,
    start: Sequence[ThetaLike] | None = None,
    optimizer: str = "sgd",
    lr: float | None = None,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    decay: str = "point",
    places: str = "stratified",
    batch_size: int = 128,
    parts: int = 1,
    ranks_per_item: Count | None = None,
    limit_items: Natural | None = None,
    tolerance: Tolerance | None = None,
    progress: Callable[[Progress], None] | None = None,
    job: str = "",
) -> Curve:
    """A curve of low loss from theta_a to theta_b, both ends fixed (Garipov et al. 2018).

    min over p_1..p_{degree-1} of E_t L(gamma(t)), t uniform on [0, 1]: every minibatch is used at one t, and a step is
    made with dL/dp_i = w_i(t) grad L(gamma(t)). `kind` is "bezier" or "polychain" (`degree` segments). The inner
    control points begin evenly spaced on the straight line, or at `start` (degree - 1 models).

    `train` is a DataLoader (with the user's augmentation), a Dataset, (inputs, targets) or a list of batches, by
    default the objective's own data; tensors and Datasets are shuffled into batches of `batch_size`. The model is in
    train mode, with its dropout and batch statistics. `optimizer` is "sgd" (with `momentum`) or "adam", `lr` by default
    0.03 or 0.001, constant for half of the `epochs`, then falling to a hundredth at nine tenths of them. `weight_decay`
    w adds w/2 |gamma(t)|^2 to the loss (`decay` "point", as in the source) or decays the control points themselves
    ("control"). `places` are "stratified" (one t in each sixteenth per 16 steps) or "uniform". An objective of
    precision "bf16" is trained with autocast.

    Under mpiexec one curve is fitted by up to `parts` ranks: each minibatch is cut into that many parts, each with its
    own batch statistics, and their gradients are added in order, which gives the same curve on any number of ranks;
    `ranks_per_item` is how many, by default as many as there are and as divide `parts`.
    With `out` the state is kept after epochs, and a killed fit goes on to the same bits; epochs draw their random
    numbers from (seed, epoch). There lies `landscape.h5`, too, which `landscape.open` reads as the curve.

    Raises InputError for ends that do not fit the model, are equal or hold NaN; NumericalError when the loss or a
    control point becomes NaN or infinite.
    """
    folder = None if out is None else Path(out)
    task = agree(
        world(),
        lambda: curve_task(
            objective,
            theta_a,
            theta_b,
            start=start,
            train=train,
            folder=folder,
            kind=kind,
            degree=degree,
            epochs=epochs,
            optimizer=optimizer,
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            decay=decay,
            places=places,
            batch_size=batch_size,
            parts=parts,
            seed=seed,
        ),
    )
    ranks = math.gcd(parts, world().size) if ranks_per_item is None else ranks_per_item
    run = Measurement(
        out, ranks_per_item=ranks, limit_items=limit_items, tolerance=tolerance, progress=progress, job=job
    )
    run.run(task, tolerant=False, kept=None if folder is None else folder / FIT_STATE)
    return run.result(of_rows(curve_from_rows)).placed(objective)


def curve_task(
    objective: Objective,
    theta_a: ThetaLike,
    theta_b: ThetaLike,
    *,
    start: Sequence[ThetaLike] | None = None,
    train: Any = None,
    folder: Path | None = None,
    **asked: Any,
) -> FitTask:
    """The task of `fit_curve`, `asked` being the fields of `CurveSettings`."""
    settings = CurveSettings(**asked)
    points = starting_points(objective, theta_a, theta_b, settings.degree, start)
    data = training_data(objective, train, settings.batch_size)
    return FitTask(objective, points, data, settings.fit, settings.seed, folder and folder / FIT_STATE)


def training_data(objective: Objective, train: Any, batch_size: int) -> TrainingData:
    """`train` as minibatches for this objective, by default its own data."""
    data = objective.data
    if train is None and not data.held:
        raise InputError("the objective's data does not fit in memory_budget and is streamed; give train= a DataLoader")
    if train is None and not data.divisible and data.count == 1:
        logger.warning(
            "with forward= the objective's data are one batch of %d samples, so an epoch is one step; give train= as a "
            "DataLoader or (inputs, targets)",
            data.samples,
        )
    if train is None:
        train = data.first if data.divisible else [batch for _, batch in data.chunks()]
    return TrainingData(train, batch_size, device=objective.device, dtype=objective.dtype, convert=objective.formatted)


def starting_points(
    objective: Objective, theta_a: ThetaLike, theta_b: ThetaLike, degree: int, start: Sequence[ThetaLike] | None
) -> list[Tensor]:
    """All control points before training: the ends, and between them `start` or places on the straight line."""
    a, b = (read_model(objective, theta)[0] for theta in (theta_a, theta_b))
    require_finite(a, "theta_a")
    require_finite(b, "theta_b")
    if torch.equal(a, b):
        raise InputError("theta_a and theta_b are equal, so there is no curve to fit; give two different models")
    if start is None:
        return on_line(a, b, degree)
    if len(start) != degree - 1:
        raise InputError(f"start holds {len(start)} control points; degree={degree} has {degree - 1} between the ends")
    inner = [read_model(objective, theta)[0] for theta in start]
    for number, point in enumerate(inner):
        require_finite(point, f"start[{number}]")
    return [a, *inner, b]


def on_line(a: Tensor, b: Tensor, degree: int) -> list[Tensor]:
    """degree + 1 control points evenly spaced on the straight line, the ends to the bit."""
    return [a, *(torch.lerp(a, b, i / degree) for i in range(1, degree)), b]


def curve_from_rows(description: Description, rows: Rows, history: History) -> Curve:
    """The curve in the row of a fit. Raises UnfinishedError where the fit is not finished."""
    if not rows.done[0]:
        raise UnfinishedError(
            "the curve is not fitted to the end yet; landscape resume, or the call that began it, goes on from its "
            "last epoch"
        )
    identity = description.identity
    settings = dict(identity["settings"])
    table = rows.columns["history"][0]
    points = torch.from_numpy(rows.columns["control_points"][0])
    if identity["objective"]["precision"] != "float64":
        points = points.float()
    attributes = result_attributes(description, history) | {
        "made": "fitted",
        "train": identity["train"],
        "seed": identity["seed"],
        "batchnorm": "batch statistics of each minibatch (train mode)",
    }
    return fitted_curve(Fit(points, table), settings, description.about["quantities"], attributes)


def fitted_curve(
    fit: Fit, settings: Mapping[str, Any], quantities: Sequence[str], attributes: Mapping[str, Any]
) -> Curve:
    """What a fit left as a curve, which tells its `settings`; `attributes` say where it is from."""
    history = {name: fit.history[:, k] for k, name in enumerate([*quantities, "lr"])}
    own = {name: value for name, value in settings.items() if name != "kind"}
    return Curve(settings["kind"], fit.control_points, {**attributes, **own}, history)
