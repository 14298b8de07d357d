"""Pictures of pairs of models, and of the training of curves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from landscape_kernels.arrays import FloatArray
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landscape.arguments import checked
from landscape.errors import InputError, nearest
from landscape.pictures.heat_map import heat_map, short_names, side_of
from landscape.pictures.style import GREY, StyledFigure, finish, line_look, styled
from landscape.results.kind import Asked, Pictures
from landscape.results.quantities import words
from landscape.studies.connectivity.result import Connectivity
from landscape.studies.path.pictures import plot_paths
from landscape.studies.path.result import Path

KINDS = ("table", "graph", "paths")
# Drawn side by side, each below its title
_BARRIERS = {"line_barrier": "barrier on the straight line", "curve_barrier": "barrier on the fitted curve"}
_MOST_PATHS = 3  # pairs drawn in one picture unless asked for


@styled
@checked()
def plot_connectivity(
    result: Connectivity,
    kind: str = "table",
    *,
    threshold: float | None = None,
    pairs: Sequence[tuple[int, int]] | None = None,
) -> Figure:
    """A picture of the pairs.

    Kinds: "table", heat maps of the loss barrier on the straight line and on the fitted curve, with one colour scale;
    "graph", the models on a circle, joined where the lower of the two barriers is at most `threshold`, by default a
    tenth of the largest barrier on a straight line; "paths", the loss along line and curve of `pairs`, by default the
    first three. Raises InputError for an unknown kind or pair.
    """
    if kind not in KINDS:
        raise InputError(f"kind {kind!r} is not a kind of picture; {nearest(kind, KINDS)}")
    if not result.computed.any():
        raise InputError("none of these pairs of models is measured yet, so there is nothing to draw")
    if kind == "table":
        return _plot_tables(result)
    return _plot_graph(result, threshold) if kind == "graph" else _plot_paths(result, pairs)


def _plot_tables(result: Connectivity) -> Figure:
    names = [name for name in _BARRIERS if name in result.numbers]
    least = {name: float(np.nanmax(result.roundings[name], initial=0.0)) for name in names}
    matrices = {name: result.matrix(name) for name in names}
    matrices = {name: np.where(np.abs(matrix) <= least[name], 0.0, matrix) for name, matrix in matrices.items()}
    finite = np.concatenate([matrix[np.isfinite(matrix)] for matrix in matrices.values()])
    limits = (0.0, float(finite.max()) or 1.0)
    side = side_of(len(result.labels))
    figure = StyledFigure(figsize=((side + 1.6) * len(names), side + 1.2), layout="constrained")
    for place, (name, matrix) in enumerate(matrices.items()):
        ax = figure.add_subplot(1, len(names), place + 1)
        texts = {(i, j): f"{matrix[i, j]:.3g}" for i, j in np.ndindex(matrix.shape) if i != j and _known(matrix[i, j])}
        bar = heat_map(figure, ax, matrix, result.labels, texts, limits)
        bar.set_label(words("loss", result.attributes))
        ax.set_title(_BARRIERS[name])
    return finish(figure, [], [_note(result)])


def _plot_graph(result: Connectivity, threshold: float | None) -> Figure:
    barriers, lines = result.numbers[result.default_barrier], result.numbers["line_barrier"]
    chosen = "" if threshold is not None else ", a tenth of the largest on a straight line"
    if threshold is None:
        threshold = 0.1 * float(np.nanmax(lines[np.isfinite(lines)], initial=0.0))
    count = len(result.labels)
    angles = np.pi / 2 - 2 * np.pi * np.arange(count) / count
    x, y = np.cos(angles), np.sin(angles)
    figure = StyledFigure(figsize=(6.4, 6.2), layout="constrained")
    ax = figure.add_subplot()
    groups = result.groups(threshold)
    look_of = {label: line_look(k) for k, labels in enumerate(groups) for label in labels}
    for (i, j), value, measured in zip(result.pairs.tolist(), barriers, result.computed, strict=True):
        if not measured:
            continue
        low = bool(value <= threshold)
        colour = look_of[result.labels[i]]["color"] if low else "0.7"
        ax.plot(x[[i, j]], y[[i, j]], "-" if low else ":", color=colour, linewidth=2.2 if low else 0.8, zorder=1)
    names = short_names(result.labels)
    for k, label in enumerate(result.labels):
        ax.plot(x[k], y[k], **look_of[label], markeredgecolor="black", markersize=13, zorder=2)
        _name(ax, names[k], angles[k])
    ax.set_aspect("equal")
    ax.set_axis_off()
    ax.margins(0.22)
    ax.plot([], [], color="black", linewidth=2.2, label=f"barrier at most {threshold:.3g}{chosen}")
    ax.plot([], [], ":", color="0.7", label="higher")
    found = f"{len(groups)} group{'s' * (len(groups) != 1)} of the pairs measured"
    return finish(figure, [ax], [found, _note(result)], each="\n")


def _name(ax: Axes, text: str, angle: float) -> None:
    side = math.cos(angle)
    ax.annotate(
        text,
        (math.cos(angle), math.sin(angle)),
        xytext=(18 * side, 18 * math.sin(angle)),
        textcoords="offset points",
        ha="left" if side > 0.3 else "right" if side < -0.3 else "center",
        va="center",
    )


def _plot_paths(result: Connectivity, pairs: Sequence[tuple[int, int]] | None) -> Figure:
    measured = [(i, j) for (i, j), done in zip(result.pairs.tolist(), result.computed, strict=True) if done]
    drawn = list(pairs) if pairs is not None else measured[:_MOST_PATHS]
    names = short_names(result.labels)
    paths: list[Path] = []
    labels: list[str] = []
    for i, j in drawn:
        sides = [
            ("line", result.line_path(i, j)),
            *([("curve", result.curve_path(i, j))] if result.curve else []),
        ]
        for side, path in sides:
            train = {name: values for name, values in path.values.items() if not name.startswith("test_")}
            paths.append(replace(path, values=train))
            labels.append(f"{names[i]} to {names[j]}, {side}")
    figure = plot_paths(paths, labels)
    if pairs is None and len(drawn) < len(measured):
        others = "plot('paths', pairs=[(0, 1), ...]) draws others"
        left_out = f"the first {len(drawn)} of {len(measured)} pairs; {others}"
        figure.supxlabel(f"{figure.get_supxlabel()}\n{left_out}", fontsize="small", color=GREY)
    return figure


def _known(value: float | FloatArray) -> bool:
    return bool(np.isfinite(value))


def _note(result: Connectivity) -> str:
    fit = result.attributes.get("fit")
    parts = [f"{len(result.labels)} models, {int(result.computed.sum())} of {len(result.pairs)} pairs measured"]
    if isinstance(fit, dict):
        parts.append(f"{fit['kind']} of degree {fit['degree']}, {fit['epochs']} epochs")
    if result.attributes.get("align", "none") != "none":
        parts.append(f"aligned by {result.attributes['align']}")
    return " · ".join(parts)


def _asked(result: Connectivity, asked: Asked) -> Iterator[tuple[str, Figure]]:
    asked.without("-q", "--levels")
    for name in (asked.kind,) if asked.kind is not None else KINDS:
        yield name, plot_connectivity(result, name)


PICTURES = Pictures(plot_connectivity, _asked, lambda result: result.plot())
