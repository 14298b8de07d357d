"""What arguments may be, read off their annotations: others are refused before any work, with what to give instead.

`checked` does so for a function, `require_fields` for a record. Looked at are numbers, True and False, texts, paths,
callables, lists and dicts of those, and instances of classes; what is annotated `Any` may be anything. A number is one
of Python, of numpy, or a tensor without axes; the function gets Python's. Ranges are constraints of annotated_types
(`Ge`, `Gt`, `Le`, `Lt`) in `Annotated`, or objects of our own with `words` and `holds(value)`. None is
nothing where the default is empty. A class may say by which call it is `made_by`.
"""

from __future__ import annotations

import inspect
import math
import operator
import os
import reprlib
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set, Sized, ValuesView
from dataclasses import MISSING, dataclass, fields, replace
from functools import cache, wraps
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt

from landscape.errors import InputError

P = ParamSpec("P")
R = TypeVar("R")

Count = Annotated[int, Ge(1)]
Natural = Annotated[int, Ge(0)]
Seed = Natural
Positive = Annotated[float, Gt(0)]

_REFUSED: Any = object()
_EMPTY: tuple[Any, ...] = ((), "")  # defaults that say nothing, as None does
# kind of bound -> (in words, whether a value is within)
_BOUNDS: dict[type, tuple[str, Callable[[Any, Any], bool]]] = {
    Ge: ("of {:g} or more", operator.ge),
    Gt: ("above {:g}", operator.gt),
    Le: ("of at most {:g}", operator.le),
    Lt: ("below {:g}", operator.lt),
}


def checked(settings: type | None = None) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A function that looks at its arguments before anything else.

    Fields of `settings`, the record of what is asked of it, tell the ranges of arguments of the same names. Raises
    InputError for a value that may not be; what is missing or unknown is Python's own TypeError.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        names = tuple(inspect.signature(function).parameters)

        @wraps(function)
        def asking(*args: P.args, **kwargs: P.kwargs) -> R:
            known = _arguments(function, settings)
            placed: Any = [known[name].of(value) for name, value in zip(names, args, strict=False)]
            named: Any = {name: known[name].of(value) if name in known else value for name, value in kwargs.items()}
            too_many: Any = args[len(placed) :]  # of which Python tells
            return function(*placed, *too_many, **named)

        return asking

    return decorate


def require_fields(record: Any) -> None:
    """Look at the plain fields of a frozen dataclass (see `plain_fields`); call it in `__post_init__`."""
    own: Any = type(record)
    for name, field in plain_fields(own).items():
        object.__setattr__(record, name, field.of(getattr(record, name)))


def bare(value: Any) -> Any:
    """A number of numpy, or a tensor without axes, as that of Python; anything else as it is."""
    return value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value


def is_number(value: Any) -> bool:
    """Whether a value is a real number of Python or numpy, or a tensor of one without axes; True and False are none."""
    number = bare(value)
    return isinstance(number, Real) and not isinstance(number, bool)


@cache
def plain_fields(record: type) -> Mapping[str, Argument]:
    """{name: what it may be} of the fields of a dataclass that are numbers, True or False, or texts."""
    hints = get_type_hints(record, include_extras=True)
    forms = {field.name: (_form(hints[field.name]), field.default) for field in fields(record)}
    return {name: Argument(name, form, default) for name, (form, default) in forms.items() if form and form.plain}


@cache
def _arguments(function: Callable[..., Any], settings: type | None) -> Mapping[str, Argument]:
    """{name: what it may be} of all arguments of a function."""
    known = {} if settings is None else plain_fields(settings)
    given = inspect.signature(function).parameters
    defaults = {name: MISSING if one.default is one.empty else one.default for name, one in given.items()}
    return {name: known.get(name) or Argument(name, _hinted(function, name), defaults[name]) for name in given}


