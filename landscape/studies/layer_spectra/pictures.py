"""Spectra of layers as matplotlib figures."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from landscape_kernels.arrays import BoolArray, FloatArray
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landscape.arguments import checked
from landscape.pictures.bars import bar_figure, bars
from landscape.pictures.style import finish, styled
from landscape.results.kind import Asked, Pictures
from landscape.studies.layer_spectra.result import LayerSpectra
from landscape.studies.spectrum.pictures import cost, trace_words


@styled
@checked()
def plot_layers(layers: LayerSpectra) -> Figure:
    """Bars of the largest eigenvalue and the trace of each layer's block, with two standard errors (population).

    Bars are hollow where the eigenvalue did not converge, rows hatched where the layer was not computed yet.
    """
    panels: list[tuple[str, FloatArray, FloatArray, BoolArray]] = []
    if layers.eigenvalues.shape[1]:
        first = (layers.eigenvalues[:, 0], layers.stderr[:, 0], layers.converged[:, 0])
        panels.append(("largest eigenvalue of the layer's block", *first))
    if not np.isnan(layers.trace).all() or not panels:
        known = np.ones(len(layers.layers), dtype=bool)
        panels.append(("trace of the layer's block", layers.trace, layers.trace_stderr, known))
    figure = bar_figure(len(layers.layers), len(panels))
    axes: list[Axes] = []
    for place, (text, values, errors, solid) in enumerate(panels):
        ax = figure.add_subplot(1, len(panels), place + 1, sharey=axes[0] if axes else None)
        axes.append(ax)
        scale = bars(ax, layers.layers, values, errors, solid, layers.computed)
        ax.set_xlabel(f"{text}{scale}")
        ax.tick_params(labelleft=place == 0)
    whole = layers.whole_trace
    notes = [cost(layers.products, layers.passes)]
    if whole is not None:
        notes.insert(0, trace_words(whole))
    missing = int((~layers.computed).sum())
    if missing:
        notes.insert(0, f"{missing} of {len(layers.layers)} layers not computed")
    return finish(figure, axes, notes)


def _asked(layers: LayerSpectra, asked: Asked) -> Iterator[tuple[str, Figure]]:
    asked.without("-q", "--levels")
    yield asked.of_kind("layers"), plot_layers(layers)


PICTURES = Pictures(plot_layers, _asked, plot_layers)
