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
    last = weights.of(weights.models[-1])
    of_last = ""
    if len(weights.models) > 1:
        of_last = f" of the last model, {last.models[0]}"
        each = {name: weights.over_models(name) for name in metrics}
        yield Table(
            "means over the matrices of each model",
            ("model", *metrics),
            tuple((Cell(label), *(number(each[name][label], 4) for name in metrics)) for label in weights.models),
        )
    mean, median = last.model, last.median
    yield Table(
        f"means over the matrices{of_last}" if of_last else "the model, over its matrices",
        ("metric", "mean +- standard error", "median", "matrices"),
        tuple(
            (Cell(name), number(mean[name], 5, mean[name].stderr), number(median[name], 5), number(mean[name].n))
            for name in metrics
        ),
    )
    shown = [name for name in _SHOWN if name in weights.values]
    rows = tuple(_row(last, i, shown) for i in range(len(last.layers)))
    yield Table(f"matrices{of_last}", ("layer", "kind", "sides", *shown, "reason"), rows)
    said = tuple((Cell(layer), Cell(last.sentence(layer))) for layer in last.layers)
    yield Table(f"how sure alpha is{of_last}", ("layer", "in words"), said)
    noted = tuple(
        dict.fromkeys((layer, note) for layer, note in zip(weights.layers, weights.notes, strict=True) if note)
    )
    if noted:
        yield Table("what was supposed", ("layer", "what"), tuple((Cell(a), Cell(b)) for a, b in noted[:_LEFT_OUT]))
    if weights.skipped:
        told = list(weights.skipped.items())
        left = [(Cell(name), Cell(reason)) for name, reason in told[:_LEFT_OUT]]
        left += [(Cell(""), Cell(f"and {len(told) - _LEFT_OUT} more"))] if len(told) > _LEFT_OUT else []
        yield Table("tensors that were left out", ("tensor", "why"), tuple(left))


def _row(weights: Weights, i: int, shown: list[str]) -> tuple[Cell, ...]:
    sides = f"{weights.larger[i]} x {weights.smaller[i]}"
    sides = f"{weights.slices[i]} of {sides}" if weights.slices[i] > 1 else sides
    head = (Cell(weights.layers[i]), Cell(weights.kinds[i]), Cell(sides))
    if not weights.computed[i]:
        return (*head, *[Cell("not computed")] * len(shown), Cell(""))
    return (*head, *(number(float(weights.values[name][i]), 5, nan="-") for name in shown), Cell(weights.reasons[i]))


def weights_glance(weights: Weights) -> Line:
    """alpha over the matrices, for `landscape watch`."""
    x = np.arange(float(len(weights.layers)))
    return Line("alpha over the matrices", "matrix", x, weights.values["alpha"], weights.computed)
