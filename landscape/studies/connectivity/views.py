"""Connectivity as pictures of a report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from landscape.pictures.views import Picture, View, known_text, matrix_view, thinned_note, unmeasured
from landscape.results.kind import Columns, stacked
from landscape.studies.connectivity.result import NUMBERS, Connectivity
from landscape.studies.connectivity.tables import connectivity_columns, settled_numbers
from landscape.studies.path.tables import path_columns
from landscape.studies.path.views import of_bands, places, views_along

_PAIRS = 40  # pairs whose paths are drawn


# -- pairs of models -------------------------------------------------------------------------------------------------


def connectivity_views(result: Connectivity, most: int) -> Iterator[Picture]:
    """The pictures of a report."""
    found = settled_numbers(result)
    views: dict[str, View] = {}
    for name in (name for name in NUMBERS if name in found):
        if np.isfinite(found[name]).any():
            errors = result.errors.get(name, np.full(len(result.pairs), np.nan))
            rounding = result.roundings.get(name, np.zeros(len(result.pairs)))
            errors = np.where(errors <= rounding, 0.0, errors)
            what = NUMBERS[name].long_name
            if name.endswith("_mc"):
                i, j = result.pairs[int(np.flatnonzero(result.computed)[0])].tolist()
                what = f"{what}, of the {result.line_path(i, j).mc_quantity}"
            views[name.replace("_", " ")] = matrix_view(result.labels, result.pairs, found[name], errors, what)
    if not views:
        return
    measured = f"{int(result.computed.sum())} of {len(result.pairs)} pairs"
    alt = f"Matrix of {len(result.labels)} models, {measured} measured"
    for name, where in (("line_barrier", "straight line"), ("curve_barrier", "fitted curve")):
        if name in found and np.isfinite(found[name]).any():
            low, high = (float(find(found[name])) for find in (np.nanmin, np.nanmax))
            low_text, high_text = (known_text(v, digits=4, span=high - low) for v in (low, high))
            between = low_text if low == high else f"between {low_text} and {high_text}"
            alt += f"; the loss barrier on the {where} is {between}"
    missing = unmeasured(result.labels, result.pairs[result.computed])
    yield Picture("pairs of models", f"{alt}.", views, missing, connectivity_columns(result))
    pairs = [(i, j) for (i, j), done in zip(result.pairs.tolist(), result.computed, strict=True) if done]
    paths: dict[str, View] = {}
    for i, j in pairs[:_PAIRS]:
        sides = [(result.line_path(i, j), "line", "@blue")]
        sides += [(result.curve_path(i, j), "curve", "@green")] if result.curve else []
        for quantity, view in views_along(sides, most).items():
            paths[f"{result.labels[i]} to {result.labels[j]}: {quantity}"] = view
    notes = (f"the first {_PAIRS} of {len(pairs)} pairs",) if len(pairs) > _PAIRS else ()
    drawn = max(len(places(result.line_path(i, j), most)) for i, j in pairs[:_PAIRS])
    if drawn < len(result.t):
        notes = (*notes, thinned_note(drawn, len(result.t), "places of a pair at most"))
    notes = (*notes, *of_bands([result.line_path(i, j) for i, j in pairs[:_PAIRS]]))
    i, j = pairs[0]
    first = int(np.flatnonzero(result.computed)[0])
    alt = f"Values along the straight line{' and the fitted curve' if result.curve else ''} between two models; from "
    alt += f"{result.labels[i]} to {result.labels[j]} the barrier on the line is {found['line_barrier'][first]:.4g}"
    alt += f" and on the curve {found['curve_barrier'][first]:.4g}." if result.curve else "."
    yield Picture("along lines and curves", alt, paths, notes, _along(result, pairs[:_PAIRS]))


def _along(result: Connectivity, pairs: Sequence[Sequence[int]]) -> Columns:
    """A row for each place of each pair's line and curve."""
    parts = []
    for i, j in pairs:
        sides = {
            "line": result.line_path(i, j),
            **({"curve": result.curve_path(i, j)} if result.curve else {}),
        }
        for kind, path in sides.items():
            named = (("first", result.labels[i]), ("second", result.labels[j]), ("along", kind))
            parts.append({**{name: [text] * len(path.t) for name, text in named}, **path_columns(path)})
    return stacked(parts)
