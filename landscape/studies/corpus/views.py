"""An analysed corpus as pictures of a report."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from landscape_kernels.arrays import FloatArray
from landscape_kernels.rank_statistics import slope

from landscape.pictures.numbers import numbers
from landscape.pictures.views import Picture, View, escaped, known_text, lines, thinned
from landscape.studies.corpus.result import PARADOX, Corpus, ordered
from landscape.studies.corpus.tables import corpus_columns

_COLOURS = ("@blue", "@orange", "@green", "@red", "@quiet")
_SCATTERS = 12  # metrics that a report draws one by one; the table has them all


def corpus_views(corpus: Corpus, most: int) -> Iterator[Picture]:
    """A chart of tau overall and within for each grouping, and the target against metrics."""
    charts = {name: _chart(corpus, name) for name in corpus.groups if len(corpus.rows_of(name))}
    if not charts:
        return
    found = ", ".join(corpus.paradoxes) or "no metric"
    count = len(set(corpus.metric))
    alt = f"Kendall's tau with {corpus.target} of {count} metrics, overall and within; paradox: {found}."
    note = f"bars: {corpus.attributes.get('error', 'intervals')}"
    yield Picture("overall and within", alt, charts, (note, "* Simpson's paradox"), corpus_columns(corpus))
    yield _scatters(corpus, most)


def _chart(corpus: Corpus, grouping: str) -> View:
    rows = corpus.rows_of(grouping)
    traces: list[View] = []
    for name, text, colour, shift in (
        ("overall", "over all models", "@blue", -0.15),
        ("within", f"within {grouping}", "@orange", 0.15),
    ):
        values = corpus.values[name][rows]
        low, high = (np.abs(values - corpus.values[f"{name}_{end}"][rows]) for end in ("low", "high"))
        bars = {"type": "data", "color": colour, "thickness": 1.4, "width": 3, "symmetric": False}
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": numbers(values),
                "y": (np.arange(len(rows)) + shift).tolist(),
                "error_x": {**bars, "array": numbers(high), "arrayminus": numbers(low)},
                "text": [
                    f"{escaped(corpus.metric[k])}<br>{escaped(text)} {known_text(v)}<br>{corpus.simpson[k]}"
                    for k, v in zip(rows.tolist(), values.tolist(), strict=True)
                ],
                "hoverinfo": "text",
                "name": escaped(text),
                "marker": {"color": colour, "size": 8},
            }
        )
    marked = [("* " if corpus.simpson[k] == PARADOX else "") + escaped(corpus.metric[k]) for k in rows]
    view = lines(traces, f"Kendall's tau-b with {corpus.target}", "", np.zeros(1))
    view["layout"]["xaxis"]["range"] = [-1.05, 1.05]
    view["layout"]["yaxis"] |= {
        "autorange": "reversed",
        "tickmode": "array",
        "tickvals": list(range(len(rows))),
        "ticktext": marked,
        "automargin": True,
    }
    return {**view, "height": 160 + 24 * len(rows)}


def _scatters(corpus: Corpus, most: int) -> Picture:
    grouping = next(iter(corpus.groups))
    rows = corpus.rows_of(grouping)
    shown = corpus.widest(grouping)[:_SCATTERS]
    views = {metric: _scatter(corpus, metric, grouping, most) for metric in shown}
    alt = f"{corpus.target} of {len(corpus.columns[corpus.target])} models against {', '.join(shown)}, by {grouping}."
    left = len(rows) - len(shown)
    notes = (f"{left} metrics are not drawn; the table has them all",) if left else ()
    values = {name: corpus.groups[name] for name in corpus.groups} | dict(corpus.columns)
    return Picture("models", alt, views, notes, values)


def _scatter(corpus: Corpus, metric: str, grouping: str, most: int) -> View:
    x, y = corpus.columns[metric], corpus.columns[corpus.target]
    known, labels = corpus.known(metric, grouping), np.array(corpus.groups[grouping])
    traces: list[View] = []
    for number, group in enumerate(ordered(corpus.groups[grouping])):
        there = np.flatnonzero(known & (labels == group))
        places = there[thinned(len(there), most)].tolist() if len(there) else []
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": numbers(x[places]),
                "y": numbers(y[places]),
                "text": [
                    f"model {k + 1}<br>{escaped(metric)} {known_text(x[k])}<br>{known_text(y[k])}" for k in places
                ],
                "hoverinfo": "text",
                "name": escaped(f"{grouping} {group}"),
                "marker": {"color": _COLOURS[number % len(_COLOURS)], "size": 7},
            }
        )
        traces.append(_line(x[there], y[there], _COLOURS[number % len(_COLOURS)]))
    traces.append({**_line(x[known], y[known], "@ink"), "name": "all models", "showlegend": True})
    return lines(traces, metric, corpus.target, y[known])


def _line(x: FloatArray, y: FloatArray, colour: str) -> View:
    """The least-squares line over the span of x; nothing where it is not defined."""
    steep = float(slope(x, y)[0]) if len(x) else np.nan
    ends = np.array([x.min(), x.max()]) if np.isfinite(steep) else np.zeros(0)
    heights = y.mean() + steep * (ends - x.mean()) if len(ends) else ends
    look = {"color": colour, "width": 1.6, **({"dash": "dash"} if colour == "@ink" else {})}
    trace: View = {"type": "scatter", "mode": "lines", "x": numbers(ends), "y": numbers(heights), "line": look}
    return {**trace, "hoverinfo": "skip", "showlegend": False}
