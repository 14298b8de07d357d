"""Interactive pictures as plain data."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from landscape_kernels.arrays import BoolArray, FloatArray, IntArray
from landscape_kernels.rounding import settled

from landscape.pictures.numbers import figures, gap, numbers, spread, value_text
from landscape.pictures.style import ERROR

View = dict[str, Any]  # {"data": traces, "layout": ...} of lines and bars, or {"surface": ...}


@dataclass(frozen=True)
class Picture:
    """One picture, or several of one kind of which a reader chooses."""

    title: str
    alt: str  # what it shows, with its key numbers
    views: Mapping[str, View]  # what is shown -> the picture of it
    notes: tuple[str, ...] = ()  # what it leaves out, and what its signs mean
    values: Mapping[str, Any] = field(default_factory=dict)  # heading -> column: the numbers behind it


# -- parts that other pictures share ---------------------------------------------------------------------------------


def escaped(text: str) -> str:
    """A text as plotly has to be given it."""
    return html.escape(str(text), quote=False)


def matrix(values: FloatArray, errors: FloatArray | None = None) -> list[list[float | None]]:
    """Rows of `numbers`, all of one span."""
    flat = numbers(values.ravel(), None if errors is None else errors.ravel())
    width = values.shape[1]
    return [flat[k : k + width] for k in range(0, len(flat), width)]


def thinned(count: int, most: int) -> IntArray:
    """Which of `count` places are kept, about `most`: at even steps, with both ends."""
    return np.unique(np.linspace(0, count - 1, max(2, min(count, most))).round().astype(np.int64))


def thinned_note(drawn: int, count: int, what: str) -> str:
    """What a picture says of lines of which it draws `extremes` alone."""
    said_ = f"thinned: {drawn:,} of {count:,} {what} are drawn, the lowest and the highest of each stretch"
    return f"{said_}; the result's file holds them all"


def known_text(
    value: float, stderr: float = math.nan, digits: int = 5, span: float = 0.0, rounding: float = 0.0
) -> str:
    """A value and its standard error, as read: `digits` of it and of the span it stands in, two of its error.

    What is no more than `rounding` leaves is 0, as in tables.

    >>> known_text(1.25, 0.125), known_text(math.nan)
    ('1.25 ± 0.12', 'NaN')
    >>> known_text(2.30258509, 2e-7), known_text(2.30258509, span=1e-5, digits=3)
    ('2.30258509 ± 2e-07', '2.3025851')
    >>> known_text(0.5, 1e-17), known_text(1e-9, 3e-10, rounding=2e-7)
    ('0.5 ± 0', '0 ± 0')
    """
    value, stderr = settled(float(value), 0.0, rounding), settled(float(stderr), float(value), rounding)
    text = value_text(value, digits, stderr / 10, span / 10 ** (digits - 1))
    return text + (f" ± {stderr:.2g}" if math.isfinite(stderr) and math.isfinite(value) else "")


def hover(name: str, x: FloatArray, quantity: str, values: FloatArray, stderr: FloatArray) -> list[str]:
    """What stands beside each point of a line."""
    step, span = gap(x) / 10, spread(values)
    return [
        f"{escaped(name)} = {value_text(a, 5, step)}<br>{escaped(quantity)} {known_text(v, e, span=span)}"
        for a, v, e in zip(x.tolist(), values.tolist(), stderr.tolist(), strict=True)
    ]


def band(x: FloatArray, lower: FloatArray, upper: FloatArray, known: BoolArray, colour: str, name: str) -> View:
    """The area between two curves, a polygon for each run of known places; `ylog` stays above 0, for a log axis."""
    positive = upper[known & (upper > 0)]
    least = float(positive.min()) / 1e4 if len(positive) else 0.0
    xs: list[float | None] = []
    ys: list[float | None] = []
    logs: list[float | None] = []
    edges = np.flatnonzero(np.diff(np.r_[False, known, False].astype(np.int8)))
    for start, stop in edges.reshape(-1, 2).tolist():
        part = slice(start, stop)
        if xs:
            xs, ys, logs = [*xs, None], [*ys, None], [*logs, None]
        xs += numbers(np.r_[x[part], x[part][::-1]])
        edge = np.r_[upper[part], lower[part][::-1]]
        width = np.abs(upper[part] - lower[part])
        width = np.r_[width, width[::-1]]
        ys += numbers(edge, width)
        logs += numbers(np.maximum(edge, least), width)
    return {
        "type": "scatter",
        "mode": "lines",
        "x": xs,
        "y": ys,
        "ylog": logs,
        "fill": "toself",
        "fillcolor": f"{colour}-band",
        "line": {"width": 0},
        "hoverinfo": "skip",
        "name": name,
    }


def band_and_line(
    x: FloatArray,
    values: FloatArray,
    stderr: FloatArray,
    known: BoolArray,
    quantity: str,
    name: str,
    *,
    colour: str = "@blue",
    label: str = "",
) -> list[View]:
    """A line with markers and its band of two standard errors."""
    traces: list[View] = []
    sure = known & np.isfinite(stderr)
    if sure.any():
        error = 2 * np.where(sure, stderr, 0.0)
        traces.append(band(x, values - error, values + error, sure, colour, ERROR))
    alone = sure & ~np.r_[False, sure[:-1]] & ~np.r_[sure[1:], False]  # a band needs two neighbours
    bars = {"type": "data", "array": numbers(np.where(alone, 2 * stderr, np.nan)), "color": colour, "thickness": 1.4}
    traces.append(
        {
            **({"error_y": bars} if alone.any() else {}),
            "type": "scatter",
            "mode": "lines+markers",
            "x": numbers(x),
            "y": numbers(np.where(known, values, np.nan), stderr),
            "text": hover(name, x, quantity, values, stderr),
            "hoverinfo": "text",
            "name": escaped(label or quantity),
            "line": {"color": colour, "width": 1.8},
            "marker": {"color": colour, "size": 4 if len(x) > 60 else 6},
        }
    )
    return traces


def lines(traces: list[View], x: str, y: str, values: FloatArray, **layout: Any) -> View:
    """A view of lines over x; where all values are positive it may have a log axis, and has where they span decades."""
    return {
        "data": traces,
        "layout": {
            "xaxis": {"title": {"text": escaped(x)}},
            "yaxis": {"title": {"text": escaped(y)}},
            **layout,
        },
        **log_scale(values),
    }


def log_scale(values: FloatArray) -> View:
    """Whether finite values may have a log axis, whether they have one at first, and its ticks."""
    if not len(values) or float(values.min()) <= 0:
        return {"log": False, "logFirst": False}
    decades = math.log10(float(values.max())) - math.log10(float(values.min()))
    return {"log": True, "logFirst": decades > 2, **({"logTick": "D2"} if 1 < decades < 4 else {})}


def plain_text(text: str) -> str:
    """A text of a static picture as plotly has to be given it.

    >>> plain_text(r"$2\\times10^{-6}$"), plain_text("a < b")
    ('2×10<sup>-6</sup>', 'a &lt; b')
    """
    text = escaped(text)
    if text.count("$") != 2:
        return text
    text = text.replace("$", "").replace("\\times", "×").replace("\\lambda", "λ")
    return re.sub(r"_\{\\?(\w+)\}", r"<sub>\1</sub>", re.sub(r"\^\{(.*?)\}", r"<sup>\1</sup>", text))


def marks(x: FloatArray, values: FloatArray, computed: BoolArray, name: str, most: int) -> list[View]:
    """Places without a value, at the foot of the picture, about `most`; their names count all."""
    found: list[View] = []
    step = gap(x) / 10
    for where, label, symbol, colour in (
        (~computed, "not computed", "line-ns-open", "@quiet"),
        (computed & ~np.isfinite(values), "NaN or Inf", "x", "@red"),
    ):
        places = np.flatnonzero(where)
        places = places[thinned(len(places), most)] if len(places) else places
        texts = [label if symbol != "x" else known_text(v) for v in values[places].tolist()]
        at = [f"{escaped(name)} = {value_text(a, 5, step)}" for a in x[places].tolist()]
        trace: View = {
            "type": "scatter",
            "mode": "markers",
            "x": numbers(x[places]),
            "y": [0.02] * len(places),
            "yaxis": "y9",  # the height of the picture, from 0 to 1
            "text": [f"{a}<br>{text}" for a, text in zip(at, texts, strict=True)],
            "hoverinfo": "text",
            "name": f"{label} ({int(where.sum()):,})",
            "marker": {"symbol": symbol, "size": 8, "color": colour},
        }
        found += [trace] if len(places) else []
    return found


def not_finite_text(computed: BoolArray, values: FloatArray) -> str:
    """How many of the values that are computed are none; empty for none."""
    count = int((computed & ~np.isfinite(values)).sum())
    return f", {count:,} of its values are NaN or Inf" if count else ""


_BARS = 60  # drawn; the table has them all
_NAMED = 100  # models up to which each cell of a matrix tells its two
_NUMBERED = "models %{{y}} and %{{x}}<br>%{{z:.{}g}}<extra></extra>"
_NAME = 26  # letters of a name beside a bar or a cell


def bars(
    names: Sequence[str], values: FloatArray, errors: FloatArray, solid: BoolArray, title: str, what: str = "layers"
) -> tuple[View, tuple[str, ...]]:
    """Bars of `what`, the first name on top, and what is to be said of them."""
    kept = list(range(len(names)))
    notes = [f"bars: {ERROR}"] if np.isfinite(errors).any() else []
    if not solid.all():
        notes.append("pale: not converged")
    if len(names) > _BARS:
        order = np.argsort(-np.nan_to_num(np.abs(values), nan=-1.0), kind="stable")
        kept = sorted(order[:_BARS].tolist())
        notes.append(f"the {_BARS} largest of {len(names):,} {what} are drawn; the table holds them all")
    shown, span = [names[k] for k in kept], spread(values)
    trace: View = {
        "type": "bar",
        "orientation": "h",
        "y": list(range(len(kept))),
        "x": numbers(values[kept], errors[kept]),
        "text": [
            f"{escaped(names[k])}<br>{escaped(title)} {known_text(values[k], errors[k], span=span)}" for k in kept
        ],
        "textposition": "none",
        "hoverinfo": "text",
        "marker": {"color": ["@blue" if solid[k] else "@blue-band" for k in kept]},
        "error_x": {"type": "data", "array": numbers(2 * errors[kept]), "color": "@ink", "thickness": 1.1, "width": 3},
    }
    layout = {
        "xaxis": {"title": {"text": escaped(title)}},
        "yaxis": {
            "autorange": "reversed",
            "tickmode": "array",
            "tickvals": list(range(len(kept))),
            "ticktext": [_short(name) for name in shown],
            "automargin": True,
        },
        "showlegend": False,
    }
    finite = values[kept][np.isfinite(values[kept])]
    view = {"data": [trace], "layout": layout, "height": 120 + 20 * len(kept), "logAxis": "xaxis"}
    return {**view, **log_scale(finite)}, tuple(notes)


def largest(names: Sequence[str], values: FloatArray) -> str:
    """Which of the names has the largest value, in words."""
    k = int(np.nanargmax(values))
    return f"{names[k]} ({known_text(values[k], digits=4, span=spread(values))})"


def unmeasured(labels: Sequence[str], pairs: Any) -> tuple[str, ...]:
    """What is to be said of pairs that were not measured."""
    whole = len(labels) * (len(labels) - 1) // 2
    there = len({(min(i, j), max(i, j)) for i, j in pairs.tolist() if i != j})
    return ("grey: pairs that were not measured",) if there < whole else ()


def matrix_view(
    labels: Sequence[str], pairs: Any, values: FloatArray, errors: FloatArray, what: str, most: float | None = None
) -> View:
    """A square table of values over pairs as colours, up to `most` or to the largest value."""
    count = len(labels)
    table = np.full((count, count), np.nan)
    texts, span = [["" for _ in labels] for _ in labels], spread(values)
    for (i, j), value, error in zip(pairs.tolist(), values, errors, strict=True):
        table[i, j] = table[j, i] = value
        text = f"{escaped(labels[i])} and {escaped(labels[j])}<br>{escaped(what)}"
        text += f"<br>{known_text(value, error, span=span)}"
        texts[i][j] = texts[j][i] = text
    digits = figures(float(np.nanmax(np.abs(values[np.isfinite(values)]), initial=0.0)), 5, span / 1e4)
    template = _NUMBERED.format(digits)
    short = [_short(label) for label in labels]
    axis = {"tickmode": "array", "tickvals": list(range(count)), "ticktext": short, "automargin": True}
    trace: View = {
        "type": "heatmap",
        "z": matrix(table),
        **({"hovertext": texts, "hoverinfo": "text"} if count <= _NAMED else {"hovertemplate": template}),
        "hoverongaps": False,
        "colorscale": "Viridis",
        "xgap": 2,
        "ygap": 2,
    }
    known = values[np.isfinite(values)]
    if len(known) and known.any():  # colours begin at 0, as sizes do
        top = max(0.0, float(known.max())) if most is None else most
        trace |= {"zmin": min(0.0, float(known.min())), "zmax": top}
    if count <= 12:
        cells = [[f"{v:.3g}" if math.isfinite(v) else "" for v in row] for row in table]
        trace |= {"texttemplate": "%{text}", "text": cells}
    absent: View = {
        "type": "heatmap",
        "z": matrix(np.where(np.isnan(table) & ~np.eye(count, dtype=bool), 0.0, np.nan)),
        "colorscale": [[0, "@missing"], [1, "@missing"]],
        "showscale": False,
        "hovertemplate": "not measured<extra></extra>",
        "hoverongaps": False,
        "xgap": 2,
        "ygap": 2,
    }
    axis |= {"showgrid": False, "zeroline": False}
    layout = {
        "xaxis": {**axis, "title": {"text": escaped(what)}},
        "yaxis": {**axis, "autorange": "reversed"},
        "showlegend": False,
    }
    return {"data": [trace, absent], "layout": layout, "height": min(760, 220 + 44 * count)}


def cells_view(
    rows: Sequence[str],
    columns: Sequence[str],
    shades: FloatArray,
    texts: Sequence[Sequence[str]],
    missing: BoolArray,
) -> View:
    """A table of rows by columns as colours from 0 to 1, `shades` (R, C), a text of each cell, and those `missing`.

    Cells that have no shade and are not missing hold NaN or Inf.
    """
    size = {"xgap": 2, "ygap": 2, "hovertext": [list(row) for row in texts], "hoverinfo": "text", "hoverongaps": False}
    trace: View = {
        "type": "heatmap",
        "z": matrix(shades),
        "colorscale": "Viridis",
        "zmin": 0,
        "zmax": 1,
        "colorbar": {"tickmode": "array", "tickvals": [0, 1], "ticktext": ["lowest", "highest"]},
        **size,
    }

    def flat(where: BoolArray, colour: str) -> View:
        colours = {"colorscale": [[0, colour], [1, colour]], "showscale": False}
        return {"type": "heatmap", "z": matrix(np.where(where, 0.0, np.nan)), **colours, **size}

    bad = np.isnan(shades) & ~missing
    traces = [trace, *(flat(where, colour) for where, colour in ((missing, "@missing"), (bad, "@red")) if where.any())]
    axis = {"tickmode": "array", "automargin": True, "showgrid": False, "zeroline": False}
    layout = {
        "xaxis": {**axis, "tickvals": list(range(len(columns))), "ticktext": [_short(name) for name in columns]},
        "yaxis": {
            **axis,
            "tickvals": list(range(len(rows))),
            "ticktext": [_short(name) for name in rows],
            "autorange": "reversed",
        },
        "showlegend": False,
    }
    return {"data": traces, "layout": layout, "height": min(1400, 160 + 22 * len(rows))}


def once(traces: list[View]) -> list[View]:
    """Each name once in the legend."""
    seen: set[str] = set()
    for trace in traces:
        name = str(trace.get("name", ""))
        if name in seen:
            trace["showlegend"] = False
        seen.add(name)
    return traces


def _short(name: str) -> str:
    return escaped(name if len(name) <= _NAME else f"{name[: _NAME // 2 - 1]}…{name[-_NAME // 2 :]}")
