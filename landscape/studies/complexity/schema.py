"""Generalisation measures in files.

complexity  measure, formula, source, unit, reason, note (measure); value, stderr, adjusted, adjusted_stderr, n, passes,
            computed (measure)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from landscape.files import hdf5
from landscape.files.fields import array, names, texts
from landscape.files.schema import read_attributes, reading
from landscape.studies.complexity.result import Complexity

_TEXTS = {
    "names": ("measure", "name of the measure"),
    "formulas": ("formula", "definition of the measure"),
    "sources": ("source", "where it is from"),
    "units": ("unit", "what the error is over"),
    "reasons": ("reason", "why the measure has no value; empty where it has"),
    "notes": ("note", "what is to be said of the value"),
}
_NUMBERS = {
    "value": ("value", "value before adjustment"),
    "stderr": ("stderr", "standard error of value"),
    "adjusted_value": ("adjusted", "value after adjustment; NaN for measures without one"),
    "adjusted_stderr": ("adjusted_stderr", "standard error of adjusted"),
    "n": ("n", "number of what the error is over"),
    "passes": ("passes", "passes over the data: 1 forward, 2 more backward"),
    "computed": ("computed", "whether the measure was computed or skipped; elsewhere values mean nothing"),
}


def complexity_group(complexity: Complexity) -> hdf5.Group:
    """Variables over the dimension measure."""
    variables: dict[str, hdf5.Variable] = {}
    for field, (name, text) in _TEXTS.items():
        variables[name] = names("measure", getattr(complexity, field), text)
    for field, (name, text) in _NUMBERS.items():
        variables[name] = array(("measure",), getattr(complexity, field), text)
    return hdf5.Group(variables, {})


def read_complexity(tree: hdf5.Group, path: str | Path) -> Complexity:
    """The measures in the tree of a file. Raises StoreError for a newer schema or a tree without them."""
    with reading(tree, "complexity", path) as group:
        v = group.variables
        found: dict[str, Any] = {field: texts(v[name]) for field, (name, _) in _TEXTS.items()}
        found |= {field: v[name].data for field, (name, _) in _NUMBERS.items()}
        return Complexity(attributes=read_attributes(tree, "complexity"), **found)
