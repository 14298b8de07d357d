"""Axes and the order of grid points."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from landscape.errors import InputError
from landscape.planes.grid import Grid, axis_values


def test_the_middle_is_exactly_the_centre() -> None:
    for n in (3, 5, 51, 101, 10_001):
        for end in (1, 0.1, 0.3, 1 / 3, 7.7):
            values = axis_values("x", (-end, end, n))
            assert values[n // 2] == 0.0
            assert np.array_equal(values, -values[::-1])


def test_ends_are_met_without_rounding() -> None:
    for stop in np.random.default_rng(0).uniform(0, 1, 200):
        for n in (2, 7, 50):
            values = axis_values("x", (-0.1, stop, n))
            assert (len(values), values[0], values[-1]) == (n, -0.1, stop)
            np.testing.assert_allclose(values, np.linspace(-0.1, stop, n), rtol=0, atol=4e-16)


@pytest.mark.parametrize("axis", [(0, 1, 51), (-1, 0, 51), (0.0, 1.0, 51.0)])
def test_zero_is_a_number(axis: tuple[float, float, int]) -> None:
    values = axis_values("x", axis)
    assert (values[0], values[-1], len(values)) == (*axis[:2], 51)


def test_one_point_and_arrays() -> None:
    assert axis_values("x", (0, 0, 1)).tolist() == [0.0]
    assert axis_values("x", np.array([0, 1, 5])).tolist() == [0.0, 1.0, 5.0]
    assert axis_values("x", torch.tensor([0.0, 1.0, 5.0])).tolist() == [0.0, 1.0, 5.0]  # coordinates, not (0, 1, n=5)


@pytest.mark.parametrize(
    ("axis", "says"),
    [
        ((-1, 1, 0), "n=0 points"),
        ((-1, 1, -3), "n=-3 points"),
        ((-1, 1, 2.5), "n=2.5 points"),
        ((-1, 1, float("nan")), "n=nan points"),
        ((-1, 1, float("inf")), "n=inf points"),
        ((1, -1, 5), "give the smaller end first: (-1.0, 1.0, 5)"),
        ((float("nan"), 1, 5), "finite"),
        ((0, float("inf"), 5), "finite"),
        ((-1, 1, 1), "one point"),
        ([-1, 0, 1], "coordinates are an array: np.array([-1, 0, 1])"),
        ([0, 0.5, 0.7], "Three numbers, in a tuple or a list, are (start, stop, n)"),
        ((2, 2, 5), "two different ends"),
        ((1.0, np.nextafter(1.0, 2), 5), "must increase"),
        ((-1, 1), "give (start, stop, n)"),
        ((-1, 1, "many"), "give (start, stop, n)"),
        (5, "give (start, stop, n)"),
        (np.array([0.0, np.nan]), "NaN"),
        (np.array([0.0, 2.0, 1.0]), "index 1"),
        (np.array([0.0, 0.0]), "must increase"),
        (np.array([]), "at least 1"),
        (np.zeros((2, 2)), "one-dimensional"),
    ],
)
def test_bad_axes_are_named(axis: object, says: str) -> None:
    with pytest.raises(InputError, match=re.escape(says)) as caught:
        Grid.of({"x": (0, 1, 2), "upsilon": axis})
    assert "upsilon" in str(caught.value)


def test_x_runs_fastest_in_an_array_indexed_z_y_x() -> None:
    grid = Grid.of({"x": (0, 4, 5), "y": (10, 12, 3), "z": (100, 101, 2)})
    assert (grid.shape, grid.size) == ((2, 3, 5), 30)
    index = 0
    for z in (100, 101):
        for y in (10, 11, 12):
            for x in range(5):
                assert grid.coordinates(index) == (x, y, z)
                assert grid.nearest((x + 0.4, y - 0.4, z)) == index
                assert np.unravel_index(index, grid.shape) == (z - 100, y - 10, x)
                index += 1
    with pytest.raises(ValueError, match="out of bounds"):
        grid.coordinates(30)


@pytest.mark.parametrize("axis", [("-1", "1", "3"), (-1, True, 3), "123", {"a": 1}, 3, np.array(["0", "1"])])
def test_texts_and_truths_are_no_coordinates(axis: Any) -> None:
    with pytest.raises(InputError, match=r"^x(=| is an array of <U1)"):
        axis_values("x", axis)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_tensors_of_any_type_and_with_gradients_are_coordinates(dtype: torch.dtype) -> None:
    assert axis_values("x", torch.tensor([-1.0, 0.5, 1], dtype=dtype, requires_grad=True)).tolist() == [-1, 0.5, 1]
