"""Training in tables, as columns, and at a glance."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from landscape.results.attributes import what
from landscape.results.kind import Columns, Line
from landscape.results.tables import Cell, Table, number, pairs_table
from landscape.studies.training.recipe import Recipe
from landscape.studies.training.result import Training

_ALWAYS = ("optimizer", "lr", "batch_size", "epochs")  # of a recipe, told with what is not its default


def training_columns(training: Training) -> Columns:
    """A row for each model: keys, seed, values at the final weights and their `_stderr`, and how the training went."""
    columns: dict[str, Any] = {**training.keys, "seed": training.seed}
    for name in training.values:
        columns |= {name: training.final(name), f"{name}_stderr": training.final_stderr(name)}
    columns |= {"kept_epoch": training.kept, "epochs": training.epochs, "steps": training.steps}
    columns["ended"] = training.ended
    columns["left_out"] = tuple(training.left_out.get(row, "") for row in range(len(training.seed)))
    return {**columns, "computed": training.computed}


def training_tables(training: Training, title: str) -> Iterator[Table]:
    """What was trained how, the mean of each cell, and a line for each model that is left out."""
    about, rows = training.attributes, training.rows_of_cells()
    asked = Recipe.of(about.get("recipe", {}))
    told = {name: getattr(asked, name) for name in (*_ALWAYS, *asked.stated()) if name not in training.keys}
    count, trained = len(training.seed), int(training.computed.sum())
    keys = f" of {', '.join(training.keys)}" if training.keys else ""
    yield pairs_table(
        title,
        {
            "models": Cell(f"{count}, {trained} trained, {len(training.left_out)} left out", count),
            "cells": f"{len(rows)}{keys}",
            "recipe": ", ".join(f"{name} {value}" for name, value in told.items()),
            **what(about),
            "errors": about.get("error", "unknown"),
        },
    )
    finals = {name: training.final(name) for name in training.values}
    lines = []
    for key, models in rows.items():
        cells = [Cell(str(value), value if type(value) in (int, float) else None) for value in key]
        there = [row for row in models if training.computed[row] and row not in training.left_out]
        cells += [number(len(there))]
        for values in finals.values():
            own = values[there]
            mean = float(np.mean(own)) if len(own) else float("nan")
            error = float(np.std(own, ddof=1) / np.sqrt(len(own))) if len(own) > 1 else None
            cells.append(number(mean, 5, error))
        lines.append(tuple(cells))
    headings = (*training.keys, "trained", *finals)
    yield Table("cells at the final weights, mean +- standard error over seeds", headings, tuple(lines))
    if training.left_out:
        left = tuple((Cell(training.label(row)), Cell(reason)) for row, reason in sorted(training.left_out.items()))
        yield Table("models that are left out", ("model", "reason"), left)


def training_glance(training: Training) -> Line | None:
    """The lowest training loss of all models over the epochs, for `landscape watch`."""
    values = training.values["loss"]
    lowest = np.where(np.isfinite(values), values, np.inf).min(axis=0)
    seen = np.isfinite(lowest)
    lowest = np.where(seen, lowest, np.nan)
    return Line("lowest training loss", "epoch", np.arange(values.shape[1], dtype=np.float64), lowest, seen)
