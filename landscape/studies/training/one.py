"""The training of one model: (model, data, recipe, seed) fix all of its bits."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from landscape_kernels.arrays import FloatArray
from landscape_kernels.descent import Descent, clip_
from landscape_kernels.probes import derive_seed
from torch import Tensor

from landscape.checkpoints.recorder import write_state
from landscape.descents.winsorised import WinsorisedGradient
from landscape.errors import InputError, user_code
from landscape.objective.objective import Objective
from landscape.objective.random_state import random_state_kept, seed_everything
from landscape.objective.training import TrainingData
from landscape.run.kept import Kept
from landscape.run.task import ItemStopped
from landscape.studies.training.recipe import Recipe

DIVERGED, NOT_BEGUN = ("nan", "infinite"), "not begun"  # the latter where the model before it in a sequence diverged
ENDS = ("epochs", "stop_error", "stop_loss", *DIVERGED, NOT_BEGUN)  # why a training ended, by number
SAVE_EVERY = 1.0  # seconds at least between two states on the disk


@dataclass(frozen=True)
class Trained:
    """How the training of one model went; epoch 0 is before the first step."""

    curves: Mapping[str, FloatArray]  # quantity, and its _stderr -> (epochs + 1,), NaN after the last epoch
    epochs: int  # that were begun
    steps: int
    kept: int  # the epoch of the final weights; -1 where it was not begun
    end: str  # one of ENDS


class ModelTraining:
    """Trains the model of an objective, which is evaluated after every epoch."""

    def __init__(
        self,
        objective: Objective,
        test: Objective | None,
        data: TrainingData,
        recipe: Recipe,
        seed: int,
        *,
        per_epoch: int,
        poison: TrainingData | None = None,
        folder: Path | None = None,
        trajectory: int = 0,
    ) -> None:
        """`per_epoch` is the number of batches of an epoch; `seed` that of the order of the batches and of dropout.

        With `poison` a batch of it goes with every batch of `data`, those of an epoch again where they are too few.
        """
        self._poison = poison
        self._objective, self._test, self._data, self._recipe, self._seed = objective, test, data, recipe, seed
        self._folder, self._trajectory, self._per_epoch = folder, trajectory, per_epoch
        self._theta, self._buffers = objective.theta, objective.buffers
        self._gradient = torch.zeros_like(self._theta)
        self._descent = Descent(
            self._theta,
            recipe.optimizer,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
            weight_decay=recipe.weight_decay,
        )
        self._total = recipe.total_steps(per_epoch)
        self._epochs = -(-self._total // per_epoch)
        self._epoch = self._steps = 0
        self._curves: dict[str, FloatArray] = {}
        self._best: tuple[int, Tensor, dict[str, Tensor]] | None = None
        self.end = ""

    def run(
        self,
        *,
        state: Path | None = None,
        report: Callable[[str], None] | None = None,
        stopping: Callable[[], bool] | None = None,
        whole: bool = False,
    ) -> Trained:
        """Train to the end, from what `state` holds where it exists; it is written after epochs.

        With `whole` it is written at the end, too: what comes next may be stopped.

        Raises ItemStopped when `stopping` says so, and InputError for data that give another number of batches.
        """
        kept = Kept(state, "the training of this model then starts anew", every=SAVE_EVERY)
        stored = kept.read()
        if stored is not None:
            try:
                self.restore(stored)
                self._descent.restore(self._tensors(stored, "descent."))
            except (LookupError, RuntimeError, ValueError) as error:
                raise kept.damaged(error) from error
        else:
            self.begin()
        while not self.end:
            self._run_epoch(report, stopping)
            self.after_epoch(self._steps)
            if kept.due or (whole and self.end and state is not None):
                kept.write({**self.state(), **arrays_of(self._descent.state(), "descent.")})
        return self.finished()

    def start(self, before: ModelTraining) -> None:
        """Begin with what another training ended with, weights that are frozen among it, and not with the model's."""
        _, theta, buffers = before.final
        self._theta.copy_(theta)
        for name, value in self._objective.frozen.items():
            value.copy_(before._objective.frozen[name])
        self._buffers = {name: value.clone() for name, value in buffers.items()}

    @property
    def final(self) -> tuple[int, Tensor, dict[str, Tensor]]:
        """(epoch, weights (size,), buffers) that are kept once the training is over."""
        return self._best or (self._epoch, self._theta, self._buffers)

    # -- parts of it, for one that is trained beside others -----------------------------------------------------

    def begin(self) -> None:
        """Keep the initial weights, and look at them."""
        self._write("initial", self._theta, self._buffers)
        if self._trajectory:
            with self._objective.at(self._theta, self._buffers) as model:
                self._record(model)
        self._evaluate()

    def after_epoch(self, steps: int) -> None:
        """Look at the weights after an epoch, which has come to so many steps; `end` is set where it was the last."""
        self._steps = steps
        self._epoch += 1
        self._evaluate()

    def finished(self) -> Trained:
        """Keep the final weights."""
        epoch, theta, buffers = self.final
        if self.end not in DIVERGED:
            self._write("final", theta, buffers)
        return Trained(self._curves, self._epoch, self._steps, epoch, self.end)

    def put(self, theta: Tensor) -> None:
        """Have the weights in `theta` (size,) from now on, with the values that they have."""
        self._theta = theta.copy_(self._theta)

    @property
    def loss(self) -> float:
        """The training loss after the last epoch that is over."""
        return float(self._curves["loss"][self._epoch])

    @property
    def batches(self) -> TrainingData:
        """What it is trained on."""
        return self._data

    @property
    def theta(self) -> Tensor:
        """The weights (size,) themselves."""
        return self._theta

    @property
    def epoch(self) -> int:
        """Epochs that are over."""
        return self._epoch

    def trial(self) -> float:
        """Seconds that an epoch takes, with the evaluation after it."""
        began = time.perf_counter()
        self._run_epoch(None, None)
        self.after_epoch(self._steps)
        return time.perf_counter() - began

    def _run_epoch(self, report: Callable[[str], None] | None, stopping: Callable[[], bool] | None) -> None:
        objective, recipe, gradient = self._objective, self._recipe, self._gradient
        before, last = self._steps, min((self._epoch + 1) * self._per_epoch, self._total)
        loss = self._curves["loss"][self._epoch] if self._curves else np.nan
        with (
            random_state_kept(),
            objective.training(self._theta, gradient, self._buffers) as model,
            closing(self._data.epoch(self._seed, self._epoch)) as batches,
        ):
            seed_everything(derive_seed(self._seed, "forward", self._epoch))  # dropout
            wrong = self._poisoned_batches()
            for batch in batches:
                if self._steps == last:
                    break
                if report is not None:  # every step: where an item has come to is where it is blamed
                    report(place_text(self._epoch, self._epochs, self._steps - before, loss))
                if stopping is not None and stopping():
                    raise ItemStopped
                if recipe.winsorise:
                    self._winsorise(model, batch)
                else:
                    gradient.zero_()
                    units = objective.loss_of(model, batch)
                    with user_code("the gradient of the loss cannot be computed on a training batch"):
                        units.numerators.sum().backward()  # type: ignore[no-untyped-call]
                    gradient.div_(units.weight)
                    if self._poison is not None:
                        weight = recipe.poison_weight_at(self._steps, self._total)
                        self._add_poison(model, next(wrong), weight)
                if recipe.clip is not None:
                    clip_(gradient, recipe.clip)
                self._descent.step(gradient, recipe.lr_at(self._steps, self._total))
                self._steps += 1
                if self._trajectory and self._steps % self._trajectory == 0:
                    self._record(model)
            self._buffers = {name: value.clone() for name, value in model.named_buffers()}
        if self._steps != last:
            raise InputError(
                f"the training data gave {self._steps - before} batches in epoch {self._epoch + 1} and "
                f"{self._per_epoch} in the first; the schedule needs as many in every epoch"
            )

    def _poisoned_batches(self) -> Iterator[Any]:
        """The batches of what is to be wrong, in the order of this epoch, over and over."""
        if self._poison is None:
            return iter(())
        return itertools.cycle(self._poison.epoch(derive_seed(self._seed, "poison"), self._epoch))

    def _add_poison(self, model: Any, batch: Any, weight: float) -> None:
        """Add the gradient of the poison's mean loss, times its weight; the model does not see it where that is 0."""
        if weight == 0:
            return
        outputs, labels = self._objective.outputs(model, batch)
        if self._recipe.poison_loss == "wrong":
            values = self._objective.loss_units(outputs, labels).numerators
        else:
            values = minus_log_of_others(outputs, labels)
        # A backward pass adds to the gradient.
        with user_code("the gradient of the poison's loss cannot be computed on a training batch"):
            (weight * values.mean()).backward()  # type: ignore[no-untyped-call]

    def _winsorise(self, model: Any, batch: Any) -> None:
        """Put the winsorised mean of the examples' gradients in the place of the gradient."""
        scale: list[float | Tensor] = []

        def losses() -> Tensor:
            units = self._objective.loss_of(model, batch)
            if not units.per_sample:
                raise InputError(
                    f"winsorise={self._recipe.winsorise} clips the gradients of single examples, and the loss gives "
                    "one value for a batch; return values per sample"
                )
            scale.append(units.numerators.numel() / units.weight)
            return units.numerators

        with user_code("the gradients of the examples cannot be computed on a training batch"):
            _, found = WinsorisedGradient(model, self._recipe.winsorise).of(losses)
        self._gradient.copy_(torch.cat([part.reshape(-1) for part in found])).mul_(scale[0])

    def _record(self, model: Any) -> None:
        if self._folder is not None:
            write_state(model, self._folder / "trajectory" / f"step-{self._steps:08d}.safetensors")

    # -- after an epoch -----------------------------------------------------------------------------------------

    def _evaluate(self) -> None:
        """Loss and error in eval mode on all data, and whether this is the end."""
        found: dict[str, float] = {}
        for prefix, objective in (("", self._objective), ("test_", self._test)):
            if objective is not None:
                for name, estimate in objective.estimates(self._theta, buffers=self._buffers).items():
                    found |= {f"{prefix}{name}": float(estimate), f"{prefix}{name}_stderr": estimate.stderr}
        for name, value in found.items():
            self._curves.setdefault(name, np.full(self._epochs + 1, np.nan))[self._epoch] = value
        self.end = self._ended(found)
        held_out = self._curves.get("test_loss")
        if self._recipe.keep == "best" and held_out is not None and np.isfinite(held_out[self._epoch]):
            lowest = np.inf if self._best is None else held_out[self._best[0]]
            if held_out[self._epoch] < lowest:
                self._best = self._epoch, self._theta.clone(), dict(self._buffers)

    def _ended(self, found: Mapping[str, float]) -> str:
        recipe, loss = self._recipe, found["loss"]
        if not np.isfinite(loss):
            return "nan" if np.isnan(loss) else "infinite"
        if recipe.stop_error is not None and found["error"] <= recipe.stop_error:
            return "stop_error"
        if recipe.stop_loss is not None and loss <= recipe.stop_loss:
            return "stop_loss"
        return "epochs" if self._steps == self._total else ""

    def _write(self, name: str, theta: Tensor, buffers: Mapping[str, Tensor]) -> None:
        if self._folder is not None:
            with self._objective.at(theta, buffers) as model:
                write_state(model, self._folder / f"{name}.safetensors")

    # -- state --------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """What the next epoch depends on, and what is to be told at the end, but for the optimiser's."""
        arrays: dict[str, Any] = {"epoch": self._epoch, "steps": self._steps, "end": self.end}
        arrays |= {"theta": self._theta.cpu().numpy(), **arrays_of(self._buffers, "buffer.")}
        arrays |= {f"curve.{name}": values for name, values in self._curves.items()}
        if self._best is not None:
            epoch, theta, buffers = self._best
            arrays |= {"best": epoch, "best.theta": theta.cpu().numpy(), **arrays_of(buffers, "best.buffer.")}
        return arrays

    def restore(self, arrays: Mapping[str, Any]) -> None:
        """Go on from a `state`. Raises LookupError, RuntimeError or ValueError for what is none of this model."""
        self._epoch, self._steps, self.end = int(arrays["epoch"]), int(arrays["steps"]), str(arrays["end"])
        self._theta.copy_(torch.from_numpy(arrays["theta"]))
        self._buffers = self._tensors(arrays, "buffer.")
        curves = {name: value for name, value in arrays.items() if name.startswith("curve.")}
        self._curves = {name.removeprefix("curve."): np.array(value) for name, value in curves.items()}
        if "best" in arrays:
            best = torch.from_numpy(arrays["best.theta"]).to(self._theta)
            self._best = int(arrays["best"]), best, self._tensors(arrays, "best.buffer.")

    def _tensors(self, arrays: Mapping[str, Any], prefix: str) -> dict[str, Tensor]:
        found = {name.removeprefix(prefix): v for name, v in arrays.items() if name.startswith(prefix)}
        return {name: torch.from_numpy(np.array(value)).to(self._theta.device) for name, value in found.items()}


def minus_log_of_others(outputs: Tensor, labels: Tensor) -> Tensor:
    """-ln(1 - p_y), (samples,), p the softmax of outputs (samples, classes), y the labels (samples,).

    >>> bool(minus_log_of_others(torch.zeros(1, 4), torch.tensor([2])).sub(-math.log(0.75)).abs() < 1e-6)
    True
    """
    others = outputs.scatter(1, labels[:, None], -math.inf)
    return outputs.logsumexp(1) - others.logsumexp(1)


def place_text(epoch: int, epochs: int, step: int, loss: float) -> str:
    """Where a training is, both counted from 0, and the loss before the epoch.

    >>> place_text(2, 10, 0, 0.51234)
    'epoch 3 of 10, step 1; loss 0.5123'
    """
    return f"epoch {epoch + 1} of {epochs}, step {step + 1}; loss {loss:.4g}"


def arrays_of(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Any]:
    """Tensors as arrays, their names with a prefix."""
    return {f"{prefix}{name}": value.detach().cpu().numpy() for name, value in tensors.items()}
