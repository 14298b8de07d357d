"""Forgetting in tables, as columns, and at a glance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from landscape_kernels.arrays import FloatArray

from landscape.results.attributes import what
from landscape.results.kind import Columns, Line
from landscape.results.tables import Cell, Table, number, pairs_table
from landscape.studies.forgetting.result import EXCEEDED, HOLDS, WITHIN, Forgetting, meaning_of

_ROWS = 200  # shown in a table; files and columns have them all


def forgetting_columns(forgetting: Forgetting) -> Columns:
    """A row for each pair of a task and a later one."""
    f = forgetting
    columns: dict[str, Any] = {**f.keys, "seed": f.seed, "task": f.task, "later": f.later}
    for name, values in f.values.items():
        columns[name] = values
        if name in f.stderr:
            columns[f"{name}_stderr"] = f.stderr[name]
    columns |= {"bound": f.bound, "bound_stderr": f.bound_stderr, "verdict": f.verdict, "last": f.last}
    for name, parts in f.layer_values.items():
        columns |= {f"{name}:{layer}": parts[:, k] for k, layer in enumerate(f.layers)}
    return {**columns, "computed": f.computed}


def forgetting_tables(forgetting: Forgetting, title: str) -> Iterator[Table]:
    """What was measured on what, each cell at the end of its runs, what exceeds the bound, and the parts of layers."""
    f = forgetting
    verdicts, done, pairs = f.verdict, int(f.computed.sum()), len(f.seed)
    counts = {word: verdicts.count(word) for word in (HOLDS, WITHIN, EXCEEDED)}
    yield pairs_table(
        title,
        {
            "pairs": Cell(f"{pairs} of a task and a later one, {done} computed", pairs),
            "tasks": f"by {f.sequence}: {', '.join(map(str, dict.fromkeys((*f.task, *f.later))))}",
            "bound": ", ".join(f"{word} in {count}" for word, count in counts.items()),
            **what(f.attributes),
            "errors": f.attributes.get("error", "unknown"),
        },
    )
    parts, rows, factors = ("forgetting", "gradient", "quadratic"), [], []
    for words, places in f.rows_of_cells().items():
        ends = [k for k in places if f.last[k]]
        cells = [_mean(f.values[name][ends]) for name in parts]
        rows.append((Cell(words), number(len(ends)), *cells, _mean(f.bound[ends])))
        factors.append((Cell(words), *(_mean(f.values[name][ends]) for name in ("distance", "lambda_max"))))
    title = "after the last task, mean +- standard error over tasks and seeds"
    yield Table(title, ("cell", "pairs", *parts, "bound"), tuple(rows))
    yield Table("what the bound is made of, mean over the same", ("cell", "distance", "lambda_max"), tuple(factors))
    yield from _exceeding(f, verdicts)
    yield from _of_layers(f)
    yield pairs_table("what they are", {name: meaning_of(name).long_name for name in (*f.values, "bound")})
    if lost := f.attributes.get("lost"):
        yield pairs_table("models without final weights", dict(lost))


def _mean(values: FloatArray) -> Cell:
    known = values[np.isfinite(values)]
    error = float(np.std(known, ddof=1) / np.sqrt(len(known))) if len(known) > 1 else None
    return number(float(np.mean(known)) if len(known) else float("nan"), 4, error)


def _exceeding(f: Forgetting, verdicts: Sequence[str]) -> Iterator[Table]:
    """Every pair whose forgetting is above the bound, those first that errors do not explain."""
    above = [k for word in (EXCEEDED, WITHIN) for k, verdict in enumerate(verdicts) if verdict == word]
    if not above:
        return
    rows: list[tuple[Cell, ...]] = [
        (
            Cell(f.label(k)),
            number(float(f.forgetting[k]), 4, float(f.stderr["forgetting"][k])),
            number(float(f.bound[k]), 4, float(f.bound_stderr[k])),
            number(float(f.values["gradient"][k]), 4, float(f.stderr["gradient"][k])),
            number(float(f.forgetting[k] - f.predicted[k]), 4),
            Cell(verdicts[k]),
        )
        for k in above[:_ROWS]
    ]
    if len(above) > _ROWS:
        rows.append((Cell(f"and {len(above) - _ROWS} more"), *[Cell("")] * 5))
    headings = ("pair", "forgetting", "bound", "gradient", "beyond second order", "verdict")
    yield Table("pairs above the bound", headings, tuple(rows))


def _of_layers(f: Forgetting) -> Iterator[Table]:
    """The part of each layer in the quadratic form at the end of the runs, cell by cell."""
    rows = []
    for words, places in f.rows_of_cells().items():
        ends = [k for k in places if f.last[k]]
        cells = [_mean(f.layer_values["quadratic"][ends, layer]) for layer in range(len(f.layers))]
        rows.append((Cell(words), *cells))
    yield Table("part of each layer in the quadratic form, mean over the same", ("cell", *f.layers), tuple(rows))


def forgetting_glance(forgetting: Forgetting) -> Line | None:
    """The forgetting of every pair, for `landscape watch`."""
    f = forgetting
    if not f.seed:
        return None
    return Line(
        "forgetting of each pair", "pair", np.arange(float(len(f.seed))), f.forgetting, f.computed, highest=True
    )
