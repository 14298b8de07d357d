"""Descent along means of per-example gradients whose entries are clipped to percentiles of the minibatch."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any

import torch
from landscape_kernels.robust import winsorised_mean
from torch import Tensor, nn
from torch.optim import Optimizer

from landscape.arguments import checked
from landscape.descents.median import require_rates
from landscape.errors import InputError
from landscape.network.layers import GradientSquares

_BLOCK = 1 << 18  # numbers of per-example gradients at a time: a megabyte stays in a core's cache


class WinsorisedGradient:
    """The winsorised means of the per-example gradients of a model's trainable parameters.

    `percent` of the entries of each coordinate are clipped at either end of a minibatch: to the percentiles `percent`
    and 100 - `percent`, the nearest entries (Chatterjee 2020, arXiv 2002.10657). 0 is the plain mean. Per-example
    gradients are formed by blocks of a quarter of a million numbers, from the rules of the layers; where a layer has
    none, or where samples meet (BatchNorm in train mode: the gradient of an example's loss in its batch), by a
    backward pass for each example.

    Raises InputError for a percentage that cannot be.
    """

    @checked()
    def __init__(self, model: nn.Module, percent: float) -> None:
        require_percent(percent)
        self._percent = percent
        self.names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        self._model = model

    def of(self, losses: Callable[[], Tensor]) -> tuple[Tensor, list[Tensor]]:
        """(losses (b,), winsorised gradients in the shapes of the parameters); `losses()` runs the model once.

        Raises InputError where it returns no value per example.
        """
        # Anew each time: what modules do, and in which mode they are, may change.
        squares = GradientSquares(self._model, self.names)
        with squares.recording():
            values = losses()
        if not isinstance(values, Tensor) or values.ndim != 1:
            shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise InputError(
                f"the losses are {shape}; winsorised descent needs one of each example, as reduction='none' gives them"
            )
        parameters = dict(self._model.named_parameters())
        found = [torch.empty_like(parameters[name], memory_format=torch.contiguous_format) for name in self.names]
        for number, part, rows in squares.rows(values, _BLOCK):
            found[number].view(-1)[part] = winsorised_mean(rows, self._percent)
        return values.detach(), found


class WinsorisedSGD(Optimizer):
    """SGD along winsorised gradients: theta <- theta - lr (w + weight_decay theta), w that of `WinsorisedGradient`.

        optimizer = WinsorisedSGD(model, lr=0.1, percent=2)
        losses = optimizer.step(lambda: F.cross_entropy(model(x), y, reduction="none"))

    The closure runs the model once on a minibatch and returns the loss of each example; no backward pass is to be
    called. Chatterjee 2020 (arXiv 2002.10657). Raises InputError for numbers that cannot be, and where losses are not
    one of each example.
    """

    @checked()
    def __init__(self, model: nn.Module, lr: float, percent: float, weight_decay: float = 0.0) -> None:
        require_rates(lr, weight_decay)
        self._gradient = WinsorisedGradient(model, percent)
        chosen = [parameter for parameter in model.parameters() if parameter.requires_grad]
        super().__init__(chosen, {"lr": lr, "weight_decay": weight_decay})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refuse a second group: the model's trainable parameters are in the first. Raises InputError."""
        if self.param_groups:
            raise InputError(
                "WinsorisedSGD has one group, of all trainable parameters of its model; set requires_grad before it is "
                "made, and step what no example of this model moves by another optimizer"
            )
        super().add_param_group(param_group)

    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor:  # type: ignore[override]
        """One step; returns the losses (b,) before it."""
        if closure is None:
            raise InputError("step() needs a function that runs the model and returns the loss of each example")
        with torch.enable_grad():
            values, found = self._gradient.of(closure)
        (group,) = self.param_groups
        with torch.no_grad():
            for parameter, gradient in zip(group["params"], found, strict=True):
                gradient.add_(parameter, alpha=group["weight_decay"])
                parameter.add_(gradient, alpha=-group["lr"])
        return values


def require_percent(percent: float) -> None:
    """Raise InputError for what is no percentage below a half."""
    if not isinstance(percent, Real) or not 0 <= percent < 50:
        raise InputError(f"percent={percent!r}; give 0 (no clipping) or more, and less than 50: a share of either end")
