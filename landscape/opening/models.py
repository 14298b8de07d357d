"""Trained models wherever they are told of: in the folder of a training, in its file, or in a user's own table."""

from __future__ import annotations

from pathlib import Path

from landscape.checkpoints.trained import TrainedModels, read_models
from landscape.errors import InputError
from landscape.opening.opening import Place

_TABLES = (".csv", ".toml")


def tells_of_models(path: Path) -> bool:
    """Whether a path is a table, or the folder or file of a run, and not a checkpoint or a folder of some."""
    return path.suffix.lower() in _TABLES or path.suffix == ".h5" or (path / "run.json").is_file()


def open_models(path: Path) -> TrainedModels:
    """The models that are told of at a path. Raises InputError for a run of another kind, and what `read_models` does.

    Raises StoreError for a folder or file that cannot be read.
    """
    if path.suffix.lower() in _TABLES:
        return read_models(path)
    result = Place(path).open()
    found = getattr(result, "checkpoints", None)
    if not isinstance(found, TrainedModels):
        raise InputError(f"{path} holds a {type(result).__name__}, not a training; name checkpoints, or the run of one")
    return found
