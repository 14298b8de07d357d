"""Surfaces for ParaView: legacy VTK files."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from landscape.arguments import checked
from landscape.errors import InputError, StoreError
from landscape.files.durable import write_durably
from landscape.studies.surface.result import Surface

_TYPES = {"f8": "double", "u1": "unsigned_char"}


@checked()
def write_vtk(path: str | Path, surface: Surface) -> Path:
    """Write a surface of 1, 2 or 3 axes as a rectilinear grid in VTK's legacy binary format.

    The axes become VTK's x, y, z in their order, an absent axis being one point at 0; with nx, ny, nz points value
    [k, j, i] of a quantity stands at (x[i], y[j], z[k]), in the file at place i + nx (j + ny k). Point data: every
    quantity and its `<quantity>_stderr` in double precision (NaN and Inf kept, units as in the surface) and
    `computed`, 1 or 0. VTK forbids blanks in names, so characters other than letters, digits, ".", "+", "-" and "_"
    become "_". The file appears under its name only when complete.

    Raises InputError for more than 3 axes or for names that are equal in VTK's spelling, StoreError when the file
    cannot be written.
    """
    if len(surface.axes) > 3:
        raise InputError(
            f"the surface has {len(surface.axes)} axes ({', '.join(surface.axes)}), VTK grids have 1 to 3. "
            "Keep three axes by fixing the index of the others, then export the slice."
        )
    arrays: list[tuple[str, npt.NDArray[Any]]] = []
    for name, values in surface.values.items():
        arrays.append((name, np.asarray(values, dtype=">f8")))
        if name in surface.stderr:
            arrays.append((f"{name}_stderr", np.asarray(surface.stderr[name], dtype=">f8")))
    arrays.append(("computed", surface.computed.astype("u1")))
    arrays = [(re.sub(r"[^A-Za-z0-9.+-]+", "_", name), array) for name, array in arrays]
    twice = [name for name, count in Counter(name for name, _ in arrays).items() if count > 1]
    if twice:
        raise InputError(
            f"quantities {', '.join(surface.values)}: {twice[0]!r} names more than one array in the VTK file, where "
            "blanks and symbols become '_' and 'computed' and '<quantity>_stderr' are taken. Rename one quantity."
        )

    axes = list(surface.axes.values()) + [np.zeros(1)] * (3 - len(surface.axes))
    text = ["# vtk DataFile Version 3.0", "loss landscape surface", "BINARY", "DATASET RECTILINEAR_GRID"]
    parts = [_line(*text), _line("DIMENSIONS " + " ".join(str(axis.size) for axis in axes))]
    for letter, axis in zip("XYZ", axes, strict=True):
        parts += [_line(f"{letter}_COORDINATES {axis.size} double"), axis.astype(">f8").tobytes(), b"\n"]
    # A FIELD rather than SCALARS: of several SCALARS, VTK's reader keeps only the first by default.
    parts.append(_line(f"POINT_DATA {surface.computed.size}", f"FIELD quantities {len(arrays)}"))
    for name, array in arrays:
        # C order of an array indexed [z, y, x] runs x fastest, as VTK asks.
        parts += [_line(f"{name} 1 {array.size} {_TYPES[array.dtype.str[1:]]}"), array.tobytes(), b"\n"]
    return _write(Path(path), b"".join(parts))


def _line(*lines: str) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode("ascii")


def _write(path: Path, content: bytes) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, content)
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error}. Free space or choose a folder you may write to, then export again."
        ) from error
    return path
