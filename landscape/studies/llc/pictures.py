"""Pictures of local learning coefficients."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from matplotlib.figure import Figure

from landscape.arguments import checked
from landscape.errors import InputError, nearest
from landscape.pictures.marks import counted, mark_nonfinite
from landscape.pictures.style import BLUE, ERROR, GREY, RED, VALUES, StyledFigure, finish, hatch_spans, styled
from landscape.pictures.views import thinned
from landscape.results.kind import Asked, Pictures
from landscape.studies.llc.result import LLC

PICTURED = ("traces", "chains")
_LINES = 12  # chains that have a line each
_POINTS = 1500  # of a line


@styled
@checked()
def plot_llc(llc: LLC, kind: str = "traces") -> Figure:
    """The draws of each chain ("traces"), the burn-in shaded; or the coefficient by each chain ("chains").

    Both with that of all chains and two standard errors. Raises InputError for another kind.
    """
    if kind not in PICTURED:
        raise InputError(f"kind {kind!r} is not a picture of this result; {nearest(kind, PICTURED)}")
    figure = StyledFigure(figsize=(6.4, 4.4), layout="constrained")
    ax = figure.add_subplot()
    value = llc.value
    left_out = np.array([chain in llc.left_out for chain in range(len(llc.computed))])
    ax.axhspan(value - 2 * value.stderr, value + 2 * value.stderr, color=RED, alpha=0.25, linewidth=0)
    ax.axhline(float(value), color=RED, linewidth=1.2, label=f"all chains, {ERROR}")
    if kind == "traces":
        drawn = np.flatnonzero(llc.computed & ~left_out)[:_LINES]
        at = thinned(llc.traces.shape[1], _POINTS)
        for place, chain in enumerate(drawn):
            rise = llc.nbeta * (llc.traces[chain] - llc.loss)
            colour = VALUES(0.9 * place / max(len(drawn) - 1, 1))
            ax.plot(at + 1, rise[at], color=colour, linewidth=0.6, label="chains" if place == 0 else "_")
        if llc.burn_in:
            ax.axvspan(0.5, llc.burn_in + 0.5, color=GREY, alpha=0.15, linewidth=0, label="burn-in, left out")
        ax.set_xlabel("draw")
        ax.set_ylabel("nbeta (loss - loss at the centre)")
    else:
        x = np.arange(len(llc.computed), dtype=np.float64)
        ax.plot(x, llc.per_chain, "o", color=BLUE, label="one chain")
        if np.isfinite(llc.quadratic):
            ax.axhline(llc.quadratic, color=GREY, linestyle=":", label="by the quadratic form")
        hatch_spans(ax, ~llc.computed, x)
        mark_nonfinite(ax, x, np.where(llc.computed, llc.per_chain, 0.0))
        ax.set_xticks(thinned(len(x), 9))
        ax.set_xlabel("chain")
        ax.set_ylabel("local learning coefficient")
    return finish(figure, [ax], [*_notes(llc), *counted([(llc.per_chain, llc.computed)], "chains")])


def _notes(llc: LLC) -> list[str]:
    notes = [f"nbeta {llc.nbeta:.4g}, localisation {llc.localisation:.4g}", llc.verdict]
    if len(llc.computed) > _LINES:
        notes.append(f"{len(llc.computed)} chains in all")
    return notes


def _asked(llc: LLC, asked: Asked) -> Iterator[tuple[str, Figure]]:
    """The pictures of `landscape plot`: {name of the file: figure}."""
    asked.without("--levels", "-q")
    for kind in PICTURED if asked.kind is None else (asked.kind,):
        yield kind, plot_llc(llc, kind)


PICTURES = Pictures(plot_llc, _asked, lambda llc: llc.plot())
