"""Samples of an objective's data for curvature: uniform, by importance, or balanced over what the model says."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from landscape_kernels.arrays import FloatArray, IntArray
from landscape_kernels.probes import derive_seed
from torch import Tensor

from landscape.errors import InputError
from landscape.network.seeds import output_seeds, softmax_seeds
from landscape.objective.objective import Objective

logger = logging.getLogger(__name__)
SAMPLINGS = ("uniform", "importance")
# The share of draws that is uniform. A sample that seems flat in the forward pass is then drawn, too, and its weight
# is at most 1 / 0.2 = 5 times that of a uniform draw.
_UNIFORM_PART = 0.2


@dataclass(frozen=True)
class Sample:
    """Some of an objective's samples and how they count."""

    objective: Objective  # on these samples
    weights: Tensor | None  # (n,), 1 / (n q_i); None where all count alike
    total: float | None  # denominators of all data, which weighted sums are divided by


def whole(objective: Objective) -> Sample:
    """All of the data, in an order of its own where it is held.

    Errors come from differences between chunks, so chunks must be like random draws: not one class after another.
    """
    generator = np.random.Generator(np.random.Philox(key=derive_seed(0, "order")))
    order = generator.permutation(objective.samples).tolist()
    return Sample(objective.on(objective.data.shuffled(order)), None, None)


def draw(
    objective: Objective, samples: int, sampling: str, seed: int, *, theta: Any = None, buffers: Any = None
) -> tuple[Sample, Sample | None]:
    """(a sample of `samples` of the objective's samples, an independent one of the same size).

    "uniform": without replacement, the two disjoint; the second is shorter where not enough is left, None where fewer
    than two are. "importance": with replacement, sample i with probability q_i (see `importance`) and weight
    1 / (n q_i), which leaves the mean as it is. Raises InputError for a number the data do not have.
    """
    if sampling not in SAMPLINGS:
        raise InputError(f"sampling={sampling!r} is not one of {', '.join(SAMPLINGS)}")
    if not 2 <= samples <= objective.samples:
        raise InputError(
            f"samples={samples}; give 2 to {objective.samples}, the number of samples in the data, or leave it out to "
            "use all"
        )
    generator = np.random.Generator(np.random.Philox(key=derive_seed(seed, "sample", sampling)))
    if sampling == "uniform":
        order = generator.permutation(objective.samples)
        first, second = order[:samples], order[samples : 2 * samples]
        other = Sample(objective.on(objective.data.taken(second.tolist())), None, None) if len(second) > 1 else None
        return Sample(objective.on(objective.data.taken(first.tolist())), None, None), other
    q, total = importance(objective, theta, buffers)
    one, two = (generator.choice(len(q), size=samples, p=q) for _ in range(2))
    return _weighted(objective, one, q, total), _weighted(objective, two, q, total)


def _weighted(objective: Objective, rows: Any, q: FloatArray, total: float) -> Sample:
    weights = torch.from_numpy(1 / (len(rows) * q[rows])).to(objective.device, objective.dtype)
    return Sample(objective.on(objective.data.taken(rows.tolist())), weights, total)


def importance(objective: Objective, theta: Any = None, buffers: Any = None) -> tuple[FloatArray, float]:
    """(q (N,), sum of the loss' denominators): how probable each sample is in a draw by importance.

    q_i is the trace of the loss' Hessian in the outputs of sample i (1 - sum_c p_c^2 for softmax cross entropy), from
    one forward pass, mixed with a uniform part of 0.2.
    """
    if objective.loss_is_returned:
        raise InputError(
            "sampling='importance' weighs samples by their outputs; with loss=None forward returns the loss itself: "
            "let forward return (outputs, targets) and give loss=, or use sampling='uniform'"
        )
    curvature, _, total = _passed(objective, theta, buffers)
    return _probabilities(curvature), total


def _probabilities(curvature: FloatArray) -> FloatArray:
    flat, mass = 1 / len(curvature), float(curvature.sum())
    if not mass > 0:
        return np.full(len(curvature), flat)
    return (1 - _UNIFORM_PART) * curvature / mass + _UNIFORM_PART * flat


