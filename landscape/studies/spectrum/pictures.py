"""Pictures of spectra."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from landscape_kernels.arrays import FloatArray
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from landscape.arguments import checked
from landscape.errors import InputError, nearest
from landscape.pictures.bars import bar_figure, bars, short
from landscape.pictures.style import BLUE, ERROR, GREEN, ORANGE, StyledFigure, finish, styled
from landscape.results.kind import Asked, Pictures
from landscape.studies.spectrum.result import Density, Eigenpairs, Spectrum, Trace

KINDS = ("spectrum", "density", "layers", "vectors")
ERROR_ASKED = "±2 errors, for all data"  # of eigenvalues to a stated error
_BULK = 0.99  # share of the density that counts as the bulk
_SPAN = 1e-9  # of the highest value to the lowest on a log scale, where no width tells what is low
_IMAGES = 3  # tensors drawn for each eigenvector
_TILES = 16  # filters drawn along each side of a tensor's image


@styled
@checked()
def plot_spectrum(spectrum: Spectrum, kind: str = "spectrum", *, count: int = 3) -> Figure:
    """A picture of a spectrum; eigenvalues are per unit of (parameter)^2 of a loss, so without a unit.

    Kinds: "spectrum", the eigenvalues of both ends by rank with bars of two standard errors (for the population; of two
    errors where one was asked for) and, where they are known, corrected for the bias of sampling data or measured on an
    independent sample; pairs that did not converge are hollow; beside them the density, where there is one. Its middle
    99 %, without the eigenvalues taken out of it, is the bulk, and outliers lie farther from the bulk than it is wide.
    "density", on a log scale with its band over probes, the eigenvalues taken out of it as ticks, and the height that a
    single eigenvalue has.
    "layers", the trace of each layer. "vectors", how the first `count` eigenvectors share their squared norm among
    parameter tensors, and the entries of the tensors that have most of it.

    Raises InputError for an unknown kind, and for one whose part was not measured, telling what is there.
    """
    if kind not in KINDS:
        raise InputError(f"kind {kind!r} is not a kind of picture; {nearest(kind, KINDS)}")
    if count < 1:
        raise InputError(f"count {count} is too small: draw 1 eigenvector or more")
    lacking = _lacking(spectrum)
    if kind in lacking:
        there = ", ".join(name for name in KINDS if name not in lacking) or "none"
        raise InputError(f"kind {kind!r} cannot be drawn: {lacking[kind]}. Kinds that can: {there}")
    if kind == "spectrum":
        return _plot_ends(spectrum)
    if kind == "density":
        return _plot_density(spectrum)
    return _plot_traces(spectrum) if kind == "layers" else _plot_vectors(spectrum, count)


# -- the kinds --------------------------------------------------------------------------------------------------------


def kinds_of(spectrum: Spectrum) -> tuple[str, ...]:
    """The kinds of pictures that there is something for."""
    lacking = _lacking(spectrum)
    return tuple(kind for kind in KINDS if kind not in lacking)


def _lacking(spectrum: Spectrum) -> dict[str, str]:
    """{kind that cannot be drawn: what is not there}."""
    lacking: dict[str, str] = {}
    if not np.isfinite([*spectrum.largest.values, *spectrum.smallest.values]).any():
        lacking["spectrum"] = "the spectrum holds no eigenvalue"
    if spectrum.density is None:
        lacking["density"] = "no density was measured (density=True does)"
    if spectrum.trace is None:
        lacking["layers"] = "no trace was measured (trace=True does)"
    elif not spectrum.trace.layers:
        lacking["layers"] = f"the trace by method {spectrum.trace.method!r} was not taken apart by layers"
    vectors = spectrum.eigenvectors
    if vectors is None or not np.isfinite(vectors).all(axis=1).any():
        lacking["vectors"] = "the eigenvectors were not kept"
    elif not isinstance(spectrum.attributes.get("tensors"), dict):
        lacking["vectors"] = "the attribute 'tensors' (names and shapes of the parameters) is missing"
    return lacking


def _plot_ends(spectrum: Spectrum) -> Figure:
    ends = [(pairs, text) for pairs, text in _ends(spectrum) if np.isfinite(pairs.values).any()]
    density = spectrum.density
    bulk = _bulk(density) if density is not None else None
    widths = [max(2.0, min(len(pairs.values), 20) / 4) for pairs, _ in ends]
    if density is not None:
        widths.insert(1, 1.5)
    figure = StyledFigure(figsize=(max(6.4, 1.5 + sum(widths)), 4.6), layout="constrained")
    places = figure.add_gridspec(1, len(widths), width_ratios=widths)
    axes: list[Axes] = []
    for column, (pairs, text) in zip([0] if len(ends) == 1 else [0, len(widths) - 1], ends, strict=True):
        ax = figure.add_subplot(places[column])
        axes.append(ax)
        _draw_pairs(ax, pairs, bulk)
        ax.set_xlabel(text)
    axes[0].set_ylabel("eigenvalue")
    if density is not None:
        beside = figure.add_subplot(places[1], sharey=axes[0])
        floor = _floor(density, spectrum.size)
        _draw_density(beside, density, floor, sideways=True)
        beside.set_xlabel("density")
        beside.tick_params(labelleft=False)
        axes.append(beside)
    for ax in axes:
        bottom, top = ax.get_ylim()
        if bulk is not None and bulk[0] < top and bulk[1] > bottom:
            ax.axhspan(*bulk, color="0.9", zorder=0, label=f"bulk: middle {_BULK:.0%} of the density")
        ax.set_ylim(bottom, top)
    k, done = int(np.isfinite(spectrum.eigenvalues).sum()), int(spectrum.converged.sum())
    notes = [f"{done} of {k} largest converged", _spent(spectrum)]
    if bulk is not None:
        notes.append("outliers are farther from the bulk than it is wide")
    return finish(figure, axes, notes)


def _plot_density(spectrum: Spectrum) -> Figure:
    density = spectrum.density
    assert density is not None
    figure = StyledFigure(figsize=(7.0, 4.6), layout="constrained")
    ax = figure.add_subplot()
    floor = _floor(density, spectrum.size)
    _draw_density(ax, density, floor)
    if density.width > 0:
        one = _one_eigenvalue(density, spectrum.size)
        ax.axhline(one, color="0.4", linestyle=":", linewidth=1, label="height of one eigenvalue")
    known, text = density.deflated, "eigenvalues taken out"
    if not len(known):
        known, text = spectrum.eigenvalues, "largest eigenvalues"
    if np.isfinite(known).any():
        heights = np.full(len(known), 0.03)
        look: dict[str, Any] = {"color": ORANGE, "markersize": 11, "markeredgewidth": 1.4}
        ax.plot(known, heights, "|", transform=ax.get_xaxis_transform(), label=text, **look)
    ax.set_xlabel("eigenvalue")
    ax.set_ylabel("density per unit of eigenvalue")
    probes, steps = density.nodes.shape
    way = f"{probes} probes of {steps} nodes" if probes * steps else "exact: all eigenvalues are known"
    notes = [way, f"width {density.width:.3g}", cost(density.products, density.passes)]
    if "density_samples" in spectrum.attributes:
        notes.append(f"of a sample of {spectrum.attributes['density_samples']:,}")
    if floor is None:
        notes.append("linear scale: no value is positive")
    elif (density.values <= 0).any():
        notes.append(f"log scale, 0 at {int((density.values <= 0).sum())} of {len(density.values)} grid points")
    else:
        notes.append("log scale")
    return finish(figure, [ax], notes)


def _plot_traces(spectrum: Spectrum) -> Figure:
    trace = spectrum.trace
    assert trace is not None
    names = tuple(trace.layers)
    figure = bar_figure(len(names), 1)
    ax = figure.add_subplot()
    errors = np.array([trace.layers_stderr.get(name, math.nan) for name in names])
    everywhere = np.ones(len(names), dtype=bool)
    scale = bars(ax, names, np.array([*trace.layers.values()]), errors, everywhere, everywhere)
    ax.set_xlabel(f"trace of the layer's block{scale}")
    return finish(figure, [ax], [trace_words(trace), f"method {trace.method}", cost(trace.products, trace.passes)])


def _plot_vectors(spectrum: Spectrum, count: int) -> Figure:
    vectors = spectrum.eigenvectors
    assert vectors is not None
    shapes = {str(name): tuple(int(n) for n in shape) for name, shape in spectrum.attributes["tensors"].items()}
    sizes = [math.prod(shape) for shape in shapes.values()]
    if sum(sizes) != vectors.shape[1]:
        raise InputError(
            f"the attribute 'tensors' has shapes of {sum(sizes)} entries in all, the eigenvectors have "
            f"{vectors.shape[1]}; give the shapes of the parameters that the matrix was restricted to"
        )
    known = np.flatnonzero(np.isfinite(vectors).all(axis=1))[:count]
    images = min(_IMAGES, len(shapes))
    wide = 2.5 + 0.16 * len(shapes)
    names = short(shapes)
    letters = max(len(name) for name in names)
    figure = StyledFigure(figsize=(wide + 2.1 * images, 1.9 * len(known) + 0.6 + 0.08 * letters), layout="constrained")
    places = figure.add_gridspec(len(known), 1 + images, width_ratios=[wide, *[2.1] * images])
    for row, i in enumerate(known):
        parts = dict(zip(shapes, np.split(vectors[i], np.cumsum(sizes)[:-1]), strict=True))
        shares = np.array([float(part @ part) for part in parts.values()])
        ax = figure.add_subplot(places[row, 0])
        ax.bar(np.arange(len(shapes)), shares, color=BLUE)
        ax.set_xlim(-0.6, len(shapes) - 0.4)
        ax.set_ylim(0, 1.08 * float(shares.max()))
        ax.set_xticks(np.arange(len(shapes)), names, rotation=90, fontsize="x-small")
        ax.tick_params(labelbottom=row == len(known) - 1)
        ax.yaxis.set_major_locator(MaxNLocator(4))
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:.0%}" if shares.max() > 0.02 else "{x:.1%}"))
        ax.set_ylabel("share of norm²", fontsize="small")
        solid = "" if spectrum.converged[i] else ", not converged"
        ax.set_title(f"eigenvector {i + 1}: λ = {spectrum.eigenvalues[i]:.4g}{solid}", fontsize="medium", loc="left")
        tensors = [parts[name].reshape(shape) for name, shape in shapes.items()]
        for column, largest in enumerate(np.argsort(-shares, kind="stable")[:images]):
            _draw_tensor(figure.add_subplot(places[row, column + 1]), names[largest], tensors[largest])
    note = "images: entries of the tensors with the largest shares, red above 0, blue below, white 0"
    return finish(figure, [], [note])


# -- parts of a picture -----------------------------------------------------------------------------------------------


def _ends(spectrum: Spectrum) -> list[tuple[Eigenpairs, str]]:
    return [(spectrum.largest, "rank from the largest"), (spectrum.smallest, "rank from the smallest")]


def _draw_pairs(ax: Axes, pairs: Eigenpairs, bulk: tuple[float, float] | None) -> None:
    """Markers with bars; beside each, to its right, what is known of the value for the population."""
    rank = np.arange(1, len(pairs.values) + 1)
    values = pairs.values
    beyond = np.zeros(len(values), dtype=bool)
    if bulk is not None:
        beyond = np.maximum(bulk[0] - values, values - bulk[1]) > bulk[1] - bulk[0]
    known = np.isfinite(pairs.known_to) & np.isfinite(values)
    if known.any():
        error, label = 2 * pairs.known_to[known], ERROR_ASKED if pairs.sampled else ERROR
        ax.errorbar(rank[known], values[known], error, fmt="none", ecolor="0.45", elinewidth=1, capsize=2, label=label)
    for where, colour, text in ((beyond, ORANGE, "outlier"), (~beyond, BLUE, "eigenvalue")):
        for solid in (True, False):
            chosen = where & (pairs.converged == solid) & np.isfinite(values)
            if chosen.any():
                label = text if solid else f"{text}, not converged"
                face = colour if solid else "white"
                look: dict[str, Any] = {"markersize": 5.5, "markeredgecolor": colour, "markerfacecolor": face}
                ax.plot(rank[chosen], values[chosen], "o", label=label, zorder=3, **look)
    if pairs.independent is not None:
        error = 2 * (pairs.independent_stderr if pairs.independent_stderr is not None else np.full(len(rank), np.nan))
        ax.errorbar(
            rank + 0.3, pairs.independent, error, fmt="D", color=GREEN, markersize=4, elinewidth=1, capsize=2,
            label="on an independent sample",
        )  # fmt: skip
    elif np.isfinite(pairs.bias).any():
        ax.plot(rank + 0.3, values - pairs.bias, "_", color=GREEN, markeredgewidth=2, label="corrected for bias")
    ax.axhline(0.0, color="0.4", linestyle=":", linewidth=1)
    ax.set_xlim(0.4, len(rank) + 0.8)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _draw_density(ax: Axes, density: Density, floor: float | None, *, sideways: bool = False) -> None:
    """The curve with its band; on a log scale, with border `floor`, zeros leave the picture through it."""
    least = 0.0 if floor is None else floor / 1e3

    def shown(values: FloatArray) -> FloatArray:
        return values if floor is None else np.where(np.isnan(values), np.nan, np.maximum(values, least))

    lower, values, upper = (shown(curve) for curve in (density.lower, density.values, density.upper))
    fill = ax.fill_betweenx if sideways else ax.fill_between
    if np.isfinite(upper).any():
        fill(density.grid, lower, upper, color=BLUE, alpha=0.25, linewidth=0, label=f"{ERROR} over probes")
    curve = (values, density.grid) if sideways else (density.grid, values)
    ax.plot(*curve, color=BLUE, linewidth=1.2, label="density")
    if floor is not None:
        (ax.set_xscale if sideways else ax.set_yscale)("log")
        known = np.concatenate([values, upper])
        known = known[np.isfinite(known)]
        if known.size:
            (ax.set_xlim if sideways else ax.set_ylim)(floor, 3 * float(known.max()))
    if not sideways:
        ax.set_xlim(density.grid[0], density.grid[-1])


def _one_eigenvalue(density: Density, size: int) -> float:
    """Height of the Gaussian of one eigenvalue."""
    return 1 / (size * density.width * math.sqrt(2 * math.pi))


def _floor(density: Density, size: int) -> float | None:
    """Lower border of a log scale: a tenth of one eigenvalue's height, where known; None if no value is positive."""
    positive = density.values[density.values > 0]
    if not positive.size:
        return None
    least, most = float(positive.min()), float(positive.max())
    lowest = _one_eigenvalue(density, size) / 10 if density.width > 0 else most * _SPAN
    return min(max(lowest, least / 2), most / 10)


