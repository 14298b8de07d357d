"""Small tasks with known rows, for tests of the run loop."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from landscape.run.comm import Communicator, world
from landscape.run.task import Description, Row, Rows

WIDTH = 3


def true_row(item: int) -> dict[str, np.ndarray | float]:
    """What a toy's item must be: numbers of its own stream, and the values other tools take for marks."""
    numbers = np.random.default_rng([2024, item]).normal(size=WIDTH)
    loss = {2: -1.0, 3: np.nan, 4: np.inf, 5: -np.inf, 6: 0.0}.get(item % 9, float(numbers[0]))
    return {"loss": loss, "vector": numbers}


class Toy:
    """`count` items with the rows of `true_row`; each evaluation is noted in `log` before it returns."""

    headline = "loss"

    def __init__(
        self,
        count: int,
        log: Path | None = None,
        *,
        before: Callable[[int], None] = lambda item: None,
        delay: float = 0.0,
        name: str = "toy",
        identity: dict[str, object] | None = None,
    ) -> None:
        self.count, self._log, self._before, self._delay, self._name = count, log, before, delay, name
        self._identity = identity or {"seed": 2024, "count": count}

    def describe(self) -> Description:
        return Description(self._name, {"loss": (), "vector": (WIDTH,)}, self._identity, {"note": "ü"})

    def evaluate(self, index: int, group: Communicator) -> Row:
        self._before(index)
        time.sleep(self._delay)
        row = true_row(index)
        if self._log is not None:
            note(self._log, index)
        return row

    def extend(self, rows: Rows) -> int:
        return len(rows.done)


class Refining(Toy):
    """Three rounds, of 5, 5 + 3 + (losses above 0 so far) and 4 more items."""

    def __init__(self, log: Path | None = None, *, between: Callable[[], None] = lambda: None) -> None:
        super().__init__(5, log, name="refining")
        self._between = between

    def extend(self, rows: Rows) -> int:
        self._between()
        n = len(rows.done)
        second = 5 + 3 + int((rows.columns["loss"][:5] > 0).sum())
        return {5: second, second: second + 4}.get(n, n)


class Shared(Toy):
    """Items whose work the ranks of a group share: 8 chunks of numbers, summed in chunk order."""

    def evaluate(self, index: int, group: Communicator) -> Row:
        sums = np.zeros(8)
        for chunk in range(group.rank, 8, group.size):
            sums[chunk] = np.random.default_rng([index, chunk]).normal(size=1000).sum()
        self._before(index)
        group.allreduce_(sums)
        if self._log is not None and group.rank == 0:
            note(self._log, index)
        return {"loss": float(np.add.reduce(sums)), "vector": sums[:WIDTH]}


def note(log: Path, item: int) -> None:
    """One line "rank item", written by one call so that ranks cannot mix theirs."""
    handle = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.write(handle, f"{world().rank} {item}\n".encode())
    os.close(handle)


def noted(log: Path) -> Counter[int]:
    """How often each item was computed."""
    return Counter(int(line.split()[1]) for line in log.read_text().splitlines()) if log.exists() else Counter()


def check_rows(rows: Rows) -> None:
    """Every finished row is the true one, bit for bit; every other is NaN."""
    for item, done in enumerate(rows.done):
        for name, value in true_row(item).items():
            expected = np.asarray(value if done else np.full(np.shape(value), np.nan), dtype=np.float64)
            assert rows.columns[name][item].tobytes() == expected.tobytes(), (item, name)


def digest(rows: Rows) -> str:
    """All bits of the rows."""
    return b"".join([rows.done.tobytes(), *(rows.columns[k].tobytes() for k in sorted(rows.columns))]).hex()
