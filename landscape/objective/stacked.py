"""One quantity of an objective at many parameter vectors at once: small models cost their calls, not their sums."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from landscape_kernels.arrays import FloatArray
from torch import Tensor

from landscape.errors import InputError, raised_by
from landscape.objective.batches import Batch
from landscape.objective.objective import Objective
from landscape.objective.tracing import traced
from landscape.objective.trees import map_tensors
from landscape.objective.units import Units
from landscape.run.comm import SERIAL, Communicator

logger = logging.getLogger(__name__)
IGNORED = -100  # label of what has none, as torch has it
_MOST = 64  # parameter vectors side by side
_VALUES = 1 << 22  # of all of them
_BLOCK = 16  # of them at a time, so that what is computed of them stays in the cache
_FEW = 16  # chunks of the data, each of which is traced
_ACTIVATIONS = 1 << 21  # values at most of the largest tensor of a block
_AGREES = {torch.float32: 1e-5, torch.float64: 1e-12}  # relative gap allowed between the two ways
OF = ("loss", "error", "kl")


class Stacked:
    """The loss, the error, or the divergence from the centre's predictions at b parameter vectors theta (b, size).

    - "loss", "error": as `Objective.evaluate` has them
    - "kl": the mean over samples (or kept tokens) of sum_c p_c ln(p_c / q_c), p being the softmax of the outputs at the
      centre and q that at theta

    The model is called once for a block of them (vmap), on smaller chunks of the data, and the loss once on all of
    their outputs, where that was seen to give what single calls give; else one after another. With `many` to come the
    operations of usual losses are traced, which takes the time of some hundred. Never in half precision.
    Raises InputError for a quantity that the objective does not have, and for a model in its own half precision.
    """

    def __init__(self, objective: Objective, of: str = "loss", many: bool = False) -> None:
        if objective.precision == "bf16":
            logger.info("values are computed in float32: rises near the centre have no digits in half precision")
            objective = objective.on(objective.data, precision="float32")
        if objective.precision == "own":
            raise InputError(
                "rises near the centre need float32, and this model is measured in its own half precision; make the "
                "objective with precision='float32', which takes twice the memory"
            )
        self._objective, self._of = objective, of
        self._name = self._quantity(of)
        self._logits: dict[int, Tensor] = {}  # chunk -> ln p at the centre
        self._targets: dict[int, Any] = {}  # chunk -> what its outputs are compared with
        self._weights: dict[int, float] = {}  # chunk -> what its losses weigh
        self._traced: dict[int, Callable[[Tensor], Tensor]] | None = None  # chunk -> sums of its losses at thetas
        self.width = 1
        self._settle(many)

    @property
    def objective(self) -> Objective:
        """What is evaluated, in the precision and the chunks that it is."""
        return self._objective

    def values(self, thetas: Tensor, group: Communicator = SERIAL) -> FloatArray:
        """(b,) at thetas (b, size); the ranks of `group` share the chunks, and the bits do not depend on them."""
        return self._summed(thetas, group, self.width > 1)

    # -- inside -------------------------------------------------------------------------------------------------

    def _quantity(self, of: str) -> str:
        """The quantity of the objective that is meant; "" for the divergence, which is none."""
        quantities = self._objective.quantities
        if of not in OF:
            raise InputError(f"of={of!r} is not one of {', '.join(OF)}")
        if of != "error":
            return "" if of == "kl" else "loss"
        found = next((name for name in ("error", "accuracy") if name in quantities), None)
        if found is None:
            raise InputError(
                f"of='error' needs an objective that measures it, and this one has {', '.join(quantities)}; give "
                "metrics=('error',)"
            )
        return found

    def _settle(self, many: bool) -> None:
        """Look at the centre, and try two vectors side by side."""
        objective, single = self._objective, self._objective
        theta = objective.theta
        width = max(1, min(_MOST, _VALUES // max(1, len(theta))))
        if objective.data.divisible and width > 1:
            fitting = _ACTIVATIONS // (min(width, _BLOCK) * objective.values_per_sample)
            self._objective = objective.on(objective.data, chunk=max(1, min(objective.chunk, fitting)))
        centre = self._summed(theta[None], SERIAL, False)
        if width == 1 or objective.complex_names or objective.loss_is_returned:
            return
        moved = torch.stack([theta, theta * 1.01 + 1e-3])
        usual = self._name == "loss" and (objective.loss_is_cross_entropy or objective.loss_words == "mse")
        for trace in (True, False) if many and usual and self._objective.chunks <= _FEW else (False,):
            self._traced = {} if trace else None
            try:
                found = self._summed(moved, SERIAL, True)
                alone = self._summed(moved, SERIAL, False)
            except Exception as error:  # whatever a model's own code does under vmap
                logger.info("parameter vectors are not tried side by side, as vmap fails: %s", raised_by(error))
                continue
            gap = np.abs(found - alone)
            if (gap <= _AGREES[objective.dtype] * (np.abs(alone) + np.abs(centre) + (self._of == "kl"))).all():
                self.width = width
                return
            logger.info("parameter vectors are not tried side by side, as vmap gives other values")
        self._objective, self._traced = single, None
        self._logits.clear()
        self._targets.clear()
        self._summed(theta[None], SERIAL, False)

    def _summed(self, thetas: Tensor, group: Communicator, stacked: bool) -> FloatArray:
        objective = self._objective
        parts = torch.zeros((objective.chunks, 2, len(thetas)), dtype=torch.float64, device=objective.device)
        with torch.no_grad():
            if stacked:
                with objective.at(objective.theta):
                    for number, batch in objective.batches(group):
                        blocks = [self._of_block(block, batch, number) for block in torch.split(thetas, _BLOCK)]
                        parts[number] = torch.cat(blocks, 1)
            else:
                for k, theta in enumerate(thetas):
                    with objective.at(theta) as model:
                        for number, batch in objective.batches(group):
                            parts[number, :, k] = torch.stack(self._of_one(model, batch, number))
        sums = parts.cpu().numpy()
        group.allreduce_(sums)
        total = np.add.reduce(sums, axis=0)  # one chunk after the other: the order is fixed
        result: FloatArray = total[0] / total[1]
        return result

    def _of_one(self, model: Any, batch: Batch, number: int) -> tuple[Tensor, Tensor]:
        """Sums of numerators and denominators on one batch, of the model as it is bound."""
        if self._name:
            units = self._objective.units(model, batch)[self._objective.quantities.index(self._name)]
            top, bottom = _sums(units, self._name == "accuracy", 1)
            return top[0], bottom[0]
        logs, kept = self._log_probabilities(*self._objective.outputs(model, batch))
        if number not in self._logits:  # the first time it is the centre that is looked at
            self._logits[number] = logs
        p = self._logits[number]
        return ((p.exp() * (p - logs)).sum(-1) * kept).sum(), kept.sum()

    def _of_block(self, thetas: Tensor, batch: Batch, number: int) -> Tensor:
        """The same of the models at thetas (b, size): two sums (2, b)."""
        if self._traced is None:
            return self._of_all(thetas, batch, number)
        count = len(thetas)
        thetas = torch.cat([thetas, thetas[:1].expand(_BLOCK - count, -1)])  # as many as were traced
        if number not in self._traced:
            self._weights[number] = float(self._of_all(thetas[:1], batch, number)[1])
            self._traced[number] = traced(lambda given: self._loss_sums(given, batch), thetas)
        found = self._traced[number](thetas)[:count]
        return torch.stack([found, torch.full_like(found, self._weights[number])])

    def _of_all(self, thetas: Tensor, batch: Batch, number: int) -> Tensor:
        """The same by the model's calls, not traced."""
        objective, count = self._objective, len(thetas)
        outputs = torch.vmap(lambda theta: self._called(theta, batch)[0])(thetas)
        if number not in self._targets:
            with objective.at(objective.theta) as model:
                self._targets[number] = objective.outputs(model, batch)[1]
        targets = self._targets[number]
        if not self._name:
            p = self._logits[number]
            logs, kept = self._log_probabilities(outputs.flatten(0, 1), _repeated(targets, count))
            logs = logs.reshape(count, *p.shape)
            each = (p.exp() * (p - logs)).sum(-1) * kept.reshape(logs.shape[:-1])
            return torch.stack([each.flatten(1).sum(1), kept.reshape(count, -1).sum(1)])
        units = objective.units_of(self._name, outputs.flatten(0, 1), _repeated(targets, count))
        if len(units.numerators) != count * outputs.shape[1]:
            raise InputError("the loss has no value for each sample")
        return torch.stack(_sums(units, self._name == "accuracy", count))

    def _loss_sums(self, thetas: Tensor, batch: Batch) -> Tensor:
        """Sums of the loss' numerators (b,) at thetas (b, size)."""

        def one(theta: Tensor) -> Tensor:
            return self._objective.loss_elements(*self._called(theta, batch)).sum(dtype=torch.float64)

        return torch.vmap(one)(thetas)

    def _called(self, theta: Tensor, batch: Batch) -> Any:
        """Outputs and targets of the model at theta (size,)."""
        blocks = self._objective.layout.blocks
        parts = theta.split_with_sizes([block.size for block in blocks])
        values = [part.reshape(block.shape) for part, block in zip(parts, blocks, strict=True)]
        outputs: Callable[..., Any] = self._objective.outputs
        return self._objective.call_with(values, outputs, batch)

    def _log_probabilities(self, outputs: Any, targets: Any) -> tuple[Tensor, Tensor]:
        """ln softmax (..., classes) in float64, and 1 for what has a label (...)."""
        labels = isinstance(targets, Tensor) and not targets.is_floating_point()
        if not isinstance(outputs, Tensor) or outputs.ndim < 2 or not labels or targets.ndim != outputs.ndim - 1:
            raise InputError(
                "of='kl' needs scores of classes, (samples, classes), and labels (samples,): their softmax are the "
                "predictions; use of='loss' for other models"
            )
        last = targets.shape == outputs.shape[:-1]
        scores = outputs if last else outputs.movedim(1, -1)
        return F.log_softmax(scores.double(), -1), (targets != IGNORED).double()


def _repeated(targets: Any, count: int) -> Any:
    """Targets over and over, as often as there are models."""
    return map_tensors(targets, lambda t: t.repeat(count, *[1] * (t.ndim - 1)))


def _sums(units: Units, wrong: bool, parts: int) -> tuple[Tensor, Tensor]:
    """Sums of numerators and denominators of equal parts, (parts,); of what is `wrong` where right is counted."""
    top = units.numerators.double().reshape(parts, -1).sum(1)
    if units.denominators is None:
        bottom = torch.full_like(top, units.numerators.numel() / parts)
    else:
        bottom = units.denominators.double().reshape(parts, -1).sum(1)
    return (bottom - top if wrong else top), bottom
