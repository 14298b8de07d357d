"""Many trained models as a table: keys of their cells, seeds, checkpoints, and how their training ended."""

from __future__ import annotations

import csv
import math
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from landscape_kernels.arrays import FloatArray

from landscape.errors import InputError, nearest
from landscape.results.frames import frame
from landscape.results.kind import Columns

if TYPE_CHECKING:
    import pandas

VALUES = ("loss", "error", "test_loss", "test_error")  # at the end of training; errors are fractions of the samples
_PATHS = ("initial", "final")
COLUMNS = ("seed", *_PATHS, *VALUES)  # of a table; every other one is a key of the cells
_ROWS = "model"  # the array of tables in a TOML file


@dataclass(frozen=True)
class TrainedModels:
    """Trained models, a row each. Rows that agree in all keys are of one cell, and differ by their seeds."""

    keys: Mapping[str, tuple[object, ...]]  # key of the cells ("width", "batch_size", ...) -> its value for each model
    seed: tuple[int, ...]
    initial: tuple[Path | None, ...]  # checkpoint of the initial weights; None where it is not known
    final: tuple[Path | None, ...]  # and of the final ones; None where the model was left out, or is not trained yet
    values: Mapping[str, FloatArray] = field(default_factory=dict)  # of VALUES -> (n,), NaN where unknown
    left_out: Mapping[int, str] = field(default_factory=dict)  # row -> why its model was left out

    def __len__(self) -> int:
        return len(self.seed)

    def __repr__(self) -> str:
        by = f" by {', '.join(self.keys)}" if self.keys else ""
        left = f", {len(self.left_out)} left out" if self.left_out else ""
        return f"TrainedModels({len(self)} models in {len(self.cells())} cells{by}{left})"

    def key(self, row: int) -> tuple[object, ...]:
        """The values of the keys of one model."""
        return tuple(column[row] for column in self.keys.values())

    def label(self, row: int) -> str:
        """One model in words: "width=8,batch_size=32,seed=1"."""
        return ",".join(
            f"{name}={value}" for name, value in (*zip(self.keys, self.key(row), strict=True), ("seed", self.seed[row]))
        )

    def cells(self) -> dict[tuple[object, ...], tuple[int, ...]]:
        """{values of the keys: rows of its models}, in the order of their first rows."""
        found: dict[tuple[object, ...], list[int]] = {}
        for row in range(len(self)):
            found.setdefault(self.key(row), []).append(row)
        return {key: tuple(rows) for key, rows in found.items()}

    def trained(self) -> tuple[int, ...]:
        """Rows of the models that have final weights."""
        return tuple(row for row, path in enumerate(self.final) if path is not None)

    def columns(self) -> Columns:
        """A row for each model: keys, seed, values at the end, paths ("" for none), and why it was left out."""
        unknown = np.full(len(self), math.nan)
        return {
            **self.keys,
            "seed": self.seed,
            **{name: self.values.get(name, unknown) for name in VALUES},
            **{name: tuple(str(p or "") for p in getattr(self, name)) for name in _PATHS},
            "left_out": tuple(self.left_out.get(row, "") for row in range(len(self))),
        }

    def to_pandas(self) -> pandas.DataFrame:
        """The table as a DataFrame."""
        return frame(self.columns())


