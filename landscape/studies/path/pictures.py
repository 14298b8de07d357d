"""Pictures of paths between models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from landscape_kernels.gaps import above_ends
from landscape_kernels.rounding import settled
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from landscape.arguments import checked
from landscape.errors import InputError, nearest
from landscape.pictures.style import ERROR, LINE_COLOURS, RED, StyledFigure, finish, line_look, styled
from landscape.precise.told import UNSURE
from landscape.results.kind import Asked, Pictures
from landscape.results.quantities import words
from landscape.studies.path.result import Path

AGAINST = ("t", "arc")
_MARKS = ("ends", ERROR, UNSURE, "line between the ends", "NaN or Inf")  # last in the legend
_FRACTIONS = ("error", "accuracy")  # drawn in per cent
_DENSE, _APART = 31, 10  # places up to which each is marked; beyond, one of so many is
_SEEN = 0.08  # barriers lower than this share of the panel's height have no arrow; the sentence below tells them
_WORDS = {"t": "t", "arc": "arc length in parameter units"}


@styled
@checked()
def plot_paths(
    paths: Path | Sequence[Path],
    labels: Sequence[str] = (),
    *,
    quantities: Sequence[str] = (),
    against: str = "t",
) -> Figure:
    """Quantities along one path or several in one picture: the straight line and a curve between the same models.

    There is a panel for each of `quantities`, by default the loss and the error (or accuracy) in per cent. Each path is
    a line with its band of 2 standard errors (population), and its ends are squares. Values on the test data are dashed
    with hollow marks, and have a colour of their own where there is only one path. In the panel of the loss a dotted
    line joins the ends, and an arrow from it shows the barrier. `against` is "t" or "arc", the length along the curve.
    Of paths measured to a stated error a grey band has 2 of these errors.
    NaN and Inf are crosses at the border, and the sentence below counts them and places not computed.

    Raises InputError for no path, as many labels as paths, unknown `quantities` or `against`.
    """
    paths = [paths] if isinstance(paths, Path) else list(paths)
    if not paths:
        raise InputError("no path is given; give one or more")
    if labels and len(labels) != len(paths):
        raise InputError(f"{len(labels)} labels for {len(paths)} paths; give one each")
    if against not in AGAINST:
        raise InputError(f"against={against!r} is not known; {nearest(against, AGAINST)}")
    shared = [name for name in paths[0].values if all(name in path.values for path in paths)]
    if unknown := [name for name in quantities if name not in shared]:
        raise InputError(f"not all paths have a quantity {unknown[0]!r}; {nearest(unknown[0], shared)}")
    fraction = next((name for name in _FRACTIONS if name in shared), None)
    panels = list(quantities) or [name for name in ("loss", fraction) if name in shared]
    named = list(labels) or (_named(paths) if len(paths) > 1 else [""])
    figure = StyledFigure(figsize=(6.8, 0.9 + 2.9 * len(panels) + 0.35 * len(paths)), layout="constrained")
    axes: list[Axes] = []
    for place, name in enumerate(panels):
        ax = figure.add_subplot(len(panels), 1, place + 1, sharex=axes[0] if axes else None)
        axes.append(ax)
        factor = 100.0 if name.removeprefix("test_") in _FRACTIONS else 1.0
        for number, (path, label) in enumerate(zip(paths, named, strict=True)):
            _draw(ax, path, name, label, number, against, factor)
        ax.set_ylabel(name.replace("_", " ") if factor != 1 else words(name, paths[0].attributes))
        if name == "loss":
            for number, path in enumerate(paths):
                _draw_barrier(ax, path, LINE_COLOURS[number % len(LINE_COLOURS)], against)
        if factor != 1:
            ax.yaxis.set_major_formatter("{x:g} %")
        ax.yaxis.set_major_locator(MaxNLocator(6))
        ax.grid(axis="y")
        ax.tick_params(labelbottom=place == len(panels) - 1)
    axes[-1].set_xlabel(_WORDS[against])
    ends = [float((path.t if against == "t" else path.arc)[-1]) for path in paths]
    axes[0].set_xlim(-0.03 * max(ends), 1.03 * max(ends))
    notes = [_note(path, label) for path, label in zip(paths, named, strict=True)]
    return finish(figure, axes[:1], notes, last=_MARKS, each="\n")


def _draw(ax: Axes, path: Path, name: str, label: str, number: int, against: str, factor: float) -> None:
    x = path.t if against == "t" else path.arc
    test = f"test_{name}"
    for quantity, stroke, suffix in ((name, "-", ""), (test, "--", "test data")):
        if quantity not in path.values:
            continue
        look = line_look(number + (suffix != "" and not label))  # a single path has the other colours for itself
        known = path.computed & np.isfinite(path.values[quantity])
        values = np.where(known, path.values[quantity], np.nan) * factor
        error = 2 * factor * path.stderr[quantity]
        text = ", ".join(part for part in (label or ("" if suffix else name), suffix) if part)
        # Of many places a few are marked, of each path others. So is a value between two gaps, which makes no line.
        few = np.zeros(len(x), dtype=bool)
        few[3 * number % _APART :: 1 if len(x) <= _DENSE else _APART] = True
        alone = known & ~np.r_[False, known[:-1]] & ~np.r_[known[1:], False]
        shown = np.flatnonzero(alone | few).tolist()
        filled = "white" if suffix else look["color"]
        marks: dict[str, Any] = {"markevery": shown, "markersize": 3.5, "markerfacecolor": filled}
        ax.plot(x, values, linestyle=stroke, label=text, **marks, **look)
        band: dict[str, Any] = {"color": look["color"], "alpha": 0.2, "linewidth": 0, "label": ERROR}
        ax.fill_between(x, values - error, values + error, **band)
        unsure = 2 * factor * (path.error or {}).get(quantity, np.zeros(len(x)))
        if unsure[known].any():
            off: dict[str, Any] = {"color": "0.45", "alpha": 0.4, "linewidth": 0, "label": UNSURE}
            ax.fill_between(x, values - unsure, values + unsure, **off)
        ends: dict[str, Any] = {"color": look["color"], "markeredgecolor": "black", "markersize": 6, "zorder": 4}
        ax.plot(x[[0, -1]], values[[0, -1]], "s", label="ends", **ends)
        for bad, height in ((np.isposinf, 0.97), (np.isneginf, 0.03), (np.isnan, 0.03)):
            there = path.computed & bad(path.values[quantity])
            if there.any():
                heights = np.full(int(there.sum()), height)
                ax.plot(x[there], heights, "x", color=RED, transform=ax.get_xaxis_transform(), label="NaN or Inf")


def _draw_barrier(ax: Axes, path: Path, colour: str, against: str) -> None:
    """The line between the ends, and an arrow from it to where the loss is highest above it, unless it is tiny."""
    known = path.computed & np.isfinite(path.values["loss"])
    if not np.isfinite(path.barrier):
        return
    x = (path.t if against == "t" else path.arc)[known]
    t, losses = path.t[known], path.values["loss"][known]
    above = above_ends(t, losses)
    line, top = losses - above, int(np.argmax(above))
    ax.plot(x, line, ":", color=colour, linewidth=1, label="line between the ends")
    low, high = ax.get_ylim()
    if above[top] < _SEEN * (high - low):
        return
    place = float(x[top])
    ax.annotate(
        "",
        (place, float(losses[top])),
        (place, float(line[top])),
        arrowprops={"arrowstyle": "<->", "color": colour, "shrinkA": 0, "shrinkB": 0, "linewidth": 1},
    )
    right = place > (x[0] + x[-1]) / 2
    ax.annotate(
        f"barrier {settled(above[top], 0.0, path.rounding_of('loss')):.3g}",
        (place, float(line[top] + above[top] / 2)),
        xytext=(-6 if right else 6, 0),
        textcoords="offset points",
        ha="right" if right else "left",
        va="center",
        fontsize="small",
        color=colour,
        bbox={"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.7},
    )


def _named(paths: Sequence[Path]) -> list[str]:
    return [
        "straight line" if path.length <= path.distance * (1 + 1e-9) else str(path.attributes.get("curve_kind", ""))
        for path in paths
    ]


def _note(path: Path, label: str) -> str:
    barrier, mc = settled(path.barrier, 0.0, path.rounding_of("loss")), settled(path.mc, 0.0, path.mc_rounding)
    parts = [f"barrier {barrier:.3g}", f"mc {mc:.3g} ({path.mc_quantity})", f"length {path.length:.4g}"]
    values = path.values["loss"][path.computed]
    counts = {"NaN": np.isnan(values).sum(), "Inf": np.isinf(values).sum(), "not computed": (~path.computed).sum()}
    if left := ", ".join(f"{count} {word}" for word, count in counts.items() if count):
        parts.append(f"{left} of {len(path.t)} places")
    return (f"{label}: " if label else "") + ", ".join(parts)


def _asked(path: Path, asked: Asked) -> Iterator[tuple[str, Figure]]:
    asked.without("-q", "--levels")
    yield asked.of_kind("path"), path.plot()


PICTURES = Pictures(lambda path, **options: plot_paths([path], **options), _asked, lambda path: path.plot())
