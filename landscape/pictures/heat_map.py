"""Tables of numbers as coloured cells: square ones over pairs of models, and rows by columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from landscape_kernels.arrays import FloatArray
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from landscape.pictures.style import MISSING, VALUES

WRITTEN = 12  # models up to which every cell says its number
_CELL = 0.75  # inches
_NAME = 18  # characters of a name; longer ones are abbreviated


def side_of(count: int) -> float:
    """Length of a table's side for `count` models, in inches."""
    return max(3.2, _CELL * min(count, 2 * WRITTEN))


def heat_map(
    figure: Figure,
    ax: Axes,
    matrix: FloatArray,
    labels: Sequence[str],
    texts: Mapping[tuple[int, int], str],
    limits: tuple[float, float] | None = None,
) -> Any:
    """Colour the cells of `matrix` (N, N), hatched where it is NaN, the diagonal left blank; returns the colour bar.

    `texts` {(row, column): text} stand in the cells up to 12 models. `limits` are the ends of the colour scale.
    """
    shown = matrix.copy()
    np.fill_diagonal(shown, np.nan)
    finite = shown[np.isfinite(shown)]
    low, high = limits or ((float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0))
    if low == high:
        low, high = low - 0.5 * abs(low or 1), high + 0.5 * abs(high or 1)
    names = short_names(labels)
    for k in range(len(labels)):  # a model with itself is no pair
        ax.add_patch(_blank(k))
    return coloured_cells(figure, ax, shown, names, names, texts if len(labels) <= WRITTEN else {}, (low, high))


def coloured_cells(
    figure: Figure,
    ax: Axes,
    shown: FloatArray,
    rows: Sequence[str],
    columns: Sequence[str],
    texts: Mapping[tuple[int, int], str],
    limits: tuple[float, float],
) -> Any:
    """Colour the cells (R, C) of `shown` between `limits`, hatched where it is not finite; returns the colour bar."""
    ax.patch.set(**{**MISSING, "label": "_"})  # shows where nothing was measured
    low, high = limits
    image = ax.imshow(np.ma.masked_invalid(shown), cmap=VALUES, vmin=low, vmax=high)
    for (row, column), text in texts.items():
        colour = "white" if np.isfinite(shown[row, column]) and shown[row, column] < (low + high) / 2 else "black"
        ax.text(column, row, text, ha="center", va="center", fontsize="x-small", color=colour)
    for axis, names in ((ax.xaxis, columns), (ax.yaxis, rows)):
        ticks = list(range(0, len(names), 1 + len(names) // (4 * WRITTEN)))
        axis.set_ticks(ticks, [names[k] for k in ticks])
    ax.tick_params(axis="x", rotation=0 if max(map(len, columns)) < 8 else 90)
    ax.tick_params(length=0)
    bar = figure.colorbar(image, ax=ax, shrink=0.85)
    bar.outline.set_visible(False)
    return bar


def short_names(names: Sequence[str]) -> list[str]:
    """Names that fit beside a table: what all begin or end with is left out where they are long, then their middle.

    >>> short_names(["resnet20-lr0.1-wd5e-4-seed1", "resnet20-lr0.1-wd5e-4-seed22"])
    ['…1', '…22']
    """
    if max(map(len, names)) <= _NAME:
        return list(names)
    first = next((k for k, letters in enumerate(zip(*names, strict=False)) if len(set(letters)) > 1), 0)
    cut = [f"…{name[first:]}" if first > 1 else name for name in names]
    half = (_NAME - 1) // 2
    return [name if len(name) <= _NAME else f"{name[:half]}…{name[-half:]}" for name in cut]


def _blank(k: int) -> Rectangle:
    return Rectangle((k - 0.5, k - 0.5), 1, 1, facecolor="white", edgecolor="none")
