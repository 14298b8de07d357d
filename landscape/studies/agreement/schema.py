"""Names and long names of an agreement in a file, and back.

agreement   model (model); first, second (pair); cka (pair), cka_stderr, ...; feature (feature), feature_cka (feature,
            pair), ... for the activations of named modules; samples
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from landscape_kernels.arrays import FloatArray

from landscape.files import hdf5
from landscape.files.schema import read_attributes, reading
from landscape.studies.agreement.result import MEASURES, Agreement


def agreement_group(agreement: Agreement) -> hdf5.Group:
    """Variables over the dimension pair, and over (feature, pair) for modules; the models of each pair by number."""
    first, second = agreement.pairs.T
    variables = {
        "model": _names("model", agreement.labels, "name of the model"),
        "first": hdf5.Variable(("pair",), first, {"long_name": "number of the pair's first model"}),
        "second": hdf5.Variable(("pair",), second, {"long_name": "number of the pair's second model"}),
        "samples": hdf5.Variable((), np.array(agreement.samples), {"long_name": "samples behind the values"}),
    }
    measures = [name for name in agreement.values if ":" not in name]
    features = list(dict.fromkeys(name.partition(":")[2] for name in agreement.values if ":" in name))
    for name in measures:
        variables |= _measure(name, ("pair",), agreement.values[name], agreement.stderr.get(name))
    if features:
        variables["feature"] = _names("feature", features, "name of the module")
        for name in ("cka", "cka_unbiased"):
            values, stderr = (
                np.stack([source[f"{name}:{feature}"] for feature in features])
                for source in (agreement.values, agreement.stderr)
            )
            variables |= _measure(f"feature_{name}", ("feature", "pair"), values, stderr)
    return hdf5.Group(variables, {"measures": " ".join(measures)})


def read_agreement(tree: hdf5.Group, path: str | Path) -> Agreement:
    """The agreement in the tree of a file. Raises StoreError for a newer schema or a tree without one."""
    with reading(tree, "agreement", path) as group:
        v = group.variables
        names = str(group.attributes["measures"]).split()
        values: dict[str, FloatArray] = {name: v[name].data for name in names}
        stderr: dict[str, FloatArray] = {n: v[f"{n}_stderr"].data for n in names if f"{n}_stderr" in v}
        for k, feature in enumerate(v["feature"].data if "feature" in v else ()):
            for name in ("cka", "cka_unbiased"):
                values[f"{name}:{feature}"] = v[f"feature_{name}"].data[k]
                stderr[f"{name}:{feature}"] = v[f"feature_{name}_stderr"].data[k]
        return Agreement(
            labels=tuple(str(label) for label in v["model"].data),
            pairs=np.stack([v["first"].data, v["second"].data], axis=1),
            values=values,
            stderr=stderr,
            samples=int(v["samples"].data),
            attributes=read_attributes(tree, "agreement", structure=("measures",)),
        )


def _measure(name: str, dims: tuple[str, ...], values: FloatArray, stderr: FloatArray | None) -> dict[str, Any]:
    meaning = MEASURES[name.removeprefix("feature_")]
    text = meaning.long_name + (" of the module's activations" if name.startswith("feature_") else "")
    found = {name: hdf5.Variable(dims, values, {"long_name": text, "units": meaning.units})}
    if stderr is not None:
        attributes = {"long_name": f"standard error of {name}, for the population", "units": meaning.units}
        found[f"{name}_stderr"] = hdf5.Variable(dims, stderr, attributes)
    return found


def _names(dim: str, names: Any, long_name: str) -> hdf5.Variable:
    return hdf5.Variable((dim,), np.array(list(names), dtype=object), {"long_name": long_name})
