"""Means of gradients that few of them cannot move far: winsorised ones, and medians of three."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor


def winsorised_mean(values: Tensor, percent: float) -> Tensor:
    """(n,) means over rows (n, b), each entry clipped to its row's percentiles `percent` and 100 - `percent`.

    Percentiles are the nearest entries, as numpy's method "nearest" has them. A row with NaN has the mean NaN. The
    rows may be overwritten.

    >>> winsorised_mean(torch.tensor([[9.0, 1.0, 2.0, 3.0, -7.0]]), 25.0).tolist()
    [2.0]
    """
    count = values.shape[1]
    low, high = _ends(count, percent)
    if low == 0 and high == count - 1:
        return values.mean(1)
    if values.device.type == "cpu":  # numpy's sorting of short rows takes a sixth of torch's
        ordered = values.contiguous().numpy()
        ordered.sort(axis=1)
        values = torch.from_numpy(ordered)
    else:
        values = values.sort(1).values
    stands_for = values.new_ones(high + 1 - low)
    stands_for[0] += low
    stands_for[-1] += count - 1 - high
    whole = values[:, low : high + 1] @ stands_for
    return torch.where(values[:, -1].isnan(), values[:, -1], whole / count)


@cache
def _ends(count: int, percent: float) -> tuple[int, int]:
    """The places of both percentiles among so many entries in their order."""
    low, high = np.percentile(np.arange(count), (percent, 100 - percent), method="nearest")
    return int(low), int(high)


def median_of_three(window: Tensor) -> Tensor:
    """The medians (...) of three entries each, (3, ...): one of them to the bit, NaN where one is.

    >>> median_of_three(torch.tensor([[1.0, 5.0], [2.0, -7.0], [9.0, 0.0]])).tolist()
    [2.0, 0.0]
    """
    a, b, c = window
    return torch.maximum(torch.minimum(a, b), torch.minimum(torch.maximum(a, b), c))
