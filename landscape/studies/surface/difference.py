"""Two surfaces side by side, and where they differ."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from landscape.arguments import checked
from landscape.errors import InputError, nearest
from landscape.pictures.scale import choose_scale
from landscape.pictures.style import DIFFERENCES, StyledFigure, cell_borders, finish, hatch_cells, styled
from landscape.results.quantities import words
from landscape.studies.surface.pictures import cut_plane, label_plane, paint_plane
from landscape.studies.surface.result import Surface

_SAME = 1e-9  # of an axis' extent, by which coordinates of the same point may differ


@styled
@checked()
def plot_difference(
    first: Surface, second: Surface, quantity: str = "loss", *, labels: tuple[str, str] = ("first", "second")
) -> Figure:
    """Filled contours of two surfaces on the same grid with the same levels, and first minus second beside them.

    Points where either has no finite value are hatched in the third panel; the sentence below tells the largest
    difference, absolute and relative to the larger of the two values, and how many points are compared.

    Raises InputError for an unknown quantity, fewer than two axes, and surfaces on different grids.
    """
    for surface in (first, second):
        if quantity not in surface.values:
            raise InputError(f"a surface has no quantity {quantity!r}; {nearest(quantity, surface.values)}")
    if len(first.axes) < 2:
        raise InputError("a difference is drawn over two axes, these surfaces have one; draw each as a profile")
    _require_same_grid(first, second)
    x, y = list(first.axes.values())[:2]
    one, other = cut_plane(first, quantity), cut_plane(second, quantity)
    scale = choose_scale(np.concatenate([cut.values[cut.finite] for cut in (one, other)]), "auto", 12, 0.1, quantity)
    figure = StyledFigure(figsize=(13.0, 4.4), layout="constrained")
    axes = [figure.add_subplot(1, 3, place) for place in (1, 2, 3)]
    for ax, cut, label in zip(axes, (one, other), labels, strict=False):
        mappable = paint_plane(ax, x, y, cut.values, cut.computed, scale)
        ax.set_title(label)
        if mappable is not None and ax is axes[1]:
            bar = figure.colorbar(mappable, ax=axes[:2], label=words(quantity, first.attributes), ticks=scale.ticks)
            scale.tick(bar.ax.yaxis, scale.ticks)
    both = one.finite & other.finite
    gap = np.where(both, one.values - other.values, np.nan)
    largest = float(np.abs(gap[both]).max()) if both.any() else 0.0
    limit = largest or 1.0
    borders = cell_borders(x), cell_borders(y)
    image = axes[2].pcolormesh(*borders, gap, cmap=DIFFERENCES, vmin=-limit, vmax=limit)
    figure.colorbar(image, ax=axes[2], label=f"difference in {words(quantity, first.attributes)}")
    hatch_cells(axes[2], ~both, *borders, label="not compared")
    axes[2].set_title(f"{labels[0]} - {labels[1]}")
    for ax in axes:
        label_plane(ax, first)
        ax.set_xlim(*(x if x.size > 1 else borders[0])[[0, -1]])
        ax.set_ylim(*(y if y.size > 1 else borders[1])[[0, -1]])
    notes = [f"{int(both.sum()):,} of {both.size:,} points compared"]
    if both.any():
        size = np.maximum(np.abs(one.values[both]), np.abs(other.values[both]))
        relative = np.abs(gap[both]) / np.where(size > 0, size, 1.0)
        notes.append(f"largest difference {largest:.2g}, relative {float(relative.max()):.2g}")
    notes += [scale.note] if scale.note else []
    notes += [f"at {one.place}"] if one.place else []
    return finish(figure, axes, notes)


def _require_same_grid(first: Surface, second: Surface) -> None:
    if list(first.axes) != list(second.axes):
        raise InputError(f"the surfaces have axes {', '.join(first.axes)} and {', '.join(second.axes)}; give the same")
    for name, ours in first.axes.items():
        theirs = second.axes[name]
        if len(ours) != len(theirs) or np.abs(ours - theirs).max() > _SAME * max(np.ptp(ours), np.abs(ours).max()):
            raise InputError(
                f"the surfaces have other coordinates along {name}: {len(ours)} from {ours[0]:g} to {ours[-1]:g}, and "
                f"{len(theirs)} from {theirs[0]:g} to {theirs[-1]:g}; measure one on the other's, x=other.x, y=other.y"
            )
