"""Weight matrices in files.

weights     layer, tensor, kind, reason, note (matrix); model_of, larger, smaller, slices, computed (matrix); alpha,
            ... (matrix); eigenvalue (matrix, eigenvalue); null (matrix, shuffle); model (model); left_out,
            left_out_reason (left_out)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from landscape.files import hdf5
from landscape.files.fields import array, names, texts
from landscape.files.schema import read_attributes, reading
from landscape.studies.weights.metrics import EVERY
from landscape.studies.weights.result import Weights

_TEXTS = {
    "layers": ("layer", "name of the layer, and which part of its tensor"),
    "tensors": ("tensor", "name of the tensor"),
    "kinds": ("kind", "what the matrix is of"),
    "reasons": ("reason", "why alpha has no value; empty where it has"),
    "notes": ("note", "what was supposed of the tensor"),
}
_NUMBERS = {
    "model_of": ("model_of", "number of the model"),
    "larger": ("larger", "larger side of the matrix"),
    "smaller": ("smaller", "smaller side of the matrix"),
    "slices": ("slices", "matrices of these sides that are taken together"),
    "computed": ("computed", "whether the matrix was computed; elsewhere values are NaN and mean nothing"),
}


def weights_group(weights: Weights) -> hdf5.Group:
    """Variables over the dimension matrix, and their eigenvalues."""
    variables: dict[str, hdf5.Variable] = {"model": names("model", weights.models, "label of the model")}
    for field, (name, text) in _TEXTS.items():
        variables[name] = names("matrix", getattr(weights, field), text)
    for field, (name, text) in _NUMBERS.items():
        variables[name] = array(("matrix",), getattr(weights, field), text)
    for name, values in weights.values.items():
        attributes = {"long_name": EVERY[name].long_name, "units": EVERY[name].units}
        variables[name] = hdf5.Variable(("matrix",), values, attributes)
    text = "eigenvalues of W'W, ascending, NaN behind the last"
    variables["eigenvalue"] = array(("matrix", "rank"), weights.spectra, text)
    if weights.nulls.shape[1]:
        variables["null"] = array(("matrix", "shuffle"), weights.nulls, "alpha of the matrix with its entries shuffled")
    if weights.skipped:
        variables["left_out"] = names("left_out", weights.skipped, "tensor that holds no matrix")
        variables["left_out_reason"] = names("left_out", weights.skipped.values(), "why")
    return hdf5.Group(variables, {"metrics": " ".join(weights.values), "convention": weights.convention})


def read_weights(tree: hdf5.Group, path: str | Path) -> Weights:
    """The weights in the tree of a file. Raises StoreError for a newer schema or a tree without them."""
    with reading(tree, "weights", path) as group:
        v = group.variables
        found: dict[str, Any] = {field: texts(v[name]) for field, (name, _) in _TEXTS.items()}
        found |= {field: v[name].data for field, (name, _) in _NUMBERS.items()}
        rows = len(found["layers"])
        skipped = dict(zip(texts(v["left_out"]), texts(v["left_out_reason"]), strict=True)) if "left_out" in v else {}
        return Weights(
            models=texts(v["model"]),
            values={name: v[name].data for name in str(group.attributes["metrics"]).split()},
            spectra=v["eigenvalue"].data,
            nulls=v["null"].data if "null" in v else np.zeros((rows, 0)),
            skipped=skipped,
            convention=str(group.attributes["convention"]),
            attributes=read_attributes(tree, "weights", structure=("metrics", "convention")),
            **found,
        )
