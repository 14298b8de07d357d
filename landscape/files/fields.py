"""Variables of a group from a table of fields, and back."""

from __future__ import annotations

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


def texts(variable: hdf5.Variable) -> tuple[str, ...]:
    """The texts that a variable holds."""
    return tuple(str(text) for text in variable.data)


def flat(group: hdf5.Group) -> dict[str, hdf5.Variable]:
    """All variables of a group and of the groups inside, by their names."""
    return {name: v for part in (group, *group.groups.values()) for name, v in part.variables.items()}
