"""Ratio estimates from sums over samples: value sum(n) / sum(d) and its standard error, from one pass.

A unit (a sample, or a batch where only batch values are known) gives a numerator n_i and a denominator d_i: the loss
of one image and 1, or the summed loss of a text and its count of tokens. Keeping both sums apart weighs a short last
batch, ignored targets and class weights right.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from landscape_kernels.arrays import FloatArray

MOMENTS = 6  # count, sum n, sum d, sum n^2, sum n d, sum d^2
_ROUNDED = 2.0**-51  # of sums in float64: what their rounding leaves of a difference that is 0
SUMS = 2  # of a group of units: sum n, sum d


def moments_(out: Tensor, numerators: Tensor, denominators: Tensor | None) -> None:
    """Write the six moments of one chunk's units into `out` (6,) float64; `denominators=None` means all ones."""
    n = numerators.detach().to(out)
    count = n.new_full((), n.numel())
    total, squares = n.sum(), (n * n).sum()
    if denominators is None:
        sums = [count, total, count, squares, total, count]
    else:
        d = denominators.detach().to(out)
        sums = [count, total, d.sum(), squares, (n * d).sum(), (d * d).sum()]
    torch.stack(sums, out=out)


def moments(numerators: Tensor, denominators: Tensor | None) -> tuple[float, ...]:
    """What `moments_` writes, as numbers (6,): of tensors on the CPU this takes half as long."""
    n = (numerators.detach() if numerators.requires_grad else numerators).double()
    count, total, squares = float(n.numel()), n.sum().item(), (n * n).sum().item()
    if denominators is None:
        return count, total, count, squares, total, count
    d = denominators.detach().double()
    return count, total, d.sum().item(), squares, (n * d).sum().item(), (d * d).sum().item()


def ratio(moments: FloatArray) -> tuple[float, float, int]:
    """(value, standard error, units) of sum(n)/sum(d) from the six moments summed over all units.

    stderr^2 = N/(N-1) sum_i (n_i - L d_i)^2 / (sum d)^2 with L the value: the linearised variance of a ratio of
    means (Cochran, Sampling Techniques, 3rd ed. 1977, eq. 6.13, without the finite-population factor); for d = 1 it
    is the standard error of a mean. 0 where the spread is no more than rounding leaves of the sums that it is the
    difference of: units that are all alike. NaN for fewer than two units, and where the value is not finite.

    >>> value, stderr, units = ratio(np.array([4.0, 10.0, 4.0, 30.0, 10.0, 4.0]))  # n = 1, 2, 3, 4
    >>> value, round(stderr, 6), units
    (2.5, 0.645497, 4)
    """
    count, n, d, nn, nd, dd = moments.tolist()
    if d == 0:
        return math.nan, math.nan, int(count)
    value = n / d
    if count < 2 or not math.isfinite(value):
        return value, math.nan, int(count)
    parts = nn, -2 * value * nd, value * value * dd
    spread = sum(parts)
    if spread <= _ROUNDED * sum(map(abs, parts)):
        spread = 0.0
    return value, math.sqrt(count / (count - 1) * spread) / abs(d), int(count)


def ratios(numerators: FloatArray, denominators: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(values (n,), standard errors (n,)) of n ratios over the same units, from (units, n) and (units,); see `ratio`.

    >>> ratios(np.array([[1.0], [2.0], [3.0], [4.0]]), np.ones(4))
    (array([2.5]), array([0.64549722]))
    """
    units, total = len(denominators), denominators.sum()
    values = numerators.sum(0) / total
    if units < 2:
        return values, np.full_like(values, math.nan)
    gaps = numerators - values * denominators[:, None]
    return values, np.sqrt(units / (units - 1) * np.square(gaps).sum(0)) / abs(total)


def add_by_group_(out: Tensor, values: Tensor, groups: Tensor) -> None:
    """Add the values (n,) of units to `out` (G,) float64, each to the group of `groups` (n,) that it belongs to.

    The order of the additions is fixed on every device.
    """
    exact = values.detach().to(out)
    if out.device.type == "cpu":
        out.scatter_add_(0, groups, exact)
        return
    inside = groups == torch.arange(len(out), device=out.device).unsqueeze(1)  # scatter_add_ is atomic elsewhere
    out += exact.where(inside, 0.0).sum(1)


def without_each(sums: FloatArray) -> FloatArray:
    """Ratios sum(n)/sum(d) of all units but one group's, each in turn: (..., G) from the groups' sums (..., 2, G).

    NaN for a group without weight, which is none.

    >>> without_each(np.array([[1.0, 2.0, 0.0, 6.0], [1.0, 1.0, 0.0, 2.0]])).tolist()
    [2.6666666666666665, 2.3333333333333335, nan, 1.5]
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        left = sums.sum(-1, keepdims=True) - sums
        result: FloatArray = np.where(sums[..., 1, :] != 0, left[..., 0, :] / left[..., 1, :], math.nan)
    return result


def jackknife(replicates: FloatArray) -> tuple[float, int]:
    """(standard error, groups m) of what was made of the data without each of m equal groups of them, (m,).

    sqrt((m - 1)/m sum_g (r_g - mean r)^2): the delete-a-group jackknife (Kott, Journal of Official Statistics 17,
    2001). It holds for smooth functions of means; its own relative error is about 1/sqrt(2 (m - 1)). NaN for fewer than
    two groups and for values that are not finite.

    >>> stderr, groups = jackknife(np.array([3.0, 8.0 / 3, 7.0 / 3, 2.0]))  # means of three of 1, 2, 3, 4
    >>> round(stderr, 6), groups
    (0.645497, 4)
    """
    m = len(replicates)
    if m < 2 or not np.isfinite(replicates).all():
        return math.nan, m
    return math.sqrt((m - 1) / m * float(np.square(replicates - replicates.mean()).sum())), m
