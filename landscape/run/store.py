"""A run folder: what is computed (run.json), finished rows (immutable shards), and each attempt to compute them.

    run.json                     the task: identity, columns, rounds, job text; written once, rewritten at a new round
    attempts/0001.json           who ran when, where, with which versions
    attempts/0001.beat           how far that attempt was at its last sign of life
    failures/0001-00003-000002.json   why an item failed, once for each time
    hands/0001-00003             the item that rank 3 has in hand; gone when it ends in good order
    shards/0001-00003-000007.npz rows of attempt 1, rank 3, seventh shard: items (n,), one array per column
    landscape.h5                 the result, once every row is there

All but records of attempts, signs of life and hands are written once and durably (see `write_durably`), so they are
whole or absent. Several
runs may use one folder at once: each has its own attempt number and so its own shards, and rows that two of them
compute are equal.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from landscape_kernels.arrays import BoolArray

from landscape.errors import InputError, StoreError
from landscape.files.durable import create_durably, write_durably
from landscape.run.failures import Failure, Failures, Hand, ended, given_up, left_in_hand
from landscape.run.heartbeat import Beat, read_beat
from landscape.run.shards import ShardWriter, read, read_shard
from landscape.run.task import Description, Rows

FORMAT = 1  # of run folders
RESULT = "landscape.h5"
FAILURES = "failures"
_KEYS = ("format", "task", "columns", "identity", "about", "rounds", "job")  # of run.json


@dataclass(frozen=True)
class History:
    """Who computed the rows."""

    attempts: tuple[Mapping[str, Any], ...] = ()  # oldest first
    job: str = ""  # text of the job file, "" for a call of the library
    failed: Mapping[int, str] = field(default_factory=dict)  # items given up, and why


class Store:
    """One run folder. Every rank may open it; only rank 0 creates it and changes anything but shards."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._manifest = self.folder / "run.json"
        self._shards = self.folder / "shards"
        self._attempts = self.folder / "attempts"
        self._failures = Failures(self.folder / FAILURES)
        self._hands = self.folder / "hands"
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
        manifest = json.loads(json.dumps(manifest))  # as it will be read back: tuples become lists
        try:
            if not store._manifest.exists():
                clash = next((p for p in (store.result, store._shards, store._attempts) if p.exists()), None)
                # run.json comes first, so its absence is no trace of a kill; another run may have begun since, though.
                if clash is not None and not store._manifest.exists():
                    raise InputError(
                        f"{folder} holds {clash.name} but no run.json, so it is not this run's; name another folder."
                    )
                store.folder.mkdir(parents=True, exist_ok=True)
                create_durably(store._manifest, _json(manifest))
            store._require_same(manifest)  # also when it is new: of two runs that began at once, one made it
            store._shards.mkdir(exist_ok=True)
            store._attempts.mkdir(exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"cannot create the run folder {folder}: {error}. Make room, or choose a folder you may write to."
            ) from error
        return store

    def manifest(self) -> dict[str, Any]:
        """The content of run.json. Raises StoreError when it is damaged or newer than this version."""
        content = read(self._manifest)
        try:
            manifest: dict[str, Any] = json.loads(content)
            if manifest["format"] > FORMAT:
                raise StoreError(
                    f"{self.folder} has run-folder format {manifest['format']}, this version reads up to {FORMAT}; "
                    "update loss-landscape-engine"
                )
            if missing := [key for key in _KEYS if key not in manifest]:
                raise ValueError(f"no {', '.join(missing)} in it")
        except (ValueError, LookupError, TypeError) as error:
            raise StoreError(
                f"cannot read {self._manifest}: {error!r}. It was edited or damaged; restore it from a copy, or start "
                "again in another folder."
            ) from error
        return manifest

    def description(self) -> Description:
        """The task this folder belongs to."""
        m = self.manifest()
        columns = {name: tuple(shape) for name, shape in m["columns"].items()}
        return Description(m["task"], columns, m["identity"], m["about"])

    @property
    def count(self) -> int:
        """Items in all rounds so far."""
        return int(max(self.manifest()["rounds"]))

    def add_round(self, count: int) -> None:
        """Record that there are `count` items from now on; nothing where another run has recorded it."""
        manifest = self.manifest()
        if count > max(manifest["rounds"]):
            manifest["rounds"].append(count)
            _write_json(self._manifest, manifest)

    def _require_same(self, manifest: Mapping[str, Any]) -> None:
        stored = self.manifest()
        there, now = (
            {"task": m["task"], **m["identity"], "columns": m["columns"], "items": m["rounds"][0]}
            for m in (stored, manifest)
        )
        differences = list(json_differences(there, now))
        if differences:
            raise InputError(
                f"{self.folder} holds a different run, and its rows cannot be used for this one:\n  "
                + "\n  ".join(differences)
                + "\nName another folder, or delete this one if it is no longer wanted."
            )

    # -- rows ---------------------------------------------------------------------------------------------------

    def rows(self) -> Rows:
        """All finished rows. Raises StoreError for a shard that is damaged, naming it and the way out."""
        # Shards before the manifest: another run records a round before it writes the round's rows.
        paths = sorted(self._shards.glob("*.npz"))
        columns = self.description().columns
        rows = Rows.empty(columns, self.count)
        for path in paths:
            items, values = read_shard(path, columns, len(rows.done))
            rows.done[items] = True
            for name, value in values.items():
                rows.columns[name][items] = value
        return rows

    def done_items(self, known: dict[str, npt.NDArray[np.int64]]) -> BoolArray:
        """Which items are finished, (n,), without their values.

        `known` maps names of shards to the items they hold and is brought up to date, so that the next call reads the
        new ones alone. Raises StoreError for a damaged shard.
        """
        paths = {path.name: path for path in sorted(self._shards.glob("*.npz"))}
        done = np.zeros(self.count, dtype=bool)
        for name, path in paths.items():
            if name not in known:
                known[name] = read_shard(path, {}, len(done))[0]
            done[known[name]] = True
        return done

    def writer(self, attempt: int, rank: int, columns: Mapping[str, tuple[int, ...]], *, ranks: int = 1) -> ShardWriter:
        """Where one of `ranks` puts its rows during one attempt."""
        return ShardWriter(self._shards, f"{attempt:04d}-{rank:05d}", columns, rank, ranks)

    # -- attempts -----------------------------------------------------------------------------------------------

    def begin_attempt(self, record: Mapping[str, Any]) -> int:
        """Number of a new attempt, taken so that no two runs can have the same."""
        number = len(list(self._attempts.glob("*.json"))) + 1
        while True:
            try:
                os.close(os.open(self._attempt(number), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
                break
            except FileExistsError:
                number += 1
            except OSError as error:
                raise _unwritable(self._attempts, error) from error
        _write_json(self._attempt(number), record)
        return number

    def end_attempt(self, number: int, record: Mapping[str, Any]) -> None:
        """Replace the record of an attempt by one that tells how it ended."""
        _write_json(self._attempt(number), record)

    def _attempt(self, number: int) -> Path:
        return self._attempts / f"{number:04d}.json"

    def attempts(self) -> list[dict[str, Any]]:
        """Records of all attempts, oldest first; one cut off while it was written is left out."""
        records: list[dict[str, Any]] = []
        for path in sorted(self._attempts.glob("*.json")):
            try:
                records.append(json.loads(path.read_text(encoding="utf-8")))
            except ValueError:
                continue
        return records

    def history(self) -> History:
        """All attempts, the job they belong to, and what was given up."""
        return History(tuple(self.attempts()), str(self.manifest()["job"]), self.failed())

    def beat_file(self, attempt: int) -> Path:
        """Where an attempt gives signs of life."""
        return self._attempts / f"{attempt:04d}.beat"

    def beat(self) -> Beat | None:
        """The last sign of life of the newest attempt; None where it has given none."""
        newest = max((path.stem for path in self._attempts.glob("*.json")), default=None)
        return read_beat(self.beat_file(int(newest)), int(newest)) if newest is not None else None

    # -- failures -----------------------------------------------------------------------------------------------

    def failures(self) -> tuple[Failure, ...]:
        """Every failure of an item noted in any attempt, oldest first."""
        return self._failures.all()

    def failed(self) -> dict[int, str]:
        """Items given up and why, by as many retries as the newest attempt allows; finished ones are none of them."""
        retries = next((record.get("retries") for record in reversed(self.attempts())), None)
        found = {} if retries is None else given_up(self.failures(), retries)
        done = self.done_items({}) if found else ()
        return {item: reason for item, reason in found.items() if item < len(done) and not done[item]}

    @property
    def complete(self) -> bool:
        """Whether every item of all rounds so far is done or given up."""
        return bool(ended(self.done_items({}), self.failed()).all())

    def note_failure(self, failure: Failure) -> None:
        """Keep why an item failed. Raises StoreError when the disk refuses."""
        try:
            self._failures.add(failure)
        except OSError as error:
            raise _unwritable(self.folder / FAILURES, error) from error

    def note_crashes(self) -> None:
        """Keep as failures what ranks of earlier attempts had in hand when they ended without a word."""
        for found in left_in_hand(self._hands):
            self.note_failure(found)

    def forget_failures(self, attempt: int | None) -> None:
        """Take back the failures of an attempt (None: of all) whose cause was not in its items."""
        self._failures.forget(attempt)

    def hand(self, attempt: int, rank: int) -> Hand:
        """Where a rank keeps what it has in hand during one attempt."""
        return Hand(self._hands / f"{attempt:04d}-{rank:05d}")


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    try:
        write_durably(path, _json(content))
    except OSError as error:
        raise _unwritable(path, error) from error


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(dict(content), indent=1).encode()


def _unwritable(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"cannot write {path}: {error}. Finished rows are kept; make room (or make the folder writable) and resume."
    )


def json_differences(there: Any, now: Any, path: str = "") -> Iterator[str]:
    """Where two JSON values differ, one line each."""
    if isinstance(there, dict) and isinstance(now, dict):
        for key in sorted({*there, *now}):
            yield from json_differences(there.get(key), now.get(key), f"{path}.{key}" if path else key)
    elif json.dumps(there) != json.dumps(now):  # as text: NaN differs from itself
        yield f"{path}: {_short(there)} there, {_short(now)} now"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:40]} ... ({len(text)} characters)"
