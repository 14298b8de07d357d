"""Marginal likelihoods as pictures of a report."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from landscape.pictures.views import Picture, bars, largest
from landscape.studies.marginal_likelihood.result import MarginalLikelihood
from landscape.studies.marginal_likelihood.tables import marginal_likelihood_columns


def marginal_likelihood_views(found: MarginalLikelihood, most: int) -> Iterator[Picture]:
    """Bars of -log P for each sample, a bar for each class."""
    known = found.computed & np.isfinite(found.log_evidences)
    if not known.any():
        return
    values = np.where(known, -found.log_evidences / found.samples, np.nan)
    title = "-log P for each sample (nats)"
    solid = np.ones(len(values), dtype=bool)
    view, notes = bars(found.classes, values, found.errors() / found.samples, solid, title, "classes")
    absent = int((~known).sum())
    notes += (f"{absent} of {len(known)} classes have no value",) if absent else ()
    alt = f"Bars of {title} of {len(known)} classes, highest in {largest(found.classes, values)}."
    yield Picture("evidence", alt, {title: view}, notes, marginal_likelihood_columns(found))
