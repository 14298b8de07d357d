"""Names, units and version of what a result file holds; surfaces to and from its tree of groups."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from landscape import hdf5
from landscape.errors import InputError, StoreError
from landscape.provenance import engine_version
from landscape.results import FloatArray, Points, Surface

if TYPE_CHECKING:
    import xarray

SCHEMA_VERSION = 1

_STRUCTURED = ("plane", "metrics", "attempts", "libraries")  # root attributes that are JSON text in the file

_LONG_NAMES = {
    "loss": "loss per sample",
    "accuracy": "fraction of predictions that are right",
    "error": "fraction of predictions that are wrong",
}


def write_surface(path: str | Path, surface: Surface) -> Path:
    """Write one surface as a file with the group "surface", atomically."""
    return hdf5.write(path, root_group(surface))


def root_group(surface: Surface) -> hdf5.Group:
    """The tree of a file that holds one surface: provenance at the root, arrays in the group "surface"."""
    attributes = {"schema_version": SCHEMA_VERSION, "engine_version": engine_version(), "Conventions": "CF-1.11"}
    attributes |= {name: _plain(value) for name, value in surface.attributes.items()}
    return hdf5.Group({}, attributes, {"surface": surface_group(surface)})


def surface_group(surface: Surface) -> hdf5.Group:
    """Variables over dimensions (..., y, x): each quantity, its `_stderr`, `computed`, and the coordinates."""
    dims = tuple(surface.axes)[::-1]
    variables: dict[str, hdf5.Variable] = {}
    for name, coordinates in surface.axes.items():
        text = f"coordinate along direction {name}: theta = centre + {' + '.join(f'{a} d_{a}' for a in surface.axes)}"
        variables[name] = hdf5.Variable((name,), coordinates, {"long_name": text, "units": "1"})
    for name, values in surface.values.items():
        long_name = _LONG_NAMES.get(name, name)
        variables[name] = hdf5.Variable(dims, values, {"long_name": long_name, "units": "1"})
        variables[f"{name}_stderr"] = hdf5.Variable(
            dims,
            surface.stderr[name],
            {"long_name": f"standard error of {name} over samples, as an estimate for the population", "units": "1"},
        )
    computed = {"long_name": "whether the point was computed; elsewhere values are NaN and mean nothing", "units": "1"}
    variables["computed"] = hdf5.Variable(dims, surface.computed, computed)
    groups = {"points": _points_group(surface.points, tuple(surface.axes))} if surface.points else {}
    return hdf5.Group(variables, {"axes": " ".join(surface.axes), "quantities": " ".join(surface.values)}, groups)


def read_surface(tree: hdf5.Group, path: str | Path) -> Surface:
    """The surface in the tree of a file. Raises StoreError for a newer schema or a tree without one."""
    check_version(tree, path)
    if "surface" not in tree.groups:
        found = ", ".join(sorted(tree.groups)) or "no group at all"
        raise StoreError(f"{path} holds no group 'surface', but {found}")
    group = tree.groups["surface"]
    try:
        axes = {name: group.variables[name].data for name in str(group.attributes["axes"]).split()}
        names = str(group.attributes["quantities"]).split()
        values = {name: group.variables[name].data for name in names}
        stderr = {name: group.variables[f"{name}_stderr"].data for name in names}
        computed = group.variables["computed"].data
        points = _read_points(group.groups["points"]) if "points" in group.groups else None
    except KeyError as error:
        raise StoreError(f"{path} is damaged: the group 'surface' misses {error}") from error
    except (IndexError, ValueError, AttributeError, TypeError) as error:
        raise StoreError(f"{path} is damaged: its group 'surface' cannot be read ({error!r})") from error
    attributes = {
        name: json.loads(value) if name in _STRUCTURED and isinstance(value, str) else value
        for name, value in tree.attributes.items()
        if name not in ("schema_version", "Conventions")
    }
    return Surface(axes, values, stderr, computed, points, attributes)


def check_version(tree: hdf5.Group, path: str | Path) -> None:
    """Raise StoreError when the file was written by a newer version, or is not one of ours."""
    version = tree.attributes.get("schema_version")
    if version is None:
        raise StoreError(f"{path} is not a result file of this engine: it has no attribute schema_version")
    if int(version) > SCHEMA_VERSION:
        raise StoreError(
            f"{path} has schema version {int(version)}, this version reads up to {SCHEMA_VERSION}; update "
            "loss-landscape-engine"
        )


def surface_to_xarray(surface: Surface) -> xarray.Dataset:
    """The same variables and attributes as in the file's group, with the root's attributes on the Dataset."""
    import xarray

    group = surface_group(surface)
    variables = {
        name: (variable.dims, variable.data, dict(variable.attributes)) for name, variable in group.variables.items()
    }
    coordinates = {name: variables.pop(name) for name in surface.axes}
    return xarray.Dataset(variables, coordinates, {name: _plain(v) for name, v in surface.attributes.items()})


def merged_group(runs: Mapping[str, Surface]) -> hdf5.Group:
    """The tree of a file that holds several runs: one group each, arranged like a file of its own."""
    for name in runs:
        if not name or "/" in name:
            raise InputError(f"run name {name!r} cannot be a group name; it must be non-empty and without '/'")
    return hdf5.Group(
        {},
        {"schema_version": SCHEMA_VERSION, "engine_version": engine_version(), "runs": " ".join(runs)},
        {name: root_group(surface) for name, surface in runs.items()},
    )


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


def _plain(value: Any) -> Any:
    """A value HDF5 attributes can hold: numbers, texts and arrays of them as they are, the rest as JSON text."""
    if isinstance(value, (str, int, float, np.generic, np.ndarray)):
        return value
    if value is None:
        return ""
    return json.dumps(value)
