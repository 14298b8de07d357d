"""Surfaces as pictures of a report."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from landscape_kernels.arrays import BoolArray, FloatArray, IntArray

from landscape.pictures.numbers import exact, extremes, figures, gap, numbers, range_text, spread, value_text
from landscape.pictures.scale import Scale, choose_scale
from landscape.pictures.views import (
    Picture,
    View,
    band_and_line,
    escaped,
    hover,
    known_text,
    lines,
    marks,
    matrix,
    not_finite_text,
    plain_text,
    thinned,
    thinned_note,
)
from landscape.planes.grid import Grid
from landscape.precise.told import quantity_label
from landscape.studies.surface.pictures import JOINED, axis_label, trajectory_values
from landscape.studies.surface.result import Points, Surface
from landscape.studies.surface.tables import surface_columns

_LEVELS = 12  # about so many, as `landscape.studies.surface.pictures.plot_surface` draws
_TO_SCALE = ("pca", "through", "curve")  # planes whose axes are orthogonal, and 1 is as far along each
_SLICES = 21  # of a third axis


def surface_views(surface: Surface, most: int) -> Iterator[Picture]:
    """The picture of each quantity, of at most about `most` points; a line for one axis, else contours and 3-D."""
    shown = surface.with_errors()
    if len(surface.axes) == 1:
        yield _profile(shown, most)
        return
    views, notes = _planes(shown, most)
    yield Picture("surface", _surface_alt(surface), views, notes, surface_columns(surface))


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
            "quantity": plain_text(quantity_label(surface, name)),
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
        views[quantity] = lines(traces, label, plain_text(quantity_label(surface, quantity)), values[kept][known])
    notes = []
    if len(kept) < len(x):
        notes.append(thinned_note(len(kept), len(x), "points"))
    return Picture("profile", _surface_alt(surface), views, tuple(notes), surface_columns(surface))


def label_of(surface: Surface, place: int) -> str:
    """Name of an axis, what a coordinate of 1 is, and the variance it explains."""
    return escaped(axis_label(surface, list(surface.axes)[place], place))


def to_scale(surface: Surface) -> bool:
    """Whether a length is as long along each of the surface's axes."""
    plane = surface.attributes.get("plane")
    return isinstance(plane, Mapping) and plane.get("kind") in _TO_SCALE


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
