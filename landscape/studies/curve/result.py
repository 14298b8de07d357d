"""Curves in parameter space between trained models: Bezier curves and polygonal chains."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from landscape_kernels.arrays import FloatArray
from landscape_kernels.curves import CURVES, arc_length, combine_, difference_gram, slopes, weights
from torch import Tensor

from landscape.arguments import checked
from landscape.checkpoints.states import ThetaLike, read_model, require_finite
from landscape.errors import InputError, nearest
from landscape.objective.gate import of_objective
from landscape.objective.objective import Objective
from landscape.objective.trees import digest
from landscape.results.base import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class Curve(Result):
    """gamma(t) = sum_i w_i(t) p_i for t in [0, 1], from the first control point to the last.

    A Bezier curve passes through its ends alone, a polygonal chain through all of its control points.
    """

    kind: str  # "bezier" or "polychain"
    control_points: Tensor  # (n, size)
    attributes: Mapping[str, Any] = field(default_factory=dict)  # how it was made, data, provenance
    history: Mapping[str, FloatArray] = field(default_factory=dict)  # loss, metrics, lr: (epochs,) means
    buffers: tuple[Mapping[str, Tensor], ...] = ()  # of the two ends, where they came with buffers

    def __repr__(self) -> str:
        n, size = self.control_points.shape
        return (
            f"Curve({self.kind} of {n} control points in {size:,} parameters, {self.attributes.get('made', 'given')})"
        )

    @checked()
    def point(self, t: float, out: Tensor | None = None) -> Tensor:
        """gamma(t), (size,), into `out` where given; the ends are met to the bit. Raises InputError outside [0, 1]."""
        out = torch.empty_like(self.control_points[0]) if out is None else out
        return combine_(
            out, self.control_points.unbind(), weights(self.kind, len(self.control_points), _inside(t)).tolist()
        )

    @checked()
    def tangent(self, t: float) -> Tensor:
        """gamma'(t), (size,); at a bend of a chain that of the later segment."""
        points = self.control_points.unbind()
        steps = [b - a for a, b in itertools.pairwise(points)]
        return combine_(torch.empty_like(points[0]), steps, slopes(self.kind, len(points), _inside(t)).tolist())

    @checked()
    def arc(self, t: Sequence[float] | FloatArray) -> FloatArray:
        """Length of the curve from 0 to each t, in parameter units."""
        return np.array([arc_length(self.kind, self._differences, _inside(s)) for s in t])

    @property
    def length(self) -> float:
        """Length of the whole curve, in parameter units: at least `distance`, equal for a straight line."""
        return arc_length(self.kind, self._differences)

    @property
    def distance(self) -> float:
        """Euclidean distance of the ends."""
        return float(np.sqrt(max(self._differences.sum(), 0.0)))

    @cached_property
    def _differences(self) -> FloatArray:
        return difference_gram(self.control_points.unbind())

    @checked()
    def placed(self, objective: Objective) -> Curve:
        """The same curve on the objective's device, in its precision. Raises InputError where the model is another."""
        points = [objective.vector(point) for point in self.control_points]
        return replace(self, control_points=torch.stack(points))

    def plot(self) -> Figure:
        """A Figure of loss, metrics and step size over the epochs of the fit. InputError for a curve that was given."""
        return self._drawn()

    def identity(self) -> dict[str, Any]:
        """What fixes the curve's points, in plain values."""
        return {"kind": self.kind, "control_points": [digest(point) for point in self.control_points]}


@of_objective
@checked()
def curve_from_points(objective: Objective, points: Sequence[ThetaLike], kind: str = "polychain") -> Curve:
    """The curve with the given control points, models in any form: `kind` "polychain" or "bezier".

    Two points make a straight line of either kind. Raises InputError for fewer than two points, ones that do not fit
    the model, hold NaN or infinite values, or an unknown kind.
    """
    if kind not in CURVES:
        raise InputError(f"kind={kind!r} is unknown; {nearest(kind, CURVES)}")
    if len(points) < 2:
        raise InputError(f"{len(points)} control point given; a line needs 2, a curve 3")
    states = [read_model(objective, point) for point in points]
    for number, (vector, _) in enumerate(states):
        require_finite(vector, f"control point {number}")
    ends = (states[0][1], states[-1][1])
    return Curve(kind, torch.stack([vector for vector, _ in states]), {"made": "given"}, {}, ends if all(ends) else ())


def _inside(t: float) -> float:
    if not 0 <= t <= 1:
        raise InputError(f"t={t} is not on the curve; it runs from 0 to 1")
    return float(t)
