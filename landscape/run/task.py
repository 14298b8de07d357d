"""What the run loop runs: a numbered family of independent items."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from landscape_kernels.arrays import BoolArray, FloatArray

from landscape.run.comm import Communicator

Row = Mapping[str, float | FloatArray]


@dataclass(frozen=True)
class Description:
    """A task in plain JSON values, written into the run folder so that its rows can be read without its objects."""

    name: str  # also the group of the final file
    columns: Mapping[str, tuple[int, ...]]  # column -> shape of one item's value, () for a number
    identity: Mapping[str, Any]  # what the values depend on: rows are reused only where all of it agrees
    about: Mapping[str, Any]  # what else is needed to make a result of the rows
    later: tuple[str, ...] = ()  # columns that earlier versions did not have: folders begun without them go on so

    def columns_of(self, there: Iterable[str]) -> dict[str, tuple[int, ...]]:
        """The columns, without the later ones that are not among those `there`, in a folder."""
        kept = set(there)
        return {name: shape for name, shape in self.columns.items() if name in kept or name not in self.later}


@dataclass(frozen=True)
class Rows:
    """The rows of items 0..n-1; those not computed yet are False in `done` and NaN in the columns."""

    columns: Mapping[str, FloatArray]  # column -> (n, *shape)
    done: BoolArray  # (n,)

    @classmethod
    def empty(cls, columns: Mapping[str, tuple[int, ...]], count: int) -> Rows:
        """No row computed."""
        return cls({k: np.full((count, *shape), np.nan) for k, shape in columns.items()}, np.zeros(count, dtype=bool))


def checked_row(row: Row, columns: Mapping[str, tuple[int, ...]]) -> Row:
    """A copy of the row, each column an array of its shape. Raises ValueError where the row is another."""
    if row.keys() != columns.keys():
        raise ValueError(f"the row has columns {', '.join(row)}; the task describes {', '.join(columns)}")
    checked: dict[str, FloatArray] = {}
    for name, shape in columns.items():
        checked[name] = np.array(row[name], dtype=np.float64)
        if checked[name].shape != shape:
            raise ValueError(f"column {name} has shape {checked[name].shape}; the task describes {shape}")
    return checked


class Task(Protocol):
    """A numbered family of independent items, evaluated in any order on any rank.

    `evaluate(index)` must depend on the index alone: what is random in it derives from a seed, the task and the index.
    After all of items 0..n-1 are done, `extend(rows)` says how many there are in all: more than n starts another
    round (to refine, say), n ends the run. It is a pure function of the rows, so a resumed run takes the same rounds.
    """

    count: int  # items of the first round
    headline: str  # the column whose running minimum is shown while it runs

    def describe(self) -> Description:
        """The task as plain values."""

    def evaluate(self, index: int, group: Communicator) -> Row:
        """The row of one item; the ranks of `group` may share its work, and all of them call this."""

    def extend(self, rows: Rows) -> int:
        """Number of items once `rows` are done."""


@runtime_checkable
class Telling(Protocol):
    """A task whose items are so long that it tells how far the one in hand is, and may leave it unfinished.

    Both are set by the run loop. `report` is there on the first rank of an item's group and takes a short text: the
    place the item has come to, then, after a semicolon, what else there is to tell. The place has to read the same in
    every attempt, since failures count against an item only where they are at one place.

    `stopping` says whether this rank was asked to stop. Where any rank of an item's group was, `evaluate` may keep what
    it has for the next attempt and raise `ItemStopped` on all of them.
    """

    report: Callable[[str], None] | None
    stopping: Callable[[], bool] | None


@runtime_checkable
class Planned(Protocol):
    """A task whose items after the first round depend on the rows of the rounds before: it is told all rows there are.

    The run loop does so at every beginning and before every round, on all ranks, so that a resumed run knows what its
    items are. What an item is may depend on the rows of earlier rounds alone.
    """

    def plan(self, rows: Rows) -> None:
        """Take note of the rows."""


class ItemStopped(Exception):  # noqa: N818  (a result, like StopIteration)
    """An item was left unfinished because the run was asked to stop."""
