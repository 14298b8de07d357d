"""The numbers behind a report's pictures: as rows that a reader may open below them, and have as CSV."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

import numpy as np

from landscape.pictures.views import thinned

_LETTERS = 40  # of each part of a file's name


def value_rows(columns: Mapping[str, Any], most: int) -> tuple[dict[str, Any], str]:
    """Headings and columns of at most `most` rows, at even steps, and a sentence where these are not all.

    NaN and Inf are words where they were computed; what is not known is None.
    """
    arrays = {name: np.asarray(column) for name, column in columns.items()}
    count = max(map(len, arrays.values()), default=0)
    kept = np.arange(count) if count <= most else thinned(count, most)
    computed = np.asarray(arrays.get("computed", np.zeros(count)), dtype=bool)
    shown = {}
    for name, array in arrays.items():
        if len(array) < count:
            array = np.concatenate([array, np.full(count - len(array), np.nan)])
        nan = computed & (not name.endswith("stderr"))
        shown[name] = [_entry(value, bool(word)) for value, word in zip(array[kept].tolist(), nan[kept], strict=True)]
    said = f"{len(kept):,} of {count:,} rows, at even steps; the result's file holds them all"
    return {"columns": list(shown), "data": list(shown.values())}, said if len(kept) < count else ""


def _entry(value: Any, computed: bool) -> Any:
    if not isinstance(value, float):
        return value if isinstance(value, (bool, int)) or value is None else str(value)
    if np.isfinite(value):
        return value
    return str(value).replace("inf", "Inf") if value == value else "NaN" if computed else None


def file_name(result: str, table: str) -> str:
    """The name of a CSV file: of a result and of a table, in letters, digits and single dashes.

    >>> file_name("half a run (2)", "value +- standard error")
    'half-a-run-2-value.csv'
    """
    words = re.sub(r"(, )?value(s)? \+- standard error", r" value\2", table)
    parts = [_plain(result)[:_LETTERS].strip("-"), _plain(words)[:_LETTERS].strip("-")]
    return f"{'-'.join(part for part in parts if part) or 'table'}.csv"


def _plain(text: str) -> str:
    letters = unicodedata.normalize("NFKD", text.replace("+- standard error", "")).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9]+", "-", letters).strip("-")
