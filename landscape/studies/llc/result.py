"""A local learning coefficient as a frozen result."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from landscape_kernels.arrays import BoolArray, FloatArray, IntArray
from landscape_kernels.chains import drift, effective_samples, mean_and_error, r_hat, slow_error

from landscape.arguments import checked
from landscape.results.base import Result
from landscape.results.estimate import Estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_R_HAT, FEWEST_SAMPLES, MOST_DRIFT = 1.05, 50, 3  # beyond which a value is not to be believed
_MOST_BIAS = 0.4  # of the value, with its error: beyond, half steps do not tell what whole ones add
_BEGINNING = 10  # a chain's first tenth tells of its beginning alone
_CHANCE = 10  # what the draws of a chain of few parameters may come to on average though it is near its minimum


@dataclass(frozen=True, repr=False)
class LLC(Result):
    """nbeta (mean loss of draws around a minimum - loss there), the mean over C chains of N draws after B of burn-in.

    A value has sense beside `nbeta` and `localisation` alone.
    """

    loss: float  # at the centre, on the same data
    nbeta: float
    localisation: float
    burn_in: int  # B, draws that are left out
    traces: FloatArray  # (C, B + N), losses of the draws; NaN after a chain had no finite loss
    halved: FloatArray  # (C, N), losses by half the step; (C, 0) where there are none
    steps: FloatArray  # (C,), step size after the burn-in
    acceptance: FloatArray  # (C,), mean probability of acceptance; NaN where every step is taken
    quadratic: float  # 1/2 sum nbeta h / (nbeta h + localisation) over eigenvalues h > 0 of the Hessian; NaN unknown
    parameters: int  # d
    computed: BoolArray  # (C,)
    attributes: Mapping[str, Any] = field(default_factory=dict)  # method, batch_size, data, provenance

    def __repr__(self) -> str:
        if not self.computed.any():
            return f"LLC({len(self.computed)} chains, none computed)"
        trust = "" if self.believable else ", not to be believed"
        return (
            f"LLC({float(self.value):.4g} +- {self.stderr:.2g} at nbeta {self.nbeta:.4g}, localisation "
            f"{self.localisation:.4g}{trust})"
        )

    @property
    def complete(self) -> bool:
        """Whether every chain was run."""
        return bool(self.computed.all())

    @property
    def draws(self) -> FloatArray:
        """(C, N) nbeta (loss - loss at the centre) after the burn-in."""
        return self.nbeta * (self.traces[:, self.burn_in :] - self.loss)

    @property
    def per_chain(self) -> FloatArray:
        """(C,) the coefficient by each chain; NaN where it is left out."""
        kept = np.isin(np.arange(len(self.computed)), self._kept)
        return np.where(kept, self._means, np.nan)

    @cached_property
    def left_out(self) -> dict[int, str]:
        """{chain: why it does not count}.

        A loss that rises from its minimum at least linearly gives at most d, and a smooth one d/2. A chain that comes
        to more than twice d, and chance, on average is elsewhere.
        """
        found: dict[int, str] = {}
        means = self._means
        for chain in np.flatnonzero(self.computed):
            mean = float(means[chain])
            if not np.isfinite(self.traces[chain]).all():
                draw = int(np.flatnonzero(~np.isfinite(self.traces[chain]))[0])
                found[int(chain)] = f"its loss was not finite from draw {draw + 1} on: the step is too large"
            elif mean > 2 * self.parameters + _CHANCE:
                found[int(chain)] = (
                    f"it diverged: nbeta (loss - loss at the centre) is {mean:.4g} on average, and near a minimum of "
                    f"{self.parameters} parameters at most {self.parameters}"
                )
        return found

    @cached_property
    def value(self) -> Estimate:
        """The local learning coefficient, with its standard error over draws for the data given."""
        kept = self._kept
        mean = float(self._means[kept].mean()) if len(kept) else math.nan
        error = math.hypot(self._sampling_error, self.bias, self.bias_stderr)
        return Estimate(mean, stderr=error, n=len(kept), unit="chain")

    @property
    def stderr(self) -> float:
        """Standard error of `value`, the bias of the step and its own error put in."""
        return self.value.stderr

    @property
    def bias(self) -> float:
        """What the step size adds to `value`, from chains of half the step: 2 (value - value there); 0 by MALA.

        NaN where it was not measured.
        """
        if not self.halved.shape[1]:
            return 0.0
        kept = self._kept
        half = float(self.halved[kept].mean()) if len(kept) else math.nan
        return 2 * float(self._means[kept].mean() - self.nbeta * (half - self.loss)) if len(kept) else math.nan

    @cached_property
    def bias_stderr(self) -> float:
        """Standard error of `bias`, of the draws by both steps; 0 by MALA."""
        if not self.halved.shape[1]:
            return 0.0
        kept = self._kept
        return 2 * math.hypot(self._sampling_error, _error(self.nbeta * self.halved[kept])) if len(kept) else math.nan

    @property
    def r_hat(self) -> float:
        """Potential scale reduction of the split chains: 1 where they agree; see `landscape_kernels.chains.r_hat`."""
        return r_hat(self.draws[self._kept]) if len(self._kept) else math.nan

    @property
    def effective_samples(self) -> float:
        """Independent draws that the draws of all chains are worth, by Geyer's initial monotone sequence."""
        return effective_samples(self.draws[self._kept]) if len(self._kept) else math.nan

    @property
    def drift(self) -> Estimate:
        """Mean of the second half of the draws less that of the first."""
        found = self.draws[self._kept]
        change, error = drift(found) if len(found) else (math.nan, math.nan)
        return Estimate(change, stderr=error, n=len(found), unit="chain")

    @property
    def relaxation(self) -> float:
        """Steps after which a chain forgets the centre where the loss is flat, 2 / (step localisation)."""
        pull = float(np.nanmax(self.steps, initial=0.0)) * self.localisation
        return 2 / pull if pull else math.inf

    @property
    def believable(self) -> bool:
        """Whether nothing speaks against the value and its error; `verdict` says what does."""
        return not self._doubts

    @property
    def verdict(self) -> str:
        """Whether the value is to be believed, and why not, in a sentence."""
        if not self.computed.any():
            return "no chain is computed yet"
        if self._doubts:
            return f"not to be believed: {'; '.join(self._doubts)}"
        without = f", without {len(self.left_out)} of {len(self.computed)} chains" if self.left_out else ""
        return (
            f"to be believed: R-hat {self.r_hat:.3f}, {self.effective_samples:.0f} effective samples, "
            f"drift {float(self.drift):.2g} +- {self.drift.stderr:.2g}{without}"
        )

    @property
    def _means(self) -> FloatArray:
        found: FloatArray = self.draws.mean(1)
        return found

    @cached_property
    def _kept(self) -> IntArray:
        """(K,) numbers of the chains that count."""
        return np.array([c for c in np.flatnonzero(self.computed) if c not in self.left_out], dtype=np.int64)

    @cached_property
    def _doubts(self) -> list[str]:
        kept = self._kept
        if not len(kept):
            return ["no chain is left; give a smaller step" if self.computed.any() else "no chain is computed yet"]
        found, r, samples, moved, value = [], self.r_hat, self.effective_samples, self.drift, self.value
        if math.isnan(r):
            return ["the chains did not move: no step was accepted; give a smaller step"]
        if r > MOST_R_HAT:
            found.append(f"R-hat is {r:.3f}, above {MOST_R_HAT}: chains disagree; give more draws or a longer burn-in")
        if samples < FEWEST_SAMPLES:
            found.append(f"the draws are worth {samples:.0f} independent ones, fewer than {FEWEST_SAMPLES}; give more")
        if abs(moved) > MOST_DRIFT * moved.stderr:
            found.append(f"it drifts by {float(moved):.2g} +- {moved.stderr:.2g}; give a longer burn-in")
        if value < -2 * value.stderr:
            found.append("it is below 0: the centre is no minimum of the loss; train on, or give a larger localisation")
        if value > self.parameters + 2 * value.stderr:
            found.append(
                f"it is above {self.parameters}, more than a minimum of so many parameters gives: chains have left it; "
                "give a smaller step, or a larger localisation"
            )
        if self.halved.shape[1] and not math.isfinite(self.bias):
            found.append("the bias of the step is not known")
        elif math.hypot(self.bias, self.bias_stderr) > _MOST_BIAS * abs(value):
            found.append(
                f"the step adds {self.bias:.2g} +- {self.bias_stderr:.2g} to it, which is not small against "
                f"{float(value):.2g}; give a smaller step, or more draws"
            )
        return found

    @cached_property
    def _sampling_error(self) -> float:
        """The largest of three: of the draws; the same with doubt about slow chains; that of the burn-in's end, too.

        What chains seldom reach, as the far arms of a singular minimum, they may have been to in the burn-in alone.
        """
        if not len(self._kept):
            return math.nan
        draws, traces = self.draws[self._kept], self.nbeta * self.traces[self._kept]
        longer = traces[:, min(self.burn_in, traces.shape[1] // _BEGINNING) :]
        more = slow_error(longer) * math.sqrt(longer.shape[1] / draws.shape[1])
        return float(np.fmax(_error(draws), more))

    @checked()
    def plot(self, kind: str = "traces") -> Figure:
        """A Figure of the traces of the loss, or of "chains", the coefficient by each; see `plot_llc`."""
        return self._drawn(kind)


def _error(draws: FloatArray) -> float:
    """The larger error of a mean of draws (C, N): of all of them, or with doubt about slow chains."""
    return float(np.fmax(mean_and_error(draws)[1], slow_error(draws)))
