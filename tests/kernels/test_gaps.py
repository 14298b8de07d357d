"""Values between known points of a grid: against polynomials, and what stands beside."""

from __future__ import annotations

import numpy as np
import pytest
from landscape_kernels.gaps import around, between
from numpy.testing import assert_allclose

X = np.array([0.0, 0.7, 1.1, 2.0, 2.6, 3.5, 4.1])
Y = np.linspace(-1, 1, 5)


def squares(*shape: int) -> np.ndarray:
    return np.indices(shape).sum(0) % 2 == 0


def test_cubics_along_uneven_axes_are_exact_inside() -> None:
    values = np.add.outer(Y**3 - Y, X**3 - 2 * X**2)
    found, gap = between([Y, X], values, squares(5, 7))
    assert_allclose(found[2, 3], values[2, 3], rtol=0, atol=1e-13)
    assert gap[2, 3] < 1e-13


def test_against_polynomials_fitted_point_by_point() -> None:
    rng = np.random.default_rng(0)
    values, known = rng.standard_normal(9), np.array([1, 1, 0, 1, 0, 1, 1, 0, 1], dtype=bool)
    x = np.sort(rng.uniform(0, 9, 9))
    found, gap = between([x], values, known)
    for i, used in {2: [0, 1, 3, 5], 4: [1, 3, 5, 6], 1: [0, 3, 5], 3: [0, 1, 5, 6], 7: [5, 6, 8]}.items():
        fit = np.polynomial.Polynomial.fit(x[used], values[used], len(used) - 1)
        assert_allclose(found[i], fit(x[i]), rtol=1e-9), i
    assert np.isnan(found[[0, 8]]).all()  # nothing is carried on beyond the ends
    assert not gap.any()


def test_what_is_known_at_the_point_is_not_used_nor_what_is_far() -> None:
    values = np.arange(7.0)
    changed = values.copy()
    changed[3] = 99
    known = np.ones(7, dtype=bool)
    assert between([X], values, known)[0][3] == between([X], changed, known)[0][3]
    gap = np.array([1, 1, 0, 0, 0, 1, 1], dtype=bool)
    assert np.isnan(between([X], values, gap)[0][[2, 4]]).all()  # three steps from what is known


def test_axes_that_disagree_say_so() -> None:
    values = np.zeros((5, 7))
    values[1, 3] = values[3, 3] = 4.0  # a ridge along one axis
    found, gap = between([Y, X], values, squares(5, 7))
    known = squares(5, 7)
    known[1, 3] = known[3, 3] = True
    assert gap[2, 3] > 1
    assert found[2, 3] > 1


@pytest.mark.parametrize("reach", [1, 2])
def test_around_is_all_within_reach(reach: int) -> None:
    values = np.arange(20.0).reshape(4, 5)
    found = around(values, reach)
    assert len(found) == (2 * reach + 1) ** 2 - 1
    near = [values[j, i] for j in range(4) for i in range(5) if 0 < max(abs(j - 1), abs(i - 2)) <= reach]
    assert sorted(found[:, 1, 2][~np.isnan(found[:, 1, 2])]) == sorted(near)
