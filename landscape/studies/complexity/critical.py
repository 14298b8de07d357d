"""Critical sharpness: curvature along a direction, from the step at which the loss is what it was before."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from landscape_kernels.arrays import FloatArray
from landscape_kernels.moments import jackknife
from landscape_kernels.perturb import wide
from landscape_kernels.pieces import Piece, pieces_of, stretches
from torch import Tensor

from landscape.arguments import checked
from landscape.curvature.routes import flat, gradient_parts, summed_loss
from landscape.errors import InputError
from landscape.objective.gate import of_objective
from landscape.objective.objective import Objective
from landscape.objective.threads import in_threads
from landscape.results.estimate import Estimate
from landscape.results.trial import bytes_text
from landscape.run.comm import SERIAL, Communicator
from landscape.studies.complexity.updates import Direction, descent, direction_of, square

logger = logging.getLogger(__name__)
_EXACT = 3e-3  # relative change of the step at which the search ends
_FACTOR = 4.0  # between steps that look for the other side
_TWICE = 2.0  # least growth of a step, or shrinking, once a line through two of them was wrong
_FIRST = 1e-3  # first step where the slope is not known, in lengths of the parameters
_FAR = 100.0  # times a step: how far a line through two of them is trusted
_MOST = 40  # forward passes
_ROUNDING = 16.0  # times the epsilon of the parameters' type: changes of the loss that say nothing, relative to it


@dataclass(frozen=True)
class Critical:
    """lambda_c = 2 / eta_c, and the passes over the data that it took."""

    value: Estimate
    passes: float


class _Ray:
    """The loss at theta + eta d less that at theta, with its replicates for the jackknife.

    Points are made piece by piece, in the model itself or in one copy of its parameters; of a model in half precision
    they are made in float32 for each module's call, and not rounded.
    """

    def __init__(self, objective: Objective, direction: Direction, group: Communicator) -> None:
        self._objective, self._direction, self._group = objective, direction, group
        self._blocks = {block.name: block for block in objective.layout.blocks}
        self.eps = torch.finfo(wide(objective.dtype)).eps
        self.forward = 0
        self.start, self._replicates = self._loss(0.0)

    def _loss(self, eta: float) -> tuple[float, FloatArray]:
        self.forward += 1
        objective = self._objective

        def write(chosen: Sequence[Piece], parts: Mapping[str, Tensor]) -> None:
            in_threads(lambda piece: self._put(parts[piece.block.name][piece.inside], piece, eta), chosen)

        def values(name: str) -> Tensor:
            block = self._blocks[name]
            found = torch.empty(block.size, dtype=torch.float32, device=objective.device)
            in_threads(lambda piece: self._put(found[piece.inside], piece, eta), pieces_of(block))
            return found.view(block.shape)

        with ExitStack() as stack:
            theta: Tensor | None = None
            if objective.precision != "own":
                theta = stack.enter_context(objective.centre.written(write)) if eta else None
            found, replicates = objective.estimates_and_replicates(
                theta, group=self._group, values=values if objective.precision == "own" else None
            )
        return float(found["loss"]), replicates["loss"]

    def _put(self, out: Tensor, piece: Piece, eta: float) -> None:
        """out (size,) <- a piece of theta + eta d, made in float64 and rounded once."""
        at = self._objective.centre.at(piece)
        for part, here, along in stretches(out, at.to(out.device), self._direction(piece).to(out.device)):
            part.copy_(here.double() + eta * along.double())

    def is_rounding(self, rise: float, eta: float) -> bool:
        """Whether the loss changes by no more than it is rounded by."""
        return abs(rise * eta) <= _ROUNDING * self.eps * abs(self.start)

    def rise(self, eta: float) -> tuple[float, FloatArray]:
        """((L(eta) - L(0)) / eta, the same without each group of samples); inf where the loss is not finite."""
        loss, replicates = self._loss(eta)
        if not math.isfinite(loss):
            return math.inf, np.full_like(replicates, np.nan)
        return (loss - self.start) / eta, (replicates - self._replicates) / eta


@of_objective
@checked()
def critical_sharpness(objective: Objective, direction: Any = None) -> Estimate:
    """lambda_c = 2 / eta_c, with eta_c the first step found along a direction d at which L(theta + eta d) = L(theta).

    `direction` is by default minus the gradient of the loss, which takes one backward pass. Of a quadratic loss with
    Hessian H and gradient g lambda_c is d'Hd / -g'd, and g'Hg / |g|^2 by default. Else it is

    - a vector (size,), or {parameter name: tensor}: an optimiser's update, divided by its learning rate, gives the
      sharpness that its learning rate is to be compared with;
    - a path: of a safetensors file with the direction's tensors by parameter name, of a torch file with them, or with
      the state of torch's Adam, AdamW or SGD with momentum, whose last update over the learning rate is taken. It is
      read with weights_only=True, and stays on the disk. Such an optimiser itself, or its state dict, will do, too;
    - a callable, which is asked for the tensor of each parameter by its name, at every point again;
    - another Objective of the same model: minus the gradient of that one's loss. This is the relative critical
      sharpness, of the loss of `objective` while the other one is minimised.

    It takes forward passes alone, four to eight as a rule. Points are made piece by piece in the model itself, where
    the objective has a `checkpoint`, or in one copy of the parameters; a large model's gradient is kept in a file
    without a name in the folder of temporary files. A model in half precision is moved in float32.

    The secant method is applied to (L(eta) - L(0)) / eta, which is linear in eta where the loss is quadratic. The
    standard error is that of a jackknife over groups of samples, with d as it is. Raises InputError for a direction
    that is not one, or along which the loss does not fall at first or does not rise again. Source: Kalra et al., "A
    scalable measure of loss landscape curvature", 2026 (relative: lambda_c^(1 -> 2) for the direction of 1 and the loss
    of 2); the search is our own.
    """
    objective.centre.require_same_values()
    logger.info("critical sharpness: %s", memory_told(objective, direction))
    found = search(objective, direction)
    logger.info("critical sharpness took %.3g passes over the data", found.passes)
    return found.value


def memory_told(objective: Objective, direction: Any = None) -> str:
    """What `critical_sharpness` keeps beside the model, and where."""
    one = bytes_text(objective.layout.size * objective.dtype.itemsize)
    if objective.precision == "own":
        points = "points are made in float32 for each module's call, no copy of the model"
    elif objective.centre.in_place:
        points = "points are made in the model itself, which is put back from its checkpoint"
    else:
        points = f"points are made in one copy of the parameters, {one}"
    if direction is None and not _kept_in_a_file(objective):
        return f"{points}; the gradient is held"
    if direction is None or isinstance(direction, Objective):
        return f"{points}; the gradient is in a temporary file, {bytes_text(4 * objective.layout.size)}"
    return points


def _kept_in_a_file(objective: Objective) -> bool:
    """Whether the objective's own gradient is no vector in memory."""
    return objective.centre.live or objective.precision == "own"


