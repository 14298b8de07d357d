"""Spectra in tables: eigenvalues with their errors and residuals, traces, the density, a row for each layer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from landscape.spectra import Density, Eigenpairs, LayerSpectra, Spectrum, Trace
from landscape.tables import Cell, Table, number, pairs_table

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


def spectrum_tables(spectrum: Spectrum, title: str) -> Iterator[Table]:
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


def layers_tables(layers: LayerSpectra, title: str) -> Iterator[Table]:
    """What was measured, each layer's largest eigenvalue and trace with their errors, and the whole trace."""
    done, known = int(layers.computed.sum()), len(layers.layers)
    cost = {"eigenvalues": _cost(layers.products, layers.passes)}
    yield _head(title, f"{known} diagonal blocks, {done} of {known} computed", cost, layers.attributes)
    columns = ("layer", "size", "largest", "residual", "converged", "trace")
    yield Table("value +- standard error", columns, tuple(_layer(layers, i) for i in range(known)))
    if layers.whole_trace is not None:
        yield _trace(layers.whole_trace)


def _layer(layers: LayerSpectra, i: int) -> tuple[Cell, ...]:
    name, size = Cell(layers.layers[i]), Cell(f"{layers.sizes[i]:,}", layers.sizes[i])
    if not layers.computed[i]:
        return name, size, *[Cell("not computed")] * 4
    asked = np.isfinite(layers.eigenvalues[i])
    known = layers.eigenvalues.shape[1] > 0
    first = (layers.eigenvalues[i, 0], layers.stderr[i, 0], layers.residuals[i, 0]) if known else (math.nan,) * 3
    converged = int(layers.converged[i, asked].sum())
    return (
        name,
        size,
        number(first[0], stderr=first[1], nan="-"),
        number(first[2], 2, nan="-"),
        Cell(f"{converged} of {int(asked.sum())}", converged),
        number(layers.trace[i], stderr=layers.trace_stderr[i], nan="-"),
    )


def _head(title: str, matrix: str, cost: Mapping[str, str], about: Mapping[str, Any]) -> Table:
    known = {
        name: about[name] for name in _WHAT if name in about and str(about[name]) not in ("", "{}", "[]", "0.0", "None")
    }
    errors = about.get("error", "standard errors are for the population; for the data given see the residuals")
    return pairs_table(title, {"matrix": matrix, **known, "errors": errors, **cost})


def _eigenvalues(name: str, pairs: Eigenpairs) -> Table:
    extra = ["corrected for bias"] if np.isfinite(pairs.bias).any() else []
    if pairs.independent is not None:
        extra.append("on an independent sample")
    rows = []
    for i, value in enumerate(pairs.values):
        cells = [number(value, stderr=pairs.stderr[i], nan="-")]
        if "corrected for bias" in extra:
            cells.append(number(value - pairs.bias[i], nan="-"))
        if pairs.independent is not None:
            errors = pairs.independent_stderr
            cells.append(number(pairs.independent[i], stderr=math.nan if errors is None else errors[i], nan="-"))
        residual, converged = number(pairs.residuals[i], 2, nan="-"), Cell("yes" if pairs.converged[i] else "no")
        rows.append((Cell(str(i + 1), i + 1), *cells, residual, converged))
    columns = ("rank", "eigenvalue +- standard error", *extra, "residual", "converged")
    return Table(f"{name} eigenvalues", columns, tuple(rows))


def _trace(trace: Trace) -> Table:
    exact = trace.stderr_probes == 0
    content: dict[str, Any] = {
        "value": number(trace.value, stderr=trace.stderr, nan="-"),
        "error from probes": Cell("none: exact for the data given", 0.0) if exact else number(trace.stderr_probes, 2),
        "error from the data": number(trace.stderr_data, 2, nan="-"),
        "method": trace.method,
        "cost": f"{_cost(trace.products, trace.passes)}, {trace.gradients:.3g} gradients per sample",
    }
    if math.isfinite(trace.frobenius):
        content["Frobenius norm"] = number(trace.frobenius, stderr=trace.frobenius_stderr)
    return pairs_table("trace", content)


def _trace_of_layers(trace: Trace) -> Table:
    rows = (
        (Cell(name), number(value, stderr=trace.layers_stderr.get(name, math.nan), nan="-"))
        for name, value in trace.layers.items()
    )
    return Table("trace by layer", ("layer", "trace +- standard error"), tuple(rows))


def _density(density: Density) -> Table:
    probes, steps = density.nodes.shape
    return pairs_table(
        "density",
        {
            "grid": f"{len(density.grid)} points from {density.grid[0]:.6g} to {density.grid[-1]:.6g}",
            "width": number(density.width, 3),
            "probes": f"{probes} of up to {steps} nodes",
            "eigenvalues taken out": len(density.deflated),
            "cost": _cost(density.products, density.passes),
        },
    )


def _cost(products: int, passes: int) -> str:
    return f"{products} products in {passes} pass{'es' * (passes != 1)} over the data"
