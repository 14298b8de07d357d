"""Heat maps of agreement between models."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from landscape_kernels.arrays import FloatArray
from matplotlib.figure import Figure

from landscape.arguments import checked
from landscape.pictures.heat_map import WRITTEN, heat_map, side_of
from landscape.pictures.style import StyledFigure, finish, styled
from landscape.results.kind import Asked, Pictures
from landscape.studies.agreement.result import MEASURES, Agreement, measure_words


@styled
@checked()
def plot_agreement(agreement: Agreement, measure: str = "cka") -> Figure:
    """A heat map of one measure over the pairs of models; cells of pairs that were not measured are hatched.

    Colours go from 0 to 1 for CKA, for distances and disagreement from 0 to the largest, so that models alike look it.
    Up to 12 models each cell tells its number, with its standard error below where it has one. Raises InputError for a
    measure that is not there.
    """
    matrix = agreement.matrix(measure)
    count = len(agreement.labels)
    side = side_of(count)
    name = measure.partition(":")[0]
    figure = StyledFigure(figsize=(side + 2.4, side + 1.4), layout="constrained")
    ax = figure.add_subplot()
    bar = heat_map(figure, ax, matrix, agreement.labels, _texts(agreement, measure), _limits(name, matrix))
    bar.set_label(MEASURES[name].unit)
    ax.set_title(measure_words(agreement, measure))
    pairs, measured = count * (count - 1) // 2, int(np.isfinite(agreement.values[measure]).sum())
    notes = [f"{agreement.samples:,} samples", f"{measured} of {pairs} pairs"]
    if count <= WRITTEN and measure in agreement.stderr and np.isfinite(agreement.stderr[measure]).any():
        notes.append("± standard error over samples")
    return finish(figure, [], notes)


def _limits(name: str, matrix: FloatArray) -> tuple[float, float]:
    """The ends of the colour scale; an unbiased CKA may lie below 0."""
    pairs = matrix[np.isfinite(matrix) & ~np.eye(len(matrix), dtype=bool)]
    if name.startswith("cka"):
        return min(0.0, float(pairs.min(initial=0.0))), 1.0
    return 0.0, float(pairs.max(initial=0.0)) or 1.0


def _texts(agreement: Agreement, measure: str) -> dict[tuple[int, int], str]:
    """{(row, column): value and its standard error}."""
    errors = agreement.stderr.get(measure, np.full(len(agreement.pairs), np.nan))
    found: dict[tuple[int, int], str] = {}
    for (i, j), value, error in zip(agreement.pairs.tolist(), agreement.values[measure], errors, strict=True):
        if np.isfinite(value):
            text = f"{value:#.3g}" + (f"\n±{error:.1g}" if np.isfinite(error) else "")
            found |= {(i, j): text, (j, i): text}
    return found


def _asked(agreement: Agreement, asked: Asked) -> Iterator[tuple[str, Figure]]:
    asked.without("--kind", "--levels")
    for measure in (asked.quantity,) if asked.quantity is not None else agreement.values:
        yield measure.replace(":", "_"), plot_agreement(agreement, measure)


PICTURES = Pictures(plot_agreement, _asked, lambda agreement: agreement.plot(next(iter(agreement.values), "cka")))
