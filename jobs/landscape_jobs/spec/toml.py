"""Values as TOML."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any


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
