"""Connectivity in tables, and as columns."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from landscape.checkpoints.states import pair_columns
from landscape.results.attributes import what
from landscape.results.kind import Columns
from landscape.results.tables import Cell, Table, number, pairs_table
from landscape.studies.connectivity.result import Connectivity


def connectivity_columns(table: Connectivity) -> Columns:
    """A row for each pair: the two models, the numbers of `NUMBERS`, computed."""
    return {**pair_columns(table.labels, table.pairs), **table.numbers, "computed": table.computed}


# Number of a pair -> heading of its column, in short words, so that eight stand side by side
_COLUMNS = {
    "line_barrier": "line barrier",
    "curve_barrier": "curve barrier",
    "line_mc": "line mc",
    "curve_mc": "curve mc",
    "distance": "distance",
    "unaligned_distance": "before alignment",
    "length": "length",
}


def connectivity_tables(table: Connectivity, title: str) -> Iterator[Table]:
    """What was swept, and a line for each pair."""
    yield pairs_table(
        title,
        {
            "models": f"{len(table.labels)}: {', '.join(table.labels)}",
            "pairs": f"{len(table.pairs)}, {int(table.computed.sum())} computed, at {len(table.t)} places",
            **what(table.attributes),
            "errors": table.attributes.get("error", ""),
        },
    )
    numbers = table.numbers
    unknown = {"unaligned_distance"} if table.attributes.get("align", "none") == "none" else set()
    names = [name for name in _COLUMNS if name in numbers and name not in unknown and not np.isnan(numbers[name]).all()]
    rows = []
    for k, (i, j) in enumerate(table.pairs.tolist()):
        values = [number(numbers[name][k], 3) if table.computed[k] else Cell("not computed") for name in names]
        rows.append((Cell(table.labels[i]), Cell(table.labels[j]), *values))
    yield Table("pairs", ("from", "to", *(_COLUMNS[name] for name in names)), tuple(rows))
