"""A surface in tables: the grid, the plane, the range of every quantity, the points on it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from landscape_kernels.arrays import FloatArray
from landscape_kernels.rounding import rounding_of

from landscape.planes.grid import Grid
from landscape.precise.told import error_columns, found_column, precision_pairs
from landscape.results.attributes import what
from landscape.results.kind import Columns, Field, Glance, Line
from landscape.results.tables import Cell, Table, number, pairs_table
from landscape.studies.surface.result import Points, Surface

_SIDE_BY_SIDE = 2  # quantities of points in one table: a terminal of 80 columns has no room for more


def surface_tables(surface: Surface, title: str) -> Iterator[Table]:
    """What was measured, on what, and how exact it is."""
    about = surface.attributes
    done, size = int(surface.computed.sum()), surface.computed.size
    yield pairs_table(
        title,
        {
            "grid": " x ".join(str(len(values)) for values in surface.axes.values()) + f", {done} of {size} computed",
            **what(about, "seed"),
            "errors": about.get("error", "unknown: this file came without them"),
            **_precision(about),
            **precision_pairs(surface),
        },
    )
    plane: Mapping[str, Any] = about.get("plane") or {}
    yield _axes(surface, plane)
    if plane:
        yield _plane(surface, plane)
    yield _quantities(surface)
    if surface.points is not None:
        yield from _points(surface.points, tuple(surface.axes), list(surface.values))


def _axes(surface: Surface, plane: Mapping[str, Any]) -> Table:
    lengths = plane.get("lengths", [math.nan] * len(surface.axes))
    rows = (
        (Cell(name), number(values[0]), number(values[-1]), number(len(values)), number(length))
        for (name, values), length in zip(surface.axes.items(), lengths, strict=True)
    )
    return Table("axes", ("axis", "from", "to", "points", "length of its direction"), tuple(rows))


def _plane(surface: Surface, plane: Mapping[str, Any]) -> Table:
    shown = {k: v for k, v in plane.items() if k not in ("lengths", "cosines")}
    if len(surface.axes) > 1 and "cosines" in plane:
        shown["cosines"] = ", ".join(
            f"{a}{b} {plane['cosines'][i][j]:.3g}"
            for i, a in enumerate(surface.axes)
            for j, b in enumerate(surface.axes)
            if i < j
        )
    return pairs_table("plane", shown)


def _quantities(surface: Surface) -> Table:
    grid = Grid(surface.axes)
    centre = grid.nearest([0.0] * len(grid.axes))
    middle = "nearest to centre" if any(grid.coordinates(centre)) else "centre"
    computed = surface.computed.ravel()
    rows = []
    for name, array in surface.values.items():
        values, stderr = array.ravel(), surface.stderr[name].ravel()
        known = computed & np.isfinite(values)
        missing = number(int((computed & ~known).sum()))
        places = {middle: centre}
        if known.any():
            ends = np.where(known, values, np.inf).argmin(), np.where(known, values, -np.inf).argmax()
            places = {"minimum": int(ends[0]), "maximum": int(ends[1]), **places}
        for named, place in places.items():
            rounding = rounding_of(float(values[place]), str(surface.attributes.get("precision", "")))
            bare = name.endswith("_residual")  # an error itself, which has none
            told = number(values[place], stderr=None if bare else stderr[place], rounding=rounding)
            found = told if computed[place] else Cell("not computed")
            errors = [] if surface.error is None else [_error(surface.error.get(name), place)]
            where = [number(c, 4) for c in grid.coordinates(place)]
            rows.append((Cell(name), Cell(named), found, *errors, *where, missing))
    asked = () if surface.error is None else ("error",)
    columns = ("quantity", "place", "value", *asked, *grid.axes, "NaN or Inf")
    return Table("values +- standard error", columns, tuple(rows))


def _error(errors: FloatArray | None, place: int) -> Cell:
    """What a value may be off from all data; empty where that is not known."""
    known = errors is not None and np.isfinite(errors.flat[place])
    return number(errors.flat[place], 2) if errors is not None and known else Cell("")


def _points(points: Points, axes: tuple[str, ...], quantities: Sequence[str]) -> Iterator[Table]:
    """Where the points are and one quantity there, then the others."""
    explained = points.explained_variance
    share = "" if explained is None else f"; variance explained {', '.join(f'{v:.1%}' for v in explained)}"
    title = f"{points.kind} on the plane"
    places = {**dict(zip(axes, points.coordinates.T, strict=True)), "distance": points.distance}
    measured = [q for q in quantities if q in points.true]
    yield _of_points(points, title + share, places, measured[:1])
    for first in range(1, len(measured), _SIDE_BY_SIDE):
        some = measured[first : first + _SIDE_BY_SIDE]
        yield _of_points(points, f"{title}: {' and '.join(some)}", {}, some)


def _of_points(points: Points, title: str, places: Mapping[str, FloatArray], quantities: Sequence[str]) -> Table:
    columns = dict(places)
    for q in quantities:
        columns |= {f"{q} itself": points.true[q], f"{q} projected": points.projected[q]}
    rows = (
        (Cell(label), *(number(values[i], 4) for values in columns.values())) for i, label in enumerate(points.labels)
    )
    return Table(title, ("point", *columns), tuple(rows))


def _precision(about: Mapping[str, Any]) -> dict[str, str]:
    if "precision_error_relative" not in about:
        return {}
    error, points = about["precision_error_relative"], about["precision_error_points"]
    return {"precision error": f"at most {float(error):.2g} relative at {points} points also computed in float32"}


def surface_columns(surface: Surface) -> Columns:
    """A row for each grid point, the first axis fastest: coordinates, quantities and their `_stderr`, computed."""
    places = np.meshgrid(*[*surface.axes.values()][::-1], indexing="ij")[::-1]
    columns: dict[str, Any] = {name: array.ravel() for name, array in zip(surface.axes, places, strict=True)}
    for name, values in surface.values.items():
        columns |= {name: values.ravel(), f"{name}_stderr": surface.stderr[name].ravel()}
        columns |= error_columns(surface, name)
    return {**columns, **found_column(surface), "computed": surface.computed.ravel()}


def surface_glance(surface: Surface) -> Glance:
    """The first quantity: along the axis where there is one, else over the first two, at the middle of the others."""
    name = next(iter(surface.values))
    known = f"{int(surface.computed.sum()):,} of {surface.computed.size:,} points known"
    if len(surface.axes) == 1:
        ((axis, x),) = surface.axes.items()
        return Line(f"{name} along {axis}, {known}", axis, x, surface.values[name], surface.computed)
    (x_name, x), (y_name, y), *further = surface.axes.items()
    middles = {axis: int(np.abs(places).argmin()) for axis, places in further}
    at = "".join(f", at {axis} = {places[middles[axis]]:.4g}" for axis, places in further)
    cut = tuple(middles[axis] for axis, _ in reversed(further))
    return Field(f"{name}{at}, {known}", (x_name, y_name), x, y, surface.values[name][cut], surface.computed[cut])
