"""The structure of layers as matplotlib figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from landscape_kernels.arrays import FloatArray
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landscape.arguments import checked
from landscape.pictures.bars import bar_figure, short
from landscape.pictures.style import BLUE, GREEN, MISSING, RED, finish, styled
from landscape.results.kind import Asked, Pictures
from landscape.studies.layer_structure.result import LayerStructure
from landscape.studies.spectrum.pictures import cost

_APART = 0.18  # of two rows of dots of one layer


@styled
@checked()
def plot_structure(result: LayerStructure) -> Figure:
    """Three panels over the layers: eigenvalues of blocks and approximations, overlaps, and rank-one shares.

    Overlaps are of as many leading eigenvectors as the depth of the colour says, the deepest all k; a line marks what
    they are by chance. Layers that were not computed are hatched.
    """
    panels: list[tuple[str, list[tuple[str, str, str, FloatArray]]]] = [
        (
            "eigenvalues of the block",
            [("block", BLUE, "o", result.eigenvalues), ("Kronecker product", RED, "^", result.kronecker)],
        ),
        ("overlap of leading eigenvectors", [("Kronecker product", RED, "^", result.overlap)]),
        ("rank-one share of eigenvectors", [("block", BLUE, "o", result.rank_one)]),
    ]
    if result.other_overlap is not None:
        panels[1][1].append(("other model", GREEN, "D", result.other_overlap))
    figure = bar_figure(2 * len(result.layers), len(panels))
    axes: list[Axes] = []
    for place, (text, series) in enumerate(panels):
        ax = figure.add_subplot(1, len(panels), place + 1, sharey=axes[0] if axes else None)
        axes.append(ax)
        for number, (label, colour, marker, values) in enumerate(series):
            _dots(ax, result, values, (number - (len(series) - 1) / 2) * 2 * _APART, label, colour, marker)
        _rows(ax, result)
        ax.set_xlabel(text)
        ax.tick_params(labelleft=place == 0)
    drawn = np.concatenate([panels[0][1][0][3][result.computed].ravel(), panels[0][1][1][3][result.computed].ravel()])
    drawn = drawn[np.isfinite(drawn)]
    if drawn.size and drawn.min() > 0 and drawn.max() > 10 * drawn.min():
        axes[0].set_xscale("log")
    for ax in axes[1:]:
        ax.set_xlim(-0.03, 1.03)
    _chance(axes[1], result)
    return finish(figure, axes, _notes(result))


def _dots(
    ax: Axes, result: LayerStructure, values: FloatArray, shift: float, label: str, colour: str, marker: str
) -> None:
    """The k values of each layer in its row, the first largest and darkest."""
    count = values.shape[1]
    for j in reversed(range(count)):
        known = result.computed & np.isfinite(values[:, j])
        rows = np.flatnonzero(known) + shift
        look = {"color": colour, "marker": marker, "alpha": 1 - 0.7 * j / max(count, 1), "s": 26}
        ax.scatter(values[known, j], rows, label=label if j == 0 else "_", linewidths=0, **look)


def _rows(ax: Axes, result: LayerStructure) -> None:
    missing = dict(MISSING)
    for row in np.flatnonzero(~result.computed):
        ax.axhspan(row - 0.5, row + 0.5, zorder=0, **missing)
        missing["label"] = "_"  # one entry in the legend
    ax.set_yticks(np.arange(len(result.layers)), short(result.layers), fontsize="small")
    ax.set_ylim(len(result.layers) - 0.4, -0.6)
    ax.grid(axis="x", color="0.9")


def _chance(ax: Axes, result: LayerStructure) -> None:
    """What overlaps of all k are by chance, one mark a layer."""
    rows = np.flatnonzero(result.computed)
    if len(rows):
        last = np.nanmax(np.where(np.isfinite(result.overlap), result.chance, np.nan), axis=1, initial=0.0)
        ax.vlines(last[rows], rows - 0.4, rows + 0.4, color="0.35", linestyle=":", label="by chance, of all")


def _notes(result: LayerStructure) -> Sequence[str]:
    notes = [f"{result.eigenvalues.shape[1]} largest, the first darkest", cost(result.products, result.passes)]
    missing = int((~result.computed).sum())
    return [f"{missing} of {len(result.layers)} layers not computed", *notes] if missing else notes


def _asked(result: LayerStructure, asked: Asked) -> Iterator[tuple[str, Figure]]:
    asked.without("-q", "--levels")
    yield asked.of_kind("structure"), plot_structure(result)


PICTURES = Pictures(plot_structure, _asked, plot_structure)
