"""Measures in tables, and as columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from landscape.results.attributes import what
from landscape.results.kind import Columns, Line
from landscape.results.tables import Cell, Table, number, pairs_table
from landscape.studies.measures.result import Measures

_ROWS = 200  # shown in a table; files and columns have them all


def measures_columns(measures: Measures) -> Columns:
    """A row for each row: its name under what it is, group, keys, each quantity and `_stderr`, whether computed."""
    columns: dict[str, Any] = {measures.row_kind: list(measures.rows)}
    if measures.groups:
        columns["group"] = list(measures.groups)
    columns |= {name: list(column) for name, column in measures.keys.items()}
    for name, values in measures.values.items():
        columns[name] = values
        if name in measures.stderr:
            columns[f"{name}_stderr"] = measures.stderr[name]
    return {**columns, "computed": measures.computed}


def measures_tables(measures: Measures, title: str) -> Iterator[Table]:
    """What was measured, a line for each row, and what each quantity is."""
    about, known = measures.attributes, len(measures.rows)
    kinds = {"groups": ", ".join(dict.fromkeys(measures.groups))} if measures.groups else {}
    yield pairs_table(
        title,
        {
            "rows": f"{known}, each a {measures.row_kind}, {int(measures.computed.sum())} of {known} computed",
            **kinds,
            **what(about),
            "errors": about.get("error", "unknown"),
        },
    )
    columns = (measures.row_kind, *(("group",) if measures.groups else ()), *measures.values)
    rows = [_row(measures, i) for i in range(min(known, _ROWS))]
    if known > _ROWS:
        rows.append((Cell(f"and {known - _ROWS} more"), *[Cell("")] * (len(columns) - 1)))
    yield Table("value +- standard error", columns, tuple(rows))
    yield pairs_table("what they are", {name: _definition(measures, name) for name in measures.words})


def _definition(measures: Measures, name: str) -> str:
    unit = measures.units.get(name, "1")
    where = ", for each entry of a tensor" if name in measures.arrays and name not in measures.values else ""
    return measures.words[name] + where + (f" [{unit}]" if unit != "1" else "")


def _row(measures: Measures, i: int) -> tuple[Cell, ...]:
    first = (Cell(measures.rows[i]), *((Cell(measures.groups[i]),) if measures.groups else ()))
    if not measures.computed[i]:
        return (*first, *[Cell("not computed")] * len(measures.values))
    errors = {name: float(array[i]) for name, array in measures.stderr.items()}
    return (*first, *(number(v[i], stderr=errors.get(name)) for name, v in measures.values.items()))


def measures_glance(measures: Measures) -> Line | None:
    """The first quantity, row by row."""
    name = next(iter(measures.values), None)
    if name is None or not measures.rows:
        return None
    known = f"{int(measures.computed.sum()):,} of {len(measures.rows):,} rows known"
    title = f"{name} of each {measures.row_kind}, {known}"
    rows = np.arange(float(len(measures.rows)))
    return Line(title, "row", rows, measures.values[name], measures.computed, highest=True)
