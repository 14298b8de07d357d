"""Names, units and long names of curvature results in a file; spectra to and from its tree of groups.

    spectrum            eigenvalue (rank), residual, ..., smallest_eigenvalue (smallest_rank), ...
        trace           trace, trace_stderr, ..., trace_by_layer (trace_layer)
        density         density (density_grid), ..., quadrature_node (probe, node), deflated_eigenvalue (deflated)
    layer_spectra       eigenvalue (layer, rank), ..., layer_trace (layer), ...
        trace           of the whole matrix

No two variables of a result share a name, so that all of them fit into one xarray Dataset.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from landscape.files import hdf5
from landscape.files.fields import array, names, number, texts
from landscape.files.schema import read_attributes, reading
from landscape.studies.spectrum.result import Density, Eigenpairs, Spectrum, Trace

Names = Mapping[str, tuple[str, str]]  # field of a result -> variable in the file, long name

_PAIRS: Names = {
    "values": ("eigenvalue", "eigenvalue of the mean loss' curvature matrix"),
    "residuals": ("residual", "|A v - lambda v| / |lambda|"),
    "converged": ("converged", "whether the residual reached the tolerance"),
    "stderr": ("eigenvalue_stderr", "standard error of the eigenvalue over data, as an estimate for the population"),
    "bias": ("eigenvalue_bias", "expected excess of the eigenvalue over the population's, from sampling data"),
    "vectors": ("eigenvector", "unit eigenvector, entries in the order of the parameter vector"),
    "independent": ("independent", "v'Av of the eigenvector on an independent sample of the data"),
    "independent_stderr": ("independent_stderr", "standard error of v'Av on the independent sample"),
    "rounding": ("rounding", "what rounding of products may move the eigenvalue by, relative to it"),
    "error": ("eigenvalue_error", "what the eigenvalue may be off from that of all data, in one standard error"),
    "lower": ("eigenvalue_lower", "lower end of the eigenvalue's bracket, a mean over draws of the data"),
    "upper": ("eigenvalue_upper", "upper end of the eigenvalue's bracket, a mean over draws of the data"),
}
_OPTIONAL = ("vectors", "independent", "independent_stderr", "rounding", "error", "lower", "upper")
_ENDS = {"largest": ("", "from the largest down"), "smallest": ("smallest_", "from the smallest up")}

COUNTS: Names = {
    "size": ("size", "dimension of the matrix"),
    "products": ("products", "matrix-vector products for the eigenvalues"),
    "passes": ("passes", "passes over the data for the eigenvalues"),
}

LISTS: Names = {  # how a list is known to be complete
    "searched": ("searched", "products of searches for copies of eigenvalues that one Krylov space does not hold"),
    "missed": ("missed", "chance, at most, that a copy of an eigenvalue beyond the last of the list is missing"),
    "whole": ("whole", "whether the matrix was computed whole, by the products of all unit vectors"),
}

_TRACE: Names = {
    "value": ("trace", "trace of the matrix"),
    "stderr": ("trace_stderr", "standard error of the trace from probes and data, as an estimate for the population"),
    "stderr_probes": ("trace_stderr_probes", "standard error of the trace for the data given, from random probes"),
    "stderr_data": ("trace_stderr_data", "standard error of the trace from the data being a sample"),
    "products": ("trace_products", "matrix-vector products for the trace"),
    "passes": ("trace_passes", "passes over the data for the trace"),
    "gradients": ("trace_gradients", "backward passes per sample for the trace"),
    "frobenius": ("frobenius", "Frobenius norm of the matrix"),
    "frobenius_stderr": ("frobenius_stderr", "standard error of the Frobenius norm"),
    "rounding": ("trace_rounding", "what rounding in float32 may move the trace by, measured on some of the data"),
}

_DENSITY: Names = {
    "grid": ("density_grid", "eigenvalue"),
    "values": ("density", "density per unit of eigenvalue, with integral 1"),
    "lower": ("density_lower", "density minus two standard errors over probes"),
    "upper": ("density_upper", "density plus two standard errors over probes"),
    "nodes": ("quadrature_node", "quadrature nodes of each probe; NaN where a probe has fewer"),
    "weights": ("quadrature_weight", "weights of the quadrature nodes, with sum 1 for each probe"),
    "deflated": ("deflated_eigenvalue", "eigenvalues taken out of the probes, of weight 1 / size each"),
    "width": ("density_width", "standard deviation of the Gaussians that broaden the density"),
    "products": ("density_products", "matrix-vector products for the density"),
    "passes": ("density_passes", "passes over the data for the density"),
    "rounding": ("density_rounding", "by what rounding moves eigenvalues, in the root mean square and at most"),
}
_DENSITY_DIMS = {
    **dict.fromkeys(("grid", "values", "lower", "upper"), ("density_grid",)),
    **dict.fromkeys(("nodes", "weights"), ("probe", "node")),
    "deflated": ("deflated",),
}


def read_spectrum(tree: hdf5.Group, path: str | Path) -> Spectrum:
    """The spectrum in the tree of a file. Raises StoreError for a newer schema or a tree without one."""
    with reading(tree, "spectrum", path) as group:
        v = group.variables
        ends: dict[str, Any] = {end: _read_pairs(v, prefix) for end, (prefix, _) in _ENDS.items()}
        counts: dict[str, Any] = {field: int(v[name].data) for field, (name, _) in COUNTS.items()}
        lists = {field: v[name].data.item() for field, (name, _) in LISTS.items() if name in v}  # not in old files
        return Spectrum(
            **ends,
            **counts,
            **lists,
            trace=read_trace(group.groups["trace"]) if "trace" in group.groups else None,
            density=_read_density(group.groups["density"]) if "density" in group.groups else None,
            attributes=read_attributes(tree, "spectrum"),
        )


def spectrum_group(spectrum: Spectrum) -> hdf5.Group:
    """Eigenpairs of both ends; the sub-groups "trace" and "density" where they were measured."""
    variables = {name: number(getattr(spectrum, field), text) for field, (name, text) in {**COUNTS, **LISTS}.items()}
    for end, (prefix, order) in _ENDS.items():
        variables |= _pairs(getattr(spectrum, end), prefix, order)
    groups: dict[str, hdf5.Group] = {}
    if spectrum.trace is not None:
        groups["trace"] = trace_group(spectrum.trace)
    if spectrum.density is not None:
        groups["density"] = _density_group(spectrum.density)
    return hdf5.Group(variables, {}, groups)


def _pairs(pairs: Eigenpairs, prefix: str, order: str) -> dict[str, hdf5.Variable]:
    variables: dict[str, hdf5.Variable] = {}
    for field, (name, text) in _PAIRS.items():
        data = getattr(pairs, field)
        if data is not None:
            dims = (f"{prefix}rank", "parameter") if field == "vectors" else (f"{prefix}rank",)
            variables[prefix + name] = array(dims, data, f"{text}; {order}")
    return variables


def _read_pairs(variables: Mapping[str, hdf5.Variable], prefix: str) -> Eigenpairs:
    fields = {
        field: variables[prefix + name].data
        for field, (name, _) in _PAIRS.items()
        if field not in _OPTIONAL or prefix + name in variables
    }
    return Eigenpairs(**fields)


def trace_group(trace: Trace) -> hdf5.Group:
    """The group of a trace."""
    variables = {name: number(getattr(trace, field), text) for field, (name, text) in _TRACE.items()}
    method = np.array(trace.method, dtype=object)
    variables["trace_method"] = hdf5.Variable((), method, {"long_name": "how the trace was found"})
    if trace.layers:
        dims = ("trace_layer",)
        variables["trace_layer"] = names(*dims, trace.layers, "name of the layer, or of a parameter outside any")
        text = "trace of the layer's diagonal block"
        variables["trace_by_layer"] = array(dims, [*trace.layers.values()], text)
        if trace.layers_stderr:
            errors = [trace.layers_stderr.get(name, np.nan) for name in trace.layers]
            text = "standard error of the layer's trace; by probes, of these alone"
            variables["trace_by_layer_stderr"] = array(dims, errors, text)
    return hdf5.Group(variables)


def read_trace(group: hdf5.Group) -> Trace:
    """The trace in its group."""
    v = group.variables
    known = [field for field, (name, _) in _TRACE.items() if field != "rounding" or name in v]  # not in old files
    numbers: dict[str, Any] = {field: v[_TRACE[field][0]].data.item() for field in known}
    if "trace_layer" in v:
        names = texts(v["trace_layer"])
        numbers["layers"] = dict(zip(names, v["trace_by_layer"].data.tolist(), strict=True))
        if "trace_by_layer_stderr" in v:
            numbers["layers_stderr"] = dict(zip(names, v["trace_by_layer_stderr"].data.tolist(), strict=True))
    return Trace(method=str(v["trace_method"].data), **numbers)


def _density_group(density: Density) -> hdf5.Group:
    return hdf5.Group(
        {
            name: array(_DENSITY_DIMS.get(field, ()), getattr(density, field), text)
            for field, (name, text) in _DENSITY.items()
        }
    )


def _read_density(group: hdf5.Group) -> Density:
    fields: dict[str, Any] = {}
    for field, (name, _) in _DENSITY.items():
        if field == "rounding" and name not in group.variables:  # not in old files
            continue
        data = group.variables[name].data
        fields[field] = data if field in _DENSITY_DIMS else data.item()
    return Density(**fields)
