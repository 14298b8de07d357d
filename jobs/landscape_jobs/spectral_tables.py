"""Curvature results as tables for a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from rich.console import RenderableType
from rich.table import Table

from landscape.spectra import Density, Eigenpairs, LayerSpectra, Spectrum, Trace
from landscape_jobs.tables import _pairs, _table, provenance_table

_WHAT = (
    "model",
    "parameters",
    "samples",
    "loss",
    "operator",
    "params",
    "weight_decay",
    "precision",
    "batchnorm",
    "device",
    "route",
    "tol",
)


def spectrum_table(spectrum: Spectrum, title: str = "spectrum") -> Iterator[RenderableType]:
    """What was measured, the eigenvalues with their errors and residuals, the trace and the density."""
    cost = {"eigenvalues": _cost(spectrum.products, spectrum.passes)}
    yield _head(title, f"{spectrum.size:,} x {spectrum.size:,}", cost, spectrum.attributes)
    for name, pairs in (("largest", spectrum.largest), ("smallest", spectrum.smallest)):
        if len(pairs.values):
            yield _eigenvalues(name, pairs)
    if spectrum.trace is not None:
        yield _trace(spectrum.trace)
        if spectrum.trace.layers:
            yield _trace_of_layers(spectrum.trace)
    if spectrum.density is not None:
        yield _density(spectrum.density)
    yield from provenance_table(spectrum.attributes)


def layers_table(layers: LayerSpectra, title: str = "spectra of layers") -> Iterator[RenderableType]:
    """What was measured, each layer's largest eigenvalue and trace with their errors, and the whole trace."""
    done, known = int(layers.computed.sum()), len(layers.layers)
    cost = {"eigenvalues": _cost(layers.products, layers.passes)}
    yield _head(title, f"{known} diagonal blocks, {done} of {known} computed", cost, layers.attributes)
    k = layers.eigenvalues.shape[1]
    table = _table("value +- standard error", "layer", "size", "largest", "residual", "converged", "trace")
    for i, name in enumerate(layers.layers):
        if not layers.computed[i]:
            table.add_row(name, f"{layers.sizes[i]:,}", *["not computed"] * 4)
            continue
        asked = np.isfinite(layers.eigenvalues[i])
        first = (layers.eigenvalues[i, 0], layers.stderr[i, 0], layers.residuals[i, 0]) if k else (math.nan,) * 3
        table.add_row(
            name,
            f"{layers.sizes[i]:,}",
            _with_error(first[0], first[1]),
            _number(first[2], 2),
            f"{int(layers.converged[i, asked].sum())} of {int(asked.sum())}",
            _with_error(layers.trace[i], layers.trace_stderr[i]),
        )
    yield table
    if layers.whole_trace is not None:
        yield _trace(layers.whole_trace)
    yield from provenance_table(layers.attributes)


def _head(title: str, matrix: str, cost: Mapping[str, str], about: Mapping[str, Any]) -> Table:
    known = {
        name: about[name] for name in _WHAT if name in about and str(about[name]) not in ("", "{}", "[]", "0.0", "None")
    }
    errors = about.get("error", "standard errors are for the population; for the data given see the residuals")
    return _pairs(title, {"matrix": matrix, **known, "errors": errors, **cost})


def _eigenvalues(name: str, pairs: Eigenpairs) -> Table:
    extra = ["corrected for bias"] if np.isfinite(pairs.bias).any() else []
    if pairs.independent is not None:
        extra.append("on an independent sample")
    columns = ("rank", "eigenvalue +- standard error", *extra, "residual", "converged")
    table = _table(f"{name} eigenvalues", *columns)
    for i, value in enumerate(pairs.values):
        cells = [_with_error(value, pairs.stderr[i])]
        if "corrected for bias" in extra:
            cells.append(_number(value - pairs.bias[i], 6))
        if pairs.independent is not None:
            errors = pairs.independent_stderr
            cells.append(_with_error(pairs.independent[i], math.nan if errors is None else errors[i]))
        table.add_row(str(i + 1), *cells, _number(pairs.residuals[i], 2), "yes" if pairs.converged[i] else "no")
    return table


def _trace(trace: Trace) -> Table:
    content = {
        "value": _with_error(trace.value, trace.stderr),
        "error from probes": "none: exact for the data given"
        if trace.stderr_probes == 0
        else f"{trace.stderr_probes:.2g}",
        "error from the data": _number(trace.stderr_data, 2),
        "method": trace.method,
        "cost": f"{_cost(trace.products, trace.passes)}, {trace.gradients:.3g} gradients per sample",
    }
    if math.isfinite(trace.frobenius):
        content["Frobenius norm"] = _with_error(trace.frobenius, trace.frobenius_stderr)
    return _pairs("trace", content)


def _trace_of_layers(trace: Trace) -> Table:
    table = _table("trace by layer", "layer", "trace +- standard error")
    for name, value in trace.layers.items():
        table.add_row(name, _with_error(value, trace.layers_stderr.get(name, math.nan)))
    return table


def _density(density: Density) -> Table:
    probes, steps = density.nodes.shape
    return _pairs(
        "density",
        {
            "grid": f"{len(density.grid)} points from {density.grid[0]:.6g} to {density.grid[-1]:.6g}",
            "width": f"{density.width:.3g}",
            "probes": f"{probes} of up to {steps} nodes",
            "eigenvalues taken out": str(len(density.deflated)),
            "cost": _cost(density.products, density.passes),
        },
    )


def _with_error(value: float, stderr: float) -> str:
    return _number(value, 6) + (f" +- {stderr:.2g}" if math.isfinite(stderr) else "")


def _number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}g}"


def _cost(products: int, passes: int) -> str:
    return f"{products} products in {passes} pass{'es' * (passes != 1)} over the data"
