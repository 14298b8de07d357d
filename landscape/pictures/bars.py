"""Bars by name, with errors and with what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from landscape_kernels.arrays import BoolArray, FloatArray
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landscape.pictures.style import BLUE, ERROR, MISSING, RED, StyledFigure

_NAME = 36  # characters of a name; longer ones are abbreviated
_ROW = 0.23  # height of a bar and its name, in inches


def bar_figure(rows: int, panels: int) -> Figure:
    """A figure for so many bars above each other, in panels side by side."""
    return StyledFigure(figsize=(3.0 + 4.2 * panels, 1.6 + _ROW * max(rows, 4)), layout="constrained")


def bars(
    ax: Axes, names: Sequence[str], values: FloatArray, errors: FloatArray, solid: BoolArray, computed: BoolArray
) -> str:
    """Horizontal bars, the first name on top; log scale where all values are positive and span over two decades.

    Returns what there is to say of the scale.
    """
    rows = np.arange(len(names))
    finite = computed & np.isfinite(values)
    for chosen, face, text in ((finite & solid, BLUE, "_"), (finite & ~solid, "white", "not converged")):
        if chosen.any():
            ax.barh(rows[chosen], values[chosen], height=0.7, facecolor=face, edgecolor=BLUE, label=text)
    known = finite & np.isfinite(errors)
    if known.any():
        look: dict[str, Any] = {"fmt": "none", "ecolor": "black", "elinewidth": 1, "capsize": 2, "label": ERROR}
        ax.errorbar(values[known], rows[known], xerr=2 * errors[known], **look)
    missing = dict(MISSING)
    for row in rows[~computed]:
        ax.axhspan(row - 0.5, row + 0.5, zorder=0, **missing)
        missing["label"] = "_"  # one entry in the legend
    bad = computed & ~np.isfinite(values)
    if bad.any():
        place = np.full(int(bad.sum()), 0.02)
        ax.plot(place, rows[bad], "x", color=RED, transform=ax.get_yaxis_transform(), label="NaN or Inf")
    ax.set_yticks(rows, short(names), fontsize="small")
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.grid(axis="x", color="0.9")
    ax.set_axisbelow(True)
    drawn = values[finite]
    if drawn.size and drawn.min() > 0 and drawn.max() > 100 * drawn.min():
        ax.set_xscale("log")
        ax.set_xlim(left=float(drawn.min()) / 3)
        return " (log scale)"
    ax.axvline(0.0, color="0.4", linestyle=":", linewidth=1)
    return ""


def short(names: Iterable[str]) -> list[str]:
    """Names that fit beside a bar: of long ones all but the last part is cut to three letters, where that is unique."""
    full = list(names)
    short = [name if len(name) <= _NAME else _abbreviated(name) for name in full]
    return short if len(set(short)) == len(full) else full


def _abbreviated(name: str) -> str:
    *parts, last = name.split(".")
    return ".".join([*(part[:3] for part in parts), last])
