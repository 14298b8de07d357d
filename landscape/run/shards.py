"""Finished rows as immutable files."""

from __future__ import annotations

import io
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from landscape_kernels.arrays import BoolArray

from landscape.errors import StoreError
from landscape.files.durable import write_durably
from landscape.run.records import read
from landscape.run.task import Row, Rows

_FIRST_INTERVAL, _LAST_INTERVAL = 1.0, 60.0  # seconds of rows a killed rank may lose, early and late in a long run
_INTERVAL_SHARE = 0.02  # in between: this share of the time run so far, which bounds the number of shards
_SHARDS_PER_SECOND = 32  # of all ranks together: each is read back, one after another, while all ranks wait
_MANY_RANKS = 1920  # so many write _SHARDS_PER_SECOND at the last interval; with more ranks the interval grows


def flush_interval(elapsed: float, ranks: int) -> float:
    """Seconds between two shards of a rank, `elapsed` seconds after a run of `ranks` ranks began.

    A second at first, then 2 % of the time run so far, at most a minute: that much a killed rank loses. All ranks
    together write at most 32 a second, however many they are.

    >>> [flush_interval(elapsed, ranks=1) for elapsed in (0.0, 600.0, 86400.0)]
    [1.0, 12.0, 60.0]
    >>> flush_interval(0.0, ranks=4096)
    128.0
    """
    longest = _LAST_INTERVAL * max(1.0, ranks / _MANY_RANKS)
    return min(max(elapsed * _INTERVAL_SHARE, _FIRST_INTERVAL, ranks / _SHARDS_PER_SECOND), longest)


def flush_lead(rank: int, ranks: int) -> float:
    """Seconds by which a rank's first shard comes earlier than rank 0's: those that start together write in turn.

    >>> [flush_lead(rank, ranks=4) for rank in range(4)]
    [0.0, 0.25, 0.5, 0.75]
    """
    return flush_interval(0.0, ranks) * rank / ranks


class ShardWriter:
    """Collects a rank's rows and writes them as shards, often enough that a kill loses seconds of work."""

    def __init__(
        self, folder: Path, prefix: str, columns: Mapping[str, tuple[int, ...]], rank: int = 0, ranks: int = 1
    ) -> None:
        self._folder, self._prefix, self._columns, self._ranks = folder, prefix, columns, ranks
        self._rows: list[tuple[int, Row]] = []
        self._number = 0
        self._started = time.monotonic()
        self._flushed = self._started - flush_lead(rank, ranks)

    def add(self, item: int, row: Row) -> None:
        """Take one row; writes a shard when the last one is old enough."""
        self._rows.append((item, row))
        now = time.monotonic()
        if now - self._flushed >= flush_interval(now - self._started, self._ranks):
            self.flush()

    def flush(self) -> None:
        """Write what was collected. Raises StoreError when the disk refuses; the rows stay collected.

        A signal handler may call it in the middle of `add` or of itself: rows are then written twice, and none is lost.
        """
        rows = list(self._rows)
        if rows:
            self._number += 1
            write_shard(self._folder / f"{self._prefix}-{self._number:06d}.npz", rows, self._columns)
            del self._rows[: len(rows)]
        self._flushed = time.monotonic()


def write_shard(path: Path, rows: Sequence[tuple[int, Row]], columns: Mapping[str, tuple[int, ...]]) -> None:
    """Write (item, row) pairs as one immutable file: whole and on the disk, or not there."""
    arrays: dict[str, Any] = {
        name: np.array([row[name] for _, row in rows], dtype=np.float64).reshape(len(rows), *shape)
        for name, shape in columns.items()
    }
    content = io.BytesIO()
    np.savez(content, items=np.array([item for item, _ in rows], dtype=np.int64), **arrays)
    try:
        write_durably(path, content.getvalue())
    except OSError as error:
        raise StoreError(
            f"cannot write {len(rows)} rows to {path}: {error}. Rows written before are safe; make room (or make the "
            "folder writable) and resume."
        ) from error


def read_shard(
    path: Path, columns: Mapping[str, tuple[int, ...]], count: int
) -> tuple[np.ndarray[Any, np.dtype[np.int64]], dict[str, np.ndarray[Any, np.dtype[np.float64]]]]:
    """The items of a shard and their columns."""
    content = read(path)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            items = file["items"]
            values = {name: file[name] for name in columns}
        if items.ndim != 1 or (items.size and (items.min() < 0 or items.max() >= count)):
            raise ValueError(f"item numbers outside 0..{count - 1}")
        for name, shape in columns.items():
            if values[name].shape != (len(items), *shape):
                raise ValueError(f"column {name} has shape {values[name].shape}")
    except Exception as error:  # what zipfile and numpy raise at damage is no short list
        raise StoreError(
            f"shard {path} is damaged ({error}); a copy or a disk cut it off, since shards appear whole. Delete this "
            "file and resume: its rows will be computed again, all others are kept."
        ) from error
    return items, values


def read_rows(paths: Iterable[Path], columns: Mapping[str, tuple[int, ...]], count: int) -> Rows:
    """The rows in shards, of `count` items. Raises StoreError, with the way out, for a shard that is damaged."""
    rows = Rows.empty(columns, count)
    for path in paths:
        items, values = read_shard(path, columns, count)
        rows.done[items] = True
        for name, value in values.items():
            rows.columns[name][items] = value
    return rows


def read_done(paths: Iterable[Path], known: dict[str, npt.NDArray[np.int64]], count: int) -> BoolArray:
    """Which of `count` items the shards hold, (count,), without their values.

    `known` maps names of shards to the items they hold and is brought up to date, so that the next call reads the
    new ones alone. Raises StoreError for a damaged shard.
    """
    done = np.zeros(count, dtype=bool)
    for path in paths:
        if path.name not in known:
            known[path.name] = read_shard(path, {}, count)[0]
        done[known[path.name]] = True
    return done
