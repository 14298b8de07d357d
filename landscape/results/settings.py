"""What the fields of settings may be, said once for a study's arguments and for its table in a job file.

Settings are frozen dataclasses of plain values. A field's annotation says what it may be, with `Annotated` and the
constraints of annotated_types (`Ge`, `Gt`, `Lt`, ...) or some of our own: objects with a `check(field, value)`, which
returns the value as it is meant and raises InputError for one that cannot be; `__post_init__` raises InputError for
values that do not go together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from landscape.errors import InputError


@dataclass(frozen=True)
class OneOf:
    """One of these names."""

    names: tuple[str, ...]

    def check(self, name: str, value: Any) -> Any:
        """The value. Raises InputError for another."""
        if value not in self.names:
            raise InputError(f"not one of {', '.join(self.names)}")
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

    def check(self, name: str, value: Any) -> Any:
        """The value. Raises InputError for what is not between 0 and 1."""
        if not 0 < value < 1:
            raise InputError("a relative accuracy, so a number between 0 and 1")
        return value


def name_tuple(names: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """Names as a tuple, one alone, too; None stays None."""
    return (names,) if isinstance(names, str) else None if names is None else tuple(names)


Names = Annotated[tuple[str, ...], NameList()]
Accuracy = Annotated[float, RelativeAccuracy()]
