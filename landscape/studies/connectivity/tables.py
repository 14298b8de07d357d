"""Connectivity in tables, and as columns."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from landscape_kernels.arrays import FloatArray

from landscape.checkpoints.states import pair_columns
from landscape.results.attributes import what
from landscape.results.kind import Columns
from landscape.results.tables import Cell, Table, number, pairs_table
from landscape.studies.connectivity.result import NUMBERS, Connectivity
from landscape.studies.path.tables import between_places, of_numbers

_COLUMNS = ("line_barrier", "curve_barrier", "line_mc", "curve_mc", "distance", "unaligned_distance", "length")


def connectivity_columns(result: Connectivity) -> Columns:
    """A row for each pair: the two models, the numbers of `NUMBERS` and `_stderr` of those that have one, computed."""
    columns: dict[str, Any] = {}
    for name, values in result.numbers.items():
        columns |= {name: values, **({f"{name}_stderr": result.errors[name]} if name in result.errors else {})}
    return {
        **pair_columns(result.labels, result.pairs),
        **columns,
        "computed": result.computed,
    }


def settled_numbers(result: Connectivity) -> dict[str, FloatArray]:
    """The numbers of the pairs, 0 where they are no more than rounding leaves."""
    known = result.roundings
    return {
        name: np.where(np.abs(values) <= known[name], 0.0, values) if name in known else values
        for name, values in result.numbers.items()
    }


def _between_places(result: Connectivity) -> dict[str, Cell]:
    """The path whose loss may rise most between its places."""
    kinds = (result.line_path, result.curve_path) if result.curve else (result.line_path,)
    paths = [
        path_of(i, j)
        for (i, j), done in zip(result.pairs.tolist(), result.computed, strict=True)
        if done
        for path_of in kinds
    ]
    known = [path for path in paths if not math.isnan(path.maximum_excess)]
    if not known:
        return {}
    most = max(known, key=lambda path: path.maximum_excess)
    return between_places(
        most.maximum_excess, most.rounding_of("loss"), "of all pairs this is the most; more places (t=) ask for less"
    )


def connectivity_tables(result: Connectivity, title: str) -> Iterator[Table]:
    """What was swept, and a line for each pair."""
    yield pairs_table(
        title,
        {
            "models": f"{len(result.labels)}: {', '.join(result.labels)}",
            "pairs": f"{len(result.pairs)}, {int(result.computed.sum())} computed, at {len(result.t)} places",
            **what(result.attributes),
            "errors": result.attributes.get("error", ""),
            **_between_places(result),
            **of_numbers(result.line_replicates, "barriers and mc"),
        },
    )
    numbers, errors, roundings = result.numbers, result.errors, result.roundings
    unknown = {"unaligned_distance"} if result.attributes.get("align", "none") == "none" else set()
    names = [name for name in _COLUMNS if name in numbers and name not in unknown and not np.isnan(numbers[name]).all()]
    rows = []
    for k, (i, j) in enumerate(result.pairs.tolist()):
        values = [
            number(
                numbers[name][k],
                3,
                errors[name][k] if name in errors else None,
                rounding=roundings[name][k] if name in roundings else 0.0,
            )
            if result.computed[k]
            else Cell("not computed")
            for name in names
        ]
        rows.append((Cell(result.labels[i]), Cell(result.labels[j]), *values))
    yield Table("pairs", ("from", "to", *(NUMBERS[name].words for name in names)), tuple(rows))
