"""Profiles in tables: the directions, and every quantity at the ends and the centre."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from landscape_kernels.rounding import rounding_of, settled

from landscape.precise.told import error_columns, found_column, precision_pairs
from landscape.results.attributes import what
from landscape.results.kind import Columns, Line
from landscape.results.tables import Table, number, pairs_table
from landscape.studies.profiles.result import SHARES, Profiles


def profiles_tables(profiles: Profiles, title: str) -> Iterator[Table]:
    """What was measured, on what, and how much each quantity differs over the directions."""
    about = profiles.attributes
    n, nx = profiles.computed.shape
    yield pairs_table(
        title,
        {
            "directions": f"{n}, {about.get('normalize', 'none')}-normalised, seed {about.get('seed', 'unknown')}",
            "points": f"{nx} along each, {int(profiles.computed.sum())} of {n * nx} computed",
            **what(about, "seed"),
            "errors": about.get("error", "unknown"),
            **precision_pairs(profiles),
        },
    )
    low, _, high = (f"{share:.0%} of directions below" for share in SHARES)
    columns = ("x", "median", low, high, "mean +- standard error over directions", "standard deviation")
    for name in profiles.values:
        below, middle, above = (profiles.quantile(name, share) for share in SHARES)
        mean, spread = profiles.mean[name], profiles.spread[name]
        roundings = [rounding_of(value, str(about.get("precision", ""))) for value in mean.tolist()]
        pairs = zip(spread.tolist(), mean.tolist(), roundings, strict=True)
        spread = np.array([settled(*pair) for pair in pairs])
        error = spread / np.sqrt(np.maximum(profiles.computed.sum(axis=0), 1))
        rows = (
            (
                *(number(float(array[i])) for array in (profiles.x, middle, below, above)),
                number(float(mean[i]), stderr=float(error[i])),
                number(float(spread[i])),
            )
            for i in sorted({0, int(np.abs(profiles.x).argmin()), nx - 1})
        )
        yield Table(f"{name} over directions", columns, tuple(rows))


def profiles_columns(profiles: Profiles) -> Columns:
    """A row for each (direction, x): each quantity, its `_stderr` (and errors), and whether it was computed."""
    n, nx = profiles.computed.shape
    columns: dict[str, Any] = {"direction": np.repeat(np.arange(n), nx), "x": np.tile(profiles.x, n)}
    for name, values in profiles.values.items():
        columns |= {name: values.ravel(), f"{name}_stderr": profiles.stderr[name].ravel()}
        columns |= error_columns(profiles, name)
    return {**columns, **found_column(profiles), "computed": profiles.computed.ravel()}


def profiles_glance(profiles: Profiles) -> Line:
    """The median of the first quantity."""
    name = next(iter(profiles.values))
    known = f"{int(profiles.computed.sum()):,} of {profiles.computed.size:,} points known"
    title = f"median of {name} over directions, {known}"
    return Line(title, "x", profiles.x, profiles.quantile(name, 0.5), np.any(profiles.computed, axis=0))
