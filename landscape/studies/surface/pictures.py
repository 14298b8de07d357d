"""Pictures of surfaces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from landscape_kernels.arrays import BoolArray, FloatArray
from landscape_kernels.rounding import settled
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from mpl_toolkits.mplot3d.art3d import Poly3DCollection

from landscape.arguments import checked
from landscape.errors import InputError, nearest
from landscape.pictures.marks import coordinate_words, counted, mark_nonfinite
from landscape.pictures.scale import Scale, check_levels, choose_scale
from landscape.pictures.style import (
    BLUE,
    ERROR,
    NONFINITE,
    ORANGE,
    StyledFigure,
    cell_borders,
    finish,
    hatch_cells,
    hatch_spans,
    styled,
)
from landscape.precise.told import quantity_label
from landscape.results.kind import Asked, Pictures
from landscape.studies.surface.result import Points, Surface

KINDS = ("contour", "3d", "profile", "ratio")
JOINED = ("trajectory", "curve")  # kinds of points that are drawn as a line
_RATIO = "convexity"
_LOWEST = "eigenvalue_min"
_MOST = 150  # grid lines of each axis that a 3d picture draws
_NAMED = 6  # heights that a 3d axis names at most


@styled
@checked()
def plot_surface(
    surface: Surface,
    quantity: str = "loss",
    kind: str | None = None,
    *,
    levels: str | Sequence[float] | FloatArray = "auto",
    count: int = 12,
    step: float = 0.1,
) -> Figure:
    """A picture of one quantity of a surface; coordinates in multiples of the directions, values as they are (unit 1).

    Kinds: "contour", filled contours with lines, the centre, and the surface's points (a trajectory is joined, its ends
    named, its explained variance told on the axes); "3d", the graph over the plane; "profile", the values along each
    axis through the centre with a band of 2 standard errors; "ratio", of a curvature map, contours of
    |lambda_min / lambda_max| with a dashed line where lambda_min is 0: where the ratio is near 0 the loss is convex
    along all directions that matter (Li et al. 2018, section 6). None chooses profile where one axis alone has several
    points, and contour for more. All but profile show the first two axes; further axes are cut at their coordinate
    nearest 0, which the title names. A profile has a panel for each axis of several points; the title says where the
    others are, and that this is the nearest grid row where the grid has none through the centre.

    `levels`: "linear"; "log"; "step", every `step` for 20 steps from the lowest value on, which shows the basin, then
    1, 2 and 5 of each decade (beyond 8 decades powers of ten), which show the walls (so Li et al.'s plots of
    trajectories, with steps of 0.5); "auto", log where all values are positive and they, or a trajectory's values at
    its checkpoints or their feet on the plane, span more than a decade, else linear, and always linear for an accuracy;
    or values that increase, as Li et al.'s np.arange(0.1, 10, 0.5). `count` is about how many linear or log levels to
    draw. Heights in 3d and profile are log where "auto" levels are, unless `levels` are "linear".

    Cells not computed are hatched. NaN and Inf cells are cross-hatched (contour) or marked (profile). In 3d both are
    left out. Their numbers stand below the picture, as does the largest standard error.

    Of a surface measured to a stated error its errors are quantities, too: "loss_error", "loss_error_sampling",
    "loss_error_interpolation".

    Raises InputError for an unknown quantity, kind or `levels`, for a plane's kinds of a line, for "ratio" of a surface
    without eigenvalues, `count` < 2, a `step` that is not positive or is lost beside the values, and log levels of
    values that are not positive.
    """
    kind = kind or usual_kind(surface)
    if kind not in KINDS:
        raise InputError(f"kind {kind!r} is not a kind of picture; {nearest(kind, KINDS)}")
    if kind == "ratio":
        if _RATIO not in surface.values:
            raise InputError("the surface has no eigenvalues: kind 'ratio' is of a map by measure_curvature_map")
        quantity = _RATIO
        levels = "linear" if isinstance(levels, str) and levels == "auto" else levels  # 0 is what it is about
    if quantity not in surface.values:
        surface = surface.with_errors()
    if quantity not in surface.values:
        raise InputError(f"the surface has no quantity {quantity!r}; {nearest(quantity, surface.values)}")
    check_levels(levels, count, step)
    if kind != "profile" and len(surface.axes) == 1:
        raise InputError(
            f"kind {kind!r} needs two axes, this surface has one ({next(iter(surface.axes))}): use 'profile'"
        )
    along = _long(surface) or list(surface.axes)
    cuts = [_line(surface, quantity, n) for n in along] if kind == "profile" else [cut_plane(surface, quantity)]
    values = np.concatenate([cut.values[cut.finite] for cut in cuts])
    scale = choose_scale(values, levels, count, step, quantity, trajectory_values(surface.points, quantity))
    if kind == "profile":
        return _profile(surface, quantity, dict(zip(along, cuts, strict=True)), scale)
    if kind == "3d":
        return _graph(surface, quantity, cuts[0], scale)
    return _contour(surface, quantity, cuts[0], scale)


def usual_kind(surface: Surface) -> str:
    """The kind of picture that shows a surface best: "profile" where one axis alone has several points, or "contour".

    A plane of a single point is a contour.
    """
    return "profile" if len(surface.axes) == 1 or len(_long(surface)) == 1 else "contour"


def _long(surface: Surface) -> list[str]:
    """The axes of several points."""
    return [name for name, axis in surface.axes.items() if axis.size > 1]


def trajectory_values(points: Points | None, quantity: str) -> FloatArray | None:
    """What a trajectory has of a quantity, at its checkpoints and on the plane."""
    if points is None or points.kind != "trajectory":
        return None
    told = [known[quantity] for known in (points.true, points.projected) if quantity in known]
    return np.concatenate(told) if told else None


@dataclass(frozen=True)
class Cut:
    """The cells a picture shows, and its words: values (ny, nx) or (n,), with what was computed and what is finite."""

    values: FloatArray
    stderr: FloatArray
    error: FloatArray  # of what was not measured; NaN where no error was asked for
    computed: BoolArray
    place: str  # where further axes were cut, empty when there are none

    @property
    def finite(self) -> BoolArray:
        finite: BoolArray = self.computed & np.isfinite(self.values)
        return finite

    @property
    def nonfinite(self) -> BoolArray:
        return self.computed & ~np.isfinite(self.values)


def _contour(surface: Surface, quantity: str, cut: Cut, scale: Scale) -> Figure:
    figure = StyledFigure(figsize=(7.0, 5.6), layout="constrained")
    ax = figure.add_subplot()
    x, y = list(surface.axes.values())[:2]
    mappable = paint_plane(ax, x, y, cut.values, cut.computed, scale)
    if mappable is not None:
        bar = figure.colorbar(mappable, ax=ax, label=quantity_label(surface, quantity), ticks=scale.ticks)
        scale.tick(bar.ax.yaxis, scale.ticks)
    _mark_centre(ax)
    if surface.points is not None:
        _mark_points(ax, surface.points)
    label_plane(ax, surface)
    ax.set_title(cut.place)
    convex = [_mark_convex(ax, surface)] if quantity == _RATIO and _LOWEST in surface.values else []
    return _finish(figure, ax, [cut], scale, also=convex)


def paint_plane(ax: Axes, x: FloatArray, y: FloatArray, values: FloatArray, computed: BoolArray, scale: Scale) -> Any:
    """Draw `values` (ny, nx) as filled contours with lines, and hatch cells without a number.

    Returns what a colour bar is made of, or None where no value is finite.
    """
    finite = computed & np.isfinite(values)
    borders_x, borders_y = cell_borders(x), cell_borders(y)
    lines = min(values.shape) > 1 and bool(finite.any()) and not scale.constant
    mappable: Any = None
    if finite.any():
        drawn = np.where(finite, scale.drawn(values), np.nan)
        if not (lines and finite.all()):
            # Contours need four finite corners; coloured cells show also the values that have too few neighbours.
            mappable = ax.pcolormesh(borders_x, borders_y, drawn, **scale.colours)
        if lines:
            mappable = ax.contourf(x, y, drawn, levels=scale.levels, extend=scale.extend, **scale.colours)
            inner = scale.levels[0 if scale.extend in ("min", "both") else 1 :]
            look: dict[str, Any] = {"colors": "white", "linewidths": 0.6, "linestyles": "solid", "alpha": 0.8}
            ax.contour(x, y, drawn, levels=inner, **look)
    hatch_cells(ax, ~computed, borders_x, borders_y)
    hatch_cells(ax, computed & ~finite, borders_x, borders_y, **NONFINITE)
    # Whole cells where there is no other area to show.
    ax.set_xlim(*(borders_x if x.size == 1 or not lines else x)[[0, -1]])
    ax.set_ylim(*(borders_y if y.size == 1 or not lines else y)[[0, -1]])
    return mappable


def label_plane(ax: Axes, surface: Surface, *, lines: bool = False) -> None:
    """Name the first two axes of a surface as `axis_label` does."""
    names = list(surface.axes)
    ax.set_xlabel(axis_label(surface, names[0], 0, lines=lines))
    ax.set_ylabel(axis_label(surface, names[1], 1, lines=lines))


def _mark_convex(ax: Axes, surface: Surface) -> str:
    """A line where the smallest eigenvalue is 0; returns how often it is below."""
    x, y = list(surface.axes.values())[:2]
    low = cut_plane(surface, _LOWEST)
    known = np.where(low.finite, low.values, np.nan)
    below, all_known = int((known < 0).sum()), int(low.finite.sum())
    if 0 < below < all_known and min(known.shape) > 1:
        for colour, width, stroke in (("white", 3.0, "solid"), ("black", 1.4, "dashed")):  # seen on light and dark
            ax.contour(x, y, known, levels=[0.0], colors=colour, linewidths=width, linestyles=stroke)
        ax.plot([], [], "--", color="black", label=r"$\lambda_{\min} = 0$")
    return f"smallest eigenvalue below 0 at {below} of {all_known} points"


def _graph(surface: Surface, quantity: str, cut: Cut, scale: Scale) -> Figure:
    x, y = list(surface.axes.values())[:2]
    figure = StyledFigure(figsize=(7.0, 6.0), layout="constrained")
    ax: Any = figure.add_subplot(projection="3d")
    rows, columns = (np.unique(np.linspace(0, n - 1, min(n, _MOST)).round().astype(int)) for n in cut.values.shape)
    drawn = np.ix_(rows, columns)
    finite = cut.finite[drawn]
    X, Y = np.meshgrid(x[columns], y[rows])
    vertices = np.stack([X, Y, np.where(finite, scale.drawn(cut.values[drawn]), np.nan)], axis=-1)
    # One face per quad whose four corners are finite; a point without a face is drawn as a dot.
    quads = np.stack([vertices[:-1, :-1], vertices[:-1, 1:], vertices[1:, 1:], vertices[1:, :-1]], axis=2)
    whole = np.isfinite(quads[..., 2]).all(axis=2)
    covered = np.zeros(finite.shape, dtype=bool)
    for corner in (covered[:-1, :-1], covered[:-1, 1:], covered[1:, 1:], covered[1:, :-1]):
        corner |= whole
    mappable: Any = None
    if whole.any():
        faces = quads[whole]
        mappable = Poly3DCollection(faces, edgecolors=(1.0, 1.0, 1.0, 0.35), linewidths=0.3, **scale.colours)
        mappable.set_array(faces[..., 2].mean(axis=1))
        ax.add_collection3d(mappable)
    lonely = vertices[finite & ~covered]
    if lonely.size:
        dots = ax.scatter(*lonely.T, c=lonely[:, 2], depthshade=False, label="single values", **scale.colours)
        mappable = mappable or dots
    if mappable is not None:
        label = quantity_label(surface, quantity)
        bar = figure.colorbar(mappable, ax=ax, label=label, ticks=scale.ticks, shrink=0.7, pad=0.12)
        scale.tick(bar.ax.yaxis, scale.ticks)
    ax.set_xlim(*cell_borders(x)[[0, -1]] if x.size == 1 else x[[0, -1]])
    ax.set_ylim(*cell_borders(y)[[0, -1]] if y.size == 1 else y[[0, -1]])
    ax.set_zlim(*scale.heights[[0, -1]])
    scale.tick(ax.zaxis, scale.heights[:: -(-scale.heights.size // _NAMED)])
    ax.view_init(elev=35, azim=-60)
    ax.set_box_aspect(None, zoom=0.86)
    label_plane(ax, surface, lines=True)
    for along, pruned in ((ax.xaxis, "upper"), (ax.yaxis, "lower")):  # numbers at the common corner would collide
        along.set_major_locator(MaxNLocator(4, prune=pruned))
        along.labelpad = 10 + 6 * along.get_label_text().count("\n")
    ax.tick_params(axis="z", pad=8)
    ax.set_title(cut.place)
    thinned = []
    if finite.size < cut.values.size:
        thinned.append(f"{columns.size} of {x.size} by {rows.size} of {y.size} grid lines drawn")
    return _finish(figure, ax, [cut], scale, "left out: ", thinned)


def _profile(surface: Surface, quantity: str, cuts: Mapping[str, Cut], scale: Scale) -> Figure:
    figure = StyledFigure(figsize=(max(6.4, 4.2 * len(cuts)), 4.4), layout="constrained")
    panels: list[Axes] = []
    for place, (name, cut) in enumerate(cuts.items()):
        x = surface.axes[name]
        ax = figure.add_subplot(1, len(cuts), place + 1, sharey=panels[0] if panels else None)
        panels.append(ax)
        drawn = np.where(cut.finite, scale.drawn(cut.values), np.nan)
        ax.plot(x, drawn, "o-", color=BLUE, markersize=3, linewidth=1.2)
        _band(ax, x, cut, scale)
        hatch_spans(ax, ~cut.computed, x)
        mark_nonfinite(ax, x, np.where(cut.computed, cut.values, 0.0))
        ax.set_xlim(*(cell_borders(x) if x.size == 1 or not cut.computed.all() else x)[[0, -1]])
        if min(ax.get_xlim()) <= 0 <= max(ax.get_xlim()):
            ax.axvline(0.0, color="0.4", linestyle=":", linewidth=1, label="centre")
        if surface.points is not None and len(surface.axes) == 1:
            _mark_line(ax, surface.points, quantity, scale)
        ax.set_xlabel(axis_label(surface, name, list(surface.axes).index(name)))
        ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        ax.set_title(cut.place)
        ax.grid(axis="y")
        ax.tick_params(labelleft=place == 0)
    panels[0].set_ylabel(quantity_label(surface, quantity))
    if scale.log:
        panels[0].set_ylim(bottom=scale.floor)
    scale.tick(panels[0].yaxis, scale.heights)
    return _finish(figure, panels[0], list(cuts.values()), scale)


def _band(ax: Axes, x: FloatArray, cut: Cut, scale: Scale) -> None:
    known = cut.finite & np.isfinite(cut.stderr)
    if not known.any():
        return
    with np.errstate(over="ignore"):
        middle, upper, lower = (scale.drawn(cut.values + side * cut.stderr) for side in (0, 2, -2))
    if scale.log:  # an error as large as the value reaches down without end: here to the border of the picture
        lower = np.fmax(lower, scale.floor)
    ax.fill_between(x, lower, upper, where=known.tolist(), color=BLUE, alpha=0.25, linewidth=0, label=ERROR)
    beside = np.concatenate([[False], known, [False]])
    alone = known & ~(beside[:-2] | beside[2:])
    if alone.any():  # a band needs two neighbours
        error = np.stack([middle - lower, upper - middle])[:, alone]
        ax.errorbar(x[alone], middle[alone], yerr=error, fmt="none", ecolor=BLUE, capsize=3)


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
    joined = points.kind in JOINED
    ax.plot(
        x,
        y,
        "o-" if joined else "o",
        color=ORANGE,
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


def _mark_line(ax: Axes, points: Points, quantity: str, scale: Scale) -> None:
    x = points.coordinates[:, 0]
    if quantity in points.true:
        ax.plot(x, scale.drawn(points.true[quantity]), "D", color=ORANGE, markeredgecolor="black", label=points.kind)
    for i in (0, len(points.labels) - 1) if points.kind in JOINED else range(len(points.labels)):
        ax.axvline(x[i], color=ORANGE, linestyle="--", linewidth=1)
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


def cut_plane(surface: Surface, quantity: str) -> Cut:
    """The first two axes, the further ones cut at their coordinate nearest 0."""
    further = list(surface.axes.items())[2:]
    at = {name: _nearest_zero(axis) for name, axis in further}
    place = ", ".join(f"{name} = {axis[at[name]]:.4g}" for name, axis in further)
    return _cut(surface, quantity, tuple(at[name] for name, _ in reversed(further)), place)


def _line(surface: Surface, quantity: str, along: str) -> Cut:
    """One axis, the others cut at their coordinate nearest 0."""
    others = [(name, axis) for name, axis in surface.axes.items() if name != along]
    place = ", ".join(f"{name} = {axis[_nearest_zero(axis)]:.4g}" for name, axis in others)
    if any(np.abs(axis).min() > 1e-9 * np.abs(axis).max() for _, axis in others):
        place += "\n(nearest grid row to the centre)"
    reverse = reversed(list(surface.axes.items()))
    index = tuple(slice(None) if name == along else _nearest_zero(axis) for name, axis in reverse)
    return _cut(surface, quantity, index, place)


def _cut(surface: Surface, quantity: str, index: tuple[int | slice, ...], place: str) -> Cut:
    values = surface.values[quantity][index]
    stderr = surface.stderr[quantity][index] if quantity in surface.stderr else np.full(values.shape, np.nan)
    error = (surface.error or {}).get(quantity)
    told = np.full(values.shape, np.nan) if error is None else error[index]
    return Cut(values, stderr, told, surface.computed[index], place)


def _nearest_zero(axis: FloatArray) -> int:
    return int(np.argmin(np.abs(axis)))


def axis_label(surface: Surface, name: str, place: int, *, lines: bool = False) -> str:
    """An axis of a surface by its name and number: what a coordinate of 1 is, and the variance that it explains.

    `lines` puts the variance on a line of its own.
    """
    about = coordinate_words(surface.attributes)
    points = surface.points
    if points is None or points.explained_variance is None:
        return f"{name} ({about})"
    share = f"{100 * points.explained_variance[place]:.1f} % of variance"
    return f"{name} ({about})\n{share}" if lines else f"{name} ({about}, {share})"


def _finish(
    figure: Figure, ax: Axes, cuts: Sequence[Cut], scale: Scale, prefix: str = "", also: Sequence[str] = ()
) -> Figure:
    """Legend, and the sentence below the picture that counts what is not drawn as a plain value."""
    notes = counted([(cut.values, cut.computed) for cut in cuts], "points")
    notes = [f"{prefix}{note}" for note in notes]
    if sum(cut.values.size for cut in cuts) == len(cuts):
        notes.append("one point")
    elif len(cuts) == 1 and 1 in cuts[0].values.shape:
        notes.append("one row of points")
    if scale.note:
        notes.append(scale.note)
    notes += also
    known = np.concatenate([cut.stderr[cut.finite] for cut in cuts])
    known = known[np.isfinite(known)]
    highest = max(float(np.abs(cut.values[cut.finite]).max(initial=0.0)) for cut in cuts)
    if known.size and settled(float(known.max()), highest) > 0 and cuts[0].values.ndim > 1:  # others have bands
        notes.append(f"standard error at most {known.max():.2g}")
    asked = np.concatenate([cut.error[cut.finite] for cut in cuts])
    if (asked > 0).any():
        notes.append(f"error of what was not measured at most {np.nanmax(asked):.2g}")
    return finish(figure, [ax], notes)


def _asked(surface: Surface, asked: Asked) -> Iterator[tuple[str, Figure]]:
    first = "loss" if "loss" in surface.values else next(iter(surface.values))
    drawn, shown = asked.kind or usual_kind(surface), asked.quantity or first
    yield f"{shown}_{drawn}", plot_surface(surface, shown, drawn, levels=asked.levels or "auto")


PICTURES = Pictures(plot_surface, _asked, lambda surface: surface.plot())
