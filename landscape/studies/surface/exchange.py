"""Surfaces and directions in the HDF5 layout of the loss-landscape tool (tomgoldstein/loss-landscape)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from landscape_kernels.arrays import FloatArray

from landscape.arguments import checked
from landscape.errors import InputError
from landscape.files import hdf5
from landscape.objective.gate import require_objective
from landscape.objective.objective import Objective
from landscape.studies.surface.result import Surface

# The tool's key, our name, and the factor from our value to the tool's (accuracies there are in percent).
_KEYS = (
    ("train_loss", "loss", 1.0),
    ("train_acc", "accuracy", 100.0),
    ("test_loss", "test_loss", 1.0),
    ("test_acc", "test_accuracy", 100.0),
)
_MISSING = -1.0


@checked()
def read_loss_landscape_surface(path: str | Path) -> Surface:
    """The surface in a file written by loss-landscape, of one axis or two.

    `train_loss`, `train_acc`, `test_loss`, `test_acc` become "loss", "accuracy", "test_loss", "test_accuracy", those
    that are there, float64 of shape (nx,) or (ny, nx); accuracies turn from percent into fractions. The tool marks a
    value it has not computed with -1 (its losses and accuracies are never negative): it becomes NaN, and a cell where
    every quantity is -1 is not `computed`. Standard errors are NaN, as the file has none. A two-axis array stored
    as (nx, ny) with nx != ny, as the tool itself creates it, holds its points in the order of an (ny, nx) array
    and is read in that order. `attributes` tell the origin and the tool's `dir_file`.

    Raises StoreError for a file that is not HDF5, InputError for one that is not such a surface.
    """
    return surface_of_loss_landscape(hdf5.read(path), path)


def is_loss_landscape(tree: hdf5.Group) -> bool:
    """Whether the tree of a file is that of a surface written by loss-landscape."""
    return "xcoordinates" in tree.variables


def surface_of_loss_landscape(tree: hdf5.Group, path: str | Path) -> Surface:
    """The surface in the tree of such a file; see `read_loss_landscape_surface`."""
    variables = tree.variables
    if not is_loss_landscape(tree) or not any(key in variables for key, _, _ in _KEYS):
        raise InputError(
            f"{path} holds {', '.join(variables) or 'no datasets'}; a loss-landscape surface has xcoordinates and "
            f"some of {', '.join(key for key, _, _ in _KEYS)}. A file of directions is read by "
            "read_loss_landscape_directions, a file of this engine by landscape.open."
        )
    axes = {
        name: variables[f"{name}coordinates"].data.astype(np.float64)
        for name in ("x", "y")
        if f"{name}coordinates" in variables
    }
    shape = tuple(axis.size for axis in reversed(axes.values()))
    computed = np.zeros(shape, dtype=np.bool_)
    values: dict[str, FloatArray] = {}
    for key, name, factor in _KEYS:
        if key not in variables:
            continue
        stored = variables[key].data.astype(np.float64)
        if stored.shape not in (shape, shape[::-1]):
            raise InputError(
                f"{path}: {key} has shape {stored.shape}, the coordinates ask for {shape} (y first). The file was "
                "edited or belongs to two different grids; compute it again."
            )
        # The tool numbers points as an (ny, nx) mesh, whatever shape it gave the array.
        stored = stored.reshape(shape)
        missing = stored == _MISSING
        computed |= ~missing
        values[name] = np.where(missing, np.nan, stored / factor)
    attributes = {"origin": "loss-landscape"}
    if "dir_file" in variables:
        attributes["dir_file"] = str(variables["dir_file"].data)
    unknown = {name: np.full(shape, np.nan) for name in values}
    return Surface(axes, values, unknown, computed, attributes=attributes)


@checked()
def write_loss_landscape_surface(
    path: str | Path, surface: Surface, *, directions_file: str | Path | None = None
) -> Path:
    """Write a surface of one or two axes as loss-landscape does, for its plotting scripts; returns the path.

    Inverse of `read_loss_landscape_surface`: arrays (nx,) or (ny, nx), accuracies in percent, -1 where not computed.
    `directions_file` becomes `dir_file`; by default the one an imported surface came with.

    The layout has no place for standard errors, points and trajectories, quantities under other names, units and
    attributes: they are lost. So is the difference between a computed NaN and a missing value of one quantity in a
    cell where another was computed (both NaN), and a computed value of exactly -1 counts as missing.

    Raises InputError for more than two axes or when no quantity has a key in that layout.
    """
    if len(surface.axes) > 2:
        raise InputError(
            f"the surface has {len(surface.axes)} axes ({', '.join(surface.axes)}), loss-landscape files hold 1 or 2. "
            "Export a slice, or use write_vtk (up to 3) or Surface.save (any number)."
        )
    known = [(key, name, factor) for key, name, factor in _KEYS if name in surface.values]
    if not known:
        raise InputError(
            f"the surface has {', '.join(surface.values) or 'no quantities'}; loss-landscape files hold "
            f"{', '.join(name for _, name, _ in _KEYS)}. Measure one of these, or use write_vtk or Surface.save."
        )
    variables = {
        f"{letter}coordinates": hdf5.Variable(None, axis)
        for letter, axis in zip("xy", surface.axes.values(), strict=False)
    }
    for key, name, factor in known:
        stored = np.where(surface.computed, surface.values[name] * factor, _MISSING)
        variables[key] = hdf5.Variable(None, stored)
    origin = surface.attributes.get("dir_file", "") if directions_file is None else directions_file
    variables["dir_file"] = hdf5.Variable(None, np.array(str(origin), dtype=object))
    return hdf5.write(path, hdf5.Group(variables))


@checked()
def read_loss_landscape_directions(path: str | Path, objective: Objective) -> list[torch.Tensor]:
    """The directions in a file written by loss-landscape, one flat vector (objective.layout order) per axis, x first.

    The file holds a list of tensors per axis without names: one per parameter (the tool's `--dir_type weights`) or one
    per entry of the state_dict (`--dir_type states`); the number of entries tells which. State entries that are
    not trainable parameters (buffers such as BatchNorm's running statistics) are left out, with a UserWarning when the
    file would have moved them. Values keep their precision.

    Raises StoreError for a file that is not HDF5, InputError for a file without directions, for a number of entries
    that is neither of the two, and for a tensor whose shape is not the model's.
    """
    require_objective(objective)
    groups = hdf5.read(path).groups
    if "xdirection" not in groups:
        raise InputError(
            f"{path} has no group xdirection, so it is not a file of directions written by loss-landscape. "
            "Its surface files are read by read_loss_landscape_surface."
        )
    names = [name for name in ("xdirection", "ydirection") if name in groups]
    return [_read_direction(f"{path}: {name}", groups[name], objective) for name in names]


@checked()
def write_loss_landscape_directions(path: str | Path, objective: Objective, directions: Sequence[torch.Tensor]) -> Path:
    """Write one or two flat directions (objective.layout order) as loss-landscape does; returns the path.

    One tensor per trainable parameter, as for the tool's `--dir_type weights`; it pairs them with `net.parameters()` by
    position, so it reads the file rightly only where no parameter of the model is frozen. Names, seeds and how
    the directions were normalised have no place in the layout and are lost.

    Raises InputError for another number of directions or a vector of another length.
    """
    require_objective(objective)
    if not 1 <= len(directions) <= 2:
        raise InputError(
            f"{len(directions)} directions given, loss-landscape files hold 1 or 2: xdirection, ydirection."
        )
    layout = objective.layout
    sizes = [math.prod(shape) for shape in layout.shapes]
    groups: dict[str, hdf5.Group] = {}
    for letter, direction in zip("xy", directions, strict=False):
        if direction.shape != (sum(sizes),):
            raise InputError(
                f"{letter}direction has shape {tuple(direction.shape)}, the model's flat vector is ({sum(sizes)},). "
                "Give a vector in the order of objective.layout."
            )
        flat = direction.detach().cpu()
        flat = flat if flat.dtype == torch.float64 else flat.float()  # numpy knows no bfloat16
        parts = np.split(flat.numpy(), np.cumsum(sizes)[:-1])
        groups[f"{letter}direction"] = hdf5.Group(
            {
                str(i): hdf5.Variable(None, part.reshape(shape))
                for i, (part, shape) in enumerate(zip(parts, layout.shapes, strict=True))
            }
        )
    return hdf5.write(path, hdf5.Group(groups=groups))


def _read_direction(where: str, group: hdf5.Group, objective: Objective) -> torch.Tensor:
    entries = group.variables
    parameters = dict(zip(objective.layout.names, objective.layout.shapes, strict=True))
    if set(entries) != {str(i) for i in range(len(entries))} or len(entries) not in (
        len(parameters),
        len(objective.state_shapes),
    ):
        raise InputError(
            f"{where} has {len(entries)} entries ({', '.join(entries)}); this model needs entries 0, 1, ... "
            f"for its {len(parameters)} trainable parameters or the {len(objective.state_shapes)} of its state_dict. "
            "The file belongs to another architecture, or parameters are frozen that were not when it was written."
        )
    # Where the numbers agree there are no buffers and both orders are the same.
    shapes = parameters if len(entries) == len(parameters) else objective.state_shapes
    tensors: dict[str, torch.Tensor] = {}
    for i, (name, shape) in enumerate(shapes.items()):
        values: npt.NDArray[Any] = entries[str(i)].data
        if values.shape != tuple(shape):
            raise InputError(
                f"{where}/{i} has shape {values.shape}, {name} of this model {tuple(shape)}. The file was written for "
                "another architecture, or for a model that registers its layers in another order; build the model "
                "that the directions were drawn for."
            )
        if name in parameters:
            tensors[name] = torch.from_numpy(values)
        elif np.any(values != 0):
            warnings.warn(
                f"{where}/{i} moves {name}, which is not a trainable parameter, by up to {np.abs(values).max():.3g}; "
                "this part of the direction is left out, so a surface the tool computed with it is another one.",
                stacklevel=3,
            )
    return objective.layout.flatten(tensors)
