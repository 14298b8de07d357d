"""Coherence as pictures of a report."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from landscape.pictures.views import Picture, View, band_and_line, bars, largest, lines
from landscape.studies.coherence.result import MEANINGS, Coherence
from landscape.studies.coherence.tables import coherence_columns

_COLOURS = ("@blue", "@red", "@green", "@purple", "@orange")
_SHOWN = ("m_coherence", "alpha", "share", "noise_scale")


def coherence_views(coherence: Coherence, most: int) -> Iterator[Picture]:
    """A line for each layer over the parameter vectors; of a single one, bars over the layers."""
    views: dict[str, View] = {}
    alts: list[str] = []
    notes: tuple[str, ...] = ()
    single = len(coherence.labels) == 1
    x = np.arange(len(coherence.labels), dtype=np.float64)
    drawn = coherence.rows[: max(1, most // len(x))]
    for name in _SHOWN:
        values, errors = coherence.quantity(name), coherence.error(name)
        known = np.isfinite(values) & coherence.computed[:, None]
        if not known.any():
            continue
        if single:
            shown, solid = np.where(known[0], values[0], np.nan), np.ones(len(coherence.rows), dtype=bool)
            views[name], notes = bars(coherence.rows, shown, errors[0], solid, name, "rows")
            alts.append(f"{name} is highest in {largest(coherence.rows, shown)}")
            continue
        traces: list[View] = []
        for k, row in enumerate(drawn):
            if known[:, k].any():
                colour = _COLOURS[k % len(_COLOURS)]
                traces += band_and_line(
                    x, values[:, k], errors[:, k], known[:, k], name, "parameter vector", colour=colour, label=row
                )
        if traces:
            views[name] = lines(traces, "parameter vector", MEANINGS[name].words, values[known], showlegend=True)
            alts.append(f"{name} of all parameters ends at {values[coherence.computed, 0][-1]:.4g}")
    if views:
        if len(drawn) < len(coherence.rows):
            notes = (*notes, f"the first {len(drawn)} of {len(coherence.rows)} layers are drawn")
        alt = f"Coherence of gradients at {len(x)} parameter vectors, in {len(coherence.rows)} rows: {'; '.join(alts)}."
        yield Picture("coherence of gradients", alt, views, notes, coherence_columns(coherence))
