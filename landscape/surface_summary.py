"""A surface in tables: the grid, the plane, the range of every quantity, the points on it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from landscape.grid import Grid
from landscape.results import FloatArray, Points, Surface
from landscape.tables import Cell, Table, number, pairs_table

_WHAT = ("model", "parameters", "samples", "loss", "metrics", "precision", "batchnorm", "statistics_samples", "device")


def surface_tables(surface: Surface, title: str) -> Iterator[Table]:
    """What was measured, on what, and how exact it is."""
    about = surface.attributes
    done, size = int(surface.computed.sum()), surface.computed.size
    yield pairs_table(
        title,
        {
            "grid": " x ".join(str(len(values)) for values in surface.axes.values()) + f", {done} of {size} computed",
            **{name: about[name] for name in _WHAT if about.get(name) not in (None, "", {}, 0)},
            "errors": about.get("error", "unknown: this file came without them"),
            **_precision(about),
        },
    )
    plane: Mapping[str, Any] = about.get("plane") or {}
    yield _axes(surface, plane)
    if plane:
        yield _plane(surface, plane)
    yield _quantities(surface)
    if surface.points is not None:
        yield _points(surface.points, tuple(surface.axes), list(surface.values))


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
    computed = surface.computed.ravel()
    rows = []
    for name, array in surface.values.items():
        values, stderr = array.ravel(), surface.stderr[name].ravel()
        finite = np.flatnonzero(computed & np.isfinite(values))
        places = [int(finite[values[finite].argmin()]), int(finite[values[finite].argmax()])] if len(finite) else []
        extremes = [_at(values, stderr, place, grid) for place in places] or [Cell("-"), Cell("-")]
        middle = _at(values, stderr, centre, grid) if computed[centre] else Cell("not computed")
        rows.append((Cell(name), *extremes, middle, number(int((computed & ~np.isfinite(values)).sum()))))
    columns = ("quantity", "minimum", "maximum", "nearest to the centre", "NaN or Inf")
    return Table("values +- standard error", columns, tuple(rows))


def _at(values: FloatArray, stderr: FloatArray, place: int, grid: Grid) -> Cell:
    cell = number(values[place], stderr=stderr[place])
    where = ", ".join(f"{c:.4g}" for c in grid.coordinates(place))
    return Cell(f"{cell.text} at ({where})", cell.value, cell.stderr)


def _points(points: Points, axes: tuple[str, ...], quantities: Sequence[str]) -> Table:
    explained = points.explained_variance
    share = "" if explained is None else f"; variance explained {', '.join(f'{v:.1%}' for v in explained)}"
    measured = [q for q in quantities if q in points.true]
    rows = []
    for i, label in enumerate(points.labels):
        pairs = [(points.true[q][i], points.projected[q][i]) for q in measured]
        numbers = [*points.coordinates[i], points.distance[i], *(value for pair in pairs for value in pair)]
        rows.append((Cell(label), *(number(value, 5) for value in numbers)))
    headings = [heading for q in measured for heading in (f"{q} itself", f"{q} projected")]
    return Table(f"{points.kind} on the plane{share}", ("point", *axes, "distance", *headings), tuple(rows))


def _precision(about: Mapping[str, Any]) -> dict[str, str]:
    if "precision_error_relative" not in about:
        return {}
    error, points = about["precision_error_relative"], about["precision_error_points"]
    return {"precision error": f"at most {float(error):.2g} relative at {points} points also computed in float32"}
