"""The errors a user can act on: each names the value, what is allowed, the cause and the way out."""

from __future__ import annotations

import contextlib
import difflib
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType

_CALLED = "While this was called: "  # begins the note on an error that goes through


class LandscapeError(Exception):
    """Base of every error this package raises on purpose."""


class InputError(LandscapeError, ValueError):
    """Something given by the user cannot be used; nothing was computed or written because of it."""


class UserCodeError(InputError, RuntimeError):
    """The user's own model, loss, metric, factory or data raised; its exception is the `__cause__`."""


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


def user_code(
    what: str, given: Callable[[], str] | None = None, advice: str = ""
) -> contextlib.AbstractContextManager[None]:
    """Inside, an exception of the user's own code becomes a UserCodeError that says what was called, and with what.

    `what` names the call, `given` what it was given (shapes); the error's class, its text and the place in the user's
    code follow, and `advice`. Errors of this package, the ends of items and runs, and a lack of memory go through; an
    end of the program (SystemExit) and a MemoryError take along what was called, see `told_at_the_end`.
    """
    return _UserCode(what, given, advice)


class _UserCode(contextlib.AbstractContextManager[None]):
    """No generator: contextlib takes a RuntimeError made of a StopIteration for Python's own, and raises the latter."""

    def __init__(self, what: str, given: Callable[[], str] | None, advice: str) -> None:
        self._what, self._given, self._advice = what, given, advice

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is not None and is_users(error):
            error = _first_raised(error)
            raise told_of_user(error, self._what, self._given() if self._given else "", self._advice) from error
        if isinstance(error, (SystemExit, MemoryError)):
            error.add_note(f"{_CALLED}{self._what}{f' ({self._given()})' if self._given else ''}")


def is_users(error: BaseException) -> bool:
    """Whether an exception that came out of the user's code is to be told as the user's: not our own, not of memory.

    The ends of the program (KeyboardInterrupt, SystemExit) are not; the ends of a generator are.
    """
    ours = isinstance(error, LandscapeError) or type(error).__module__.partition(".")[0] == "landscape"
    memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return isinstance(error, (Exception, GeneratorExit)) and not (ours or memory)


def told_of_user(error: BaseException, what: str, given: str = "", advice: str = "") -> UserCodeError:
    """The error that tells of an exception of the user's code; raise it `from` that."""
    error = _first_raised(error)
    text = text_of(error) or "without a message"
    told = f"{what}{f' ({given})' if given else ''}: {type(error).__name__}: {text}{_place(error)}"
    return UserCodeError(f"{told.rstrip('.')}. {advice}" if advice else told)


def told_at_the_end(error: BaseException) -> UserCodeError | None:
    """The error that tells of a SystemExit or MemoryError of the user's code, which went through; None of others."""
    notes = [note.removeprefix(_CALLED) for note in getattr(error, "__notes__", []) if note.startswith(_CALLED)]
    if isinstance(error, SystemExit):
        advice = "It ended the program, which the code of a job must not do: let it raise an error, or return."
        return told_of_user(error, notes[0] if notes else "code that the command called", advice=advice)
    return told_of_user(error, notes[0]) if isinstance(error, MemoryError) and notes else None


def _first_raised(error: BaseException) -> BaseException:
    """What the user's code raised: a StopIteration that leaves a generator becomes a RuntimeError by Python itself."""
    cause = error.__cause__
    return cause if type(error) is RuntimeError and isinstance(cause, StopIteration) else error


def text_of(error: BaseException) -> str:
    """What an exception says, which may fail as all code of the user's: then that it does."""
    try:
        return str(error).strip()
    except Exception as failure:
        return f"it cannot say what it is, as its __str__ raises {type(failure).__name__}"


def raised_by(error: BaseException) -> str:
    """An exception in one line: its class, the first line of its message, and the line of the model that raised it.

    That is the innermost line outside of torch and of this package: the user's own, or that of the library the model
    comes from. Of an error that was made of another the other one is told.
    """
    met = {id(error)}
    while error.__cause__ is not None and id(error.__cause__) not in met:  # `raise error from error` is its own cause
        error = error.__cause__
        met.add(id(error))
    said = f"{type(error).__name__}: {text_of(error).partition(chr(10))[0]}"
    frame = _innermost(error, libraries=True)
    return said if frame is None else f"{said}, in `{frame.line}` ({_named(frame)})"


def _place(error: BaseException) -> str:
    """Where in the user's code an exception arose."""
    frame = _innermost(error, libraries=False)
    return "" if frame is None else f" ({_named(frame)})"


def _named(frame: traceback.FrameSummary) -> str:
    return f"{Path(frame.filename).name}, line {frame.lineno}, in {frame.name}"


def _innermost(error: BaseException, *, libraries: bool) -> traceback.FrameSummary | None:
    """The innermost place outside of Python's own files, torch and this package, of `libraries` or the user's alone."""
    installed = [Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")]
    python = Path(sysconfig.get_path("stdlib"))
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        inside = [folder for folder in installed if path.is_relative_to(folder)]
        ours = path.is_relative_to(Path(__file__).parent) or {"landscape_kernels", "landscape_jobs"} & set(path.parts)
        theirs = libraries and not any(path.is_relative_to(folder / "torch") for folder in inside)
        if path.suffix == ".py" and not ours and (theirs if inside else not path.is_relative_to(python)):
            return frame
    return None


def nearest(name: object, known: Iterable[str]) -> str:
    """Advice listing the known names closest to `name`, or all of them when none is close or it is no name.

    >>> nearest("normalise", ["normalize", "seed"])
    "did you mean 'normalize'?"
    >>> nearest("zzz", ["seed", "kind"])
    'known: kind, seed'
    >>> nearest(None, ["seed", "kind"])
    'known: kind, seed'
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3) if isinstance(name, str) else []
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    return "known: " + ", ".join(names)


@contextlib.contextmanager
def told_of(what: str) -> Iterator[None]:
    """Say of what (a model, a pair) the values are that a computation could not go on with."""
    try:
        yield
    except UserCodeError:
        raise
    except (InputError, NumericalError) as error:
        raise type(error)(f"{what}: {error}") from error
