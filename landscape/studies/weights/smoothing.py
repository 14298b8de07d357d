"""What is lost where weight matrices keep their largest singular values alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape.arguments import checked
from landscape.checkpoints.states import read_model
from landscape.checkpoints.tensors import HeldTensors, open_tensors
from landscape.errors import InputError
from landscape.network.weights import WeightMatrix, weight_matrices
from landscape.objective.gate import of_objective
from landscape.objective.objective import Objective
from landscape.run.comm import world
from landscape.studies.measures.result import Measures

_WORDS = "at weights whose matrices keep the share of largest singular values that the row names"


@checked()
def truncate_weights(model: Any, share: float) -> dict[str, Tensor]:
    """{name: tensor} of a model, every weight matrix truncated to its largest singular values.

    Of the M singular values of each matrix, of each tap of a convolution, ceil(share M) stay. `model` is any that
    `measure_weights` takes one of; the tensors are new. Raises InputError for a share that is not in (0, 1], and for
    weights that are not finite. Martin and Mahoney, arXiv 2106.00734 (SVD10, SVD20).
    """
    if not 0 < share <= 1:
        raise InputError(f"share={share}; give a share of singular values, above 0 and at most 1")
    source = open_tensors(model)
    found = {name: source.read(name).detach().clone().contiguous() for name in source.entries}
    for matrix in weight_matrices(source, model).kept:
        _truncate(matrix, found[matrix.tensor], share)
    for name, first in source.ties().items():
        found[name] = found[first]
    return found


def _truncate(matrix: WeightMatrix, tensor: Tensor, share: float) -> None:
    # a share of .1 of 30 is 3
    keep_largest(matrix, tensor, math.ceil(int(share * matrix.count + 1e-9) / matrix.slices) or 1)


def keep_largest(matrix: WeightMatrix, tensor: Tensor, kept: int) -> None:
    """Truncate every slice of a tensor, in place, to its `kept` largest singular values. Raises InputError for NaN."""
    if not bool(tensor.isfinite().all()):
        raise InputError(f"{matrix.tensor!r} holds values that are NaN or infinite; it is of a diverged run")
    for view in matrix.views(tensor):
        u, s, vh = torch.linalg.svd(view.double(), full_matrices=False)
        view.copy_((u[:, :kept] * s[:kept]) @ vh[:kept])


@of_objective
@checked()
def measure_smoothing(objective: Objective, shares: Sequence[float] = (0.1, 0.2)) -> Measures:
    """Loss and metrics where every weight matrix is truncated to a share of its singular values, and as it is.

    The rows are "full" and each of the `shares`; errors are standard errors over samples, for the population. The data
    are shared out over all ranks. Raises InputError for shares that are not in (0, 1]; see `truncate_weights`.
    """
    with objective.differentiable() as (module, _):
        held = HeldTensors({name: value.clone() for name, value in module.state_dict().items()})
        kept = weight_matrices(held, module).kept
    for share in shares:
        if not 0 < share <= 1:
            raise InputError(f"share={share}; give shares of singular values, above 0 and at most 1")
    rows = ["full", *(f"{share:g}" for share in shares)]
    estimates = [objective.estimates(group=world())]
    for share in shares:
        state = {name: held.read(name).clone().contiguous() for name in held.entries}
        for matrix in kept:
            _truncate(matrix, state[matrix.tensor], share)
        for name, first in held.ties().items():
            state[name] = state[first]
        theta, buffers = read_model(objective, state)
        estimates.append(objective.estimates(theta, buffers=buffers or None, group=world()))
    names = list(estimates[0])
    identity = objective.identity()
    return Measures(
        rows=tuple(rows),
        row_kind="share of singular values",
        values={name: np.array([float(one[name]) for one in estimates]) for name in names},
        stderr={name: np.array([one[name].stderr for one in estimates]) for name in names},
        words={name: f"{name} {_WORDS}" for name in names},
        computed=np.ones(len(rows), dtype=bool),
        attributes={
            "task": "smoothing",
            **{name: identity[name] for name in ("model", "parameters", "samples", "loss", "precision")},
            "error": "stderr is for the population that the data were drawn from",
        },
    )
