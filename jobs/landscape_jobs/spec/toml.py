"""TOML files, read once, and values as TOML."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from landscape.errors import InputError
from landscape.opening.runs import run_record
from landscape.opening.sweeps import is_sweep

JOB, SWEEP, STAGES = "job", "sweep", "stages"  # what a file is of


@dataclass(frozen=True)
class TomlFile:
    """A TOML file that was read."""

    path: Path
    content: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """JOB, SWEEP or STAGES, by the keys at its top: a sweep names a base job."""
        return STAGES if "stage" in self.content else SWEEP if "job" in self.content else JOB


def read_toml(path: str | Path, what: str = "job file") -> TomlFile:
    """A TOML file and what it is of.

    Raises InputError, which calls it `what`, where it cannot be read, is no TOML or is a folder.
    """
    path = Path(path)
    if path.is_dir():
        if is_sweep(path) or run_record(path) is not None:
            way = f"go on with: landscape resume {shlex.quote(str(path))}"
            raise InputError(f"{path} is a run folder, not a job file; {way}")
        raise InputError(f"{path} is a folder, not a job file; give the path of a TOML file")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{what} {path} is not UTF-8 text ({error}); it is to be TOML") from error
    except OSError as error:
        raise InputError(f"{what} {path} cannot be read: {error.strerror}; give the path of a TOML file") from error
    if not text.strip():
        raise InputError(f"{what} {path} is empty; it is to be TOML")
    return parse_toml(text, path, what)


def parse_toml(text: str, path: str | Path, what: str = "job file") -> TomlFile:
    """A TOML text that stands (or stood) in the file `path`. Raises InputError where it is no TOML."""
    try:
        return TomlFile(Path(path), tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{what} {path} is not valid TOML: {error}") from error


def toml_key(key: str) -> str:
    """A key as TOML."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else to_toml(key)


def to_toml(value: Any) -> str:
    """A value as TOML; JSON's strings are TOML's basic strings, but for the one control character it leaves alone."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (str, Path)):
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(to_toml(v) for v in value) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{toml_key(k)} = {to_toml(v)}" for k, v in value.items()) + " }"
    return str(value.isoformat())  # the dates and times of TOML are all that is left
