"""The one file that knows h5py: trees of named-dimension arrays to and from netCDF-4/HDF5, written atomically."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from landscape.errors import StoreError
from landscape.files.durable import write_durably

# What h5py raises where a file is damaged.
_DAMAGE = (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, MemoryError)
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
    """Write `tree` as one file, whole or not at all (see `write_durably`).

    Raises StoreError when the file cannot be written; an older file at `path` is then untouched.
    """
    path = Path(path)
    # In memory first: HDF5 cannot close a file any more when the disk is full, and complains until the process ends.
    with _in_memory(path.name or "nameless") as file:
        _write_group(file, tree)
        file.flush()
        image = file.id.get_file_image()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, image)
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error}. Free space or choose a folder you may write to, then run the same "
            "command again; finished rows are kept."
        ) from error
    return path


def read(path: str | Path) -> Group:
    """The whole content of an HDF5 file. Raises StoreError when it is missing, not HDF5 or damaged."""
    path = Path(path)
    try:
        try:
            file = h5py.File(path, "r", locking=False)
        except OSError as error:
            if "locking" not in str(error):
                raise
            file = h5py.File(path, "r")  # open elsewhere in this process, which fixed how it is locked
        with file:
            return _read_group(file)
    except _DAMAGE as error:
        raise StoreError(
            f"cannot read {path} as HDF5: {error}. It may be missing, truncated or another format; a run folder's "
            "result is written again from its rows by repeating the run's command."
        ) from error


def is_hdf5(path: str | Path) -> bool:
    """Whether the file exists and carries the HDF5 signature."""
    return bool(h5py.is_hdf5(Path(path)))


def require_sizes(tree: Group) -> None:
    """Raise ValueError where a variable has other axes than its dimensions, or two differ about a dimension's size."""
    _sizes(tree)
    for child in tree.groups.values():
        require_sizes(child)


def _sizes(group: Group) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for name, variable in group.variables.items():
        shape = variable.data.shape
        if variable.dims is not None and len(shape) != len(variable.dims):
            raise ValueError(
                f"variable {name} has {len(shape)} axes, and its dimensions are {', '.join(variable.dims)}"
            )
        for dim, size in zip(variable.dims or (), shape, strict=False):
            if sizes.setdefault(dim, size) != size:
                raise ValueError(f"variable {name}: dimension {dim} has size {size}, elsewhere {sizes[dim]}")
    return sizes


def _in_memory(name: str) -> h5py.File:
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_fapl_core(backing_store=False)
    access.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
    return h5py.File(h5py.h5f.create(name.encode(), h5py.h5f.ACC_TRUNC, _ordered(h5py.h5p.FILE_CREATE), access))


def _ordered(kind: Any) -> Any:
    """Properties of a file or group whose order of creation is known, without which netCDF-4's library cannot append.

    The time is not noted, so that equal content is equal bytes.
    """
    order = h5py.h5p.CRT_ORDER_TRACKED | h5py.h5p.CRT_ORDER_INDEXED
    properties = h5py.h5p.create(kind)
    properties.set_link_creation_order(order)
    properties.set_attr_creation_order(order)
    properties.set_obj_track_times(False)
    return properties


def _write_group(target: h5py.Group, group: Group) -> None:
    _write_attributes(target, group.attributes)
    sizes = _sizes(group)
    # Dimension scales first, so that the others can attach to them.
    for name, variable in group.variables.items():
        if variable.dims == (name,):
            dataset = _create(target, name, variable)
            dataset.make_scale(name)
    for dim, size in sizes.items():
        if dim not in target:
            # netCDF-4's spelling of a dimension without coordinate values.
            scale = target.create_dataset(dim, shape=(size,), dtype=">f4", track_order=True)
            scale.make_scale(f"This is a netCDF dimension but not a netCDF variable.{size:10d}")
    for name, variable in group.variables.items():
        if variable.dims != (name,):
            dataset = _create(target, name, variable)
            for axis, dim in enumerate(variable.dims or ()):
                dataset.dims[axis].attach_scale(target[dim])
    for name, child in group.groups.items():
        made = h5py.h5g.create(target.id, name.encode(), gcpl=_ordered(h5py.h5p.GROUP_CREATE))
        _write_group(h5py.Group(made), child)


def _create(target: h5py.Group, name: str, variable: Variable) -> h5py.Dataset:
    data = variable.data
    attributes = dict(variable.attributes)
    if data.dtype.kind == "b":
        data, attributes["dtype"] = data.astype(np.int8), "bool"  # xarray's convention for booleans in netCDF
    if data.dtype.kind in "UO":
        dataset = target.create_dataset(name, data=data.astype(object), dtype=h5py.string_dtype(), track_order=True)
    else:
        # A checksum on every chunk, so that a flipped bit is an error and not a value; scalars cannot have one.
        summed = data.size > 0 and data.ndim > 0
        dataset = target.create_dataset(name, data=data, fletcher32=summed, track_order=True)
    _write_attributes(dataset, attributes)
    return dataset


def _write_attributes(target: h5py.Group | h5py.Dataset, attributes: Mapping[str, Any]) -> None:
    for name, value in attributes.items():
        # netCDF has no booleans, and its readers drop an attribute of HDF5's.
        target.attrs[name] = int(value) if isinstance(value, (bool, np.bool_)) else value


def _read_group(source: h5py.Group) -> Group:
    variables: dict[str, Variable] = {}
    groups: dict[str, Group] = {}
    for name, item in sorted(source.items()):  # files of earlier versions know no other order
        if isinstance(item, h5py.Group):
            groups[name] = _read_group(item)
        elif not bytes(item.attrs.get("NAME", b"")).startswith(b"This is a netCDF dimension"):  # without coordinates
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
    return Variable(_dims(dataset), data, attributes)


def _dims(dataset: h5py.Dataset) -> tuple[str, ...] | None:
    """The dimensions' names, by the references of HDF5's dimension scales; None where not each axis has one.

    `dataset.dims` asks HDF5's own function, which ends the process where a scale is gone from the file.
    """
    if dataset.ndim == 0:
        return ()
    found = dataset.attrs.get("DIMENSION_LIST")
    if found is None or len(found) != dataset.ndim or not all(len(scales) and scales[0] for scales in found):
        return None
    return tuple(str(dataset.file[scales[0]].name).rsplit("/", 1)[-1] for scales in found)


def _attributes(item: h5py.Group | h5py.Dataset) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in sorted(item.attrs.items(), key=lambda entry: str(entry[0])):
        if name not in _INTERNAL:
            result[name] = value.decode() if isinstance(value, bytes) else value
    return result
