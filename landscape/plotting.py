"""Pictures of surfaces; the one file that knows matplotlib. Figures are made without pyplot: no display, no state."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator
from mpl_toolkits.mplot3d.art3d import Poly3DCollection  # type: ignore[import-untyped]

from landscape.errors import InputError, StoreError, nearest
from landscape.results import BoolArray, FloatArray, Points, Surface

KINDS = ("contour", "3d", "profile")
LEVELS = ("auto", "linear", "log")
SUFFIXES = (".png", ".pdf", ".svg")

# Perceptually even and readable with every common colour blindness; the two marks are Okabe and Ito's.
_COLOURS = colormaps["viridis"]
_JOINED = ("trajectory", "curve")  # kinds of points that are drawn as a line
_BLUE, _ORANGE, _RED = "#0072B2", "#E69F00", "#D55E00"
_MISSING: dict[str, Any] = {
    "facecolor": "0.93",
    "edgecolor": "0.55",
    "hatch": "////",
    "linewidth": 0.0,
    "label": "not computed",
}
_NONFINITE: dict[str, Any] = {
    "facecolor": "white",
    "edgecolor": _RED,
    "hatch": "xxxx",
    "linewidth": 0.0,
    "label": "NaN or Inf",
}


def plot_surface(
    surface: Surface,
    quantity: str = "loss",
    kind: str | None = None,
    *,
    levels: str = "auto",
    count: int = 12,
) -> Figure:
    """A picture of one quantity of a surface; coordinates in multiples of the directions, values as they are (unit 1).

    Kinds: "contour", filled contours with lines, the centre, and the surface's points (a trajectory is joined, its ends
    named, its explained variance told on the axes); "3d", the graph over the plane; "profile", the values along each
    axis through the centre with a band of +-1 standard error. None chooses profile for one axis and contour for more.
    Contour and 3d show the first two axes; further axes are cut at their coordinate nearest 0, which the title names.

    `levels`: "linear", "log", or "auto": log where all values are positive and span more than two decades; `count` is
    about how many levels to draw. Cells not computed are hatched, NaN and Inf cells are cross-hatched (contour) or
    marked (profile), in 3d both are left out; their numbers stand below the picture.

    Raises InputError for an unknown quantity, kind or `levels`, for contour or 3d of a line, `count` < 2, and log
    levels of values that are not positive.
    """
    if quantity not in surface.values:
        raise InputError(f"the surface has no quantity {quantity!r}; {nearest(quantity, surface.values)}")
    if kind is None:
        kind = "profile" if len(surface.axes) == 1 else "contour"
    if kind not in KINDS:
        raise InputError(f"kind {kind!r} is not a kind of picture; {nearest(kind, KINDS)}")
    if levels not in LEVELS:
        raise InputError(f"levels {levels!r} is not known; {nearest(levels, LEVELS)}")
    if count < 2:
        raise InputError(f"count {count} is too small: a picture has 2 levels or more, 12 is usual")
    if kind != "profile" and len(surface.axes) == 1:
        raise InputError(
            f"kind {kind!r} needs two axes, this surface has one ({next(iter(surface.axes))}): use 'profile'"
        )
    if kind == "profile":
        return _profile(surface, quantity, levels, count)
    return _contour(surface, quantity, levels, count) if kind == "contour" else _graph(surface, quantity, levels, count)


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure as PNG, PDF or SVG, by the suffix of `path`, without empty margins; returns the path.

    Raises InputError for another suffix and StoreError when the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path.name}: suffix {path.suffix!r} is not a picture format here; use {', '.join(SUFFIXES)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, bbox_inches="tight", dpi=150)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error}. Free space or choose a folder you may write to.") from error
    return path


@dataclass(frozen=True)
class _Cut:
    """The cells a picture shows, and its words: values (ny, nx) or (n,), with what was computed and what is finite."""

    values: FloatArray
    computed: BoolArray
    place: str  # where further axes were cut, empty when there are none

    @property
    def finite(self) -> BoolArray:
        finite: BoolArray = self.computed & np.isfinite(self.values)
        return finite

    @property
    def nonfinite(self) -> BoolArray:
        return self.computed & ~np.isfinite(self.values)


@dataclass(frozen=True)
class _Scale:
    """How values become heights and colours: log10, or division by a factor that keeps extreme numbers drawable."""

    log: bool
    exponent: int  # the factor is 10**exponent
    levels: FloatArray  # ascending, as drawn; from the lowest value drawn or below to the highest or above
    note: str = ""
    constant: bool = False

    @property
    def ticks(self) -> list[float]:
        """Where values are written, as drawn."""
        return [float(self.levels.mean())] if self.constant else self.levels.tolist()

    def drawn(self, values: FloatArray) -> FloatArray:
        """Values as drawn, NaN where they cannot be."""
        values = np.where(np.isfinite(values), values, np.nan)
        if not self.log:
            return values / 10.0**self.exponent
        return np.log10(values, out=np.full(values.shape, np.nan), where=values > 0)

    def text(self, level: float) -> str:
        """The value of a drawn level, in words."""
        if self.log and -4 < level < 4:
            return f"{float(f'{10.0**level:.3g}'):g}"  # three digits, and 1000 rather than 1e+03
        exponent = math.floor(level + 1e-9) if self.log else self.exponent
        mantissa = f"{10.0 ** (level - exponent) if self.log else level:.3g}"
        if mantissa == "0" or exponent == 0:
            return mantissa
        return f"$10^{{{exponent}}}$" if mantissa == "1" else f"${mantissa}\\times10^{{{exponent}}}$"

    def tick(self, axis: Axis) -> None:
        """Write values, not what is drawn, on an axis."""
        if self.log or self.exponent:
            axis.set_major_locator(FixedLocator(self.ticks))
            axis.set_major_formatter(FuncFormatter(lambda level, _: self.text(level)))


def _scale(cuts: Sequence[_Cut], levels: str, count: int, quantity: str) -> _Scale:
    values = np.concatenate([cut.values[cut.finite] for cut in cuts])
    if not values.size:
        return _Scale(False, 0, np.array([0.0, 1.0]), "no finite value to draw")
    low, high = float(values.min()), float(values.max())
    if levels == "log" and low <= 0:
        raise InputError(
            f"levels 'log' needs positive values; {int((values <= 0).sum())} of {values.size} values of {quantity} are "
            f"not, the lowest is {low:g}. Use levels='linear' or 'auto'."
        )
    positive = values[values > 0]
    wide = bool(positive.size) and bool(np.log10(positive.max()) - np.log10(positive.min()) > 2)
    log = levels == "log" or (levels == "auto" and wide and low > 0)
    largest = max(abs(low), abs(high))
    exponent = 0 if log or largest == 0 or 1e-30 < largest < 1e30 else max(-300, math.floor(math.log10(largest)))
    note = ""
    if levels == "auto" and wide and not log:
        note = f"linear levels: {values.size - positive.size} values are 0 or below, which have no logarithm"
    if high - low <= 8 * np.finfo(np.float64).eps * largest:
        middle = math.log10(low) if log else low / 10.0**exponent
        margin = max(abs(middle), 1e-3) / 20
        return _Scale(
            log, exponent, np.array([middle - margin, middle + margin]), f"constant: every value is {low:.6g}", True
        )
    if log:
        return _Scale(True, 0, _decades(math.log10(low), math.log10(high), count), note)
    return _Scale(False, exponent, _round_levels(low / 10.0**exponent, high / 10.0**exponent, count), note)


def _round_levels(low: float, high: float, count: int) -> FloatArray:
    levels = np.unique(np.asarray(MaxNLocator(count).tick_values(low, high), dtype=np.float64))
    if levels.size < 3 or levels[0] > low or levels[-1] < high:  # a range of a few rounding errors
        levels = np.linspace(low, high, count + 1)
    return levels


def _decades(low: float, high: float, count: int) -> FloatArray:
    """Levels 1, 2, 5 times powers of ten where `count` allows, else every k-th power of ten; as log10."""
    step = max(1, math.ceil((high - low) / count))
    mantissas = (1, 2, 5) if 3 * (high - low) <= count else (1,)
    powers = range(math.floor(low), math.ceil(high) + step, step)
    levels = np.array([math.log10(m) + power for power in powers for m in mantissas])
    first = max(0, int(np.searchsorted(levels, low, side="right")) - 1)
    last = int(np.searchsorted(levels, high, side="left"))
    levels = levels[first : last + 1]
    return levels if levels.size > 2 else _round_levels(low, high, count)


def _contour(surface: Surface, quantity: str, levels: str, count: int) -> Figure:
    cut = _plane(surface, quantity)
    x, y = list(surface.axes.values())[:2]
    scale = _scale([cut], levels, count, quantity)
    figure = Figure(figsize=(7.0, 5.6), layout="constrained")
    ax = figure.add_subplot()
    corners_x, corners_y = _corners(x), _corners(y)
    lines = min(cut.values.shape) > 1 and bool(cut.finite.any()) and not scale.constant
    if cut.finite.any():
        drawn = np.where(cut.finite, scale.drawn(cut.values), np.nan)
        norm = BoundaryNorm(scale.levels, _COLOURS.N)
        mappable: Any = None
        if not (lines and cut.finite.all()):
            # Contours need four finite corners; coloured cells show also the values that have too few neighbours.
            mappable = ax.pcolormesh(corners_x, corners_y, drawn, cmap=_COLOURS, norm=norm)
        if lines:
            mappable = ax.contourf(x, y, drawn, levels=scale.levels, cmap=_COLOURS, norm=norm)
            ax.contour(
                x, y, drawn, levels=scale.levels[1:], colors="white", linewidths=0.6, linestyles="solid", alpha=0.8
            )
        bar = figure.colorbar(mappable, ax=ax, label=quantity, ticks=scale.ticks)
        scale.tick(bar.ax.yaxis)
    for where, look in ((~cut.computed, _MISSING), (cut.nonfinite, _NONFINITE)):
        if where.any():
            ax.add_patch(PathPatch(_cells(where, corners_x, corners_y), **look))
    # Whole cells where there is no other area to show.
    ax.set_xlim(*(corners_x if x.size == 1 or not lines else x)[[0, -1]])
    ax.set_ylim(*(corners_y if y.size == 1 or not lines else y)[[0, -1]])
    _mark_centre(ax)
    if surface.points is not None:
        _mark_points(ax, surface.points)
    names = list(surface.axes)
    ax.set_xlabel(_axis_label(surface, names[0], 0))
    ax.set_ylabel(_axis_label(surface, names[1], 1))
    ax.set_title(quantity + (f" at {cut.place}" if cut.place else ""))
    return _finish(figure, ax, [cut], scale)


def _graph(surface: Surface, quantity: str, levels: str, count: int) -> Figure:
    cut = _plane(surface, quantity)
    x, y = list(surface.axes.values())[:2]
    scale = _scale([cut], levels, count, quantity)
    figure = Figure(figsize=(7.0, 6.0), layout="constrained")
    ax: Any = figure.add_subplot(projection="3d")
    X, Y = np.meshgrid(x, y)
    vertices = np.stack([X, Y, np.where(cut.finite, scale.drawn(cut.values), np.nan)], axis=-1)
    # One face per quad whose four corners are finite; a point without a face is drawn as a dot.
    quads = np.stack([vertices[:-1, :-1], vertices[:-1, 1:], vertices[1:, 1:], vertices[1:, :-1]], axis=2)
    whole = np.isfinite(quads[..., 2]).all(axis=2)
    covered = np.zeros(cut.finite.shape, dtype=bool)
    for corner in (covered[:-1, :-1], covered[:-1, 1:], covered[1:, 1:], covered[1:, :-1]):
        corner |= whole
    colours = {"cmap": _COLOURS, "norm": BoundaryNorm(scale.levels, _COLOURS.N)}
    mappable: Any = None
    if whole.any():
        faces = quads[whole]
        mappable = Poly3DCollection(faces, edgecolors=(1.0, 1.0, 1.0, 0.35), linewidths=0.3, **colours)
        mappable.set_array(faces[..., 2].mean(axis=1))
        ax.add_collection3d(mappable)
    lonely = vertices[cut.finite & ~covered]
    if lonely.size:
        dots = ax.scatter(*lonely.T, c=lonely[:, 2], depthshade=False, label="single values", **colours)
        mappable = mappable or dots
    if mappable is not None:
        bar = figure.colorbar(mappable, ax=ax, label=quantity, ticks=scale.ticks, shrink=0.7, pad=0.12)
        scale.tick(bar.ax.yaxis)
    ax.set_xlim(*_corners(x)[[0, -1]] if x.size == 1 else x[[0, -1]])
    ax.set_ylim(*_corners(y)[[0, -1]] if y.size == 1 else y[[0, -1]])
    ax.set_zlim(*scale.levels[[0, -1]])
    scale.tick(ax.zaxis)
    ax.view_init(elev=35, azim=-60)
    ax.set_box_aspect(None, zoom=0.86)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(4))
        axis.labelpad = 10
    ax.tick_params(axis="z", pad=8)
    names = list(surface.axes)
    ax.set_xlabel(_axis_label(surface, names[0], 0))
    ax.set_ylabel(_axis_label(surface, names[1], 1))
    ax.set_title(quantity + (f" at {cut.place}" if cut.place else ""))
    return _finish(figure, ax, [cut], scale, "left out: ")


def _profile(surface: Surface, quantity: str, levels: str, count: int) -> Figure:
    cuts = [_line(surface, quantity, name) for name in surface.axes]
    scale = _scale(cuts, levels, count, quantity)
    figure = Figure(figsize=(max(6.4, 4.2 * len(cuts)), 4.4), layout="constrained")
    panels: list[Axes] = []
    for place, (name, x) in enumerate(surface.axes.items()):
        cut = cuts[place]
        ax = figure.add_subplot(1, len(cuts), place + 1, sharey=panels[0] if panels else None)
        panels.append(ax)
        drawn = np.where(cut.finite, scale.drawn(cut.values), np.nan)
        ax.plot(x, drawn, "o-", color=_BLUE, markersize=3, linewidth=1.2, label=quantity)
        if quantity in surface.stderr:
            _band(ax, x, cut, _along(surface, surface.stderr[quantity], name), scale)
        corners = _corners(x)
        missing = dict(_MISSING)
        for i in np.flatnonzero(~cut.computed):
            ax.axvspan(corners[i], corners[i + 1], zorder=0, **missing)
            missing["label"] = "_"  # one entry in the legend
        for value, marker, height in ((np.nan, "x", 0.03), (-np.inf, "v", 0.03), (np.inf, "^", 0.97)):
            there = cut.computed & (np.isnan(cut.values) if np.isnan(value) else cut.values == value)
            if there.any():
                label = "NaN" if np.isnan(value) else f"{value:+}".replace("inf", "Inf")
                ax.plot(
                    x[there],
                    np.full(int(there.sum()), height),
                    marker,
                    color=_RED,
                    label=label,
                    transform=ax.get_xaxis_transform(),
                )
        ax.set_xlim(*(corners if x.size == 1 or not cut.computed.all() else x)[[0, -1]])
        if min(ax.get_xlim()) <= 0 <= max(ax.get_xlim()):
            ax.axvline(0.0, color="0.4", linestyle=":", linewidth=1, label="centre")
        if surface.points is not None and len(surface.axes) == 1:
            _mark_line(ax, surface.points, quantity, scale)
        ax.set_xlabel(_axis_label(surface, name, place))
        ax.set_title(quantity + (f" at {cut.place}" if cut.place else ""))
    panels[0].set_ylabel(quantity)
    if scale.log:
        panels[0].set_ylim(bottom=float(scale.levels[0]))
    scale.tick(panels[0].yaxis)
    return _finish(figure, panels[0], cuts, scale)


def _band(ax: Axes, x: FloatArray, cut: _Cut, stderr: FloatArray, scale: _Scale) -> None:
    known = cut.finite & np.isfinite(stderr)
    if not known.any():
        return
    middle, upper = scale.drawn(cut.values), scale.drawn(cut.values + stderr)
    # On a log scale an error as large as the value reaches down without end: here to the border of the picture.
    lower = (
        np.fmax(scale.drawn(cut.values - stderr), scale.levels[0]) if scale.log else scale.drawn(cut.values - stderr)
    )
    ax.fill_between(
        x, lower, upper, where=known.tolist(), color=_BLUE, alpha=0.25, linewidth=0, label="±1 standard error"
    )
    beside = np.concatenate([[False], known, [False]])
    alone = known & ~(beside[:-2] | beside[2:])
    if alone.any():  # a band needs two neighbours
        error = np.stack([middle - lower, upper - middle])[:, alone]
        ax.errorbar(x[alone], middle[alone], yerr=error, fmt="none", ecolor=_BLUE, capsize=3)


def _mark_centre(ax: Axes) -> None:
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    if left <= 0 <= right and bottom <= 0 <= top:
        ax.plot(
            0.0,
            0.0,
            "P",
            color="white",
            markeredgecolor="black",
            markersize=9,
            linestyle="none",
            zorder=4,
            label="centre",
        )


def _mark_points(ax: Axes, points: Points) -> None:
    x, y = points.coordinates[:, 0], points.coordinates[:, 1]
    joined = points.kind in _JOINED
    ax.plot(
        x,
        y,
        "o-" if joined else "o",
        color=_ORANGE,
        markeredgecolor="black",
        markersize=5,
        markevery=[0, len(x) - 1] if points.kind == "curve" else None,
        linewidth=1.6,
        zorder=5,
        label=points.kind,
    )
    for i in (0, len(points.labels) - 1) if joined else range(len(points.labels)):
        ax.annotate(
            points.labels[i],
            (x[i], y[i]),
            xytext=(6, 6),
            textcoords="offset points",
            fontsize="small",
            zorder=6,
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.8},
        )
    # Points beyond the grid stay in the picture.
    for known, limits, set_limits in ((x, ax.get_xlim(), ax.set_xlim), (y, ax.get_ylim(), ax.set_ylim)):
        low, high = float(np.nanmin(known)), float(np.nanmax(known))
        margin = 0.05 * (max(high, limits[1]) - min(low, limits[0]))
        set_limits(
            low - margin if low < limits[0] else limits[0],
            high + margin if high > limits[1] else limits[1],
        )


def _mark_line(ax: Axes, points: Points, quantity: str, scale: _Scale) -> None:
    x = points.coordinates[:, 0]
    if quantity in points.true:
        ax.plot(x, scale.drawn(points.true[quantity]), "D", color=_ORANGE, markeredgecolor="black", label=points.kind)
    for i in (0, len(points.labels) - 1) if points.kind in _JOINED else range(len(points.labels)):
        ax.axvline(x[i], color=_ORANGE, linestyle="--", linewidth=1)
        ax.annotate(
            points.labels[i],
            (x[i], 1.0),
            xycoords=ax.get_xaxis_transform(),
            xytext=(3, -10),
            textcoords="offset points",
            fontsize="small",
        )
    low, high = ax.get_xlim()
    margin = 0.08 * (max(high, float(np.nanmax(x))) - min(low, float(np.nanmin(x))))
    ax.set_xlim(min(low, float(np.nanmin(x)) - margin / 4), max(high, float(np.nanmax(x)) + margin))


def _plane(surface: Surface, quantity: str) -> _Cut:
    """The first two axes, the further ones cut at their coordinate nearest 0."""
    further = list(surface.axes.items())[2:]
    at = {name: _nearest_zero(axis) for name, axis in further}
    index = tuple(at[name] for name, _ in reversed(further))
    place = ", ".join(f"{name} = {axis[at[name]]:.4g}" for name, axis in further)
    return _Cut(surface.values[quantity][index], surface.computed[index], place)


def _line(surface: Surface, quantity: str, along: str) -> _Cut:
    """One axis, the others cut at their coordinate nearest 0."""
    others = [(name, axis) for name, axis in surface.axes.items() if name != along]
    place = ", ".join(f"{name} = {axis[_nearest_zero(axis)]:.4g}" for name, axis in others)
    return _Cut(_along(surface, surface.values[quantity], along), _along(surface, surface.computed, along), place)


def _along(surface: Surface, array: Any, along: str) -> Any:
    reverse = reversed(list(surface.axes.items()))
    return array[tuple(slice(None) if name == along else _nearest_zero(axis) for name, axis in reverse)]


def _nearest_zero(axis: FloatArray) -> int:
    return int(np.argmin(np.abs(axis)))


def _corners(axis: FloatArray) -> FloatArray:
    """Borders of the cells around grid points, (n + 1,): half way to the neighbours."""
    if axis.size == 1:
        return np.array([axis[0] - 0.5, axis[0] + 0.5])
    middle = (axis[:-1] + axis[1:]) / 2
    return np.concatenate([[2 * axis[0] - middle[0]], middle, [2 * axis[-1] - middle[-1]]])


def _cells(where: BoolArray, x: FloatArray, y: FloatArray) -> Outline:
    i, j = np.nonzero(where)
    corners = [(x[j], y[i]), (x[j + 1], y[i]), (x[j + 1], y[i + 1]), (x[j], y[i + 1])]
    return Outline.make_compound_path_from_polys(np.stack([np.stack(c, axis=-1) for c in corners], axis=1))


def _axis_label(surface: Surface, name: str, place: int) -> str:
    normalize = surface.attributes.get("normalize")
    plane = surface.attributes.get("plane")
    if isinstance(plane, Mapping) and plane.get("kind") == "pca":
        words = ["distance in parameter space"]  # its directions are unit vectors
    else:
        words = ["multiples of the direction" if normalize in (None, "", "none") else f"{normalize}-normalised"]
    points = surface.points
    if points is not None and points.explained_variance is not None:
        words.append(f"{100 * points.explained_variance[place]:.1f} % of variance")
    return f"{name} ({', '.join(words)})"


def _finish(figure: Figure, ax: Axes, cuts: Sequence[_Cut], scale: _Scale, prefix: str = "") -> Figure:
    """Legend, and the sentence below the picture that counts what is not drawn as a plain value."""
    size = sum(cut.values.size for cut in cuts)
    missing = sum(int((~cut.computed).sum()) for cut in cuts)
    counts = [
        f"{sum(int((cut.computed & test(cut.values)).sum()) for cut in cuts)} {name}"
        for name, test in (("NaN", np.isnan), ("+Inf", np.isposinf), ("-Inf", np.isneginf))
        if any((cut.computed & test(cut.values)).any() for cut in cuts)
    ]
    left = [*counts, *([f"{missing} not computed"] if missing else [])]
    notes = [f"{prefix}{', '.join(left)} of {size} points"] if left else []
    if size == len(cuts):
        notes.append("one point")
    elif len(cuts) == 1 and 1 in cuts[0].values.shape:
        notes.append("one row of points")
    if scale.note:
        notes.append(scale.note)
    if scale.log:
        notes.append("log scale")
    figure.supxlabel("; ".join(notes), fontsize="small", color="0.3")
    handles, labels = ax.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper right", ncols=min(len(handles), 4), fontsize="small")
    return figure
