"""Curves, paths, sweeps and agreement between models in tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from landscape.agreement import Agreement
from landscape.connections import Connectivity
from landscape.curves import Curve
from landscape.paths import Extremum, Path
from landscape.tables import Cell, Table, number, pairs_table

_WHAT = (
    "model",
    "parameters",
    "samples",
    "loss",
    "metrics",
    "precision",
    "batchnorm",
    "statistics_samples",
    "test_samples",
    "train",
    "fit",
    "align",
    "seed",
    "device",
)
_SETTINGS = ("epochs", "optimizer", "lr", "momentum", "weight_decay", "decay", "places", "parts")
# Numbers of a sweep -> heading of their column; of short words, so that eight stand side by side
_COLUMNS = {
    "line_barrier": "line barrier",
    "curve_barrier": "curve barrier",
    "line_mc": "line mc",
    "curve_mc": "curve mc",
    "distance": "distance",
    "unaligned_distance": "before alignment",
    "length": "length",
}
_ROWS = 24  # of a long table


def curve_tables(curve: Curve, title: str) -> Iterator[Table]:
    """What the curve is, and how its training went."""
    points, size = curve.control_points.shape
    shape = {
        "curve": f"{curve.kind} of {points} control points in {size:,} parameters",
        "length": _length(curve.length, curve.distance),
    }
    chosen = {name: curve.attributes[name] for name in _SETTINGS if name in curve.attributes}
    yield pairs_table(title, shape | _what(curve.attributes) | ({"training": chosen} if chosen else {}))
    if curve.history:
        epochs = len(next(iter(curve.history.values())))
        rows = (
            (Cell(str(k + 1), k + 1), *(number(values[k], 5) for values in curve.history.values()))
            for k in _some(epochs)
        )
        yield Table("training, means over an epoch", ("epoch", *curve.history), tuple(rows))


def path_tables(path: Path, title: str) -> Iterator[Table]:
    """What was measured along the path, and the numbers made of it."""
    mc = number(path.mc)
    yield pairs_table(
        title,
        {
            "places": f"{len(path.t)}, {int(path.computed.sum())} computed",
            "length": _length(path.length, path.distance),
            **_what(path.attributes),
            "barrier of the loss": number(path.barrier),
            "mode connectivity": Cell(f"{mc.text} ({path.mc_quantity}; below 0 is a barrier)", mc.value),
            "errors": path.attributes.get("error", ""),
        },
    )
    means, largest, smallest = path.mean, path.maximum, path.minimum
    rows = (
        (
            Cell(name),
            *(number(values[k], 5, path.stderr[name][k]) for k in (0, -1)),
            _extremum(largest[name]),
            _extremum(smallest[name]),
            number(means[name]),
        )
        for name, values in path.values.items()
    )
    columns = ("quantity", "t = 0", "t = 1", "largest", "smallest", "mean over arc length")
    yield Table("values +- standard error", columns, tuple(rows))
    errors = {name: values[np.isfinite(values)] for name, values in path.statistics_stderr.items()}
    known = {
        name: Cell(f"at most {array.max():.2g}", float(array.max())) for name, array in errors.items() if len(array)
    }
    if known:
        yield pairs_table("standard error from estimating BatchNorm statistics", known)


def connectivity_tables(table: Connectivity, title: str) -> Iterator[Table]:
    """What was swept, and a line for each pair."""
    yield pairs_table(
        title,
        {
            "models": f"{len(table.labels)}: {', '.join(table.labels)}",
            "pairs": f"{len(table.pairs)}, {int(table.computed.sum())} computed, at {len(table.t)} places",
            **_what(table.attributes),
            "errors": table.attributes.get("error", ""),
        },
    )
    numbers = table.numbers
    unknown = {"unaligned_distance"} if table.attributes.get("align", "none") == "none" else set()
    names = [name for name in _COLUMNS if name in numbers and name not in unknown and not np.isnan(numbers[name]).all()]
    rows = []
    for k, (i, j) in enumerate(table.pairs.tolist()):
        values = [number(numbers[name][k], 3) if table.computed[k] else Cell("not computed") for name in names]
        rows.append((Cell(table.labels[i]), Cell(table.labels[j]), *values))
    yield Table("pairs", ("from", "to", *(_COLUMNS[name] for name in names)), tuple(rows))


def agreement_tables(agreement: Agreement, title: str) -> Iterator[Table]:
    """What was compared, and a line for each pair."""
    of = agreement.attributes.get("of", "") if any(name.startswith("cka") for name in agreement.values) else ""
    yield pairs_table(
        title,
        {
            "models": f"{len(agreement.labels)}: {', '.join(agreement.labels)}",
            "compared on": Cell(f"{agreement.samples:,} samples", agreement.samples),
            **_what(agreement.attributes),
            "representations": of,
        },
    )
    rows = []
    for k, (i, j) in enumerate(agreement.pairs.tolist()):
        errors = {name: array[k] for name, array in agreement.stderr.items()}
        values = [number(array[k], 5, errors.get(name)) for name, array in agreement.values.items()]
        rows.append((Cell(agreement.labels[i]), Cell(agreement.labels[j]), *values))
    yield Table("pairs, value +- standard error", ("first", "second", *agreement.values), tuple(rows))


def _length(length: float, distance: float) -> Cell:
    return Cell(f"{length:.6g}, distance of the ends {distance:.6g}", length)


def _extremum(found: Extremum) -> Cell:
    return Cell(f"{found.value:.6g} at t = {found.t:.4g}", found.value, found.stderr)


def _what(about: Mapping[str, Any]) -> dict[str, Any]:
    return {name: about[name] for name in _WHAT if about.get(name) not in (None, "", {}, 0, "none")}


def _some(count: int) -> list[int]:
    """Numbers of the rows of a long table that are shown, the first and the last among them."""
    return sorted({int(k) for k in np.linspace(0, count - 1, min(count, _ROWS)).round()})
