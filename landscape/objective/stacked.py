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
from landscape.objective.data import Batch
from landscape.objective.losses import Units
from landscape.objective.objective import Objective
from landscape.run.comm import SERIAL, Communicator

logger = logging.getLogger(__name__)
_MOST = 32  # parameter vectors side by side
_VALUES = 1 << 22  # of all of them
_AGREES = {torch.float32: 1e-5, torch.float64: 1e-12}  # relative gap allowed between the two ways
OF = ("loss", "error", "kl")


class Stacked:
    """The loss, the error, or the divergence from the centre's predictions at b parameter vectors theta (b, size).

    - "loss", "error": as `Objective.evaluate` has them
    - "kl": the mean over samples (or kept tokens) of sum_c p_c ln(p_c / q_c), p being the softmax of the outputs at the
      centre and q that at theta

    The model is called once for all of them (vmap), on chunks of the data so much smaller, where that was seen to
    give what single calls give; else one after another. Never in half precision. Raises InputError for a quantity that
    the objective does not have.
    """

    def __init__(self, objective: Objective, of: str = "loss") -> None:
        if objective.precision == "bf16":
            logger.info("values are computed in float32: rises near the centre have no digits in half precision")
            objective = objective.on(objective.data, precision="float32")
        self._objective = objective
        self._units = self._chosen(of)
        self._logits: dict[int, Tensor] = {}  # chunk -> ln p at the centre
        self.width = 1
        self._settle(of)

    @property
    def objective(self) -> Objective:
        """What is evaluated, in the precision and the chunks that it is."""
        return self._objective

    def values(self, thetas: Tensor, group: Communicator = SERIAL) -> FloatArray:
        """(b,) at thetas (b, size); the ranks of `group` share the chunks, and the bits do not depend on them."""
        return self._summed(thetas, group, self.width > 1)

    # -- inside -------------------------------------------------------------------------------------------------

    def _chosen(self, of: str) -> Callable[[Any, Batch, int], tuple[Tensor, Tensor]]:
        """(model, batch, its number) -> sums of numerators and denominators."""
        objective = self._objective
        if of == "loss":
            return lambda model, batch, number: _sums(objective.units(model, batch)[0])
        if of == "kl":
            return self._divergence
        if of != "error":
            raise InputError(f"of={of!r} is not one of {', '.join(OF)}")
        for name in ("error", "accuracy"):
            if name in objective.quantities:
                place = objective.quantities.index(name)
                if name == "error":
                    return lambda model, batch, number: _sums(objective.units(model, batch)[place])
                return lambda model, batch, number: _wrong(objective.units(model, batch)[place])
        raise InputError(
            f"of='error' needs an objective that measures it, and this one has {', '.join(objective.quantities)}; give "
            "metrics=('error',)"
        )

    def _divergence(self, model: Any, batch: Batch, number: int) -> tuple[Tensor, Tensor]:
        outputs, targets = self._objective.outputs(model, batch)
        logs, kept = _log_probabilities(outputs, targets)
        if number not in self._logits:  # the first time the centre is looked at
            self._logits[number] = logs
        p = self._logits[number]
        each = (p.exp() * (p - logs)).sum(-1)
        return (each * kept).sum(), kept.sum()

    def _settle(self, of: str) -> None:
        """Look at the centre, and try two vectors side by side."""
        objective, single = self._objective, self._objective
        theta = objective.theta
        width = max(1, min(_MOST, _VALUES // max(1, len(theta))))
        if objective.data.divisible and width > 1:
            self._objective = objective.on(objective.data, chunk=max(1, objective.chunk // width))
        centre = self._summed(theta[None], SERIAL, False)
        if width == 1 or objective.complex_names:
            return
        moved = torch.stack([theta, theta * 1.01 + 1e-3])
        try:
            found = self._summed(moved, SERIAL, True)
            alone = self._summed(moved, SERIAL, False)
        except Exception as error:  # whatever a model's own code does under vmap
            logger.info("parameter vectors are tried one after another, as vmap fails: %s", raised_by(error))
        else:
            gap = np.abs(found - alone)
            if (gap <= _AGREES[objective.dtype] * (np.abs(alone) + np.abs(centre) + (of == "kl"))).all():
                self.width = width
                return
            logger.info("parameter vectors are tried one after another, as vmap gives other values")
        self._objective = single
        self._logits.clear()
        self._summed(theta[None], SERIAL, False)

    def _summed(self, thetas: Tensor, group: Communicator, stacked: bool) -> FloatArray:
        objective, blocks = self._objective, self._objective.layout.blocks
        sizes = [block.size for block in blocks]
        sums = np.zeros((objective.chunks, 2, len(thetas)))

        def one(theta: Tensor, batch: Batch, number: int) -> tuple[Tensor, Tensor]:
            parts = [p.reshape(b.shape) for p, b in zip(theta.split_with_sizes(sizes), blocks, strict=True)]
            found: Any = objective.call_with(parts, lambda model, given: self._units(model, given, number), batch)  # type: ignore[arg-type,return-value]
            return found  # type: ignore[no-any-return]

        with torch.no_grad():
            if stacked:
                with objective.at(objective.theta):
                    for number, batch in objective.batches(group):
                        found = torch.func.vmap(one, in_dims=(0, None, None))(thetas, batch, number)
                        sums[number] = torch.stack(found).cpu().numpy()
            else:
                for k, theta in enumerate(thetas):
                    with objective.at(theta) as model:
                        for number, batch in objective.batches(group):
                            sums[number, :, k] = torch.stack(self._units(model, batch, number)).cpu().numpy()
        group.allreduce_(sums)
        total = np.add.reduce(sums, axis=0)  # one chunk after the other: the order is fixed
        result: FloatArray = total[0] / total[1]
        return result


def _sums(units: Units) -> tuple[Tensor, Tensor]:
    numerators = units.numerators.double()
    count = torch.as_tensor(float(numerators.numel()), dtype=torch.float64, device=numerators.device)
    return numerators.sum(), count if units.denominators is None else units.denominators.double().sum()


def _wrong(units: Units) -> tuple[Tensor, Tensor]:
    right, count = _sums(units)
    return count - right, count


def _log_probabilities(outputs: Any, targets: Any) -> tuple[Tensor, Tensor]:
    """ln softmax (..., classes) in float64, and 1 for what has a label (...)."""
    outputs = outputs[0] if isinstance(outputs, (tuple, list)) else outputs
    labels = isinstance(targets, Tensor) and not targets.is_floating_point()
    if not isinstance(outputs, Tensor) or outputs.ndim < 2 or not labels or targets.ndim != outputs.ndim - 1:
        raise InputError(
            "of='kl' needs scores of classes, (samples, classes), and labels (samples,), whose softmax are the "
            "predictions; use of='loss' for other models"
        )
    last = targets.shape == outputs.shape[:-1]
    scores = outputs if last else outputs.movedim(1, -1)
    return F.log_softmax(scores.double(), -1), (targets != -100).double()