def _hinted(function: Callable[..., Any], name: str) -> _Form | None:
    """The form of a parameter; None where its annotation is there for type checkers alone."""
    own = inspect.unwrap(function)
    alone = types.SimpleNamespace(__annotations__={name: own.__annotations__.get(name, Any)})
    try:
        return _form(get_type_hints(alone, own.__globals__, include_extras=True)[name])
    except NameError:
        return None


@dataclass(frozen=True)
class _Form:
    """What a value may be."""

    words: str  # as in "give a whole number of 1 or more"
    take: Callable[[Any], Any]  # the value as it is meant, or _REFUSED
    plain: bool = False  # whether it is a number, True or False, or a text
    optional: bool = False  # whether it may be None


@dataclass(frozen=True)
class Argument:
    """What one argument may be."""

    name: str
    form: _Form | None  # None: anything
    default: Any  # MISSING where it has none

    def of(self, value: Any) -> Any:
        """The value as it is meant. Raises InputError for one that may not be."""
        if self.form is None:
            return value
        if value is None and self.default in _EMPTY:
            return self.default
        taken = self.form.take(value)
        if taken is _REFUSED:
            told = " ".join(reprlib.repr(value).split())
            raise InputError(f"{self.name}={told}; give {self.form.words}{self._way_out()}")
        return taken

    def _way_out(self) -> str:
        none = ", None" if self.form and self.form.optional and self.default is not None else ""
        if self.default is MISSING:
            return none and " or None"
        told = isinstance(self.default, (bool, int, float, str)) and self.default != ""
        return f"{none}, or leave it out for {self.default}" if told else f"{none}, or leave it out"


# -- forms ---------------------------------------------------------------------------------------------------------


