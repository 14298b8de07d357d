"""Interactive pictures of a report: what the page's script draws, as plain JSON values, and a sentence in its place.

A colour is a name with @ before it, which the page gives a value in light and in dark. Texts in a picture are
escaped here, because plotly reads some of HTML in them.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from landscape_kernels.arrays import BoolArray, FloatArray

from landscape.pictures.numbers import IntArray, exact, extremes, figures, gap, numbers, range_text, spread, value_text
from landscape.pictures.scale import Scale, choose_scale
from landscape.pictures.style import ERROR, words
from landscape.planes.grid import Grid
from landscape.plotting import JOINED, axis_label, trajectory_values
from landscape.results import Points, Surface

View = dict[str, Any]  # {"data": traces, "layout": ...} of lines and bars, or {"surface": ...}


_LEVELS = 12  # about so many, as `landscape.plotting.plot_surface` draws

_TO_SCALE = ("pca", "through", "curve")  # planes whose axes are orthogonal, and 1 is as far along each

_SLICES = 21  # of a third axis


@dataclass(frozen=True)
class Picture:
    """One picture, or several of one kind of which a reader chooses."""

    title: str
    alt: str  # what it shows, with its key numbers
    views: Mapping[str, View]  # what is shown -> the picture of it
    notes: tuple[str, ...] = ()  # what it leaves out, and what its signs mean
    values: Mapping[str, Any] = field(default_factory=dict)  # heading -> column: the numbers behind it


def surface_pictures(surface: Surface, most: int) -> Iterator[Picture]:
    """The picture of each quantity, of at most about `most` points; a line for one axis, else contours and 3-D."""
    if len(surface.axes) == 1:
        yield _profile(surface, most)
        return
    views, notes = _planes(surface, most)
    yield Picture("surface", _surface_alt(surface), views, notes, frame_columns(surface))


def _planes(surface: Surface, most: int) -> tuple[dict[str, View], tuple[str, ...]]:
    """{quantity: its plane, or its planes along a third axis}, and what is to be said of them."""
    (x_name, x), (y_name, y) = list(surface.axes.items())[:2]
    third, *further = list(surface.axes.items())[2:] or [("", np.zeros(1))]
    cut = tuple(int(np.abs(values).argmin()) for _, values in reversed(further))
    middle = int(np.abs(third[1]).argmin())
    slices = [middle, *(k for k in thinned(len(third[1]), _SLICES).tolist() if k != middle)] if third[0] else []
    inner = (*cut, middle) if slices else cut
    held = [np.where(surface.computed[inner], values[inner], np.nan) for values in surface.values.values()]
    rows, columns = _kept(held, x, y, most // max(1, len(slices)))
    kept = np.ix_(rows, columns)
    shared = {
        "x": numbers(x[columns]),
        "y": numbers(y[rows]),
        "names": [x_name, y_name],
        "labels": [label_of(surface, 0), label_of(surface, 1)],
        "toScale": to_scale(surface),
    }

    def plane(name: str, at: tuple[int, ...]) -> View:
        values, computed = surface.values[name][at], surface.computed[at]
        return {
            **shared,
            "name": escaped(name),
            "quantity": said(name, surface.attributes),
            "z": matrix(values[kept], surface.stderr[name][at][kept]),
            "error": _errors(surface.stderr[name][at][kept]),
            "state": _states(computed[kept], values[kept]),
            "counts": [int((~computed).sum()), int((computed & ~np.isfinite(values)).sum())],  # of the whole plane
            "points": _points(surface, name),
            **_scales(values[computed & np.isfinite(values)], name, surface.points),
        }

    views: dict[str, View] = {}
    for name in surface.values:
        views[name] = {"surface": plane(name, inner)}
        if slices:
            planes = {_at(third[1], k): plane(name, (*cut, k)) for k in sorted(slices)}
            views[name] = {"slices": planes, "slice": _at(third[1], middle), "along": escaped(third[0])}
    notes = []
    if slices and len(slices) < len(third[1]):
        notes.append(f"{len(slices)} of {len(third[1]):,} places along {third[0]} can be chosen")
    if further:
        place = ", ".join(f"{name} = {_at(values, int(np.abs(values).argmin()))}" for name, values in further)
        notes.append(f"{', '.join(name for name, _ in further)} cut at {place}, the nearest to 0")
    if len(rows) < len(y) or len(columns) < len(x):
        notes.append(
            f"thinned: {len(y) * len(x):,} points were measured ({len(x):,} × {len(y):,}), and the picture keeps "
            f"{len(rows) * len(columns):,} of them ({len(columns)} × {len(rows)}) at even steps, with the ends, the "
            f"centre and the lowest value{' of each quantity' * (len(held) > 1)}; the result's file holds them all"
        )
    return views, tuple(notes)


def _scales(values: FloatArray, quantity: str, points: Points | None) -> View:
    """Levels as `plot_surface` draws them, linear and where all values are positive log, and which stand first."""
    linear = choose_scale(values, "linear", _LEVELS, 0.1, quantity)
    positive = values.size > 0 and float(values.min()) > 0 and not linear.constant
    scales: View = {"linear": _scale(linear)}
    if positive:
        scales["log"] = _scale(choose_scale(values, "log", _LEVELS, 0.1, quantity))
    first = choose_scale(values, "auto", _LEVELS, 0.1, quantity, trajectory_values(points, quantity))
    return {"scales": scales, "logFirst": first.log and positive}


def _scale(scale: Scale) -> View:
    return {
        "exponent": scale.exponent,
        "constant": scale.constant,
        "levels": scale.levels.tolist(),
        "texts": _level_texts(scale),
    }


def _level_texts(scale: Scale) -> list[str]:
    """The value of each level, with as many digits as tell it from the next."""
    texts = [plain_text(scale.text(float(level))) for level in scale.levels]
    if scale.constant or len(texts) < 2:
        return texts
    with np.errstate(over="ignore"):
        values = 10.0**scale.levels if scale.log else scale.levels
        steps = np.diff(values)
    near = np.minimum(np.r_[steps, np.inf], np.r_[np.inf, steps]) / 10
    unit = f"×10<sup>{scale.exponent}</sup>" if scale.exponent else ""
    return [
        f"{value_text(float(value), 3, step)}{unit}" if figures(float(value), 3, step) > 3 else text
        for text, value, step in zip(texts, values, near.tolist(), strict=True)
    ]


def _at(axis: FloatArray, place: int) -> str:
    """A coordinate, with as many digits as tell it from the next along its axis."""
    return value_text(float(axis[place]), 4, gap(axis) / 10)


def _profile(surface: Surface, most: int) -> Picture:
    (name, x), computed = next(iter(surface.axes.items())), surface.computed
    held = [np.where(computed, v, np.nan) for v in (*surface.values.values(), *surface.stderr.values())]
    kept = extremes(held, most)
    label = label_of(surface, 0)
    views: dict[str, View] = {}
    for quantity, values in surface.values.items():
        known = (computed & np.isfinite(values))[kept]
        traces = band_and_line(x[kept], values[kept], surface.stderr[quantity][kept], known, quantity, name)
        traces += marks(x, values, computed, name, most)
        if surface.points is not None and quantity in surface.points.true:
            traces.append(_line_points(surface.points, quantity, name))
        views[quantity] = lines(traces, label, said(quantity, surface.attributes), values[kept][known])
    notes = []
    if len(kept) < len(x):
        notes.append(thinned_note(len(kept), len(x), "points"))
    return Picture("profile", _surface_alt(surface), views, tuple(notes), frame_columns(surface))


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


def known_text(value: float, stderr: float = math.nan, digits: int = 5, span: float = 0.0) -> str:
    """A value and its standard error, as read: `digits` of it and of the span it stands in, two of its error.

    >>> known_text(1.25, 0.125), known_text(math.nan)
    ('1.25 ± 0.12', 'NaN')
    >>> known_text(2.30258509, 2e-7), known_text(2.30258509, span=1e-5, digits=3)
    ('2.30258509 ± 2e-07', '2.3025851')
    """
    text = value_text(float(value), digits, stderr / 10, span / 10 ** (digits - 1))
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


def label_of(surface: Surface, place: int) -> str:
    """Name of an axis, what a coordinate of 1 is, and the variance it explains."""
    return escaped(axis_label(surface, list(surface.axes)[place], place))


def to_scale(surface: Surface) -> bool:
    """Whether a length is as long along each of the surface's axes."""
    plane = surface.attributes.get("plane")
    return isinstance(plane, Mapping) and plane.get("kind") in _TO_SCALE


