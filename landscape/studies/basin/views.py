"""Basins as pictures of a report."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from landscape.pictures.numbers import numbers
from landscape.pictures.views import Picture, View, lines
from landscape.studies.basin.result import Basin
from landscape.studies.basin.tables import basin_columns, volume_words

_BINS = 40


def basin_views(basin: Basin, most: int) -> Iterator[Picture]:
    """Histograms of the radii and of the contributions to the log volume; the median profile."""
    views: dict[str, View] = {}
    for name, values, title in (
        ("radius", basin.radii, f"radius to {basin.of} = {basin.cutoff:g} (multiples of the direction)"),
        ("log contribution", basin.contributions, "contribution of a direction to the log volume (nats)"),
    ):
        known = values[basin.computed & np.isfinite(values)]
        if len(known):
            views[name] = _histogram(known, title)
    shown = basin.profiles[np.isfinite(basin.profiles).any(1)]
    if len(shown):
        x = np.concatenate([[0.0], basin.places])
        middle = np.concatenate([[basin.centre], np.nanmedian(shown, axis=0)])
        trace: View = {
            "type": "scatter",
            "mode": "lines+markers",
            "x": numbers(x),
            "y": numbers(middle),
            "name": "median",
            "line": {"color": "@blue", "width": 1.8},
        }
        views["profile"] = lines([trace], "place (multiples of the direction's radius)", basin.of, middle)
    if views:
        found = basin.log_volume
        told = f"; the log volume is {float(found):.6g} nats, {volume_words(basin)}, {basin.believed}"
        alt = f"Radii along {int(basin.computed.sum())} directions, of which {basin.never} never cross{told}."
        yield Picture("basin", alt, views, (), basin_columns(basin))


def _histogram(values: np.ndarray, title: str) -> View:
    counts, edges = np.histogram(values, bins=min(_BINS, max(4, len(values) // 5)))
    trace: View = {
        "type": "bar",
        "x": numbers((edges[:-1] + edges[1:]) / 2),
        "y": counts.tolist(),
        "width": numbers(np.diff(edges)),
        "name": "directions",
        "marker": {"color": "@blue"},
    }
    view = lines([trace], title, "directions", counts.astype(np.float64))
    return {**view, "log": False, "logFirst": False}
