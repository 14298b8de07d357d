"""Weight matrices as matplotlib figures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landscape.arguments import checked
from landscape.errors import InputError
from landscape.pictures.bars import short
from landscape.pictures.marks import counted
from landscape.pictures.style import BLUE, GREEN, GREY, MISSING, ORANGE, RED, StyledFigure, finish, line_look, styled
from landscape.results.kind import Asked, Pictures
from landscape.studies.weights.metrics import EVERY
from landscape.studies.weights.result import Weights

KINDS = ("alpha", "esd")
_ROW = 0.23  # height of a layer, in inches
_DRAWN = 12  # pictures of layers that `landscape plot` makes
_MODELS = 6  # side by side, the last ones


@styled
@checked()
def plot_weights(
    weights: Weights, kind: str = "alpha", *, layer: str | None = None, model: str | None = None, metric: str = "alpha"
) -> Figure:
    """A metric of all matrices, or the eigenvalues ("esd") of one `layer` with its fit, its bulk and its edge.

    Beside alpha stand the range of fits nearly as good and that of shuffled matrices. Raises InputError for a kind,
    layer, model or metric that is not here.
    """
    if kind not in KINDS:
        raise InputError(f"kind={kind!r} is not a picture of weights; known: {', '.join(KINDS)}")
    if kind == "esd":
        if layer is None:
            raise InputError(
                f"the eigenvalues of which layer? give layer=, one of {', '.join(weights.layers[:6])}, ..."
            )
        return _esd(weights, layer, model)
    return _levels(weights, metric)


def _esd(weights: Weights, layer: str, model: str | None) -> Figure:
    row = weights.row(layer, model)
    values = weights.spectrum(layer, model)
    values = values[values > values.max(initial=0.0) * 1e-12] if values.size else values
    figure = StyledFigure(figsize=(6.4, 4.4), layout="constrained")
    ax = figure.add_subplot()
    v = {name: float(array[row]) for name, array in weights.values.items()}
    if not values.size:
        ax.text(0.5, 0.5, "no eigenvalues above 0", transform=ax.transAxes, ha="center")
        return finish(figure, [ax], [f"{layer}: {weights.sentence(layer, model)}"])
    above = np.arange(values.size, 0, -1) / values.size
    ax.step(values, above, where="post", color=BLUE, label="eigenvalues")
    if np.isfinite(v["alpha"]) and v["alpha"] > 1:
        x = np.geomspace(v["xmin"], values[-1], 50)
        share = v["num_pl_spikes"] / values.size
        ax.plot(
            x,
            share * (x / v["xmin"]) ** (1 - v["alpha"]),
            color=RED,
            linestyle="--",
            label=f"power law, alpha {v['alpha']:.3g}",
        )
        ax.axvline(v["xmin"], color=RED, linestyle=":", linewidth=1, label="xmin")
    if np.isfinite(v.get("bulk_max", np.nan)) and v["bulk_max"] > 0:
        ax.axvline(v["bulk_max"], color=GREEN, linestyle="-.", linewidth=1.2, label="edge of the noise")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel(r"eigenvalue $\lambda$ of $W^T W$")
    ax.set_ylabel(r"share of eigenvalues $\geq\lambda$")
    ax.set_title(layer)
    return finish(figure, [ax], [weights.sentence(layer, model)])


def _levels(weights: Weights, metric: str) -> Figure:
    weights.require(metric)
    last = weights.of(weights.models[-1])
    names, count = last.layers, len(last.layers)
    y = np.arange(count)
    figure = StyledFigure(figsize=(7.2, 1.8 + _ROW * max(count, 4)), layout="constrained")
    ax = figure.add_subplot()
    missing = dict(MISSING)
    for row in y[~last.computed]:
        ax.axhspan(row - 0.5, row + 0.5, zorder=0, **missing)
        missing["label"] = "_"
    if metric == "alpha" and "alpha_null_low" in last.values:
        _span(
            last,
            "alpha_null",
            y,
            ax,
            {"color": ORANGE, "alpha": 0.35, "linewidth": 7, "label": "5 to 95 % of shuffles"},
        )
        _span(last, "alpha", y, ax, {"color": BLUE, "linewidth": 1.6, "label": "fits nearly as good"})
    for k, label in enumerate(weights.models[-_MODELS:]):
        one = weights.of(label)
        places = {name: i for i, name in enumerate(names)}
        known = [i for i, name in enumerate(one.layers) if name in places and np.isfinite(one.values[metric][i])]
        at = [places[one.layers[i]] for i in known]
        look = {"color": BLUE, "marker": "o"} if len(weights.models) == 1 else line_look(k)
        text = EVERY[metric].words if len(weights.models) == 1 else label
        ax.plot(one.values[metric][known], at, linestyle="none", markersize=5, label=text, **look)
    bad = last.computed & ~np.isfinite(last.values[metric])
    if bad.any():
        place = np.full(int(bad.sum()), 0.02)
        ax.plot(place, y[bad], "x", color=RED, transform=ax.get_yaxis_transform(), label="no value")
    ax.set_yticks(y, short(names), fontsize="small")
    ax.set_ylim(count - 0.4, -0.6)
    ax.grid(axis="x", color="0.9")
    finite = last.values[metric][np.isfinite(last.values[metric])]
    ax.set_xlabel(f"{EVERY[metric].label}: {EVERY[metric].long_name}", fontsize="small", color=GREY)
    notes = counted([(last.values[metric], last.computed)], "matrices")
    mean = weights.over_models(metric)[weights.models[-1]]
    if finite.size:
        notes = [f"mean {float(mean):.4g} over {mean.n} matrices", *notes]
    if len(weights.models) > 1:
        shown = f"the last {_MODELS} of {len(weights.models)} models; " if len(weights.models) > _MODELS else ""
        notes = [f"{shown}mean and bars of the last model", *notes]
    return finish(figure, [ax], notes)


def _span(weights: Weights, name: str, y: Any, ax: Axes, look: dict[str, Any]) -> None:
    low, high = (weights.values[f"{name}_{end}"] for end in ("low", "high"))
    known = np.isfinite(low) & np.isfinite(high)
    if known.any():
        ax.hlines(y[known], low[known], high[known], **look)


def _asked(weights: Weights, asked: Asked) -> Iterator[tuple[str, Figure]]:
    asked.without("--levels")
    if asked.kind not in (None, *KINDS):
        raise InputError(f"kind {asked.kind!r} is not a picture of weights; known: {', '.join(KINDS)}")
    if asked.kind in (None, "alpha"):
        yield asked.quantity or "alpha", plot_weights(weights, metric=asked.quantity or "alpha")
    if asked.kind == "esd":
        layers = weights.of(weights.models[-1]).layers[:_DRAWN] if asked.quantity is None else (asked.quantity,)
        for layer in dict.fromkeys(layers):
            yield f"esd_{layer.replace('/', '_')}", plot_weights(weights, "esd", layer=layer)


PICTURES = Pictures(plot_weights, _asked, plot_weights)
