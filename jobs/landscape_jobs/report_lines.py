"""Pictures of a report of all results but surfaces: spectra, layers, paths, curves, and tables of pairs of models."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from landscape.agreement import Agreement
from landscape.connections import NUMBERS, Connectivity
from landscape.curves import Curve
from landscape.paths import Path, above_ends
from landscape.profiles import SHARES, Profiles
from landscape.results import BoolArray, FloatArray, Surface
from landscape.spectra import Density, Eigenpairs, LayerSpectra, Spectrum, Trace
from landscape_jobs.report_pictures import (
    ERROR,
    Picture,
    View,
    band,
    band_and_line,
    escaped,
    hover,
    known_text,
    lines,
    log_scale,
    marks,
    matrix,
    numbers,
    surface_pictures,
    thinned,
)

_BARS = 60  # layers drawn; the table has them all
_DIRECTIONS = 100  # directions drawn; medians are of all
_PAIRS = 40  # pairs whose paths are drawn
_SPAN = 1e-9  # of the highest density to the lowest on a log axis
_NAMED = 100  # models up to which each cell of a matrix tells its two
_NUMBERED = "models %{y} and %{x}<br>%{z:.5g}<extra></extra>"
_NAME = 26  # letters of a name beside a bar or a cell


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
        rank = np.arange(1, len(pairs.values) + 1)
        texts = [
            f"{name} {i + 1}: {known_text(v, e)}<br>relative residual {r:.2g}, {'' if c else 'not '}converged"
            for i, (v, e, r, c) in enumerate(
                zip(pairs.values, pairs.stderr, pairs.residuals, pairs.converged, strict=True)
            )
        ]
        symbols = [symbol if c else f"{symbol}-open" for c in pairs.converged]
        look = {"color": colour, "size": 9, "symbol": symbols, "line": {"width": 1.6, "color": colour}}
        shared: View = {"type": "scatter", "mode": "markers", "x": rank.tolist(), "text": texts, "hoverinfo": "text"}
        bars = {"type": "data", "array": numbers(2 * pairs.stderr), "color": "@quiet", "thickness": 1.2, "width": 4}
        traces.append({**shared, "y": numbers(pairs.values), "error_y": bars, "marker": look, "name": name})
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
    return Picture("eigenvalues", f"{alt}.", {"eigenvalues": view}, (f"bars: {ERROR}; hollow: not converged",))


def _density(spectrum: Spectrum, density: Density, most: int) -> Picture:
    kept = thinned(len(density.grid), max(200, most // 10))
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
                f"eigenvalue {a:.5g}<br>density {v:.4g} ({lo:.3g} to {hi:.3g})"
                for a, v, lo, hi in zip(x, values, lower, upper, strict=True)
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
                "text": [f"eigenvalue {v:.5g}" for v in known],
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
        f"Spectral density from {density.grid[0]:.4g} to {density.grid[-1]:.4g} by {probes} probes of up to {steps} "
        f"nodes, broadened by {density.width:.3g}; it is highest at {peak:.4g}."
    )
    note = "on the log axis the picture ends at a tenth of the height of one eigenvalue" if density.width > 0 else ""
    return Picture("density", alt, {"density": view}, (note,) if note else ())


def _trace_of_layers(trace: Trace) -> Picture:
    names = tuple(trace.layers)
    errors = np.array([trace.layers_stderr.get(name, math.nan) for name in names])
    values = np.array([*trace.layers.values()])
    view, note = _bars(names, values, errors, np.ones(len(names), dtype=bool), "trace of each layer")
    alt = f"Trace of each of {len(names)} layers; the whole trace is {known_text(trace.value, trace.stderr)}, "
    alt += f"most of it in {_largest(names, values)}."
    return Picture("trace by layer", alt, {"trace": view}, note)


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
            views[name], notes = _bars(layers.layers, shown, errors, solid, f"{name} of each layer")
            alts.append(f"{name} is highest in {_largest(layers.layers, shown)}")
    missing = int((~layers.computed).sum())
    if missing:
        alts.append(f"{missing} of {len(layers.layers)} layers are not computed")
        notes = (*notes, f"{missing} of {len(layers.layers)} layers are not computed")
    if views:
        yield Picture("layers", f"Bars of {len(layers.layers)} layers: {'; '.join(alts)}.", views, notes)


def _bars(
    names: Sequence[str], values: FloatArray, errors: FloatArray, solid: BoolArray, title: str
) -> tuple[View, tuple[str, ...]]:
    """Bars, the first name on top, and what is to be said of them."""
    kept = list(range(len(names)))
    notes = [f"bars: {ERROR}"] if np.isfinite(errors).any() else []
    if not solid.all():
        notes.append("pale: not converged")
    if len(names) > _BARS:
        order = np.argsort(-np.nan_to_num(np.abs(values), nan=-1.0), kind="stable")
        kept = sorted(order[:_BARS].tolist())
        notes.append(f"the {_BARS} largest of {len(names):,} layers are drawn; the table holds them all")
    shown = [names[k] for k in kept]
    trace: View = {
        "type": "bar",
        "orientation": "h",
        "y": list(range(len(kept))),
        "x": numbers(values[kept]),
        "text": [f"{escaped(names[k])}<br>{escaped(title)} {known_text(values[k], errors[k])}" for k in kept],
        "textposition": "none",
        "hoverinfo": "text",
        "marker": {"color": ["@blue" if solid[k] else "@blue-band" for k in kept]},
        "error_x": {"type": "data", "array": numbers(2 * errors[kept]), "color": "@ink", "thickness": 1.1, "width": 3},
    }
    layout = {
        "xaxis": {"title": {"text": escaped(title)}},
        "yaxis": {
            "autorange": "reversed",
            "tickmode": "array",
            "tickvals": list(range(len(kept))),
            "ticktext": [_short(name) for name in shown],
            "automargin": True,
        },
        "showlegend": False,
    }
    finite = values[kept][np.isfinite(values[kept])]
    view = {"data": [trace], "layout": layout, "height": 120 + 20 * len(kept), "logAxis": "xaxis"}
    return {**view, **log_scale(finite)}, tuple(notes)


def _largest(names: Sequence[str], values: FloatArray) -> str:
    k = int(np.nanargmax(values))
    return f"{names[k]} ({values[k]:.4g})"


# -- profiles --------------------------------------------------------------------------------------------------------


def _profiles(profiles: Profiles, most: int) -> Iterator[Picture]:
    """Every direction as a thin line, their median, and the band that holds the middle of them."""
    n, nx = profiles.computed.shape
    low, _, high = SHARES
    drawn = min(n, _DIRECTIONS)
    kept = thinned(nx, max(50, most // drawn))
    x = profiles.x[kept]
    views: dict[str, View] = {}
    alts: list[str] = []
    for name, values in profiles.values.items():
        known, errors = profiles.computed & np.isfinite(values), profiles.stderr[name][:, kept]
        if not known.any():
            continue
        below, median, above = (profiles.quantile(name, share)[kept] for share in SHARES)
        there = np.isfinite(below) & np.isfinite(above)
        traces = [band(x, below, above, there, "@blue", f"{low:.0%} to {high:.0%} of the directions")]
        for k in range(drawn):
            line = values[k][kept]
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "x": numbers(x),
                    "y": numbers(np.where(known[k][kept], line, np.nan)),
                    "text": [f"direction {k}, {text}" for text in hover("x", x, name, line, errors[k])],
                    "hoverinfo": "text",
                    "name": "one direction",
                    "line": {"color": "@quiet", "width": 0.8},
                }
            )
        nothing: FloatArray = np.full(len(x), np.nan)
        traces += band_and_line(x, median, nothing, np.isfinite(median), name, "x", label=f"median of {name}")
        views[name] = lines(_once(traces), "x (multiples of each direction)", name, values[known])
        centre, end = median[int(np.abs(x).argmin())], median[-1]
        where = f"{known_text(centre, digits=4)} in the middle and {known_text(end, digits=4)} at the end"
        alts.append(f"the median of {name} is {where}")
    if views:
        missing = int((~profiles.computed).sum())
        alts += [f"{missing:,} of {profiles.computed.size:,} points not computed"] if missing else []
        alt = f"Values along {n} directions from {profiles.x[0]:.4g} to {profiles.x[-1]:.4g}: {'; '.join(alts)}."
        notes = (f"the first {drawn} of {n:,} directions are drawn; median and band are of all",) if drawn < n else ()
        yield Picture("profiles", alt, views, notes)


# -- paths and curves ------------------------------------------------------------------------------------------------


def _path(path: Path, most: int) -> Iterator[Picture]:
    if not path.computed.any():
        return
    yield Picture("along the path", _path_alt(path), _path_views([(path, "", "@blue")], most), _path_notes(path, most))


def _path_views(paths: Sequence[tuple[Path, str, str]], most: int) -> dict[str, View]:
    """{quantity: lines over t}, the test data beside the training data, and between the ends a dotted line."""
    views: dict[str, View] = {}
    for quantity in (name for name in paths[0][0].values if not name.startswith("test_")):
        traces: list[View] = []
        drawn: list[FloatArray] = []
        for path, label, colour in paths:
            kept = thinned(len(path.t), most)
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
                traces += found + marks(path.t[kept], values, path.computed[kept], "t")
                drawn.append(values[known])
            if quantity == "loss" and math.isfinite(path.barrier):
                known = path.computed & np.isfinite(path.values["loss"])
                losses = path.values["loss"][known]
                line = losses - above_ends(path.t[known], losses)
                look = {"dash": "dot", "width": 1.2, "color": colour}
                ends: View = {"type": "scatter", "mode": "lines", "x": numbers(path.t[known][[0, -1]]), "line": look}
                traces.append({**ends, "y": numbers(line[[0, -1]]), "hoverinfo": "skip", "name": "between the ends"})
        view = lines(_once(traces), "t, from one model to the other", quantity, np.concatenate(drawn))
        views[quantity] = view
    return views


def _path_alt(path: Path) -> str:
    first, last = (known_text(path.values["loss"][k], path.stderr["loss"][k], 4) for k in (0, -1))
    alt = f"Values at {len(path.t)} places from one model to the other; the loss is {first} at one end and {last} at "
    alt += f"the other, its barrier {known_text(path.barrier, digits=4)}"
    missing = int((~path.computed).sum())
    return alt + (f"; {missing} of {len(path.t)} places not computed." if missing else ".")


def _path_notes(path: Path, most: int) -> tuple[str, ...]:
    kept = len(thinned(len(path.t), most))
    return (f"thinned: {kept:,} of {len(path.t):,} places are drawn",) if kept < len(path.t) else ()


def _curve(curve: Curve, most: int) -> Iterator[Picture]:
    if not curve.history:
        return
    views: dict[str, View] = {}
    for name, values in curve.history.items():
        kept = thinned(len(values), most)
        known = np.isfinite(values[kept])
        nothing: FloatArray = np.full(len(kept), np.nan)
        traces = band_and_line(np.asarray(kept + 1, dtype=np.float64), values[kept], nothing, known, name, "epoch")
        views["step size" if name == "lr" else name] = lines(traces, "epoch", name, values[kept][known])
    ends = "; ".join(f"{name} from {v[0]:.4g} to {v[-1]:.4g}" for name, v in curve.history.items())
    note = "means over an epoch, each batch at its own place of the curve, in train mode"
    yield Picture("training of the curve", f"Training of the curve over its epochs: {ends}.", views, (note,))


# -- pairs of models -------------------------------------------------------------------------------------------------


def _connectivity(table: Connectivity, most: int) -> Iterator[Picture]:
    found = table.numbers
    views: dict[str, View] = {}
    for name in (name for name in NUMBERS if name in found):
        if np.isfinite(found[name]).any():
            nothing = np.full(len(table.pairs), np.nan)
            views[name.replace("_", " ")] = _matrix_view(table.labels, table.pairs, found[name], nothing, NUMBERS[name])
    if not views:
        return
    measured = f"{int(table.computed.sum())} of {len(table.pairs)} pairs"
    alt = f"Matrix of {len(table.labels)} models, {measured} measured"
    for name, where in (("line_barrier", "straight line"), ("curve_barrier", "fitted curve")):
        if name in found and np.isfinite(found[name]).any():
            low, high = (float(find(found[name])) for find in (np.nanmin, np.nanmax))
            between = f"{low:.4g}" if low == high else f"between {low:.4g} and {high:.4g}"
            alt += f"; the loss barrier on the {where} is {between}"
    yield Picture("pairs of models", f"{alt}.", views, (_UNMEASURED,))
    pairs = [(i, j) for (i, j), done in zip(table.pairs.tolist(), table.computed, strict=True) if done]
    paths: dict[str, View] = {}
    for i, j in pairs[:_PAIRS]:
        sides = [(table.line_path(i, j), "line", "@blue")]
        sides += [(table.curve_path(i, j), "curve", "@green")] if table.curve else []
        for quantity, view in _path_views(sides, most).items():
            paths[f"{table.labels[i]} to {table.labels[j]}: {quantity}"] = view
    notes = (f"the first {_PAIRS} of {len(pairs)} pairs",) if len(pairs) > _PAIRS else ()
    i, j = pairs[0]
    first = int(np.flatnonzero(table.computed)[0])
    alt = f"Values along the straight line{' and the fitted curve' if table.curve else ''} between two models; from "
    alt += f"{table.labels[i]} to {table.labels[j]} the barrier on the line is {found['line_barrier'][first]:.4g}"
    alt += f" and on the curve {found['curve_barrier'][first]:.4g}." if table.curve else "."
    yield Picture("along lines and curves", alt, paths, notes)


def _agreement(agreement: Agreement, most: int) -> Iterator[Picture]:
    views: dict[str, View] = {}
    alts: list[str] = []
    for name, values in agreement.values.items():
        if np.isfinite(values).any():
            errors = agreement.stderr.get(name, np.full(len(values), np.nan))
            views[name] = _matrix_view(agreement.labels, agreement.pairs, values, errors, name)
            alts.append(f"{name} from {np.nanmin(values):.4g} to {np.nanmax(values):.4g}")
    if views:
        alt = f"Matrix of {len(agreement.labels)} models, {len(agreement.pairs)} pairs: {'; '.join(alts)}."
        yield Picture("agreement of models", alt, views, (_UNMEASURED,))


_UNMEASURED = "grey: pairs that were not measured"


def _matrix_view(labels: Sequence[str], pairs: Any, values: FloatArray, errors: FloatArray, what: str) -> View:
    count = len(labels)
    table = np.full((count, count), np.nan)
    texts = [["" for _ in labels] for _ in labels]
    for (i, j), value, error in zip(pairs.tolist(), values, errors, strict=True):
        table[i, j] = table[j, i] = value
        text = f"{escaped(labels[i])} and {escaped(labels[j])}<br>{escaped(what)}<br>{known_text(value, error)}"
        texts[i][j] = texts[j][i] = text
    short = [_short(label) for label in labels]
    axis = {"tickmode": "array", "tickvals": list(range(count)), "ticktext": short, "automargin": True}
    trace: View = {
        "type": "heatmap",
        "z": matrix(table),
        **({"hovertext": texts, "hoverinfo": "text"} if count <= _NAMED else {"hovertemplate": _NUMBERED}),
        "hoverongaps": False,
        "colorscale": "Viridis",
        "xgap": 2,
        "ygap": 2,
    }
    if count <= 12:
        cells = [[f"{v:.3g}" if math.isfinite(v) else "" for v in row] for row in table]
        trace |= {"texttemplate": "%{text}", "text": cells}
    absent: View = {
        "type": "heatmap",
        "z": matrix(np.where(np.isnan(table) & ~np.eye(count, dtype=bool), 0.0, np.nan)),
        "colorscale": [[0, "@missing"], [1, "@missing"]],
        "showscale": False,
        "hovertemplate": "not measured<extra></extra>",
        "hoverongaps": False,
        "xgap": 2,
        "ygap": 2,
    }
    axis |= {"showgrid": False, "zeroline": False}
    layout = {
        "xaxis": {**axis, "title": {"text": escaped(what)}},
        "yaxis": {**axis, "autorange": "reversed"},
        "showlegend": False,
    }
    return {"data": [trace, absent], "layout": layout, "height": min(760, 220 + 44 * count)}


def _once(traces: list[View]) -> list[View]:
    """Each name once in the legend."""
    seen: set[str] = set()
    for trace in traces:
        name = str(trace.get("name", ""))
        if name in seen:
            trace["showlegend"] = False
        seen.add(name)
    return traces


def _short(name: str) -> str:
    return escaped(name if len(name) <= _NAME else f"{name[: _NAME // 2 - 1]}…{name[-_NAME // 2 :]}")


_PICTURES: Mapping[type, Callable[[Any, int], Iterator[Picture]]] = {
    Surface: surface_pictures,
    Spectrum: _spectrum,
    LayerSpectra: _layers,
    Profiles: _profiles,
    Path: _path,
    Curve: _curve,
    Connectivity: _connectivity,
    Agreement: _agreement,
}
