"""Curves as pictures of a report."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from landscape_kernels.arrays import FloatArray

from landscape.pictures.numbers import extremes
from landscape.pictures.views import Picture, View, band_and_line, lines, plain_text, thinned_note
from landscape.results.quantities import words
from landscape.studies.curve.result import Curve


def curve_views(curve: Curve, most: int) -> Iterator[Picture]:
    """The pictures of a report."""
    if not curve.history:
        return
    views: dict[str, View] = {}
    notes = ["means over an epoch, each batch at its own place of the curve, in train mode"]
    for name, values in curve.history.items():
        kept = extremes([values], most)
        if len(kept) < len(values):
            notes.append(thinned_note(len(kept), len(values), f"epochs of {name}"))
        known = np.isfinite(values[kept])
        nothing: FloatArray = np.full(len(kept), np.nan)
        traces = band_and_line(np.asarray(kept + 1, dtype=np.float64), values[kept], nothing, known, name, "epoch")
        label = "step size" if name == "lr" else name
        quantity = label if name == "lr" else plain_text(words(name, curve.attributes))
        views[label] = lines(traces, "epoch", quantity, values[kept][known])
    ends = "; ".join(f"{name} from {v[0]:.4g} to {v[-1]:.4g}" for name, v in curve.history.items())
    epochs = np.arange(1, max(map(len, curve.history.values())) + 1)
    alt = f"Training of the curve over its epochs: {ends}."
    yield Picture("training of the curve", alt, views, tuple(notes), {"epoch": epochs, **curve.history})
