"""Values that are too many for memory, in a file without a name: it is gone with the process, however that ends."""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

_BRING_IN = 22  # MADV_POPULATE_READ of Linux 5.14, which Python does not name
_ROOM = 2  # times its size that has to be free on the disk
_IN_MEMORY = ("tmpfs", "ramfs", "rootfs")  # file systems that are no disks


class Scratch:
    """A file without a name, of a fixed size, in the folder for temporary files (TMPDIR) or in /var/tmp."""

    def __init__(self, folder: Path, size: int) -> None:
        """Make one of `size` bytes. Raises OSError where there is no room."""
        self.folder, self.size = folder, size
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            os.posix_fallocate(file.fileno(), 0, size)
            self._file = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._file)
        self._mapped = mmap.mmap(self._file, size)

    @classmethod
    def where_there_is_room(cls, size: int) -> Scratch | None:
        """A file of `size` bytes on a disk with twice as many free; None where there is no such disk."""
        for folder in dict.fromkeys((Path(tempfile.gettempdir()), Path("/var/tmp"))):
            try:
                disk = os.statvfs(folder)
                if disk.f_bavail * disk.f_frsize >= _ROOM * size > 0 and not _is_memory(folder):
                    return cls(folder, size)
            except OSError:  # no such folder, no room, or a file system that cannot reserve it
                continue
        return None

    def write(self, values: Tensor, begin: int) -> None:
        """Put a tensor's values at a byte. Raises OSError where the disk does not take them."""
        view, done = _bytes_of(values), 0
        while done < len(view):
            done += os.pwrite(self._file, view[done:], begin + done)

    @contextmanager
    def values(self, begin: int, count: int, dtype: torch.dtype) -> Iterator[Tensor]:
        """(count,) values from a byte on where the system keeps them of the file, to be looked at inside `with` alone.

        They are brought in before, so that what a disk does not give raises OSError and is no fault of the process, and
        are no memory of the process afterwards. A system that cannot do so reads a copy.
        """
        end = begin + count * dtype.itemsize
        if end > self.size:
            raise OSError(f"a scratch file in {self.folder} ends early")
        first = begin // mmap.PAGESIZE * mmap.PAGESIZE
        try:
            self._mapped.madvise(_BRING_IN, first, end - first)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            yield self._copy(begin, count, dtype)
            return
        try:
            yield torch.frombuffer(self._mapped, dtype=dtype, count=count, offset=begin)
        finally:
            self._mapped.madvise(mmap.MADV_DONTNEED, first, end - first)

    def _copy(self, begin: int, count: int, dtype: torch.dtype) -> Tensor:
        found = torch.empty(count, dtype=dtype)
        view, done = _bytes_of(found), 0
        while done < len(view):
            read = os.preadv(self._file, [view[done:]], begin + done)
            if read == 0:
                raise OSError(f"a scratch file in {self.folder} ends early")
            done += read
        return found


def _bytes_of(tensor: Tensor) -> memoryview:
    return memoryview(tensor.view(torch.uint8).numpy())  # type: ignore[arg-type]


def _is_memory(folder: Path) -> bool:
    """Whether files in a folder lie in memory."""
    try:
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    except OSError:
        return False
    here = folder.resolve()
    kinds = {Path(where): kind for _, where, kind, *_ in mounts}  # of two mounts at one place the later holds
    return next((kinds[above] for above in (here, *here.parents) if above in kinds), "") in _IN_MEMORY
