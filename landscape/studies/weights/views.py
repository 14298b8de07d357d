"""Weight matrices as pictures of a report."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from landscape.pictures.views import Picture, View, bars, largest
from landscape.studies.weights.result import Weights
from landscape.studies.weights.tables import weights_columns

_SHOWN = ("alpha", "log_norm", "log_spectral_norm", "stable_rank", "mp_softrank")


def weights_views(weights: Weights, most: int) -> Iterator[Picture]:
    """Bars of the metrics of the last model's matrices."""
    last = weights.of(weights.models[-1])
    views: dict[str, View] = {}
    alts: list[str] = []
    notes: tuple[str, ...] = ()
    for name in _SHOWN:
        values = last.values.get(name, np.zeros(0))
        shown = np.where(last.computed, values, np.nan) if values.size else values
        if np.isfinite(shown).any():
            none, solid = np.full(shown.shape, np.nan), np.ones(shown.shape, dtype=bool)
            shown = np.where(np.isfinite(shown), shown, np.nan)
            views[name], notes = bars(last.layers, shown, none, solid, name, "matrices")
            alts.append(f"{name} is highest in {largest(last.layers, shown)}")
    missing = int((~last.computed).sum())
    if missing:
        notes = (*notes, f"{missing} of {len(last.layers)} matrices are not computed")
    if views:
        alt = f"Bars of {len(last.layers)} weight matrices: {'; '.join(alts)}."
        yield Picture("weight matrices", alt, views, notes, weights_columns(weights))
