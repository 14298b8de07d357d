"""Curves of training as pictures of a report."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from landscape.pictures.views import Picture, View, band_and_line, lines
from landscape.studies.training.result import MEANINGS, Training
from landscape.studies.training.tables import training_columns

_COLOURS = ("@blue", "@red", "@green", "@purple", "@orange")


def training_views(training: Training, most: int) -> Iterator[Picture]:
    """A line for each model, and a picture for each quantity; the table behind them has the final values."""
    views: dict[str, View] = {}
    drawn = max(1, most // max(1, next(iter(training.values.values())).shape[1]))  # lines that a picture holds
    cells = training.rows_of_cells()
    models = [(number, row) for number, rows in enumerate(cells.values()) for row in rows if training.computed[row]]
    for name, curves in training.values.items():
        epochs = np.arange(curves.shape[1], dtype=np.float64)
        traces: list[View] = []
        for number, row in models[:drawn]:
            known, nothing = np.isfinite(curves[row]), np.full(len(epochs), np.nan)
            colour = _COLOURS[number % len(_COLOURS)]
            traces += band_and_line(
                epochs, curves[row], nothing, known, name, "epoch", colour=colour, label=training.label(row)
            )
        seen = curves[[row for _, row in models[:drawn]]]
        if traces and np.isfinite(seen).any():
            views[name] = lines(traces, "epoch", MEANINGS[name].words, seen[np.isfinite(seen)], showlegend=True)
    if views:
        notes = [f"the first {drawn} of {len(models)} models are drawn"] if len(models) > drawn else []
        told = "; ".join(f"final {name} from {_range(training, name)}" for name in views)
        alt = f"Training of {len(models)} models in {len(cells)} cells over their epochs: {told}."
        yield Picture("training", alt, views, tuple(notes), training_columns(training))


def _range(training: Training, name: str) -> str:
    values = training.final(name)
    values = values[np.isfinite(values)]
    return f"{values.min():.4g} to {values.max():.4g}" if len(values) else "none"
