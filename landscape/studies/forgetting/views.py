"""Forgetting as pictures of a report."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from landscape_kernels.arrays import FloatArray

from landscape.pictures.numbers import numbers
from landscape.pictures.style import ERROR
from landscape.pictures.views import Picture, View, escaped, known_text, lines, log_scale, not_finite_text, thinned
from landscape.studies.forgetting.result import EXCEEDED, HOLDS, Forgetting
from landscape.studies.forgetting.tables import forgetting_columns

_COLOURS = ("@blue", "@red", "@green", "@orange", "@quiet")


def forgetting_views(forgetting: Forgetting, most: int) -> Iterator[Picture]:
    """Forgetting against the quadratic form, against all of second order, and against the bound."""
    f = forgetting
    panels = {
        "quadratic form": (f.quadratic, f.stderr["quadratic"]),
        "second order": (f.predicted, f.predicted_stderr),
        "bound": (f.bound, f.bound_stderr),
    }
    views = {}
    for words, (across, error) in panels.items():
        known = f.computed & np.isfinite(across) & np.isfinite(f.forgetting)
        if known.any():
            views[words] = _against(f, across, error, known, words, most)
    if not views:
        return
    verdicts = f.verdict
    said = f"the bound holds in {verdicts.count(HOLDS)} and is exceeded beyond errors in {verdicts.count(EXCEEDED)}"
    notes = [f"bars: {ERROR}", "above the dashed line forgetting is larger"]
    notes += [f"{int((~f.computed).sum())} of {len(f.seed)} pairs are not computed"] if not f.complete else []
    alt = (
        f"Forgetting of {len(f.seed)} pairs of a task and a later one against the quadratic form and the bound: {said}"
    )
    yield Picture(
        "forgetting against curvature",
        f"{alt}{not_finite_text(f.computed, f.forgetting)}.",
        views,
        tuple(notes),
        forgetting_columns(f),
    )


def _against(f: Forgetting, across: FloatArray, error: FloatArray, known: np.ndarray, words: str, most: int) -> View:
    traces: list[View] = []
    for number, (cell, rows) in enumerate(f.rows_of_cells().items()):
        there = np.array([k for k in rows if known[k]], dtype=np.int64)
        places = there[thinned(len(there), most)].tolist() if len(there) else []
        colour = _COLOURS[number % len(_COLOURS)]
        look = {"type": "data", "color": colour, "thickness": 1.1, "width": 3}
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": numbers(across[places]),
                "y": numbers(f.forgetting[places]),
                "error_x": {**look, "array": numbers(2 * error[places])},
                "error_y": {**look, "array": numbers(2 * f.stderr["forgetting"][places])},
                "text": [
                    f"{escaped(f.label(k))}<br>forgetting {known_text(f.forgetting[k], f.stderr['forgetting'][k])}"
                    f"<br>{words} {known_text(across[k], error[k])}"
                    for k in places
                ],
                "hoverinfo": "text",
                "name": escaped(cell),
                "marker": {"color": colour, "size": 7},
            }
        )
    both = np.concatenate([across[known], f.forgetting[known]])
    ends = numbers(np.array([both.min(), both.max()]))
    diagonal = {"type": "scatter", "mode": "lines", "x": ends, "y": ends, "name": "equal", "hoverinfo": "skip"}
    traces.append({**diagonal, "line": {"dash": "dash", "color": "@quiet", "width": 1}})
    view = lines(traces, words, "forgetting", f.forgetting[known])
    if log_scale(both)["logFirst"] and view["log"]:
        view["layout"]["xaxis"]["type"] = "log"
    return view
