"""Which BatchNorm statistics: one choice for all studies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from landscape.errors import InputError
from landscape.objective.data import Data
from landscape.objective.objective import BATCHNORM_MODES, Objective

WITHOUT_ENDS = ("frozen", "reestimated")  # modes where there are no two models to interpolate between
FEWEST = 32  # samples that BatchNorm statistics are estimated from, at least


@dataclass(frozen=True)
class Statistics:
    """The statistics a study evaluates with: those of a model, or estimated from data at each theta."""

    mode: str  # one of BATCHNORM_MODES
    data: Data | None  # that they are estimated from; None unless the mode is "reestimated"

    @property
    def digest(self) -> str:
        """What identifies the data, for the identity of a run; empty where there are none."""
        return "" if self.data is None else self.data.digest

    @property
    def samples(self) -> int:
        """How many samples they are estimated from, 0 where they are not."""
        return 0 if self.data is None else self.data.samples

    def at(self, objective: Objective, theta: Tensor | None) -> Mapping[str, Tensor] | None:
        """Buffers estimated at theta (size,), None for what the model holds; None where the model's own are used."""
        return None if self.data is None else objective.reestimate(theta, self.data)

    def require_enough(self) -> None:
        """Raise InputError where there are too few samples to estimate statistics from."""
        if self.data is not None and self.data.samples < FEWEST:
            raise InputError(
                f"{self.data.samples} samples for BatchNorm statistics are too few, at least {FEWEST} are needed: "
                "from n samples each mean is known to 1/sqrt(n) of a standard deviation, 10 % with 100, 1 % with "
                "10,000. Give more as statistics=, or use batchnorm='frozen'."
            )


def chosen_statistics(
    objective: Objective,
    batchnorm: str | None,
    statistics: Any = None,
    *,
    between: bool,
    modes: Sequence[str] = BATCHNORM_MODES,
) -> Statistics:
    """The statistics that are meant by `batchnorm`, one of `modes`, and `statistics`, data like the objective's.

    By default they are re-estimated where the study looks `between` models, whose points the statistics of one model do
    not fit, and where data are given for it; elsewhere they are those of the objective's model. Raises InputError for a
    mode that cannot be, one that needs BatchNorm where there is none, and statistics that would not be used.
    """
    if batchnorm is None:
        estimated = statistics is not None or (between and bool(objective.batchnorm_names))
        batchnorm = "reestimated" if estimated else "frozen"
    if batchnorm not in modes:
        raise InputError(f"batchnorm={batchnorm!r} is not one of {', '.join(modes)}")
    if batchnorm != "reestimated" and statistics is not None:
        raise InputError(f"statistics are given, but batchnorm={batchnorm!r} does not use them; say 'reestimated'")
    if batchnorm != "frozen" and not objective.batchnorm_names:
        given = "statistics are given" if statistics is not None else f"batchnorm={batchnorm!r}"
        raise InputError(f"{given}, but the model has no BatchNorm layer; leave batchnorm and statistics out")
    return Statistics(batchnorm, objective.read_statistics(statistics) if batchnorm == "reestimated" else None)
