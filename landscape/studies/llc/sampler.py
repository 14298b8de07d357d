"""Some chains side by side, from their burn-in to their last draw: (seed, chain, draw) fix all of their bits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from landscape_kernels.arrays import FloatArray
from landscape_kernels.langevin import (
    ChainNoise,
    Places,
    StepSizes,
    Tempered,
    chosen,
    log_acceptance,
    metropolis_step,
    places,
    proposed,
)
from landscape_kernels.probes import derive_seed
from torch import Tensor

from landscape.run.kept import Kept
from landscape.run.task import ItemStopped
from landscape.studies.llc.losses import BatchLosses, ChainLosses
from landscape.studies.llc.settings import Plan

_RATES = {"mala": 0.8, "sgld": 0.95}  # of acceptance that steps are found for
_SAVE_EVERY = 1.0  # seconds at least between two states on the disk
_TOLD = 100_000  # parameters times draws between two reports


@dataclass(frozen=True)
class Walked:
    """What C chains left; NaN after a chain had no finite loss."""

    trace: FloatArray  # (C, burn-in + draws), losses
    halved: FloatArray  # (C, draws), losses by half the step; (C, 0) where there were none
    step: FloatArray  # (C,)
    acceptance: FloatArray  # (C,), mean probability of acceptance after the burn-in; NaN where every step is taken


class Sampler:
    """Runs some chains of a plan."""

    def __init__(
        self,
        plan: Plan,
        losses: ChainLosses,
        batches: BatchLosses | None,
        centre: Tensor,
        chains: Sequence[int],
        state: Path | None = None,
    ) -> None:
        """`chains` are their numbers, `state` the file that keeps them; `losses` is bound while they run."""
        self._plan, self._losses, self._batches, self._chains = plan, losses, batches, chains
        self._target = Tempered(centre, plan.nbeta, plan.localisation)
        self._theta = centre.expand(len(chains), -1).clone()
        seeds = [derive_seed(plan.seed, "llc", chain) for chain in chains]
        self._seeds = seeds
        self._noise = ChainNoise(len(centre), seeds, centre)
        first = 1 / ((plan.nbeta + plan.localisation) * len(centre) ** (1 / 3))
        self._sizes = StepSizes(first, len(chains), _RATES[plan.method])
        self._whole = plan.burn_in + plan.draws
        self._draw = 0
        self._trace = np.full((len(chains), self._whole), np.nan)
        self._halved = np.full((len(chains), plan.draws if plan.halved else 0), np.nan)
        self._accepted = np.zeros(len(chains))
        self._alive = torch.ones(len(chains), dtype=torch.bool, device=centre.device)
        self._step = np.full(len(chains), np.nan if plan.step is None else plan.step)
        self._at: Places | None = None  # of MALA
        self._kept = Kept(state, "these chains then start anew", every=_SAVE_EVERY)

    def run(self, report: Callable[[str], None] | None = None, stopping: Callable[[], bool] | None = None) -> Walked:
        """Run to the last draw, from what the file of the state holds. Raises ItemStopped when `stopping` says so."""
        stored = self._kept.read()
        if stored is not None:
            try:
                self._restore(stored)
            except (LookupError, RuntimeError, ValueError) as error:
                raise self._kept.damaged(error) from error
        every = max(1, min(100, _TOLD // self._theta.shape[1]))
        while self._draw < self._plan.steps:
            if self._draw % every == 0:
                if report is not None:
                    report(f"draw {self._draw + 1} of {self._plan.steps}; loss {self._last():.4g}")
                if stopping is not None and stopping():
                    self._kept.write(self._state())
                    raise ItemStopped
                if self._kept.due:
                    self._kept.write(self._state())
            self.advance()
        accepted = self._accepted / self._plan.draws if self._plan.method == "mala" else self._accepted + math.nan
        return Walked(self._trace, self._halved, self._step, accepted)

    def advance(self) -> None:
        """One step of all chains."""
        plan, draw = self._plan, self._draw
        adapting = plan.step is None and draw < plan.burn_in
        if adapting:
            self._step = self._sizes.now
        elif plan.step is None and draw == plan.burn_in:
            self._step = self._sizes.settled
        size = self._step / 2 if draw >= self._whole else self._step
        steps = torch.from_numpy(size).to(self._theta)[:, None]
        noise, log_uniform = self._noise.at(draw)
        if plan.method == "mala":
            losses, chance = self._metropolis(steps, noise, log_uniform)
        else:
            losses, chance = self._langevin(steps, noise, adapting)
        if adapting:
            self._sizes.update(chance.cpu().numpy())
        elif plan.method == "mala" and draw >= plan.burn_in:
            self._accepted += chance.exp().cpu().numpy()
        self._note(draw, losses.cpu().numpy())
        self._draw += 1

    def _metropolis(self, steps: Tensor, noise: Tensor, log_uniform: Tensor) -> tuple[Tensor, Tensor]:
        """(losses, log chances of acceptance) of a step of MALA."""
        if self._at is None:
            self._at = places(self._theta, self._losses.at, self._target)
        self._at, chance = metropolis_step(self._at, self._losses.at, self._target, steps, noise, log_uniform)
        self._theta = self._at.theta
        return self._at.losses, chance

    def _langevin(self, steps: Tensor, noise: Tensor, adapting: bool) -> tuple[Tensor, Tensor]:
        """(losses where the step begins, log chances that Metropolis' test on its own batch would give it).

        The chances are there while steps are found. A chain without a finite loss stays at the centre from then on.
        """
        rows = None if self._batches is None else self._batches.rows(self._seeds, self._draw)

        def losses_at(theta: Tensor) -> tuple[Tensor, Tensor]:
            return self._losses.at(theta) if self._batches is None or rows is None else self._batches.at(theta, rows)

        at = places(self._theta, losses_at, self._target)
        theta, chance = proposed(at, steps, noise), torch.zeros_like(at.losses)
        if adapting:  # such a step would not be taken when the size is found, and is not taken here
            there = places(theta, losses_at, self._target)
            chance = log_acceptance(at, there, self._target, steps, noise)
            theta = chosen(chance > -math.inf, there, at).theta
        self._alive &= at.losses.isfinite() & theta.isfinite().all(1)
        self._theta = torch.where(self._alive[:, None], theta, self._target.centre)
        return torch.where(self._alive, at.losses, torch.nan), chance

    def _note(self, draw: int, losses: FloatArray) -> None:
        """Keep the losses of a draw, of half steps those of every other one after their own burn-in."""
        if draw < self._whole:
            self._trace[:, draw] = losses
            return
        place, odd = divmod(draw - self._whole - 2 * self._plan.burn_in, 2)
        if place >= 0 and odd:
            self._halved[:, place] = losses

    def _last(self) -> float:
        """The mean loss of the chains at the last draw."""
        place = min(self._draw, self._whole) - 1
        return float(self._trace[:, place].mean()) if place >= 0 else math.nan

    # -- state --------------------------------------------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        return {
            "draw": self._draw,
            "theta": self._theta.cpu().numpy(),
            "alive": self._alive.cpu().numpy(),
            "trace": self._trace,
            "halved": self._halved,
            "accepted": self._accepted,
            "step": self._step,
            **{f"sizes.{name}": value for name, value in self._sizes.state().items()},
        }

    def _restore(self, arrays: Mapping[str, Any]) -> None:
        self._draw = int(arrays["draw"])
        self._theta.copy_(torch.from_numpy(arrays["theta"]))
        self._alive.copy_(torch.from_numpy(arrays["alive"]))
        for name, mine in (("trace", self._trace), ("halved", self._halved), ("accepted", self._accepted)):
            mine[:] = arrays[name]
        self._step = np.array(arrays["step"])
        prefix = "sizes."
        own = {name.removeprefix(prefix): v for name, v in arrays.items() if name.startswith(prefix)}
        self._sizes.restore(own)
