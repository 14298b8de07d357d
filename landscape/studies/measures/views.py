"""Measures as pictures of a report."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from landscape.pictures.numbers import numbers, spread
from landscape.pictures.style import ERROR
from landscape.pictures.views import (
    Picture,
    View,
    bars,
    cells_view,
    escaped,
    known_text,
    largest,
    lines,
    not_finite_text,
    thinned,
)
from landscape.studies.measures.result import Measures, largest_rows, log_scaled, shades
from landscape.studies.measures.tables import measures_columns

_ROWS = 60  # of a heat map; the table has them all
_COLOURS = ("@blue", "@orange", "@green", "@red", "@quiet")


def measures_views(measures: Measures, most: int) -> Iterator[Picture]:
    """The pictures of a report."""
    shown = [name for name, v in measures.values.items() if (measures.computed & np.isfinite(v)).any()]
    if not shown:
        return
    columns = measures_columns(measures)
    what = f"{measures.row_kind}s"
    count, missing = len(measures.rows), int((~measures.computed).sum())
    absent: tuple[str, ...] = (f"{missing:,} of {count:,} {what} are not computed",) if missing else ()
    absent += tuple(f"{name} has no finite value" for name in measures.values if name not in shown)
    views: dict[str, View] = {}
    alts: list[str] = []
    notes: tuple[str, ...] = ()
    for name in shown:
        values = np.where(measures.computed & np.isfinite(measures.values[name]), measures.values[name], np.nan)
        label, solid = f"{measures.label(name)} of each {measures.row_kind}", np.ones(count, dtype=bool)
        views[name], found = bars(measures.rows, values, measures.errors(name), solid, label, what)
        notes = (*notes, *(note for note in found if note not in notes))
        alts.append(f"{name} is highest in {largest(measures.rows, values)}")
        alts[-1] += not_finite_text(measures.computed, measures.values[name])
    alt = f"Bars of {count:,} {what}: {'; '.join((*alts, *absent))}."
    yield Picture("measures", alt, views, (*notes, *absent), columns)
    if len(shown) > 1:
        yield _heat_map(measures, shown, what, absent)
        yield _scatters(measures, shown, what, most)


def _heat_map(measures: Measures, names: list[str], what: str, absent: tuple[str, ...]) -> Picture:
    kept = largest_rows(measures, names[0], _ROWS)
    table = np.stack([shades(measures.values[name], measures.computed)[kept] for name in names], axis=1)
    rows = [measures.rows[k] for k in kept]
    texts = [[_hover(measures, name, k) for name in names] for k in kept]
    gone = np.repeat(~measures.computed[kept][:, None], len(names), axis=1)
    log = [name for name in names if log_scaled(_known(measures, name))]
    notes = ["colours run from the lowest to the highest value of each column"]
    notes += [f"by logarithms: {', '.join(log)}"] if log else []
    notes += (
        [f"the {len(kept)} of {len(measures.rows):,} {what} where {names[0]} is largest"]
        if len(rows) < len(measures.rows)
        else []
    )
    alt = f"Heat map of {len(rows)} {what} by {', '.join(names)}."
    view = cells_view(rows, [measures.label(name) for name in names], table, texts, gone)
    return Picture("measures side by side", alt, {"all": view}, (*notes, *absent), measures_columns(measures))


def _known(measures: Measures, name: str) -> np.ndarray:
    values = measures.values[name]
    return values[measures.computed & np.isfinite(values)]


def _hover(measures: Measures, name: str, k: int) -> str:
    row = f"{escaped(measures.rows[k])}<br>{escaped(name)}"
    if not measures.computed[k]:
        return f"{row}<br>not computed"
    span = spread(_known(measures, name))
    return f"{row} {known_text(measures.values[name][k], float(measures.errors(name)[k]), span=span)}"


def _scatters(measures: Measures, names: list[str], what: str, most: int) -> Picture:
    """The first quantity against each other one."""
    first, *others = names
    views = {f"{first} and {name}": _scatter(measures, name, first, most) for name in others}
    drawn = min(len(measures.rows), most)
    notes = [f"bars: {ERROR}"] if any(np.isfinite(error).any() for error in measures.stderr.values()) else []
    notes += [f"{drawn:,} of {len(measures.rows):,} {what} are drawn"] if drawn < len(measures.rows) else []
    alt = f"Points of {drawn:,} {what}: {first} against {', '.join(others)}."
    return Picture("one measure against another", alt, views, tuple(notes), measures_columns(measures))


def _scatter(measures: Measures, x: str, y: str, most: int) -> View:
    across, up = measures.values[x], measures.values[y]
    known = measures.computed & np.isfinite(across) & np.isfinite(up)
    groups = measures.groups or ("",) * len(measures.rows)
    traces: list[View] = []
    for number, group in enumerate(dict.fromkeys(groups)):
        there = np.flatnonzero(known & np.array([name == group for name in groups]))
        places = there[thinned(len(there), most)].tolist() if len(there) else []
        colour = _COLOURS[number % len(_COLOURS)]
        look = {"type": "data", "color": colour, "thickness": 1.1, "width": 3}
        beside, above = ({**look, "array": numbers(2 * measures.errors(name)[places])} for name in (x, y))
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": numbers(across[places]),
                "y": numbers(up[places]),
                "error_x": beside,
                "error_y": above,
                "text": [f"{_hover(measures, x, k)}<br>{_hover(measures, y, k).partition('<br>')[2]}" for k in places],
                "hoverinfo": "text",
                "name": escaped(group or measures.row_kind),
                "marker": {"color": colour, "size": 7},
            }
        )
    view = lines(traces, measures.label(x), measures.label(y), up[known])
    if log_scaled(across[known]):
        view["layout"]["xaxis"]["type"] = "log"
    return view
