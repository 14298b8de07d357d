"""Paths in tables, and as columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from landscape_kernels.arrays import FloatArray

from landscape.results.attributes import what
from landscape.results.kind import Columns, Line
from landscape.results.tables import Cell, Table, number, pairs_table
from landscape.studies.curve.tables import length
from landscape.studies.path.result import Extremum, Path


def path_columns(path: Path) -> Columns:
    """A row for each place: t, arc length, quantities and their `_stderr` and `_statistics_stderr`, computed."""
    columns: dict[str, Any] = {"t": path.t, "arc": path.arc}
    for name, values in path.values.items():
        columns |= {name: values, f"{name}_stderr": path.stderr[name]}
        if name in path.statistics_stderr:
            columns[f"{name}_statistics_stderr"] = path.statistics_stderr[name]
    return {**columns, "computed": path.computed}


def path_tables(path: Path, title: str) -> Iterator[Table]:
    """What was measured along the path, and the numbers made of it."""
    mc = number(path.mc, stderr=path.mc.stderr)
    yield pairs_table(
        title,
        {
            "places": f"{len(path.t)}, {int(path.computed.sum())} computed",
            "length": length(path.length, path.distance),
            **what(path.attributes),
            "barrier of the loss": number(path.barrier, stderr=path.barrier.stderr),
            "mode connectivity": Cell(f"{mc.text} ({path.mc_quantity}; below 0 is a barrier)", mc.value, mc.stderr),
            "errors": path.attributes.get("error", ""),
            **of_numbers(path.replicates, "barrier, mode connectivity and mean"),
        },
    )
    means, largest, smallest = path.mean, path.maximum, path.minimum
    rows = (
        (
            Cell(name),
            *(number(values[k], 5, path.stderr[name][k]) for k in (0, -1)),
            _extremum(largest[name]),
            _extremum(smallest[name]),
            number(means[name], stderr=means[name].stderr),
        )
        for name, values in path.values.items()
    )
    columns = ("quantity", "t = 0", "t = 1", "largest", "smallest", "mean over arc length")
    yield Table("values +- standard error", columns, tuple(rows))
    errors = {name: values[np.isfinite(values)] for name, values in path.statistics_stderr.items()}
    known = {
        name: Cell(f"at most {array.max():.2g}", float(array.max())) for name, array in errors.items() if len(array)
    }
    if known:
        yield pairs_table("standard error from estimating BatchNorm statistics", known)


def of_numbers(replicates: Mapping[str, FloatArray], which: str) -> dict[str, str]:
    """What is to be said of the errors of numbers made of several places."""
    if not replicates:
        return {f"errors of {which}": "not known: an earlier version measured these, without groups of the samples"}
    groups = next(iter(replicates.values())).shape[-1]
    return {f"errors of {which}": f"a jackknife over {groups} groups of the samples, which all places share"}


def _extremum(found: Extremum) -> Cell:
    return Cell(f"{found.value:.6g} at t = {found.t:.4g}", found.value, found.stderr)


def path_glance(path: Path) -> Line:
    """The loss along the path."""
    known = f"{int(path.computed.sum()):,} of {path.computed.size:,} points known"
    return Line(f"loss along the path, {known}", "t", path.t, path.values["loss"], path.computed, highest=True)