def _passed(objective: Objective, theta: Any, buffers: Any) -> tuple[FloatArray, IntArray, float]:
    """((N,) output curvatures, (N, 2) largest outputs, sum of the loss' denominators), from one forward pass."""
    if objective.loss_is_returned:
        raise InputError(
            "sampling='importance' weighs samples by their outputs; with loss=None forward returns the loss itself: "
            "let forward return (outputs, targets) and give loss=, or use sampling='uniform'"
        )
    weights: list[FloatArray] = []
    leaders: list[IntArray] = []
    total = 0.0
    with objective.differentiable(theta, buffers) as (model, _):
        for _, batch in objective.batches():
            with torch.no_grad():
                outputs, targets = objective.outputs(model, batch)
                units = objective.loss_units(outputs, targets)
            total += units.total
            weights.append(output_curvature(objective, outputs, targets).cpu().numpy())
            flat = (outputs.abs() if outputs.is_complex() else outputs).reshape(len(outputs), -1)
            first = flat.topk(min(2, flat.shape[1]), dim=1).indices
            leaders.append(first[:, [0, -1]].cpu().numpy())
    curvature = np.concatenate(weights)
    if len(curvature) != objective.samples:
        raise InputError(
            f"the model gives {len(curvature)} outputs for {objective.samples} samples, so they do not say "
            "how much each sample counts; use sampling='uniform'"
        )
    return curvature, np.concatenate(leaders), total


@dataclass(frozen=True)
class Balanced:
    """Draws that hold of each kind of sample what the data hold of it, all blocks of them independent.

    A block of b draws is a systematic sample (Madow 1949): sample i is drawn b q_i times, rounded up or down, with q_i
    that of `importance`, along an order in which samples of like outputs (the two largest, then the curvature) are
    neighbours. So every mean over a block is right on average, and varies only by what differs among neighbours; blocks
    have starts of their own, so that the spread over blocks tells the error. Where outputs do not tell how much a
    sample counts, all count alike.
    """

    objective: Objective
    order: IntArray  # (N,)
    q: FloatArray | None  # (N,) probabilities of a draw; None where all are drawn alike
    total: float | None  # denominators of all data

    @classmethod
    def of(cls, objective: Objective, theta: Any = None, buffers: Any = None) -> Balanced:
        """From one forward pass over the data."""
        try:
            curvature, leaders, total = _passed(objective, theta, buffers)
        except InputError as error:
            logger.info("all samples count alike: %s", error)
            return cls(objective, np.arange(objective.samples), None, None)
        order: IntArray = np.lexsort((curvature, leaders[:, 1], leaders[:, 0])).astype(np.int64)
        return cls(objective, order, _probabilities(curvature), total)

    def drawn(self, blocks: int, size: int, seed: int, *keys: int | str) -> Sample:
        """`blocks` blocks of `size` draws, one after another, which follow from `seed` and `keys`."""
        q = np.full(len(self.order), 1 / len(self.order)) if self.q is None else self.q
        ends = np.cumsum(q[self.order])
        starts = np.random.Generator(np.random.Philox(key=derive_seed(seed, "balanced", *keys))).random(blocks)
        places = (starts[:, None] + np.arange(size)) / size * ends[-1]
        rows = self.order[np.searchsorted(ends, places.ravel(), side="right").clip(max=len(ends) - 1)]
        if self.q is None:
            return Sample(self.objective.on(self.objective.data.taken(rows.tolist())), None, None)
        return _weighted(self.objective, rows, self.q, self.total or 0.0)


def output_curvature(objective: Objective, outputs: Tensor, targets: Any) -> Tensor:
    """(B,) float64, trace of each sample's output Hessian of the loss' numerators."""
    if is_softmax(objective, outputs, targets):
        p = outputs.detach().double().softmax(1)
        curvature: Tensor = (1 - p.square().sum(1)) * (targets != -100)
        return curvature
    return loss_seeds(objective, outputs, targets).double().square().sum((0, 2))


def is_softmax(objective: Objective, outputs: Tensor, targets: Any) -> bool:
    """Whether the loss is the cross-entropy of classes, which is convex in the outputs."""
    return objective.loss_is_cross_entropy and outputs.ndim == 2 and not targets.is_floating_point()


def loss_seeds(objective: Objective, outputs: Tensor, targets: Any) -> Tensor:
    """(S, B, C) factor of each sample's output Hessian of the loss' numerators, outputs flattened to (B, C)."""
    flat = outputs.detach().reshape(len(outputs), -1)
    if is_softmax(objective, outputs, targets):
        kept = (targets != -100).to(flat)
        seeds: Tensor = softmax_seeds(flat) * kept[None, :, None]
        return seeds

    def loss_of(values: Tensor) -> Tensor:
        units = objective.loss_units(values.reshape(outputs.shape), targets)
        if not units.per_sample or len(units.numerators) != len(outputs):
            raise InputError("the loss gives no value per sample of the outputs; return values per sample")
        return units.numerators

    return output_seeds(loss_of, flat)
