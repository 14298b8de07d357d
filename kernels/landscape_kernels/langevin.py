"""Chains that draw from exp(-nbeta L(w) - gamma |w - c|^2 / 2) by steps along the slope and noise, C side by side.

With U the negative logarithm of that density and xi standard normal, a step proposes

    w' = w - eps/2 grad U(w) + sqrt(eps) xi.

SGLD takes it, with the slope of a batch (Welling and Teh, ICML 2011): what it draws from is off by a bias of order eps.
MALA takes it with the probability of Metropolis and Hastings (Roberts and Tweedie, Bernoulli 2, 1996) and has no bias.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from landscape_kernels.arrays import FloatArray
from landscape_kernels.probes import derive_seed

Losses = Callable[[Tensor], tuple[Tensor, Tensor]]  # (C, d) -> losses (C,) in float64, their gradients (C, d)
_NUMBERS = 1 << 15  # random numbers of a chain that are made at once, for as many draws as that is
_MOST_DRAWS = 1024


@dataclass(frozen=True)
class Tempered:
    """U(w) = nbeta L(w) + localisation |w - centre|^2 / 2; `centre` is (d,)."""

    centre: Tensor
    nbeta: float
    localisation: float

    def slopes(self, theta: Tensor, gradients: Tensor) -> Tensor:
        """grad U (C, d) at theta (C, d) from the gradients of L (C, d)."""
        slopes = self.nbeta * gradients
        return slopes.add_(theta - self.centre, alpha=self.localisation) if self.localisation else slopes

    def rise(self, near: Tensor, far: Tensor, near_losses: Tensor, far_losses: Tensor) -> Tensor:
        """U(far) - U(near), (C,) float64, without the difference of two large squares."""
        rise = self.nbeta * (far_losses - near_losses)
        if self.localisation:
            squares = ((far - near) * (far + near - 2 * self.centre)).sum(1, dtype=torch.float64)
            rise += 0.5 * self.localisation * squares
        return rise


@dataclass(frozen=True)
class Places:
    """Where C chains are: theta (C, d), the losses there (C,) in float64, and grad U (C, d)."""

    theta: Tensor
    losses: Tensor
    slopes: Tensor


def places(theta: Tensor, losses_at: Losses, target: Tempered) -> Places:
    """The places of chains at theta (C, d)."""
    losses, gradients = losses_at(theta)
    return Places(theta, losses, target.slopes(theta, gradients))


def proposed(at: Places, steps: Tensor, noise: Tensor) -> Tensor:
    """w' (C, d) of every chain, by steps eps (C, 1) and standard normal noise (C, d)."""
    return at.theta - 0.5 * steps * at.slopes + steps.sqrt() * noise


def log_acceptance(at: Places, there: Places, target: Tempered, steps: Tensor, noise: Tensor) -> Tensor:
    """log of p(w') q(w | w') / (p(w) q(w' | w)), (C,) float64, at most 0; -inf where the proposal has no finite loss.

    With both slopes g and g', it is U(w) - U(w') - eps/8 |g + g'|^2 + sqrt(eps)/2 (g + g').xi: |xi|^2 cancels by hand.
    """
    both = at.slopes + there.slopes
    along = (both * (0.5 * steps.sqrt() * noise - 0.125 * steps * both)).sum(1, dtype=torch.float64)
    ratio = along - target.rise(at.theta, there.theta, at.losses, there.losses)
    return torch.where(ratio.isnan(), -torch.inf, ratio).clamp(max=0.0)


def metropolis_step(
    at: Places, losses_at: Losses, target: Tempered, steps: Tensor, noise: Tensor, log_uniform: Tensor
) -> tuple[Places, Tensor]:
    """(places after one step of MALA, log of the probability of acceptance (C,)).

    steps (C, 1), noise (C, d) standard normal, log_uniform (C,) float64 logarithms of uniform numbers.
    """
    there = places(proposed(at, steps, noise), losses_at, target)
    chance = log_acceptance(at, there, target, steps, noise)
    return chosen(log_uniform < chance, there, at), chance


def chosen(which: Tensor, there: Places, at: Places) -> Places:
    """`there` for the chains of `which` (C,), `at` for the others."""
    rows = which[:, None]
    return Places(
        torch.where(rows, there.theta, at.theta),
        torch.where(which, there.losses, at.losses),
        torch.where(rows, there.slopes, at.slopes),
    )


