"""A topology in tables: what was found, by which rule, and every minimum, saddle and maximum."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from landscape.results.kind import Columns, stacked
from landscape.results.tables import Cell, Table, number, pairs_table
from landscape.studies.topology.result import NOWHERE, CriticalPoints, Minima, Saddles, Topology

_ROWS = 20  # of a table
_ROLES = {(1, True): "basins meet", (1, False): "a loop closes", (2, False): "a loop fills, or a shell closes"}


def topology_tables(topology: Topology, title: str) -> Iterator[Table]:
    """What was found and which pairs count; minima, saddles and maxima by their numbers; provenance of the surface."""
    pairs = topology.pairs
    sizes = " x ".join(str(len(axis)) for axis in topology.surface.axes.values())
    yield pairs_table(
        title,
        {
            "quantity": topology.quantity,
            "grid": f"{sizes}, {topology.outside} points outside of the domain",
            "found": topology.found,
            "counted": topology.rule,
            "left out": f"{int((~pairs.counts).sum())} of {len(pairs.counts)} pairs",
            "SMAD": number(topology.smad, stderr=topology.smad_stderr, nan="none: no basins meet"),
        },
    )
    for name, points in (("minima", topology.minima), ("saddles", topology.saddles), ("maxima", topology.maxima)):
        if len(points):
            yield _points(topology, name, points)


def _points(topology: Topology, name: str, points: CriticalPoints) -> Table:
    columns = {"": [number(k) for k in range(len(points))]}
    for axis, coordinates in zip(topology.surface.axes, points.coordinates.T, strict=True):
        columns[axis] = [number(place) for place in coordinates]
    errors = zip(points.value, points.stderr, strict=True)
    columns[topology.quantity] = [number(value, stderr=None if np.isnan(error) else error) for value, error in errors]
    columns["persistence"] = [number(height) for height in points.persistence]
    if isinstance(points, Minima):
        columns["depth"] = [number(height) for height in points.depth]
        columns["saddle"] = [Cell("") if k == NOWHERE else number(int(k)) for k in points.saddle]
    if isinstance(points, Saddles):
        roles = zip(points.index.tolist(), points.joins.tolist(), strict=True)
        columns["what happens"] = [Cell(_ROLES[role]) for role in roles]
    columns["on the border"] = [Cell("yes" if there else "") for there in points.on_border]
    shown = np.sort(np.argsort(-points.persistence, kind="stable")[:_ROWS])
    title = name if len(points) <= _ROWS else f"{name}, the {_ROWS} most persistent of {len(points)}"
    return Table(title, tuple(columns), tuple(tuple(column[k] for column in columns.values()) for k in shown))


def topology_columns(topology: Topology) -> Columns:
    """A row for each minimum, saddle and maximum that counts; what the others alone have is missing."""

    def frame(kind: str, points: CriticalPoints, **more: Any) -> Columns:
        columns = dict(zip(topology.surface.axes, points.coordinates.T, strict=True))
        known = {name: getattr(points, name) for name in ("value", "stderr", "persistence", "on_border")}
        return {"kind": [kind] * len(points), **columns, **known, **more}

    frames = (
        frame("minimum", topology.minima, depth=topology.minima.depth),
        frame("saddle", topology.saddles, joins=topology.saddles.joins),
        frame("maximum", topology.maxima),
    )
    return stacked(frames)