def read_models(path: str | Path) -> TrainedModels:
    """A table of checkpoints that a user has trained: a CSV file, or a TOML file of [[model]] tables.

    Columns (keys of each [[model]]) are `final` and `seed`, which are needed, `initial`, and `loss`, `error`,
    `test_loss` and `test_error` at the end of training, errors as fractions; every other column is a key of the cells.
    Paths start from the folder of the table. Raises InputError for a file that cannot be read, is no such table, or
    names a model twice or a checkpoint that is not there.

        width,batch_size,seed,final
        8,32,0,runs/w8-b32-s0.safetensors
        8,32,1,runs/w8-b32-s1.safetensors
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(
            f"{path} is a folder; give a table (.csv or .toml), or of a training run ls.open(folder).checkpoints"
        )
    readers: Mapping[str, Callable[[Path], list[dict[str, Any]]]] = {".csv": _csv_rows, ".toml": _toml_rows}
    if path.suffix.lower() not in readers:
        found = "is no table of models" if path.exists() else "is not there"
        raise InputError(f"{path} {found}; give a table of models (.csv or .toml), or the folder of a training run")
    try:
        rows = readers[path.suffix.lower()](path)
    except OSError as error:
        raise InputError(f"the table of models {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"the table of models {path} is not UTF-8 text ({error})") from error
    if not rows:
        raise InputError(f"the table of models {path} has no rows; give one for each model")
    return _table(path, rows)


def _csv_rows(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = [line for line in csv.reader(file, skipinitialspace=True) if any(cell.strip() for cell in line)]
    if not lines:
        return []
    names, *rest = ([cell.strip() for cell in line] for line in lines)
    twice = next((name for name in names if names.count(name) > 1 or not name), None)
    if twice is not None:
        raise InputError(
            f"{path}: {f'column {twice!r} is there twice' if twice else 'a column has no name'} in its first line"
        )
    for number, line in enumerate(rest, start=1):
        if len(line) != len(names):
            raise InputError(
                f"{path}, model {number}: {len(line)} values for {len(names)} columns ({', '.join(names)})"
            )
    columns = {name: _numbers([line[k] for line in rest]) for k, name in enumerate(names)}
    return [{name: columns[name][k] for name in names if columns[name][k] != ""} for k in range(len(rest))]


def _numbers(texts: Sequence[str]) -> list[Any]:
    """The cells of a column as whole numbers or numbers, where all that are not empty are; else as they stand."""
    for kind in (int, float):
        try:
            return [kind(text) if text else "" for text in texts]
        except ValueError:
            continue
    return list(texts)


def _toml_rows(path: Path) -> list[dict[str, Any]]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"the table of models {path} is not valid TOML: {error}") from error
    rows = content.get(_ROWS)
    if set(content) != {_ROWS} or not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path} holds {', '.join(content) or 'nothing'}; a table of models is a list of [[{_ROWS}]]")
    return rows


def _table(path: Path, rows: Sequence[Mapping[str, Any]]) -> TrainedModels:
    keys = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in COLUMNS]
    places = [f"{path}, model {number}" for number in range(1, len(rows) + 1)]
    for row, place in zip(rows, places, strict=True):
        lacking = [name for name in ("final", "seed", *keys) if name not in row]
        if lacking:
            there = nearest(lacking[0], row) if row else "it is empty"
            raise InputError(
                f"{place}: {lacking[0]!r} is not given; every model needs final, seed and all keys ({there})"
            )
        if type(row["seed"]) is not int:
            raise InputError(f"{place}: seed = {row['seed']!r}; give a whole number")
        unfit = next((name for name in keys if not isinstance(row[name], (str, int, float))), None)
        if unfit is not None:
            raise InputError(f"{place}: {unfit} = {row[unfit]!r}; the key of a cell is a number or a text")
    table = TrainedModels(
        {name: tuple(row[name] for row in rows) for name in keys},
        tuple(row["seed"] for row in rows),
        tuple(_paths(path.parent, rows, places, "initial")),
        tuple(_paths(path.parent, rows, places, "final")),
        {name: _column(rows, places, name) for name in VALUES},
    )
    for key, models in table.cells().items():
        seeds = [table.seed[row] for row in models]
        twice = next((row for row in models if seeds.count(table.seed[row]) > 1), None)
        if twice is not None:
            raise InputError(
                f"{path}: the model {table.label(twice)} is there twice; models of one cell {key} differ by their seeds"
            )
    return table


def _paths(folder: Path, rows: Sequence[Mapping[str, Any]], places: Sequence[str], name: str) -> Iterator[Path | None]:
    for row, place in zip(rows, places, strict=True):
        given = row.get(name)
        found = folder / Path(str(given)).expanduser()
        if given is not None and not found.exists():
            raise InputError(f"{place}: {name} = {str(given)!r} is not there; paths start from the folder of the table")
        yield None if given is None else found


def _column(rows: Sequence[Mapping[str, Any]], places: Sequence[str], name: str) -> FloatArray:
    values = [row.get(name, math.nan) for row in rows]
    for value, place in zip(values, places, strict=True):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or ("error" in name and not (math.isnan(value) or 0 <= value <= 1)):
            allowed = "a fraction from 0 to 1" if "error" in name else "a number"
            raise InputError(f"{place}: {name} = {value!r}; give {allowed}")
    return np.array(values, dtype=np.float64)
