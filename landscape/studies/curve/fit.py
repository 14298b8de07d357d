"""Fitting a low-loss curve between two trained models (Garipov et al. 2018, algorithm of section 3.3)."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Gt, Lt
from landscape_kernels.arrays import FloatArray
from landscape_kernels.curves import CURVES, combine_, stratified, weights
from landscape_kernels.descent import Descent
from landscape_kernels.probes import derive_seed
from torch import Tensor

from landscape.errors import InputError, NumericalError, nearest, user_code
from landscape.objective.objective import Objective
from landscape.objective.random_state import random_state_kept, seed_everything
from landscape.objective.training import TrainingData
from landscape.objective.trees import has_batch_axis, map_tensors, shapes_in, tensors_in
from landscape.results.settings import OneOf, Settings
from landscape.run.comm import Communicator
from landscape.run.kept import Kept
from landscape.run.task import ItemStopped

OPTIMIZERS = {"sgd": 0.03, "adam": 1e-3}  # name -> default step size; 0.03 is Garipov et al.'s for residual networks
DECAYS = ("point", "control")
PLACES = ("stratified", "uniform")
_SAVE_EVERY = 1.0  # seconds at least between two states on the disk
_REPORT_EVERY = 0.5  # seconds between two looks at the loss, which wait for the device
_PLACES_AT_ONCE = 64


@dataclass(frozen=True)
class FitOptions(Settings):
    """What every study that fits curves asks of their training; see `fit_curve`."""

    kind: Annotated[str, OneOf(CURVES)] = "bezier"
    degree: Annotated[int, Ge(2)] = 2
    epochs: Annotated[int, Ge(0)] = 50
    optimizer: Annotated[str, OneOf(tuple(OPTIMIZERS))] = "sgd"
    lr: Annotated[float, Gt(0)] | None = None
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    weight_decay: Annotated[float, Ge(0)] = 0.0
    decay: Annotated[str, OneOf(DECAYS)] = "point"
    parts: Annotated[int, Ge(1)] = 1


@dataclass(frozen=True)
class FitSettings(FitOptions):
    """How a curve is trained; see `fit_curve`."""

    epochs: Annotated[int, Ge(1)] = 50
    places: Annotated[str, OneOf(PLACES)] = "stratified"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value, known in (
            ("kind", self.kind, CURVES),
            ("optimizer", self.optimizer, OPTIMIZERS),
            ("decay", self.decay, DECAYS),
            ("places", self.places, PLACES),
        ):
            if value not in known:
                raise InputError(f"{name}={value!r} is unknown; {nearest(value, known)}")

    @property
    def step_size(self) -> float:
        """The step size of the first half of the epochs."""
        return OPTIMIZERS[self.optimizer] if self.lr is None else self.lr

    def lr_at(self, epoch: int) -> float:
        """Step size of an epoch: constant in the first half, linear to 1/100 at nine tenths, 1/100 from there.

        The schedule of Garipov et al.'s code, with epochs counted from 0 (there from 1), so that one epoch is of use.
        """
        done = epoch / self.epochs
        return self.step_size * (1.0 if done <= 0.5 else 1.0 - 0.99 * min((done - 0.5) / 0.4, 1.0))


@dataclass(frozen=True)
class Fit:
    """What a fit left."""

    control_points: Tensor  # (degree + 1, size)
    history: FloatArray  # (epochs, quantities + 1): means over the epoch's samples at their places t, and the step size


class CurveFit:
    """The training of the inner control points of one curve: (objective, ends, data, seed) fix all of its bits."""

    def __init__(
        self, objective: Objective, points: Sequence[Tensor], data: TrainingData, settings: FitSettings, seed: int
    ) -> None:
        """`points` are all control points to begin with, ends included."""
        self._objective, self._data, self._settings, self._seed = objective, data, settings, seed
        self._points = torch.stack(list(points))
        self._free = self._points[1:-1]  # a view
        decay = settings.weight_decay if settings.decay == "control" else 0.0
        # torch.optim would load torch's compiler with the first step, seconds in which an item is in hand.
        self._descent = Descent(self._free, settings.optimizer, momentum=settings.momentum, weight_decay=decay)
        self._history: FloatArray = np.full((settings.epochs, len(objective.quantities) + 1), np.nan)
        self._epoch = self._steps = 0

    @property
    def steps(self) -> int:
        """Training steps made so far."""
        return self._steps

    def run(
        self,
        group: Communicator,
        *,
        state: Path | None = None,
        report: Callable[[str], None] | None = None,
        stopping: Callable[[], bool] | None = None,
    ) -> Fit:
        """Train to the end, from what `state` holds where it exists; `state` is written after epochs.

        Raises NumericalError when the loss is NaN or infinite, ItemStopped when `stopping` says so on any rank.
        """
        kept = Kept(state if group.rank == 0 else None, "the fit then starts anew", every=_SAVE_EVERY, share=0.0)
        stored = group.broadcast(kept.read())
        if stored is not None:
            try:
                self._restore(stored)
            except (LookupError, RuntimeError, ValueError) as error:
                raise kept.damaged(error) from error
        began = time.monotonic()
        first, seen = self._epoch, ""
        for epoch in range(first, self._settings.epochs):
            spent = (time.monotonic() - began) / max(epoch - first, 1)

            def tell(step: int, means: FloatArray | None, epoch: int = epoch, spent: float = spent) -> None:
                nonlocal seen
                if report is None:
                    return
                if means is not None:
                    left = f", {_clock(spent * (self._settings.epochs - epoch))} left" if epoch > first else ""
                    named = zip(self._objective.quantities, means, strict=True)
                    seen = f"; {', '.join(f'{name} {value:.4g}' for name, value in named)}{left}"
                report(f"epoch {epoch + 1} of {self._settings.epochs}, step {step}{seen}")

            self._run_epoch(epoch, group, tell, stopping)
            self._epoch = epoch + 1
            if kept.due:
                kept.write(self._state())
        return Fit(self._points, self._history)

    def _run_epoch(
        self,
        epoch: int,
        group: Communicator,
        tell: Callable[[int, FloatArray | None], None],
        stopping: Callable[[], bool] | None,
    ) -> None:
        objective, settings = self._objective, self._settings
        lr = settings.lr_at(epoch)
        theta, gradient = torch.empty_like(self._points[0]), torch.zeros_like(self._points[0])
        slopes = torch.empty_like(self._free)
        sums = torch.zeros((len(objective.quantities), 2), dtype=torch.float64, device=objective.device)
        before, looked = self._steps, time.monotonic()
        with (
            random_state_kept(),
            objective.training(theta, gradient) as model,
            closing(self._data.epoch(self._seed, epoch)) as batches,
        ):
            for batch, t in zip(batches, self._places(before), strict=False):
                tell(self._steps - before + 1, None)
                coefficients = weights(settings.kind, len(self._points), t)
                combine_(theta, list(self._points), coefficients.tolist())
                torch.clear_autocast_cache()  # which holds the weights of the last point in half precision
                sums += self._gradient(model, batch, theta, gradient, group)
                if settings.decay == "point" and settings.weight_decay:
                    gradient.add_(theta, alpha=settings.weight_decay)
                for slope, weight in zip(slopes, coefficients[1:-1].tolist(), strict=True):
                    torch.mul(gradient, weight, out=slope)  # d gamma(t) / d p_i = w_i(t)
                self._descent.step(slopes, lr)
                self._steps += 1
                now = time.monotonic()
                if now - looked >= _REPORT_EVERY:
                    looked = now
                    tell(self._steps - before, self._means(sums, epoch, t))
                if stopping is not None and any(group.gather_all(stopping())):
                    raise ItemStopped
        if self._steps == before:
            raise InputError(
                f"the training data gave no batch in epoch {epoch + 1}; give data that can be read anew in every epoch "
                "and holds a batch at least (drop_last=True leaves none of fewer samples than batch_size)"
            )
        means = self._means(sums, epoch, math.nan)
        if not bool(self._free.isfinite().all()):
            raise self._diverged("a control point", "NaN or infinite", epoch, math.nan)
        self._history[epoch] = [*means, lr]
        tell(self._steps - before, means)

    def _gradient(self, model: Any, batch: Any, theta: Tensor, gradient: Tensor, group: Communicator) -> Tensor:
        """Set `gradient` to that of the batch's mean loss; returns sums of numerators and denominators (quantities, 2).

        Parts are added in their order whoever computes them, so the bits do not depend on the number of ranks.
        """
        count = self._settings.parts
        parts = [batch] if count == 1 else _parts(batch, count)
        sums = torch.zeros((count, len(self._objective.quantities), 2), dtype=torch.float64, device=gradient.device)
        gradients = [] if count == 1 else [torch.zeros_like(gradient) for _ in range(count)]
        for number in range(group.rank, count, group.size):
            seed_everything(derive_seed(self._seed, "forward", self._steps, number))
            gradient.zero_()
            # a part finds the buffers as the model has them, not as the parts before it on this rank left them
            fresh = nullcontext(model) if count == 1 else self._objective.training(theta, gradient)
            with fresh as bound:
                units = self._objective.units(bound, parts[number])
                with user_code("the gradient of the loss cannot be computed on a training batch"):
                    units[0].numerators.sum().backward()  # type: ignore[no-untyped-call]
            for k, unit in enumerate(units):
                sums[number, k, 0] = unit.numerators.detach().sum()
                sums[number, k, 1] = unit.weight
            if gradients:
                gradients[number].copy_(gradient)
        if group.size > 1:
            together = torch.cat([torch.stack(gradients).double().reshape(-1), sums.reshape(-1)]).cpu().numpy()
            group.allreduce_(together)  # every place holds one rank's number and zeros: exact in any order
            found = torch.from_numpy(together).to(gradient.device)
            gradients = list(found[: -sums.numel()].to(gradient.dtype).reshape(count, -1))
            sums = found[-sums.numel() :].reshape(sums.shape)
        if gradients:
            gradient.zero_()
            for part in gradients:
                gradient.add_(part)
        total: Tensor = sums.sum(0)
        gradient.div_(total[0, 1].to(gradient.dtype))
        return total

    def _places(self, step: int) -> Iterator[float]:
        """Places t of all steps from `step` on; each depends on (seed, step) alone."""
        if self._settings.places == "stratified":
            for start in itertools.count(step, _PLACES_AT_ONCE):
                yield from stratified(self._seed, start, _PLACES_AT_ONCE).tolist()
        for number in itertools.count(step):
            yield np.random.Generator(np.random.Philox(key=derive_seed(self._seed, "place", number))).random()

    def _means(self, sums: Tensor, epoch: int, t: float) -> FloatArray:
        means: FloatArray = (sums[:, 0] / sums[:, 1]).cpu().numpy()
        if not np.isfinite(means[0]):
            raise self._diverged("the loss", means[0], epoch, t)
        return means

    def _diverged(self, what: str, value: object, epoch: int, t: float) -> NumericalError:
        return NumericalError(
            f"{what} became {value} in epoch {epoch + 1} of {self._settings.epochs}"
            + ("" if math.isnan(t) else f" near t={t:.3f}")
            + f": the fit diverged with lr={self._settings.lr_at(epoch):g}. Give a smaller lr (a tenth, say)."
        )

    # -- state --------------------------------------------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        arrays: dict[str, Any] = {
            "epoch": self._epoch,
            "steps": self._steps,
            "history": self._history,
            "free": self._free.cpu().numpy(),
        }
        return arrays | {f"descent.{name}": value.cpu().numpy() for name, value in self._descent.state().items()}

    def _restore(self, arrays: Mapping[str, Any]) -> None:
        self._epoch, self._steps = int(arrays["epoch"]), int(arrays["steps"])
        self._history = np.array(arrays["history"])
        self._free.copy_(torch.from_numpy(arrays["free"]))
        own = {name: torch.from_numpy(np.array(v)) for name, v in arrays.items() if name.startswith("descent.")}
        self._descent.restore({name.removeprefix("descent."): value for name, value in own.items()})


def _parts(batch: Any, count: int) -> list[Any]:
    """A batch in `count` nearly equal parts."""
    size = int(next(tensors_in(batch)).shape[0]) if has_batch_axis(batch) else 0
    if size < count:
        what = f"a batch of {size} samples" if size else f"a batch ({shapes_in(batch)})"
        raise InputError(f"{what} cannot be cut into parts={count}; use fewer parts")
    cuts = np.linspace(0, size, count + 1).round().astype(int).tolist()

    def cut(a: int, b: int) -> Any:
        return map_tensors(batch, lambda tensor: tensor[a:b])

    return [cut(a, b) for a, b in itertools.pairwise(cuts)]


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
