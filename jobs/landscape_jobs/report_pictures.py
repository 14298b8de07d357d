"""Interactive pictures of a report: what the page's script draws, as plain JSON values, and a sentence in its place.

A colour is a name with @ before it, which the page gives a value in light and in dark. Texts in a picture are
escaped here, because plotly reads some of HTML in them.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from landscape.grid import Grid
from landscape.results import BoolArray, FloatArray, Points, Surface

IntArray = npt.NDArray[np.int64]
View = dict[str, Any]  # {"data": traces, "layout": ...} of lines and bars, or {"surface": ...}

_JOINED = ("trajectory", "curve")  # kinds of points that are drawn as a line
ERROR = "±2 standard errors"

_DIGITS = 6  # of a value in a picture


@dataclass(frozen=True)
class Picture:
    """One picture, or several of one kind of which a reader chooses."""

    title: str
    alt: str  # what it shows, with its key numbers
    views: Mapping[str, View]  # what is shown -> the picture of it
    notes: tuple[str, ...] = ()  # what it leaves out, and what its signs mean


def surface_pictures(surface: Surface, most: int) -> Iterator[Picture]:
    """The picture of each quantity, of at most about `most` points; a line for one axis, else contours and 3-D."""
    if len(surface.axes) == 1:
        yield _profile(surface, most)
        return
    (x_name, x), (y_name, y) = list(surface.axes.items())[:2]
    further = list(surface.axes.items())[2:]
    cut = tuple(int(np.abs(values).argmin()) for _, values in reversed(further))
    place = ", ".join(f"{name} = {values[int(np.abs(values).argmin())]:.4g}" for name, values in further)
    computed = surface.computed[cut]
    first = next(iter(surface.values.values()))[cut]
    rows, columns = _kept(np.where(computed, first, np.nan), x, y, most)
    kept = np.ix_(rows, columns)
    views: dict[str, View] = {}
    for name, values in surface.values.items():
        views[name] = {
            "surface": {
                "x": numbers(x[columns]),
                "y": numbers(y[rows]),
                "names": [x_name, y_name],
                "labels": [axis_label(surface, 0), axis_label(surface, 1)],
                "quantity": escaped(name),
                "z": matrix(values[cut][kept]),
                "error": _errors(surface.stderr[name][cut][kept]),
                "state": _states(computed[kept], values[cut][kept]),
                "points": _points(surface.points, name),
            }
        }
    notes = [f"{', '.join(name for name, _ in further)} cut at {place}, the nearest to 0"] if further else []
    if len(rows) < len(y) or len(columns) < len(x):
        notes.append(
            f"thinned: {len(y) * len(x):,} points were measured ({len(x):,} × {len(y):,}), and the picture keeps "
            f"{len(rows) * len(columns):,} of them ({len(columns)} × {len(rows)}) at even steps, with the ends, the "
            "centre and the lowest value; the result's file holds them all"
        )
    yield Picture(f"surface{f' at {place}' if place else ''}", _surface_alt(surface), views, tuple(notes))


def _profile(surface: Surface, most: int) -> Picture:
    (name, x), computed = next(iter(surface.axes.items())), surface.computed
    lowest = [int(np.nanargmin(v)) for v in surface.values.values() if np.isfinite(v).any()]
    kept = np.union1d(thinned(len(x), most), np.array(lowest, dtype=np.int64))
    label = axis_label(surface, 0)
    views: dict[str, View] = {}
    for quantity, values in surface.values.items():
        known = (computed & np.isfinite(values))[kept]
        traces = band_and_line(x[kept], values[kept], surface.stderr[quantity][kept], known, quantity, name)
        traces += marks(x[kept], values[kept], computed[kept], name)
        if surface.points is not None and quantity in surface.points.true:
            traces.append(_line_points(surface.points, quantity, name))
        views[quantity] = lines(traces, label, quantity, values[kept][known])
    notes = []
    if len(kept) < len(x):
        drawn = f"thinned: {len(kept):,} of {len(x):,} points are drawn, at even steps, with the lowest value"
        notes.append(f"{drawn}; the result's file holds them all")
    return Picture("profile", _surface_alt(surface), views, tuple(notes))


# -- parts that other pictures share ---------------------------------------------------------------------------------


def escaped(text: str) -> str:
    """A text as plotly has to be given it."""
    return html.escape(str(text), quote=False)


def numbers(values: FloatArray) -> list[float | None]:
    """Values with six digits; None for NaN and Inf, which JSON has not."""
    return [float(f"{v:.{_DIGITS}g}") if math.isfinite(v) else None for v in values.tolist()]


def matrix(values: FloatArray) -> list[list[float | None]]:
    """Rows of `numbers`."""
    return [numbers(row) for row in values]


def thinned(count: int, most: int) -> IntArray:
    """Which of `count` places are kept, about `most`: at even steps, with both ends."""
    return np.unique(np.linspace(0, count - 1, max(2, min(count, most))).round().astype(np.int64))


def known_text(value: float, stderr: float = math.nan, digits: int = 5) -> str:
    """A value and its standard error, as read.

    >>> known_text(1.25, 0.125), known_text(math.nan)
    ('1.25 ± 0.12', 'NaN')
    """
    text = "NaN" if math.isnan(value) else f"{value:.{digits}g}".replace("inf", "Inf")
    return text + (f" ± {stderr:.2g}" if math.isfinite(stderr) and math.isfinite(value) else "")


def hover(name: str, x: FloatArray, quantity: str, values: FloatArray, stderr: FloatArray) -> list[str]:
    """What stands beside each point of a line."""
    return [
        f"{escaped(name)} = {a:.5g}<br>{escaped(quantity)} {known_text(v, e)}"
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
        ys += numbers(edge)
        logs += numbers(np.maximum(edge, least))
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
            "y": numbers(np.where(known, values, np.nan)),
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


def axis_label(surface: Surface, place: int) -> str:
    """Name of an axis, what its unit is, and the variance it explains."""
    name = list(surface.axes)[place]
    plane = surface.attributes.get("plane")
    plane = plane if isinstance(plane, Mapping) else {}
    normalize = plane.get("normalize") or surface.attributes.get("normalize")
    if plane.get("kind") == "pca":
        words = ["distance in parameter space"]  # its directions are unit vectors
    else:
        words = ["multiples of the direction" if normalize in (None, "", "none") else f"{normalize}-normalised"]
    if surface.points is not None and surface.points.explained_variance is not None:
        words.append(f"{surface.points.explained_variance[place]:.1%} of variance")
    return escaped(f"{name} ({', '.join(words)})")


# -- parts of surfaces -----------------------------------------------------------------------------------------------


def _kept(values: FloatArray, x: FloatArray, y: FloatArray, most: int) -> tuple[IntArray, IntArray]:
    """Rows and columns of a thinned grid: even steps, the ends, the nearest to 0 and the lowest value."""
    height, width = values.shape
    if values.size <= most:
        return np.arange(height), np.arange(width)
    finite = np.isfinite(values)
    lowest = np.unravel_index(int(np.where(finite, values, np.inf).argmin()), values.shape) if finite.any() else (0, 0)
    short, long = sorted(values.shape)
    few = max(1, min(short, int(short * math.sqrt(most / values.size))))
    many = min(long, most // few)
    rows, columns = (few, many) if height <= width else (many, few)
    return (
        np.union1d(thinned(height, rows), [lowest[0], int(np.abs(y).argmin())]),
        np.union1d(thinned(width, columns), [lowest[1], int(np.abs(x).argmin())]),
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


def _points(points: Points | None, quantity: str) -> View | None:
    if points is None:
        return None
    true, projected = (found.get(quantity) for found in (points.true, points.projected))
    texts = []
    for k, label in enumerate(points.labels):
        lines_ = [escaped(label), f"at ({', '.join(f'{c:.4g}' for c in points.coordinates[k])})"]
        lines_.append(f"{points.distance[k]:.3g} from the plane")
        if true is not None and projected is not None:
            lines_.append(f"{escaped(quantity)} {true[k]:.5g} itself, {projected[k]:.5g} projected")
        texts.append("<br>".join(lines_))
    return {
        "kind": escaped(points.kind),
        "joined": points.kind in _JOINED,
        "labels": [escaped(label) for label in points.labels],
        "x": numbers(points.coordinates[:, 0]),
        "y": numbers(points.coordinates[:, 1]),
        "z": None if projected is None else numbers(projected),
        "texts": texts,
    }


def _line_points(points: Points, quantity: str, name: str) -> View:
    values = points.true[quantity]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": numbers(points.coordinates[:, 0]),
        "y": numbers(values),
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


def marks(x: FloatArray, values: FloatArray, computed: BoolArray, name: str) -> list[View]:
    """Places without a value, at the foot of the picture."""
    found: list[View] = []
    for where, label, symbol, colour in (
        (~computed, "not computed", "line-ns-open", "@quiet"),
        (computed & ~np.isfinite(values), "NaN or Inf", "x", "@red"),
    ):
        words = [label if symbol != "x" else known_text(v) for v in values[where]]
        trace: View = {
            "type": "scatter",
            "mode": "markers",
            "x": numbers(x[where]),
            "y": [0.02] * len(words),
            "yaxis": "y9",  # the height of the picture, from 0 to 1
            "text": [f"{escaped(name)} = {a:.5g}<br>{word}" for a, word in zip(x[where], words, strict=True)],
            "hoverinfo": "text",
            "name": f"{label} ({len(words):,})",
            "marker": {"symbol": symbol, "size": 8, "color": colour},
        }
        found += [trace] if words else []
    return found


def _surface_alt(surface: Surface) -> str:
    grid = Grid(surface.axes)
    sizes = " × ".join(f"{len(values):,}" for values in surface.axes.values())
    ranges = " and ".join(f"{n} from {v[0]:.4g} to {v[-1]:.4g}" for n, v in surface.axes.items())
    parts = [f"Values of {' and '.join(surface.values)} over {ranges}, {sizes} points"]
    for name, values in surface.values.items():
        good = np.flatnonzero((surface.computed & np.isfinite(values)).ravel())
        if not len(good):
            parts.append(f"{name} has no finite value")
            continue
        flat, errors = values.ravel(), surface.stderr[name].ravel()
        low, high = (int(good[find(flat[good])]) for find in (np.argmin, np.argmax))
        at = ", ".join(f"{c:.3g}" for c in grid.coordinates(low))
        parts.append(f"{name} is lowest with {known_text(flat[low], errors[low], 4)} at ({at})")
        parts[-1] += f" and highest with {known_text(flat[high], errors[high], 4)}"
    missing = int((~surface.computed).sum())
    if missing:
        parts.append(f"{missing:,} of {surface.computed.size:,} points not computed")
    return f"{'; '.join(parts)}."
