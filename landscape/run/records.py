"""Records of a run folder: JSON files that are whole or absent, and what is said where the file system refuses them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from landscape.errors import StoreError
from landscape.files.durable import write_durably


def read(path: Path) -> bytes:
    """The content of a file of the folder. Raises StoreError where the file system does not give it."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise StoreError(
            f"cannot read {path}: {error}. The file system does not give it now; what is finished is safe as long as "
            "it is not deleted. Try again when it answers, or see that you may read the folder."
        ) from error


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write a record durably. Raises StoreError when the disk refuses."""
    try:
        write_durably(path, as_json(content))
    except OSError as error:
        raise unwritable(path, error) from error


def as_json(content: Mapping[str, Any]) -> bytes:
    """A record as it stands in its file."""
    return json.dumps(dict(content), indent=1).encode()


def unwritable(path: Path, error: OSError) -> StoreError:
    """What is raised where the file system takes no record."""
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
