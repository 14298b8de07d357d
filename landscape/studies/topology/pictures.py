"""Pictures of a topology: the barcode of its pairs, the merge tree, and its points on the surface."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landscape.arguments import checked
from landscape.errors import InputError, nearest
from landscape.pictures.scale import Scale, choose_scale
from landscape.pictures.style import BLUE, ERROR, GREEN, ORANGE, RED, StyledFigure, finish, styled
from landscape.results.kind import Asked, Pictures
from landscape.results.quantities import words
from landscape.studies.surface.pictures import plot_surface
from landscape.studies.topology.result import NOWHERE, MergeTree, Topology

KINDS = ("barcode", "tree", "surface")
_BARS = 40  # at most
_NUMBERED = 40  # minima up to which each bears its number
_NAMES = ("basin", "loop", "shell")
_COLOURS = (BLUE, ORANGE, GREEN)
_NOISE = "does not count"
_OF_LENGTH = f"{ERROR} of the length"
_SMALL: dict[str, Any] = {"textcoords": "offset points", "fontsize": "small"}


@styled
@checked()
def plot_topology(topology: Topology, kind: str = "barcode") -> Figure:
    """A picture of a topology; heights are values of the quantity, in its unit, and minima bear their numbers.

    Kinds: "barcode", a bar for each pair from where it appears to where it disappears, with an arrow where it never
    does, those that do not count thin and grey, the 40 most persistent at most; "tree", the merge tree of the minima;
    "surface", the minima, saddles and maxima on the surface's contours or line. Bars of 2 standard errors stand at the
    end of a pair (of its length) and at the tree's nodes. Heights are log where all are positive and span more than two
    decades.

    Raises InputError for an unknown kind, and for "surface" on three axes.
    """
    if kind not in KINDS:
        raise InputError(f"kind {kind!r} is not a picture of a topology; {nearest(kind, KINDS)}")
    if kind == "surface":
        return _surface(topology)
    return _barcode(topology) if kind == "barcode" else _tree(topology)


def _barcode(topology: Topology) -> Figure:
    pairs = topology.pairs
    order = np.lexsort((-pairs.persistence, ~pairs.counts))[:_BARS]
    order = order[np.lexsort((pairs.birth[order], pairs.dimension[order]))]
    scale, low, high = _heights(topology)
    height = 1.7 + 0.2 * max(4, len(order))
    figure = StyledFigure(figsize=(6.4, height), layout="constrained")
    ax = figure.add_subplot()
    number = {int(point): k for k, point in enumerate(topology.minima.point)}
    for y, row in enumerate(order.tolist()):
        dimension, counts = int(pairs.dimension[row]), bool(pairs.counts[row])
        colour = _COLOURS[dimension] if counts else "0.65"
        ends = (float(pairs.birth[row]), float(pairs.death[row]))
        begin, end = (_within(scale, value, low, high) for value in ends)
        label = _NAMES[dimension] if counts else _NOISE
        ax.plot([begin, end], [y, y], color=colour, linewidth=5 if counts else 2, solid_capstyle="butt", label=label)
        for place, value, marker in ((begin, ends[0], "<"), (end, ends[1], ">")):
            if np.isinf(value):
                ax.plot(place, y, marker, color=colour, markersize=9, clip_on=False, zorder=3)
    margin = 0.05 * (high - low)
    ax.set_xlim(low - margin, high)
    ax.set_ylim(-0.8, max(4, len(order)) - 0.2)
    _error_bars(ax, scale, zip(pairs.death[order], pairs.stderr[order], range(len(order)), strict=True), _OF_LENGTH)
    numbers = {y: number.get(int(pairs.birth_point[row])) for y, row in enumerate(order.tolist())}
    numbers = {y: k for y, k in numbers.items() if k is not None and pairs.dimension[order[y]] == 0}
    ax.set_yticks(list(numbers), [str(k) for k in numbers.values()], fontsize="small")
    ax.tick_params(axis="y", length=0)
    ax.set_ylabel("minimum", loc="bottom")
    scale.tick(ax.xaxis, scale.heights[:: 3 if scale.exponent else 1])  # powers of ten are wide
    ax.set_xlabel(words(topology.quantity, topology.surface.attributes))
    ax.grid(axis="x")
    hidden = len(pairs.birth) - len(order)
    notes = _notes(topology, scale, f"{hidden:,} pairs of less persistence not drawn" if hidden else "")
    return finish(figure, [ax], notes, last=(_NOISE, _OF_LENGTH))


def _tree(topology: Topology) -> Figure:
    tree, count = topology.merge_tree, len(topology.minima)
    scale, low, high = _heights(topology)
    place = _places(tree, count)
    height = [_within(scale, value, low, high) for value in tree.height.tolist()]
    figure = StyledFigure(figsize=(min(12.0, max(5.2, 2.0 + 0.4 * count)), 4.6), layout="constrained")
    ax = figure.add_subplot()
    x: list[float] = []
    y: list[float] = []
    for node, parent in enumerate(tree.parent.tolist()):
        above = high if parent == NOWHERE else height[parent]
        x += [place[node], place[node], place[parent] if parent != NOWHERE else place[node], np.nan]
        y += [height[node], above, above, np.nan]
    ax.plot(x, y, color="0.35", zorder=2)  # as one line, of which there may be 100,000 pieces
    marks: dict[str, Any] = {"linestyle": "none", "markeredgecolor": "black", "zorder": 3}
    ax.plot(place[:count], height[:count], "o", color=BLUE, label="minimum", **marks)
    if len(height) > count:
        ax.plot(place[count:], height[count:], "X", color=ORANGE, label="saddle where basins meet", **marks)
    many = count > _NUMBERED
    if not many:
        stderr = topology.stderr.ravel()[tree.point]
        _error_bars(ax, scale, zip(tree.height.tolist(), stderr, place, strict=True), ERROR, upright=True)
    for node in range(0 if many else count):
        ax.annotate(str(node), (place[node], height[node]), xytext=(7, -1), ha="left", va="center", **_SMALL)
    ax.set_ylim(low - 0.05 * (high - low), high)
    ax.set_xlim(-0.6, count - 0.4)
    ax.set_xticks([])
    scale.tick(ax.yaxis, scale.heights)
    ax.set_ylabel(words(topology.quantity, topology.surface.attributes))
    ax.grid(axis="y")
    left_out = f"{count:,} minima: numbers and errors not drawn" if many else ""
    return finish(figure, [ax], _notes(topology, scale, left_out), last=(ERROR,))


def _surface(topology: Topology) -> Figure:
    surface = topology.surface
    if len(surface.axes) > 2:
        raise InputError("kind 'surface' draws one axis or two, this surface has three: use 'barcode' or 'tree'")
    figure = plot_surface(surface, topology.quantity)
    ax = figure.axes[0]
    marks: dict[str, Any] = {"linestyle": "none", "markeredgecolor": "black", "clip_on": False}
    many, on_a_line = len(topology.minima) > _NUMBERED, len(surface.axes) == 1
    for points, label, marker, size, colour in (
        (topology.maxima, "maximum", "^", 7, RED),
        (topology.saddles, "saddle", "X", 7, ORANGE),
        (topology.minima, "minimum", "o", 5 if many else 11, "white"),
    ):
        x = points.coordinates[:, 0]
        # On one axis the first line is the values as they are drawn.
        y = np.asarray(ax.lines[0].get_ydata())[points.point] if on_a_line else points.coordinates[:, 1]
        if len(points):
            ax.plot(x, y, marker, color=colour, markersize=size, label=label, zorder=7, **marks)
        if points is topology.minima and not many:
            for number, place in enumerate(zip(x, y, strict=True)):
                ax.annotate(str(number), place, ha="center", va="center_baseline", fontsize="x-small", zorder=8)
    for legend in figure.legends:
        legend.remove()
    said = figure.get_supxlabel()
    return finish(figure, [ax], [*([said] if said else []), f"counts: {topology.rule}"])


def _notes(topology: Topology, scale: Scale, also: str = "") -> list[str]:
    notes = (f"counts: {topology.rule}", also, "log scale" if scale.log else "")
    return [note for note in notes if note]


def _heights(topology: Topology) -> tuple[Scale, float, float]:
    """The scale of all heights drawn, and its ends as drawn, between which everything lies."""
    pairs = topology.pairs
    heights = np.concatenate([pairs.birth, pairs.death])
    if np.isfinite(heights).sum() < 2:  # one minimum alone: up to the highest value there is
        heights = np.concatenate([heights, topology.surface.values[topology.quantity].ravel()])
    scale = choose_scale(heights[np.isfinite(heights)], "auto", 8, 0.1, topology.quantity)
    ends = [scale.drawn(pairs.death + 2 * pairs.stderr), scale.heights]
    if not scale.log:  # there an error as large as the value reaches down without end
        ends.append(scale.drawn(pairs.birth - 2 * topology.stderr.ravel()[pairs.birth_point]))
    low, high = float(np.nanmin(np.concatenate(ends))), float(np.nanmax(np.concatenate(ends)))
    return scale, low, high + 0.08 * (high - low)


def _within(scale: Scale, value: float, low: float, high: float) -> float:
    """A height as drawn; what is infinite ends at the border."""
    if np.isinf(value):
        return high if value > 0 else low
    return float(scale.drawn(np.array([value]))[0])


def _error_bars(
    ax: Axes, scale: Scale, found: Iterable[tuple[float, float, float]], label: str, upright: bool = False
) -> None:
    """Bars of 2 standard errors at (value, standard error, place on the other axis), where the error is known."""
    known = np.array([entry for entry in found if np.isfinite(entry[:2]).all() and entry[1] > 0]).reshape(-1, 3)
    if not len(known):
        return
    value, error, place = known.T
    middle, above = scale.drawn(value), scale.drawn(value + 2 * error)
    below = np.fmax(scale.drawn(value - 2 * error), scale.heights[0] if scale.log else -np.inf)
    bars: dict[str, Any] = {"yerr" if upright else "xerr": [middle - below, above - middle]}
    x, y = (place, middle) if upright else (middle, place)
    ax.errorbar(x, y, fmt="none", ecolor="black", elinewidth=1.0, capsize=2.5, zorder=4, label=label, **bars)


def _places(tree: MergeTree, count: int) -> list[float]:
    """Where each node stands beside the others: minima at 0, 1, ..., so that no lines cross; joins between theirs."""
    below: list[list[int]] = [[] for _ in tree.parent]
    for node, parent in enumerate(tree.parent.tolist()):
        if parent != NOWHERE:
            below[parent].append(node)
    place = [0.0] * len(below)
    stack = [node for node, parent in enumerate(tree.parent.tolist()) if parent == NOWHERE][::-1]
    free = 0
    while stack:
        node = stack.pop()
        if node < count:
            place[node], free = float(free), free + 1
        stack += below[node][::-1]
    for node in range(count, len(below)):  # a join comes after all that it joins
        place[node] = float(np.mean([place[child] for child in below[node]]))
    return place


def _asked(topology: Topology, asked: Asked) -> Iterator[tuple[str, Figure]]:
    asked.without("-q", "--levels")
    name = asked.kind or _most_telling(topology)
    yield name, plot_topology(topology, name)


def _most_telling(topology: Topology) -> str:
    return "surface" if len(topology.surface.axes) < 3 else "barcode"


PICTURES = Pictures(plot_topology, _asked, lambda topology: topology.plot(_most_telling(topology)))
