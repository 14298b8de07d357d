"""Paths in tables, and as columns."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from landscape_kernels.arrays import FloatArray
from landscape_kernels.rounding import settled

from landscape.precise.told import error_columns, found_column, precision_pairs
from landscape.results.attributes import what
from landscape.results.kind import Columns, Line
from landscape.results.tables import Cell, Table, number, pairs_table
from landscape.studies.curve.tables import length
from landscape.studies.path.result import Extremum, Path


def path_columns(path: Path) -> Columns:
    """A row for each place: t, arc length, quantities and their `_stderr` and `_statistics_stderr`, computed."""
    columns: dict[str, Any] = {"t": path.t, "arc": path.arc}
    for name, values in path.values.items():
        columns |= {name: values, f"{name}_stderr": path.stderr[name], **error_columns(path, name)}
        if name in path.statistics_stderr:
            columns[f"{name}_statistics_stderr"] = path.statistics_stderr[name]
    return {**columns, **found_column(path), "computed": path.computed}


def path_tables(path: Path, title: str) -> Iterator[Table]:
    """What was measured along the path, and the numbers made of it."""
    way = "tol= asks for less" if path.found is None else "more places t= tell"
    which = (
        "barrier, mode connectivity and mean" if path.found is None else "barrier and mode connectivity, of full passes"
    )
    mc = number(path.mc, stderr=path.mc.stderr, rounding=path.mc_rounding)
    yield pairs_table(
        title,
        {
            "places": f"{len(path.t)}, {int(path.computed.sum())} computed",
            "length": length(path.length, path.distance),
            **what(path.attributes),
            "barrier of the loss": number(path.barrier, stderr=path.barrier.stderr, rounding=path.rounding_of("loss")),
            **between_places(path.maximum_excess, path.rounding_of("loss"), way),
            "mode connectivity": Cell(
                f"{mc.text}, of the {path.mc_quantity}; below 0 is a barrier", mc.value, mc.stderr
            ),
            "errors": path.attributes.get("error", ""),
            **precision_pairs(path),
            **_peak(path),
            **of_numbers(path.replicates, which),
        },
    )
    means, largest, smallest = path.mean, path.maximum, path.minimum
    rounding = {name: path.rounding_of(name) for name in path.values}
    rows = (
        (
            Cell(name),
            *(number(values[k], 5, path.stderr[name][k], rounding=rounding[name]) for k in (0, -1)),
            *_extremes(largest[name], smallest[name], rounding[name]),
            number(means[name], stderr=means[name].stderr, rounding=rounding[name]),
        )
        for name, values in path.values.items()
    )
    columns = ("quantity", "t = 0", "t = 1", "largest", "smallest", "mean over arc length")
    yield Table("values +- standard error", columns, tuple(rows))
    errors = {name: values[np.isfinite(values)] for name, values in path.statistics_stderr.items()}
    most = {name: settled(array.max(), 0.0, rounding[name]) for name, array in errors.items() if len(array)}
    known = {name: Cell(f"at most {error:.2g}", error) for name, error in most.items()}
    if known:
        yield pairs_table("standard error from estimating BatchNorm statistics", known)


def _peak(path: Path) -> dict[str, str]:
    """What is not known of the barrier of a path to a stated error."""
    if path.found is None:
        return {}
    peak = path.peak
    error = settled(peak.error, 0.0, path.rounding_of("loss"))
    if peak.height == 0:
        return {"error of the barrier": f"{error:.2g}; no place measured lies above the line between the ends"}
    between = "" if peak.first == peak.last else f", it may be anywhere from {peak.first:.4g} to {peak.last:.4g}"
    return {
        "error of the barrier": f"{error:.2g}, of samples not looked at",
        "place of the barrier": f"t = {peak.t:.4g} of the places measured{between}",
    }


def between_places(excess: float, rounding: float, way: str) -> dict[str, Cell]:
    """How far the largest loss may be above that at the places, and the `way` to know it better; {} where not known."""
    if math.isnan(excess):
        return {}
    if excess == math.inf:
        text = f"the loss may rise by any amount: two places do not tell; {way}"
    elif excess <= rounding:
        text = "the loss rises no higher, to rounding"
    else:
        text = f"the loss may rise by {excess:.3g} above its largest value; {way}"
    return {"between the places": Cell(text, settled(excess, 0.0, rounding))}


def of_numbers(replicates: Mapping[str, FloatArray], which: str) -> dict[str, str]:
    """What is to be said of the errors of numbers made of several places."""
    if not replicates:
        return {f"errors of {which}": "not known: an earlier version measured these, without groups of the samples"}
    groups = next(iter(replicates.values())).shape[-1]
    return {f"errors of {which}": f"a jackknife over {groups} groups of the samples, which all places share"}


def _extremes(largest: Extremum, smallest: Extremum, rounding: float) -> Iterator[Cell]:
    level = largest.value - smallest.value <= rounding  # where it is largest is then a matter of rounding
    for found in (largest, smallest):
        place = "everywhere" if level else f"at t = {found.t:.4g}"
        yield Cell(f"{found.value:.6g} {place}", found.value, settled(found.stderr, found.value, rounding))


def path_glance(path: Path) -> Line:
    """The loss along the path."""
    known = f"{int(path.computed.sum()):,} of {path.computed.size:,} points known"
    return Line(f"loss along the path, {known}", "t", path.t, path.values["loss"], path.computed, highest=True)
