"""Names and units of a curve in a result file; curves to and from its tree of groups."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from landscape.files import hdf5
from landscape.files.schema import read_attributes, reading
from landscape.studies.curve.result import Curve


def curve_group(curve: Curve) -> hdf5.Group:
    """Control points over (control_point, parameter), and the training history over epochs."""
    points = curve.control_points.cpu().numpy()
    text = "control points of the curve, in the order of named_parameters()"
    variables = {
        "control_points": hdf5.Variable(("control_point", "parameter"), points, {"long_name": text, "units": "1"})
    }
    for name, values in curve.history.items():
        text = "step size" if name == "lr" else f"{name} of the training batches at their places t, mean over the epoch"
        variables[f"history_{name}"] = hdf5.Variable(("epoch",), values, {"long_name": text, "units": "1"})
    shape = {"kind": curve.kind, "length": curve.length, "distance": curve.distance, "history": " ".join(curve.history)}
    return hdf5.Group(variables, shape)


def read_curve(tree: hdf5.Group, path: str | Path) -> Curve:
    """The curve in the tree of a file. Raises StoreError for a newer schema or a tree without one."""
    with reading(tree, "curve", path) as group:
        names = str(group.attributes["history"]).split()
        history = {name: group.variables[f"history_{name}"].data for name in names}
        points = torch.from_numpy(np.asarray(group.variables["control_points"].data))
        kind = str(group.attributes["kind"])
        attributes = read_attributes(tree, "curve", structure=("kind", "length", "distance", "history"))
    return Curve(kind, points, attributes, history)