def said(quantity: str, about: Mapping[str, Any]) -> str:
    """What a quantity is, with its unit, as the static pictures have it."""
    return plain_text(words(quantity, about))


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


def frame_columns(result: Any) -> dict[str, Any]:
    """The columns of a result's `to_pandas()`."""
    frame = result.to_pandas()
    return {str(name): frame[name].to_numpy() for name in frame}


# -- parts of surfaces -----------------------------------------------------------------------------------------------


def _kept(held: Sequence[FloatArray], x: FloatArray, y: FloatArray, most: int) -> tuple[IntArray, IntArray]:
    """Rows and columns of a thinned grid: even steps, the ends, the nearest to 0 and each quantity's lowest value."""
    height, width = held[0].shape
    if height * width <= most:
        return np.arange(height), np.arange(width)
    found = [int(np.where(np.isfinite(v), v, np.inf).argmin()) for v in held if np.isfinite(v).any()]
    low_rows, low_columns = np.unravel_index(np.array(found, dtype=np.int64), (height, width))
    short, long = sorted((height, width))
    few = max(1, min(short, int(short * math.sqrt(most / (height * width)))))
    many = min(long, most // few)
    rows, columns = (few, many) if height <= width else (many, few)
    return (
        np.union1d(thinned(height, rows), np.r_[low_rows, np.abs(y).argmin()]),
        np.union1d(thinned(width, columns), np.r_[low_columns, np.abs(x).argmin()]),
    )


def _errors(stderr: FloatArray) -> list[list[float | None]] | None:
    if not np.isfinite(stderr).any():
        return None
    return [[float(f"{e:.2g}") if math.isfinite(e) else None for e in row] for row in stderr.tolist()]


def _states(computed: BoolArray, values: FloatArray) -> list[str] | None:
    """A letter for each point, a word for each row: "." a value, "m" not computed, "n" NaN, "i" Inf, "j" -Inf."""
    letters = np.full(values.shape, ".")
    letters[np.isnan(values)], letters[np.isposinf(values)], letters[np.isneginf(values)] = "n", "i", "j"
    letters[~computed] = "m"
    return None if (letters == ".").all() else ["".join(row) for row in letters.tolist()]


def _points(surface: Surface, quantity: str) -> View | None:
    points = surface.points
    if points is None:
        return None
    steps = [gap(values) / 10 for values in surface.axes.values()]
    true, projected = (found.get(quantity) for found in (points.true, points.projected))
    texts = []
    for k, label in enumerate(points.labels):
        place = zip(points.coordinates[k].tolist(), steps, strict=True)
        lines_ = [escaped(label), f"at ({', '.join(value_text(c, 4, step) for c, step in place)})"]
        lines_.append(f"{points.distance[k]:.3g} from the plane")
        if true is not None and projected is not None:
            both = [known_text(float(values[k]), span=spread(values)) for values in (true, projected)]
            lines_.append(f"{escaped(quantity)} {both[0]} itself, {both[1]} projected")
        texts.append("<br>".join(lines_))
    return {
        "kind": escaped(points.kind),
        "joined": points.kind in JOINED,
        "labels": [escaped(label) for label in points.labels],
        "x": exact(points.coordinates[:, 0]),
        "y": exact(points.coordinates[:, 1]),
        "z": None if projected is None else exact(projected),
        "texts": texts,
    }


def _line_points(points: Points, quantity: str, name: str) -> View:
    values = points.true[quantity]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": exact(points.coordinates[:, 0]),
        "y": exact(values),
        "text": [
            f"{escaped(label)}<br>{line}"
            for label, line in zip(
                points.labels,
                hover(name, points.coordinates[:, 0], quantity, values, np.full(len(values), np.nan)),
                strict=True,
            )
        ],
        "hoverinfo": "text",
        "name": escaped(points.kind),
        "marker": {"symbol": "diamond", "size": 9, "color": "@orange"},
    }


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


