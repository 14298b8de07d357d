"""Spectra of layers as pictures of a report."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from landscape_kernels.arrays import BoolArray, FloatArray

from landscape.pictures.views import Picture, View, bars, largest
from landscape.studies.layer_spectra.result import LayerSpectra
from landscape.studies.layer_spectra.tables import layers_columns


def layers_views(layers: LayerSpectra, most: int) -> Iterator[Picture]:
    """The pictures of a report."""
    panels: list[tuple[str, FloatArray, FloatArray, BoolArray]] = []
    if layers.eigenvalues.shape[1]:
        panels.append(("largest eigenvalue", layers.eigenvalues[:, 0], layers.stderr[:, 0], layers.converged[:, 0]))
    panels.append(("trace", layers.trace, layers.trace_stderr, np.ones(len(layers.layers), dtype=bool)))
    views: dict[str, View] = {}
    alts: list[str] = []
    notes: tuple[str, ...] = ()
    for name, values, errors, solid in panels:
        shown = np.where(layers.computed, values, np.nan)
        if np.isfinite(shown).any():
            views[name], notes = bars(layers.layers, shown, errors, solid, f"{name} of each layer")
            alts.append(f"{name} is highest in {largest(layers.layers, shown)}")
    missing = int((~layers.computed).sum())
    if missing:
        alts.append(f"{missing} of {len(layers.layers)} layers are not computed")
        notes = (*notes, f"{missing} of {len(layers.layers)} layers are not computed")
    if views:
        alt = f"Bars of {len(layers.layers)} layers: {'; '.join(alts)}."
        yield Picture("layers", alt, views, notes, layers_columns(layers))
