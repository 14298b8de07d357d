"""Rank statistics against scipy, lists of all orders and draws, and naive twins."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from landscape_kernels.rank_statistics import (
    basic_interval,
    conditional_information,
    granulated_kendall,
    holm,
    kendall,
    kendall_variance,
    members,
    partial_spearman,
    percentile_interval,
    redrawn,
    slope,
    spearman,
    weighted_mean,
)

EPS = np.finfo(np.float64).eps


def tied(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two vectors with ties, in step by half."""
    stream = np.random.default_rng(seed)
    x = stream.integers(0, max(2, n // 2), n).astype(float)
    return x, np.round(x + stream.normal(size=n) * n / 4)


@pytest.mark.parametrize("n", [3, 7, 40, 1100])  # the last takes several blocks
def test_equal_to_scipy(n: int) -> None:
    for seed in range(4 if n < 100 else 1):
        x, y = tied(n, seed)
        if np.ptp(x) == 0 or np.ptp(y) == 0:
            continue
        reference = scipy.stats.kendalltau(x, y, method="asymptotic")
        assert kendall(x, y)[0] == pytest.approx(reference.statistic, abs=8 * EPS)
        assert spearman(x, y)[0] == pytest.approx(scipy.stats.spearmanr(x, y).statistic, abs=16 * EPS)
        assert slope(x, y)[0] == pytest.approx(scipy.stats.linregress(x, y).slope, rel=n * 16 * EPS, abs=n * 16 * EPS)
        p = math.erfc(abs(kendall(x, y)[0]) / math.sqrt(2 * kendall_variance(x, y)))
        assert p == pytest.approx(reference.pvalue, rel=1e-12)


def test_what_does_not_vary_is_nan() -> None:
    one, x = np.full(5, 0.1), np.arange(5.0)
    for statistic in (kendall, spearman, slope):
        assert np.isnan(statistic(one, x)[0])
    assert np.isnan(kendall(x, one)[0])
    assert np.isnan(spearman(x, one)[0])
    assert slope(x, one)[0] == 0
    assert math.isnan(kendall_variance(one, x))
    alone = np.array([[5.0, 0, 0, 0, 0]])  # a draw of one model five times
    assert all(np.isnan(statistic(x, x, alone)[0]) for statistic in (kendall, spearman, slope))


def test_a_draw_is_the_models_written_out() -> None:
    x, y = tied(12, 1)
    z = np.random.default_rng(5).integers(0, 3, 12).astype(float)
    counts = redrawn([12], 30, 0)[0]
    columns = {s: s(x, y, counts) for s in (kendall, spearman, slope)}
    partial = partial_spearman(x, y, [z], counts)
    for k, row in enumerate(counts.astype(int)):
        a, b, c = (np.repeat(v, row) for v in (x, y, z))
        for statistic, found in columns.items():
            assert found[k] == pytest.approx(statistic(a, b)[0], abs=1e-13)
        assert partial[k] == pytest.approx(partial_spearman(a, b, [c])[0], abs=1e-10)
        assert columns[kendall][k] == pytest.approx(scipy.stats.kendalltau(a, b).statistic, abs=1e-13)


def test_pairs_inside_a_group_count_as_often_as_those_between() -> None:
    """Twin of the weights k / (k - 1) by a loop over pairs; and over all draws each pair counts once."""
    x, y = tied(7, 3)
    groups = [np.arange(3), np.arange(3, 7)]
    of = np.array([0, 0, 0, 1, 1, 1, 1])
    counts = np.concatenate(redrawn([3, 4], 20, 1), axis=1)
    found, ranked = kendall(x, y, counts, groups), spearman(x, y, counts, groups)
    sign = [np.sign(v[:, None] - v[None, :]) for v in (x, y)]
    weight = np.array([[{0: 3 / 2, 1: 4 / 3}[of[i]] if of[i] == of[j] else 1.0 for j in range(7)] for i in range(7)])
    for row, tau, rho in zip(counts, found, ranked, strict=True):
        pair = weight * row[:, None] * row[None, :]
        sums = [float((pair * a * b).sum()) for a, b in ((sign[0], sign[1]), (sign[0], sign[0]), (sign[1], sign[1]))]
        assert tau == pytest.approx(sums[0] / math.sqrt(sums[1] * sums[2]), abs=1e-14)
        ranks = [((weight * row[None, :]) * s).sum(1) for s in sign]
        top, *below = ((row * a * b).sum() for a, b in ((ranks[0], ranks[1]), (ranks[0],) * 2, (ranks[1],) * 2))
        assert rho == pytest.approx(top / math.sqrt(below[0] * below[1]), abs=1e-13)
    every = [np.bincount(draw, minlength=3) for draw in itertools.product(range(3), repeat=3)]
    assert np.mean([row[0] * row[1] for row in every]) * 3 / 2 == pytest.approx(1)
    assert kendall(x, y, None, groups) == kendall(x, y)


def test_slope_with_intercepts_is_least_squares_with_dummies() -> None:
    x, y = tied(15, 2)
    groups = members([0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 0, 1, 2, 0, 3])
    design = np.zeros((15, 5))
    design[:, 0] = x
    for k, group in enumerate(groups):
        design[group, k + 1] = 1
    expected = np.linalg.lstsq(design, y, rcond=None)[0][0]
    assert slope(x, y, None, groups)[0] == pytest.approx(expected, rel=1e-12)
    offset = x + 1e9
    assert slope(offset, y, None, groups)[0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("x", [[0, 1, 2, 3, 4], [0, 0, 1, 1, 2], [0, 0, 0, 1, 1]])
@pytest.mark.parametrize("y", [[1, 2, 3, 4, 5], [1, 1, 1, 2, 3]])
def test_variance_of_tau_over_all_orders(x: list[int], y: list[int]) -> None:
    a = np.array(x, dtype=float)
    taus = [float(kendall(a, np.array(order, dtype=float))[0]) for order in itertools.permutations(y)]
    assert np.mean(taus) == pytest.approx(0, abs=1e-12)
    assert kendall_variance(a, np.array(y, dtype=float)) == pytest.approx(float(np.var(taus)), rel=1e-12)


def test_partial_correlation_by_the_inverse_of_all_correlations_and_by_residuals() -> None:
    stream = np.random.default_rng(4)
    z = stream.normal(size=(3, 30))
    x, y = z.sum(0) + stream.normal(size=30), z[0] - z[1] + stream.normal(size=30)
    precision = np.linalg.inv(scipy.stats.spearmanr(np.stack([x, y, *z]).T).statistic)
    found = partial_spearman(x, y, list(z))[0]
    assert found == pytest.approx(-precision[0, 1] / math.sqrt(precision[0, 0] * precision[1, 1]), rel=1e-10)
    assert partial_spearman(x, y, [*z, z[0], np.ones(30)])[0] == pytest.approx(
        found, rel=1e-9
    )  # one twice, one constant
    assert partial_spearman(x, y, [])[0] == pytest.approx(spearman(x, y)[0], abs=1e-14)
    assert np.isnan(partial_spearman(x, y, [x**3])[0])  # the control has the metric's ranks


def test_granulated_by_loops() -> None:
    settings = list(itertools.product((1, 2, 3), ("a", "b"), (0.1, 0.2)))
    stream = np.random.default_rng(0)
    x, y = stream.normal(size=12), stream.normal(size=12)
    psi = []
    for axis in range(3):
        taus = []
        for other in {tuple(v for k, v in enumerate(s) if k != axis) for s in settings}:
            chosen = [i for i, s in enumerate(settings) if tuple(v for k, v in enumerate(s) if k != axis) == other]
            taus.append(scipy.stats.kendalltau(x[chosen], y[chosen]).statistic)
        psi.append(np.mean(taus))
    columns = [list(column) for column in zip(*settings, strict=True)]
    assert granulated_kendall(x, y, columns)[0] == pytest.approx(np.mean(psi), abs=1e-14)
    assert granulated_kendall(y, y, columns)[0] == 1
    assert math.isnan(granulated_kendall(np.ones(12), y, columns)[0])


def test_conditional_information_by_counting_pairs() -> None:
    settings = list(itertools.product((1, 2), ("a", "b"), (0.1, 0.2, 0.3)))
    stream = np.random.default_rng(1)
    x, y = stream.normal(size=12), stream.normal(size=12)

    def ratio(chosen: tuple[int, ...]) -> float:
        counts: dict[tuple[object, ...], np.ndarray] = {}
        for i, j in itertools.permutations(range(12), 2):
            given = tuple((settings[i][k], settings[j][k]) for k in chosen)
            counts.setdefault(given, np.zeros((2, 2)))[int(x[i] > x[j]), int(y[i] > y[j])] += 1
        shared = left = 0.0
        for table in counts.values():
            whole, p = table.sum(), table / table.sum()
            shared += whole * sum(
                p[a, b] * math.log(p[a, b] / (p[a].sum() * p[:, b].sum())) for a in (0, 1) for b in (0, 1) if p[a, b]
            )
            left -= whole * sum(q * math.log(q) for q in p.sum(0) if q)
        return shared / left

    sets = [c for size in range(3) for c in itertools.combinations(range(3), size)]
    columns = [list(column) for column in zip(*settings, strict=True)]
    found = conditional_information(x, y, columns)[0]
    assert found == pytest.approx(min(map(ratio, sets)), rel=1e-12)
    assert conditional_information(x, y, [])[0] == pytest.approx(ratio(()), rel=1e-12)
    assert conditional_information(y, y, columns)[0] == pytest.approx(1)
    assert math.isnan(conditional_information(np.ones(12), y, columns)[0])


def test_draws_of_what_rests_on_hyper_parameters_are_the_models_written_out() -> None:
    settings = [[k // 6 for k in range(12)], [k % 3 for k in range(12)]]
    stream = np.random.default_rng(3)
    x, y = stream.normal(size=12), stream.normal(size=12)
    counts = redrawn([12], 5, 0)[0]
    for statistic in (granulated_kendall, conditional_information):
        found = statistic(x, y, settings, counts)
        for draw, value in zip(counts.astype(int), found, strict=True):
            models = np.repeat(np.arange(12), draw)
            written = statistic(x[models], y[models], [[labels[k] for k in models] for labels in settings])
            assert value == pytest.approx(written[0], rel=1e-12)


def test_an_interval_of_the_information_of_nothing_reaches_nothing() -> None:
    """Draws of independent numbers are too large, as the sample is; what they are about it takes that away."""
    stream = np.random.default_rng(4)
    x, y = stream.normal(size=20), stream.normal(size=20)
    value = float(conditional_information(x, y, [])[0])
    drawn = conditional_information(x, y, [], redrawn([20], 300, 0)[0])
    assert percentile_interval(drawn, 0.9)[0] > 0
    assert basic_interval(value, drawn, 0.9)[0] <= 0
    assert basic_interval(2.0, np.linspace(2, 3, 101), 0.9) == pytest.approx((1.05, 1.95))


def test_a_metric_that_is_a_hyper_parameter_tells_nothing_once_that_is_known() -> None:
    h = np.repeat([0.0, 1.0], 10)
    stream = np.random.default_rng(2)
    y = 5 * h + stream.normal(size=20)
    x = h + 1e-3 * stream.normal(size=20)
    assert conditional_information(x, y, [])[0] > 0.15
    assert conditional_information(x, y, [h.tolist()])[0] < 0.1


def test_holm_intervals_and_means() -> None:
    p = np.array([0.01, np.nan, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(holm(p), [0.03, np.nan, 0.06, 0.06, 0.02], rtol=1e-15)
    assert holm(np.array([0.9, 0.8])).max() == 1
    assert percentile_interval(np.arange(101.0), 0.9) == pytest.approx((5.0, 95.0))
    assert all(map(math.isnan, percentile_interval(np.array([1.0] * 8 + [np.nan] * 2), 0.9)))
    values, sizes = np.array([[1.0, np.nan, -1.0], [np.nan] * 3]), np.array([3.0, 5.0, 1.0])
    np.testing.assert_array_equal(weighted_mean(values, sizes), [0.5, np.nan])
    assert weighted_mean(np.array([[-1 / 18, 1 / 3, -1 / 6]]), np.array([9.0, 6.0, 9.0]))[0] == 0


def test_draws_follow_from_sizes_and_seed() -> None:
    first, again, other = redrawn([3, 5], 50, 1), redrawn([3, 5], 50, 1), redrawn([3, 5], 50, 2)
    assert all((part.sum(1) == size).all() for part, size in zip(first, (3, 5), strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[1], other[1])