class ChainNoise:
    """Random numbers of chains: those of draw k of a chain follow from its seed and k alone."""

    def __init__(self, size: int, seeds: Sequence[int], like: Tensor) -> None:
        """`seeds`, one for each chain, are those of `derive_seed`; numbers come in the precision of `like`, there."""
        self._size, self._seeds, self._like = size, seeds, like
        self._together = max(1, min(_MOST_DRAWS, _NUMBERS // size))
        self._block = -1
        self._normal = self._log_uniform = like

    def at(self, draw: int) -> tuple[Tensor, Tensor]:
        """(standard normal (C, d), logarithms of uniform numbers (C,) in float64) of a draw."""
        block, place = divmod(draw, self._together)
        if block != self._block:
            self._make(block)
        return self._normal[place], self._log_uniform[place]

    def _make(self, block: int) -> None:
        normal = np.empty((self._together, len(self._seeds), self._size))
        uniform = np.empty((self._together, len(self._seeds)))
        for chain, seed in enumerate(self._seeds):
            random = np.random.Generator(np.random.Philox(key=derive_seed(seed, "draws", block)))
            normal[:, chain] = random.standard_normal((self._together, self._size))
            uniform[:, chain] = random.random(self._together)
        self._block = block
        self._normal = torch.from_numpy(normal).to(self._like)
        self._log_uniform = torch.from_numpy(np.log1p(-uniform)).to(self._like.device)


class StepSizes:
    """Steps eps of C chains that come to a rate of acceptance, each by its own draws: dual averaging of ln sqrt(eps).

    Hoffman and Gelman, The No-U-Turn sampler, JMLR 15 (2014), section 3.2, with their constants.
    """

    _SHRINKAGE, _DELAY, _DECAY = 0.05, 10.0, 0.75

    def __init__(self, first: float, chains: int, target: float) -> None:
        """`first` is a step to begin near, `target` the rate of acceptance that is asked for."""
        self._target = target
        self._centre = np.log(10.0) + 0.5 * np.log(first)
        self._count = 0
        self._lack = np.zeros(chains)  # of acceptance, on average
        self._log = np.full(chains, 0.5 * np.log(first))
        self._averaged = self._log.copy()

    def update(self, log_chance: FloatArray) -> None:
        """Take account of logarithms of the probabilities of acceptance (C,) of the last steps."""
        self._count += 1
        weight = 1.0 / (self._count + self._DELAY)
        self._lack = (1 - weight) * self._lack + weight * (self._target - np.exp(log_chance))
        self._log = self._centre - np.sqrt(self._count) / self._SHRINKAGE * self._lack
        share = self._count**-self._DECAY
        self._averaged = share * self._log + (1 - share) * self._averaged

    @property
    def now(self) -> FloatArray:
        """(C,) steps to take next."""
        found: FloatArray = np.exp(2 * self._log)
        return found

    @property
    def settled(self) -> FloatArray:
        """(C,) the steps that all of this comes to."""
        found: FloatArray = np.exp(2 * self._averaged)
        return found

    def state(self) -> dict[str, FloatArray]:
        """All that the next steps depend on."""
        numbers = np.array([self._count], dtype=np.float64)
        return {"count": numbers, "lack": self._lack, "log": self._log, "averaged": self._averaged}

    def restore(self, state: dict[str, FloatArray]) -> None:
        """Go on from a `state`."""
        self._count = int(state["count"][0])
        self._lack, self._log, self._averaged = state["lack"], state["log"], state["averaged"]


def quadratic_coefficient(eigenvalues: FloatArray, nbeta: float, localisation: float, step: float = 0.0) -> float:
    """nbeta E[L(w) - L(c)] where L is a quadratic form around c of Hessian eigenvalues h (d,), none below 0.

        1/2 sum nbeta h / (k (1 - eps k / 4)),   k = nbeta h + localisation

    eps > 0 is for steps that are always taken, 0 for the density itself. Infinite where eps k is 4 or more.

    >>> h = np.array([10, 1, 0.1, 0.01])
    >>> round(quadratic_coefficient(h, 100, 1), 6), round(quadratic_coefficient(h, 100, 1, 1e-3), 6)
    (1.699095, 1.88002)
    """
    stiff = nbeta * eigenvalues + localisation
    if (step * stiff >= 4).any():
        return float("inf")
    moving = eigenvalues > 0  # where the loss is flat it does not rise, however far a chain goes
    k = stiff[moving]
    return float(0.5 * (nbeta * eigenvalues[moving] / (k * (1 - step * k / 4))).sum())
