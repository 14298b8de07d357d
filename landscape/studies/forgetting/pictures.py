"""Forgetting against curvature as matplotlib figures."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from landscape_kernels.arrays import FloatArray
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landscape.arguments import checked
from landscape.errors import InputError, nearest
from landscape.pictures.bars import short
from landscape.pictures.marks import counted
from landscape.pictures.scale import name_log_ticks
from landscape.pictures.style import ERROR, PALE, RED, StyledFigure, finish, line_look, styled
from landscape.results.kind import Asked, Pictures
from landscape.studies.forgetting.result import EXCEEDED, Forgetting

KINDS = ("bound", "layers")
_NEAR = 1e-2  # of the largest value: below it a scale with negative values is linear


@styled
@checked()
def plot_forgetting(forgetting: Forgetting, kind: str = "bound") -> Figure:
    """Draw forgetting as one of two kinds of picture.

    - "bound": F = L(v) - L(w) of every pair against the quadratic form d'Hd / 2, against g'd + d'Hd / 2, and against
      the bound, with two standard errors; on the diagonal they are equal, above it F is larger. Filled: after the last
      task.
    - "layers": the part of each layer in the quadratic form after the last task, the mean over tasks and seeds.

    Raises InputError for another kind.
    """
    if kind not in KINDS:
        raise InputError(f"kind {kind!r} is not a picture of forgetting; {nearest(kind, KINDS)}")
    return _layers(forgetting) if kind == "layers" else _bound(forgetting)


def _bound(f: Forgetting) -> Figure:
    figure = StyledFigure(figsize=(13.0, 5.0), layout="constrained")
    axes = [figure.add_subplot(1, 3, k) for k in (1, 2, 3)]
    panels = (
        (f.quadratic, f.stderr["quadratic"], "quadratic form $d'Hd/2$"),
        (f.predicted, f.predicted_stderr, "second order $g'd + d'Hd/2$"),
        (f.bound, f.bound_stderr, r"bound $\lambda_{\max}|d|^2/2$"),
    )
    for ax, (across, error, words) in zip(axes, panels, strict=True):
        known = f.computed & np.isfinite(across) & np.isfinite(f.forgetting)
        _points(ax, f, across, error, known)
        _scales(ax, across[known], f.forgetting[known])
        ax.set_xlabel(words)
        ax.grid(color=PALE)
    axes[0].set_ylabel("forgetting $L(v) - L(w)$")
    verdicts = f.verdict
    above = np.array([word == EXCEEDED for word in verdicts], dtype=bool) & np.isfinite(f.bound)
    if above.any():
        ring: dict[str, Any] = {"marker": "o", "markersize": 11, "markerfacecolor": "none", "markeredgecolor": RED}
        axes[2].plot(f.bound[above], f.forgetting[above], linestyle="none", label="bound exceeded", **ring)
    for axis in (axis for ax in axes for axis in (ax.xaxis, ax.yaxis) if axis.get_scale() == "log"):
        name_log_ticks(axis)
    notes = [f"{len(f.seed)} pairs of a task and a later one; filled: after the last task"]
    notes.append(f"bound exceeded beyond errors in {int(above.sum())}")
    return finish(figure, axes, [*notes, *counted([(f.forgetting, f.computed)], "pairs")])


def _points(ax: Axes, f: Forgetting, across: FloatArray, error: FloatArray, known: Any) -> None:
    for number, (words, rows) in enumerate(f.rows_of_cells().items()):
        look = line_look(number)
        there = np.array([k for k in rows if known[k]], dtype=np.int64)
        bars: dict[str, Any] = {"fmt": "none", "ecolor": look["color"], "elinewidth": 0.8, "alpha": 0.5, "label": ERROR}
        if len(there):
            above, beside = (2 * np.nan_to_num(e[there], posinf=0.0) for e in (f.stderr["forgetting"], error))
            ax.errorbar(across[there], f.forgetting[there], above, np.abs(beside), **bars)
        for last, face in ((False, "none"), (True, look["color"])):
            chosen = there[f.last[there] == last]
            label = words if last or not f.last[there].any() else "_"
            style = {"linestyle": "none", "markerfacecolor": face, "markersize": 5, "label": label, **look}
            if len(chosen):
                ax.plot(across[chosen], f.forgetting[chosen], **style)


def _scales(ax: Axes, across: FloatArray, up: FloatArray) -> None:
    """The diagonal, and scales that show every size: logarithmic, about 0 linear where there are values below it."""
    for values, scale in ((across, ax.set_xscale), (up, ax.set_yscale)):
        largest = float(np.abs(values).max(initial=0.0))
        if largest and values.min() > 0:
            scale("log")
        elif largest:
            scale("symlog", linthresh=10.0 ** math.ceil(math.log10(largest * _NEAR)))  # a power has a tick
    if len(across):
        sizes = np.geomspace(_NEAR**2, 1, 200) * np.abs(across).max()
        line = np.concatenate([-sizes[::-1], sizes])
        line = line[(line >= across.min()) & (line <= across.max())]
        ax.plot(line, line, color="0.4", linestyle="--", linewidth=1, label="equal")


def _layers(f: Forgetting) -> Figure:
    count = len(f.layers)
    figure = StyledFigure(figsize=(7.0, 1.8 + 0.35 * max(count, 3)), layout="constrained")
    ax = figure.add_subplot()
    cells = f.rows_of_cells()
    places = np.arange(count, dtype=np.float64)
    for number, (words, rows) in enumerate(cells.items()):
        ends = [k for k in rows if f.last[k] and f.computed[k]]
        if not ends:
            continue
        parts = f.layer_values["quadratic"][ends]
        error = 2 * parts.std(0, ddof=1) / np.sqrt(len(ends)) if len(ends) > 1 else np.zeros(count)
        shift = 0.25 * (number - (len(cells) - 1) / 2) / max(len(cells), 1)
        look = {"linestyle": "none", "capsize": 2, "elinewidth": 1, "label": words, **line_look(number)}
        ax.errorbar(parts.mean(0), places + shift, xerr=np.nan_to_num(error), **look)
    ax.set_yticks(places, short(f.layers), fontsize="small")
    ax.set_ylim(count - 0.4, -0.6)
    ax.axvline(0.0, color="0.4", linestyle=":", linewidth=1)
    ax.grid(axis="x", color=PALE)
    ax.set_xlabel("part in the quadratic form $d'Hd/2$ after the last task")
    notes = ["mean over tasks and seeds; bars: ±2 standard errors of it"]
    return finish(figure, [ax], [*notes, *counted([(f.quadratic, f.computed)], "pairs")])


def _asked(forgetting: Forgetting, asked: Asked) -> Iterator[tuple[str, Figure]]:
    asked.without("-q", "--levels")
    for kind in KINDS if asked.kind is None else (asked.kind,):
        yield f"forgetting_{kind}", plot_forgetting(forgetting, kind)


PICTURES = Pictures(plot_forgetting, _asked, plot_forgetting)