def _surface_alt(surface: Surface) -> str:
    grid = Grid(surface.axes)
    sizes = " × ".join(f"{len(values):,}" for values in surface.axes.values())
    ranges = " and ".join(f"{n} from {range_text(v)}" for n, v in surface.axes.items())
    steps = [gap(v) / 10 for v in surface.axes.values()]
    parts = [f"Values of {' and '.join(surface.values)} over {ranges}, {sizes} points"]
    for name, values in surface.values.items():
        good = np.flatnonzero((surface.computed & np.isfinite(values)).ravel())
        if not len(good):
            parts.append(f"{name} has no finite value")
            continue
        flat, errors = values.ravel(), surface.stderr[name].ravel()
        low, high = (int(good[find(flat[good])]) for find in (np.argmin, np.argmax))
        at = ", ".join(value_text(c, 3, step) for c, step in zip(grid.coordinates(low), steps, strict=True))
        lowest, highest = (known_text(flat[k], errors[k], 4, spread(flat[good])) for k in (low, high))
        parts.append(f"{name} is lowest with {lowest} at ({at}) and highest with {highest}")
        parts[-1] += not_finite_text(surface.computed, values)
    missing = int((~surface.computed).sum())
    if missing:
        parts.append(f"{missing:,} of {surface.computed.size:,} points not computed")
    return f"{'; '.join(parts)}."


_BARS = 60  # layers drawn; the table has them all


_NAMED = 100  # models up to which each cell of a matrix tells its two

_NUMBERED = "models %{{y}} and %{{x}}<br>%{{z:.{}g}}<extra></extra>"


_NAME = 26  # letters of a name beside a bar or a cell


def bars(
    names: Sequence[str], values: FloatArray, errors: FloatArray, solid: BoolArray, title: str
) -> tuple[View, tuple[str, ...]]:
    """Bars, the first name on top, and what is to be said of them."""
    kept = list(range(len(names)))
    notes = [f"bars: {ERROR}"] if np.isfinite(errors).any() else []
    if not solid.all():
        notes.append("pale: not converged")
    if len(names) > _BARS:
        order = np.argsort(-np.nan_to_num(np.abs(values), nan=-1.0), kind="stable")
        kept = sorted(order[:_BARS].tolist())
        notes.append(f"the {_BARS} largest of {len(names):,} layers are drawn; the table holds them all")
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


def matrix_view(labels: Sequence[str], pairs: Any, values: FloatArray, errors: FloatArray, what: str) -> View:
    """A square table of values over pairs as colours."""
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
        top = 1.0 if what.startswith("cka") else max(0.0, float(known.max()))
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
