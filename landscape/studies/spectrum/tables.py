"""Spectra in tables: eigenvalues with their errors and residuals, traces, the density, a row for each layer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from landscape_kernels.arrays import FloatArray
from landscape_kernels.rounding import rounding_of, settled

from landscape.results.attributes import what
from landscape.results.kind import Columns, stacked
from landscape.results.tables import Cell, Table, number, pairs_table
from landscape.studies.spectrum.result import Density, Eigenpairs, Spectrum, Trace

_ZERO = 20  # roundings: what measuring takes for an eigenvalue that is zero


def spectrum_tables(spectrum: Spectrum, title: str) -> Iterator[Table]:
    """What was measured, the eigenvalues with their errors and residuals, the trace and the density."""
    cost = {"eigenvalues": cost_words(spectrum.products, spectrum.passes)} | _precision(spectrum)
    if len(spectrum.largest.values) or spectrum.smallest.vectors is not None:
        cost["copies"] = spectrum.completeness
    yield head(title, f"{spectrum.size:,} x {spectrum.size:,}", cost, spectrum.attributes)
    for name, pairs in (("largest", spectrum.largest), ("smallest", spectrum.smallest)):
        if len(pairs.values):
            yield _eigenvalues(name, pairs, _rounding(spectrum))
    if spectrum.trace is not None:
        yield trace(spectrum.trace)
        if spectrum.trace.layers:
            yield _trace_of_layers(spectrum.trace)
    if spectrum.density is not None:
        yield _density(spectrum.density)


def head(title: str, matrix: str, cost: Mapping[str, str], about: Mapping[str, Any]) -> Table:
    """The first table: the matrix, what it cost, and what it is of."""
    errors = about.get("error", "standard errors are for the population; for the data given see the residuals")
    return pairs_table(title, {"matrix": matrix, **what(about), "errors": errors, **cost})


def _precision(spectrum: Spectrum) -> dict[str, str]:
    """The error that was asked for, reached, and what was spent on it."""
    about, error = spectrum.attributes, spectrum.largest.error
    if error is None or "work" not in about:
        return {}
    work = about["work"]
    with np.errstate(divide="ignore", invalid="ignore"):
        reached = error / np.abs(spectrum.largest.values)
    spent = (
        f"{work['sample_products']:,} products with one sample, as much as {work['products_of_all_data']:.1f} with all"
    )
    share = f"{work['share_of_full']:.0%} of about what all data take"
    share = share if spectrum.largest.sampled else "all data were measured"
    said = {
        "error asked": f"{about['error_asked']:g} of each eigenvalue",
        "error reached": f"{np.max(reached, initial=0.0):.2g} at most",
        "eigenvalues": f"{spent} ({share})",
    }
    if "density_samples" in about:
        said["density"] = f"of a sample of {about['density_samples']:,}"
    return said


def _rounding(spectrum: Spectrum) -> float:
    """What rounding leaves of an eigenvalue that is 0, beside the largest."""
    values = np.abs(np.concatenate([spectrum.largest.values, spectrum.smallest.values]))
    return _ZERO * rounding_of(float(values.max(initial=0.0)), str(spectrum.attributes.get("precision", "")))


def _eigenvalues(name: str, pairs: Eigenpairs, rounding: float) -> Table:
    extra = ["corrected for bias"] if np.isfinite(pairs.bias).any() else []
    if pairs.independent is not None:
        extra.append("on an independent sample")
    if pairs.error is not None:
        extra.append("bracket")
    rows = []
    for i, value in enumerate(pairs.values):
        zero = rounding if pairs.residuals[i] == 0 else 0.0  # which is said of one that is zero to rounding
        error = pairs.stderr[i] if pairs.error is None else pairs.error[i]
        cells = [number(value, stderr=error, nan="-", rounding=zero)]
        if "corrected for bias" in extra:
            cells.append(number(settled(value - pairs.bias[i], 0.0, zero), nan="-"))
        if pairs.independent is not None:
            errors = pairs.independent_stderr
            cells.append(number(pairs.independent[i], stderr=math.nan if errors is None else errors[i], nan="-"))
        if pairs.lower is not None and pairs.upper is not None:
            cells.append(Cell(f"{pairs.lower[i]:.5g} to {pairs.upper[i]:.5g}"))
        residual = number(settled(pairs.residuals[i], 1.0), 2, nan="-")
        moved, converged = number(pairs.rounding[i], 2, nan="-"), Cell("yes" if pairs.converged[i] else "no")
        rows.append((Cell(str(i + 1), i + 1), *cells, residual, moved, converged))
    kind = "standard error" if pairs.error is None else "error"
    columns = ("rank", f"eigenvalue +- {kind}", *extra, "residual", "rounding", "converged")
    return Table(f"{name} eigenvalues", columns, tuple(rows))


def trace(trace: Trace) -> Table:
    """The table of a trace."""
    exact = trace.stderr_probes == 0
    content: dict[str, Any] = {
        "value": number(trace.value, stderr=trace.stderr, nan="-"),
        "error from probes": Cell("none: exact for the data given", 0.0)
        if exact
        else number(settled(trace.stderr_probes, trace.value), 2),
        "error from the data": number(settled(trace.stderr_data, trace.value), 2, nan="-"),
        "error from rounding": number(trace.rounding, 2, nan="-"),
        "method": trace.method,
        "cost": f"{cost_words(trace.products, trace.passes)}, {trace.gradients:.3g} gradients per sample",
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
            **({} if probes * steps else {"error": "none: all eigenvalues are known"}),
            "grid": f"{len(density.grid)} points from {density.grid[0]:.6g} to {density.grid[-1]:.6g}",
            "width": number(density.width, 3),
            "error from rounding": number(density.rounding, 2, nan="-"),
            "probes": f"{probes} of up to {steps} nodes" if probes * steps else "none: exact",
            "eigenvalues taken out": len(density.deflated),
            "cost": cost_words(density.products, density.passes),
        },
    )


def cost_words(products: int, passes: int) -> str:
    """What was spent, in words."""
    return f"{products} products in {passes} pass{'es' * (passes != 1)} over the data"


def spectrum_columns(spectrum: Spectrum) -> Columns:
    """A row for each eigenpair: end, index there from 0, value, its stderr and bias, residual, converged."""
    ends = {"largest": spectrum.largest, "smallest": spectrum.smallest}
    return stacked([_eigenpairs(end, pairs) for end, pairs in ends.items()])


def _eigenpairs(end: str, pairs: Eigenpairs) -> Columns:
    optional: Mapping[str, FloatArray | None] = {
        "independent": pairs.independent,
        "independent_stderr": pairs.independent_stderr,
        "error": pairs.error,
        "lower": pairs.lower,
        "upper": pairs.upper,
    }
    return {
        "end": [end] * len(pairs.values),
        "index": np.arange(len(pairs.values)),
        "value": pairs.values,
        "stderr": pairs.stderr,
        "bias": pairs.bias,
        "residual": pairs.residuals,
        "rounding": pairs.rounding,
        "converged": np.asarray(pairs.converged, dtype=bool),
        **{name: values for name, values in optional.items() if values is not None},
    }
