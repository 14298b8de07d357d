"""Generalisation measures in tables, and as columns."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from landscape.results.attributes import what
from landscape.results.kind import Columns, Line
from landscape.results.tables import Cell, Table, number, pairs_table
from landscape.studies.complexity.result import Complexity


def complexity_columns(complexity: Complexity) -> Columns:
    """A row for each measure: value, error, the same adjusted, where it is from, what it cost, why it is skipped."""
    c = complexity
    return {
        "measure": list(c.names),
        "value": c.value,
        "stderr": c.stderr,
        "adjusted": c.adjusted_value,
        "adjusted_stderr": c.adjusted_stderr,
        "n": c.n,
        "unit": list(c.units),
        "passes": c.passes,
        "source": list(c.sources),
        "formula": list(c.formulas),
        "skipped": list(c.reasons),
        "note": list(c.notes),
        "computed": c.computed,
    }


def complexity_tables(complexity: Complexity, title: str) -> Iterator[Table]:
    """What was measured on what, a line for each measure, what they are, and why some have no value."""
    c, about = complexity, complexity.attributes
    done, all_ = int(c.computed.sum()), len(c.names)
    yield pairs_table(
        title,
        {
            "measures": Cell(f"{done} of {all_} computed, {len(c.skipped)} of them skipped", done),
            "definitions": "of Jiang et al., as their code has them" if about.get("parity") == "jiang" else "as stated",
            **what(about),
            "errors": about.get("error", "unknown"),
        },
    )
    rows = []
    for k, name in enumerate(c.names):
        if not c.computed[k]:
            rows.append((Cell(name), Cell("not computed"), Cell(""), Cell(""), Cell("")))
        elif not c.reasons[k]:
            value = number(float(c.value[k]), 5, float(c.stderr[k]))
            has = np.isfinite(c.adjusted_value[k])
            adjusted = number(float(c.adjusted_value[k]), 5, float(c.adjusted_stderr[k])) if has else Cell("")
            rows.append((Cell(name), value, adjusted, number(float(c.passes[k]), 3), Cell(c.notes[k])))
    yield Table("value +- standard error", ("measure", "value", "adjusted", "passes", "note"), tuple(rows))
    if c.skipped:
        yield pairs_table("skipped", dict(c.skipped))
    yield pairs_table(
        "what they are", {n: f"{f} ({s})" for n, f, s in zip(c.names, c.formulas, c.sources, strict=True)}
    )


def complexity_glance(complexity: Complexity) -> Line | None:
    """The values, measure by measure."""
    if not complexity.names:
        return None
    title = f"value of each measure, {int(complexity.computed.sum())} of {len(complexity.names)} known"
    rows = np.arange(float(len(complexity.names)))
    return Line(title, "measure", rows, complexity.value, complexity.computed, highest=True)
