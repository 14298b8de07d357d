"""Records of runs and sweeps: JSON files that are whole or absent, and are read only in the form they are written in.

Whoever reads one names the keys that it needs and what each holds, so that a file that was edited or damaged is refused
by the name of the file and the key, wherever it is read.
"""

from __future__ import annotations

import errno
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from landscape.errors import LandscapeError, StoreError
from landscape.files.durable import write_durably

_TOLD = 12  # differences that a message lists


@dataclass(frozen=True)
class Form:
    """What a key of a record holds."""

    words: str
    holds: Callable[[Any], bool]


def _whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 53


def _moment(value: Any) -> bool:
    try:
        return isinstance(value, str) and datetime.fromisoformat(value) is not None
    except ValueError:
        return False


def list_of(form: Form, *, least: int = 0) -> Form:
    """A list of at least so many values of a form."""
    few = f", {least} or more" if least else ""
    return Form(
        f"a list{few}, each {form.words}",
        lambda value: isinstance(value, list) and len(value) >= least and all(map(form.holds, value)),
    )


def table_of(form: Form, *, least: int = 0) -> Form:
    """A table of at least so many values, all of a form."""
    few = f" of {least} or more keys" if least else ""
    return Form(
        f"a table{few}, each value {form.words}",
        lambda value: isinstance(value, dict) and len(value) >= least and all(map(form.holds, value.values())),
    )


def table_with(needed: Mapping[str, Form], known: Mapping[str, Form] | None = None) -> Form:
    """A table that has the keys `needed`, and maybe others, those `known` of their form."""

    def holds(value: Any) -> bool:
        if not isinstance(value, dict) or not needed.keys() <= value.keys():
            return False
        return all(form.holds(value[key]) for key, form in {**(known or {}), **needed}.items() if key in value)

    return Form(f"a table with {', '.join(needed)}", holds)


def or_none(form: Form) -> Form:
    """A value of a form, or null."""
    return Form(f"{form.words}, or null", lambda value: value is None or form.holds(value))


TEXT = Form("a text", lambda value: isinstance(value, str))
WHOLE = Form("a whole number from 0 on", _whole)
NUMBER = Form("a number", lambda value: type(value) in (int, float) and math.isfinite(value))
TABLE = Form("a table", lambda value: isinstance(value, dict))
MOMENT = Form("a time, as in 2026-01-31T12:00:00+00:00", _moment)


def read_record(
    path: Path, needed: Mapping[str, Form], known: Mapping[str, Form] | None = None, *, way: str
) -> dict[str, Any]:
    """The table in a JSON file, which has the keys `needed`, and maybe others, those `known` of their form.

    Raises StoreError naming the file, the key, what it holds and what it should, with the `way` out.
    """
    content = read(path)
    try:
        record = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"cannot read {path}: it is no JSON ({error}). It was edited or damaged; {way}") from error
    if not isinstance(record, dict):
        raise StoreError(f"cannot read {path}: it holds {_short(record)} and no table. It was edited or damaged; {way}")
    for key in needed:
        if key not in record:
            raise StoreError(f"cannot read {path}: {key!r} is missing. It was edited or damaged; {way}")
    for key, form in {**(known or {}), **needed}.items():
        if key in record and not form.holds(record[key]):
            raise StoreError(
                f"cannot read {path}: {key!r} is {_short(record[key])} and not {form.words}. It was edited or damaged; "
                f"{way}"
            )
    return record


@contextmanager
def reading_record(path: Path) -> Iterator[None]:
    """What is made inside `with` of what a run.json says; StoreError tells what is missing or of another form."""
    way = "It was edited or damaged; restore it from a copy, or start again in another folder."
    try:
        yield
    except KeyError as error:
        raise StoreError(f"cannot read {path}: its 'identity' and 'about' miss {error}. {way}") from error
    except (IndexError, ValueError, AttributeError, TypeError, ArithmeticError) as error:
        if isinstance(error, LandscapeError):
            raise
        raise StoreError(
            f"cannot read {path}: its 'identity', 'about' or 'columns' are of another form than was written "
            f"({error!r}). {way}"
        ) from error


def read(path: Path) -> bytes:
    """The content of a file of the folder. Raises StoreError where the file system does not give it."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise StoreError(
            f"cannot read {path}: {error}. The file system does not give it now; what is finished is safe as long as "
            "it is not deleted. Try again when it answers, or see that you may read the folder."
        ) from error


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write a record durably. Raises StoreError when the disk refuses."""
    try:
        write_durably(path, as_json(content))
    except OSError as error:
        raise unwritable(path, error) from error


def as_json(content: Mapping[str, Any]) -> bytes:
    """A record as it stands in its file."""
    return json.dumps(dict(content), indent=1).encode()


def unwritable(path: Path, error: OSError) -> StoreError:
    """What is raised where the file system takes no record."""
    return StoreError(
        f"cannot write {path}: {error}. Finished rows are kept; make room (or make the folder writable) and resume."
    )


def refused(error: StoreError) -> bool:
    """Whether a record was not written because nothing may be written there: mounted so, or somebody else's folder."""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in (errno.EROFS, errno.EACCES, errno.EPERM)


def json_differences(there: Any, now: Any, path: str = "") -> Iterator[str]:
    """Where two JSON values differ, one line each."""
    if isinstance(there, dict) and isinstance(now, dict):
        for key in sorted({*there, *now}):
            yield from json_differences(there.get(key), now.get(key), f"{path}.{key}" if path else key)
    elif _alike(there) and _alike(now) and len(there) == len(now):
        for number, (one, other) in enumerate(zip(there, now, strict=True)):
            yield from json_differences(one, other, f"{path}[{number}]")
    elif json.dumps(there) != json.dumps(now):  # as text: NaN differs from itself
        yield f"{path}: {_short(there)} there, {_short(now)} now"


def task_differences(there: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Where two tasks differ, one line each; an entry of `identity` may have the name of one beside it."""
    first, second = ({name: value for name, value in task.items() if name != "identity"} for task in (there, now))
    found = [*json_differences(there["identity"], now["identity"]), *json_differences(first, second)]
    return sorted(found, key=lambda line: (line.startswith("columns"), line))  # columns follow from all else


def in_lines(differences: Sequence[str]) -> str:
    """So many of them as can be read, indented."""
    left = len(differences) - _TOLD
    return "\n  ".join([*differences[:_TOLD], *([f"and {left} more"] if left > 0 else [])])


def _alike(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:40]} ... ({len(text)} characters)"
