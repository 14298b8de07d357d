"""Agreement in tables, and as columns."""

from __future__ import annotations

import math
from collections.abc import Iterator

from landscape.checkpoints.states import pair_columns
from landscape.results.attributes import what
from landscape.results.kind import Columns
from landscape.results.tables import Cell, Table, number, pairs_table
from landscape.studies.agreement.result import Agreement

_ALIKE = 1e-7  # what rounding leaves of these measures and of their errors, whose squares cancel: 1e-14 under a root


def agreement_columns(agreement: Agreement) -> Columns:
    """A row for each pair: the two models, and each measure with its `_stderr` where it has one."""
    columns = pair_columns(agreement.labels, agreement.pairs)
    for name, values in agreement.values.items():
        columns[name] = values
        if name in agreement.stderr:
            columns[f"{name}_stderr"] = agreement.stderr[name]
    return columns


def agreement_tables(agreement: Agreement, title: str) -> Iterator[Table]:
    """What was compared, and a line for each pair."""
    of = agreement.attributes.get("of", "") if any(name.startswith("cka") for name in agreement.values) else ""
    whole = "" if agreement.complete else f" of {int(agreement.attributes['samples']):,}"
    yield pairs_table(
        title,
        {
            "models": f"{len(agreement.labels)}: {', '.join(agreement.labels)}",
            "compared on": Cell(f"{agreement.samples:,}{whole} samples", agreement.samples),
            **what(agreement.attributes),
            "representations": of,
            "errors": agreement.attributes.get("error", "unknown"),
        },
    )
    rows = []
    for k, (i, j) in enumerate(agreement.pairs.tolist()):
        errors = {name: array[k] for name, array in agreement.stderr.items()}
        values = [_measure(array[k], errors.get(name)) for name, array in agreement.values.items()]
        rows.append((Cell(agreement.labels[i]), Cell(agreement.labels[j]), *values))
    yield Table("pairs, value +- standard error", ("first", "second", *agreement.values), tuple(rows))


def _measure(value: float, stderr: float | None) -> Cell:
    """A measure with its error; where both say that two models are wholly alike, or unlike, to rounding, without."""
    whole = float(round(value)) if math.isfinite(value) else value
    if stderr is not None and whole in (0.0, 1.0) and max(abs(value - whole), stderr) <= _ALIKE:
        return number(whole, 5)
    return number(value, 5, stderr)
