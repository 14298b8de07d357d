"""Spectra as pictures of a report."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from landscape_kernels.arrays import IntArray
from landscape_kernels.rounding import settled

from landscape.pictures.numbers import extremes, gap, numbers, range_text, spread, value_text
from landscape.pictures.style import ERROR
from landscape.pictures.views import Picture, View, band, bars, known_text, largest, lines, thinned_note
from landscape.studies.spectrum.pictures import ERROR_ASKED
from landscape.studies.spectrum.result import Density, Eigenpairs, Spectrum, Trace
from landscape.studies.spectrum.tables import spectrum_columns

_SPAN = 1e-9  # of the highest density to the lowest on a log axis


# -- spectra ---------------------------------------------------------------------------------------------------------


def spectrum_views(spectrum: Spectrum, most: int) -> Iterator[Picture]:
    """The pictures of a report."""
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
            f"<br>relative residual {settled(r, 1.0):.2g}, {'' if c else 'not '}converged"
            for i, (v, e, r, c) in enumerate(
                zip(pairs.values, pairs.known_to, pairs.residuals, pairs.converged, strict=True)
            )
        ]
        symbols = [symbol if c else f"{symbol}-open" for c in pairs.converged]
        look = {"color": colour, "size": 9, "symbol": symbols, "line": {"width": 1.6, "color": colour}}
        shared: View = {"type": "scatter", "mode": "markers", "x": rank.tolist(), "text": texts, "hoverinfo": "text"}
        bars = {"type": "data", "array": numbers(2 * pairs.known_to), "color": "@quiet", "thickness": 1.2, "width": 4}
        heights = numbers(pairs.values, pairs.known_to)
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
        alt += f"; the largest is {known_text(largest.values[0], largest.known_to[0])}"
        alt += f" with relative residual {settled(largest.residuals[0], 1.0):.2g}"
    notes = (f"bars: {ERROR_ASKED if largest.sampled else ERROR}; hollow: not converged",)
    return Picture("eigenvalues", f"{alt}.", {"eigenvalues": view}, notes, spectrum_columns(spectrum))


def _density(spectrum: Spectrum, density: Density, most: int) -> Picture:
    kept = extremes([density.values, density.lower, density.upper], max(200, most // 10))
    step = gap(density.grid) / 10
    top = float(np.nanmax(density.values))
    floor = top * _SPAN if density.width <= 0 else 0.1 / (spectrum.size * density.width * math.sqrt(2 * math.pi))
    traces = [*_density_line(density, kept, step, floor), *_known_eigenvalues(spectrum, density)]
    view = lines(traces, "eigenvalue", "density per unit of eigenvalue", density.values[kept])
    view["log"] = view["logFirst"] = top > 0
    if top > 0:
        view["logRange"] = [math.log10(min(floor, top / 10)), math.log10(3 * top)]
    probes, steps = density.nodes.shape
    peak = density.grid[int(np.nanargmax(density.values))]
    way = f"by {probes} probes of up to {steps} nodes" if probes * steps else "of all eigenvalues, which are known"
    alt = (
        f"Spectral density from {range_text(density.grid)} {way}, "
        f"broadened by {density.width:.3g}; it is highest at {value_text(float(peak), 4, step)}."
    )
    notes = ["on the log axis the picture ends at a tenth of the height of one eigenvalue"] if density.width > 0 else []
    if "density_samples" in spectrum.attributes:
        notes.append(f"of a sample of {spectrum.attributes['density_samples']:,}")
    if len(kept) < len(density.grid):
        notes.append(thinned_note(len(kept), len(density.grid), "places"))
    columns = {"eigenvalue": density.grid, "density": density.values, "lower": density.lower, "upper": density.upper}
    return Picture("density", alt, {"density": view}, tuple(notes), columns)


def _density_line(density: Density, kept: IntArray, step: float, floor: float) -> list[View]:
    """The density at the grid points `kept` with its band; on a log axis no lower than a thousandth of `floor`."""
    x, values = density.grid[kept], density.values[kept]
    lower, upper = density.lower[kept], density.upper[kept]
    drawn = np.maximum(values, 0.0)
    texts = [
        f"eigenvalue {value_text(a, 5, step)}<br>density {value_text(v, 4, (hi - lo) / 100)} "
        f"({value_text(lo, 3, (hi - lo) / 100)} to {value_text(hi, 3, (hi - lo) / 100)})"
        for a, v, lo, hi in zip(*(part.tolist() for part in (x, values, lower, upper)), strict=True)
    ]
    line: View = {
        "type": "scatter",
        "mode": "lines",
        "x": numbers(x),
        "y": numbers(drawn),
        "ylog": numbers(np.maximum(drawn, floor / 1e3)),
        "text": texts,
        "hoverinfo": "text",
        "name": "density",
        "line": {"color": "@blue", "width": 1.8},
    }
    return [band(x, lower, upper, np.isfinite(upper), "@blue", f"{ERROR} (probes)"), line]


def _known_eigenvalues(spectrum: Spectrum, density: Density) -> list[View]:
    """Marks at the eigenvalues that were taken out, else at the largest ones; none where there are none."""
    known, name = density.deflated, "eigenvalues taken out"
    if not len(known):
        known, name = spectrum.eigenvalues[np.isfinite(spectrum.eigenvalues)], "largest eigenvalues"
    if not len(known):
        return []
    marks: View = {
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
    return [marks]


def _trace_of_layers(trace: Trace) -> Picture:
    names = tuple(trace.layers)
    errors = np.array([trace.layers_stderr.get(name, math.nan) for name in names])
    values = np.array([*trace.layers.values()])
    view, note = bars(names, values, errors, np.ones(len(names), dtype=bool), "trace of each layer")
    alt = f"Trace of each of {len(names)} layers; the whole trace is {known_text(trace.value, trace.stderr)}, "
    alt += f"most of it in {largest(names, values)}."
    columns = {"layer": names, "trace": values, "trace_stderr": errors}
    return Picture("trace by layer", alt, {"trace": view}, note, columns)
