"""What the fields of settings may be, said once for a study's arguments and for its table in a job file.

Settings are frozen dataclasses of plain values. A field's annotation says what it may be, with `Annotated` and the
constraints of annotated_types (`Ge`, `Gt`, `Le`, `Lt`) or some of our own: objects with a `check(field, value)`, which
returns the value as it is meant and raises InputError for one that cannot be, and, where that says all, with `words`
and `holds(value)`. `Settings` looks at numbers, at what is True or False, and at texts (see `landscape.arguments`); the
`__post_init__` of a study calls it, and raises InputError for values that do not go together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from landscape.arguments import plain_fields, require_fields
from landscape.errors import InputError


@dataclass(frozen=True)
class OneOf:
    """One of these names."""

    names: tuple[str, ...]

    @property
    def words(self) -> str:
        """As in "give one of a, b"."""
        return f"one of {', '.join(self.names)}"

    def holds(self, value: str) -> bool:
        """Whether a value is one of them."""
        return value in self.names

    def check(self, name: str, value: Any) -> Any:
        """The value. Raises InputError for another."""
        if value not in self.names:
            raise InputError(f"not {self.words}")
        return value


@dataclass(frozen=True)
class NameList:
    """Names, one or several."""

    def check(self, name: str, value: Any) -> Any:
        """The names as a tuple; modules of a Sequential are named by numbers. Raises InputError for none."""
        listed = value if isinstance(value, (list, tuple)) else [value]
        if not listed:
            raise InputError("no name is given; give one or more, or leave it out")
        return tuple(str(name) if type(name) is int else name for name in listed)


@dataclass(frozen=True)
class RelativeAccuracy:
    """A relative accuracy."""

    after = True  # it asks for a number, which is to be one first
    words = "between 0 and 1"

    def holds(self, value: float) -> bool:
        """Whether a number is between 0 and 1."""
        return 0 < value < 1

    def check(self, name: str, value: Any) -> Any:
        """The value. Raises InputError for what is not between 0 and 1."""
        if not self.holds(value):
            raise InputError("a relative accuracy, so a number between 0 and 1")
        return value


def name_tuple(names: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """Names as a tuple, one alone, too; None stays None."""
    return (names,) if isinstance(names, str) else None if names is None else tuple(names)


def require_plain(settings: type, **values: Any) -> dict[str, Any]:
    """The `values` of some fields of settings, numbers of numpy as those of Python.

    Raises InputError for one that may not be, see `landscape.arguments`.
    """
    known = plain_fields(settings)
    return {name: known[name].of(value) if name in known else value for name, value in values.items()}


@dataclass(frozen=True)
class Settings:
    """The base of what is asked of a study."""

    def __post_init__(self) -> None:
        """See `landscape.arguments.require_fields`."""
        require_fields(self)


Names = Annotated[tuple[str, ...], NameList()]
Accuracy = Annotated[float, RelativeAccuracy()]
