"""What a long item keeps between attempts: arrays in one file, whole or absent."""

from __future__ import annotations

import io
import shutil
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from landscape.errors import StoreError
from landscape.files.durable import write_durably


class Kept:
    """The state of one item in a file; without a path nothing is kept.

    It is written anew after `every` seconds, or after `share` times the seconds that the last writing took, where that
    is longer: a state of gigabytes then costs a run at most 1/`share` of its time.
    """

    def __init__(self, path: Path | None, then: str, *, every: float, share: float = 20.0, name: str = "state") -> None:
        """`name` is what the state is called, `then` what happens without it: for the message about a damaged file."""
        self._path, self._then, self._every, self._share, self._name = path, then, every, share, name
        self._written = time.monotonic()
        self._pause = every

    def read(self) -> dict[str, Any] | None:
        """The arrays a killed attempt left; None where there are none. Raises StoreError for a damaged file."""
        if self._path is None or not self._path.exists():
            return None
        try:
            with np.load(self._path, allow_pickle=False) as arrays:
                return dict(arrays)
        except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile) as error:
            raise self.damaged(error) from error

    def damaged(self, cause: Exception) -> StoreError:
        """The error for a file whose arrays cannot be read, or are not those of such a state."""
        return StoreError(f"cannot read the {self._name} {self._path}: {cause}. Delete it; {self._then}.")

    @property
    def due(self) -> bool:
        """Whether it is time to write."""
        return self._path is not None and time.monotonic() - self._written >= self._pause

    def write(self, arrays: Mapping[str, Any]) -> None:
        """Write the arrays in the place of those that are there."""
        if self._path is None:
            return
        began = time.monotonic()
        content = io.BytesIO()
        np.savez(content, allow_pickle=False, **arrays)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(self._path, content.getvalue())
        self._written = time.monotonic()
        self._pause = max(self._every, self._share * (self._written - began))


def discard(path: Path) -> None:
    """Remove a file or folder of states, where there is one."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
