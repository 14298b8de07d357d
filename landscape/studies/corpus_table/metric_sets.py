"""What can be measured of every model of a corpus, a set of metrics each: the only list of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from landscape_kernels.arrays import FloatArray

from landscape.checkpoints.states import read_model
from landscape.curvature.check import ProductCheck, check_products
from landscape.curvature.matrix import Matrix
from landscape.curvature.sampling import whole
from landscape.errors import InputError
from landscape.objective.rows import evaluated
from landscape.results.estimate import Estimate
from landscape.results.inside import run_inside
from landscape.results.stages import Stage
from landscape.run.comm import Communicator
from landscape.studies.complexity.catalogue import MEASURES
from landscape.studies.complexity.measure import complexity_from_rows, complexity_task
from landscape.studies.corpus_table.subject import Subject
from landscape.studies.profiles.measure import ProfilesTask, profiles_from_rows
from landscape.studies.profiles.settings import ProfilesSettings
from landscape.studies.spectrum.measure import Plan, spectrum_from_stages
from landscape.studies.spectrum.settings import SpectrumSettings
from landscape.studies.spectrum.ways import choose_method
from landscape.studies.weights.measure import WeightsTask, weights_from_rows
from landscape.studies.weights.metrics import DISTANCES, EVERY, NOT_FINITE, OUTSIDE, REASONS
from landscape.studies.weights.settings import WeightsSettings

_DIRECTIONS, _REACH = 10, 0.5  # of the rise of the loss
_TOL, _TRACE_TOL = 1e-3, 0.05
_OF_MATRICES = (
    "alpha",
    "D",
    "alpha_weighted",
    "log_alpha_norm",
    "norm",
    "log_norm",
    "spectral_norm",
    "log_spectral_norm",
    "stable_rank",
    "entropy",
    "mp_softrank",
    "num_spikes",
    "rank_loss",
)


@dataclass(frozen=True)
class Metric:
    """One column of the table."""

    words: str
    unit: str = "1"
    error: bool = False  # whether it has a standard error


@dataclass(frozen=True)
class MetricSet:
    """Metrics that are measured together; those that a model does not have are left out of what `measure` returns."""

    words: str
    metrics: Mapping[str, Metric]
    measure: Callable[[Subject, Communicator], Mapping[str, float]]  # Estimates, of those with an error
    network: bool = True  # whether it needs the network and its data, or the weights alone


def _weights(model: Subject, group: Communicator) -> Mapping[str, float]:
    stage = run_inside(WeightsTask(model.weights, WeightsSettings(shuffles=0, roundings=0), model.initial), group)
    found = weights_from_rows(stage.description, stage.rows, stage.history)
    for layer, reason in found.left_out().items():
        if reason in (REASONS[NOT_FINITE], REASONS[OUTSIDE]):  # means over the other matrices would look fine
            raise InputError(f"layer {layer!r} has no values: {reason}")
    means = found.model
    return {
        **{name: float(means[name]) for name in (*_OF_MATRICES, *DISTANCES) if name in means},
        "entries": float((found.larger * found.smaller * found.slices).sum()),
    }


def _loss(model: Subject, group: Communicator) -> Mapping[str, float]:
    found: dict[str, float] = {}
    for prefix, objective in (("", model.objective), ("test_", model.test)):
        if objective is not None:
            values = evaluated(objective, objective.theta, None, group)
            for name in objective.quantities:
                error = float(values[f"{name}_stderr"])
                found[f"{prefix}{name}"] = Estimate(float(values[name]), stderr=error, n=objective.samples)
    return found


def _profiles(model: Subject, group: Communicator) -> Mapping[str, float]:
    settings = ProfilesSettings(_DIRECTIONS, (-_REACH, _REACH, 3), seed=model.settings.seed)
    stage = run_inside(ProfilesTask(model.part, settings), group)
    loss = profiles_from_rows(stage.description, stage.rows, stage.history).values["loss"]
    return {"rise": _mean((loss[:, 0] + loss[:, 2]) / 2 - loss[:, 1])}


def _mean(values: FloatArray) -> Estimate:
    error = float(values.std(ddof=1) / math.sqrt(values.size))
    return Estimate(float(values.mean()), stderr=error, n=values.size, unit="direction")


def _spectrum(model: Subject, group: Communicator) -> Mapping[str, float]:
    asked = SpectrumSettings(k=1, tol=_TOL, density=False, trace_tol=_TRACE_TOL, seed=model.settings.seed)
    matrix = Matrix(whole(model.part), "hessian", None, 0.0, model.part.theta, None, _checked(model))
    plan = Plan(asked, matrix, None, choose_method(matrix, True, 1), whole=False)  # one eigenvalue takes few products
    stages: dict[str, Stage] = {}
    eigen = plan.eigenpairs(None)
    if eigen is not None:
        stages["eigenpairs"] = run_inside(eigen, group)
    stages["trace"] = run_inside(plan.trace(stages), group)
    found = spectrum_from_stages(stages)
    value, error = float(found.largest.values[0]), float(found.largest.stderr[0])
    error = math.hypot(error, float(found.largest.residuals[0]) * value)  # what has not converged counts, too
    assert found.trace is not None
    return {
        "lambda_max": Estimate(value, stderr=error, n=model.part.samples),
        "trace": Estimate(found.trace.value, stderr=found.trace.stderr, n=model.part.samples),
    }


def _checked(model: Subject) -> ProductCheck:
    """How products are computed, seen at the model or, where its weights hide the gradient in rounding, untrained."""
    objective, every = model.part, list(range(len(model.part.layout.blocks)))
    try:
        return check_products(objective, "hessian", every, objective.theta, None)
    except InputError as error:
        theta, buffers = read_model(objective, model.untrained())
        try:
            return check_products(objective, "hessian", every, theta, buffers or None)
        except InputError:
            raise error from None


def _complexity(model: Subject, group: Communicator) -> Mapping[str, float]:
    stage = run_inside(complexity_task(model.objective, initial=model.initial, seed=model.settings.seed), group)
    return complexity_from_rows(stage.description, stage.rows, stage.history).estimates


METRIC_SETS: Mapping[str, MetricSet] = {
    "weights": MetricSet(
        "shape and scale of the weight matrices",
        {
            **{name: Metric(f"mean over weight matrices: {EVERY[name].definition}") for name in _OF_MATRICES},
            **{name: Metric(f"mean over weight matrices: {EVERY[name].definition}") for name in DISTANCES},
            "entries": Metric("number of entries of the weight matrices"),
        },
        _weights,
        network=False,
    ),
    "loss": MetricSet(
        "loss and error",
        {
            "loss": Metric("loss on the training data", error=True),
            "error": Metric("share of training samples predicted wrong", error=True),
            "test_loss": Metric("loss on the test data", error=True),
            "test_error": Metric("share of test samples predicted wrong", error=True),
        },
        _loss,
    ),
    "profiles": MetricSet(
        "loss along random directions",
        {
            "rise": Metric(
                f"mean of loss(theta + {_REACH:g} d) and loss(theta - {_REACH:g} d), less loss(theta), over "
                f"{_DIRECTIONS} random directions d of the filters' norms",
                error=True,
            )
        },
        _profiles,
    ),
    "spectrum": MetricSet(
        "curvature of the training loss",
        {
            "lambda_max": Metric("largest eigenvalue of the Hessian of the training loss", error=True),
            "trace": Metric("trace of the Hessian of the training loss", error=True),
        },
        _spectrum,
    ),
    "complexity": MetricSet(
        "measures of complexity",
        {name: Metric(one.formula or name, error=True) for name, one in MEASURES.items()},
        _complexity,
    ),
}


def as_pair(value: float) -> tuple[float, float]:
    """(value, its standard error), which is NaN where it has none."""
    return float(value), value.stderr if isinstance(value, Estimate) else np.nan
