"""Pictures of a report of all results but surfaces: spectra, layers, paths, curves, and tables of pairs of models."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas
from landscape_kernels.arrays import BoolArray, FloatArray

from landscape.agreement import Agreement
from landscape.connections import NUMBERS, Connectivity
from landscape.curves import Curve
from landscape.paths import Path, above_ends
from landscape.pictures.marks import coordinate_words
from landscape.pictures.numbers import IntArray, extremes, gap, numbers, range_text, spread, value_text
from landscape.pictures.style import ERROR
from landscape.pictures.views import (
    Picture,
    View,
    band,
    band_and_line,
    bars,
    frame_columns,
    hover,
    known_text,
    largest,
    lines,
    marks,
    matrix_view,
    not_finite_text,
    once,
    said,
    surface_pictures,
    thinned_note,
    unmeasured,
)
from landscape.profiles import SHARES, Profiles
from landscape.results import Surface
from landscape.spectra import Density, Eigenpairs, LayerSpectra, Spectrum, Trace
from landscape.topology import Topology
from landscape_jobs.report_topology import topology_pictures

_DIRECTIONS = 100  # directions drawn; medians are of all

_PAIRS = 40  # pairs whose paths are drawn

_SPAN = 1e-9  # of the highest density to the lowest on a log axis


_ALONG = (
    "the bands are errors of each value by itself; values along one path share their samples, so that differences "
    "between them are known better than the bands tell"
)


def pictures_of(result: Any, most: int) -> Iterator[Picture]:
    """What a report draws of a result, of at most about `most` points each; nothing where nothing is known."""
    for kind, draw in _PICTURES.items():
        if isinstance(result, kind):
            yield from draw(result, most)


# -- spectra ---------------------------------------------------------------------------------------------------------


def _spectrum(spectrum: Spectrum, most: int) -> Iterator[Picture]:
    ends = [("largest", spectrum.largest, "@blue", "circle"), ("smallest", spectrum.smallest, "@orange", "diamond")]
    known = [end for end in ends if np.isfinite(end[1].values).any()]
    if known:
        yield _eigenvalues(spectrum, known)
    if spectrum.density is not None and np.isfinite(spectrum.density.values).any():
        yield _density(spectrum, spectrum.density, most)
    if spectrum.trace is not None and spectrum.trace.layers:
        yield _trace_of_layers(spectrum.trace)


def _eigenvalues(spectrum: Spectrum, ends: Sequence[tuple[str, Eigenpairs, str, str]]) -> Picture:
    traces: list[View] = []
    for name, pairs, colour, symbol in ends:
        rank, span = np.arange(1, len(pairs.values) + 1), spread(pairs.values)
        texts = [
            f"{name} {i + 1}: {known_text(v, e, span=span)}"
            f"<br>relative residual {r:.2g}, {'' if c else 'not '}converged"
            for i, (v, e, r, c) in enumerate(
                zip(pairs.values, pairs.stderr, pairs.residuals, pairs.converged, strict=True)
            )
        ]
        symbols = [symbol if c else f"{symbol}-open" for c in pairs.converged]
        look = {"color": colour, "size": 9, "symbol": symbols, "line": {"width": 1.6, "color": colour}}
        shared: View = {"type": "scatter", "mode": "markers", "x": rank.tolist(), "text": texts, "hoverinfo": "text"}
        bars = {"type": "data", "array": numbers(2 * pairs.stderr), "color": "@quiet", "thickness": 1.2, "width": 4}
        heights = numbers(pairs.values, pairs.stderr)
        traces.append({**shared, "y": heights, "error_y": bars, "marker": look, "name": name})
        traces.append({**shared, "y": numbers(pairs.residuals), "marker": look, "yaxis": "y2", "showlegend": False})
    every = np.concatenate([pairs.values[np.isfinite(pairs.values)] for _, pairs, _, _ in ends])
    view = lines(traces, "rank from the end of the spectrum", "eigenvalue", every)
    view["layout"]["xaxis"] |= {"anchor": "y2", "tickformat": "d", "dtick": 1 if len(every) <= 20 else None}
    view["layout"]["yaxis"] |= {"domain": [0.36, 1.0]}
    residuals = {"text": "relative residual"}
    view["layout"]["yaxis2"] = {"title": residuals, "type": "log", "domain": [0.0, 0.26], "exponentformat": "power"}
    view["logFirst"] = False
    largest = spectrum.largest
    alt = f"Eigenvalues by rank with their relative residuals; {int(spectrum.converged.sum())} of "
    alt += f"{len(largest.values)} largest pairs converged"
    if len(largest.values) and np.isfinite(largest.values[0]):
        alt += f"; the largest is {known_text(largest.values[0], largest.stderr[0])}"
        alt += f" with relative residual {largest.residuals[0]:.2g}"
    notes = (f"bars: {ERROR}; hollow: not converged",)
    return Picture("eigenvalues", f"{alt}.", {"eigenvalues": view}, notes, frame_columns(spectrum))


def _density(spectrum: Spectrum, density: Density, most: int) -> Picture:
    kept = extremes([density.values, density.lower, density.upper], max(200, most // 10))
    step = gap(density.grid) / 10
    x, values = density.grid[kept], density.values[kept]
    top = float(np.nanmax(density.values))
    floor = top * _SPAN if density.width <= 0 else 0.1 / (spectrum.size * density.width * math.sqrt(2 * math.pi))
    drawn = np.maximum(values, 0.0)
    lower, upper = density.lower[kept], density.upper[kept]
    traces = [
        band(x, lower, upper, np.isfinite(upper), "@blue", f"{ERROR} (probes)"),
        {
            "type": "scatter",
            "mode": "lines",
            "x": numbers(x),
            "y": numbers(drawn),
            "ylog": numbers(np.maximum(drawn, floor / 1e3)),
            "text": [
                f"eigenvalue {value_text(a, 5, step)}<br>density {value_text(v, 4, (hi - lo) / 100)} "
                f"({value_text(lo, 3, (hi - lo) / 100)} to {value_text(hi, 3, (hi - lo) / 100)})"
                for a, v, lo, hi in zip(*(part.tolist() for part in (x, values, lower, upper)), strict=True)
            ],
            "hoverinfo": "text",
            "name": "density",
            "line": {"color": "@blue", "width": 1.8},
        },
    ]
    known, name = density.deflated, "eigenvalues taken out"
    if not len(known):
        known, name = spectrum.eigenvalues[np.isfinite(spectrum.eigenvalues)], "largest eigenvalues"
    if len(known):
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": numbers(known),
                "y": [0.03] * len(known),
                "yaxis": "y9",
                "text": [f"eigenvalue {value_text(v, 5, gap(known) / 10)}" for v in known.tolist()],
                "hoverinfo": "text",
                "name": name,
                "marker": {"symbol": "line-ns-open", "size": 14, "color": "@red", "line": {"width": 2}},
            }
        )
    view = lines(traces, "eigenvalue", "density per unit of eigenvalue", values)
    view["log"] = view["logFirst"] = top > 0
    if top > 0:
        view["logRange"] = [math.log10(min(floor, top / 10)), math.log10(3 * top)]
    probes, steps = density.nodes.shape
    peak = density.grid[int(np.nanargmax(density.values))]
    alt = (
        f"Spectral density from {range_text(density.grid)} by {probes} probes of up to {steps} "
        f"nodes, broadened by {density.width:.3g}; it is highest at {value_text(float(peak), 4, step)}."
    )
    notes = ["on the log axis the picture ends at a tenth of the height of one eigenvalue"] if density.width > 0 else []
    if len(kept) < len(density.grid):
        notes.append(thinned_note(len(kept), len(density.grid), "places"))
    columns = {"eigenvalue": density.grid, "density": density.values, "lower": density.lower, "upper": density.upper}
    return Picture("density", alt, {"density": view}, tuple(notes), columns)


def _trace_of_layers(trace: Trace) -> Picture:
    names = tuple(trace.layers)
    errors = np.array([trace.layers_stderr.get(name, math.nan) for name in names])
    values = np.array([*trace.layers.values()])
    view, note = bars(names, values, errors, np.ones(len(names), dtype=bool), "trace of each layer")
    alt = f"Trace of each of {len(names)} layers; the whole trace is {known_text(trace.value, trace.stderr)}, "
    alt += f"most of it in {largest(names, values)}."
    columns = {"layer": names, "trace": values, "trace_stderr": errors}
    return Picture("trace by layer", alt, {"trace": view}, note, columns)


def _layers(layers: LayerSpectra, most: int) -> Iterator[Picture]:
    panels: list[tuple[str, FloatArray, FloatArray, BoolArray]] = []
    if layers.eigenvalues.shape[1]:
        panels.append(("largest eigenvalue", layers.eigenvalues[:, 0], layers.stderr[:, 0], layers.converged[:, 0]))
    panels.append(("trace", layers.trace, layers.trace_stderr, np.ones(len(layers.layers), dtype=bool)))
    views: dict[str, View] = {}
    alts: list[str] = []
    notes: tuple[str, ...] = ()
    for name, values, errors, solid in panels:
        shown = np.where(layers.computed, values, np.nan)
        if np.isfinite(shown).any():
            views[name], notes = bars(layers.layers, shown, errors, solid, f"{name} of each layer")
            alts.append(f"{name} is highest in {largest(layers.layers, shown)}")
    missing = int((~layers.computed).sum())
    if missing:
        alts.append(f"{missing} of {len(layers.layers)} layers are not computed")
        notes = (*notes, f"{missing} of {len(layers.layers)} layers are not computed")
    if views:
        alt = f"Bars of {len(layers.layers)} layers: {'; '.join(alts)}."
        yield Picture("layers", alt, views, notes, frame_columns(layers))


# -- profiles --------------------------------------------------------------------------------------------------------


def _profiles(profiles: Profiles, most: int) -> Iterator[Picture]:
    """Every direction as a thin line, their median, and the band that holds the middle of them."""
    n, nx = profiles.computed.shape
    low, _, high = SHARES
    drawn = min(n, _DIRECTIONS)
    few = max(50, most // drawn)
    counts: list[int] = []
    views: dict[str, View] = {}
    alts: list[str] = []
    for name, values in profiles.values.items():
        known = profiles.computed & np.isfinite(values)
        if not known.any():
            continue
        below, median, above = (profiles.quantile(name, share) for share in SHARES)
        centre, end = (known_text(median[k], digits=4, span=spread(median)) for k in (np.abs(profiles.x).argmin(), -1))
        alts.append(f"the median of {name} is {centre} in the middle and {end} at the end")
        alts[-1] += not_finite_text(profiles.computed, values)
        kept = extremes([below, median, above], max(200, most // 10))
        x, below, median, above = (part[kept] for part in (profiles.x, below, median, above))
        there = np.isfinite(below) & np.isfinite(above)
        traces = [band(x, below, above, there, "@blue", f"{low:.0%} to {high:.0%} of the directions")]
        for k in range(drawn):
            places = extremes([np.where(known[k], values[k], np.nan)], few)
            counts.append(len(places))
            at, line = profiles.x[places], values[k][places]
            texts = hover("x", at, name, line, profiles.stderr[name][k][places])
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "x": numbers(at),
                    "y": numbers(np.where(known[k][places], line, np.nan)),
                    "text": [f"direction {k}, {text}" for text in texts],
                    "hoverinfo": "text",
                    "name": "one direction",
                    "line": {"color": "@quiet", "width": 0.8},
                }
            )
        nothing: FloatArray = np.full(len(x), np.nan)
        traces += band_and_line(x, median, nothing, np.isfinite(median), name, "x", label=f"median of {name}")
        label = f"x ({coordinate_words(profiles.attributes)})"
        views[name] = lines(once(traces), label, said(name, profiles.attributes), values[known])
    if views:
        missing = int((~profiles.computed).sum())
        alts += [f"{missing:,} of {profiles.computed.size:,} points not computed"] if missing else []
        alt = f"Values along {n} directions from {range_text(profiles.x)}: {'; '.join(alts)}."
        notes = [f"the first {drawn} of {n:,} directions are drawn; median and band are of all"] if drawn < n else []
        if min(counts) < nx:
            notes.append(thinned_note(max(counts), nx, "points of a direction at most"))
        yield Picture("profiles", alt, views, tuple(notes), frame_columns(profiles))


# -- paths and curves ------------------------------------------------------------------------------------------------


def _path(path: Path, most: int) -> Iterator[Picture]:
    if not path.computed.any():
        return
    views = _path_views([(path, "", "@blue")], most)
    yield Picture("along the path", _path_alt(path), views, _path_notes(path, most), frame_columns(path))


def _path_views(paths: Sequence[tuple[Path, str, str]], most: int) -> dict[str, View]:
    """{quantity: lines over t}, the test data beside the training data, and between the ends a dotted line."""
    views: dict[str, View] = {}
    for quantity in (name for name in paths[0][0].values if not name.startswith("test_")):
        traces: list[View] = []
        drawn: list[FloatArray] = []
        for path, label, colour in paths:
            kept = _places(path, most)
            for name, dash in ((quantity, "solid"), (f"test_{quantity}", "dash")):
                if name not in path.values:
                    continue
                values = path.values[name][kept]
                known = (path.computed & np.isfinite(path.values[name]))[kept]
                text = ", ".join(part for part in (label, quantity, "test data" if dash == "dash" else "") if part)
                found = band_and_line(
                    path.t[kept], values, path.stderr[name][kept], known, name, "t", colour=colour, label=text
                )
                found[-1]["line"]["dash"] = dash
                if dash == "dash":
                    found[-1]["marker"]["symbol"] = "circle-open"
                traces += found + marks(path.t, path.values[name], path.computed, "t", most)
                drawn.append(values[known])
            if quantity == "loss" and math.isfinite(path.barrier):
                known = path.computed & np.isfinite(path.values["loss"])
                losses = path.values["loss"][known]
                line = losses - above_ends(path.t[known], losses)
                look = {"dash": "dot", "width": 1.2, "color": colour}
                ends: View = {"type": "scatter", "mode": "lines", "x": numbers(path.t[known][[0, -1]]), "line": look}
                traces.append({**ends, "y": numbers(line[[0, -1]]), "hoverinfo": "skip", "name": "between the ends"})
        label = said(quantity, paths[0][0].attributes)
        view = lines(once(traces), "t, from one model to the other", label, np.concatenate(drawn))
        views[quantity] = view
    return views


def _path_alt(path: Path) -> str:
    first, last = (known_text(path.values["loss"][k], path.stderr["loss"][k], 4) for k in (0, -1))
    alt = f"Values at {len(path.t)} places from one model to the other; the loss is {first} at one end and {last} at "
    alt += f"the other, its barrier {known_text(path.barrier, digits=4)}"
    alt += not_finite_text(path.computed, path.values["loss"])
    missing = int((~path.computed).sum())
    return alt + (f"; {missing} of {len(path.t)} places not computed." if missing else ".")


def _path_notes(path: Path, most: int) -> tuple[str, ...]:
    kept = len(_places(path, most))
    thin = (thinned_note(kept, len(path.t), "places"),) if kept < len(path.t) else ()
    return (*thin, *_of_bands([path]))


def _places(path: Path, most: int) -> IntArray:
    """Which places of a path are drawn."""
    return extremes([np.where(path.computed, v, np.nan) for v in (*path.values.values(), *path.stderr.values())], most)


def _of_bands(paths: Sequence[Path]) -> tuple[str, ...]:
    return (_ALONG,) if any(np.isfinite(errors).any() for path in paths for errors in path.stderr.values()) else ()


def _curve(curve: Curve, most: int) -> Iterator[Picture]:
    if not curve.history:
        return
    views: dict[str, View] = {}
    notes = ["means over an epoch, each batch at its own place of the curve, in train mode"]
    for name, values in curve.history.items():
        kept = extremes([values], most)
        if len(kept) < len(values):
            notes.append(thinned_note(len(kept), len(values), f"epochs of {name}"))
        known = np.isfinite(values[kept])
        nothing: FloatArray = np.full(len(kept), np.nan)
        traces = band_and_line(np.asarray(kept + 1, dtype=np.float64), values[kept], nothing, known, name, "epoch")
        label = "step size" if name == "lr" else name
        quantity = label if name == "lr" else said(name, curve.attributes)
        views[label] = lines(traces, "epoch", quantity, values[kept][known])
    ends = "; ".join(f"{name} from {v[0]:.4g} to {v[-1]:.4g}" for name, v in curve.history.items())
    epochs = np.arange(1, max(map(len, curve.history.values())) + 1)
    alt = f"Training of the curve over its epochs: {ends}."
    yield Picture("training of the curve", alt, views, tuple(notes), {"epoch": epochs, **curve.history})


# -- pairs of models -------------------------------------------------------------------------------------------------


def _connectivity(table: Connectivity, most: int) -> Iterator[Picture]:
    found = table.numbers
    views: dict[str, View] = {}
    for name in (name for name in NUMBERS if name in found):
        if np.isfinite(found[name]).any():
            nothing = np.full(len(table.pairs), np.nan)
            what = NUMBERS[name]
            if name.endswith("_mc"):
                i, j = table.pairs[int(np.flatnonzero(table.computed)[0])].tolist()
                what = f"{what}, of the {table.line_path(i, j).mc_quantity}"
            views[name.replace("_", " ")] = matrix_view(table.labels, table.pairs, found[name], nothing, what)
    if not views:
        return
    measured = f"{int(table.computed.sum())} of {len(table.pairs)} pairs"
    alt = f"Matrix of {len(table.labels)} models, {measured} measured"
    for name, where in (("line_barrier", "straight line"), ("curve_barrier", "fitted curve")):
        if name in found and np.isfinite(found[name]).any():
            low, high = (float(find(found[name])) for find in (np.nanmin, np.nanmax))
            low_text, high_text = (known_text(v, digits=4, span=high - low) for v in (low, high))
            between = low_text if low == high else f"between {low_text} and {high_text}"
            alt += f"; the loss barrier on the {where} is {between}"
    missing = unmeasured(table.labels, table.pairs[table.computed])
    yield Picture("pairs of models", f"{alt}.", views, missing, frame_columns(table))
    pairs = [(i, j) for (i, j), done in zip(table.pairs.tolist(), table.computed, strict=True) if done]
    paths: dict[str, View] = {}
    for i, j in pairs[:_PAIRS]:
        sides = [(table.line_path(i, j), "line", "@blue")]
        sides += [(table.curve_path(i, j), "curve", "@green")] if table.curve else []
        for quantity, view in _path_views(sides, most).items():
            paths[f"{table.labels[i]} to {table.labels[j]}: {quantity}"] = view
    notes = (f"the first {_PAIRS} of {len(pairs)} pairs",) if len(pairs) > _PAIRS else ()
    drawn = max(len(_places(table.line_path(i, j), most)) for i, j in pairs[:_PAIRS])
    if drawn < len(table.t):
        notes = (*notes, thinned_note(drawn, len(table.t), "places of a pair at most"))
    notes = (*notes, *_of_bands([table.line_path(i, j) for i, j in pairs[:_PAIRS]]))
    i, j = pairs[0]
    first = int(np.flatnonzero(table.computed)[0])
    alt = f"Values along the straight line{' and the fitted curve' if table.curve else ''} between two models; from "
    alt += f"{table.labels[i]} to {table.labels[j]} the barrier on the line is {found['line_barrier'][first]:.4g}"
    alt += f" and on the curve {found['curve_barrier'][first]:.4g}." if table.curve else "."
    yield Picture("along lines and curves", alt, paths, notes, _along(table, pairs[:_PAIRS]))


def _along(table: Connectivity, pairs: Sequence[Sequence[int]]) -> dict[str, Any]:
    """A row for each place of each pair's line and curve."""
    frames = []
    for i, j in pairs:
        sides = {"line": table.line_path(i, j), **({"curve": table.curve_path(i, j)} if table.curve else {})}
        for kind, path in sides.items():
            frame = path.to_pandas()
            for place, column in enumerate((("first", table.labels[i]), ("second", table.labels[j]), ("along", kind))):
                frame.insert(place, *column)
            frames.append(frame)
    whole = pandas.concat(frames, ignore_index=True)
    return {str(name): whole[name].to_numpy() for name in whole}


def _agreement(agreement: Agreement, most: int) -> Iterator[Picture]:
    views: dict[str, View] = {}
    alts: list[str] = []
    for name, values in agreement.values.items():
        if np.isfinite(values).any():
            errors = agreement.stderr.get(name, np.full(len(values), np.nan))
            views[name] = matrix_view(agreement.labels, agreement.pairs, values, errors, name)
            alts.append(f"{name} from {range_text(np.sort(values[np.isfinite(values)]))}")
    if views:
        alt = f"Matrix of {len(agreement.labels)} models, {len(agreement.pairs)} pairs: {'; '.join(alts)}."
        known = np.any([np.isfinite(values) for values in agreement.values.values()], axis=0)
        missing = unmeasured(agreement.labels, agreement.pairs[known])
        yield Picture("agreement of models", alt, views, missing, frame_columns(agreement))


_PICTURES: Mapping[type, Callable[[Any, int], Iterator[Picture]]] = {
    Surface: surface_pictures,
    Spectrum: _spectrum,
    LayerSpectra: _layers,
    Profiles: _profiles,
    Path: _path,
    Curve: _curve,
    Connectivity: _connectivity,
    Agreement: _agreement,
    Topology: topology_pictures,
}
