"""Values of an objective as columns of a row."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from landscape.objective.objective import Objective
from landscape.run.comm import Communicator

# Relative gap allowed when rows found in a run folder are computed again: other hardware sums in another order.
RECHECK_RTOL = {"float32": 1e-4, "float64": 1e-8, "bf16": 3e-2}


def evaluated(
    objective: Objective,
    theta: Tensor,
    buffers: Mapping[str, Tensor] | None,
    group: Communicator,
    *,
    full_precision: bool = False,
) -> dict[str, float]:
    """{quantity: value, quantity_stderr: its standard error, ...} at theta (size,); see `Objective.estimates`."""
    row: dict[str, float] = {}
    found = objective.estimates(theta, buffers=buffers, group=group, full_precision=full_precision)
    for name, estimate in found.items():
        row[name], row[f"{name}_stderr"] = float(estimate), estimate.stderr
    return row
