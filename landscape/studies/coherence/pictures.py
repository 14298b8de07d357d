"""Pictures of coherence."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from landscape_kernels.arrays import FloatArray
from matplotlib.figure import Figure

from landscape.arguments import checked
from landscape.errors import InputError
from landscape.pictures.heat_map import WRITTEN, coloured_cells, short_names, side_of
from landscape.pictures.style import ERROR, LINE_COLOURS, VALUES, StyledFigure, finish, styled
from landscape.results.kind import Asked, Pictures
from landscape.studies.coherence.result import MEANINGS, Coherence

BETWEEN = "between"
_NAMED = 12  # layers that a legend names


@styled
@checked()
def plot_coherence(coherence: Coherence, quantity: str = "m_coherence") -> Figure:
    """One quantity over the parameter vectors, a line for each layer; of a single vector, points over the layers.

    "between" draws the cosines of the mean gradients of groups of samples at the last vector. Raises InputError for an
    unknown quantity, for "between" without groups, and where nothing is computed yet.
    """
    done = np.flatnonzero(coherence.computed)
    if quantity != BETWEEN:
        coherence.require(quantity)
    elif not coherence.groups:
        raise InputError("no groups of samples were given, so there is nothing between them; measure with groups=")
    if not len(done):
        raise InputError("no parameter vector is computed yet, so there is nothing to draw")
    if quantity == BETWEEN:
        return _groups(coherence, int(done[-1]))
    values, errors = coherence.quantity(quantity), coherence.error(quantity)
    single = len(coherence.labels) == 1
    figure = StyledFigure(figsize=(6.4, 4.4), layout="constrained")
    ax = figure.add_subplot()
    if single:
        x = np.arange(len(coherence.rows))
        ax.errorbar(x, values[0], 2 * np.nan_to_num(errors[0]), fmt="o", label=_named_error(errors[0]))
        step = 1 + len(x) // (2 * _NAMED)
        ax.set_xticks(x[::step], short_names(coherence.rows)[::step], rotation=90)
    else:
        x = np.arange(len(coherence.labels))
        for k, name in enumerate(coherence.rows):
            colour = "black" if k == 0 else VALUES(0.92 * (k - 1) / max(len(coherence.rows) - 2, 1))
            named = name if len(coherence.rows) <= _NAMED or k == 0 else "_"
            ax.plot(x, values[:, k], color=colour, linewidth=2.0 if k == 0 else 1.0, label=named)
        low, high = values[:, 0] - 2 * errors[:, 0], values[:, 0] + 2 * errors[:, 0]
        label = _named_error(errors[:, 0])
        ax.fill_between(x, low, high, color="black", alpha=0.2, linewidth=0, label=label)
        step = 1 + len(x) // _NAMED
        ax.set_xticks(x[::step], short_names(coherence.labels)[::step])
        ax.set_xlabel("parameter vector")
    seen = values[np.isfinite(values)]
    if len(seen) and (seen > 0).all() and seen.max() > 30 * seen.min():
        ax.set_yscale("log")
    if quantity == "m_coherence" and len(seen):
        ax.axhline(1.0, color=LINE_COLOURS[-1], linewidth=0.8, linestyle=":", label="orthogonal gradients")
    ax.set_ylabel(MEANINGS[quantity].label)
    ax.grid(axis="y")
    notes = [f"{coherence.samples:,} samples", f"{len(done)} of {len(coherence.labels)} parameter vectors computed"]
    return finish(figure, [ax], notes)


def _named_error(errors: FloatArray) -> str:
    """The name of a band of errors in the legend, none where nothing of it is drawn."""
    return ERROR if np.isfinite(errors).any() else "_"


def _groups(coherence: Coherence, t: int) -> Figure:
    count = len(coherence.groups)
    roots = np.sqrt(np.diagonal(coherence.products[t]))
    with np.errstate(divide="ignore", invalid="ignore"):
        cosines = coherence.products[t] / np.outer(roots, roots)
    texts = {(i, j): f"{cosines[i, j]:.2f}" for i in range(count) for j in range(count) if np.isfinite(cosines[i, j])}
    side = side_of(count)
    figure = StyledFigure(figsize=(side + 2.4, side + 1.4), layout="constrained")
    ax = figure.add_subplot()
    names = short_names(coherence.groups)
    bar = coloured_cells(figure, ax, cosines, names, names, texts if count <= WRITTEN else {}, (-1.0, 1.0))
    bar.set_label("cosine of the mean gradients")
    ax.set_title(f"groups of samples at {coherence.labels[t]}")
    return finish(figure, [], [f"{coherence.samples:,} samples"])


def _asked(coherence: Coherence, asked: Asked) -> Iterator[tuple[str, Figure]]:
    asked.without("--kind", "--levels")
    names = ["m_coherence", "share", *([BETWEEN] if coherence.groups else [])]
    for name in (asked.quantity,) if asked.quantity is not None else names:
        yield name, plot_coherence(coherence, name)


PICTURES = Pictures(plot_coherence, _asked, lambda coherence: coherence.plot())
