"""Measures in files.

measures    row (row), group (row), key_NAME (row), ...; QUANTITY (row), QUANTITY_stderr (row), ...; computed (row);
            in the sub-group "arrays" a group for each quantity of tensors, with a variable for each tensor
"""

from __future__ import annotations

import json
from pathlib import Path

from landscape.files import hdf5
from landscape.files.fields import array, names, texts, values_of
from landscape.files.fields import values as plain_values
from landscape.files.schema import read_attributes, reading
from landscape.studies.measures.result import Measures

_STRUCTURE = ("quantities", "row_kind", "keys")
_KEY = "key_"  # before the name of a key, which may be that of another variable
_TENSOR = "tensor"  # attribute of a variable: the name of its tensor


def measures_group(measures: Measures) -> hdf5.Group:
    """Variables over the dimension row; the sub-group "arrays" with a group for each quantity of tensors."""
    variables = {"row": names("row", measures.rows, f"name of the {measures.row_kind}")}
    if measures.groups:
        variables["group"] = names("row", measures.groups, f"group of the {measures.row_kind}")
    for name, column in measures.keys.items():
        variables[f"{_KEY}{name}"] = plain_values("row", column, f"key of the {measures.row_kind}: {name}")
    for name, values in measures.values.items():
        variables[name] = _variable(measures, name, ("row",), values)
        if name in measures.stderr:
            variables[f"{name}_stderr"] = _variable(measures, name, ("row",), measures.stderr[name], "standard error: ")
    text = "whether the row was computed; elsewhere values are NaN and mean nothing"
    variables["computed"] = array(("row",), measures.computed, text)
    groups = {}
    for name, tensors in measures.arrays.items():
        inside = {}
        for tensor, values in tensors.items():
            key = tensor.replace("/", "|")  # which parts the names of groups
            dims = tuple(f"{key}@{axis}" for axis in range(values.ndim))
            variable = _variable(measures, name, dims, values)
            inside[key] = hdf5.Variable(dims, variable.data, {**variable.attributes, _TENSOR: tensor})
        groups[name] = hdf5.Group(inside, {"tensors": " ".join(inside)})
    arrays = {"arrays": hdf5.Group({}, {}, groups)} if groups else {}
    structure = {"quantities": " ".join(measures.values), "row_kind": measures.row_kind}
    structure |= {"keys": json.dumps(list(measures.keys))} if measures.keys else {}
    return hdf5.Group(variables, structure, arrays)


def read_measures(tree: hdf5.Group, path: str | Path) -> Measures:
    """The measures in the tree of a file. Raises StoreError for a newer schema or a tree without them."""
    with reading(tree, "measures", path) as group:
        v = group.variables
        quantities = str(group.attributes["quantities"]).split()
        defined = {name: v[name].attributes for name in quantities}
        arrays = {}
        for name, child in group.groups.get("arrays", hdf5.Group()).groups.items():
            keys = str(child.attributes["tensors"]).split()
            inside = [child.variables[key] for key in keys]
            arrays[name] = {str(variable.attributes[_TENSOR]): variable.data for variable in inside}
            if inside and name not in defined:
                defined[name] = inside[0].attributes
        return Measures(
            rows=texts(v["row"]),
            row_kind=str(group.attributes["row_kind"]),
            values={name: v[name].data for name in quantities},
            stderr={name: v[f"{name}_stderr"].data for name in quantities if f"{name}_stderr" in v},
            words={name: str(about["long_name"]) for name, about in defined.items() if "long_name" in about},
            computed=v["computed"].data,
            units={name: str(about["units"]) for name, about in defined.items() if about.get("units", "1") != "1"},
            groups=texts(v["group"]) if "group" in v else (),
            arrays=arrays,
            keys={name: values_of(v[f"{_KEY}{name}"]) for name in json.loads(str(group.attributes.get("keys", "[]")))},
            attributes=read_attributes(tree, "measures", _STRUCTURE),
        )


def _variable(measures: Measures, name: str, dims: tuple[str, ...], values: object, of: str = "") -> hdf5.Variable:
    plain = array(dims, values, of + measures.words.get(name, name))
    return hdf5.Variable(dims, plain.data, {**plain.attributes, "units": measures.units.get(name, "1")})
