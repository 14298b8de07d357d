"""Names and units of measured pairs of models in a result file; to and from its tree of groups."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from landscape_kernels.arrays import FloatArray

from landscape.files import hdf5
from landscape.files.schema import read_attributes, reading
from landscape.objective.rows import REPLICATES
from landscape.studies.connectivity.result import NUMBERS, Connectivity
from landscape.studies.path.result import BARRIER, DEFINITIONS, MC

_KINDS = {"line": "on the straight line", "curve": "on the fitted curve"}
_STRUCTURE = ("quantities", "fitted")


def connectivity_group(result: Connectivity) -> hdf5.Group:
    """Variables over (pair, t): each quantity on lines and curves and its `_stderr`; the numbers of each pair."""
    names = (
        [result.labels[i] for i in result.pairs[:, 0]],
        [result.labels[j] for j in result.pairs[:, 1]],
    )
    variables = {
        "model": _texts("model", result.labels, "name of the model"),
        "first": _texts("pair", names[0], "model at t = 0"),
        "second": _texts("pair", names[1], "model at t = 1"),
        "pairs": hdf5.Variable(("pair", "end"), result.pairs, {"long_name": "numbers of the two models"}),
        "t": hdf5.Variable(("t",), result.t, {"long_name": "place on the line or curve, 0 and 1 at the models"}),
        "computed": hdf5.Variable(("pair",), result.computed, {"long_name": "whether the pair was measured"}),
        "arc": _over(("pair", "t"), result.arc, "length of the fitted curve from 0 to t, in parameter units"),
    }
    sides = {
        "line": (result.line, result.line_stderr, result.line_replicates),
        "curve": (result.curve, result.curve_stderr, result.curve_replicates),
    }
    for kind, (values, stderr, replicates) in sides.items():
        for name, array in values.items():
            text = f"{name} {_KINDS[kind]}"
            variables[f"{kind}_{name}"] = _over(("pair", "t"), array, text)
            variables[f"{kind}_{name}_stderr"] = _over(
                ("pair", "t"), stderr[name], f"standard error of the {text}, as an estimate for the population"
            )
            if name in replicates:
                about = f"replicates of the {text} for errors of numbers made of several places: "
                variables[f"{kind}_{name}{REPLICATES}"] = _over(
                    ("pair", "t", "group"), replicates[name], about + DEFINITIONS["replicates"]
                )
    for name, array in result.numbers.items():
        variables[name] = _over(("pair",), array, NUMBERS[name].long_name)
    for name, array in result.errors.items():
        text = f"standard error of the {NUMBERS[name].long_name}, as an estimate for the population"
        variables[f"{name}_stderr"] = _over(("pair",), array, text)
    return hdf5.Group(
        variables,
        {
            "quantities": " ".join(result.line),
            "fitted": int(bool(result.curve)),
            "barrier_definition": BARRIER,
            "mc_definition": f"{MC}; it depends on the grid of t",
            "stderr_definition": DEFINITIONS["stderr"],
        },
    )


def read_connectivity(tree: hdf5.Group, path: str | Path) -> Connectivity:
    """The pairs of models in the tree of a file. Raises StoreError for a newer schema or a tree without one."""
    with reading(tree, "connectivity", path) as group:
        v = group.variables
        names = str(group.attributes["quantities"]).split()
        kinds = ("line", "curve") if int(group.attributes["fitted"]) else ("line",)

        def of(kind: str, end: str = "") -> Mapping[str, FloatArray]:
            found = {name: f"{kind}_{name}{end}" for name in names if kind in kinds}
            optional = end == REPLICATES  # which files of earlier versions do not have
            return {name: v[text].data for name, text in found.items() if text in v or not optional}

        return Connectivity(
            labels=tuple(str(label) for label in v["model"].data),
            pairs=v["pairs"].data,
            t=v["t"].data,
            line=of("line"),
            line_stderr=of("line", "_stderr"),
            curve=of("curve"),
            curve_stderr=of("curve", "_stderr"),
            line_replicates=of("line", REPLICATES),
            curve_replicates=of("curve", REPLICATES),
            arc=v["arc"].data,
            distance=v["distance"].data,
            unaligned_distance=v["unaligned_distance"].data,
            computed=v["computed"].data,
            attributes=read_attributes(
                tree,
                "connectivity",
                structure=(*_STRUCTURE, "barrier_definition", "mc_definition", "stderr_definition"),
            ),
        )


def _texts(dim: str, values: Any, long_name: str) -> hdf5.Variable:
    return hdf5.Variable((dim,), np.array(list(values), dtype=object), {"long_name": long_name})


def _over(dims: tuple[str, ...], data: FloatArray, long_name: str) -> hdf5.Variable:
    return hdf5.Variable(dims, data, {"long_name": long_name, "units": "1"})
