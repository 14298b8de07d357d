"""What is asked of a local learning coefficient, and what that comes to for so many samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt

from landscape.arguments import Seed
from landscape.errors import InputError
from landscape.results.settings import OneOf, Settings

METHODS = ("mala", "sgld")
PARITIES = ("devinterp",)
FEWEST_DRAWS = 16  # halves of chains are cut into halves again
_DEVINTERP_BATCH = 32


@dataclass(frozen=True)
class LLCSettings(Settings):
    """How chains run; see `measure_llc`."""

    chains: Annotated[int, Ge(1)] = 4
    draws: Annotated[int, Ge(FEWEST_DRAWS)] = 1000
    nbeta: Annotated[float, Gt(0)] | None = None
    localisation: Annotated[float, Ge(0)] | None = None
    step: Annotated[float, Gt(0)] | None = None
    method: Annotated[str, OneOf(METHODS)] | None = None
    batch_size: Annotated[int, Ge(1)] | None = None
    burn_in: Annotated[int, Ge(0)] | None = None
    seed: Seed = 0
    parity: Annotated[str, OneOf(PARITIES)] | None = None

    def __post_init__(self) -> None:
        """Raise InputError for values that cannot be, or do not go together."""
        super().__post_init__()
        for name, known in (("method", METHODS), ("parity", PARITIES)):
            if getattr(self, name) not in (None, *known):
                raise InputError(f"{name}={getattr(self, name)!r} is not one of {', '.join(known)}")
        if self.parity is not None:
            self._require_parity()
        if self.method == "mala" and self.batch_size is not None:
            raise InputError(
                f"method='mala' with batch_size={self.batch_size}: its test needs the loss of all data at every step; "
                "leave batch_size out, or use method='sgld'"
            )
        if self.step is None and self.burn_in == 0:
            raise InputError(
                "burn_in=0 without a step: the step is found in the burn-in; give step=, or leave burn_in out"
            )

    def _require_parity(self) -> None:
        if self.method == "mala":
            raise InputError("parity='devinterp' runs SGLD; leave method out")
        if self.step is None:
            raise InputError("parity='devinterp' needs step=, its lr, for which it has no default either")
        if self.burn_in:
            raise InputError(
                f"parity='devinterp' with burn_in={self.burn_in}: its mean takes all draws in; leave burn_in out"
            )


@dataclass(frozen=True)
class Plan:
    """What the settings come to for the data at hand; `batch_size` 0 is all of them, `step` None is to be found."""

    method: str
    chains: int
    draws: int
    burn_in: int
    nbeta: float
    localisation: float
    step: float | None
    batch_size: int
    seed: int
    parity: str
    halved: bool  # whether chains go on with half the step, for the bias of the whole one

    @property
    def steps(self) -> int:
        """Steps of a chain."""
        return (3 if self.halved else 1) * (self.burn_in + self.draws)


def planned(settings: LLCSettings, samples: int) -> Plan:
    """The settings with what follows from the number of samples. Raises InputError where nothing can follow from it."""
    theirs = settings.parity is not None
    batch = settings.batch_size or (_DEVINTERP_BATCH if theirs else 0)
    method = settings.method or ("sgld" if batch else "mala")
    nbeta = settings.nbeta
    if nbeta is None:
        of = batch if theirs else samples
        if of < 2:
            what = f"batch_size={of}" if theirs else "one sample"
            raise InputError(f"nbeta is n / ln n of n samples by default, and {what} gives none; say nbeta=")
        nbeta = of / math.log(of)
    localisation = settings.localisation
    if localisation is None:
        localisation = 0.0 if theirs else 1.0
    return Plan(
        method=method,
        chains=settings.chains,
        draws=settings.draws,
        burn_in=0 if theirs else settings.draws if settings.burn_in is None else settings.burn_in,
        nbeta=float(nbeta),
        localisation=float(localisation),
        step=settings.step,
        batch_size=0 if batch >= samples else batch,
        seed=settings.seed,
        parity=settings.parity or "",
        halved=method == "sgld" and not theirs,
    )
