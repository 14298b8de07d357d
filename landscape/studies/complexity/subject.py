"""Subject: what a measure is of, and what measures share, each computed once when it is first asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from landscape.arguments import checked
from landscape.errors import InputError
from landscape.network.paths import Convolutions
from landscape.objective.gate import require_objective
from landscape.objective.objective import Objective
from landscape.results.estimate import Estimate
from landscape.run.comm import SERIAL, Communicator
from landscape.studies.complexity.fused import Fused, fused, initial_buffers

T = TypeVar("T")
NO_INITIAL = "the weights that training began from are not known; give initial="
_SHARE = 10  # the margin is that of every tenth sample


class Subject:
    """A network at its parameters, on its training data, with the weights that it began from."""

    @checked()
    def __init__(
        self,
        objective: Objective,
        initial: tuple[Tensor, Mapping[str, Tensor]] | None = None,
        *,
        parity: str | None = None,
        tol: float = 0.05,
        seed: int = 0,
        plan: Any = None,
        group: Communicator = SERIAL,
    ) -> None:
        require_objective(objective)
        self.objective, self.parity, self.tol, self.seed, self.group = objective, parity, tol, seed, group
        self.plan = plan  # of the largest eigenvalue and the trace
        self._initial = initial
        self._kept: dict[str, Any] = {}
        self.notes: list[str] = []  # what is to be said of the value that is being measured
        self.passes = 0.0  # over the data, so far: 1 for each forward pass, 2 more for a backward one

    @property
    def theta(self) -> Tensor:
        """(size,): the parameters as one vector."""
        return self.objective.theta

    @property
    def initial(self) -> Tensor:
        """(size,): the parameters that training began from; for measures that need "initial"."""
        return self._begun()[0]

    @property
    def samples(self) -> int:
        """m, the number of training samples."""
        return self.objective.samples

    @cached_property
    def fused(self) -> Fused:
        """The network with BatchNorm fused into the layers before it, where that is safe."""
        return fused(self.objective, self.theta, self.objective.buffers, all_free=self.parity is not None)

    @cached_property
    def initial_fused(self) -> Fused:
        """The same of the initial network."""
        theta, buffers = self._begun()
        return fused(self.objective, theta, initial_buffers(self.objective, buffers))

    def _begun(self) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The initial parameters and buffers. Raises InputError where they are not known."""
        if self._initial is None:
            raise InputError(NO_INITIAL)
        return self._initial

    @property
    def weights(self) -> dict[str, Tensor]:
        """{name: weight in float64}: the parameters of two axes and more, BatchNorm fused into them.

        Those that are frozen are among them as they stand.
        """
        return self.varying | self._frozen

    @property
    def initial_weights(self) -> dict[str, Tensor]:
        """The same of the initial network; for measures that need "initial"."""
        return self.initial_fused.weights(self.objective) | self._frozen

    @property
    def varying(self) -> dict[str, Tensor]:
        """{name: weight in float64}: those of `weights` that are not frozen."""
        return self.fused.weights(self.objective)

    @cached_property
    def _frozen(self) -> dict[str, Tensor]:
        every = {name: torch.view_as_real(w) if w.is_complex() else w for name, w in self.objective.frozen.items()}
        return {name: w.double() for name, w in every.items() if w.ndim > 1}

    @cached_property
    def convolutions(self) -> dict[str, tuple[tuple[int, ...], int, tuple[int, ...]]]:
        """{name of a convolution's weight: (extent of its input, groups, dilation)}, from one sample."""
        few = self.objective.on(self.objective.data.head(1))
        with few.differentiable() as (model, parameters), torch.no_grad():
            named = {name: p for name, p in model.named_parameters() if name in few.frozen}
            listening = Convolutions(named | dict(zip(few.layout.names, parameters, strict=True)))
            with listening:
                few.outputs(model, few.batch(0))
        return listening.found

    @cached_property
    def no_margins(self) -> str:
        """Why there are no margins; empty where there are."""
        few = self.objective.on(self.objective.data.head(1))
        with few.differentiable() as (model, _), torch.no_grad():
            if few.loss_is_returned:
                return "forward returns the loss itself, so that class scores are not known"
            outputs, targets = few.outputs(model, few.batch(0))
        try:
            _margins(outputs, targets, self.objective)
        except InputError as error:
            return str(error)
        return ""

    @cached_property
    def margins(self) -> Tensor:
        """(m,) float64: score of the right class less the largest other one; for measures that need "margins"."""
        self.passes += 1
        return margins_at(self.objective, self.theta, self.objective.buffers)

    @property
    def gamma(self) -> Estimate:
        """The size of the margin that a tenth of the samples do not exceed; see `tenth`."""
        found = self.once("gamma", lambda: tenth(self.margins))
        if found < 0:
            self.note("the margin is negative, its size is taken")
        return Estimate(abs(found), stderr=found.stderr, n=found.n, unit=found.unit)

    @checked()
    def once(self, key: str, make: Callable[[], T]) -> T:
        """What `make` returns, computed when it is first asked for under that key."""
        if key not in self._kept:
            self._kept[key] = make()
        found: T = self._kept[key]
        return found

    @checked()
    def note(self, text: str) -> None:
        """Say something of the value that is being measured."""
        if text not in self.notes:
            self.notes.append(text)


def tenth(values: Tensor) -> Estimate:
    """The m // 10-th smallest of m values (the smallest of fewer than 20).

    Its standard error is that of an order statistic: half the distance of the values that stand a binomial standard
    deviation before and behind it.
    """
    ordered, m = values.double().sort().values, len(values)
    k = max(m // _SHARE, 1)
    spread = max(1, round(math.sqrt(k * (1 - k / m))))
    low, high = ordered[max(k - spread, 1) - 1], ordered[min(k + spread, m) - 1]
    return Estimate(float(ordered[k - 1]), stderr=float(high - low) / 2 if m > 1 else math.nan, n=m, unit="sample")


def margins_at(objective: Objective, theta: Tensor, buffers: Mapping[str, Tensor]) -> Tensor:
    """(m,) float64 margins of the samples of an objective at `theta` (size,). Raises InputError for no class scores."""
    found = []
    with objective.differentiable(theta, buffers), torch.no_grad():
        model = objective.folded()
        for _, batch in objective.batches():
            found.append(_margins(*objective.outputs(model, batch), objective))
    return torch.cat(found)


def _margins(outputs: Any, targets: Any, objective: Objective) -> Tensor:
    """Of one batch."""
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor) or not outputs.is_floating_point():
        raise InputError("outputs and targets are no tensors of class scores and labels")
    scores, labels = outputs.double(), targets
    if bool((labels < 0).any()) and not labels.is_floating_point():
        raise InputError("some labels are negative, so that not every sample has a class")
    if scores.ndim == 2 and scores.shape[1] > 1 and labels.ndim == 1 and not labels.is_floating_point():
        right = scores.gather(1, labels[:, None]).squeeze(1)
        others = scores.scatter(1, labels[:, None], -math.inf).amax(1)
        return right - others
    single = scores.numel() == labels.numel() == len(labels)
    if single and any(name in objective.loss_words for name in ("with_logits", "WithLogits")):
        return scores.flatten() * (2.0 * labels.flatten().double() - 1)
    raise InputError(
        f"outputs of shape {tuple(outputs.shape)} and targets of shape {tuple(targets.shape)} are no class scores with "
        "one label each"
    )