def _bulk(density: Density) -> tuple[float, float] | None:
    """Where the middle of the density lies, without the eigenvalues taken out; None where no probe was computed."""
    known = np.isfinite(density.nodes) & np.isfinite(density.weights)
    nodes, weights = density.nodes[known], density.weights[known]
    if not weights.sum() > 0:
        return None
    order = np.argsort(nodes)
    below = np.cumsum(weights[order]) / weights.sum()
    low, high = (int(np.searchsorted(below, share)) for share in ((1 - _BULK) / 2, (1 + _BULK) / 2))
    return float(nodes[order][low]), float(nodes[order][min(high, len(nodes) - 1)])


def _draw_tensor(ax: Axes, name: str, entries: FloatArray) -> None:
    image, cut = _tiles(entries)
    largest = float(np.abs(entries).max())
    extent = f"within ±{largest:.2g}" if largest else "all 0"
    colours = colormaps["RdBu_r"].with_extremes(bad="0.85")
    square = 0.25 <= image.shape[0] / image.shape[1] <= 4
    ax.imshow(
        image,
        cmap=colours,
        vmin=-(largest or 1.0),
        vmax=largest or 1.0,
        interpolation="nearest",
        aspect="equal" if square else "auto",
    )
    ax.set_xticks([])
    ax.set_yticks([])
    shape = "×".join(str(n) for n in entries.shape) or "scalar"
    ax.set_title(f"{name}\n{shape}{cut}, {extent}", fontsize="x-small")


