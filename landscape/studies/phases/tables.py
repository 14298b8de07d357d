"""Phases in tables, and as columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from landscape.results.attributes import what
from landscape.results.kind import Columns, Field
from landscape.results.tables import Cell, Table, number, pairs_table
from landscape.studies.phases.result import PHASES, Phases

_ROWS = 200  # shown in a table; files and columns have them all
_TOGETHER = 3  # metrics in one table, which a terminal of 80 columns shows
_LIMITS = {
    "sharp": "sharp where it is above",
    "connected": "connected where it is above",
    "alike": "alike from",
    "fitted": "sharp, too, where it is above",
}


def phases_columns(phases: Phases) -> Columns:
    """A row for each cell: load, temperature, phase, probabilities, each metric and its errors, reason and notes."""
    across, up = np.meshgrid(phases.temperature, phases.load)
    columns: dict[str, Any] = {phases.axes[0]: up.ravel(), phases.axes[1]: across.ravel()}
    columns["phase"] = [str(name) for name in phases.phase.ravel()]
    for k, name in enumerate(PHASES):
        columns[f"probability_{name}"] = phases.probability[..., k].ravel()
    for name, values in phases.values.items():
        columns[name] = values.ravel()
        for error in ("stderr", "seed_stderr", "own_stderr"):
            if name in (found := getattr(phases, error)):
                columns[f"{name}_{error}"] = found[name].ravel()
    for name, texts in (("reason", phases.reason), ("note", phases.notes)):
        columns[name] = [str(text) for text in texts.ravel()]
    return columns


def phases_tables(phases: Phases, title: str) -> Iterator[Table]:
    """What was measured, how many cells each phase has, and a line for each cell."""
    cells, holes = phases.phase.size, int((phases.phase == "").sum())
    limits = vars(phases.thresholds)
    yield pairs_table(
        title,
        {
            "load": f"{phases.axes[0]}, {len(phases.load)} values",
            "temperature": f"{phases.axes[1]}, {len(phases.temperature)} values",
            "cells": f"{cells}, of which {cells - holes} have a phase",
            **{metric: f"{_LIMITS[name]} {limits[name]:g}" for name, metric in phases.used.items()},
            **what(phases.attributes),
            "errors": phases.attributes.get("error", "those of the table that it was made of"),
        },
    )
    rows = []
    for name, words in PHASES.items():
        there = phases.phase == name
        sure = phases.confidence[there]
        known = sure[np.isfinite(sure)]
        rows.append(
            (Cell(name), Cell(words), number(int(there.sum())), _number(known.mean() if len(known) else np.nan))
        )
    yield Table("phases", ("phase", "which is", "cells", "mean probability"), tuple(rows))
    names = list(phases.values)
    yield from (_cells_table(phases, names[k : k + _TOGETHER], first=k == 0) for k in range(0, len(names), _TOGETHER))
    yield pairs_table("what they are", {name: _definition(phases, name) for name in phases.values})
    lost = [(i, j) for i, j in np.ndindex(phases.reason.shape) if phases.reason[i, j] or phases.notes[i, j]]
    if lost:
        said = [_place(phases, i, j) for i, j in lost]
        texts = [
            "; ".join(part for part in (str(phases.reason[i, j]), str(phases.notes[i, j])) if part) for i, j in lost
        ]
        found = [(Cell(a), Cell(b), Cell(text)) for (a, b), text in zip(said[:_ROWS], texts[:_ROWS], strict=True)]
        yield Table("holes and notes", (*phases.axes, "what is to be said"), tuple(found))


def _cells_table(phases: Phases, names: list[str], *, first: bool) -> Table:
    """Some metrics of the cells; the `first` of these tables has their phase, too."""
    rows = []
    for i, j in list(np.ndindex(phases.phase.shape))[:_ROWS]:
        cells = [Cell(text) for text in _place(phases, i, j)]
        if first:
            cells += [Cell(str(phases.phase[i, j]) or "none"), _number(float(phases.confidence[i, j]))]
        cells += [number(float(phases.values[m][i, j]), 4, float(phases.errors(m)[i, j])) for m in names]
        rows.append(tuple(cells))
    headings = (*phases.axes, *(("phase", "its probability") if first else ()), *names)
    if phases.phase.size > _ROWS:
        rows.append((Cell(f"and {phases.phase.size - _ROWS} more"), *[Cell("")] * (len(headings) - 1)))
    title = "cells, value +- standard error" if first else f"cells: {', '.join(names)}"
    return Table(title, headings, tuple(rows))


def _place(phases: Phases, i: int, j: int) -> tuple[str, str]:
    return f"{phases.load[i]:g}", f"{phases.temperature[j]:g}"


def _number(value: float) -> Cell:
    return number(value, 3, nan="unknown")


def _definition(phases: Phases, metric: str) -> str:
    meaning = phases.meaning(metric)
    return meaning.long_name + (f" [{meaning.unit}]" if meaning.unit else "")


def phases_glance(phases: Phases) -> Field:
    """The largest eigenvalue of each cell, for a terminal."""
    metric = phases.used["sharp"]
    values = phases.values[metric]
    title = f"{phases.meaning(metric).words} of each cell"
    axes = (phases.axes[1], phases.axes[0])
    return Field(title, axes, phases.temperature, phases.load, values, ~np.isnan(values))
