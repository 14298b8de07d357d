"""Curves of training, as matplotlib figures."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from landscape.arguments import checked
from landscape.errors import InputError
from landscape.pictures.style import VALUES, StyledFigure, finish, styled
from landscape.results.kind import Asked, Pictures
from landscape.studies.training.result import MEANINGS, Training

_NAMED = 12  # cells that a legend names


@styled
@checked()
def plot_training(training: Training, quantity: str | None = None) -> Figure:
    """A quantity over the epochs, by default each in a panel of its own: a line for each model, a colour for each cell.

    Raises InputError for an unknown quantity, and where no model is trained yet.
    """
    if quantity is not None:
        training.require(quantity)
    if not training.computed.any():
        raise InputError("no model is trained yet, so there are no curves to draw")
    names = [quantity] if quantity is not None else list(training.values)
    columns = min(len(names), 2)
    rows = -(-len(names) // columns)
    figure = StyledFigure(figsize=(1.6 + 4.2 * columns, 1.2 + 2.8 * rows), layout="constrained")
    panels: list[Axes] = []
    for place, name in enumerate(names):
        ax = figure.add_subplot(rows, columns, place + 1)
        panels.append(ax)
        _draw(ax, training, name)
    left = len(training.left_out)
    notes = [f"{int(training.computed.sum())} of {len(training.seed)} models, a line each; in eval mode on all data"]
    notes += [f"{left} left out as their loss became NaN or infinite, or their training failed"] if left else []
    return finish(figure, panels[:1], notes)


def _draw(ax: Axes, training: Training, name: str) -> None:
    cells = training.rows_of_cells()
    epochs = np.arange(training.values[name].shape[1])
    for number, (key, rows) in enumerate(cells.items()):
        colour = VALUES(0.92 * number / max(len(cells) - 1, 1))
        label = ", ".join(f"{k} {v}" for k, v in zip(training.keys, key, strict=True))
        for row in rows:
            values = training.values[name][row]
            ax.plot(epochs, values, color=colour, linewidth=1.0, label=label if len(cells) <= _NAMED and label else "_")
    meaning = MEANINGS[name]
    ax.set_ylabel(meaning.words if meaning.unit == "1" else meaning.label)
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(axis="y")
    seen = training.values[name][np.isfinite(training.values[name])]
    if len(seen) and (seen > 0).all() and seen.max() > 100 * seen.min():
        ax.set_yscale("log")


def _asked(training: Training, asked: Asked) -> Iterator[tuple[str, Figure]]:
    kind = asked.of_kind("curves")
    asked.without("--levels")
    yield (kind if asked.quantity is None else f"{asked.quantity}_{kind}"), plot_training(training, asked.quantity)


PICTURES = Pictures(plot_training, _asked, lambda training: training.plot())
