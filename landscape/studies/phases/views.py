"""Phases as pictures of a report."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from landscape_kernels.arrays import BoolArray, FloatArray

from landscape.pictures.numbers import spread
from landscape.pictures.views import Picture, View, cells_view, escaped, known_text
from landscape.studies.phases.result import PHASES, Phases
from landscape.studies.phases.tables import phases_columns


def phases_views(phases: Phases, most: int) -> Iterator[Picture]:
    """The phases, and every metric, as cells of load (rows, the largest on top) by temperature."""
    columns = phases_columns(phases)
    counts = [(name, int((phases.phase == name).sum())) for name in PHASES]
    holes = int((phases.phase == "").sum())
    axes = f"{phases.axes[0]} (rows) by {phases.axes[1]}"
    said = ", ".join(f"{count} in {name} ({PHASES[name]})" for name, count in counts if count) or "none with a phase"
    alt = f"Map of {phases.phase.size} cells, {axes}: {said}{f', {holes} without a phase' if holes else ''}."
    number = {name: k / (len(PHASES) - 1) for k, name in enumerate(PHASES)}
    shades = np.array([[number.get(str(name), np.nan) for name in row] for row in phases.phase])
    texts = [[_hover(phases, i, j) for j in range(len(phases.temperature))] for i in range(len(phases.load))]
    view = _cells(phases, shades, texts, phases.phase == "")
    bar = {"tickmode": "array", "tickvals": list(number.values()), "ticktext": list(number)}
    view["data"][0]["colorbar"] = bar
    if phases.phase.size <= most:
        view["data"][0] |= {
            "texttemplate": "%{text}",
            "text": [[str(name) for name in row] for row in phases.phase[::-1]],
        }
    lacking = ("grey: cells without a phase; the table tells why",) if holes else ()
    yield Picture("phases", alt, {"phases": view}, lacking, columns)
    views, ranges = dict[str, View](), list[str]()
    for metric, values in phases.values.items():
        finite = values[np.isfinite(values)]
        if not len(finite):
            continue
        meaning = phases.meaning(metric)
        log = phases.logarithmic(metric)
        shown = _shades(values, log)
        texts = [[_value(phases, metric, i, j) for j in range(values.shape[1])] for i in range(values.shape[0])]
        views[metric] = _cells(phases, shown, texts, np.isnan(values))
        views[metric]["layout"]["title"] = {"text": escaped(meaning.label + (", by logarithms" if log else ""))}
        ranges.append(f"{metric} from {finite.min():.4g} to {finite.max():.4g}")
    if views:
        alt = f"Metrics of {phases.phase.size} cells, {axes}: {'; '.join(ranges)}."
        notes = ("colours run from the lowest to the highest value of each metric", "grey: not known")
        yield Picture("metrics", alt, views, notes, columns)


def _cells(phases: Phases, shades: FloatArray, texts: list[list[str]], missing: BoolArray) -> View:
    """Cells with the largest load on top, as `cells_view` has its first row there."""
    rows = [f"{value:g}" for value in phases.load[::-1]]
    columns = [f"{value:g}" for value in phases.temperature]
    view = cells_view(rows, columns, shades[::-1], texts[::-1], missing[::-1])
    for axis, name, what in (("xaxis", phases.axes[1], "temperature"), ("yaxis", phases.axes[0], "load")):
        view["layout"][axis]["title"] = {"text": escaped(f"{name} ({what})")}
    view["height"] = max(int(view["height"]), 420)
    return view


def _shades(values: FloatArray, log: bool) -> FloatArray:
    """Values as shades from 0 to 1."""
    finite = np.isfinite(values)
    shown = np.full(values.shape, np.nan)
    shown[finite] = np.log(values[finite]) if log else values[finite]
    low, high = np.nanmin(shown), np.nanmax(shown)
    return (shown - low) / (high - low) if high > low else np.where(finite, 0.5, np.nan)


def _place(phases: Phases, i: int, j: int) -> str:
    first, second = (escaped(name) for name in phases.axes)
    return f"{first} = {phases.load[i]:g}, {second} = {phases.temperature[j]:g}"


def _hover(phases: Phases, i: int, j: int) -> str:
    """What a cell of the map says."""
    name, sure = str(phases.phase[i, j]), phases.confidence[i, j]
    told = f"{name}: {PHASES[name]}" if name else escaped(f"no phase: {phases.reason[i, j] or 'not computed'}")
    chance = f"<br>probability {sure:.2g}" if np.isfinite(sure) else ""
    notes = f"<br>{escaped(str(phases.notes[i, j]))}" if phases.notes[i, j] else ""
    return f"{_place(phases, i, j)}<br>{told}{chance}{notes}"


def _value(phases: Phases, metric: str, i: int, j: int) -> str:
    values = phases.values[metric]
    text = known_text(values[i, j], float(phases.errors(metric)[i, j]), span=spread(values))
    return f"{_place(phases, i, j)}<br>{escaped(metric)} {text}"
