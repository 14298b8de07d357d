"""Groups of samples, as users name them."""

from __future__ import annotations

from typing import Any

import numpy as np
from landscape_kernels.arrays import IntArray
from torch import Tensor

from landscape.errors import InputError
from landscape.objective.objective import Objective


def grouped(objective: Objective, groups: Any) -> tuple[tuple[str, ...], IntArray | None]:
    """(names of the groups, the number of each sample's), from one entry for each sample."""
    if groups is None:
        return (), None
    try:
        entries = np.asarray(groups.cpu() if isinstance(groups, Tensor) else groups)
        names, codes = np.unique(entries, return_inverse=True)
    except (TypeError, ValueError) as error:  # lists of lists, None, numbers beside texts
        raise InputError(f"groups is no list of numbers, nor one of texts: {error}") from error
    if entries.shape != (objective.samples,):
        raise InputError(
            f"groups has shape {entries.shape}; give one entry, a number or a text, for each of the "
            f"{objective.samples} samples in the order of the data"
        )
    if entries.dtype.kind == "f" and np.isnan(entries).any():
        raise InputError("groups has entries that are NaN, which name no group; give these samples a name of their own")
    if not objective.data.divisible:
        raise InputError(
            "groups need data whose batches may be cut, so that each holds samples of one group; with forward= or a "
            "loader of padded batches they are the user's own. Give (inputs, targets) or a Dataset, or measure an "
            "objective on the samples of each group"
        )
    if len(names) > objective.samples // 2 and len(names) > 2:
        raise InputError(
            f"groups has {len(names)} different entries for {objective.samples} samples; give groups of several "
            "samples, or ask for single ones by examples=True"
        )
    return tuple(str(name) for name in names.tolist()), codes.astype(np.int64)
