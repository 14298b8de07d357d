"""Steps of stochastic gradient descent on flat vectors, one or several side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from landscape_kernels.robust import median_of_three

WINDOWS = ("m3", "rm3", "ra3")  # of three gradients
OPTIMIZERS = ("sgd", "adam", "adamw", *WINDOWS)
_BETAS, _EPS = (0.9, 0.999), 1e-8  # of Adam, as torch has them


class Descent:
    """The optimiser of theta (..., size), in place: SGD, Adam (Kingma & Ba 2015) or AdamW (Loshchilov & Hutter 2019).

        sgd    v <- momentum v + g,  theta <- theta - lr v     with g + weight_decay theta for g, and v_1 = g_1;
               nesterov: theta <- theta - lr (g + momentum v)
        adam   theta <- theta - lr m / (1 - b1^t) / (sqrt(s / (1 - b2^t)) + eps)     with g + weight_decay theta for g
        adamw  theta <- (1 - lr weight_decay) theta, then as adam with g alone
        m3     theta <- theta - lr median(g_t, g_{t-1}, g_{t-2}) after every third gradient, with weight decay as sgd
        rm3    the same after every gradient from the third on; ra3 with the mean (Zielinski et al. 2020)

    The arithmetic of the first three is that of torch.optim, element by element. Nothing is checked.
    """

    def __init__(
        self, theta: Tensor, optimizer: str, *, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0
    ) -> None:
        self._theta, self._optimizer = theta, optimizer
        self._momentum, self._nesterov, self._decay = momentum, nesterov, weight_decay
        self._steps = 0
        self._state: dict[str, Tensor] = {}
        if optimizer in WINDOWS:
            self._state = {"window": theta.new_zeros((3, *theta.shape))}
        elif optimizer != "sgd":
            self._state = {"mean": torch.zeros_like(theta), "square": torch.zeros_like(theta)}
        elif momentum:
            self._state = {"velocity": torch.zeros_like(theta)}

    def step(self, gradient: Tensor, lr: float) -> None:
        """One step down the gradient (..., size), which may be overwritten."""
        self._steps += 1
        theta, decay = self._theta, self._decay
        if self._optimizer == "adamw" and decay:
            theta.mul_(1 - lr * decay)
        elif decay:
            gradient.add_(theta, alpha=decay)
        if self._optimizer in WINDOWS:
            self._state["window"][(self._steps - 1) % 3] = gradient
            direction = window_direction(self._optimizer, self._state["window"], self._steps)
            if direction is not None:
                theta.add_(direction, alpha=-lr)
            return
        if self._optimizer == "sgd":
            theta.add_(self._along(gradient), alpha=-lr)
            return
        mean, square = self._state["mean"], self._state["square"]
        mean.lerp_(gradient, 1 - _BETAS[0])
        square.mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1 - _BETAS[1])
        size = lr / (1 - _BETAS[0] ** self._steps)
        root = math.sqrt(1 - _BETAS[1] ** self._steps)
        theta.addcdiv_(mean, (square.sqrt() / root).add_(_EPS), value=-size)

    def _along(self, gradient: Tensor) -> Tensor:
        if not self._momentum:
            return gradient
        velocity = self._state["velocity"]
        if self._steps == 1:
            velocity.copy_(gradient)
        else:
            velocity.mul_(self._momentum).add_(gradient)
        return gradient.add_(velocity, alpha=self._momentum) if self._nesterov else velocity

    def state(self) -> dict[str, Tensor]:
        """All that the next step depends on beside theta; the tensors are its own."""
        return {"steps": torch.tensor(self._steps), **self._state}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `state`. Raises KeyError or RuntimeError for one of another optimiser or size."""
        for name, value in self._state.items():
            value.copy_(state[name])
        self._steps = int(state["steps"])


def window_direction(name: str, window: Tensor, steps: int) -> Tensor | None:
    """What one of WINDOWS steps along after so many gradients, of which `window` (3, ...) has the last three.

    None where it does not step: before the third, and of "m3" but after every third.
    """
    if steps < 3 or (name == "m3" and steps % 3):
        return None
    return window.mean(0) if name == "ra3" else median_of_three(window)


def clip_(gradient: Tensor, largest: float) -> None:
    """Scale each gradient (..., size) of a norm above `largest` down to that, as torch's clip_grad_norm_."""
    norm = torch.linalg.vector_norm(gradient, dim=-1, keepdim=True)
    gradient.mul_((largest / (norm + 1e-6)).clamp_(max=1.0))