def search(objective: Objective, direction: Any = None, group: Communicator = SERIAL) -> Critical:
    """`critical_sharpness` with its cost: forward passes, and 3 for a gradient, whose backward pass counts 2."""
    slope: float | None = None
    cost = 3.0 if isinstance(direction, Objective) else 0.0
    if direction is not None:
        d = direction_of(objective, direction)
    elif _kept_in_a_file(objective):
        d, cost = descent(objective), 3.0
    else:
        _, gradient = loss_and_gradient(objective, objective.theta)
        d, cost = direction_of(objective, -gradient), 3.0
    squared = square(objective, d)
    if direction is None:
        slope = -squared
    length = math.sqrt(squared)
    if not 0 < length < math.inf:
        what = "the gradient" if direction is None else "direction"
        raise InputError(f"{what} has the length {length:.4g}; there is no direction to measure along")
    ray = _Ray(objective, d, group)
    if slope and ray.start:
        eta = abs(ray.start / slope)
    else:
        eta = _FIRST * math.sqrt(square(objective, objective.centre.at)) / length
    low, high = _both_sides(ray, eta or 1e-6, slope)
    place, side = high[0], 0
    of_low = of_high = 1.0  # Illinois: an end that stays counts half
    while ray.forward < _MOST:
        (a, (below, _)), (b, (above, _)) = low, high
        below, above = of_low * below, of_high * above
        before, place = place, a + (b - a) * (-below / (above - below) if math.isfinite(above) else 0.5)
        if abs(place - before) <= _EXACT * place:
            break
        here = ray.rise(place)
        if here[0] < 0:
            low, of_low, of_high, side = (place, here), 1.0, of_high / 2 if side < 0 else 1.0, -1
        else:
            high, of_high, of_low, side = (place, here), 1.0, of_low / 2 if side > 0 else 1.0, 1
    (a, (_, first)), (b, (_, second)) = low, high
    known = np.isfinite(first) & np.isfinite(second) & (first != second)
    places = a + (b - a) * -first[known] / (second[known] - first[known])
    error, groups = jackknife(2 / places)
    return Critical(Estimate(2 / place, stderr=error, n=groups, unit="group"), cost + ray.forward)


