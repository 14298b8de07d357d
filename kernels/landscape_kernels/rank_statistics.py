"""How one number follows another over models: Kendall, Spearman, slopes; granulated, partial and conditional ones.

Every statistic takes two vectors x and y (n,) of finite numbers and, for a bootstrap, `counts` (d, n): how often each
model is in each of d draws. It then returns (d,), NaN for draws in which x or y does not vary. Without `counts` every
model counts once, and the result is (1,). Copies of one model are ties, so they say nothing of an order.

Sources: Kendall, Rank Correlation Methods (1970), chapters 3 and 4 (tau-b, its variance with ties); Jiang et al.,
Fantastic generalization measures and where to find them, ICLR 2020, section 2.2 (granulated tau, conditional mutual
information); Efron and Tibshirani, An introduction to the bootstrap (1993), chapter 13 (percentile intervals); Holm, A
simple sequentially rejective multiple test procedure, Scand. J. Statist. 6 (1979).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from landscape_kernels.arrays import FloatArray, IntArray

_BLOCK = 512  # models compared with all others at a time
_PAIRS = 1 << 22  # pairs of models of all draws at a time
_NOTHING = 1e-10  # share of a variance that rounding may leave


def _once(x: FloatArray, counts: FloatArray | None) -> FloatArray:
    return np.ones((1, len(x))) if counts is None else counts


def kendall(
    x: FloatArray, y: FloatArray, counts: FloatArray | None = None, groups: Sequence[IntArray] = ()
) -> FloatArray:
    """Kendall's tau-b, (d,): (concordant - discordant pairs) / sqrt(pairs not tied in x * pairs not tied in y).

    `groups` are the numbers of the models that were drawn together. A pair of models of one group of k is drawn
    (k - 1) / k times on average, as often one model is drawn twice, and a pair of two groups once; so pairs inside a
    group count k / (k - 1) times, without which draws would favour the order between groups.
    """
    drawn = _once(x, counts)
    sums = _pairs(x, y, drawn)
    for group in groups if counts is not None else ():
        if len(group) > 1:
            sums += _pairs(x[group], y[group], drawn[:, group]) / (len(group) - 1)
    return _ratio(sums[0], np.sqrt(sums[1] * sums[2]))


def _pairs(x: FloatArray, y: FloatArray, counts: FloatArray) -> FloatArray:
    """Twice the concordant less discordant pairs, the pairs not tied in x, and those not tied in y, (3, d)."""
    found = np.zeros((3, len(counts)))
    for start in range(0, len(x), _BLOCK):
        part = slice(start, start + _BLOCK)
        across, up = (np.sign(v[part, None] - v[None, :]) for v in (x, y))
        for total, signs in zip(found, (across * up, across * across, up * up), strict=True):
            total += np.einsum("dk,dk->d", counts[:, part], counts @ signs.T)
    return found


def spearman(
    x: FloatArray, y: FloatArray, counts: FloatArray | None = None, groups: Sequence[IntArray] = ()
) -> FloatArray:
    """Spearman's rho, (d,): Pearson's correlation of the ranks, ties of mean rank; `groups` as in `kendall`."""
    drawn = _once(x, counts)
    across, up = (_ranks(v, drawn, groups if counts is not None else ()) for v in (x, y))
    products = [np.einsum("dk,dk,dk->d", drawn, a, b) for a, b in ((across, up), (across, across), (up, up))]
    return _ratio(products[0], np.sqrt(products[1] * products[2]))


def slope(x: FloatArray, y: FloatArray, counts: FloatArray | None = None, apart: Sequence[IntArray] = ()) -> FloatArray:
    """Slope of the least-squares line of y on x, (d,), in units of y for a unit of x.

    With groups of models set `apart`, of lines of one slope, each group with an intercept of its own:
    sum_g Sxy_g / sum_g Sxx_g with S the centred products inside a group.
    """
    drawn = _once(x, counts)
    above, below, size = (np.zeros(len(drawn)) for _ in range(3))
    for group in apart or [np.arange(len(x))]:
        w, a, b = drawn[:, group], x[group] - x[group].mean(), y[group] - y[group].mean()
        number = np.maximum(w.sum(1), 1.0)
        above += w @ (a * b) - (w @ a) * (w @ b) / number
        below += w @ (a * a) - (w @ a) ** 2 / number
        size += w @ (a * a)
    rounding = 16 * len(x) * np.finfo(np.float64).eps
    return _ratio(above, np.where(below > rounding * size, below, 0.0))


def _ranks(x: FloatArray, counts: FloatArray, groups: Sequence[IntArray]) -> FloatArray:
    """How many models of a draw are below each model less how many are above, (d, n): twice its rank, of mean 0."""
    found = np.empty(counts.shape)
    for start in range(0, len(x), _BLOCK):
        part = slice(start, start + _BLOCK)
        found[:, part] = counts @ np.sign(x[part, None] - x[None, :]).T
    for group in groups:
        if len(group) > 1:
            found[:, group] += _ranks(x[group], counts[:, group], ()) / (len(group) - 1)
    return found


def _ratio(above: FloatArray, below: FloatArray) -> FloatArray:
    """above / below, NaN where below is 0."""
    found: FloatArray = np.full(above.shape, np.nan)
    np.divide(above, below, out=found, where=below > 0)
    return found


def kendall_variance(x: FloatArray, y: FloatArray) -> float:
    """Variance of tau-b where y is in random order, ties as they are; NaN where one of them does not vary.

    [(v0 - vx - vy) / 18 + c_x c_y / (2 n (n - 1)) + t_x t_y / (9 n (n - 1)(n - 2))] over the square of tau's
    denominator, with v = sum t(t - 1)(2t + 5), c = sum t(t - 1), t_ = sum t(t - 1)(t - 2) over ties of t.
    """
    n = len(x)
    tied_x, tied_y = (np.unique(v, return_counts=True)[1].astype(np.float64) for v in (x, y))
    whole = n * (n - 1.0)
    pairs = [float(np.sum(t * (t - 1))) for t in (tied_x, tied_y)]
    triples = [float(np.sum(t * (t - 1) * (t - 2))) for t in (tied_x, tied_y)]
    below = (whole - pairs[0]) * (whole - pairs[1]) / 4
    if below <= 0:
        return math.nan
    ends = sum(float(np.sum(t * (t - 1) * (2 * t + 5))) for t in (tied_x, tied_y))
    variance = (whole * (2 * n + 5) - ends) / 18 + pairs[0] * pairs[1] / (2 * whole)
    if n > 2:
        variance += triples[0] * triples[1] / (9 * whole * (n - 2))
    return variance / below


def members(labels: Sequence[object]) -> list[IntArray]:
    """Numbers of the models with equal labels, group by group in the order they come."""
    found: dict[object, list[int]] = {}
    for place, label in enumerate(labels):
        found.setdefault(label, []).append(place)
    return [np.array(places) for places in found.values()]


def weighted_mean(values: FloatArray, sizes: FloatArray) -> FloatArray:
    """sum_g size_g value_g / sum_g size_g, (d,), over the groups of `values` (d, g) that have one; else NaN.

    A sum no larger than its rounding is 0, so that it has no sign.
    """
    there = np.isfinite(values)
    known = np.where(there, values, 0.0)
    total, rounding = known @ sizes, 4 * np.finfo(np.float64).eps * (np.abs(known) @ sizes)
    return _ratio(np.where(np.abs(total) > rounding, total, 0.0), there @ sizes)


def redrawn(sizes: Sequence[int], draws: int, seed: int) -> list[FloatArray]:
    """For groups of so many models, how often each is in each draw with replacement inside its group: [(draws, size)].

    The draws depend on nothing but the sizes and the seed.
    """
    stream = np.random.default_rng(seed)
    return [stream.multinomial(size, np.full(size, 1 / size), draws).astype(np.float64) for size in sizes]


def percentile_interval(values: FloatArray, level: float) -> tuple[float, float]:
    """The central `level` of values (d,); NaN where fewer than nine in ten of the draws have one."""
    known = values[np.isfinite(values)]
    if known.size < 0.9 * values.size:
        return math.nan, math.nan
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def holm(p: FloatArray) -> FloatArray:
    """p-values (k,) adjusted so that the chance of one false finding among all is held, whatever their dependence.

    NaN stays NaN and is not counted.
    """
    found: FloatArray = np.full(len(p), np.nan)
    order = np.argsort(p, kind="stable")[: int(np.isfinite(p).sum())]  # NaN stands last
    steps = p[order] * np.arange(len(order), 0, -1)
    found[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return found


def basic_interval(value: float, values: FloatArray, level: float) -> tuple[float, float]:
    """The central `level` of 2 value - values (d,): draws err about the sample as it errs about the population.

    So it takes away a bias that draws have as the sample has it. NaN as in `percentile_interval`.
    """
    low, high = percentile_interval(values, level)
    return 2 * value - high, 2 * value - low


def granulated_kendall(
    x: FloatArray, y: FloatArray, settings: Sequence[Sequence[object]], counts: FloatArray | None = None
) -> FloatArray:
    """Jiang's Psi, (d,), the mean over hyper-parameters i of psi_i; `settings` has n labels for each of them.

    psi_i is the mean of tau-b over the sets of models that differ in hyper-parameter i alone. Sets in which x or y does
    not vary have no tau and are left out, and so is a hyper-parameter without any set; NaN where none is left.
    """
    drawn = _once(x, counts)
    means = []
    for axis in range(len(settings)):
        others = [values for k, values in enumerate(settings) if k != axis]
        labels = list(zip(*others, strict=True)) if others else [()] * len(x)
        taus = [kendall(x[g], y[g], drawn[:, g]) for g in members(labels) if len(g) > 1]
        means += [_plain_mean(np.stack(taus, axis=1))] if taus else []
    return _plain_mean(np.stack(means, axis=1)) if means else np.full(len(drawn), np.nan)


def _plain_mean(values: FloatArray) -> FloatArray:
    """The mean (d,) of what is known of values (d, k)."""
    there = np.isfinite(values)
    return _ratio(np.where(there, values, 0.0).sum(1), there.sum(1).astype(np.float64))


def conditional_information(
    x: FloatArray,
    y: FloatArray,
    settings: Sequence[Sequence[object]],
    counts: FloatArray | None = None,
    most: int = 2,
) -> FloatArray:
    """Jiang's K = min_S I(V_x; V_y | U_S) / H(V_y | U_S), (d,) of 0 to 1: what x tells of y whatever S is known.

    V are the signs of the differences of ordered pairs of models, U_S the values that the hyper-parameters in S have
    for both; S runs over all sets of at most `most` of them, the empty one, too. Pairs tied in x or y are left out. As
    an estimate from few pairs it is too large rather than too small. NaN where there is no pair, or where S tells all.
    """
    drawn = _once(x, counts)
    first, second = (ends.ravel() for ends in np.meshgrid(np.arange(len(x)), np.arange(len(x)), indexing="ij"))
    apart = (x[first] != x[second]) & (y[first] != y[second])
    first, second = first[apart], second[apart]
    if not first.size:
        return np.full(len(drawn), np.nan)
    outcome = 2 * (x[first] > x[second]) + (y[first] > y[second])
    codes = [_codes(values) for values in settings]
    found = np.full((0, len(drawn)), np.nan)
    for size in range(min(most, len(settings)) + 1):
        for chosen in itertools.combinations(range(len(settings)), size):
            cell = np.zeros(len(first), dtype=np.int64)
            for k in chosen:
                for side in (codes[k][first], codes[k][second]):
                    cell = cell * (int(side.max()) + 1) + side
            code = 4 * np.unique(cell, return_inverse=True)[1] + outcome
            found = np.vstack([found, _information(code, first, second, drawn)])
    known = np.isfinite(found)
    least: FloatArray = np.where(known, found, np.inf).min(0)
    return np.where(known.any(0), least, np.nan)


def _codes(labels: Sequence[object]) -> IntArray:
    """A number for each label, equal where labels are."""
    numbers = {label: k for k, label in enumerate(dict.fromkeys(labels))}
    return np.array([numbers[label] for label in labels], dtype=np.int64)


def _information(code: IntArray, first: IntArray, second: IntArray, counts: FloatArray) -> FloatArray:
    """I / H, (d,), of the outcomes 2 [x up] + [y up] in each cell, of pairs with `code` 4 cell + outcome."""
    order = np.argsort(code, kind="stable")
    there, starts = np.unique(code[order], return_index=True)
    first, second = first[order], second[order]
    found = np.full(len(counts), np.nan)
    block = max(1, _PAIRS // len(code))
    for start in range(0, len(counts), block):
        part = counts[start : start + block]
        table = np.zeros((len(part), 4 * (int(there[-1]) // 4 + 1)))
        table[:, there] = np.add.reduceat(part[:, first] * part[:, second], starts, axis=1)
        cells = table.reshape(len(part), -1, 2, 2)
        whole, of_x, of_y = cells.sum((2, 3)), _entropy(cells.sum(3)), _entropy(cells.sum(2))
        left = (whole * of_y).sum(1)
        shared = (whole * (of_x + of_y - _entropy(table.reshape(*whole.shape, 4)))).sum(1)
        found[start : start + block] = _ratio(np.maximum(shared, 0.0), left)
    return found


def _entropy(table: FloatArray) -> FloatArray:
    """Entropy in nats of counts along the last axis; 0 where there are none."""
    whole = table.sum(-1, keepdims=True)
    p = table / np.where(whole > 0, whole, 1.0)
    found: FloatArray = -np.sum(p * np.log(np.where(p > 0, p, 1.0)), axis=-1)
    return found


def partial_spearman(
    x: FloatArray,
    y: FloatArray,
    controls: Sequence[FloatArray],
    counts: FloatArray | None = None,
    groups: Sequence[IntArray] = (),
) -> FloatArray:
    """Spearman's rho of x and y with the controls held, (d,): the correlation of what linear functions leave of ranks.

    The ranks of x and y are each fitted by least squares on the ranks of the `controls`, (n,) each, and what is left is
    correlated; `groups` as in `kendall`. NaN where the controls leave nothing of one of them.
    """
    drawn = _once(x, counts)
    ranks = np.stack([_ranks(v, drawn, groups if counts is not None else ()) for v in (x, y, *controls)])
    products = np.einsum("dk,adk,bdk->dab", drawn, ranks, ranks, optimize=True)
    inner, cross = products[:, 2:, 2:], products[:, :2, 2:]
    fitted = cross @ np.linalg.pinv(inner, rcond=_NOTHING, hermitian=True) @ np.swapaxes(cross, 1, 2)
    left = products[:, :2, :2] - fitted
    of_x, of_y = (np.where(left[:, k, k] > _NOTHING * products[:, k, k], left[:, k, k], 0.0) for k in (0, 1))
    return _ratio(left[:, 0, 1], np.sqrt(of_x * of_y))
