"""Descents along the median of three minibatch gradients, and along their mean."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from landscape_kernels.descent import window_direction
from torch.optim import Optimizer

from landscape.arguments import checked
from landscape.errors import InputError


class _Windowed(Optimizer):
    """Keeps the last three gradients, weight decay in them, and steps along what `_name` makes of them."""

    _name = ""

    @checked()
    def __init__(self, params: Any, lr: float, weight_decay: float = 0.0) -> None:
        require_rates(lr, weight_decay)
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take in the gradients in `grad`, and step where there is a direction; returns what `closure` does."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["steps"] = 0
                    state["window"] = parameter.new_zeros((3, *parameter.shape))
                gradient = parameter.grad.to_dense()
                state["window"][state["steps"] % 3] = gradient.add(parameter, alpha=group["weight_decay"])
                state["steps"] += 1
                direction = window_direction(self._name, state["window"], state["steps"])
                if direction is not None:
                    parameter.add_(direction, alpha=-group["lr"])
        return loss


class M3(_Windowed):
    """Median of three: theta <- theta - lr median(g_1, g_2, g_3) per coordinate, once after every third gradient.

        optimizer = M3(model.parameters(), lr=0.1)

    Each step is one gradient, `weight_decay` theta added to it. Zielinski, Krishnan & Chatterjee 2020 (arXiv
    2003.07422). Raises InputError for a step size or weight decay that cannot be.
    """

    _name = "m3"


class RM3(_Windowed):
    """Rolling median of three: theta <- theta - lr median(g_t, g_{t-1}, g_{t-2}) per coordinate, from the third on.

        optimizer = RM3(model.parameters(), lr=0.1)

    `weight_decay` theta is added to each gradient where it is taken in. Zielinski, Krishnan & Chatterjee 2020 (arXiv
    2003.07422). Raises InputError for a step size or weight decay that cannot be.
    """

    _name = "rm3"


class RA3(_Windowed):
    """Rolling mean of three, RM3's control: theta <- theta - lr (g_t + g_{t-1} + g_{t-2}) / 3, from the third on.

    Zielinski, Krishnan & Chatterjee 2020 (arXiv 2003.07422). Raises InputError for a step size or weight decay that
    cannot be.
    """

    _name = "ra3"


def require_rates(lr: float, weight_decay: float) -> None:
    """Raise InputError for a step size that is not positive, or a negative weight decay."""
    if not (_is_finite(lr) and lr > 0):
        raise InputError(f"lr={lr!r}; give a positive number")
    if not (_is_finite(weight_decay) and weight_decay >= 0):
        raise InputError(f"weight_decay={weight_decay!r}; give a number, 0 or more")


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except (TypeError, ValueError):  # no number
        return False
