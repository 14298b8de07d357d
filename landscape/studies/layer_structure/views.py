"""The structure of layers as pictures of a report."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from landscape_kernels.arrays import FloatArray

from landscape.pictures.views import Picture, View, bars, largest
from landscape.studies.layer_structure.result import LayerStructure
from landscape.studies.layer_structure.tables import structure_columns


def structure_views(result: LayerStructure, most: int) -> Iterator[Picture]:
    """The pictures of a report: bars of the first of each, by layer."""
    nothing = np.full_like(result.eigenvalues, np.nan)
    panels: list[tuple[str, FloatArray, FloatArray]] = [
        ("largest eigenvalue of the block", result.eigenvalues, result.stderr),
        ("largest eigenvalue of the Kronecker product", result.kronecker, result.kronecker_stderr),
        ("overlap of the first eigenvectors of block and Kronecker product", result.overlap, nothing),
        ("rank-one share of the first eigenvector", result.rank_one, nothing),
    ]
    if result.other_overlap is not None:
        panels.append(("overlap of the first eigenvectors of the two models", result.other_overlap, nothing))
    views: dict[str, View] = {}
    alts: list[str] = []
    notes: dict[str, None] = {}
    for name, values, errors in panels:
        shown = np.where(result.computed, values[:, 0], np.nan)
        if np.isfinite(shown).any():
            solid = result.converged[:, 0] | ~np.isfinite(shown)
            views[name], said = bars(result.layers, shown, errors[:, 0], solid, name)
            notes |= dict.fromkeys(said)
            alts.append(f"{name} is highest in {largest(result.layers, shown)}")
    missing = int((~result.computed).sum())
    if missing:
        text = f"{missing} of {len(result.layers)} layers are not computed"
        alts.append(text)
        notes[text] = None
    if views:
        alt = f"Bars of {len(result.layers)} layers: {'; '.join(alts)}."
        yield Picture("structure of layers", alt, views, tuple(notes), structure_columns(result))
