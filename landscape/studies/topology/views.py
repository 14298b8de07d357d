"""Pictures of a topology in a report: the barcode of its pairs, and the surface it is of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
from landscape_kernels.arrays import IntArray

from landscape.pictures.numbers import numbers
from landscape.pictures.style import ERROR
from landscape.pictures.views import Picture, View, known_text, lines, plain_text
from landscape.results.quantities import words
from landscape.studies.surface.views import surface_views
from landscape.studies.topology.result import Topology

_BARS = 40  # at most
_KINDS = (("basin", "@blue"), ("loop", "@orange"), ("shell", "@green"))
_NOISE = ("does not count", "@quiet")
_GROUPS = ((0, True), (1, True), (2, True), (0, False))  # (dimension, whether pairs count): an entry in the legend each


def topology_views(topology: Topology, most: int) -> Iterator[Picture]:
    """The barcode, the 40 most persistent pairs at most, and the surface with its points."""
    if len(topology.pairs.birth):
        yield _barcode(topology)
    surface, name = topology.surface, topology.quantity
    values, stderr = {name: surface.values[name]}, {name: surface.stderr[name]}
    yield from surface_views(replace(surface, values=values, stderr=stderr), most)


def _barcode(topology: Topology) -> Picture:
    pairs = topology.pairs
    order = np.lexsort((-pairs.persistence, ~pairs.counts))[:_BARS]
    order = order[np.lexsort((pairs.birth[order], pairs.dimension[order]))]
    heights = np.concatenate([pairs.birth, pairs.death, topology.surface.values[topology.quantity].ravel()])
    heights = heights[np.isfinite(heights)]
    ends = float(heights.min()), float(heights.max())
    drawn = [_bars(topology, order, ends, dimension, counts) for dimension, counts in _GROUPS]
    label = plain_text(words(topology.quantity, topology.surface.attributes))
    view = lines([trace for trace in drawn if trace is not None], label, "minimum", heights)
    minima = _minima(topology)
    named = [(y, minima.get(int(pairs.birth_point[row]))) for y, row in enumerate(order.tolist())]
    named = [(y, k) for y, k in named if k is not None and pairs.dimension[order[y]] == 0]
    view["layout"]["yaxis"] |= {
        "tickmode": "array",
        "tickvals": [y for y, _ in named],
        "ticktext": [str(k) for _, k in named],
        "showgrid": False,
        "zeroline": False,
    }
    view |= {"logAxis": "xaxis", "height": 200 + 18 * max(6, len(order))}
    notes = [f"counts: {topology.rule}", f"bars: {ERROR} of the length; an arrow where a pair never ends"]
    if len(order) < len(pairs.birth):
        notes.append(f"{len(pairs.birth) - len(order):,} pairs of less persistence are not drawn")
    columns = {
        "dimension": pairs.dimension,
        "birth": pairs.birth,
        "death": pairs.death,
        "persistence": pairs.persistence,
        "persistence_stderr": pairs.stderr,
        "counts": pairs.counts,
    }
    alt = f"Barcode of {len(pairs.birth):,} pairs, of which {int(pairs.counts.sum()):,} count: {topology.found}."
    return Picture("barcode", alt, {"barcode": view}, tuple(notes), columns)


def _bars(topology: Topology, order: IntArray, ends: tuple[float, float], dimension: int, counts: bool) -> View | None:
    """The bars of pairs of one dimension that count, or of all that do not; bar y is that of pair `order[y]`."""
    pairs = topology.pairs
    name, colour = _KINDS[dimension] if counts else _NOISE
    found = [
        (y, row)
        for y, row in enumerate(order.tolist())
        if bool(pairs.counts[row]) == counts and (not counts or pairs.dimension[row] == dimension)
    ]
    if not found:
        return None
    x: list[float | None] = []
    places: list[float | None] = []
    texts: list[str] = []
    symbols: list[str] = []
    minima = _minima(topology)
    for y, row in found:
        bar = np.array([pairs.birth[row], pairs.death[row]])
        x += [*numbers(np.clip(bar, *ends)), None]
        places += [y, y, None]
        text = _bar_text(topology, row, minima)
        texts += [text, text, ""]
        first = "triangle-left" if np.isinf(bar[0]) else "line-ns-open"
        symbols += [first, "triangle-right" if np.isinf(bar[1]) else "line-ns-open", "circle"]
    error = np.concatenate([[np.nan, 2 * pairs.stderr[row], np.nan] for _, row in found])
    trace: View = {
        "type": "scatter",
        "mode": "lines+markers",
        "x": x,
        "y": places,
        "text": texts,
        "hoverinfo": "text",
        "name": name,
        "line": {"color": colour, "width": 6 if counts else 2},
        "marker": {"color": colour, "size": 9, "symbol": symbols},
    }
    if np.isfinite(error).any():
        trace["error_x"] = {"type": "data", "array": numbers(error), "color": "@ink", "thickness": 1.1, "width": 3}
    return trace


def _bar_text(topology: Topology, row: int, minima: Mapping[int, int]) -> str:
    pairs = topology.pairs
    kind, minimum = _KINDS[int(pairs.dimension[row])][0], minima.get(int(pairs.birth_point[row]))
    which = f" of minimum {minimum}" if minimum is not None and pairs.dimension[row] == 0 else ""
    return (
        f"{kind}{which}, from {known_text(pairs.birth[row])} to {known_text(pairs.death[row])}"
        f"<br>persistence {known_text(float(pairs.persistence[row]), float(pairs.stderr[row]))}"
    )


def _minima(topology: Topology) -> dict[int, int]:
    """{grid point: number of the minimum there}."""
    return {int(point): k for k, point in enumerate(topology.minima.point)}
