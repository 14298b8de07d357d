"""A run folder: what is computed (run.json), finished rows (immutable shards), and each attempt to compute them.

    run.json                     the task: identity, columns, rounds, job text; written once, rewritten at a new round
    attempts/0001.json           who ran when, where, with which versions
    shards/0001-00003-000007.npz rows of attempt 1, rank 3, seventh shard: items (n,), one array per column
    landscape.h5                 the result, once every row is there

A shard is written to a temporary name, flushed to the disk and renamed, so it is whole or absent.
"""

from __future__ import annotations

import json
import os
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from landscape.errors import InputError, StoreError
from landscape.hdf5 import sync_replace
from landscape.task import Description, Row, Rows

FORMAT = 1  # of run folders
RESULT = "landscape.h5"

_FIRST_INTERVAL, _LAST_INTERVAL = 1.0, 60.0  # seconds of rows a killed rank may lose, early and late in a long run
_INTERVAL_SHARE = 0.02  # in between: this share of the time run so far, which bounds the number of shards


class Store:
    """One run folder. Every rank may open it; only rank 0 creates it and changes anything but shards."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._manifest = self.folder / "run.json"
        self._shards = self.folder / "shards"
        self._attempts = self.folder / "attempts"
        self.result = self.folder / RESULT

    # -- what is computed ---------------------------------------------------------------------------------------

    @classmethod
    def open(cls, folder: str | Path) -> Store:
        """An existing run folder. Raises StoreError when it is none, or of a newer format."""
        store = cls(folder)
        if not store._manifest.is_file():
            raise StoreError(
                f"{folder} is not a run folder: it holds no run.json. Give the folder a run was told to use."
            )
        store.manifest()
        return store

    @classmethod
    def create(cls, folder: str | Path, description: Description, count: int, job: str) -> Store:
        """Open the folder for this task, made when new. Raises InputError when it holds a different one."""
        store = cls(folder)
        manifest = {
            "format": FORMAT,
            "task": description.name,
            "columns": {name: list(shape) for name, shape in description.columns.items()},
            "identity": dict(description.identity),
            "about": dict(description.about),
            "rounds": [count],
            "job": job,
        }
        manifest = json.loads(json.dumps(manifest, allow_nan=False))  # as it will be read back: tuples become lists
        if store._manifest.exists():
            store._require_same(manifest)
            return store
        clash = next((p for p in (store.result, store._shards, store._attempts) if p.exists()), None)
        if clash is not None:
            raise InputError(
                f"{folder} holds {clash.name} but no run.json, so it is not this run's folder; name another one."
            )
        try:
            store._shards.mkdir(parents=True, exist_ok=True)
            store._attempts.mkdir(exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot create the run folder {folder}: {error}. Choose one you may write to.") from error
        _write_json(store._manifest, manifest)
        return store

    def manifest(self) -> dict[str, Any]:
        """The content of run.json. Raises StoreError when it is damaged or newer than this version."""
        try:
            manifest: dict[str, Any] = json.loads(self._manifest.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StoreError(f"cannot read {self._manifest}: {error}") from error
        if manifest.get("format", 0) > FORMAT:
            raise StoreError(
                f"{self.folder} has run-folder format {manifest['format']}, this version reads up to {FORMAT}; "
                "update loss-landscape-engine"
            )
        return manifest

    def description(self) -> Description:
        """The task this folder belongs to."""
        m = self.manifest()
        columns = {name: tuple(shape) for name, shape in m["columns"].items()}
        return Description(m["task"], columns, m["identity"], m["about"])

    @property
    def count(self) -> int:
        """Items in all rounds so far."""
        return int(self.manifest()["rounds"][-1])

    def add_round(self, count: int) -> None:
        """Record that there are `count` items from now on."""
        manifest = self.manifest()
        manifest["rounds"].append(count)
        _write_json(self._manifest, manifest)

    def _require_same(self, manifest: Mapping[str, Any]) -> None:
        stored = self.manifest()
        differences = list(_differences(stored["identity"], manifest["identity"]))
        if stored["task"] != manifest["task"]:
            differences.insert(0, f"task: {stored['task']} there, {manifest['task']} now")
        if differences:
            raise InputError(
                f"{self.folder} holds a different run, and its rows cannot be used for this one:\n  "
                + "\n  ".join(differences)
                + "\nName another folder, or delete this one if it is no longer wanted."
            )

    # -- rows ---------------------------------------------------------------------------------------------------

    def rows(self) -> Rows:
        """All finished rows. Raises StoreError for a shard that is damaged, naming it and the way out."""
        columns = self.description().columns
        rows = Rows.empty(columns, self.count)
        for path in sorted(self._shards.glob("*.npz")):
            items, values = _read_shard(path, columns, len(rows.done))
            rows.done[items] = True
            for name, value in values.items():
                rows.columns[name][items] = value
        return rows

    def writer(self, attempt: int, rank: int, columns: Mapping[str, tuple[int, ...]]) -> ShardWriter:
        """Where a rank puts its rows during one attempt."""
        return ShardWriter(self._shards, f"{attempt:04d}-{rank:05d}", columns)

    # -- attempts -----------------------------------------------------------------------------------------------

    def begin_attempt(self, record: Mapping[str, Any]) -> int:
        """Number of a new attempt, taken so that no two runs can have the same."""
        number = len(list(self._attempts.glob("*.json"))) + 1
        while True:
            try:
                handle = os.open(self._attempts / f"{number:04d}.json", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            except FileExistsError:
                number += 1
                continue
            except OSError as error:
                raise StoreError(f"cannot write into {self._attempts}: {error}. Finished rows are kept.") from error
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(dict(record), file, indent=1)
            return number

    def end_attempt(self, number: int, outcome: Mapping[str, Any]) -> None:
        """Add how an attempt ended to its record."""
        path = self._attempts / f"{number:04d}.json"
        _write_json(path, {**json.loads(path.read_text(encoding="utf-8")), **outcome})

    def attempts(self) -> list[dict[str, Any]]:
        """Records of all attempts, oldest first; one cut off while it was written is left out."""
        records: list[dict[str, Any]] = []
        for path in sorted(self._attempts.glob("*.json")):
            try:
                records.append(json.loads(path.read_text(encoding="utf-8")))
            except ValueError:
                continue
        return records


class ShardWriter:
    """Collects a rank's rows and writes them as shards, often enough that a kill loses seconds of work."""

    def __init__(self, folder: Path, prefix: str, columns: Mapping[str, tuple[int, ...]]) -> None:
        self._folder, self._prefix, self._columns = folder, prefix, columns
        self._items: list[int] = []
        self._rows: list[Row] = []
        self._number = 0
        self._started = self._flushed = time.monotonic()

    def add(self, item: int, row: Row) -> None:
        """Take one row; writes a shard when the last one is old enough."""
        self._items.append(item)
        self._rows.append(row)
        now = time.monotonic()
        share = (now - self._started) * _INTERVAL_SHARE
        if now - self._flushed >= min(max(share, _FIRST_INTERVAL), _LAST_INTERVAL):
            self.flush()

    def flush(self) -> None:
        """Write what was collected. Raises StoreError when the disk refuses; the rows stay collected."""
        if self._items:
            self._number += 1
            write_shard(self._folder / f"{self._prefix}-{self._number:06d}.npz", self._items, self._rows, self._columns)
            self._items, self._rows = [], []
        self._flushed = time.monotonic()


