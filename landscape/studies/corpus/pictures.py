"""An analysed corpus as matplotlib figures: overall against within for all metrics, and one metric by groups."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from landscape_kernels.arrays import FloatArray
from landscape_kernels.rank_statistics import slope
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landscape.arguments import checked
from landscape.errors import InputError, nearest
from landscape.pictures.bars import bar_figure, short
from landscape.pictures.style import BLUE, LINE_COLOURS, ORANGE, RED, StyledFigure, finish, line_look, styled
from landscape.results.kind import Asked, Pictures
from landscape.studies.corpus.result import NONE, PARADOX, UNDECIDED, Corpus, ordered

KINDS = ("chart", "scatter")
_ROWS = 40  # metrics drawn; the table has them all


@styled
@checked()
def plot_corpus(corpus: Corpus, kind: str = "chart", metric: str | None = None, groups: str | None = None) -> Figure:
    """Draw a corpus as one of two kinds of picture, by the grouping `groups`, the first by default.

    - "chart": for every metric Kendall's tau-b over all models and within the groups, with intervals; paradoxes are
      marked. Of more than 40 metrics paradoxes, and those where the two are farthest apart.
    - "scatter": the target against one metric, by default that of the widest paradox: coloured by group, with the
      least-squares lines over all models and of each group.

    Raises InputError for a kind, metric or grouping that is not there.
    """
    if kind not in KINDS:
        raise InputError(f"kind {kind!r} is not a picture of a corpus; {nearest(kind, KINDS)}")
    if not corpus.metric:
        raise InputError("this corpus has no metric to draw")
    grouping = corpus.grouping[corpus.row(corpus.metric[0], groups)]
    if kind == "scatter":
        return _scatter(corpus, corpus.row(metric or corpus.widest(grouping)[0], grouping))
    if metric is not None:
        raise InputError(f"metric={metric!r} belongs to kind='scatter'; a chart shows all of them")
    return _chart(corpus, grouping)


def _chart(corpus: Corpus, grouping: str) -> Figure:
    rows = corpus.rows_of(grouping)
    if len(rows) > _ROWS:
        shown = set(corpus.widest(grouping)[:_ROWS])
        rows = np.array([k for k in rows if corpus.metric[k] in shown])
    figure = bar_figure(len(rows), 1)
    ax = figure.add_subplot()
    for name, text, colour, shift in (
        ("overall", "over all models", BLUE, -0.16),
        ("within", f"within {grouping}", ORANGE, 0.16),
    ):
        values = corpus.values[name][rows]
        ends = [np.abs(values - corpus.values[f"{name}_{end}"][rows]) for end in ("low", "high")]
        known, height = np.isfinite(values), np.arange(len(rows)) + shift
        if known.any():
            error = np.nan_to_num(np.stack(ends)[:, known])
            marker = "o" if name == "overall" else "s"
            look: dict[str, Any] = {"fmt": marker, "color": colour, "elinewidth": 1.4, "capsize": 2, "label": text}
            ax.errorbar(values[known], height[known], xerr=error, **look)
    label = "Simpson's paradox"
    for place, k in enumerate(rows):
        if corpus.simpson[k] == PARADOX:
            ax.axhspan(place - 0.5, place + 0.5, color=RED, alpha=0.14, linewidth=0, zorder=0, label=label)
            label = "_"
    names = short([corpus.metric[k] for k in rows])
    ax.set_yticks(np.arange(len(rows)), names, fontsize="small")
    for tick, k in zip(ax.get_yticklabels(), rows, strict=True):
        if corpus.simpson[k] == PARADOX:
            tick.set_color(RED)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlim(-1.05, 1.05)
    ax.axvline(0.0, color="0.4", linestyle=":", linewidth=1)
    ax.grid(axis="x", color="0.9")
    ax.set_xlabel(f"Kendall's tau-b with {corpus.target}")
    return finish(figure, [ax], _chart_notes(corpus, grouping, len(rows)))


def _chart_notes(corpus: Corpus, grouping: str, drawn: int) -> list[str]:
    all_rows = corpus.rows_of(grouping)
    states = [corpus.simpson[k] for k in all_rows]
    notes = [", ".join(f"{states.count(s)} {s}" for s in (PARADOX, NONE, UNDECIDED) if s in states)]
    notes += [f"the {drawn} of {len(all_rows)} metrics farthest apart"] if drawn < len(all_rows) else []
    undefined = int(np.isnan(corpus.values["within"][all_rows]).sum())
    notes += [f"{undefined} without a value within groups"] if undefined else []
    return [*notes, f"bars: {corpus.attributes.get('error', 'intervals')}"]


def _scatter(corpus: Corpus, row: int) -> Figure:
    metric, grouping = corpus.metric[row], corpus.grouping[row]
    known = corpus.known(metric, grouping)
    figure = StyledFigure(figsize=(6.8, 5.2), layout="constrained")
    ax = figure.add_subplot()
    labels = np.array(corpus.groups[grouping])
    x, y = corpus.columns[metric], corpus.columns[corpus.target]
    for number, group in enumerate(ordered(corpus.groups[grouping])):
        here = known & (labels == group)
        if not here.any():
            continue
        colour = LINE_COLOURS[number % len(LINE_COLOURS)]
        marker = line_look(number + number // len(LINE_COLOURS))["marker"]  # another when colours come again
        ax.plot(x[here], y[here], marker, color=colour, label=f"{grouping} {group}")
        _line(ax, x[here], y[here], color=colour)
    if known.any():
        _line(ax, x[known], y[known], color="black", linestyle="--", linewidth=1.8, label="all models")
    ax.set_xlabel(metric)
    ax.set_ylabel(corpus.target)
    ax.grid(color="0.9")
    notes = [f"{int(known.sum())} models", *([corpus.note[row]] if corpus.note[row] else [])]
    return finish(figure, [ax], [tau_text(corpus, row), *notes], last=("all models",))


def tau_text(corpus: Corpus, row: int) -> str:
    """Tau overall and within with intervals and the flag, in words."""
    parts = []
    for name in ("overall", "within"):
        value, low, high = (corpus.values[f"{name}{end}"][row] for end in ("", "_low", "_high"))
        parts.append(f"{name} {value:.2f} [{low:.2f}, {high:.2f}]" if np.isfinite(value) else f"{name} not defined")
    return f"tau {', '.join(parts)}; Simpson's paradox: {corpus.simpson[row]}"


def _line(ax: Axes, x: FloatArray, y: FloatArray, **look: Any) -> None:
    """The least-squares line over the span of x, where it is defined."""
    steep = float(slope(x, y)[0])
    if np.isfinite(steep):
        ends = np.array([x.min(), x.max()])
        ax.plot(ends, y.mean() + steep * (ends - x.mean()), **look)


def _asked(corpus: Corpus, asked: Asked) -> Iterator[tuple[str, Figure]]:
    asked.without("--levels")
    for kind in KINDS if asked.kind is None else (asked.kind,):
        chosen = {"metric": asked.quantity} if kind == "scatter" and asked.quantity is not None else {}
        yield kind, plot_corpus(corpus, kind, **chosen)


PICTURES = Pictures(plot_corpus, _asked, plot_corpus)
