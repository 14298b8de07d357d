"""Names, units and version of what a result file holds; several results in one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from landscape.errors import InputError, StoreError
from landscape.files import hdf5
from landscape.files.provenance import engine_version

if TYPE_CHECKING:
    import xarray


SCHEMA_VERSION = 1
_JSON = "json_attributes"  # names of the attributes that are JSON text, separated by spaces
_FIRST_JSON = "plane metrics attempts libraries"  # the same in old files, which do not name them
_OF_THE_FILE = ("schema_version", "Conventions", _JSON)  # attributes that belong to the file, not to a result


def file_tree(contents: Mapping[str, tuple[hdf5.Group, Mapping[str, Any]]]) -> hdf5.Group:
    """The tree of a file that holds the given groups side by side, each with the attributes of its result.

    What all results say alike stands at the root, what only some say on their own groups.
    """
    written = [_written(attributes) for _, attributes in contents.values()]
    shared = {
        name: value
        for name, value in written[0].items()
        if all(name in other and np.array_equal(other[name], value) for other in written[1:])
    }
    groups: dict[str, hdf5.Group] = {}
    for (name, (group, _)), attributes in zip(contents.items(), written, strict=True):
        own = {key: value for key, value in attributes.items() if key not in shared}
        groups[name] = hdf5.Group(group.variables, own | dict(group.attributes), group.groups)
    root = {"schema_version": SCHEMA_VERSION, "engine_version": engine_version(), "Conventions": "CF-1.11"}
    return hdf5.Group({}, root | shared, groups)


@contextmanager
def reading(tree: hdf5.Group, name: str, path: str | Path) -> Iterator[hdf5.Group]:
    """The group of that name, to be read inside `with`. StoreError says what is newer, missing or damaged."""
    check_version(tree, path)
    if name not in tree.groups:
        found = ", ".join(sorted(tree.groups)) or "no group at all"
        raise StoreError(f"{path} holds no group {name!r}, but {found}")
    try:
        yield tree.groups[name]
    except KeyError as error:
        raise StoreError(f"{path} is damaged: the group {name!r} misses {error}") from error
    except (IndexError, ValueError, AttributeError, TypeError) as error:
        raise StoreError(f"{path} is damaged: its group {name!r} cannot be read ({error!r})") from error


def read_attributes(tree: hdf5.Group, name: str, structure: tuple[str, ...] = ()) -> dict[str, Any]:
    """Attributes of the result in a group, but for those that describe the file or the group's `structure`."""
    found = {**tree.attributes, **tree.groups[name].attributes}
    encoded = str(found.get(_JSON, _FIRST_JSON)).split()
    return {
        key: json.loads(value) if key in encoded and isinstance(value, str) else value
        for key, value in found.items()
        if key not in (*_OF_THE_FILE, *structure)
    }


def check_version(tree: hdf5.Group, path: str | Path) -> None:
    """Raise StoreError when the file was written by a newer version, or is not one of ours."""
    version = tree.attributes.get("schema_version")
    if version is None:
        raise StoreError(f"{path} is not a result file of this engine: it has no attribute schema_version")
    if not isinstance(version, (int, np.integer)) or version < 1:
        raise StoreError(
            f"{path} has schema version {version}, and the first is 1: older than any release, or damaged. Write it "
            "again from its run folder: landscape merge RUN -o FILE"
        )
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"{path} has schema version {int(version)}, this version reads up to {SCHEMA_VERSION}; update "
            "loss-landscape-engine"
        )


def to_xarray(variables: Mapping[str, hdf5.Variable], attributes: Mapping[str, Any]) -> xarray.Dataset:
    """Variables as they are in a file, as a Dataset with the attributes of a result."""
    import xarray

    arrays = {name: (v.dims, v.data, dict(v.attributes)) for name, v in variables.items()}
    return xarray.Dataset(arrays, attrs={name: _plain(value) for name, value in attributes.items()})


def to_datatree(tree: hdf5.Group) -> xarray.DataTree:
    """A tree as `xarray.open_datatree` reads it from its file: a node for each group, with variables and attributes."""
    import xarray

    def nodes(group: hdf5.Group, path: str) -> Iterator[tuple[str, xarray.Dataset]]:
        yield path, to_xarray(group.variables, group.attributes)
        for name, child in group.groups.items():
            yield from nodes(child, f"{path.rstrip('/')}/{name}")

    return xarray.DataTree.from_dict(dict(nodes(tree, "/")))


def merged_group(runs: Mapping[str, hdf5.Group]) -> hdf5.Group:
    """The tree of a file that holds several runs: one group each, arranged like a file of its own."""
    for name in runs:
        if not name or "/" in name:
            raise InputError(f"run name {name!r} cannot be a group name; it must be non-empty and without '/'")
    return hdf5.Group(
        {},
        {"schema_version": SCHEMA_VERSION, "engine_version": engine_version(), "runs": " ".join(runs)},
        runs,
    )


def _written(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes as the file holds them, with a note of those that became JSON text."""
    structured = [name for name, value in attributes.items() if not _is_plain(value)]
    return {_JSON: " ".join(structured), **{name: _plain(value) for name, value in attributes.items()}}


def _plain(value: Any) -> Any:
    """A value HDF5 attributes can hold: numbers, texts and arrays of them as they are, the rest as JSON text."""
    if _is_plain(value):
        return "" if value is None else value
    return json.dumps(value, default=lambda array: array.tolist())


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (str, int, float, np.generic, np.ndarray))
