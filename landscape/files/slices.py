"""Tensors of safetensors files, read in stretches of values: nothing of a file stays in memory."""

from __future__ import annotations

import json
import math
import os
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from landscape.errors import InputError, nearest

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
_HEAD = 8  # bytes that tell the length of the header


@dataclass(frozen=True)
class _Place:
    file: int  # an open one
    begin: int  # byte
    dtype: torch.dtype
    shape: tuple[int, ...]


class StoredTensors:
    """The floating-point tensors of a safetensors file, or of all those in a folder, by name."""

    def __init__(self, path: str | Path) -> None:
        """Open them. Raises InputError for what is no such file, or holds none."""
        found = Path(path)
        files = sorted(found.glob("*.safetensors")) if found.is_dir() else [found]
        self._path = found
        self._places: dict[str, _Place] = {}
        self._files: list[int] = []
        for file in files:
            try:
                self._files.append(os.open(file, os.O_RDONLY))
                weakref.finalize(self, os.close, self._files[-1])
                self._places |= _places(self._files[-1])
            except FileNotFoundError as error:
                raise InputError(f"checkpoint {file} does not exist; give the path of a safetensors file") from error
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"checkpoint {file} is not a readable safetensors file: {error}; write one by "
                    "safetensors.torch.save_file(tensors, file)"
                ) from error
        if not self._places:
            raise InputError(f"checkpoint {path} holds no floating-point tensors of safetensors; give such a file")
        self._stamps = self._now()

    def __repr__(self) -> str:
        return str(self._path)

    @property
    def names(self) -> set[str]:
        """Names of the tensors."""
        return set(self._places)

    def require(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise InputError where a tensor is missing, or has another shape."""
        if name not in self._places:
            raise InputError(f"checkpoint {self._path} has no tensor {name!r}; {nearest(name, self._places)}")
        if not alike(self._places[name].shape, shape):
            raise InputError(
                f"checkpoint {self._path}: {name} has shape {self._places[name].shape}, the model's has {shape}"
            )

    def require_unchanged(self) -> None:
        """Raise InputError where a file was written to since it was opened."""
        if self._now() != self._stamps:
            raise InputError(
                f"checkpoint {self._path} was written to while it was used, and a model that is measured is put back "
                "from it; load the model again, and make a new Objective once nothing writes to the file any more"
            )

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """Values `start` to `stop` of a tensor in row-major order, as they are stored."""
        values = torch.empty(stop - start, dtype=self.dtype(name))
        self.fill(values, name, start)
        return values

    def dtype(self, name: str) -> torch.dtype:
        """The type that a tensor is stored in."""
        return self._places[name].dtype

    def fill(self, out: Tensor, name: str, start: int) -> None:
        """Put values of a tensor from `start` on, in row-major order, into `out` (size,), of the type they have."""
        place = self._places[name]
        view = memoryview(out.view(torch.uint8).numpy())  # type: ignore[arg-type]
        done = 0
        while done < len(view):
            count = os.preadv(place.file, [view[done:]], place.begin + start * place.dtype.itemsize + done)
            if count == 0:
                raise InputError(
                    f"checkpoint {self._path} ends inside {name!r}: it was written to while it was used, and a model "
                    "that is measured is put back from it; load the model again from a whole file, and make a new "
                    "Objective once nothing writes to the file any more"
                )
            done += count

    def _now(self) -> list[tuple[int, int]]:
        return [(stat.st_mtime_ns, stat.st_size) for stat in map(os.fstat, self._files)]


def alike(shape: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether a tensor's values are in the order of those of the other shape: that, but for axes of length 1, or flat.

    >>> alike((2, 1, 3), (2, 3)), alike((6,), (2, 3)), alike((3, 2), (2, 3))
    (True, True, False)
    """
    one, two = ([size for size in axes if size != 1] for axes in (shape, other))
    return one == two or one == [size for size in (math.prod(other),) if size != 1]


def _places(file: int) -> dict[str, _Place]:
    head = os.pread(file, _HEAD, 0)
    size = int.from_bytes(head, "little")
    if len(head) < _HEAD or size > os.fstat(file).st_size:
        raise ValueError("it has no header")
    header: dict[str, Any] = json.loads(os.pread(file, size, _HEAD))
    header.pop("__metadata__", None)
    return {
        name: _Place(file, _HEAD + size + entry["data_offsets"][0], _DTYPES[entry["dtype"]], tuple(entry["shape"]))
        for name, entry in header.items()
        if entry["dtype"] in _DTYPES
    }