Point = tuple[float, tuple[float, FloatArray]]  # a step, and `rise` there


def _both_sides(ray: _Ray, eta: float, slope: float | None) -> tuple[Point, Point]:
    """A step at which the loss is lower than at 0, and a longer one at which it is not."""
    low: Point | None = None
    high: Point | None = None
    begun, misled = eta, False  # by a line that said the crossing is near
    before = None if slope is None else (0.0, slope)  # the last place at which `rise` is known
    while low is None or high is None:
        if ray.forward >= _MOST:
            if low is None:
                raise InputError(
                    f"the loss does not fall along the direction, down to steps of {eta:.3g}; give a direction of "
                    "descent, as minus the gradient is"
                )
            raise InputError(
                f"the loss is still lower after a step of {eta:.3g} than at the start, {eta / begun:.3g} times the "
                "first one tried: along this direction there is no critical step"
            )
        found = ray.rise(eta)
        if low is None and ray.is_rounding(found[0], eta):
            if high is not None:
                raise InputError(
                    f"the loss does not fall along the direction by more than rounding, down to steps of {eta:.3g}; "
                    "give a direction of descent, as minus the gradient is"
                )
            eta *= _FACTOR
            continue
        if found[0] < 0:
            low = (eta, found)
        else:
            high = (eta, found)
        if low is not None and high is not None:
            break
        # The line through the two last places says where it crosses.
        guess = eta * _FACTOR if high is None else eta / _FACTOR
        if before is not None and math.isfinite(found[0]) and (found[0] - before[1]) * (eta - before[0]) > 0:
            crossing = eta - found[0] * (eta - before[0]) / (found[0] - before[1])
            beyond = crossing * (1.05 if high is None else 0.95)
            if eta < beyond < eta * _FAR if high is None else eta / _FAR < beyond < eta:
                # where the loss levels off every line says so again, and steps would change by as good as nothing
                far = _TWICE * eta if high is None else eta / _TWICE
                guess = beyond if not misled else max(beyond, far) if high is None else min(beyond, far)
                misled = True
        if math.isfinite(found[0]) and (slope is None or before is None):
            before = eta, found[0]
        eta = guess
    return low, high


def loss_and_gradient(objective: Objective, theta: Tensor) -> tuple[float, Tensor]:
    """(mean loss, its gradient (size,)) at `theta` (size,), in one forward and backward pass over the data."""
    total = torch.zeros(theta.shape, dtype=torch.float64, device=objective.device)
    value = weight = 0.0
    with objective.differentiable(theta) as (_, parameters):
        for _, batch in objective.batches():
            loss, count = summed_loss(objective, batch, None)
            total += flat([part.detach() for part in gradient_parts(loss, parameters)]).double()
            value, weight = value + float(loss.detach()), weight + float(count)
    return value / weight, (total / weight).to(objective.dtype)
