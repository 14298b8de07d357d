"""All seeds of a cell trained as one batched model: small networks cost their operations, not their arithmetic."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from landscape_kernels.descent import Descent, clip_
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from landscape.errors import raised_by
from landscape.objective.objective import Objective
from landscape.objective.random_state import random_state_kept, random_streams
from landscape.objective.tracing import traced
from landscape.objective.training import TrainingData
from landscape.run.kept import Kept
from landscape.run.task import ItemStopped
from landscape.studies.training import one
from landscape.studies.training.one import ModelTraining, Trained, arrays_of, place_text
from landscape.studies.training.recipe import Recipe

logger = logging.getLogger(__name__)
MOST_PARAMETERS = 100_000
MOST_OPERATIONS = 6_000_000  # floating-point ones of a step of one model, up to which it pays: scripts/bench_phases.py
_AGREES = {torch.float32: 1e-4, torch.float64: 1e-10}  # largest gap of a gradient, relative to the largest entry
Step = Callable[[Tensor, Tensor, Tensor], Tensor]  # (theta (s, size), inputs (s, b, ...), labels (s, b)) -> gradient


def batched_gradient(objectives: Sequence[Objective], data: TrainingData, stream: int) -> Step | None:
    """The gradients of the mean cross-entropy of the objectives' models, of one shape, each on its own batch, at once.

    vmap over the models, traced once for each size of batch, so that a step runs torch's operations and nothing else.
    None where the data are not inputs and labels of classes, the model has buffers or frozen parameters, or its
    operations cannot be batched, draw random numbers (dropout) or differ by more than parameters: seen by comparing
    with each model alone.
    """
    objective = objectives[0]
    whole: Any = data.whole
    plain = isinstance(whole, (tuple, list)) and len(whole) == 2 and all(isinstance(part, Tensor) for part in whole)
    if not plain or objective.buffers or objective.frozen or objective.complex_names or objective.precision == "bf16":
        return None
    labels = whole[1]
    if labels.is_floating_point() or labels.ndim != 1 or bool((labels < 0).any()) or objective.device.type != "cpu":
        return None
    blocks = objective.layout.blocks
    sizes = [block.size for block in blocks]

    def losses(theta: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        values = [part.reshape(block.shape) for part, block in zip(theta.split_with_sizes(sizes), blocks, strict=True)]
        outputs = objective.call_with(values, lambda model, batch: model(batch), inputs)
        return F.cross_entropy(outputs, targets, reduction="none")

    def gradients(theta: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        varied = theta.detach().requires_grad_()
        found = torch.vmap(losses)(varied, inputs, targets)
        (slopes,) = torch.autograd.grad(found.sum(), varied)
        return slopes / inputs.shape[1]

    slope = torch.zeros_like(objective.theta)
    by_size: dict[int, Step] = {}

    def step(stacked: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        size = inputs.shape[1]
        if size not in by_size:
            with objective.training(objective.theta, slope):  # in train mode
                by_size[size] = traced(gradients, stacked, inputs, targets)
        return by_size[size](stacked, inputs, targets)

    batch = next(iter(data.epoch_of_several([stream] * len(objectives), 0)))
    stacked = torch.stack([one.theta for one in objectives])
    before = random_streams()
    try:
        with random_state_kept():
            found = step(stacked, *batch)
            drawn = random_streams() != before
        alone = torch.stack([_alone(one, batch, number) for number, one in enumerate(objectives)])
    except Exception as error:  # whatever a model's own code does under vmap
        logger.info("the models of a cell are trained one after another, as vmap fails: %s", raised_by(error))
        return None
    if drawn:  # what torch draws fails above; of other numbers tracing would keep the first
        logger.info("the models of a cell are trained one after another, as they draw random numbers in train mode")
        return None
    gap = float((found - alone).abs().max())
    return step if gap <= _AGREES[stacked.dtype] * float(alone.abs().max()) else None


def operations(objective: Objective, data: TrainingData, stream: int) -> float:
    """Floating-point operations of a training step for each sample, as torch counts those of products."""
    batch = next(iter(data.epoch_of_several([stream], 0)))
    with FlopCounterMode(display=False) as counter:
        _alone(objective, batch, 0)
    return float(counter.get_total_flops()) / int(batch[0].shape[1])


def _alone(objective: Objective, batch: Sequence[Tensor], row: int) -> Tensor:
    """The gradient of one model on its batch, in the plain way."""
    theta = objective.theta
    gradient = torch.zeros_like(theta)
    with random_state_kept(), objective.training(theta, gradient) as model:
        units = objective.loss_of(model, tuple(part[row] for part in batch))
        units.numerators.sum().backward()  # type: ignore[no-untyped-call]
    return gradient.div_(units.total)


class SeedsTraining:
    """Trains the models of several seeds in step, each on the batches that it would have alone."""

    def __init__(
        self,
        members: Sequence[ModelTraining],
        gradient: Step,
        recipe: Recipe,
        streams: Sequence[int],
    ) -> None:
        """`members` are the models as they would be trained alone, each of one of the `streams`."""
        self._members, self._gradient, self._recipe, self._streams = members, gradient, recipe, streams
        self._data: TrainingData = members[0].batches
        self._per_epoch = self._data.steps(streams[0])
        self._total = recipe.total_steps(self._per_epoch)
        self._theta = torch.stack([member.theta for member in members])
        for member, row in zip(members, self._theta, strict=True):
            member.put(row)
        self._descent = Descent(
            self._theta,
            recipe.optimizer,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
            weight_decay=recipe.weight_decay,
        )
        self._epoch = self._steps = 0

    def run(
        self,
        *,
        state: Path | None = None,
        report: Callable[[str], None] | None = None,
        stopping: Callable[[], bool] | None = None,
    ) -> list[Trained]:
        """Train all to the end, from what `state` holds where it exists. Raises ItemStopped when `stopping` says so."""
        kept = Kept(state, "the training of these models then starts anew", every=one.SAVE_EVERY)
        stored = kept.read()
        if stored is not None:
            try:
                self._restore(stored)
            except (LookupError, RuntimeError, ValueError) as error:
                raise kept.damaged(error) from error
        else:
            for member in self._members:
                member.begin()
        self._part()
        while not all(member.end for member in self._members):
            self._run_epoch(report, stopping)
            self._epoch += 1
            for member in self._members:
                if not member.end:
                    member.after_epoch(self._steps)
            self._part()
            if kept.due:
                kept.write(self._state())
        return [member.finished() for member in self._members]

    def _part(self) -> None:
        """Let the weights of models whose training is over stay as they are, while the others go on."""
        for member in self._members:
            if member.end:
                member.put(torch.empty_like(member.theta))

    def _run_epoch(self, report: Callable[[str], None] | None, stopping: Callable[[], bool] | None) -> None:
        last = min((self._epoch + 1) * self._per_epoch, self._total)
        began = self._steps
        loss = min(member.loss for member in self._members)
        for inputs, labels in self._data.epoch_of_several(self._streams, self._epoch):
            if self._steps == last:
                break
            if report is not None:
                report(place_text(self._epoch, -(-self._total // self._per_epoch), self._steps - began, loss))
            if stopping is not None and stopping():
                raise ItemStopped
            gradient = self._gradient(self._theta, inputs, labels)
            if self._recipe.clip is not None:
                clip_(gradient, self._recipe.clip)
            self._descent.step(gradient, self._recipe.lr_at(self._steps, self._total))
            self._steps += 1

    def _state(self) -> dict[str, Any]:
        arrays: dict[str, Any] = {"epoch": self._epoch, "steps": self._steps}
        arrays |= arrays_of(self._descent.state(), "descent.")
        for number, member in enumerate(self._members):
            arrays |= {f"{number}.{name}": value for name, value in member.state().items()}
        return arrays

    def _restore(self, arrays: dict[str, Any]) -> None:
        self._epoch, self._steps = int(arrays["epoch"]), int(arrays["steps"])
        own = {name: value for name, value in arrays.items() if name.startswith("descent.")}
        self._descent.restore({name.removeprefix("descent."): torch.from_numpy(v) for name, v in own.items()})
        for number, member in enumerate(self._members):
            prefix = f"{number}."
            own = {name: value for name, value in arrays.items() if name.startswith(prefix)}
            member.restore({name.removeprefix(prefix): value for name, value in own.items()})
