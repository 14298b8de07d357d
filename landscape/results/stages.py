"""What one task of a run left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from landscape.errors import InputError
from landscape.run.store import History, Store
from landscape.run.task import Description, Rows


def require_stages(folder: Path, stages: Sequence[str]) -> None:
    """Raise InputError where a folder belongs to another run than one whose tasks have the folders `stages` in it.

    Its `landscape.h5` would be replaced by a result of another kind.
    """
    for manifest in (folder / "run.json", *sorted(folder.glob("*/run.json"))):
        if manifest.is_file() and (manifest.parent == folder or manifest.parent.name not in stages):
            raise InputError(
                f"{folder} holds a different run ({manifest.relative_to(folder)} is not of {', '.join(stages)}); name "
                "another folder, or delete this one if it is no longer wanted."
            )


@dataclass(frozen=True)
class Stage:
    """What one task of a run left."""

    description: Description
    rows: Rows
    history: History


def read_stage(folder: Path) -> Stage:
    """What the task left whose folder that is."""
    store = Store.open(folder)
    return Stage(store.description(), store.rows(), store.history())
