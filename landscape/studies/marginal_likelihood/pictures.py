"""Pictures of marginal likelihoods."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from matplotlib.figure import Figure

from landscape.arguments import checked
from landscape.pictures.bars import bar_figure, bars
from landscape.pictures.marks import counted
from landscape.pictures.style import finish, styled
from landscape.results.kind import Asked, Pictures
from landscape.studies.marginal_likelihood.result import MarginalLikelihood


@styled
@checked()
def plot_marginal_likelihood(found: MarginalLikelihood) -> Figure:
    """Bars of -log P for each sample, a bar for each class, with two standard errors; ln 2 is that of a coin."""
    values, errors = -found.log_evidences / found.samples, found.errors() / found.samples
    figure = bar_figure(len(values), 1)
    ax = figure.add_subplot()
    scale = bars(ax, found.classes, values, errors, np.ones(len(values), dtype=bool), found.computed)
    ax.axvline(np.log(2), color="black", linewidth=1, linestyle=":", label="ln 2, labels by a coin")
    ax.set_ylabel("class")
    ax.set_xlabel(f"-log P for each sample (nats){scale}")
    notes = [f"error at most {float(found.bound):.3g} on average"] if found.complete else []
    return finish(figure, [ax], [*notes, *counted([(found.log_evidences, found.computed)], "classes")])


def _asked(found: MarginalLikelihood, asked: Asked) -> Iterator[tuple[str, Figure]]:
    """The pictures of `landscape plot`: {name of the file: figure}."""
    kind = asked.of_kind("evidence")
    asked.without("--levels", "-q")
    yield kind, plot_marginal_likelihood(found)


PICTURES = Pictures(plot_marginal_likelihood, _asked, plot_marginal_likelihood)
