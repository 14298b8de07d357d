"""Norms of weight matrices, and distances from the initial ones."""

from __future__ import annotations

from landscape.results.estimate import Estimate
from landscape.studies.complexity.entry import Measure
from landscape.studies.complexity.subject import Subject

_JIANG = "Jiang et al., arXiv 1912.02178"


def _exact(value: float, subject: Subject) -> Estimate:
    """A value that follows from the weights alone."""
    return Estimate(value, stderr=0.0, n=subject.objective.layout.size, unit="weight")


def _params(subject: Subject) -> Estimate:
    return _exact(float(sum(w.numel() for w in subject.weights.values())), subject)


def _param_norm(subject: Subject) -> Estimate:
    return _exact(float(sum(float(w.square().sum()) for w in subject.weights.values())), subject)


def _fro_dist(subject: Subject) -> Estimate:
    then = subject.initial_weights
    return _exact(float(sum(float((w - then[name]).square().sum()) for name, w in subject.weights.items())), subject)


MEASURES = (
    Measure("params", _params, (), "number of weights", f"{_JIANG}, 20", "root", "weights"),
    Measure("param_norm", _param_norm, (), "sum_l |W_l|_F^2", f"{_JIANG}, 42", "root", "weights"),
    Measure("fro_dist", _fro_dist, ("initial",), "sum_l |W_l - W0_l|_F^2", f"{_JIANG}, 40", "root", "weights"),
)
