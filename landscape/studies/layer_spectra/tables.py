"""Spectra of layers in tables, and as columns."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from landscape_kernels.rounding import settled

from landscape.results.kind import Columns
from landscape.results.tables import Cell, Table, number
from landscape.studies.layer_spectra.result import LayerSpectra
from landscape.studies.spectrum.tables import cost_words, head, trace


def layers_columns(layers: LayerSpectra) -> Columns:
    """A row for each layer: its size, eigenvalues by index from 0, their errors and residuals, and the trace."""
    columns: dict[str, Any] = {"layer": list(layers.layers), "size": list(layers.sizes)}
    for k in range(layers.eigenvalues.shape[1]):
        columns |= {
            f"eigenvalue_{k}": layers.eigenvalues[:, k],
            f"eigenvalue_{k}_stderr": layers.stderr[:, k],
            f"residual_{k}": layers.residuals[:, k],
            **({} if layers.rounding is None else {f"rounding_{k}": layers.rounding[:, k]}),
            f"converged_{k}": layers.converged[:, k],
        }
    lists = {"searched": layers.searched, "missed": layers.missed, "whole": layers.whole}
    columns |= {name: values for name, values in lists.items() if values is not None}
    columns |= {"trace": layers.trace, "trace_stderr": layers.trace_stderr, "computed": layers.computed}
    return columns


def layers_tables(layers: LayerSpectra, title: str) -> Iterator[Table]:
    """What was measured, each layer's largest eigenvalue and trace with their errors, and the whole trace."""
    done, known = int(layers.computed.sum()), len(layers.layers)
    cost = {"eigenvalues": cost_words(layers.products, layers.passes)}
    yield head(title, f"{known} diagonal blocks, {done} of {known} computed", cost, layers.attributes)
    columns = ("layer", "size", "largest", "residual", "converged", "trace")
    yield Table("value +- standard error", columns, tuple(_layer(layers, i) for i in range(known)))
    if layers.whole_trace is not None:
        yield trace(layers.whole_trace)


def _layer(layers: LayerSpectra, i: int) -> tuple[Cell, ...]:
    name, size = Cell(layers.layers[i]), Cell(f"{layers.sizes[i]:,}", layers.sizes[i])
    if not layers.computed[i]:
        return name, size, *[Cell("not computed")] * 4
    asked = np.isfinite(layers.eigenvalues[i])
    known = layers.eigenvalues.shape[1] > 0
    first = (layers.eigenvalues[i, 0], layers.stderr[i, 0], layers.residuals[i, 0]) if known else (math.nan,) * 3
    converged = int(layers.converged[i, asked].sum())
    return (
        name,
        size,
        number(first[0], stderr=first[1], nan="-"),
        number(settled(first[2], 1.0), 2, nan="-"),
        Cell(f"{converged} of {int(asked.sum())}", converged),
        number(layers.trace[i], stderr=layers.trace_stderr[i], nan="-"),
    )
