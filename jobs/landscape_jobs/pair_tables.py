"""Curves, paths, sweeps and agreement between models as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from rich.console import RenderableType

from landscape.agreement import Agreement
from landscape.connections import Connectivity
from landscape.curves import Curve
from landscape.paths import Path
from landscape_jobs.pair_check import PairsTrial
from landscape_jobs.tables import _pairs, _table, bytes_text, provenance_table, times_table

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
# Numbers of a sweep -> heading of their column; short, so that eight stand side by side
_COLUMNS = {
    "line_barrier": "line\nbarrier",
    "curve_barrier": "curve\nbarrier",
    "line_mc": "line\nmc",
    "curve_mc": "curve\nmc",
    "distance": "distance",
    "unaligned_distance": "before\nalignment",
    "length": "length",
}
_ROWS = 24  # of a long table


def curve_tables(curve: Curve, title: str) -> Iterator[RenderableType]:
    """What the curve is, and how its training went."""
    points, size = curve.control_points.shape
    shape = {
        "curve": f"{curve.kind} of {points} control points in {size:,} parameters",
        "length": f"{curve.length:.6g}, distance of the ends {curve.distance:.6g}",
    }
    settings = ("epochs", "optimizer", "lr", "momentum", "weight_decay", "decay", "places", "parts")
    chosen = {name: curve.attributes[name] for name in settings if name in curve.attributes}
    yield _pairs(title, shape | _what(curve.attributes) | ({"training": chosen} if chosen else {}))
    if curve.history:
        table = _table("training, means over an epoch", "epoch", *curve.history)
        epochs = len(next(iter(curve.history.values())))
        for k in _some(epochs):
            table.add_row(str(k + 1), *(f"{values[k]:.5g}" for values in curve.history.values()))
        yield table
    yield from provenance_table(curve.attributes)


def path_tables(path: Path, title: str) -> Iterator[RenderableType]:
    """What was measured along the path, and the numbers made of it."""
    about = path.attributes
    yield _pairs(
        title,
        {
            "places": f"{len(path.t)}, {int(path.computed.sum())} computed",
            "length": f"{path.length:.6g}, distance of the ends {path.distance:.6g}",
            **_what(about),
            "barrier of the loss": f"{path.barrier:.6g}",
            "mode connectivity": f"{path.mc:.6g} ({path.mc_quantity}; below 0 is a barrier)",
            "errors": about.get("error", ""),
        },
    )
    table = _table(
        "values +- standard error", "quantity", "t = 0", "t = 1", "largest", "smallest", "mean over arc length"
    )
    means, largest, smallest = path.mean, path.maximum, path.minimum
    for name, values in path.values.items():
        ends = [_with_error(values[k], path.stderr[name][k]) for k in (0, -1)]
        extremes = [f"{e.value:.6g} at t = {e.t:.4g}" for e in (largest[name], smallest[name])]
        table.add_row(name, *ends, *extremes, f"{means[name]:.6g}")
    yield table
    errors = {name: values[np.isfinite(values)] for name, values in path.statistics_stderr.items()}
    known = {name: f"at most {values.max():.2g}" for name, values in errors.items() if len(values)}
    if known:
        yield _pairs("standard error from estimating BatchNorm statistics", known)
    yield from provenance_table(about)


def connectivity_tables(table: Connectivity, title: str) -> Iterator[RenderableType]:
    """What was swept, and a line for each pair."""
    yield _pairs(
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
    shown = _table("pairs", "from", "to", *(_COLUMNS[name] for name in names))
    for k, (i, j) in enumerate(table.pairs.tolist()):
        values = [f"{numbers[name][k]:.3g}" for name in names] if table.computed[k] else ["not computed"] * len(names)
        shown.add_row(table.labels[i], table.labels[j], *values)
    yield shown
    yield from provenance_table(table.attributes)


def agreement_tables(agreement: Agreement, title: str) -> Iterator[RenderableType]:
    """What was compared, and a line for each pair."""
    measures = {name: agreement.attributes.get("of", "") if name.startswith("cka") else "" for name in agreement.values}
    yield _pairs(
        title,
        {
            "models": f"{len(agreement.labels)}: {', '.join(agreement.labels)}",
            "compared on": f"{agreement.samples:,} samples",
            **_what(agreement.attributes),
            "representations": ", ".join(dict.fromkeys(of for of in measures.values() if of)),
        },
    )
    shown = _table("pairs, value +- standard error", "first", "second", *agreement.values)
    for k, (i, j) in enumerate(agreement.pairs.tolist()):
        errors = {name: agreement.stderr[name][k] if name in agreement.stderr else np.nan for name in agreement.values}
        values = [_with_error(array[k], errors[name]) for name, array in agreement.values.items()]
        shown.add_row(agreement.labels[i], agreement.labels[j], *values)
    yield shown
    yield from provenance_table(agreement.attributes)


def pairs_trial_table(trial: PairsTrial) -> RenderableType:
    """The estimate of `landscape check` for a job of pairs of models."""
    training = {
        "training": f"{trial.steps:,} steps of {trial.step_seconds:.3g} s for each pair",
    }
    return _pairs(
        "estimate",
        {
            "pairs": f"{trial.pairs}, of which {trial.done} are there already",
            "loss at the ends of the first": ", ".join(f"{loss:.6g}" for loss in trial.losses),
            "places": f"{trial.places} on each line and curve, {trial.place_seconds:.3g} s each",
            **(training if trial.steps else {}),
            "time per pair": f"{trial.pair_seconds:.3g} s",
            **times_table(trial),
            "memory per rank": bytes_text(trial.memory),
            **({"GPU memory per rank": bytes_text(trial.device_memory)} if trial.device_memory else {}),
        },
    )


def _what(about: Mapping[str, Any]) -> dict[str, Any]:
    return {name: about[name] for name in _WHAT if about.get(name) not in (None, "", {}, 0, "none")}


def _some(count: int) -> list[int]:
    """Numbers of the rows of a long table that are shown, the first and the last among them."""
    return sorted({int(k) for k in np.linspace(0, count - 1, min(count, _ROWS)).round()})


def _with_error(value: float, stderr: float) -> str:
    return f"{value:.5g}" + (f" +- {stderr:.2g}" if np.isfinite(stderr) else "")
