"""Coherence in tables, as columns, and at a glance."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from landscape.results.attributes import what
from landscape.results.kind import Columns, Line
from landscape.results.tables import Cell, Table, number, pairs_table
from landscape.studies.coherence.result import MEANINGS, Coherence

_SHOWN = ("alpha", "m_coherence", "noise_scale")


def coherence_columns(coherence: Coherence) -> Columns:
    """A row for each parameter vector and layer, that of all parameters first."""
    count, rows = len(coherence.labels), len(coherence.rows)
    columns = {"theta": np.repeat(np.array(coherence.labels, dtype=object), rows)}
    columns["layer"] = np.tile(np.array(coherence.rows, dtype=object), count)
    for name in MEANINGS:
        columns[name] = coherence.quantity(name).ravel()
        if name != "share":
            columns[f"{name}_stderr"] = coherence.error(name).ravel()
    columns |= {"gradient_square": coherence.norms.ravel(), "mean_square": coherence.squares.ravel()}
    return {**columns, "computed": np.repeat(coherence.computed, rows)}


def coherence_tables(coherence: Coherence, title: str) -> Iterator[Table]:
    """What was measured on what, all parameters at each vector, and the layers of the last."""
    about, done = coherence.attributes, np.flatnonzero(coherence.computed)
    yield pairs_table(
        title,
        {
            "parameter vectors": f"{len(done)} of {len(coherence.labels)} computed",
            "layers": len(coherence.rows) - 1,
            **what(about),
            "errors": about.get("error", "unknown"),
        },
    )
    lines = [(Cell(coherence.labels[t]), *_cells(coherence, t, 0)) for t in range(len(coherence.labels))]
    yield Table("all parameters, value +- standard error", ("theta", *_SHOWN), tuple(lines))
    if len(done):
        last = int(done[-1])
        shares = coherence.quantity("share")[last]
        layers = [
            (Cell(name), number(float(shares[k]), 4), *_cells(coherence, last, k))
            for k, name in enumerate(coherence.rows)
            if k
        ]
        at = f"layers at {coherence.labels[last]}, value +- standard error"
        yield Table(at, ("layer", "share", *_SHOWN), tuple(layers))
        if coherence.groups:
            yield _groups(coherence, last)
    if coherence.undefined:
        named = tuple((Cell(label), Cell(row), Cell(why)) for (label, row), why in coherence.undefined.items())
        yield Table("where alpha is undefined", ("theta", "layer", "reason"), named)


def _cells(coherence: Coherence, t: int, k: int) -> Iterator[Cell]:
    for name in _SHOWN:
        yield number(float(coherence.quantity(name)[t, k]), 4, float(coherence.error(name)[t, k]))


def _groups(coherence: Coherence, t: int) -> Table:
    rows = [
        (Cell(name), number(int(size)), *(number(float(value), 4) for value in products))
        for name, size, products in zip(coherence.groups, coherence.group_sizes, coherence.products[t], strict=True)
    ]
    at = f"mean products of gradients between groups at {coherence.labels[t]}"
    return Table(at, ("group", "samples", *coherence.groups), tuple(rows))


def coherence_glance(coherence: Coherence) -> Line:
    """m-coherence of all parameters over the parameter vectors, for `landscape watch`."""
    x = np.arange(len(coherence.labels), dtype=np.float64)
    return Line("m-coherence", "parameter vector", x, coherence.quantity("m_coherence")[:, 0], coherence.computed)
