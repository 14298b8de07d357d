"""Profiles as pictures of a report."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from landscape_kernels.arrays import FloatArray

from landscape.pictures.marks import coordinate_words
from landscape.pictures.numbers import extremes, numbers, range_text, spread
from landscape.pictures.views import (
    Picture,
    View,
    band,
    band_and_line,
    hover,
    known_text,
    lines,
    not_finite_text,
    once,
    plain_text,
    thinned_note,
)
from landscape.precise.told import UNSURE, quantity_label
from landscape.studies.profiles.result import SHARES, Profiles
from landscape.studies.profiles.tables import profiles_columns

_DIRECTIONS = 100  # directions drawn; medians are of all


# -- profiles --------------------------------------------------------------------------------------------------------


def profiles_views(profiles: Profiles, most: int) -> Iterator[Picture]:
    """Every direction as a thin line, their median, and the band that holds the middle of them."""
    measured, columns, profiles = profiles.values, profiles_columns(profiles), profiles.with_errors()
    n, nx = profiles.computed.shape
    low, _, high = SHARES
    drawn = min(n, _DIRECTIONS)
    few = max(50, most // drawn)
    counts: list[int] = []
    views: dict[str, View] = {}
    nowhere: FloatArray = np.zeros(profiles.computed.shape)
    alts: list[str] = []
    for name, values in profiles.values.items():
        known = profiles.computed & np.isfinite(values)
        if not known.any():
            continue
        below, median, above = (profiles.quantile(name, share) for share in SHARES)
        centre, end = (known_text(median[k], digits=4, span=spread(median)) for k in (np.abs(profiles.x).argmin(), -1))
        if name in measured:
            alts.append(f"the median of {name} is {centre} in the middle and {end} at the end")
            alts[-1] += not_finite_text(profiles.computed, values)
        kept = extremes([below, median, above], max(200, most // 10))
        x, below, median, above = (part[kept] for part in (profiles.x, below, median, above))
        there = np.isfinite(below) & np.isfinite(above)
        traces = [band(x, below, above, there, "@blue", f"{low:.0%} to {high:.0%} of the directions")]
        for k in range(drawn):
            places = extremes([np.where(known[k], values[k], np.nan)], few)
            counts.append(len(places))
            at, line = profiles.x[places], values[k][places]
            if (unsure := 2 * (profiles.error or {}).get(name, nowhere)[k][places]).any():
                sure = known[k][places] & np.isfinite(unsure)
                traces.append(band(at, line - unsure, line + unsure, sure, "@orange", UNSURE))
            texts = hover("x", at, name, line, profiles.stderr[name][k][places])
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "x": numbers(at),
                    "y": numbers(np.where(known[k][places], line, np.nan)),
                    "text": [f"direction {k}, {text}" for text in texts],
                    "hoverinfo": "text",
                    "name": "one direction",
                    "line": {"color": "@quiet", "width": 0.8},
                }
            )
        nothing: FloatArray = np.full(len(x), np.nan)
        traces += band_and_line(x, median, nothing, np.isfinite(median), name, "x", label=f"median of {name}")
        label = f"x ({coordinate_words(profiles.attributes)})"
        views[name] = lines(once(traces), label, plain_text(quantity_label(profiles, name)), values[known])
    if views:
        missing = int((~profiles.computed).sum())
        alts += [f"{missing:,} of {profiles.computed.size:,} points not computed"] if missing else []
        alt = f"Values along {n} directions from {range_text(profiles.x)}: {'; '.join(alts)}."
        notes = [f"the first {drawn} of {n:,} directions are drawn; median and band are of all"] if drawn < n else []
        if min(counts) < nx:
            notes.append(thinned_note(max(counts), nx, "points of a direction at most"))
        yield Picture("profiles", alt, views, tuple(notes), columns)
