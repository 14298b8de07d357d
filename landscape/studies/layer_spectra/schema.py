"""Spectra of layers in files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from landscape.files import hdf5
from landscape.files.fields import array, names, number, texts
from landscape.files.schema import read_attributes, reading
from landscape.studies.layer_spectra.result import LayerSpectra
from landscape.studies.spectrum.schema import COUNTS, LISTS, Names, read_trace, trace_group

_LAYERS: Names = {
    "sizes": ("layer_size", "number of parameters of the layer"),
    "eigenvalues": ("eigenvalue", "eigenvalue of the layer's diagonal block, from the largest down"),
    "residuals": ("residual", "|A v - lambda v| / |lambda| in the layer's block"),
    "stderr": ("eigenvalue_stderr", "standard error of the eigenvalue over data, as an estimate for the population"),
    "converged": ("converged", "whether the residual reached the tolerance"),
    "trace": ("layer_trace", "trace of the layer's diagonal block"),
    "trace_stderr": (
        "layer_trace_stderr",
        "standard error of the layer's trace; by probes, of these alone",
    ),
    "rounding": ("rounding", "what rounding of products may move the eigenvalue by, relative to it"),
    **LISTS,
    "computed": ("computed", "whether the layer was computed; elsewhere values are NaN and mean nothing"),
}
_RANKED = ("eigenvalues", "residuals", "stderr", "converged", "rounding")
_LATER = ("rounding", *LISTS)  # not in old files


def read_layers(tree: hdf5.Group, path: str | Path) -> LayerSpectra:
    """The spectra of layers in the tree of a file. Raises StoreError for a newer schema or a tree without them."""
    with reading(tree, "layer_spectra", path) as group:
        v = group.variables
        known = [field for field, (name, _) in _LAYERS.items() if name in v or field not in _LATER]
        arrays: dict[str, Any] = {field: v[_LAYERS[field][0]].data for field in known}
        sizes = tuple(int(size) for size in arrays.pop("sizes"))
        return LayerSpectra(
            layers=texts(v["layer"]),
            sizes=sizes,
            **arrays,
            products=int(v["products"].data),
            passes=int(v["passes"].data),
            whole_trace=read_trace(group.groups["trace"]) if "trace" in group.groups else None,
            attributes=read_attributes(tree, "layer_spectra"),
        )


def layers_group(layers: LayerSpectra) -> hdf5.Group:
    """Variables over the dimensions layer and rank; the sub-group "trace" for the trace of the whole matrix."""
    variables = {"layer": names("layer", layers.layers, "name of the layer")}
    for field, (name, text) in _LAYERS.items():
        dims = ("layer", "rank") if field in _RANKED else ("layer",)
        if getattr(layers, field) is not None:
            variables[name] = array(dims, getattr(layers, field), text)
    for field in ("products", "passes"):
        name, text = COUNTS[field]
        variables[name] = number(getattr(layers, field), text)
    groups = {"trace": trace_group(layers.whole_trace)} if layers.whole_trace is not None else {}
    return hdf5.Group(variables, {}, groups)
