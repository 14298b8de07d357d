"""Phases as frozen results: metrics over load and temperature, and the phase that they say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt
from annotated_types import Ge, Gt, Le
from landscape_kernels.arrays import BoolArray, FloatArray

from landscape.arguments import checked
from landscape.errors import InputError, nearest
from landscape.results.base import Result
from landscape.results.quantities import Meaning

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Texts = npt.NDArray[np.str_]

PHASES: Mapping[str, str] = {
    "I": "sharp, poorly connected",
    "II": "sharp, connected",
    "III": "flat, poorly connected",
    "IV-A": "flat, connected, unlike",
    "IV-B": "flat, connected, alike",
}
WELL = "_well"  # ends the names of metrics that are measured more exactly than in the paper
METRICS: Mapping[str, Meaning] = {
    "train_loss": Meaning("training loss", definition="loss per sample on all training data"),
    "train_error": Meaning("training error", "fraction", "fraction of wrong predictions on all training data"),
    "test_loss": Meaning("test loss", definition="loss per sample on all test data"),
    "test_error": Meaning("test error", "fraction", "fraction of wrong predictions on all test data"),
    "lambda_max": Meaning(
        "largest Hessian eigenvalue", definition="largest eigenvalue of the Hessian of the mean loss of some samples"
    ),
    "trace": Meaning("Hessian trace", definition="trace of the Hessian of the mean loss of the same samples"),
    "mc": Meaning(
        "mode connectivity",
        "%",
        "mode connectivity mc of the training error in per cent, at few places of a fitted curve; of the loss, without "
        "a unit, where the attribute mc_of says so",
    ),
    "mc_loss": Meaning("mode connectivity of the loss", definition="mode connectivity mc of the training loss"),
    "cka": Meaning(
        "CKA of outputs",
        definition="linear CKA of softmax outputs on mixed training inputs; NaN where outputs do not vary",
    ),
    "l2": Meaning("distance", "parameter units", "Euclidean distance of the parameters of two seeds"),
    "lambda_max_lower": Meaning(
        "lower end of the largest eigenvalue",
        definition="v'Hv on samples drawn apart from those that the unit vector v is an eigenvector of: biased down",
    ),
    "lambda_max_upper": Meaning(
        "upper end of the largest eigenvalue",
        definition="largest eigenvalue of samples drawn by importance: biased up",
    ),
    "lambda_max_well": Meaning(
        "largest eigenvalue, bracketed", definition="middle of lambda_max_lower and lambda_max_upper; all data if small"
    ),
    "trace_well": Meaning("trace, all data", definition="trace of the Hessian of the mean loss of all training data"),
    "mc_well": Meaning(
        "mode connectivity, adaptive",
        "%",
        "mc as above, places added until the largest loss on the curve is known",
    ),
    "mc_loss_well": Meaning(
        "mc of the loss, adaptive", definition="mc of the loss, places added until its largest value is known"
    ),
    "barrier": Meaning(
        "barrier of the loss", definition="height of the loss on the fitted curve above the line between its ends"
    ),
    "cka_well": Meaning(
        "CKA of outputs, all data", definition="linear CKA of softmax outputs on all training inputs as they are"
    ),
}

_EXACTER = ("lambda_max_lower", "lambda_max_upper", "barrier", *(name for name in METRICS if name.endswith(WELL)))


@dataclass(frozen=True)
class Thresholds:
    """Where one phase ends and the next begins; the defaults are those that order the published grid as the paper does.

    sharp: lambda_max above it. connected: mc above it, in per cent (in units of the loss where there is no error).
    alike: CKA of outputs from it on. fitted: where it is given, a training loss above it makes a cell sharp, too.
    """

    sharp: Annotated[float, Gt(0)] = 20.0
    connected: float = -1.0
    alike: Annotated[float, Ge(0), Le(1)] = 0.7
    fitted: Annotated[float, Gt(0)] | None = None

    def __post_init__(self) -> None:
        for name, value, allowed, fits in (
            ("sharp", self.sharp, "an eigenvalue above 0", 0 < self.sharp < math.inf),
            ("connected", self.connected, "a finite number, mc in per cent", math.isfinite(self.connected)),
            ("alike", self.alike, "a CKA, between 0 and 1", 0 <= self.alike <= 1),
            ("fitted", self.fitted, "a loss above 0, or None", self.fitted is None or 0 < self.fitted < math.inf),
        ):
            if not fits:
                raise InputError(f"{name}={value} is not {allowed}")


@dataclass(frozen=True, repr=False)
class Phases(Result):
    """Metrics of trained networks over load (rows) and temperature (columns), and the phase of each cell.

    A cell is a mean over the networks (or pairs) of its seeds. `stderr` is sqrt(seed_stderr^2 + own_stderr^2), and NaN
    where one of the two is not known.
    Source: Yang et al., "Taxonomizing local versus global structure in neural network loss landscapes", NeurIPS 2021.
    """

    axes: tuple[str, str]  # names of load and temperature: keys of the cells
    load: FloatArray  # (n_load,), ascending
    temperature: FloatArray  # (n_temperature,), ascending values of its key: a batch size falls as temperature rises
    values: Mapping[str, FloatArray]  # metric -> (n_load, n_temperature), mean over seeds; NaN where not known
    stderr: Mapping[str, FloatArray]  # metric -> (n_load, n_temperature)
    seed_stderr: Mapping[str, FloatArray]  # metric -> (n_load, n_temperature), of the mean, from how seeds differ
    own_stderr: Mapping[str, FloatArray]  # metric -> (n_load, n_temperature), of the measurement itself
    reason: Texts  # (n_load, n_temperature), why a cell has no phase; "" where it has one
    notes: Texts  # (n_load, n_temperature), what else is to be said of a cell, as models that were left out
    thresholds: Thresholds = field(default_factory=Thresholds)
    well: bool = False  # whether phases are those of the metrics that are measured more exactly than in the paper
    attributes: Mapping[str, Any] = field(default_factory=dict)  # settings, data, provenance

    def __repr__(self) -> str:
        counts = ", ".join(f"{name} {int((self.phase == name).sum())}" for name in PHASES)
        holes = int((self.phase == "").sum())
        size = f"{len(self.load)} x {len(self.temperature)} cells of {self.axes[0]} x {self.axes[1]}"
        return f"Phases({size}: {counts}{f', {holes} without' if holes else ''})"

    @property
    def complete(self) -> bool:
        """Whether all that was asked for is measured, or failed, and every cell has a phase or a reason why not."""
        return not self.attributes.get("missing", 0) and bool(((self.phase != "") | (self.reason != "")).all())

    @property
    def used(self) -> dict[str, str]:
        """{threshold: the metric that it is of}, of those that decide."""
        end = WELL if self.well else ""
        found = {"sharp": f"lambda_max{end}", "connected": f"mc{end}", "alike": f"cka{end}"}
        return found if self.thresholds.fitted is None else {**found, "fitted": "train_loss"}

    @cached_property
    def phase(self) -> Texts:
        """(n_load, n_temperature) of "I", "II", "III", "IV-A", "IV-B", and "" where `reason` says why there is none."""
        sharp, connected, alike = self.sharp, self.connected, self.alike
        found = np.select(
            [sharp & ~connected, sharp & connected, ~connected, ~alike], list(PHASES)[:4], default=list(PHASES)[4]
        )
        return np.where(self.known, found, "")

    @cached_property
    def known(self) -> BoolArray:
        """(n_load, n_temperature), where all metrics that decide are known, and nothing speaks against a phase."""
        there = [~np.isnan(self.values[metric]) for metric in self.used.values()]
        return np.asarray((self.reason == "") & np.all(there, axis=0))

    @property
    def sharp(self) -> BoolArray:
        """(n_load, n_temperature), where the largest eigenvalue, or a training loss that counts, is above its limit."""
        found = self.values[self.used["sharp"]] > self.thresholds.sharp
        if self.thresholds.fitted is not None:
            found = found | (self.values["train_loss"] > self.thresholds.fitted)
        return np.asarray(found)

    @property
    def connected(self) -> BoolArray:
        """(n_load, n_temperature), where mc is above its limit."""
        return np.asarray(self.values[self.used["connected"]] > self.thresholds.connected)

    @property
    def alike(self) -> BoolArray:
        """(n_load, n_temperature), where CKA has reached its limit."""
        return np.asarray(self.values[self.used["alike"]] >= self.thresholds.alike)

    @cached_property
    def probability(self) -> FloatArray:
        """(n_load, n_temperature, 5): how likely each of the `PHASES` is, given the errors of the metrics that decide.

        Errors are taken to be normal and independent of each other, those of lambda_max and of the loss in the
        logarithm (both are above 0 and range over decades). NaN for cells without a phase, and where an error is not
        known.
        """
        limits, used = self.thresholds, self.used
        sharp = self._above(used["sharp"], limits.sharp, log=True)
        if limits.fitted is not None:
            sharp = 1 - (1 - sharp) * (1 - self._above("train_loss", limits.fitted, log=True))
        connected = self._above(used["connected"], limits.connected)
        alike = self._above(used["alike"], limits.alike, at=1.0)
        found = [
            sharp * (1 - connected),
            sharp * connected,
            (1 - sharp) * (1 - connected),
            (1 - sharp) * connected * (1 - alike),
            (1 - sharp) * connected * alike,
        ]
        return np.where(self.known[..., None], np.stack(found, axis=-1), np.nan)

    @property
    def confidence(self) -> FloatArray:
        """(n_load, n_temperature): the probability of the phase that a cell has; NaN where it is not known."""
        place = np.array([[list(PHASES).index(name) if name else 0 for name in row] for row in self.phase])
        found = np.take_along_axis(self.probability, place[..., None], axis=-1)[..., 0]
        return np.where(self.known, found, np.nan)

    def _above(self, metric: str, limit: float, *, log: bool = False, at: float = 0.0) -> FloatArray:
        """P(metric > limit) of each cell; `at` where a metric without error is at its limit."""
        values, errors = self.values[metric], self.errors(metric)
        with np.errstate(divide="ignore", invalid="ignore"):
            if log:
                positive = values > 0
                errors = np.where(positive, errors / values, errors)
                height = np.where(positive, np.log(np.where(positive, values, 1.0)) - math.log(limit), values - limit)
            else:
                height = values - limit
            z = height / errors
        found = np.array([[0.5 * math.erfc(-one / math.sqrt(2)) for one in row] for row in z.tolist()])
        return np.where((values == limit) & (errors == 0), at, found)

    @checked()
    def errors(self, metric: str) -> FloatArray:
        """(n_load, n_temperature), standard errors of a metric; NaN where none is known."""
        return self.stderr.get(metric, np.full(self.reason.shape, np.nan))

    @property
    def shown(self) -> list[str]:
        """The metrics of pictures: of those in the paper, or of those measured more exactly where these decide."""
        paper = [name for name in self.values if name in METRICS and name not in _EXACTER]
        both = [f"{name}{WELL}" if self.well and f"{name}{WELL}" in self.values else name for name in paper]
        names = [*both, *(name for name in self.values if name not in METRICS)]
        return [name for name in names if not np.isnan(self.values[name]).all()]

    @checked()
    def logarithmic(self, metric: str) -> bool:
        """Whether a picture shows a metric by logarithms: where all its values are positive and span over a decade."""
        known = self.values[metric][np.isfinite(self.values[metric])]
        share = any(word in metric for word in ("cka", "error", "accuracy"))
        return bool(len(known) and not share and known.min() > 0 and known.max() > 10 * known.min())

    @checked()
    def meaning(self, metric: str) -> Meaning:
        """What a metric is; one that a user's table brought is told by its name."""
        found = METRICS.get(metric, Meaning(metric.replace("_", " ")))
        return replace(found, unit="") if self.attributes.get("mc_of") == "loss" and found.unit == "%" else found

    @checked()
    def require(self, metric: str) -> None:
        """Raise InputError for an unknown metric."""
        if metric not in self.values:
            raise InputError(f"the phases have no metric {metric!r}; {nearest(metric, self.values)}")

    def classified(self, **thresholds: float | None) -> Phases:
        """The same metrics with other `Thresholds`, by name. Raises InputError for a name or value that cannot be."""
        known = vars(self.thresholds)
        for name in thresholds:
            if name not in known:
                raise InputError(f"there is no threshold {name!r}; {nearest(name, known)}")
        limits: Thresholds = replace(self.thresholds, **thresholds)  # type: ignore[arg-type]
        if limits.fitted is not None:
            self.require("train_loss")
        return replace(self, thresholds=limits)

    def done_well(self) -> Phases:
        """The same cells with phases by the metrics that are measured more exactly. InputError where they are not."""
        found = replace(self, well=True)
        for metric in found.used.values():
            self.require(metric)
        return found

    @checked()
    def plot(self, kind: str = "panels", **options: Any) -> Figure:
        """A Figure: "panels" (each metric and the diagram) or "diagram" (the phases alone); see `plot_phases`."""
        return self._drawn(kind, **options)
