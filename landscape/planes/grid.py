"""Axes of a grid and the order of its points: the first axis varies fastest."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from landscape_kernels.arrays import FloatArray

from landscape.arguments import is_number
from landscape.errors import InputError

AXIS_NAMES = ("x", "y", "z", "u", "v", "w")
_FORMS = "Three numbers, in a tuple or a list, are (start, stop, n); coordinates are an array: np.array([-1, 0, 1])"


class AxisRange:
    """(start, stop, n): n places with both ends included."""

    def check(self, name: str, value: Any) -> Any:
        """The range as a tuple. Raises InputError for what is none."""
        numbers = isinstance(value, (list, tuple)) and all(map(is_number, value))
        if not numbers or len(value) != 3:
            raise InputError("a range is three numbers, [start, stop, n]")
        if not isinstance(value[2], int):
            raise InputError(f"n={value[2]} is not a whole number; give [start, stop, n] with n of at least 1")
        axis_values(name, value)
        return tuple(value)


Range = Annotated[tuple[float, float, int], AxisRange()]
AxisLike = Any  # (start, stop, n), or an array (numpy, torch, pandas, xarray) of coordinates


def axis_values(name: str, axis: AxisLike) -> FloatArray:
    """Coordinates along one axis, from (start, stop, n) with both ends included, or an increasing array of values.

    A list of three numbers is (start, stop, n), too, as in a job file.

    Value i is ((n-1-i) start + i stop) / (n-1): symmetric, so the middle of (-1, 1, 51) is exactly 0.
    Raises InputError for n < 1, start > stop, values that are not finite or not increasing.

    >>> axis_values("x", (-1, 1, 5))
    array([-1. , -0.5,  0. ,  0.5,  1. ])
    """
    if isinstance(axis, torch.Tensor):
        axis = axis.detach().cpu()
        axis = axis.float() if axis.dtype == torch.bfloat16 else axis  # which numpy has not
    if hasattr(axis, "__array__"):
        values = np.array(axis)
        if values.dtype.kind not in "iuf":
            raise InputError(f"{name} is an array of {values.dtype}; coordinates are real numbers")
        return _checked(name, values.astype(np.float64))
    given = list(axis) if isinstance(axis, Iterable) and not isinstance(axis, (str, Mapping)) else []
    if len(given) != 3 or not all(map(is_number, given)):
        raise InputError(f"{name}={axis!r}; give (start, stop, n), or an array of coordinates: np.array([-1, 0, 1])")
    start, stop, n = map(float, given)
    if not (math.isfinite(start) and math.isfinite(stop)):
        raise InputError(f"{name} runs from {start} to {stop}; both ends must be finite numbers")
    if not n.is_integer() or n < 1:
        raise InputError(f"{name} has n={n:g} points; n is a whole number of at least 1. {_FORMS}")
    count = int(n)
    if start > stop:
        raise InputError(
            f"{name} runs from {start} down to {stop}; give the smaller end first: ({stop}, {start}, {count}). {_FORMS}"
        )
    if count == 1:
        if start != stop:
            raise InputError(f"{name} has one point for the range {start} to {stop}; give n of at least 2. {_FORMS}")
        return np.array([start])
    if start == stop:
        raise InputError(
            f"{name} has {count} points between {start} and {stop}; give two different ends, or n=1. {_FORMS}"
        )
    i = np.arange(count)
    values = ((count - 1 - i) * start + i * stop) / (count - 1)
    values[[0, -1]] = start, stop  # the ends as given, without rounding
    return _checked(name, values)


def _checked(name: str, values: FloatArray) -> FloatArray:
    if values.ndim != 1 or values.size == 0:
        raise InputError(
            f"{name} has shape {values.shape}; coordinates are a one-dimensional array of at least 1 value"
        )
    if not np.isfinite(values).all():
        raise InputError(f"{name} holds {int((~np.isfinite(values)).sum())} coordinates that are NaN or infinite")
    if (np.diff(values) <= 0).any():
        raise InputError(
            f"the coordinates of {name} must increase; they do not at index {int(np.argmin(np.diff(values)))}"
        )
    return values


class Grid:
    """The points of a grid in file order: index 0 at every axis' start, the first axis fastest.

    >>> grid = Grid({"x": np.array([0.0, 1.0, 2.0]), "y": np.array([5.0, 6.0])})
    >>> grid.shape, grid.coordinates(4)
    ((2, 3), (1.0, 6.0))
    """

    def __init__(self, axes: Mapping[str, FloatArray]) -> None:
        self.axes = dict(axes)
        self.shape = tuple(len(values) for values in reversed(self.axes.values()))
        self.size = math.prod(self.shape)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Grid:
        """From {axis name: (start, stop, n) or array}. Raises InputError, see `axis_values`."""
        return cls({name: axis_values(name, axis) for name, axis in given.items()})

    def coordinates(self, index: int) -> tuple[float, ...]:
        """Coordinates of point `index`, first axis first."""
        left, found = index, []
        for values in self.axes.values():
            left, place = divmod(left, len(values))
            found.append(float(values[place]))
        if left:
            raise ValueError(f"point {index} is out of bounds: the grid has {self.size}")
        return tuple(found)

    def nearest(self, coordinates: Sequence[float]) -> int:
        """Index of the grid point whose coordinates are nearest, axis by axis."""
        places = [int(np.abs(v - c).argmin()) for v, c in zip(self.axes.values(), coordinates, strict=True)]
        return int(np.ravel_multi_index(places[::-1], self.shape))
