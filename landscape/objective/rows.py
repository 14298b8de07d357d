"""Values of an objective as columns of a row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from landscape_kernels.arrays import FloatArray
from torch import Tensor

from landscape.objective.groups import GROUPS
from landscape.objective.objective import Objective
from landscape.results.estimate import Estimate
from landscape.run.comm import Communicator

REPLICATES = "_replicates"  # ends the names of values without one group of the samples
# Relative gap allowed when rows found in a run folder are computed again: other hardware sums in another order.
RECHECK_RTOL = {"float32": 1e-4, "float64": 1e-8, "bf16": 3e-2, "own": 3e-2}


def evaluated(
    objective: Objective,
    theta: Tensor | None,
    buffers: Mapping[str, Tensor] | None,
    group: Communicator,
    *,
    full_precision: bool = False,
) -> dict[str, float]:
    """{quantity: value, quantity_stderr: its standard error, ...} at theta (size,); see `Objective.estimates`."""
    return row_of(objective.estimates(theta, buffers=buffers, group=group, full_precision=full_precision))


def replicated(
    objective: Objective,
    theta: Tensor,
    buffers: Mapping[str, Tensor] | None,
    group: Communicator,
) -> dict[str, float | FloatArray]:
    """What `evaluated` returns, and quantity_replicates (GROUPS,); see `Objective.estimates_and_replicates`."""
    found, replicates = objective.estimates_and_replicates(theta, buffers=buffers, group=group)
    return {**row_of(found), **{f"{name}{REPLICATES}": values for name, values in replicates.items()}}


def replicate_columns(quantities: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """The columns that `replicated` has more than `evaluated`, with the shape of one item's value."""
    return {f"{name}{REPLICATES}": (GROUPS,) for name in quantities}


def row_of(found: Mapping[str, Estimate]) -> dict[str, float]:
    """{quantity: value, quantity_stderr: its standard error, ...}."""
    row: dict[str, float] = {}
    for name, estimate in found.items():
        row[name], row[f"{name}_stderr"] = float(estimate), estimate.stderr
    return row
