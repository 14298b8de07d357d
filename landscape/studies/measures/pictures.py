"""Measures as matplotlib figures: bars, a heat map of rows and quantities, one quantity against another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from landscape_kernels.arrays import FloatArray
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landscape.arguments import checked
from landscape.errors import InputError, nearest
from landscape.pictures.bars import bar_figure, bars, short
from landscape.pictures.heat_map import coloured_cells, short_names
from landscape.pictures.marks import counted, name_points
from landscape.pictures.style import (
    ERROR,
    LINE_COLOURS,
    NONFINITE,
    StyledFigure,
    cell_borders,
    finish,
    hatch_cells,
    line_look,
    styled,
)
from landscape.results.kind import Asked, Pictures
from landscape.studies.measures.result import Measures, largest_rows, log_scaled, shades

KINDS = ("bars", "heat_map", "scatter")
_PANELS = 4  # quantities side by side, where none are asked for
_ROWS = 40  # drawn; the file has them all
_WRITTEN = 8  # quantities and
_WRITTEN_ROWS = 24  # rows up to which every cell of a heat map says its number
_NAMED = 20  # points up to which each has its name


@styled
@checked()
def plot_measures(
    measures: Measures,
    kind: str = "bars",
    quantities: str | Sequence[str] | None = None,
    *,
    x: str | None = None,
    y: str | None = None,
) -> Figure:
    """Draw measures as one of three kinds of picture; `quantities` says of which, by default the first four or all.

    - "bars": a panel for each quantity, a bar for each row with two standard errors.
    - "heat_map": rows by quantities; colours run from the lowest to the highest value of each quantity, by logarithms
      where all are positive and span over two decades.
    - "scatter": the quantity `y` against `x`, by default the first two, with two standard errors on either side,
      coloured by the groups of the rows.

    Of more than 40 rows, bars and heat maps show those where the first quantity is largest in size. Rows that were not
    computed are hatched or counted below, and so are NaN and Inf. Raises InputError for a kind or quantity that is not
    there.
    """
    if kind not in KINDS:
        raise InputError(f"kind {kind!r} is not a picture of measures; {nearest(kind, KINDS)}")
    if kind != "scatter" and (x is not None or y is not None):
        raise InputError(f"x and y belong to kind='scatter'; a picture of kind {kind!r} takes quantities")
    if kind == "scatter":
        if quantities is not None:
            raise InputError("quantities belongs to bars and heat maps; a scatter takes x and y, one quantity each")
        return _scatter(measures, *_axes(measures, x, y))
    names = measures.chosen(quantities)
    if kind == "bars":
        names = names[:_PANELS] if quantities is None else names
    if not names or not measures.rows:
        return _empty(f"no values: {len(measures.rows)} rows, {len(names)} quantities")
    return _bars(measures, names) if kind == "bars" else _heat_map(measures, names)


def _empty(text: str) -> Figure:
    return finish(StyledFigure(figsize=(6.4, 1.2), layout="constrained"), [], [text])


def _bars(measures: Measures, names: Sequence[str]) -> Figure:
    kept = largest_rows(measures, names[0], _ROWS)
    rows = [measures.rows[k] for k in kept]
    figure = bar_figure(len(rows), len(names))
    axes: list[Axes] = []
    solid = np.ones(len(rows), dtype=bool)
    for place, name in enumerate(names):
        ax = figure.add_subplot(1, len(names), place + 1, sharey=axes[0] if axes else None)
        axes.append(ax)
        values, errors = measures.values[name][kept], measures.errors(name)[kept]
        scale = bars(ax, rows, values, errors, solid, measures.computed[kept])
        ax.set_xlabel(f"{measures.label(name)}{scale}")
        ax.tick_params(labelleft=place == 0)
    left = len(measures.values) - len(names)
    notes = [f"{len(names)} of {len(measures.values)} quantities"] if left else []
    return finish(figure, axes, [*_rows_note(measures, names[0], len(kept)), *notes, *_counts(measures, names)])


def _heat_map(measures: Measures, names: Sequence[str]) -> Figure:
    kept = largest_rows(measures, names[0], _ROWS)
    table = np.stack([shades(measures.values[name], measures.computed)[kept] for name in names], axis=1)
    computed = np.repeat(measures.computed[kept][:, None], len(names), axis=1)
    height = 1.8 + 0.26 * max(len(kept), 6)
    figure = StyledFigure(figsize=(3.6 + 0.9 * len(names), height), layout="constrained")
    ax = figure.add_subplot()
    written = len(names) <= _WRITTEN and len(kept) <= _WRITTEN_ROWS
    texts = _texts(measures, names, kept) if written else {}
    rows = short([measures.rows[k] for k in kept])
    columns = short_names([measures.label(name) for name in names])
    bar = coloured_cells(figure, ax, table, rows, columns, texts, (0.0, 1.0))
    ax.set_aspect("auto")
    x, y = (cell_borders(np.arange(float(n))) for n in (len(names), len(kept)))
    hatch_cells(ax, computed & np.isnan(table), x, y, **{**NONFINITE, "label": "_"})
    bar.set_ticks([0.0, 1.0], labels=["lowest", "highest"])
    bar.set_label("of each column")
    log = [name for name in names if log_scaled(_known(measures, name))]
    notes = [f"colours by logarithms: {', '.join(log)}"] if log else []
    return finish(figure, [], [*_rows_note(measures, names[0], len(kept)), *notes, *_counts(measures, names)])


def _texts(measures: Measures, names: Sequence[str], kept: Sequence[int]) -> dict[tuple[int, int], str]:
    """{(row, column): value} of the cells that have one."""
    return {
        (i, j): f"{measures.values[name][k]:.4g}"
        for j, name in enumerate(names)
        for i, k in enumerate(kept)
        if measures.computed[k] and np.isfinite(measures.values[name][k])
    }


def _axes(measures: Measures, x: str | None, y: str | None) -> tuple[str, str]:
    """The two quantities of a scatter. Raises InputError where there are no two."""
    given = measures.chosen([name for name in (x, y) if name is not None])
    free = [name for name in measures.values if name not in given]
    if len(given) + len(free) < 2 and (x is None or y is None):
        raise InputError(
            f"a scatter needs two quantities, and this result has {', '.join(measures.values) or 'none'}; use "
            "kind='bars'"
        )
    return (free.pop(0) if x is None else x), (free.pop(0) if y is None else y)


def _scatter(measures: Measures, x: str, y: str) -> Figure:
    figure = StyledFigure(figsize=(6.4, 4.8), layout="constrained")
    ax = figure.add_subplot()
    across, up = measures.values[x], measures.values[y]
    known = measures.computed & np.isfinite(across) & np.isfinite(up)
    groups = measures.groups or ("",) * len(measures.rows)
    for number, group in enumerate(dict.fromkeys(groups)):
        chosen = known & np.array([name == group for name in groups])
        if not chosen.any():
            continue
        colour = LINE_COLOURS[number % len(LINE_COLOURS)]
        above, beside = (_bar(measures.errors(name)[chosen]) for name in (y, x))
        if above is not None or beside is not None:
            look: dict[str, Any] = {"fmt": "none", "ecolor": colour, "elinewidth": 1, "capsize": 2, "label": ERROR}
            ax.errorbar(across[chosen], up[chosen], above, beside, **look)
        marker = line_look(number + number // len(LINE_COLOURS))["marker"]  # another when colours come again
        look = {"color": colour, "marker": marker, "linestyle": "none", "label": group or "_"}
        ax.plot(across[chosen], up[chosen], **look)
    for name, axis, scale in ((x, "x", ax.set_xscale), (y, "y", ax.set_yscale)):
        log = log_scaled(measures.values[name][known])
        if log:
            scale("log")
        ax.set(**{f"{axis}label": measures.label(name) + (" (log scale)" if log else "")})
    ax.grid(color="0.9")
    finish(figure, [ax], [f"{int(known.sum())} rows, each a {measures.row_kind}", *_counts(measures, (x, y))])
    if known.sum() <= _NAMED:  # last, since all else decides what there is room for
        names, at = short(measures.rows), np.flatnonzero(known)
        if hidden := name_points(ax, across[at], up[at], [names[k] for k in at]):
            figure.supxlabel(f"{figure.get_supxlabel()}; {hidden} names left out for want of room")
    return figure


def _bar(errors: FloatArray) -> FloatArray | None:
    """Lengths of error bars; None where no error is known."""
    return 2 * np.nan_to_num(errors) if np.isfinite(errors).any() else None


def _known(measures: Measures, name: str) -> FloatArray:
    values = measures.values[name]
    return values[measures.computed & np.isfinite(values)]


def _counts(measures: Measures, names: Sequence[str]) -> list[str]:
    return counted([(measures.values[name], measures.computed) for name in names], "values")


def _rows_note(measures: Measures, first: str, drawn: int) -> list[str]:
    if drawn == len(measures.rows):
        return []
    return [f"the {drawn} of {len(measures.rows):,} rows where {first} is largest in size"]


def _asked(measures: Measures, asked: Asked) -> Iterator[tuple[str, Figure]]:
    asked.without("--levels")
    several = len(measures.values) > 1
    kinds = [asked.kind] if asked.kind is not None else ["bars", *(KINDS[1:] if several else ())]
    for kind in kinds:
        chosen = {"y" if kind == "scatter" else "quantities": asked.quantity} if asked.quantity is not None else {}
        yield kind, plot_measures(measures, kind, **chosen)


PICTURES = Pictures(plot_measures, _asked, plot_measures)
