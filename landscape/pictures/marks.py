"""Marks and words that pictures share: NaN and Inf, counts, words of a coordinate."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from landscape_kernels.arrays import BoolArray, FloatArray
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

from landscape.pictures.style import RED

_BESIDE = ((5, "left"), (-5, "right"))  # where a name may stand: points from its mark, and its alignment
_ABOVE = ((4, "bottom"), (-4, "top"), (0, "center"), (12, "bottom"), (-12, "top"))


def mark_nonfinite(ax: Axes, x: FloatArray, values: FloatArray) -> None:
    """Mark NaN and Inf among `values` (n,) at the border of the picture."""
    for value, marker, height in ((np.nan, "x", 0.03), (-np.inf, "v", 0.03), (np.inf, "^", 0.97)):
        there = np.isnan(values) if np.isnan(value) else values == value
        if there.any():
            label = "NaN" if np.isnan(value) else f"{value:+}".replace("inf", "Inf")
            heights = np.full(int(there.sum()), height)
            ax.plot(x[there], heights, marker, color=RED, label=label, transform=ax.get_xaxis_transform())


def name_points(ax: Axes, x: FloatArray, y: FloatArray, names: Sequence[str]) -> int:
    """Write each name inside the axes, where it covers neither a point nor an earlier name: the number left out.

    All else of the picture has to be there before, since it decides what covers what.
    """
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    inside = ax.get_window_extent()
    taken = [Bbox.from_bounds(px - 3, py - 3, 6, 6) for px, py in ax.transData.transform(np.column_stack([x, y]))]
    hidden = 0
    for k, name in enumerate(names):
        for (dy, upright), (dx, across) in itertools.product(_ABOVE, _BESIDE):
            look: dict[str, Any] = {"ha": across, "va": upright, "fontsize": "x-small", "textcoords": "offset points"}
            text = ax.annotate(name, (x[k], y[k]), xytext=(dx, dy), in_layout=False, **look)
            box = text.get_window_extent()
            if inside.containsx(box.x0) and inside.containsx(box.x1) and not box.count_overlaps(taken):
                taken.append(box)
                break
            text.remove()
        else:
            hidden += 1
    return hidden


def coordinate_words(attributes: Mapping[str, Any]) -> str:
    """What a coordinate of 1 is, from the attributes of a surface."""
    normalize, plane = attributes.get("normalize"), attributes.get("plane")
    if isinstance(plane, Mapping) and plane.get("kind") == "pca":
        return "distance in parameter space"  # its directions are unit vectors
    if normalize in (None, "", "none"):
        return "multiples of the direction"
    return f"{normalize}-normalised direction"


def counted(drawn: Sequence[tuple[FloatArray, BoolArray]], what: str) -> list[str]:
    """["3 NaN, 2 not computed of 30 points"] of (values, computed) arrays, nothing where all have finite values."""
    tests = (("NaN", np.isnan), ("+Inf", np.isposinf), ("-Inf", np.isneginf))
    numbers = [(sum(int((known & test(values)).sum()) for values, known in drawn), name) for name, test in tests]
    numbers.append((sum(int((~known).sum()) for _, known in drawn), "not computed"))
    left = [f"{count:,} {name}" for count, name in numbers if count]
    return [f"{', '.join(left)} of {sum(values.size for values, _ in drawn):,} {what}"] if left else []
