"""What the fields of settings may be, said once for a study's arguments and for its table in a job file.

Settings are frozen dataclasses of plain values. A field's annotation says what it may be, with `Annotated` and the
constraints of annotated_types (`Ge`, `Gt`, `Le`, `Lt`) or some of our own: objects with a `check(field, value)`, which
returns the value as it is meant and raises InputError for one that cannot be. `Settings` looks at numbers, and at what
is True or False; the `__post_init__` of a study calls it, and raises InputError for values that do not go together.
"""

from __future__ import annotations

import math
import operator
import reprlib
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cache
from numbers import Integral, Real
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import numpy as np
from annotated_types import Ge, Gt, Le, Lt

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


@dataclass(frozen=True)
class _Plain:
    """What a field that is a number, or True or False, may be."""

    base: type  # int, float or bool
    bounds: tuple[_Bound, ...]
    optional: bool  # whether None stands for its absence
    default: Any  # MISSING where the field has none

    def allows(self, value: Any) -> bool:
        if value is None:
            return self.optional
        if self.base is bool or isinstance(value, (bool, np.bool_)):
            return self.base is bool and isinstance(value, (bool, np.bool_))
        if not isinstance(value, Integral if self.base is int else Real) or not math.isfinite(value):
            return False
        return all(bound.holds(value) for bound in self.bounds)

    def words(self) -> str:
        if self.base is bool:
            return "True or False"
        told = " and ".join(bound.words for bound in self.bounds)
        what = "a whole number" if self.base is int else "a finite number"
        return f"{what} {told}".strip()

    def way_out(self) -> str:
        if self.default is MISSING:
            return ""
        return ", or leave it out" if self.default is None else f", or leave it out for {self.default}"


# kind of bound -> (in words, whether a value is within)
_BOUNDS: dict[type, tuple[str, Callable[[Any, Any], bool]]] = {
    Ge: ("of {:g} or more", operator.ge),
    Gt: ("above {:g}", operator.gt),
    Le: ("of at most {:g}", operator.le),
    Lt: ("below {:g}", operator.lt),
}


@dataclass(frozen=True)
class _Bound:
    """One end of a range."""

    words: str
    holds: Callable[[Any], bool]

    @classmethod
    def of(cls, constraint: Any) -> _Bound:
        if isinstance(constraint, RelativeAccuracy):
            return cls("between 0 and 1", lambda value: 0 < value < 1)
        words, compare = _BOUNDS[type(constraint)]
        end = getattr(constraint, type(constraint).__name__.lower())
        return cls(words.format(end), lambda value: compare(value, end))


@cache
def _plain_fields(settings: type) -> Mapping[str, _Plain]:
    """{name: what it may be} of the fields that are numbers, or True or False."""
    hints, found = get_type_hints(settings, include_extras=True), {}
    for field in fields(settings):
        hint = hints[field.name]
        parts = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
        kept = [part for part in parts if part is not type(None)]
        base, *bounds = get_args(kept[0]) if get_origin(kept[0]) is Annotated else kept[:1]
        if len(kept) == 1 and base in (int, float, bool):
            found[field.name] = _Plain(base, tuple(map(_Bound.of, bounds)), len(parts) > 1, field.default)
    return found


def require_plain(settings: type, **values: Any) -> dict[str, Any]:
    """The `values` of some fields of settings, numbers of numpy as those of Python.

    Raises InputError for one that is no number where a number is asked (a text, None, a tensor, True, NaN, infinity),
    lies outside its range, or is neither True nor False where that is asked.
    """
    known = _plain_fields(settings)
    for name, value in values.items():
        if name in known and not known[name].allows(value):
            asked = known[name]
            raise InputError(f"{name}={reprlib.repr(value)}; give {asked.words()}{asked.way_out()}")
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in values.items()}


@dataclass(frozen=True)
class Settings:
    """The base of what is asked of a study."""

    def __post_init__(self) -> None:
        """See `require_plain`."""
        own: Any = type(self)
        for name, value in require_plain(own, **{name: getattr(self, name) for name in _plain_fields(own)}).items():
            object.__setattr__(self, name, value)


Names = Annotated[tuple[str, ...], NameList()]
Accuracy = Annotated[float, RelativeAccuracy()]
