"""Figures as files. It stands at the front door, so matplotlib loads when a figure is written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from landscape.arguments import checked
from landscape.errors import InputError, StoreError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".pdf", ".svg")

_UNDATED: Mapping[str, dict[str, Any]] = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}


@checked()
def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure as PNG, PDF or SVG, by the suffix of `path`, without empty margins; returns the path.

    Text in PDF and SVG is text, not outlines. Raises InputError for another suffix and StoreError when the file cannot
    be written.
    """
    from landscape.pictures.style import in_style

    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{path.name}: suffix {path.suffix!r} is not a picture format here; use {', '.join(SUFFIXES)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with in_style():
            figure.savefig(path, bbox_inches="tight", dpi=150, metadata=_UNDATED.get(suffix))
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error}. Free space or choose a folder you may write to.") from error
    return path
