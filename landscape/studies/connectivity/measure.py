"""The connectivity job: every pair of several models, on the straight line and on a fitted curve, aligned or not."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path as FilePath
from typing import Any

import numpy as np
import torch
from landscape_kernels.arrays import FloatArray
from torch import Tensor

from landscape.arguments import Count, Natural, Seed, checked
from landscape.checkpoints.states import ThetaLike, model_labels, model_pairs, read_model, read_models, require_finite
from landscape.errors import InputError, nearest
from landscape.network.alignment import METHODS, align
from landscape.objective.batchnorm import chosen_statistics
from landscape.objective.gate import of_objective
from landscape.objective.objective import Objective
from landscape.objective.rows import REPLICATES, replicate_columns, replicated
from landscape.objective.training import TrainingData
from landscape.objective.trees import digest
from landscape.results.attributes import EXACT, result_attributes
from landscape.results.measured import Measurement
from landscape.results.study import of_rows
from landscape.run.comm import SERIAL, Communicator, world
from landscape.run.failures import Tolerance
from landscape.run.progress import Progress
from landscape.run.store import History
from landscape.run.task import Description, ItemStopped, Row, Rows
from landscape.run.together import agree
from landscape.studies.connectivity.result import Connectivity
from landscape.studies.connectivity.settings import ConnectivitySettings
from landscape.studies.curve.fit import CurveFit
from landscape.studies.curve.measure import fitted_curve, on_line, training_data
from landscape.studies.curve.result import Curve
from landscape.studies.path.measure import places_of

CURVE_FOLDER = "curves"  # in the run folder: the fitted curves, a file each
STATE_FOLDER = "fits"  # in the run folder while curves are fitted


class ConnectivityTask:
    """Items are pairs of models: aligned, measured on the line, joined by a fitted curve, measured on the curve."""

    headline = "loss"

    def __init__(
        self,
        objective: Objective,
        thetas: Sequence[ThetaLike],
        settings: ConnectivitySettings,
        *,
        train: Any = None,
        statistics: Any = None,
        test: Any = None,
        labels: Sequence[str] = (),
        folder: FilePath | None = None,
    ) -> None:
        """See `measure_connectivity`; `folder` is where curves and the states of their fits go."""
        if settings.align is not None and settings.align not in METHODS:
            raise InputError(f"align={settings.align!r} is unknown; {nearest(settings.align, METHODS)}")
        if settings.epochs < 0:
            raise InputError(f"epochs={settings.epochs}; give 1 or more, or 0 to fit no curves")
        self._objective, self._folder = objective, folder
        self._align, self._seed = settings.align, settings.seed
        self._labels = model_labels(thetas, labels)
        self._pairs = model_pairs(len(thetas), settings.pairs)
        self._t = places_of(settings.t)
        self._thetas = list(thetas)
        self._models = read_models(objective, thetas, self._labels)
        self._check_models()
        self._fit = settings.fit
        self._train: TrainingData | None = None
        if self._fit is not None:
            self._train = training_data(objective, train, settings.batch_size)
        self._statistics = chosen_statistics(objective, settings.batchnorm, statistics, between=True)
        self._statistics.require_enough()
        if self._statistics.data is None and objective.batchnorm_names:
            raise InputError(
                f"batchnorm={self._statistics.mode!r} gives no statistics that fit every model and every place between "
                "them; leave it out, they are then re-estimated (or use measure_path on one line)"
            )
        self._test = None if test is None else objective.elsewhere(test)
        self.count, self.places = len(self._pairs), len(self._t)
        self.report: Callable[[str], None] | None = None  # see `task.Telling`
        self.stopping: Callable[[], bool] | None = None

    def _check_models(self) -> None:
        for label, (vector, _) in zip(self._labels, self._models, strict=True):
            require_finite(vector, f"model {label}")
        for i, j in self._pairs:
            if torch.equal(self._models[i][0], self._models[j][0]):
                raise InputError(f"models {self._labels[i]} and {self._labels[j]} are equal; leave one of them out")

    @property
    def _quantities(self) -> list[str]:
        names = list(self._objective.quantities)
        return names + ([f"test_{name}" for name in names] if self._test is not None else [])

    def describe(self) -> Description:
        """See `Task`."""
        return self._description

    @cached_property
    def _description(self) -> Description:
        objective, fit = self._objective, self._fit
        columns: dict[str, tuple[int, ...]] = {}
        later: dict[str, tuple[int, ...]] = {}
        for kind in ("line", "curve") if fit is not None else ("line",):
            for name in self._quantities:
                columns |= {f"{kind}_{name}": (len(self._t),), f"{kind}_{name}_stderr": (len(self._t),)}
            for name, shape in replicate_columns(self._quantities).items():
                later[f"{kind}_{name}"] = (len(self._t), *shape)
        columns |= {"arc": (len(self._t),), "distance": (), "unaligned_distance": (), "loss": ()}
        identity = {
            "objective": objective.identity(centre=False),
            "models": [digest(vector, *buffers.values()) for vector, buffers in self._models],
            "pairs": [list(pair) for pair in self._pairs],
            "t": self._t.tolist(),
            "fit": None if fit is None else {**asdict(fit), "lr": fit.step_size},
            "train": "" if self._train is None else self._train.identity(self._seed),
            "align": self._align,
            "batchnorm": self._statistics.mode,
            "statistics": self._statistics.digest,
            "test": "" if self._test is None else self._test.data.digest,
            "seed": self._seed,
        }
        about = {
            "labels": list(self._labels),
            "quantities": self._quantities,
            "device": str(objective.device),
            "statistics_samples": self._statistics.samples,
            "test_samples": 0 if self._test is None else self._test.samples,
        }
        return Description("connectivity", columns | later, identity, about, later=tuple(later))

    def evaluate(self, index: int, group: Communicator) -> Row:
        """See `Task`."""
        i, j = self._pairs[index]
        name = f"{self._labels[i]}-{self._labels[j]}"
        a, b = self._models[i][0], self._models[j][0]
        unaligned = float(torch.linalg.vector_norm(b.double() - a.double()))
        if self._align is not None:
            self._tell(f"{name}: alignment")
            aligned = align(self._objective, self._thetas[i], self._thetas[j], self._align, seed=self._seed)
            b = read_model(self._objective, aligned)[0]
        line = Curve("bezier", torch.stack([a, b]))
        row: dict[str, Any] = self._along("line", line, name, group)
        row |= {"arc": np.full(len(self._t), np.nan), "distance": line.distance, "unaligned_distance": unaligned}
        row["loss"] = float(np.max(row["line_loss"]))
        if self._fit is not None:
            curve = self._fitted(a, b, (i, j), name, group)
            row |= self._along("curve", curve, name, group) | {"arc": curve.arc(self._t)}
            row["loss"] = float(np.max(row["curve_loss"]))
        return row

    def extend(self, rows: Rows) -> int:
        """See `Task`: one round."""
        return self.count

    def _fitted(self, a: Tensor, b: Tensor, pair: tuple[int, int], name: str, group: Communicator) -> Curve:
        i, j = pair
        settings, train, folder = self._fit, self._train, self._folder
        assert settings is not None
        assert train is not None
        points = on_line(a, b, settings.degree)
        state = None if folder is None else folder / STATE_FOLDER / f"{i}-{j}.npz"
        fit = CurveFit(self._objective, points, train, settings, self._seed)
        found = fit.run(group, state=state, report=lambda text: self._tell(f"{name}: {text}"), stopping=self.stopping)
        description = self._description
        attributes = result_attributes(description, History()) | {
            "made": "fitted",
            "from": self._labels[i],
            "to": self._labels[j],
            "align": self._align or "none",
            "train": train.about,
            "seed": self._seed,
        }
        curve = fitted_curve(found, description.identity["fit"], self._objective.quantities, attributes)
        if folder is not None and group.rank == 0:
            curve.save(folder / CURVE_FOLDER / f"{i}-{j}.h5")
        return curve

    def _along(self, kind: str, curve: Curve, name: str, group: Communicator) -> dict[str, Any]:
        """Values and errors of all quantities at the places of a curve, as columns of `kind`."""
        found: list[dict[str, float | FloatArray]] = []
        theta = torch.empty_like(curve.control_points[0])
        for k, t in enumerate(self._t.tolist()):
            if self.stopping is not None and any(group.gather_all(self.stopping())):
                raise ItemStopped
            self._tell(f"{name}: {kind}, place {k + 1} of {self.places}")
            found.append(self._values(curve.point(t, theta), group))
        return {f"{kind}_{column}": np.array([values[column] for values in found]) for column in found[0]}

    def _values(self, theta: Tensor, group: Communicator) -> dict[str, float | FloatArray]:
        """{quantity: value, quantity_stderr: ..., quantity_replicates: ...} at theta, "test_..." on the test data."""
        buffers = self._statistics.at(self._objective, theta)
        values: dict[str, float | FloatArray] = {**replicated(self._objective, theta, buffers, group)}
        if self._test is not None:
            values |= {f"test_{name}": v for name, v in replicated(self._test, theta, buffers, group).items()}
        return values

    def loss_at(self, t: float) -> float:
        """The loss on the straight line of the first pair, as the run evaluates it: a trial."""
        i, j = self._pairs[0]
        return float(self._values(torch.lerp(self._models[i][0], self._models[j][0], t), SERIAL)["loss"])

    def trial_steps(self) -> tuple[int, float]:
        """(training steps of each pair, seconds for one of them): one epoch of the first pair, nothing kept."""
        if self._fit is None or self._train is None:
            return 0, 0.0
        i, j = self._pairs[0]
        points = on_line(self._models[i][0], self._models[j][0], self._fit.degree)
        once = replace(self._fit, epochs=1)
        fit = CurveFit(self._objective, points, self._train, once, self._seed)
        started = time.perf_counter()
        fit.run(SERIAL)
        seconds = time.perf_counter() - started
        return fit.steps * self._fit.epochs, seconds / fit.steps

    def _tell(self, text: str) -> None:
        if self.report is not None:
            self.report(text)


@of_objective
@checked(ConnectivitySettings)
def measure_connectivity(
    objective: Objective,
    thetas: Sequence[ThetaLike],
    pairs: str | Sequence[Sequence[int]] = "all",
    out: str | FilePath | None = None,
    *,
    t: int | Sequence[float] = 25,
    epochs: int = 50,
    kind: str = "bezier",
    degree: int = 2,
    train: Any = None,
    optimizer: str = "sgd",
    lr: float | None = None,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    decay: str = "point",
    batch_size: int = 128,
    parts: int = 1,
    align: str | None = None,
    batchnorm: str | None = None,
    statistics: Any = None,
    test: Any = None,
    labels: Sequence[str] = (),
    seed: Seed = 0,
    ranks_per_item: Count = 1,
    limit_items: Natural | None = None,
    tolerance: Tolerance | None = None,
    progress: Callable[[Progress], None] | None = None,
    job: str = "",
) -> Connectivity:
    """Loss and metrics between pairs of models, on straight lines and on fitted curves, on all MPI ranks of this run.

    `thetas` are models in any form; `pairs` is "all", "ring", "star" (about the first) or a list of pairs of their
    numbers. With `align` "weights" or "activations" the second model of a pair is first permuted to match the first
    (see `align`). Every pair is measured at the places `t` (their number, or values in [0, 1]) of the straight line
    and, unless `epochs` is 0, of a curve fitted as `fit_curve` does with the same options and `seed`. `batchnorm`,
    `statistics` and `test` are those of `measure_path`, but that models with BatchNorm have it re-estimated.

    A pair is an item: the ranks share pairs, and `ranks_per_item` of them the data of each (and its fit, where `parts`
    is as many). With `out` a killed run goes on from the last epoch of every curve in hand; the folder then holds
    `landscape.h5` and the curves themselves as `curves/i-j.h5`, which `landscape.open` reads. Pairs that fail stay
    masked where a `tolerance` says so (see `run_task`).

    Raises InputError for one model, equal ones, or anything that cannot be measured as asked, before computing.
    """
    folder = None if out is None else FilePath(out)
    task = agree(
        world(),
        lambda: connectivity_task(
            objective,
            thetas,
            train=train,
            statistics=statistics,
            test=test,
            labels=labels,
            folder=folder,
            pairs=pairs,
            t=t,
            epochs=epochs,
            kind=kind,
            degree=degree,
            optimizer=optimizer,
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            decay=decay,
            batch_size=batch_size,
            parts=parts,
            align=align,
            batchnorm=batchnorm,
            seed=seed,
        ),
    )
    run = Measurement(
        out,
        ranks_per_item=ranks_per_item,
        limit_items=limit_items,
        tolerance=tolerance,
        progress=progress,
        job=job,
    )
    run.run(task, kept=None if folder is None else folder / STATE_FOLDER)
    return run.result(of_rows(connectivity_from_rows))


def connectivity_task(
    objective: Objective,
    thetas: Sequence[ThetaLike],
    *,
    train: Any = None,
    statistics: Any = None,
    test: Any = None,
    labels: Sequence[str] = (),
    folder: FilePath | None = None,
    **asked: Any,
) -> ConnectivityTask:
    """The task of `measure_connectivity`, `asked` being the fields of `ConnectivitySettings`."""
    return ConnectivityTask(
        objective,
        thetas,
        ConnectivitySettings(**asked),
        train=train,
        statistics=statistics,
        test=test,
        labels=labels,
        folder=folder,
    )


def connectivity_from_rows(description: Description, rows: Rows, history: History) -> Connectivity:
    """The result in the rows of the pairs, masked where pairs are missing."""
    identity, about = description.identity, description.about
    fit: Mapping[str, Any] | None = identity["fit"]
    attributes = result_attributes(description, history) | {
        "fit": "none" if fit is None else dict(fit),
        "train": identity["train"],
        "align": identity["align"] or "none",
        "batchnorm": identity["batchnorm"],
        "statistics_samples": about["statistics_samples"],
        "test_samples": about["test_samples"],
        "seed": identity["seed"],
        "error": EXACT,
    }
    names = list(about["quantities"])

    def of(kind: str, end: str = "") -> dict[str, FloatArray]:
        return {name: rows.columns[f"{kind}_{name}{end}"] for name in names if f"{kind}_{name}{end}" in rows.columns}

    return Connectivity(
        labels=tuple(about["labels"]),
        pairs=np.array(identity["pairs"], dtype=np.int64),
        t=np.array(identity["t"]),
        line=of("line"),
        line_stderr=of("line", "_stderr"),
        curve=of("curve") if fit is not None else {},
        curve_stderr=of("curve", "_stderr") if fit is not None else {},
        line_replicates=of("line", REPLICATES),
        curve_replicates=of("curve", REPLICATES) if fit is not None else {},
        arc=rows.columns["arc"],
        distance=rows.columns["distance"],
        unaligned_distance=rows.columns["unaligned_distance"],
        computed=rows.done,
        attributes=attributes,
    )
