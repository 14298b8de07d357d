"""Curves in tables, and as columns."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from landscape.results.attributes import what
from landscape.results.kind import Columns
from landscape.results.tables import Cell, Table, number, pairs_table
from landscape.studies.curve.result import Curve

_SETTINGS = ("epochs", "optimizer", "lr", "momentum", "weight_decay", "decay", "places", "parts")
_ROWS = 24  # of a long table


def curve_tables(curve: Curve, title: str) -> Iterator[Table]:
    """What the curve is, and how its training went."""
    points, size = curve.control_points.shape
    shape = {
        "curve": f"{curve.kind} of {points} control points in {size:,} parameters",
        "length": length(curve.length, curve.distance),
    }
    chosen = {name: curve.attributes[name] for name in _SETTINGS if name in curve.attributes}
    yield pairs_table(title, shape | what(curve.attributes, "weight_decay") | ({"training": chosen} if chosen else {}))
    if curve.history:
        epochs = len(next(iter(curve.history.values())))
        rows = (
            (Cell(str(k + 1), k + 1), *(number(values[k], 5) for values in curve.history.values()))
            for k in _some(epochs)
        )
        yield Table("training, means over an epoch", ("epoch", *curve.history), tuple(rows))


def length(length: float, distance: float) -> Cell:
    """A length beside the distance of the ends."""
    return Cell(f"{length:.6g}, distance of the ends {distance:.6g}", length)


def _some(count: int) -> list[int]:
    """Numbers of the rows of a long table that are shown, the first and the last among them."""
    return sorted({int(k) for k in np.linspace(0, count - 1, min(count, _ROWS)).round()})


def curve_columns(curve: Curve) -> Columns:
    """A row for each epoch of the fit; none for a curve that was given."""
    epochs = len(next(iter(curve.history.values()), ()))
    return {"epoch": np.arange(1, epochs + 1), **curve.history}
