"""The one file that knows h5py: trees of named-dimension arrays to and from netCDF-4/HDF5, written atomically."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from landscape.errors import StoreError

# Attributes of the netCDF-4 machinery, not of the content.
_INTERNAL = {"CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST", "_Netcdf4Dimid", "_Netcdf4Coordinates"}


@dataclass(frozen=True)
class Variable:
    """An array with one dimension name per axis; `dims=None` is a plain HDF5 dataset without dimension scales."""

    dims: tuple[str, ...] | None
    data: npt.NDArray[Any]
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Group:
    """Variables, attributes and sub-groups. A variable named like its only dimension is that dimension's coordinate."""

    variables: Mapping[str, Variable] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    groups: Mapping[str, Group] = field(default_factory=dict)


def write(path: str | Path, tree: Group) -> Path:
    """Write `tree` as one file: to a temporary name beside `path`, fsync, then rename over it.

    Raises StoreError when the file cannot be written; an older file at `path` is then untouched.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # locking off: some parallel file systems refuse flock, and only this process knows the temporary name.
        with h5py.File(temporary, "w", locking=False) as file:
            _write_group(file, tree)
        sync_replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StoreError(
            f"cannot write {path}: {error}. Free space or choose a folder you may write to, then run the same "
            "command again; finished rows are kept."
        ) from error
    return path


def read(path: str | Path) -> Group:
    """The whole content of an HDF5 file. Raises StoreError when it is missing, not HDF5 or damaged."""
    path = Path(path)
    try:
        with h5py.File(path, "r", locking=False) as file:
            return _read_group(file)
    except (OSError, RuntimeError, KeyError) as error:
        raise StoreError(f"cannot read {path} as HDF5: {error}. It may be missing, truncated or another format.") from (
            error
        )


def is_hdf5(path: str | Path) -> bool:
    """Whether the file exists and carries the HDF5 signature."""
    return bool(h5py.is_hdf5(Path(path)))


def sync_replace(temporary: Path, path: Path) -> None:
    """Make `temporary` durable and give it its final name: fsync of the file, rename, fsync of the folder."""
    with temporary.open("rb+") as handle:
        os.fsync(handle.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _write_group(target: h5py.Group, group: Group) -> None:
    for name, value in group.attributes.items():
        target.attrs[name] = value
    sizes: dict[str, int] = {}
    for name, variable in group.variables.items():
        for dim, size in zip(variable.dims or (), variable.data.shape, strict=True):
            if sizes.setdefault(dim, size) != size:
                raise ValueError(f"variable {name}: dimension {dim} has size {size}, elsewhere {sizes[dim]}")
    # Dimension scales first, so that the others can attach to them.
    for name, variable in group.variables.items():
        if variable.dims == (name,):
            dataset = _create(target, name, variable)
            dataset.make_scale(name)
    for dim, size in sizes.items():
        if dim not in target:
            # netCDF-4's spelling of a dimension without coordinate values.
            scale = target.create_dataset(dim, shape=(size,), dtype=">f4")
            scale.make_scale(f"This is a netCDF dimension but not a netCDF variable.{size:10d}")
    for name, variable in group.variables.items():
        if variable.dims != (name,):
            dataset = _create(target, name, variable)
            for axis, dim in enumerate(variable.dims or ()):
                dataset.dims[axis].attach_scale(target[dim])
    for name, child in group.groups.items():
        _write_group(target.create_group(name), child)


def _create(target: h5py.Group, name: str, variable: Variable) -> h5py.Dataset:
    data = variable.data
    attributes = dict(variable.attributes)
    if data.dtype.kind == "b":
        data, attributes["dtype"] = data.astype(np.int8), "bool"  # xarray's convention for booleans in netCDF
    if data.dtype.kind in "UO":
        dataset = target.create_dataset(name, data=data.astype(object), dtype=h5py.string_dtype())
    else:
        dataset = target.create_dataset(name, data=data)
    for key, value in attributes.items():
        dataset.attrs[key] = value
    return dataset


def _read_group(source: h5py.Group) -> Group:
    variables: dict[str, Variable] = {}
    groups: dict[str, Group] = {}
    for name, item in source.items():
        if isinstance(item, h5py.Group):
            groups[name] = _read_group(item)
        elif not str(item.attrs.get("NAME", "")).startswith("This is a netCDF dimension"):
            variables[name] = _read_variable(name, item)
    return Group(variables, _attributes(source), groups)


def _read_variable(name: str, dataset: h5py.Dataset) -> Variable:
    data = np.asarray(dataset.asstr()[()] if h5py.check_string_dtype(dataset.dtype) else dataset[()])
    attributes = _attributes(dataset)
    if attributes.get("dtype") == "bool":
        del attributes["dtype"]
        data = data.astype(bool)
    if dataset.is_scale:
        return Variable((name,), data, attributes)
    scales = [dim[0].name.rsplit("/", 1)[-1] if len(dim) else None for dim in dataset.dims]
    dims = None if None in scales else tuple(str(scale) for scale in scales)
    return Variable(dims, data, attributes)


def _attributes(item: h5py.Group | h5py.Dataset) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in item.attrs.items():
        if name not in _INTERNAL:
            result[name] = value.decode() if isinstance(value, bytes) else value
    return result