def _tiles(entries: FloatArray) -> tuple[FloatArray, str]:
    """A tensor as an image, and a word on what it leaves out: a matrix as it is, filters as tiles with NaN between.

    Tiles have output channels down and input channels across; of few input channels several columns stand abreast.
    """
    if entries.ndim < 3 or math.prod(entries.shape[2:]) == 1:
        return entries.reshape(entries.shape[0], -1) if entries.ndim > 1 else entries.reshape(1, -1), ""
    filters = entries.reshape(*entries.shape[:2], -1, entries.shape[-1])[:_TILES, :_TILES]
    outputs, inputs, height, width = filters.shape
    abreast = max(1, round(math.sqrt(outputs / inputs)))
    down = -(-outputs // abreast)
    padded = np.full((abreast * down, inputs, height + 1, width + 1), np.nan)
    padded[:outputs, :, :height, :width] = filters
    blocks = padded.reshape(abreast, down, inputs, height + 1, width + 1).transpose(1, 3, 0, 2, 4)
    image = blocks.reshape(down * (height + 1), abreast * inputs * (width + 1))[:-1, :-1]
    return image, f" (first {outputs}×{inputs})" if (outputs, inputs) != entries.shape[:2] else ""


def trace_words(trace: Trace) -> str:
    """The trace of all layers in words."""
    return f"trace of all layers {trace.value:.4g}, standard error {trace.stderr:.2g}"


def _spent(spectrum: Spectrum) -> str:
    if spectrum.largest.sampled:
        return f"{spectrum.attributes['work']['sample_products']:,} products with one sample"
    return cost(spectrum.products, spectrum.passes)


def cost(products: int, passes: int) -> str:
    """What was spent, in words."""
    return f"{products} products in {passes} pass{'es' * (passes != 1)}"


def _asked(spectrum: Spectrum, asked: Asked) -> Iterator[tuple[str, Figure]]:
    asked.without("-q", "--levels")
    kinds = (asked.kind,) if asked.kind is not None else kinds_of(spectrum)
    if not kinds:
        raise InputError("nothing of this spectrum is computed yet, so there is nothing to draw")
    yield from ((name, plot_spectrum(spectrum, name)) for name in kinds)


def _card(spectrum: Spectrum) -> Figure:
    return plot_spectrum(spectrum, next(iter(kinds_of(spectrum)), "spectrum"))


PICTURES = Pictures(plot_spectrum, _asked, _card)
