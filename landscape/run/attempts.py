"""Attempts to compute the rows of a run: who ran when, where and with which versions, and their signs of life."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from landscape.run.heartbeat import Beat, read_beat
from landscape.run.records import (
    MOMENT,
    TEXT,
    WHOLE,
    list_of,
    or_none,
    read_record,
    table_of,
    table_with,
    unwritable,
    write,
)

_NEEDED = {"started": MOMENT, "host": TEXT}
_KNOWN = {
    "ended": MOMENT,
    "failure": TEXT,
    "signal": or_none(TEXT),
    "nodes": list_of(TEXT),
    "slurm": table_with({}, {"job": TEXT, "array_task": TEXT, "restart": WHOLE}),
    "libraries": table_of(TEXT),
    "retries": or_none(WHOLE),
    **dict.fromkeys(("ranks", "threads", "process", "computed", "done", "failed"), WHOLE),
    **dict.fromkeys(("command", "platform", "python", "engine", "git", "gpu"), TEXT),
}


class Attempts:
    """The folder of attempts: 0001.json is the record of the first, 0001.beat its last sign of life."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def begin(self, record: Mapping[str, Any]) -> int:
        """Number of a new attempt, taken so that no two runs can have the same."""
        number = len(list(self.folder.glob("*.json"))) + 1
        while True:
            try:
                os.close(os.open(self._record(number), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
                break
            except FileExistsError:
                number += 1
            except OSError as error:
                raise unwritable(self.folder, error) from error
        write(self._record(number), record)
        return number

    def end(self, number: int, record: Mapping[str, Any]) -> None:
        """Replace the record of an attempt by one that tells how it ended."""
        write(self._record(number), record)

    def all(self) -> list[dict[str, Any]]:
        """Records of all attempts, oldest first; one that is only begun, an empty file, is left out.

        Raises StoreError for one that is damaged.
        """
        records: list[dict[str, Any]] = []
        for path in sorted(self.folder.glob("*.json")):
            if path.stat().st_size:
                records.append(read_record(path, _NEEDED, _KNOWN, way="delete this file: rows do not need it."))
        return records

    def beat_file(self, number: int) -> Path:
        """Where an attempt gives signs of life."""
        return self.folder / f"{number:04d}.beat"

    def beat(self) -> Beat | None:
        """The last sign of life of the newest attempt; None where it has given none."""
        newest = max((path.stem for path in self.folder.glob("*.json")), default=None)
        return read_beat(self.beat_file(int(newest)), int(newest)) if newest is not None else None

    def _record(self, number: int) -> Path:
        return self.folder / f"{number:04d}.json"
