"""What a run folder is of: run.json, with the task, its columns, its rounds and the text of its job."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from landscape.errors import InputError, StoreError
from landscape.files.durable import create_durably
from landscape.run.records import (
    TABLE,
    TEXT,
    WHOLE,
    as_json,
    in_lines,
    list_of,
    read_record,
    table_of,
    task_differences,
    write,
)
from landscape.run.task import Description

FORMAT = 1  # of run folders
_FORMS = {
    "task": TEXT,
    "columns": table_of(list_of(WHOLE), least=1),
    "identity": TABLE,
    "about": TABLE,
    "rounds": list_of(WHOLE, least=1),
    "job": TEXT,
}
_WAY = "restore it from a copy, or start again in another folder."


class Manifest:
    """The file run.json of a run folder: written once, and rewritten where a new round begins."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.path = folder / "run.json"

    def create(self, description: Description, count: int, job: str) -> None:
        """Write it for a task of `count` items, or find it written for the same.

        Raises InputError where the folder holds a different run, OSError where it cannot be written.
        """
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
        if not self.path.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            create_durably(self.path, as_json(manifest))
        # also when it is new: of two runs that began at once, one made it
        stored = self.read()
        columns = description.columns_of(stored["columns"])
        self._require_same(stored, manifest | {"columns": {name: list(shape) for name, shape in columns.items()}})

    def read(self) -> dict[str, Any]:
        """Its content. Raises StoreError when it is damaged or newer than this version."""
        version = read_record(self.path, {"format": WHOLE}, way=_WAY)["format"]
        if version > FORMAT:
            raise StoreError(
                f"{self.path} has the run-folder format {version}, this version reads up to {FORMAT}; update "
                "loss-landscape-engine"
            )
        return read_record(self.path, _FORMS, way=_WAY)

    def add_round(self, count: int) -> None:
        """Record that there are `count` items from now on; nothing where another run has recorded it."""
        manifest = self.read()
        if count > max(manifest["rounds"]):
            manifest["rounds"].append(count)
            write(self.path, manifest)

    def _require_same(self, stored: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
        there, now = (
            {"task": m["task"], "identity": m["identity"], "columns": m["columns"], "items": m["rounds"][0]}
            for m in (stored, manifest)
        )
        differences = task_differences(there, now)
        if differences:
            raise InputError(
                f"{self._folder} holds a different run, and its rows cannot be used for this one:\n  "
                + in_lines(differences)
                + "\nName another folder, or delete this one if it is no longer wanted."
            )