def _form(hint: Any, *, inside: bool = False) -> _Form | None:
    """What a value of an annotation may be; None: anything. NaN is a number `inside` lists and mappings."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _within(_form(parts[0], inside=inside), parts[1:])
    if origin in (Union, types.UnionType):
        return _either(parts, inside=inside)
    if hint is bool:
        return _Form("True or False", _truth, plain=True)
    if hint in (int, float):
        return _number(hint, finite=not inside)
    if hint is str:
        return _Form("a text", _instance(str), plain=True)
    if hint is Path:
        return _Form("a path", lambda value: _path(value, Path))
    if Callable in (origin, hint):
        return _Form("something to call", lambda value: value if callable(value) else _REFUSED)
    if origin in (Sequence, tuple):
        return _listed(_form(parts[0], inside=True) if origin is Sequence or parts[1:] == (...,) else None)
    if origin is Mapping:
        return _mapped(*(_form(part, inside=True) for part in parts))
    kind = hint if origin is None else origin
    if hint is Any or not isinstance(kind, type):
        return None
    name = _public_name(kind)
    words = getattr(kind, "made_by", f"{'an' if name[0] in 'AEIOU' else 'a'} {name}")
    if not getattr(kind, "_is_protocol", False):
        return _Form(words, _instance(kind))
    asked = [name for name, value in vars(kind).items() if callable(value) and not name.startswith("_")]
    return _Form(words, lambda value: value if any(hasattr(value, name) for name in asked) else _REFUSED)


def _public_name(kind: type) -> str:
    """A class as users know it: those of other packages with the shortest path that leads to it."""
    own, *_ = packages = kind.__module__.split(".")
    paths = [] if own == "landscape" else [".".join(packages[: k + 1]) for k in range(len(packages))]
    known = (path for path in paths if getattr(sys.modules.get(path), kind.__name__, None) is kind)
    path = next(known, "builtins")
    return kind.__name__ if path == "builtins" else f"{path}.{kind.__name__}"


def _within(form: _Form | None, constraints: Sequence[Any]) -> _Form | None:
    """A form within ranges; constraints that job files alone look at are passed over, and such a form is not plain."""
    ranges = [range for one in constraints if (range := _range(one)) is not None]
    if form is None or len(ranges) < len(constraints):
        return form and replace(form, plain=False)
    words, holds = zip(*ranges, strict=True)

    def take(value: Any) -> Any:
        taken = form.take(value)
        return taken if taken is not _REFUSED and all(one(taken) for one in holds) else _REFUSED

    said = " and ".join(words)
    return replace(form, words=said if form.words == "a text" else f"{form.words} {said}", take=take)


def _range(constraint: Any) -> tuple[str, Callable[[Any], bool]] | None:
    """(in words, whether a value is within) of a constraint; None of one that says neither."""
    if type(constraint) in _BOUNDS:
        words, compare = _BOUNDS[type(constraint)]
        end = getattr(constraint, type(constraint).__name__.lower())
        return words.format(end), lambda value: compare(value, end)
    return (constraint.words, constraint.holds) if hasattr(constraint, "holds") else None


def _either(parts: Sequence[Any], *, inside: bool) -> _Form | None:
    """What is of one of these annotations."""
    kept = [part for part in parts if part is not types.NoneType and not (part is str and Path in parts)]
    forms = [_form(part, inside=inside) for part in kept]
    if Path in parts and str in parts:
        forms[kept.index(Path)] = _Form("a path", lambda value: _path(value, str, Path))
    known = [form for form in forms if form is not None]
    if len(known) < len(forms):
        return None
    optional = types.NoneType in parts

    def take(value: Any) -> Any:
        if optional and value is None:
            return None
        return next((taken for form in known if (taken := form.take(value)) is not _REFUSED), _REFUSED)

    words = " or ".join(form.words for form in known)
    return _Form(words, take, len(known) == 1 and known[0].plain, optional)


def _truth(value: Any) -> Any:
    truth = bare(value)
    return truth if isinstance(truth, bool) else _REFUSED


def _number(base: type, *, finite: bool) -> _Form:
    def take(value: Any) -> Any:
        number = bare(value)
        fits = isinstance(number, Integral if base is int else Real) and is_number(number)
        return number if fits and (math.isfinite(number) or not finite) else _REFUSED

    words = "a whole number" if base is int else "a finite number" if finite else "a number"
    return _Form(words, take, plain=True)


def _instance(kind: type) -> Callable[[Any], Any]:
    return lambda value: value if isinstance(value, kind) else _REFUSED


def _path(value: Any, *kept: type) -> Any:
    """A path, as one of the kinds that are kept, or a Path; an empty text is none."""
    if not isinstance(value, (str, os.PathLike)) or value == "":
        return _REFUSED
    return value if isinstance(value, kept) else Path(value)


def _as_list(value: Any) -> Any:
    """What has entries and is no list, as a list: iterators, sets, views of dicts, arrays of texts, own sequences."""
    if isinstance(value, (Iterator, Set, ValuesView)):
        return tuple(value)
    if hasattr(value, "dtype"):
        return list(value) if getattr(value.dtype, "kind", "") in ("O", "U", "T") and value.shape else value
    if not isinstance(value, Iterable) and hasattr(value, "__getitem__") and hasattr(value, "__len__"):
        return tuple(value[place] for place in range(len(value)))
    return value


def _listed(element: _Form | None) -> _Form:
    def take(value: Any) -> Any:
        value = _as_list(value)
        if not isinstance(value, Iterable):
            return _REFUSED
        if element is None or hasattr(value, "dtype"):  # arrays are looked at as a whole, where they are used
            return value
        fits = isinstance(value, Sized) and not isinstance(value, (str, bytes, Mapping))
        return value if fits and all(element.take(one) is not _REFUSED for one in value) else _REFUSED

    return _Form("a list" if element is None else f"a list, each {element.words}", take)


def _mapped(key: _Form | None, content: _Form | None) -> _Form:
    def fits(form: _Form | None, values: Iterable[Any]) -> bool:
        return form is None or all(form.take(value) is not _REFUSED for value in values)

    def take(value: Any) -> Any:
        fit = isinstance(value, Mapping) and fits(key, value) and fits(content, value.values())
        return value if fit else _REFUSED

    return _Form("a dict" if content is None else f"a dict, each value {content.words}", take)
