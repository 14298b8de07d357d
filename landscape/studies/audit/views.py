"""An audit as pictures of a report."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from landscape.pictures.numbers import numbers
from landscape.pictures.views import Picture, View, escaped, known_text, lines
from landscape.studies.audit.result import FRAGILE, ROBUST, UNDECIDED, Audit
from landscape.studies.audit.tables import audit_columns, states_text

_COLOURS = {FRAGILE: "@red", ROBUST: "@green", UNDECIDED: "@quiet"}


def audit_views(audit: Audit, most: int) -> Iterator[Picture]:
    """The ratios of every measure, one picture for each knob."""
    views = {knob: view for knob in audit.knobs if (view := _ratios(audit, knob, most)) is not None}
    if not views:
        return
    fragile = {
        knob: ", ".join(name for name in audit.measures if audit.verdict(name, knob) == FRAGILE) or "no measure"
        for knob in views
    }
    told = "; ".join(f"{knob}: {found}" for knob, found in fragile.items())
    alt = f"Ratios of {len(audit.measures)} measures between equally good models, by knob. Fragile by {told}."
    notes = (states_text(audit), "lines: within a factor of 2")
    yield Picture("ratios", alt, views, notes, audit_columns(audit))


def _ratios(audit: Audit, knob: str, most: int) -> View | None:
    found = audit.comparisons
    rows = [row for name in audit.measures for row in audit.rows_of(name, knob)]
    rows = [row for row in rows if np.isfinite(found.values["ratio"][row]) and found.values["ratio"][row] > 0][:most]
    if not rows:
        return None
    traces: list[View] = []
    for state, colour in _COLOURS.items():
        here = [row for row in rows if found.verdict[row] == state]
        values = found.values["ratio"][here]
        low, high = (np.nan_to_num(np.abs(values - found.values[f"ratio_{end}"][here])) for end in ("low", "high"))
        bars = {"type": "data", "color": colour, "thickness": 1.4, "width": 3, "symmetric": False}
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": numbers(values),
                "y": [audit.measures.index(found.measure[row]) for row in here],
                "error_x": {**bars, "array": numbers(high), "arrayminus": numbers(low)},
                "text": [
                    f"{escaped(found.measure[row])}<br>{escaped(found.first[row])} to {escaped(found.second[row])}<br>"
                    f"{escaped(found.setting[row])}<br>{known_text(found.values['ratio'][row])}<br>{state}"
                    for row in here
                ],
                "hoverinfo": "text",
                "name": state,
                "marker": {"color": colour, "size": 8},
            }
        )
    for x in (0.5, 2.0):
        look = {"color": "@quiet", "width": 1.2, "dash": "dot"}
        ends = [-0.5, len(audit.measures) - 0.5]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": [x, x],
                "y": ends,
                "line": look,
                "hoverinfo": "skip",
                "showlegend": False,
            }
        )
    view = lines(traces, f"ratio over {knob}", "", found.values["ratio"][rows])
    view["layout"]["xaxis"]["type"] = "log"
    view["layout"]["yaxis"] |= {
        "autorange": "reversed",
        "tickmode": "array",
        "tickvals": list(range(len(audit.measures))),
        "ticktext": [escaped(name) for name in audit.measures],
        "automargin": True,
    }
    return {**view, "height": 160 + 24 * len(audit.measures)}
