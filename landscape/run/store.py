"""A run folder: what is computed (run.json), finished rows (immutable shards), and each attempt to compute them.

    run.json                     the task: identity, columns, rounds, job text; written once, rewritten at a new round
    attempts/0001.json           who ran when, where, with which versions
    attempts/0001.beat           how far that attempt was at its last sign of life
    failures/0001-00003-000002.json   why an item failed, once for each time
    hands/0001-00003             the item that rank 3 has in hand; gone when it ends in good order
    shards/0001-00003-000007.npz rows of attempt 1, rank 3, seventh shard: items (n,), one array per column
    landscape.h5                 the result, once every row is there

Files are written durably (see `write_durably`), so each is whole or absent, and shards and failures never change. Signs
of life and hands are not written so: they matter only while the run goes on. Nor is the record of an attempt when its
number is taken: it is empty for a moment, and such a record counts for nothing.

Several runs may use one folder at once: each has its own attempt number and so its own shards, and rows that two of
them compute are equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from landscape_kernels.arrays import BoolArray

from landscape.errors import InputError, StoreError
from landscape.run.attempts import Attempts
from landscape.run.failures import Failures, ended, given_up
from landscape.run.hands import Hands
from landscape.run.manifest import Manifest
from landscape.run.shards import ShardWriter, read_done, read_rows
from landscape.run.task import Description, Rows

RESULT = "landscape.h5"
FAILURES = "failures"


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
        self.result = self.folder / RESULT
        self.attempts = Attempts(self.folder / "attempts")
        self.failures = Failures(self.folder / FAILURES)
        self.hands = Hands(self.folder / "hands")
        self._manifest = Manifest(self.folder)
        self._shards = self.folder / "shards"

    @classmethod
    def open(cls, folder: str | Path) -> Store:
        """An existing run folder. Raises StoreError when it is none, or of a newer format."""
        store = cls(folder)
        if not store._manifest.path.is_file():
            raise StoreError(
                f"{folder} is not a run folder: it holds no run.json. Give the folder a run was told to use."
            )
        store.manifest()
        return store

    @classmethod
    def create(cls, folder: str | Path, description: Description, count: int, job: str) -> Store:
        """Open the folder for this task, made when new. Raises InputError when it holds a different one."""
        store = cls(folder)
        try:
            store.require_free()
            store._manifest.create(description, count, job)
            for inside in (store._shards, store.attempts.folder):
                if not inside.is_dir():
                    inside.mkdir(exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"cannot create the run folder {folder}: {error}. Make room, or choose a folder you may write to."
            ) from error
        return store

    def require_free(self) -> None:
        """Raise InputError where the folder holds something of a run, but no run.json."""
        record, held = self._manifest.path, (self.result, self._shards, self.attempts.folder)
        clash = None if record.exists() else next((path for path in held if path.exists()), None)
        # A killed run leaves run.json, which is written first. Another run may have begun between the two looks.
        if clash is not None and not record.exists():
            raise InputError(
                f"{self.folder} holds {clash.name} but no run.json, so it is not this run's; name another folder."
            )

    # -- what is computed ---------------------------------------------------------------------------------------

    def manifest(self) -> dict[str, Any]:
        """The content of run.json. Raises StoreError when it is damaged or newer than this version."""
        return self._manifest.read()

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
        self._manifest.add_round(count)

    # -- rows ---------------------------------------------------------------------------------------------------

    def rows(self) -> Rows:
        """All finished rows. Raises StoreError for a shard that is damaged, naming it and the way out."""
        # Shards before the manifest: another run records a round before it writes the round's rows.
        paths = sorted(self._shards.glob("*.npz"))
        return read_rows(paths, self.description().columns, self.count)

    def done_items(self, known: dict[str, npt.NDArray[np.int64]]) -> BoolArray:
        """Which items are finished, (n,), without their values; `known` is what `read_done` keeps between calls."""
        paths = sorted(self._shards.glob("*.npz"))  # before the manifest, too
        return read_done(paths, known, self.count)

    def writer(self, attempt: int, rank: int, columns: Mapping[str, tuple[int, ...]], *, ranks: int = 1) -> ShardWriter:
        """Where one of `ranks` puts its rows during one attempt."""
        return ShardWriter(self._shards, f"{attempt:04d}-{rank:05d}", columns, rank, ranks)

    # -- how it stands ------------------------------------------------------------------------------------------

    def failed(self) -> dict[int, str]:
        """Items given up and why, by as many retries as the newest attempt allows; finished ones are none of them."""
        retries = next((record.get("retries") for record in reversed(self.attempts.all())), None)
        found = {} if retries is None else given_up(self.failures.all(), retries)
        done = self.done_items({}) if found else ()
        return {item: reason for item, reason in found.items() if item < len(done) and not done[item]}

    @property
    def complete(self) -> bool:
        """Whether every item of all rounds so far is done or given up."""
        return bool(ended(self.done_items({}), self.failed()).all())

    def history(self) -> History:
        """All attempts, the job they belong to, and what was given up."""
        return History(tuple(self.attempts.all()), str(self.manifest()["job"]), self.failed())