def write_shard(path: Path, items: list[int], rows: list[Row], columns: Mapping[str, tuple[int, ...]]) -> None:
    """Write rows as one immutable file: whole and on the disk, or not there."""
    arrays = {
        name: np.array([row[name] for row in rows], dtype=np.float64).reshape(len(rows), *shape)
        for name, shape in columns.items()
    }
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as handle:
            # savez has no annotation for arrays given by name beside its own option
            np.savez(handle, items=np.array(items, dtype=np.int64), **arrays)  # type: ignore[arg-type]
        sync_replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StoreError(
            f"cannot write {len(items)} rows to {path}: {error}. Rows written before are safe; make room (or make the "
            "folder writable) and resume."
        ) from error


def _read_shard(
    path: Path, columns: Mapping[str, tuple[int, ...]], count: int
) -> tuple[np.ndarray[Any, np.dtype[np.int64]], dict[str, np.ndarray[Any, np.dtype[np.float64]]]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            items = file["items"]
            values = {name: file[name] for name in columns}
        if items.ndim != 1 or (items.size and (items.min() < 0 or items.max() >= count)):
            raise ValueError(f"item numbers outside 0..{count - 1}")
        for name, shape in columns.items():
            if values[name].shape != (len(items), *shape):
                raise ValueError(f"column {name} has shape {values[name].shape}")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise StoreError(
            f"shard {path} is damaged ({error}); a copy or a disk cut it off, since shards appear whole. Delete this "
            "file and resume: its rows will be computed again, all others are kept."
        ) from error
    return items, values


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False), encoding="utf-8")
        sync_replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StoreError(f"cannot write {path}: {error}. Finished rows are kept; make room and run again.") from error


def _differences(there: Any, now: Any, path: str = "") -> Iterator[str]:
    """Where two JSON values differ, one line each."""
    if isinstance(there, dict) and isinstance(now, dict):
        for key in sorted({*there, *now}):
            yield from _differences(there.get(key), now.get(key), f"{path}.{key}" if path else key)
    elif there != now:
        yield f"{path}: {_short(there)} there, {_short(now)} now"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:40]} ... ({len(text)} characters)"
