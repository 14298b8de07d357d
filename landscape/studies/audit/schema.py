"""An audit in files.

audit       key_NAME (model), ..., seed, samples, test_error, computed, note (model); measure_name (measure); table
            (measure, model), stderr (measure, model);
            in the sub-group "comparisons" measure (comparison), knob, first, second, setting, pairs, matched, verdict,
            note, and the numbers ratio, ratio_low, ...;
            in the sub-group "orders" measure (line), key, setting, pairs, apart, verdict, note, order, ...
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from landscape.files import hdf5
from landscape.files.fields import array, names, texts, values, values_of
from landscape.files.schema import read_attributes, reading
from landscape.studies.audit.result import ORDER_WORDS, WORDS, Audit, Comparisons, Orders

_KEY = "key_"  # before the name of a key of the cells, which may be that of another variable
_ONE = ("model",)
_TEXTS: Mapping[str, str] = {
    "measure": "name of the measure",
    "knob": "what was changed",
    "first": "its first value",
    "second": "its second value",
    "key": "what makes the data harder",
    "setting": "the other keys that vary",
    "verdict": "what follows from the numbers",
    "note": "what is to be said of them",
}
_COUNTS: Mapping[str, str] = {
    "pairs": "pairs of cells of as many training samples",
    "matched": "pairs whose test errors agree and whose measures have values",
    "apart": "pairs whose test errors differ by more than `within`",
}
_COMPARED = ("measure", "knob", "first", "second", "setting", "verdict", "note")
_ORDERED = ("measure", "key", "setting", "verdict", "note")


def audit_group(audit: Audit) -> hdf5.Group:
    """Variables over models and measures; comparisons and orders in sub-groups."""
    variables = {
        f"{_KEY}{k}": values("model", column, f"key of the cells: {name}")
        for k, (name, column) in enumerate(audit.keys.items())
    }
    variables["seed"] = array(_ONE, np.array(audit.seed, dtype=np.int64), "seed of the model")
    variables["samples"] = array(_ONE, audit.samples, "samples of the training set")
    variables["test_error"] = array(_ONE, audit.test_error, "share of test samples predicted wrong")
    variables["computed"] = array(_ONE, audit.computed, "whether the model was measured; elsewhere values are NaN")
    variables["note"] = names("model", audit.note, "measures without a value, and why")
    variables["measure_name"] = names("measure", audit.values, "name of the measure")
    for name, columns, told in (
        ("table", audit.values, "value of each measure for each model; NaN where it has none"),
        ("stderr", audit.stderr, "its own standard error; NaN where it is not known"),
    ):
        cells = np.array(list(columns.values()), dtype=np.float64).reshape(len(columns), len(audit.seed))
        variables[name] = array(("measure", "model"), cells, told)
    groups = {
        "comparisons": hdf5.Group(_rows(audit.comparisons, "comparison", _COMPARED, ("pairs", "matched"), WORDS)),
        "orders": hdf5.Group(_rows(audit.orders, "line", _ORDERED, ("pairs", "apart"), ORDER_WORDS)),
    }
    return hdf5.Group(variables, {"keys": json.dumps(list(audit.keys))}, groups)


def _rows(
    rows: Any, dim: str, said: tuple[str, ...], counts: tuple[str, ...], words: Mapping[str, str]
) -> dict[str, hdf5.Variable]:
    return {
        **{name: names(dim, getattr(rows, name), _TEXTS[name]) for name in said},
        **{name: array((dim,), getattr(rows, name), _COUNTS[name]) for name in counts},
        **{name: array((dim,), rows.values[name], told) for name, told in words.items()},
    }


def read_audit(tree: hdf5.Group, path: str | Path) -> Audit:
    """The audit in the tree of a file. Raises StoreError for a newer schema or a tree without one."""
    with reading(tree, "audit", path) as group:
        v = group.variables
        compared, ordered = group.groups["comparisons"].variables, group.groups["orders"].variables
        measures = texts(v["measure_name"])
        return Audit(
            keys={name: values_of(v[f"{_KEY}{k}"]) for k, name in enumerate(json.loads(str(group.attributes["keys"])))},
            seed=tuple(v["seed"].data.tolist()),
            samples=v["samples"].data,
            test_error=v["test_error"].data,
            values=dict(zip(measures, v["table"].data, strict=True)),
            stderr=dict(zip(measures, v["stderr"].data, strict=True)),
            computed=v["computed"].data,
            note=texts(v["note"]),
            comparisons=Comparisons(
                **{name: texts(compared[name]) for name in _COMPARED},
                pairs=compared["pairs"].data,
                matched=compared["matched"].data,
                values={name: compared[name].data for name in WORDS},
            ),
            orders=Orders(
                **{name: texts(ordered[name]) for name in _ORDERED},
                pairs=ordered["pairs"].data,
                apart=ordered["apart"].data,
                values={name: ordered[name].data for name in ORDER_WORDS},
            ),
            attributes=read_attributes(tree, "audit", structure=("keys",)),
        )
