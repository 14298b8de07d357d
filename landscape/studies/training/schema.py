"""Names and long names of a training in a file, and back.

training    key_NAME (model), ..., seed (model); loss (model, epoch), loss_stderr, error, test_loss, ...; epoch
            (epoch); kept, epochs, steps, ended, left_out, paths, computed (model)
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from landscape.files import hdf5
from landscape.files.fields import array, mixed, mixed_values, names, texts
from landscape.files.schema import read_attributes, reading
from landscape.studies.training.result import MEANINGS, Training

_KEY = "key_"  # before the name of a key of the cells, which may be that of another variable
_ONE = ("model",)
_NUMBERS = {
    "kept": "epoch of the final weights, -1 where the model is not trained",
    "epochs": "epochs that were begun",
    "steps": "steps of the optimiser",
}


def training_group(training: Training) -> hdf5.Group:
    """Variables over the dimensions model and epoch; epoch 0 is before the first step."""
    variables = {
        f"{_KEY}{name}": mixed("model", column, f"key of the cells: {name}") for name, column in training.keys.items()
    }
    variables["seed"] = array(_ONE, np.array(training.seed, dtype=np.int64), "seed of the model")
    longest = max((values.shape[1] for values in training.values.values()), default=0)
    variables["epoch"] = array(("epoch",), np.arange(longest), "epochs that have passed")
    for name, values in training.values.items():
        meaning = MEANINGS[name]
        told = {"long_name": meaning.long_name, "units": meaning.units}
        error = {"long_name": f"standard error of {name}, for the population", "units": meaning.units}
        variables[name] = hdf5.Variable(("model", "epoch"), values, told)
        variables[f"{name}_stderr"] = hdf5.Variable(("model", "epoch"), training.stderr[name], error)
    for name, told_of in _NUMBERS.items():
        variables[name] = array(_ONE, getattr(training, name), told_of)
    variables["ended"] = names("model", training.ended, "why the training ended")
    left = [training.left_out.get(row, "") for row in range(len(training.seed))]
    variables["left_out"] = names("model", left, "why the model is left out")
    variables["paths"] = names("model", training.paths, "folder of the model's weights, from that of the run")
    variables["computed"] = array(_ONE, training.computed, "whether the model was trained; elsewhere values are NaN")
    structure = {"keys": json.dumps(list(training.keys)), "quantities": " ".join(training.values)}
    return hdf5.Group(variables, structure)


def read_training(tree: hdf5.Group, path: str | Path) -> Training:
    """The training in the tree of a file. Raises StoreError for a newer schema or a tree without one."""
    with reading(tree, "training", path) as group:
        v = group.variables
        quantities = str(group.attributes["quantities"]).split()
        return Training(
            keys={name: mixed_values(v[f"{_KEY}{name}"]) for name in json.loads(str(group.attributes["keys"]))},
            seed=tuple(v["seed"].data.tolist()),
            values={name: v[name].data for name in quantities},
            stderr={name: v[f"{name}_stderr"].data for name in quantities},
            kept=v["kept"].data,
            epochs=v["epochs"].data,
            steps=v["steps"].data,
            ended=texts(v["ended"]),
            left_out={row: text for row, text in enumerate(texts(v["left_out"])) if text},
            computed=v["computed"].data,
            paths=texts(v["paths"]),
            attributes=read_attributes(tree, "training", structure=("keys", "quantities")),
            folder=Path(path).parent,
        )
