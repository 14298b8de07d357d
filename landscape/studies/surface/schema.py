"""Surfaces in files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from landscape_kernels.arrays import FloatArray

from landscape.files import hdf5
from landscape.files.schema import read_attributes, reading
from landscape.planes.grid import Grid
from landscape.precise.told import error_variables, found_variable, read_errors
from landscape.results.quantities import long_name
from landscape.results.study import place_text
from landscape.studies.surface.result import Points, Surface


def surface_group(surface: Surface) -> hdf5.Group:
    """Variables over dimensions (..., y, x): each quantity, its `_stderr`, `computed`, and the coordinates.

    Of surfaces measured to a stated error `_error` of each quantity and its parts, and `found`, too.
    """
    dims = tuple(surface.axes)[::-1]
    variables: dict[str, hdf5.Variable] = {}
    for name, coordinates in surface.axes.items():
        text = f"coordinate along direction {name}: theta = centre + {' + '.join(f'{a} d_{a}' for a in surface.axes)}"
        variables[name] = hdf5.Variable((name,), coordinates, {"long_name": text, "units": "1"})
    for name, values in surface.values.items():
        variables[name] = hdf5.Variable(dims, values, {"long_name": long_name(name), "units": "1"})
        variables[f"{name}_stderr"] = hdf5.Variable(
            dims,
            surface.stderr[name],
            {"long_name": f"standard error of {name} over samples, as an estimate for the population", "units": "1"},
        )
        variables |= error_variables(surface, name, dims)
    variables |= found_variable(surface, dims)
    computed = {"long_name": "whether the point was computed; elsewhere values are NaN and mean nothing", "units": "1"}
    variables["computed"] = hdf5.Variable(dims, surface.computed, computed)
    groups = {"points": _points_group(surface.points, tuple(surface.axes))} if surface.points else {}
    return hdf5.Group(variables, {"axes": " ".join(surface.axes), "quantities": " ".join(surface.values)}, groups)


def read_surface(tree: hdf5.Group, path: str | Path) -> Surface:
    """The surface in the tree of a file. Raises StoreError for a newer schema or a tree without one."""
    with reading(tree, "surface", path) as group:
        axes = {name: group.variables[name].data for name in str(group.attributes["axes"]).split()}
        names = str(group.attributes["quantities"]).split()
        values = {name: group.variables[name].data for name in names}
        stderr = {name: group.variables[f"{name}_stderr"].data for name in names}
        computed = group.variables["computed"].data
        points = _read_points(group.groups["points"]) if "points" in group.groups else None
        attributes = read_attributes(tree, "surface", structure=("axes", "quantities"))
        errors = read_errors(group.variables, names)
        if attributes.get("failures") and attributes.get("task") == "surface":
            attributes["failures"] = [_placed(failure, axes) for failure in attributes["failures"]]
    return Surface(axes, values, stderr, computed, points, attributes, **errors)


def _points_group(points: Points, axes: tuple[str, ...]) -> hdf5.Group:
    def over(dims: tuple[str, ...], data: Any, long_name: str) -> hdf5.Variable:
        return hdf5.Variable(dims, np.asarray(data), {"long_name": long_name, "units": "1"})

    variables = {
        "label": hdf5.Variable(("point",), np.array(points.labels, dtype=object), {"long_name": "name of the point"}),
        "distance": over(("point",), points.distance, "Euclidean distance from the plane in parameter space"),
    }
    for i, axis in enumerate(axes):
        # Not named like the axis alone: as a tree, xarray shows the surface's axis under that name in here.
        variables[f"{axis}_coordinate"] = over(
            ("point",), points.coordinates[:, i], f"least-squares coordinate along direction {axis}"
        )
    for name in points.true:
        variables[f"{name}_true"] = over(("point",), points.true[name], f"{name} at the point itself")
        variables[f"{name}_projected"] = over(
            ("point",), points.projected[name], f"{name} at the point's projection on the plane"
        )
    if points.explained_variance is not None:
        variables["explained_variance"] = over(
            ("axis",), points.explained_variance, "fraction of the trajectory's variance along each axis"
        )
    return hdf5.Group(variables, {"kind": points.kind, "axes": " ".join(axes)})


def _read_points(group: hdf5.Group) -> Points:
    v = group.variables
    axes = str(group.attributes["axes"]).split()
    quantities = [name.removesuffix("_true") for name in v if name.endswith("_true")]
    coordinates: FloatArray = np.stack([v[f"{axis}_coordinate"].data for axis in axes], axis=1)
    return Points(
        kind=str(group.attributes["kind"]),
        labels=tuple(str(label) for label in v["label"].data),
        coordinates=coordinates,
        distance=v["distance"].data,
        true={q: v[f"{q}_true"].data for q in quantities},
        projected={q: v[f"{q}_projected"].data for q in quantities},
        explained_variance=v["explained_variance"].data if "explained_variance" in v else None,
    )


def _placed(failure: Mapping[str, Any], axes: Mapping[str, FloatArray]) -> Mapping[str, Any]:
    """A failure with its place, which files of before did not tell."""
    grid = Grid(axes)
    if "where" in failure or int(failure["item"]) >= grid.size:
        return failure
    place = dict(zip(axes, grid.coordinates(int(failure["item"])), strict=True))
    return {**failure, "where": place_text(place)}
