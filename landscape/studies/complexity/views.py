"""Generalisation measures as pictures of a report."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from landscape.pictures.views import Picture, View, bars, largest, not_finite_text
from landscape.studies.complexity.result import Complexity
from landscape.studies.complexity.tables import complexity_columns


def complexity_views(complexity: Complexity, most: int) -> Iterator[Picture]:
    """Bars of the logarithms of the values, and of the values after adjustment."""
    c = complexity
    views: dict[str, View] = {}
    alts: list[str] = []
    notes: tuple[str, ...] = ()
    panels = (
        ("log10 of the size", *c.log10_sizes()),
        ("after adjustment", c.adjusted_value, c.adjusted_stderr),
    )
    for label, values, error in panels:
        rows = np.flatnonzero(c.computed & np.isfinite(values))
        if rows.size:
            names, solid = [c.names[k] for k in rows], np.ones(rows.size, dtype=bool)
            views[label], found = bars(names, values[rows], error[rows], solid, label, "measures")
            notes = (*notes, *(note for note in found if note not in notes))
            alts.append(f"{label} is highest of {largest(names, values[rows])}")
    missing, skipped = int((~c.computed).sum()), len(c.skipped)
    notes += (f"{missing} of {len(c.names)} measures are not computed",) if missing else ()
    notes += (f"{skipped} of {len(c.names)} measures are skipped",) if skipped else ()
    if views:
        there = c.computed & np.array([not reason for reason in c.reasons], dtype=bool)
        alt = f"Bars of {len(c.names)} measures: {'; '.join(alts)}{not_finite_text(there, c.value)}."
        yield Picture("measures of complexity", alt, views, notes, complexity_columns(c))
