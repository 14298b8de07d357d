"""Paths as pictures of a report."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from landscape_kernels.arrays import FloatArray, IntArray
from landscape_kernels.gaps import above_ends

from landscape.pictures.numbers import extremes, numbers
from landscape.pictures.views import (
    Picture,
    View,
    band,
    band_and_line,
    known_text,
    lines,
    marks,
    not_finite_text,
    once,
    plain_text,
    thinned_note,
)
from landscape.precise.told import UNSURE
from landscape.results.quantities import words
from landscape.studies.path.result import Path
from landscape.studies.path.tables import path_columns

_ALONG = (
    "the bands are errors of each value by itself; values along one path share their samples, so that differences "
    "between them are known better than the bands tell"
)


# -- paths and curves ------------------------------------------------------------------------------------------------


def path_views(path: Path, most: int) -> Iterator[Picture]:
    """The pictures of a report."""
    if not path.computed.any():
        return
    views = views_along([(path, "", "@blue")], most)
    yield Picture("along the path", _path_alt(path), views, _path_notes(path, most), path_columns(path))


def views_along(paths: Sequence[tuple[Path, str, str]], most: int) -> dict[str, View]:
    """{quantity: lines over t}, the test data beside the training data, and between the ends a dotted line."""
    views: dict[str, View] = {}
    for quantity in (name for name in paths[0][0].values if not name.startswith("test_")):
        traces: list[View] = []
        drawn: list[FloatArray] = []
        for path, label, colour in paths:
            kept = places(path, most)
            for name, dash in ((quantity, "solid"), (f"test_{quantity}", "dash")):
                if name not in path.values:
                    continue
                values = path.values[name][kept]
                known = (path.computed & np.isfinite(path.values[name]))[kept]
                text = ", ".join(part for part in (label, quantity, "test data" if dash == "dash" else "") if part)
                found = band_and_line(
                    path.t[kept], values, path.stderr[name][kept], known, name, "t", colour=colour, label=text
                )
                found[-1]["line"]["dash"] = dash
                unsure = 2 * (path.error or {}).get(name, np.zeros(len(path.t)))[kept]
                if unsure[known].any():
                    at = path.t[kept]
                    found.insert(0, band(at, values - unsure, values + unsure, known, "@orange", UNSURE))
                if dash == "dash":
                    found[-1]["marker"]["symbol"] = "circle-open"
                traces += found + marks(path.t, path.values[name], path.computed, "t", most)
                drawn.append(values[known])
            if quantity == "loss" and math.isfinite(path.barrier):
                known = path.computed & np.isfinite(path.values["loss"])
                losses = path.values["loss"][known]
                line = losses - above_ends(path.t[known], losses)
                look = {"dash": "dot", "width": 1.2, "color": colour}
                ends: View = {"type": "scatter", "mode": "lines", "x": numbers(path.t[known][[0, -1]]), "line": look}
                traces.append({**ends, "y": numbers(line[[0, -1]]), "hoverinfo": "skip", "name": "between the ends"})
        label = plain_text(words(quantity, paths[0][0].attributes))
        view = lines(once(traces), "t, from one model to the other", label, np.concatenate(drawn))
        views[quantity] = view
    return views


def _path_alt(path: Path) -> str:
    rounding = path.rounding_of("loss")
    first, last = (known_text(path.values["loss"][k], path.stderr["loss"][k], 4, rounding=rounding) for k in (0, -1))
    alt = f"Values at {len(path.t)} places from one model to the other; the loss is {first} at one end and {last} at "
    alt += f"the other, its barrier {known_text(path.barrier, path.barrier.stderr, 4, rounding=rounding)}"
    if path.error is not None:
        alt += f" with an error of {path.peak.error:.2g} by samples not looked at"
    alt += not_finite_text(path.computed, path.values["loss"])
    missing = int((~path.computed).sum())
    return alt + (f"; {missing} of {len(path.t)} places not computed." if missing else ".")


def _path_notes(path: Path, most: int) -> tuple[str, ...]:
    kept = len(places(path, most))
    thin = (thinned_note(kept, len(path.t), "places"),) if kept < len(path.t) else ()
    return (*thin, *of_bands([path]))


def places(path: Path, most: int) -> IntArray:
    """Which places of a path are drawn."""
    return extremes([np.where(path.computed, v, np.nan) for v in (*path.values.values(), *path.stderr.values())], most)


def of_bands(paths: Sequence[Path]) -> tuple[str, ...]:
    """What is to be said of the bands around paths."""
    return (_ALONG,) if any(np.isfinite(errors).any() for path in paths for errors in path.stderr.values()) else ()
