"""Critical sharpness: curvature along a direction, from the step at which the loss is what it was before."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from landscape_kernels.arrays import FloatArray
from landscape_kernels.moments import jackknife
from landscape_kernels.perturb import wide
from torch import Tensor

from landscape.curvature.routes import flat, gradient_parts, summed_loss
from landscape.errors import InputError
from landscape.objective.gate import of_objective
from landscape.objective.objective import Objective
from landscape.results.estimate import Estimate
from landscape.run.comm import SERIAL, Communicator

logger = logging.getLogger(__name__)
_EXACT = 3e-3  # relative change of the step at which the search ends
_FACTOR = 4.0  # between steps that look for the other side
_MOST = 40  # forward passes
_ROUNDING = 16.0  # times the epsilon of the parameters' type: changes of the loss that say nothing, relative to it


@dataclass(frozen=True)
class Critical:
    """lambda_c = 2 / eta_c, and the passes over the data that it took."""

    value: Estimate
    passes: float


class _Ray:
    """The loss at theta + eta d less that at theta, with its replicates for the jackknife."""

    def __init__(self, objective: Objective, direction: Tensor, group: Communicator) -> None:
        self._objective, self._direction, self._group = objective, direction.double(), group
        self._theta = objective.theta.double()
        self.forward = 0
        self.start, self._replicates = self._loss(0.0)

    def _loss(self, eta: float) -> tuple[float, FloatArray]:
        self.forward += 1
        theta = self._theta + eta * self._direction
        values, replicates = self._objective.estimates_and_replicates(theta, group=self._group)
        return float(values["loss"]), replicates["loss"]

    def is_rounding(self, rise: float, eta: float) -> bool:
        """Whether the loss changes by no more than it is rounded by."""
        return abs(rise * eta) <= _ROUNDING * torch.finfo(self._objective.dtype).eps * abs(self.start)

    def rise(self, eta: float) -> tuple[float, FloatArray]:
        """((L(eta) - L(0)) / eta, the same without each group of samples); inf where the loss is not finite."""
        loss, replicates = self._loss(eta)
        if not math.isfinite(loss):
            return math.inf, np.full_like(replicates, np.nan)
        return (loss - self.start) / eta, (replicates - self._replicates) / eta


@of_objective
def critical_sharpness(objective: Objective, direction: Any = None) -> Estimate:
    """lambda_c = 2 / eta_c, with eta_c the first step found along a direction d at which L(theta + eta d) = L(theta).

    `direction` (size,) is by default minus the gradient of the loss; an optimiser's update, divided by its learning
    rate, gives the sharpness that its learning rate is to be compared with. Of a quadratic loss and the gradient, it is
    g'Hg / |g|^2. It takes forward passes alone, about 6, and for the gradient one backward pass.

    The secant method is applied to (L(eta) - L(0)) / eta, which is linear in eta where the loss is quadratic. The
    standard error is that of a jackknife over groups of samples, with d as it is. Raises InputError for a direction
    that is not one, or along which the loss does not fall at first or does not rise again. Source: Kalra et al.,
    "critical sharpness", 2026; the search is our own.
    """
    found = search(objective, direction)
    logger.info("critical sharpness took %.3g passes over the data", found.passes)
    return found.value


def search(objective: Objective, direction: Any = None, group: Communicator = SERIAL) -> Critical:
    """`critical_sharpness` with its cost: forward passes, and 3 for a gradient, whose backward pass counts 2."""
    slope: float | None = None
    cost = 0.0
    if direction is None:
        _, gradient = loss_and_gradient(objective, objective.theta)
        d, cost = -gradient, 3.0
        slope = -float(gradient.double().square().sum())
    else:
        d = objective.vector(direction, wide(objective.dtype))
    length = float(d.double().norm())
    if not 0 < length < math.inf:
        what = "the gradient" if direction is None else "direction"
        raise InputError(f"{what} has the length {length:.4g}; there is no direction to measure along")
    ray = _Ray(objective, d, group)
    eta = abs(ray.start / slope) if slope and ray.start else 1e-3 * float(objective.theta.double().norm()) / length
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
    begun = eta
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
        # Where the slope at 0 is known, the line through it and this point says where it crosses.
        guess = eta * _FACTOR if high is None else eta / _FACTOR
        if slope is not None and slope < found[0] < math.inf:
            crossing = -slope * eta / (found[0] - slope)
            beyond = crossing * (1.05 if high is None else 0.95)
            if eta < beyond < eta * 100 if high is None else eta / 100 < beyond < eta:
                guess = beyond
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
