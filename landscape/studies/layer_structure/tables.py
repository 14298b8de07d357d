"""The structure of layers in tables, and as columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from landscape.results.attributes import what
from landscape.results.kind import Columns
from landscape.results.tables import Cell, Table, number, pairs_table
from landscape.studies.layer_structure.result import LayerStructure
from landscape.studies.spectrum.tables import cost_words

_RANKED = (
    "eigenvalues",
    "stderr",
    "residuals",
    "rounding",
    "converged",
    "kronecker",
    "kronecker_stderr",
    "output_eigenvalues",
    "output_stderr",
    "input_eigenvalues",
    "input_stderr",
    "overlap",
    "chance",
    "rank_one",
    "other_overlap",
)
_NAMES = {"eigenvalues": "eigenvalue", "stderr": "eigenvalue_stderr", "residuals": "residual"}


def structure_columns(result: LayerStructure) -> Columns:
    """A row for each layer: its shape, and what is of each rank, by index from 0 ("eigenvalue_0", ...)."""
    columns: dict[str, Any] = {"layer": list(result.layers)}
    columns |= {name: getattr(result, name) for name in ("outputs", "inputs", "places", "mean_alignment")}
    for name in _RANKED:
        values = getattr(result, name)
        if values is not None:
            columns |= {f"{_NAMES.get(name, name)}_{j}": values[:, j] for j in range(values.shape[1])}
    return {**columns, "computed": result.computed}


def structure_tables(result: LayerStructure, title: str) -> Iterator[Table]:
    """What was measured, the blocks beside their approximations, and how alike eigenvectors are."""
    about = result.attributes
    yield pairs_table(
        title,
        {
            "layers": f"{len(result.layers)}, {int(result.computed.sum())} computed",
            **what(about),
            "places": about.get("places", "unknown"),
            "errors": about.get("error", "unknown"),
            "eigenvalues": cost_words(result.products, result.passes),
            **({"left out": result.left_out} if result.left_out else {}),
        },
    )
    names = ("layer", "m x p", "places", "block", "Kronecker", "E[M]", "E[x x']")
    rows = tuple(_eigenvalues(result, i) for i in range(len(result.layers)))
    yield Table("largest eigenvalues +- standard error", names, rows)
    last = _last(result)
    names = (
        "layer",
        "with the approximation",
        *(("with the other model",) if result.other_overlap is not None else ()),
    )
    rows = tuple(_overlaps(result, i, last) for i in range(len(result.layers)))
    yield Table(
        f"overlap of the {last + 1} leading eigenvectors, and rank one",
        (*names, "by chance", "sigma_1^2 of the first", "input along its mean"),
        rows,
    )


def _last(result: LayerStructure) -> int:
    """The last rank that is known of every computed layer, from 0."""
    known = np.isfinite(result.overlap[result.computed]).all(0)
    return max(int(known.sum()) - 1, 0) if result.computed.any() else result.overlap.shape[1] - 1


def _eigenvalues(result: LayerStructure, i: int) -> tuple[Cell, ...]:
    shape = Cell(f"{result.outputs[i]} x {result.inputs[i]}")
    head = (Cell(result.layers[i]), shape, Cell(str(result.places[i]), int(result.places[i])))
    if not result.computed[i]:
        return (*head, *[Cell("not computed")] * 4)
    pairs = (
        (result.eigenvalues, result.stderr),
        (result.kronecker, result.kronecker_stderr),
        (result.output_eigenvalues, result.output_stderr),
        (result.input_eigenvalues, result.input_stderr),
    )
    return (*head, *(number(values[i, 0], 4, errors[i, 0], nan="-") for values, errors in pairs))


def _overlaps(result: LayerStructure, i: int, last: int) -> tuple[Cell, ...]:
    shown = [result.overlap, *([result.other_overlap] if result.other_overlap is not None else []), result.chance]
    if not result.computed[i]:
        return (Cell(result.layers[i]), *[Cell("not computed")] * (len(shown) + 2))
    return (
        Cell(result.layers[i]),
        *(number(values[i, last], 3, nan="-") for values in shown),
        number(result.rank_one[i, 0], 3, nan="-"),
        number(result.mean_alignment[i], 3, nan="-"),
    )
