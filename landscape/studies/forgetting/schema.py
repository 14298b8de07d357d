"""Forgetting in files.

forgetting  key_NAME (pair), ..., seed, task, later (pair); QUANTITY (pair), QUANTITY_stderr, ...; layer (layer);
            layer_QUANTITY (pair, layer), layer_QUANTITY_stderr; computed (pair)
"""

from __future__ import annotations

import json
from pathlib import Path

from landscape.files import hdf5
from landscape.files.fields import array, names, texts, values, values_of
from landscape.files.schema import read_attributes, reading
from landscape.studies.forgetting.result import MEANINGS, OF_LAYERS, Forgetting, meaning_of

_KEY = "key_"  # before the name of a key of the cells, which may be that of another variable
_STRUCTURE = ("keys", "quantities", "sequence_key")


def forgetting_group(forgetting: Forgetting) -> hdf5.Group:
    """Variables over the dimensions pair and layer."""
    f = forgetting
    variables = {
        f"{_KEY}{name}": values("pair", column, f"key of the cells: {name}") for name, column in f.keys.items()
    }
    variables["seed"] = values("pair", f.seed, "seed of the models")
    variables["task"] = values("pair", f.task, f"the task: its {f.sequence}")
    variables["later"] = values("pair", f.later, f"the later task: its {f.sequence}")
    for name, column in f.values.items():
        meaning = meaning_of(name)
        variables[name] = hdf5.Variable(("pair",), column, {"long_name": meaning.long_name, "units": meaning.units})
        if name in f.stderr:
            about = {"long_name": f"standard error of {name}, for the population", "units": meaning.units}
            variables[f"{name}_stderr"] = hdf5.Variable(("pair",), f.stderr[name], about)
    variables["layer"] = names("layer", f.layers, "module that the parameters belong to")
    for name in OF_LAYERS:
        said = f"part of the layer in the {MEANINGS[name].words}" if name != "distance" else "distance of its weights"
        variables[f"layer_{name}"] = array(("pair", "layer"), f.layer_values[name], said)
        if name in f.layer_stderr:
            said = f"standard error of layer_{name}, for the population"
            variables[f"layer_{name}_stderr"] = array(("pair", "layer"), f.layer_stderr[name], said)
    variables["computed"] = array(("pair",), f.computed, "whether the pair was computed; elsewhere values are NaN")
    structure = {"keys": json.dumps(list(f.keys)), "quantities": " ".join(f.values), "sequence_key": f.sequence}
    return hdf5.Group(variables, structure)


def read_forgetting(tree: hdf5.Group, path: str | Path) -> Forgetting:
    """The forgetting in the tree of a file. Raises StoreError for a newer schema or a tree without it."""
    with reading(tree, "forgetting", path) as group:
        v = group.variables
        quantities = str(group.attributes["quantities"]).split()
        return Forgetting(
            sequence=str(group.attributes["sequence_key"]),
            keys={name: values_of(v[f"{_KEY}{name}"]) for name in json.loads(str(group.attributes["keys"]))},
            seed=values_of(v["seed"]),
            task=values_of(v["task"]),
            later=values_of(v["later"]),
            layers=texts(v["layer"]),
            values={name: v[name].data for name in quantities},
            stderr={name: v[f"{name}_stderr"].data for name in quantities if f"{name}_stderr" in v},
            layer_values={name: v[f"layer_{name}"].data for name in OF_LAYERS},
            layer_stderr={name: v[f"layer_{name}_stderr"].data for name in OF_LAYERS if f"layer_{name}_stderr" in v},
            computed=v["computed"].data,
            attributes=read_attributes(tree, "forgetting", structure=_STRUCTURE),
        )
