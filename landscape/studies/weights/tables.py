"""Weight matrices in tables, and as columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from landscape.results.attributes import what
from landscape.results.kind import Columns, Line
from landscape.results.tables import Cell, Table, number, pairs_table
from landscape.studies.weights.result import Weights

_SHOWN = ("alpha", "D", "num_pl_spikes", "log_norm", "log_spectral_norm", "stable_rank", "num_spikes")
_MODEL = ("alpha", "alpha_weighted", "log_alpha_norm", "log_norm", "log_spectral_norm", "stable_rank", "mp_softrank")
_LEFT_OUT = 20  # tensors shown


def weights_columns(weights: Weights) -> Columns:
    """A row for each matrix: what it is, its metrics, and why alpha has no value where it has none."""
    columns: dict[str, Any] = {"layer": list(weights.layers)}
    if len(weights.models) > 1:
        columns["model"] = [weights.models[k] for k in weights.model_of]
    columns |= {"tensor": list(weights.tensors), "kind": list(weights.kinds)}
    columns |= {"N": weights.larger, "M": weights.smaller, "slices": weights.slices}
    columns |= {"Q": weights.larger / weights.smaller, "num_evals": np.isfinite(weights.spectra).sum(axis=1)}
    return columns | dict(weights.values) | {"reason": list(weights.reasons), "computed": weights.computed}


def weights_tables(weights: Weights, title: str) -> Iterator[Table]:
    """What was measured, the model's values, each matrix, a sentence on each, and what was left out."""
    done, all_ = int(weights.computed.sum()), len(weights.layers)
    failed = weights.left_out()
    means = "left out of means" if weights.convention == "matrix" else "in means with alpha = -1"
    yield pairs_table(
        title,
        {
            "models": f"{len(weights.models)}: {', '.join(weights.models)}",
            "matrices": Cell(f"{done} of {all_} computed", done),
            "convention": weights.convention,
            "without a power law": Cell(f"{len(failed)}, {means}", len(failed)),
            "stored as": weights.attributes.get("stored", "unknown"),
            **what(weights.attributes),
        },
    )
    metrics = [name for name in _MODEL if name in weights.values]
    rows = []
    for label in weights.models:
        one = weights.of(label)
        mean, median = one.model, one.median
        rows += [
            (
                Cell(label),
                Cell(name),
                number(mean[name], 5, mean[name].stderr),
                number(median[name], 5),
                number(mean[name].n),
            )
            for name in metrics
        ]
    heads = ("model", "metric", "mean +- standard error", "median", "matrices")
    yield Table("the model, over its matrices", heads, tuple(rows))
    shown = [name for name in _SHOWN if name in weights.values]
    yield Table(
        "matrices",
        ("layer", "kind", "sides", *shown, "reason"),
        tuple(_row(weights, i, shown) for i in range(all_)),
    )
    last = weights.of(weights.models[-1])
    said = tuple((Cell(layer), Cell(last.sentence(layer))) for layer in last.layers)
    yield Table("how sure alpha is", ("layer", "in words"), said)
    if weights.skipped:
        told = list(weights.skipped.items())
        left = [(Cell(name), Cell(reason)) for name, reason in told[:_LEFT_OUT]]
        left += [(Cell(""), Cell(f"and {len(told) - _LEFT_OUT} more"))] if len(told) > _LEFT_OUT else []
        yield Table("tensors that were left out", ("tensor", "why"), tuple(left))


def _row(weights: Weights, i: int, shown: list[str]) -> tuple[Cell, ...]:
    sides = f"{weights.larger[i]} x {weights.smaller[i]}"
    sides = f"{weights.slices[i]} of {sides}" if weights.slices[i] > 1 else sides
    label = (
        weights.layers[i]
        if len(weights.models) == 1
        else f"{weights.layers[i]} ({weights.models[weights.model_of[i]]})"
    )
    head = (Cell(label), Cell(weights.kinds[i]), Cell(sides))
    if not weights.computed[i]:
        return (*head, *[Cell("not computed")] * len(shown), Cell(""))
    return (*head, *(number(float(weights.values[name][i]), 5, nan="-") for name in shown), Cell(weights.reasons[i]))


def weights_glance(weights: Weights) -> Line:
    """alpha over the matrices, for `landscape watch`."""
    x = np.arange(float(len(weights.layers)))
    return Line("alpha over the matrices", "matrix", x, weights.values["alpha"], weights.computed)
