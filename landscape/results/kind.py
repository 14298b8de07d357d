"""Kind: how one kind of result is filed, told and drawn; which one a result is of."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from landscape_kernels.arrays import BoolArray, FloatArray

from landscape.errors import InputError
from landscape.files.hdf5 import Group
from landscape.results.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from landscape.pictures.views import Picture

R = TypeVar("R")

Columns = Mapping[str, Any]  # name -> one entry for each thing measured, a sequence or an array


def stacked(parts: Sequence[Columns]) -> Columns:
    """Rows of several tables below each other; NaN in columns that a part does not have."""
    there = [part for part in parts if any(len(column) for column in part.values())]
    names = dict.fromkeys(name for part in there or parts[:1] for name in part)
    found: dict[str, list[Any]] = {name: [] for name in names}
    for part in there:
        rows = len(next(iter(part.values())))
        for name in names:
            found[name] += list(part[name]) if name in part else [math.nan] * rows
    return {name: np.array(column, dtype=object if _mixed(column) else None) for name, column in found.items()}


def _mixed(column: Sequence[Any]) -> bool:
    """Whether numbers would become texts, or truth values numbers, in one array."""
    return len({isinstance(entry, str) * 2 + isinstance(entry, (bool, np.bool_)) for entry in column}) > 1


@dataclass(frozen=True)
class Line:
    """Values along one axis, for a terminal."""

    title: str
    axis: str
    x: FloatArray  # (n,), ascending
    values: FloatArray  # (n,)
    computed: BoolArray  # (n,)
    highest: bool = False  # of several values in one column the largest is shown, else the smallest


@dataclass(frozen=True)
class Field:
    """Values over two axes, for a terminal."""

    title: str
    axes: tuple[str, str]  # names of x and y
    x: FloatArray  # (nx,), ascending
    y: FloatArray  # (ny,)
    values: FloatArray  # (ny, nx)
    computed: BoolArray  # (ny, nx)


Glance = Line | Field


@dataclass(frozen=True)
class Asked:
    """What a command line asks of pictures; None where it does not say."""

    kind: str | None = None
    quantity: str | None = None
    levels: str | tuple[float, ...] | None = None

    def of_kind(self, known: str) -> str:
        """The only kind of picture that there is. Raises InputError where another was asked for."""
        if self.kind not in (None, known):
            raise InputError(f"kind {self.kind!r} is not a picture of this result; known: {known}")
        return known

    def without(self, *options: str) -> None:
        """Raise InputError where an option was given that this result's pictures do not have."""
        given = {"--kind": self.kind, "-q": self.quantity, "--levels": self.levels}
        for option in options:
            if given[option] is not None:
                raise InputError(f"{option} {given[option]}: the pictures of this result do not have it; leave it out")


@dataclass(frozen=True)
class Pictures(Generic[R]):
    """The matplotlib figures of one kind of result."""

    plot: Callable[..., Figure]  # (result, ...): what `plot` of the result draws
    asked: Callable[[R, Asked], Iterator[tuple[str, Figure]]]  # {name of a file: figure} of `landscape plot`
    card: Callable[[R], Figure]  # the picture that tells most, which a notebook shows


Views = Callable[[R, int], "Iterator[Picture]"]  # (result, points of a picture at most): the pictures of a report


def nothing_at_a_glance(result: Any) -> Glance | None:
    """What a terminal shows of results that it cannot draw."""
    return None


@dataclass(frozen=True)
class Kind(Generic[R]):
    """One kind of result. `pictures` and `views` are called when something is drawn: matplotlib loads then.

    A result has `attributes`, in plain values: where it comes from, and what it is of.
    """

    name: str  # the group of its file
    words: str  # what it is called in a sentence
    result: type[R]
    group: Callable[[R], Group]  # to the tree of a file
    read: Callable[[Group, str | Path], R]  # and back; raises StoreError for what is no such tree
    tables: Callable[[R, str], Iterator[Table]]  # what is said of it, the first table of the given title
    columns: Callable[[R], Columns]
    pictures: Callable[[], Pictures[R]]
    views: Callable[[], Views[R]]
    glance: Callable[[R], Glance | None] = field(default=nothing_at_a_glance)
    unit: str = "points"  # what there is a value of
    flat: bool = True  # whether `to_xarray` has the variables of sub-groups, too
    # The result with the folder of its run, of kinds that have files of their own beside their rows.
    located: Callable[[R, Path], R] | None = None


_KINDS: dict[type, Kind[Any]] = {}  # filled once, by the table of studies


def register(kind: Kind[Any]) -> None:
    """Make a kind known to `kind_of`."""
    _KINDS[kind.result] = kind


def kinds() -> tuple[Kind[Any], ...]:
    """All kinds, in the order of the table of studies, in which files open."""
    return tuple(_KINDS.values())


def kind_of(result: R) -> Kind[R]:
    """The kind of a result. Raises InputError for what is none."""
    kind = next((_KINDS[base] for base in type(result).__mro__ if base in _KINDS), None)
    if kind is None:
        known = ", ".join(one.__name__ for one in _KINDS)
        raise InputError(f"{type(result).__name__} is not a result of this engine; known: {known}")
    return kind
