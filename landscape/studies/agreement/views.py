"""Agreement as pictures of a report."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from landscape.pictures.numbers import range_text
from landscape.pictures.views import Picture, View, matrix_view, unmeasured
from landscape.studies.agreement.result import Agreement, measure_words
from landscape.studies.agreement.tables import agreement_columns


def agreement_views(agreement: Agreement, most: int) -> Iterator[Picture]:
    """The pictures of a report."""
    views: dict[str, View] = {}
    alts: list[str] = []
    for name, values in agreement.values.items():
        if np.isfinite(values).any():
            errors = agreement.stderr.get(name, np.full(len(values), np.nan))
            what, top = measure_words(agreement, name), 1.0 if name.startswith("cka") else None
            views[name] = matrix_view(agreement.labels, agreement.pairs, values, errors, what, top)
            alts.append(f"{name} from {range_text(np.sort(values[np.isfinite(values)]))}")
    if views:
        alt = f"Matrix of {len(agreement.labels)} models, {len(agreement.pairs)} pairs: {'; '.join(alts)}."
        known = np.any([np.isfinite(values) for values in agreement.values.values()], axis=0)
        missing = unmeasured(agreement.labels, agreement.pairs[known])
        yield Picture("agreement of models", alt, views, missing, agreement_columns(agreement))
