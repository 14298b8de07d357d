"""The look of every picture: colours, lines, hatches and letters; how figures are closed.

Colours are Okabe and Ito's, and viridis for values: both stay apart for the colour-blind, and lines stay apart in grey
by their strokes and markers. Settings hold inside `in_style` alone, and figures are made without pyplot: no display, no
state.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ParamSpec, TypeVar

import numpy as np
from cycler import cycler
from landscape_kernels.arrays import BoolArray, FloatArray
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline

BLUE, ORANGE, GREEN, RED, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
LINE_COLOURS = (BLUE, RED, GREEN, PURPLE, ORANGE, "0.35")
VALUES = colormaps["viridis"]
DIFFERENCES = colormaps["PuOr_r"]  # 0 is white; orange above 0, purple below
GREY, PALE = "0.35", "0.92"  # sentences below pictures; grid lines
ERROR = "±2 standard errors"
MISSING: Mapping[str, Any] = {
    "facecolor": "0.93",
    "edgecolor": "0.55",
    "hatch": "////",
    "linewidth": 0.0,
    "label": "not computed",
}
NONFINITE: Mapping[str, Any] = {
    "facecolor": "white",
    "edgecolor": RED,
    "hatch": "xxxx",
    "linewidth": 0.0,
    "label": "NaN or Inf",
}

_MARKERS = "o^Dv*s"
_LETTER = 0.075  # inches that a letter of a legend takes
_SETTINGS: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "Helvetica", "sans-serif"],
    "font.size": 10.0,
    "mathtext.fontset": "dejavusans",
    "axes.titlesize": "medium",
    "axes.axisbelow": True,
    "axes.linewidth": 0.8,
    "axes.prop_cycle": cycler(color=LINE_COLOURS),
    "grid.color": PALE,
    "hatch.linewidth": 0.8,
    "lines.linewidth": 1.4,
    "legend.fontsize": "small",
    "legend.frameon": False,
    # Text stays text, to be searched and edited; the same figure gives the same bytes.
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "landscape",
}
P = ParamSpec("P")
T = TypeVar("T")


def in_style() -> AbstractContextManager[None]:
    """A context inside which matplotlib has this style's settings; outside they are as before."""
    return rc_context(_SETTINGS)


def styled(draw: Callable[P, T]) -> Callable[P, T]:
    """`draw`, run inside `in_style`; a decorator."""
    return rc_context(_SETTINGS)(draw)


class StyledFigure(Figure):
    """A Figure that is written in this style, too, by whoever calls its `savefig`."""

    def savefig(self, fname: Any, *, transparent: bool | None = None, **options: Any) -> None:
        """See matplotlib; text in PDF and SVG is text, not outlines."""
        with in_style():
            super().savefig(fname, transparent=transparent, **options)


def line_look(number: int) -> dict[str, Any]:
    """Colour and marker of line `number` of a picture: neighbours differ in both, also without colours."""
    return {"color": LINE_COLOURS[number % len(LINE_COLOURS)], "marker": _MARKERS[number % len(_MARKERS)]}


def cell_borders(axis: FloatArray) -> FloatArray:
    """Borders of the cells around grid points (n,), (n + 1,): half way to the neighbours."""
    if axis.size == 1:
        return np.array([axis[0] - 0.5, axis[0] + 0.5])
    middle = (axis[:-1] + axis[1:]) / 2
    return np.concatenate([[2 * axis[0] - middle[0]], middle, [2 * axis[-1] - middle[-1]]])


def hatch_cells(ax: Axes, where: BoolArray, x: FloatArray, y: FloatArray, **look: Any) -> None:
    """Hatch the cells (ny, nx) of a plane that are `where`, between borders x (nx + 1,) and y (ny + 1,).

    By default as what is not computed; `look` says otherwise.
    """
    if where.any():
        i, j = np.nonzero(where)
        corners = [(x[j], y[i]), (x[j + 1], y[i]), (x[j + 1], y[i + 1]), (x[j], y[i + 1])]
        outline = Outline.make_compound_path_from_polys(np.stack([np.stack(c, axis=-1) for c in corners], axis=1))
        ax.add_patch(PathPatch(outline, **{**MISSING, **look}))


def hatch_spans(ax: Axes, where: BoolArray, axis: FloatArray) -> None:
    """Hatch the cells of grid points (n,) on the x axis that are not computed, `where` (n,) says which."""
    borders = cell_borders(axis)
    look = dict(MISSING)
    for i in np.flatnonzero(where):
        ax.axvspan(borders[i], borders[i + 1], zorder=0, **look)
        look["label"] = "_"  # one entry in the legend


def finish(
    figure: Figure, axes: Iterable[Axes], notes: Sequence[str], *, last: Sequence[str] = (), each: str = "; "
) -> Figure:
    """One legend above for all axes, its entries named in `last` at the end, and the sentence below the picture."""
    entries: dict[str, Any] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    order = sorted(entries, key=lambda label: label in last)
    figure.supxlabel(_wrapped(each.join(notes), figure), fontsize="small", color=GREY)
    if order:
        columns = _columns(figure, order)
        figure.legend([entries[label] for label in order], order, loc="outside upper center", ncols=columns)
    return figure


def _columns(figure: Figure, labels: Sequence[str]) -> int:
    widest = _LETTER * max(map(len, labels)) + 0.6
    fitting = max(1, int(figure.get_figwidth() / widest))
    rows = -(-len(labels) // fitting)
    return -(-len(labels) // rows)  # rows of about the same length


def _wrapped(text: str, figure: Figure) -> str:
    """Lines that fit the figure's width, cut at blanks."""
    most = int(figure.get_figwidth() / (0.92 * _LETTER))
    return "\n".join(textwrap.fill(line, most) for line in text.split("\n"))
