"""Phases as matplotlib figures: every metric over load and temperature, and the diagram of phases."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from landscape_kernels.arrays import BoolArray, FloatArray
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from landscape.arguments import checked
from landscape.errors import InputError, nearest
from landscape.pictures.style import (
    GREEN,
    MISSING,
    NONFINITE,
    ORANGE,
    RED,
    SKY,
    VALUES,
    StyledFigure,
    cell_borders,
    finish,
    hatch_cells,
    styled,
)
from landscape.results.kind import Asked, Pictures
from landscape.studies.phases.result import PHASES, Phases

KINDS = ("panels", "diagram")
_COLOURS = (RED, ORANGE, SKY, "#8FD6BD", GREEN)  # of the phases
_LOOKS = {"sharp": ("black", "-"), "connected": ("black", "--"), "alike": ("black", ":"), "fitted": ("black", "-.")}
_TOLD = {"sharp": "sharp | flat", "connected": "poorly | well connected", "alike": "unlike | alike", "fitted": "fitted"}
_WRITTEN = 400  # cells up to which each says its phase
_SURE = 49  # cells up to which each tells its probability
_TICKS = 9  # values named along an axis


@styled
@checked()
def plot_phases(phases: Phases, kind: str = "panels", metrics: str | Sequence[str] | None = None) -> Figure:
    """Draw phases: "panels", one for each of the `metrics` and the diagram; or "diagram" alone.

    Without `metrics` these are the paper's, or of `Phases.done_well` those measured more exactly. Load runs upwards and
    temperature to the right, by their logarithms where all their values are positive. Lines run between the cells where
    a threshold is crossed: full for sharpness, dashed for connectivity, dotted for likeness. A phase is paler the less
    sure it is. Cells without a value are hatched. Raises InputError for a kind or metric that is not there.
    """
    if kind not in KINDS:
        raise InputError(f"kind {kind!r} is not a picture of phases; {nearest(kind, KINDS)}")
    if kind == "diagram" and metrics is not None:
        raise InputError("metrics belongs to kind='panels'; the diagram is made of the metrics that decide")
    names = phases.shown if metrics is None else [metrics] if isinstance(metrics, str) else list(metrics)
    for name in names:
        phases.require(name)
    if kind == "diagram":
        figure = StyledFigure(figsize=(7.2, 6.0), layout="constrained")
        return finish(figure, [_diagram(phases, figure.add_subplot())], _notes(phases), last=list(_TOLD.values()))
    columns = min(3, len(names) + 1)
    rows = -(-(len(names) + 1) // columns)
    figure = StyledFigure(figsize=(4.6 * columns, 3.9 * rows + 0.8), layout="constrained")
    for place, name in enumerate(names):
        _panel(phases, figure, figure.add_subplot(rows, columns, place + 1), name)
    diagram = _diagram(phases, figure.add_subplot(rows, columns, len(names) + 1))
    return finish(figure, [diagram], _notes(phases), last=list(_TOLD.values()))


def _notes(phases: Phases) -> list[str]:
    holes = int((phases.phase == "").sum())
    limits = vars(phases.thresholds)
    said = [f"{metric} {'≥' if name == 'alike' else '>'} {limits[name]:g}" for name, metric in phases.used.items()]
    notes = [f"thresholds: {', '.join(said)}"]
    if np.isfinite(phases.confidence).any():
        notes.append("paler: less sure")
    return [*notes, *([f"{holes:,} of {phases.phase.size:,} cells without a phase"] if holes else [])]


# -- axes ------------------------------------------------------------------------------------------------------------


def _borders(axis: FloatArray) -> FloatArray:
    """Borders of the cells around the values of an axis: half way by logarithms, else by number."""
    if axis.min() > 0:
        return 10 ** (cell_borders(np.log10(axis)) if len(axis) > 1 else np.log10(axis[0]) + np.array([-0.15, 0.15]))
    return cell_borders(np.arange(float(len(axis))))


def _middles(axis: FloatArray) -> FloatArray:
    return axis if axis.min() > 0 else np.arange(float(len(axis)))


def _set_axes(phases: Phases, ax: Axes) -> tuple[FloatArray, FloatArray]:
    """Scale and name the axes; returns the borders of columns and rows."""
    x, y = _borders(phases.temperature), _borders(phases.load)
    for axis, values, scale, name, what in (
        (ax.xaxis, phases.temperature, ax.set_xscale, phases.axes[1], "temperature"),
        (ax.yaxis, phases.load, ax.set_yscale, phases.axes[0], "load"),
    ):
        if values.min() > 0:
            scale("log")
        kept = np.unique(np.linspace(0, len(values) - 1, min(len(values), _TICKS)).round().astype(int))
        axis.set_major_locator(FixedLocator(_middles(values)[kept].tolist()))
        axis.set_minor_locator(NullLocator())
        axis.set_ticklabels([f"{value:g}" for value in values[kept]])
        axis.set_label_text(f"{name} ({what})")
    ax.tick_params(length=2, labelsize="small")
    ax.set_xlim(x[0], x[-1])
    ax.set_ylim(y[0], y[-1])
    return x, y


def _transition(ax: Axes, x: FloatArray, y: FloatArray, above: BoolArray, known: BoolArray, name: str) -> None:
    """Lines along the borders between cells on two sides of a threshold, both of them known."""
    colour, stroke = _LOOKS[name]
    beside = (above[:, 1:] != above[:, :-1]) & known[:, 1:] & known[:, :-1]
    over = (above[1:] != above[:-1]) & known[1:] & known[:-1]
    lines = [[(x[j + 1], y[i]), (x[j + 1], y[i + 1])] for i, j in np.argwhere(beside)]
    lines += [[(x[j], y[i + 1]), (x[j + 1], y[i + 1])] for i, j in np.argwhere(over)]
    if lines:
        found = LineCollection(lines, colors=colour, linestyles=stroke, linewidths=2.0, label=_TOLD[name])
        ax.add_collection(found, autolim=False)


# -- panels ----------------------------------------------------------------------------------------------------------


def _panel(phases: Phases, figure: Figure, ax: Axes, metric: str) -> None:
    values = phases.values[metric]
    x, y = _set_axes(phases, ax)
    finite = values[np.isfinite(values)]
    log = phases.logarithmic(metric)
    shown = np.ma.masked_invalid(values)
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    if low == high:
        low, high = low - 0.5 * abs(low or 1), high + 0.5 * abs(high or 1)
    image = ax.pcolormesh(x, y, shown, cmap=VALUES, norm=LogNorm(low, high) if log else Normalize(low, high))
    hatch_cells(ax, np.isnan(values), x, y)
    hatch_cells(ax, np.isinf(values), x, y, **NONFINITE)
    for name, of in phases.used.items():
        limit = vars(phases.thresholds)[name]
        if of == metric:
            above = values >= limit if name == "alike" else values > limit
            _transition(ax, x, y, above, ~np.isnan(values), name)
    bar = figure.colorbar(image, ax=ax, shrink=0.9)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize="small")
    meaning = phases.meaning(metric)
    ax.set_title(meaning.label, fontsize="medium")


def _diagram(phases: Phases, ax: Axes) -> Axes:
    """The phase of every cell, its label and the transitions."""
    x, y = _set_axes(phases, ax)
    phase, known = phases.phase, phases.known
    number = {name: k for k, name in enumerate(PHASES)}
    codes = np.array([[number.get(str(name), 0) for name in row] for row in phase], dtype=float)
    sure = phases.confidence
    pale = np.where(np.isfinite(sure), 0.25 + 0.75 * np.clip(np.nan_to_num(sure), 0, 1), 1.0)
    colours = ListedColormap(_COLOURS)
    shown = np.ma.masked_array(codes, ~known)
    look: dict[str, Any] = {"alpha": pale}  # of each cell
    ax.pcolormesh(x, y, shown, cmap=colours, vmin=-0.5, vmax=len(PHASES) - 0.5, **look)
    hatch_cells(ax, ~known, x, y, **{**MISSING, "label": "no phase"})
    for name in ("sharp", "connected", "alike"):
        where = known & (phases.phase != "")
        if name == "alike":  # which matters where cells are flat and connected
            where = where & np.isin(phase, ["IV-A", "IV-B"])
        _transition(ax, x, y, getattr(phases, name), where, name)
    _labels(phases, ax, sure)
    for name, colour in zip(PHASES, _COLOURS, strict=True):
        if (phase == name).any():
            ax.plot([], [], "s", color=colour, label=f"{name}: {PHASES[name]}")
    ax.set_title("phases" + (", metrics measured more exactly" if phases.well else ""), fontsize="medium")
    return ax


def _labels(phases: Phases, ax: Axes, sure: FloatArray) -> None:
    """The name of each cell's phase, with its probability where there is room."""
    if phases.phase.size > _WRITTEN:
        return
    columns, rows = _middles(phases.temperature), _middles(phases.load)
    size = "small" if phases.phase.size <= _SURE else 6.0
    for i, j in zip(*np.nonzero(phases.phase != ""), strict=True):
        text = str(phases.phase[i, j])
        if phases.phase.size <= _SURE and math.isfinite(sure[i, j]):
            text += f"\n{100 * sure[i, j]:.0f} %"
        look: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": size, "color": "black"}
        ax.text(columns[j], rows[i], text, **look)


def _asked(phases: Phases, asked: Asked) -> Iterator[tuple[str, Figure]]:
    asked.without("--levels")
    if asked.quantity is not None:
        yield asked.quantity, plot_phases(phases, asked.kind or "panels", asked.quantity)
        return
    for kind in (asked.kind,) if asked.kind is not None else KINDS:
        yield kind, plot_phases(phases, kind)


PICTURES = Pictures(plot_phases, _asked, lambda phases: plot_phases(phases, "diagram"))
