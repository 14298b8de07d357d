"""Generalisation measures as matplotlib figures."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from matplotlib.figure import Figure

from landscape.arguments import checked
from landscape.errors import InputError
from landscape.pictures.bars import bar_figure, bars
from landscape.pictures.marks import counted
from landscape.pictures.style import finish, styled
from landscape.results.kind import Asked, Pictures
from landscape.studies.complexity.result import Complexity


@styled
@checked()
def plot_complexity(complexity: Complexity, kind: str = "bars") -> Figure:
    """Bars of log10 of the size of each value, and of the values after adjustment, with two standard errors.

    Measures are of very different size, so that the first panel has logarithms, without their sign, of log_... those of
    what they are the logarithm of; the second has those that are adjusted to be compared with a gap between training
    and test error. Raises InputError for another
    kind of picture.
    """
    if kind != "bars":
        raise InputError(f"kind {kind!r} is not a picture of measures of complexity; known: bars")
    c = complexity
    rows = np.array([k for k in range(len(c.names)) if not (c.computed[k] and c.reasons[k])], dtype=np.int64)
    names, computed = [c.names[k] for k in rows], c.computed[rows]
    value, adjusted = c.value[rows], c.adjusted_value[rows]
    figure = bar_figure(len(names), 2)
    sizes, errors = (part[rows] for part in c.log10_sizes())
    solid = np.ones(len(names), dtype=bool)
    left = figure.add_subplot(1, 2, 1)
    bars(left, names, sizes, errors, solid, computed)
    left.set_xlabel("log10 of the size")
    right = figure.add_subplot(1, 2, 2, sharey=left)
    scale = bars(right, names, np.where(np.isnan(adjusted), 0.0, adjusted), c.adjusted_stderr[rows], solid, computed)
    right.set_xlabel(f"after adjustment{scale}")
    right.tick_params(labelleft=False)
    skipped = [f"skipped: {', '.join(c.skipped)}"] if c.skipped else []
    return finish(figure, [left, right], [*skipped, *counted([(value, computed)], "values")])


def _asked(complexity: Complexity, asked: Asked) -> Iterator[tuple[str, Figure]]:
    kind = asked.of_kind("bars")
    asked.without("-q", "--levels")
    yield kind, plot_complexity(complexity)


PICTURES = Pictures(plot_complexity, _asked, plot_complexity)
