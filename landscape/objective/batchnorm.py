"""Which BatchNorm statistics: one choice for all studies."""

from __future__ import annotations

from typing import Any

from landscape.errors import InputError
from landscape.objective.data import Data
from landscape.objective.objective import BATCHNORM_MODES, Objective
from landscape.planes.directions import Plane

FEWEST = 32  # samples that BatchNorm statistics are estimated from, and the loss of that spread, at least


def check_statistics(statistics: Data) -> None:
    """Raise InputError where there are too few samples to estimate BatchNorm statistics from."""
    if statistics.samples < FEWEST:
        raise InputError(
            f"{statistics.samples} samples for BatchNorm statistics are too few, at least {FEWEST} are needed: from n "
            "samples each mean is known to 1/sqrt(n) of a standard deviation, 10 % with 100, 1 % with 10,000. Give "
            "more as statistics=, or use batchnorm='frozen'."
        )


_BETWEEN = ("through", "curve")  # kinds of planes that lie between models


def chosen_batchnorm(objective: Objective, plane: Plane, batchnorm: str | None, statistics: Any) -> str:
    """The BatchNorm mode, see `measure_surface`. Raises InputError for one that cannot be."""
    if batchnorm is None:
        between = plane.about.get("kind") in _BETWEEN and bool(objective.batchnorm_names)
        batchnorm = "reestimated" if between or statistics is not None else "frozen"
    if batchnorm not in BATCHNORM_MODES:
        raise InputError(f"batchnorm={batchnorm!r} is not one of {', '.join(BATCHNORM_MODES)}")
    if batchnorm != "reestimated" and statistics is not None:
        raise InputError(f"statistics are given, but batchnorm={batchnorm!r} does not use them; say 'reestimated'")
    if batchnorm != "frozen" and not objective.batchnorm_names:
        raise InputError(f"batchnorm={batchnorm!r}, but the model has no BatchNorm layer; leave it out")
    if batchnorm == "interpolated" and not plane.buffers:
        raise InputError(
            "batchnorm='interpolated' needs a plane through models given with their buffers (state dicts, modules or "
            "checkpoints, not flat vectors); use plane_through, or batchnorm='reestimated'"
        )
    return batchnorm
