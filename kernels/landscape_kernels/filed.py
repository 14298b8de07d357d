"""Long vectors in a file, read and written in stretches: none of them is held in memory."""

from __future__ import annotations

import os
import tempfile
import weakref
from bisect import bisect_left
from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor

from landscape_kernels.pieces import stretches


class FiledVectors:
    """Rows of `size` values in one file, each of them as long as it is written: in `dtype`, the `wide` ones in float32.

    Without a path the file has no name: it lies in the system's folder for temporary files (TMPDIR) and is gone with
    this object, or with the process. One at a `path` stays, and what it holds is kept when it is opened again.

    >>> rows = FiledVectors(4)
    >>> rows.write(1, slice(1, 3), torch.tensor([5.0, 6.0]))
    >>> rows.read(1, slice(0, 3))
    tensor([0., 5., 6.])
    """

    def __init__(
        self,
        size: int,
        path: Path | None = None,
        dtype: torch.dtype = torch.float32,
        wide: Collection[int] = (),
    ) -> None:
        self.size, self.dtype, self._wide = size, dtype, sorted(wide)
        if path is None:
            handle, name = tempfile.mkstemp(prefix="landscape-")
            Path(name).unlink()
        else:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        self._file = handle
        self.close = weakref.finalize(self, os.close, handle)

    def read(self, row: int, place: slice) -> Tensor:
        """(stop - start,) values of a row on the CPU; 0 where nothing was written."""
        values = torch.empty(place.stop - place.start, dtype=self.dtype_of(row))
        view, at, done = _bytes(values), self._byte(row, place), 0
        while done < len(view):
            count = os.preadv(self._file, [view[done:]], at + done)
            if count == 0:  # beyond the end of the file
                view[done:] = bytes(len(view) - done)
                break
            done += count
        return values

    def write(self, row: int, place: slice, values: Tensor) -> None:
        """Values of a row, from any device and in any type, rounded to the row's."""
        view, at = _bytes(values.detach().to("cpu", self.dtype_of(row)).contiguous()), self._byte(row, place)
        done = 0
        while done < len(view):
            done += os.pwrite(self._file, view[done:], at + done)

    def add(self, row: int, place: slice, values: Tensor, alpha: float = 1.0) -> None:
        """row <- row + alpha values at a place."""
        found = self.read(row, place)
        for part, more in stretches(found, values.detach().cpu()):
            part.add_(more.to(found.dtype), alpha=alpha)
        self.write(row, place, found)

    def clear(self, row: int) -> None:
        """Make a row zero."""
        step = 1 << 20
        for start in range(0, self.size, step):
            stop = min(start + step, self.size)
            self.write(row, slice(start, stop), torch.zeros(stop - start))

    def flush(self) -> None:
        """Wait until the disk has all that was written."""
        os.fsync(self._file)

    def dtype_of(self, row: int) -> torch.dtype:
        """The type that a row is kept in."""
        at = bisect_left(self._wide, row)
        return torch.float32 if self._wide[at : at + 1] == [row] else self.dtype

    def bytes_of(self, rows: int) -> int:
        """What the first `rows` rows take."""
        wide = bisect_left(self._wide, rows)
        return self.size * (wide * torch.float32.itemsize + (rows - wide) * self.dtype.itemsize)

    def _byte(self, row: int, place: slice) -> int:
        return self.bytes_of(row) + int(place.start) * self.dtype_of(row).itemsize


def _bytes(values: Tensor) -> memoryview:
    return memoryview(values.view(torch.uint8).numpy())  # type: ignore[arg-type]
