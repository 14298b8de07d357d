"""How the fit of a curve went, as a matplotlib figure."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from landscape.arguments import checked
from landscape.errors import InputError
from landscape.pictures.style import StyledFigure, finish, styled
from landscape.results.kind import Asked, Pictures
from landscape.results.quantities import words
from landscape.studies.curve.result import Curve


@styled
@checked()
def plot_history(curve: Curve) -> Figure:
    """Loss, metrics and step size over the epochs of a fit. Raises InputError for a curve that was not fitted."""
    if not curve.history:
        raise InputError("the curve was given, not fitted, so it has no history of training to draw")
    figure = StyledFigure(figsize=(6.8, 1.0 + 2.0 * len(curve.history)), layout="constrained")
    panels: list[Axes] = []
    for place, (name, values) in enumerate(curve.history.items()):
        ax = figure.add_subplot(len(curve.history), 1, place + 1, sharex=panels[0] if panels else None)
        panels.append(ax)
        ax.plot(np.arange(1, len(values) + 1), values, "o-", markersize=3, linewidth=1.2)
        ax.set_ylabel("step size" if name == "lr" else words(name))
        ax.grid(axis="y")
        if (values > 0).all() and values.max() > 100 * values.min():
            ax.set_yscale("log")
        ax.tick_params(labelbottom=place == len(curve.history) - 1)
    panels[-1].set_xlabel("epoch")
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    return finish(figure, [], ["means over an epoch, each batch at its own place of the curve, in train mode"])


def _asked(curve: Curve, asked: Asked) -> Iterator[tuple[str, Figure]]:
    asked.without("-q", "--levels")
    yield asked.of_kind("history"), plot_history(curve)


PICTURES = Pictures(plot_history, _asked, plot_history)
