"""Where code that is not ours raised."""

from __future__ import annotations

import contextlib
import traceback
from pathlib import Path

import landscape_kernels
import torch

_OURS = tuple(Path(str(file)).parent for file in (torch.__file__, landscape_kernels.__file__, Path(__file__).parent))
_LIBRARY = Path(contextlib.__file__).parent  # Python's own; installed packages may lie inside


def raised_by(error: BaseException) -> str:
    """An exception in one line: its class, the first line of its message, and the line of the model that raised it.

    That is the innermost line outside of torch and of this package: the user's own, or that of the library the model
    comes from. Of an error that was made of another the other one is told.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    said = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    theirs = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_theirs(frame.filename)]
    if not theirs:
        return said
    last = theirs[-1]
    return f"{said}, in `{last.line}` ({Path(last.filename).name}, line {last.lineno}, in {last.name})"


def _is_theirs(filename: str) -> bool:
    path = Path(filename)
    pythons = path.is_relative_to(_LIBRARY) and "site-packages" not in path.parts
    return not (filename.startswith("<") or pythons or any(path.is_relative_to(folder) for folder in _OURS))
