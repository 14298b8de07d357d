"""Variables of a group from a table of fields, and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from landscape.files import hdf5


def array(dims: tuple[str, ...], data: Any, long_name: str) -> hdf5.Variable:
    """A variable over named dimensions."""
    return hdf5.Variable(dims, np.asarray(data), {"long_name": long_name, "units": "1"})


def number(value: float, long_name: str) -> hdf5.Variable:
    """A variable of a single number."""
    return array((), value, long_name)


def names(dim: str, names: Any, long_name: str) -> hdf5.Variable:
    """A variable of texts over one dimension."""
    return hdf5.Variable((dim,), np.array(list(names), dtype=object), {"long_name": long_name})


def mixed(dim: str, column: Sequence[Any], long_name: str) -> hdf5.Variable:
    """A variable of plain values over one dimension: numbers where all are of one type, else JSON texts."""
    for kind, dtype in ((int, np.int64), (float, np.float64)):
        if all(type(value) is kind for value in column):
            return array((dim,), np.array(column, dtype=dtype), long_name)
    return names(dim, [json.dumps(value) for value in column], f"{long_name}, as JSON")


def mixed_values(variable: hdf5.Variable) -> tuple[Any, ...]:
    """The plain values that a variable of `mixed` holds."""
    data = variable.data
    return tuple(data.tolist() if data.dtype.kind in "if" else (json.loads(str(text)) for text in data))


def texts(variable: hdf5.Variable) -> tuple[str, ...]:
    """The texts that a variable holds."""
    return tuple(str(text) for text in variable.data)


def flat(group: hdf5.Group) -> dict[str, hdf5.Variable]:
    """All variables of a group and of the groups inside, by their names."""
    return {name: v for part in (group, *group.groups.values()) for name, v in part.variables.items()}
