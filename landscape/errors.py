"""The errors a user can act on: each names the value, what is allowed, the cause and the way out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LandscapeError(Exception):
    """Base of every error this package raises on purpose."""


class InputError(LandscapeError, ValueError):
    """Something given by the user cannot be used; nothing was computed or written because of it."""


class NumericalError(LandscapeError, ArithmeticError):
    """A computation met values it cannot go on with (NaN, Inf); the message says where."""


class StoreError(LandscapeError):
    """A run folder or result file cannot be read or written; rows finished before it are safe."""


class UnfinishedError(StoreError):
    """A run has begun, and nothing of its result is there yet."""


class RunFailedError(LandscapeError):
    """An item raised on some rank; `str()` holds that rank's traceback. Rows finished before it are kept."""


class RunInterrupted(KeyboardInterrupt):
    """A signal stopped the run between two items; finished rows are kept, and the same call goes on from there."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Advice listing the known names closest to `name`, or all of them when none is close.

    >>> nearest("normalise", ["normalize", "seed"])
    "did you mean 'normalize'?"
    >>> nearest("zzz", ["seed", "kind"])
    'known: kind, seed'
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3)
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    return "known: " + ", ".join(names)
