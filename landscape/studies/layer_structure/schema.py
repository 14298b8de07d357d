"""The structure of layers in files.

layer_structure   layer (layer); NAME (layer) or (layer, rank), ...; in the sub-group "factors" the groups "outputs" and
                  "inputs" with E[M] and E[x x'] of each layer
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from landscape_kernels.arrays import FloatArray

from landscape.files import hdf5
from landscape.files.fields import array, names, number, texts
from landscape.files.schema import read_attributes, reading
from landscape.studies.layer_structure.result import LayerStructure

_STDERR = "standard error, for the population: "
_RANKED = {
    "output_eigenvalues": "eigenvalues of E[M], the mean Gauss-Newton Hessian of the loss in the layer's outputs",
    "output_stderr": _STDERR + "eigenvalues of E[M]",
    "input_eigenvalues": "eigenvalues of E[x x'], the mean of the products of the layer's inputs",
    "input_stderr": _STDERR + "eigenvalues of E[x x']",
    "kronecker": "largest eigenvalues of the Kronecker product of E[M] and E[x x']",
    "kronecker_stderr": _STDERR + "largest eigenvalues of the Kronecker product",
    "eigenvalues": "largest eigenvalues of the block of the layer's weight",
    "stderr": _STDERR + "largest eigenvalues of the block",
    "residuals": "|A v - lambda v| / |lambda| in the block",
    "rounding": "what rounding of products may move the block's eigenvalue by, relative to it",
    "converged": "whether the residual reached the tolerance",
    "overlap": "overlap of as many leading eigenvectors as the rank, of the block with the Kronecker product",
    "rank_one": "squared largest singular value over squared norm of the block's eigenvector reshaped as the weight",
    "other_overlap": "overlap of as many leading eigenvectors as the rank, of the block with the other model's",
}
_SINGLE = {
    "outputs": "outputs m of the layer",
    "inputs": "inputs p of the layer; of a convolution the values under its kernel",
    "places": "positions at which the layer is used for one sample",
    "mean_alignment": "|cosine| of the first eigenvector of E[x x'] with E[x]",
    "computed": "whether the layer was computed; elsewhere values are NaN and mean nothing",
}
_COUNTS = {
    "products": "matrix-vector products for the eigenvalues of blocks",
    "passes": "passes over the data for the eigenvalues of blocks",
}
_FACTORS = {"outputs": "E[M] of the layer", "inputs": "E[x x'] of the layer"}
_TENSOR = "tensor"  # attribute of a variable: the name of its layer


def structure_group(result: LayerStructure) -> hdf5.Group:
    """Variables over the dimensions layer and rank; the sub-group "factors" with the matrices of each layer."""
    variables = {"layer": names("layer", result.layers, "name of the layer")}
    for name, text in _RANKED.items():
        if getattr(result, name) is not None:
            variables[name] = array(("layer", "rank"), getattr(result, name), text)
    variables |= {name: array(("layer",), getattr(result, name), text) for name, text in _SINGLE.items()}
    variables |= {name: number(getattr(result, name), text) for name, text in _COUNTS.items()}
    groups = {
        side: _matrices(matrices, side)
        for side, matrices in (("outputs", result.output_factors), ("inputs", result.input_factors))
    }
    return hdf5.Group(variables, {}, {"factors": hdf5.Group({}, {}, groups)})


def read_structure(tree: hdf5.Group, path: str | Path) -> LayerStructure:
    """The structure in the tree of a file. Raises StoreError for a newer schema or a tree without one."""
    with reading(tree, "layer_structure", path) as group:
        v = group.variables
        fields: dict[str, Any] = {name: v[name].data for name in (*_RANKED, *_SINGLE) if name in v}
        sides = group.groups["factors"].groups
        return LayerStructure(
            layers=texts(v["layer"]),
            **fields,
            products=int(v["products"].data),
            passes=int(v["passes"].data),
            output_factors=_read_matrices(sides["outputs"]),
            input_factors=_read_matrices(sides["inputs"]),
            attributes=read_attributes(tree, "layer_structure"),
        )


def _matrices(matrices: Mapping[str, FloatArray], side: str) -> hdf5.Group:
    inside = {}
    for layer, matrix in matrices.items():
        key = layer.replace("/", "|")  # which parts the names of groups
        plain = array((f"{key}@0", f"{key}@1"), matrix, _FACTORS[side])
        inside[key] = hdf5.Variable(plain.dims, plain.data, {**plain.attributes, _TENSOR: layer})
    return hdf5.Group(inside)


def _read_matrices(group: hdf5.Group) -> dict[str, FloatArray]:
    return {str(variable.attributes[_TENSOR]): variable.data for variable in group.variables.values()}
