"""A table of models as columns: a CSV file, a DataFrame, a mapping of columns, another result, or several joined."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from landscape_kernels.arrays import FloatArray

from landscape.checkpoints.trained import TrainedModels
from landscape.errors import InputError, nearest
from landscape.results.base import Result
from landscape.results.kind import kind_of

_MISSING = ("", "nan", "NaN", "NA", "N/A", "n/a", "<NA>", "#N/A", "null", "NULL", "None")  # cells of a CSV file
MODEL = "model"  # column that tables are joined by
_ABSENT = ("NAType", "NaTType")  # what pandas has for a missing cell


@dataclass(frozen=True)
class ModelTable:
    """Columns of N models: numbers (N,) with NaN where a cell is missing, or texts with None there."""

    numbers: Mapping[str, FloatArray]
    texts: Mapping[str, tuple[str | None, ...]]
    order: tuple[str, ...]  # names of all columns
    source: str  # where it comes from, in words
    of_models: frozenset[str] = frozenset()  # columns of how models were made and trained, and of errors: no metrics

    def __len__(self) -> int:
        return next((len(c) for part in (self.numbers, self.texts) for c in part.values()), 0)

    def require(self, role: str, name: str, *, numeric: bool = False) -> None:
        """Raise InputError where a column is not there, or holds texts where numbers are needed."""
        if name not in self.order:
            raise InputError(f"{role} {name!r} is no column of {self.source}; {nearest(name, self.order)}")
        if numeric and name in self.texts:
            bad = next((k, t) for k, t in enumerate(self.texts[name]) if t is not None and not _is_number(t))
            raise InputError(
                f"{role} {name!r} is to be numbers, and model {bad[0] + 1} of {self.source} has {bad[1]!r}; mend the "
                "cell, or leave it empty if it is not known"
            )

    def labels(self, name: str) -> tuple[str | None, ...]:
        """A column as texts, (N,): numbers to 12 digits, None where a cell is missing."""
        if name in self.texts:
            return self.texts[name]
        return tuple(None if math.isnan(v) else f"{v:.12g}" for v in self.numbers[name].tolist())


def read_table(table: Any) -> ModelTable:
    """The columns of a table. Raises InputError for what is none, a file that cannot be read, or ragged columns.

    `table` is the path of a CSV file with a heading, a mapping of columns (a DataFrame is one), or a result, whose
    rows are then the models; or a list of these, joined by their columns "model". Empty cells, NaN and infinite numbers
    are missing. Of a result standard errors are no columns; a training has its models.
    """
    parts = list(table) if isinstance(table, (list, tuple)) else [table]
    if len(parts) != 1:
        cells, source = _joined([_cells(part) for part in parts]), "the joined tables"
    else:
        cells, source = _cells(parts[0])
        if isinstance(table, (list, tuple)) and MODEL in cells:
            _joined([(cells, source)])  # which refuses a model that is there twice
    of_models = {name for part in parts if isinstance(part, Result) for name in part.attributes.get("of_models", ())}
    of_models |= {"computed"} | {f"{name}_stderr" for name in cells}  # of a result that went through a file
    numbers: dict[str, FloatArray] = {}
    texts: dict[str, tuple[str | None, ...]] = {}
    for name, column in cells.items():
        known = [None if _is_missing(cell) else cell for cell in column]
        if all(cell is None or _is_number(cell) for cell in known):
            values = np.array([math.nan if cell is None else float(cell) for cell in known])
            numbers[name] = np.where(np.isfinite(values), values, np.nan)
        else:
            texts[name] = tuple(None if cell is None else str(cell) for cell in known)
    return ModelTable(numbers, texts, tuple(cells), source, frozenset(of_models))


def _cells(table: Any) -> tuple[dict[str, list[Any]], str]:
    """{column: a cell for each model} of one table, and where it comes from."""
    columns: Mapping[str, Any]
    if isinstance(table, (str, Path)):
        columns, source = _csv_columns(Path(table)), Path(table).name
    elif isinstance(table, Result):
        columns, source = _result_columns(table), f"the {kind_of(table).words}"
    elif hasattr(table, "keys") and hasattr(table, "__getitem__"):
        names = [str(name) for name in table.keys()]  # noqa: SIM118  (a DataFrame is no Mapping)
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(
                f"the table has more than one column {', '.join(map(repr, twice))}; give each its own name"
            )
        columns, source = {str(name): table[name] for name in table.keys()}, "the table"  # noqa: SIM118
    else:
        raise InputError(
            f"a table of models is the path of a CSV file, a DataFrame, a mapping of columns or a result, not a "
            f"{type(table).__name__}"
        )
    cells = {name: column.tolist() if hasattr(column, "tolist") else list(column) for name, column in columns.items()}
    lengths = {name: len(column) for name, column in cells.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"columns of {source} have different numbers of models: {lengths}; give one cell for each")
    return cells, source


def _result_columns(result: Result) -> Mapping[str, Any]:
    models = getattr(result, "checkpoints", None)
    if isinstance(models, TrainedModels):
        labels = [models.label(row) for row in range(len(models))]
        return {MODEL: labels, **models.keys, "seed": models.seed, **models.values}
    found = kind_of(result).columns(result)
    errors = {f"{name}_stderr" for name in found} | {"computed"}
    return {name: column for name, column in found.items() if name not in errors}


def _joined(parts: Sequence[tuple[dict[str, list[Any]], str]]) -> dict[str, list[Any]]:
    """The columns of all tables, a row for each model that one of them has; other cells are missing."""
    rows: dict[str, dict[str, Any]] = {}
    names: dict[str, str] = {}
    for cells, source in parts:
        if MODEL not in cells:
            raise InputError(f"{source} has no column {MODEL!r} to join it by; {nearest(MODEL, cells)}")
        if both := sorted(set(cells) & set(names) - {MODEL}):
            raise InputError(f"{source} and {names[both[0]]} both have a column {both[0]!r}; rename one of them")
        models = [_name(cell) for cell in cells[MODEL]]
        if len(set(models)) < len(models):
            twice = next(name for name in models if models.count(name) > 1)
            raise InputError(f"{source} has model {twice!r} more than once; give each model one row")
        if rows and models and not rows.keys() & set(models):
            raise InputError(
                f"{source} has none of the models before it: its first is {models[0]!r}, theirs {next(iter(rows))!r}; "
                f"name models alike in the columns {MODEL!r}"
            )
        names |= dict.fromkeys(cells, source)
        for k, model in enumerate(models):
            rows.setdefault(model, {}).update({name: column[k] for name, column in cells.items()})
    if not names:
        raise InputError("the list of tables is empty; give one or more")
    return {name: [row.get(name) for row in rows.values()] for name in names}


def _name(cell: Any) -> str:
    """A model as a text: 3 and 3.0, which a missing cell makes of a column of numbers, are one."""
    return str(int(cell) if isinstance(cell, float) and cell.is_integer() else cell)


def _is_missing(cell: Any) -> bool:
    if isinstance(cell, str):
        return cell.strip() in _MISSING
    return cell is None or type(cell).__name__ in _ABSENT or (isinstance(cell, Real) and math.isnan(cell))


def _is_number(cell: Any) -> bool:
    if isinstance(cell, Real):
        return True
    try:
        float(cell)
    except (TypeError, ValueError):
        return False
    return isinstance(cell, str)


def _csv_columns(path: Path) -> dict[str, Sequence[Any]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [line for line in csv.reader(file) if line]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read {path} as a CSV file: {error}; give a table in UTF-8 with a heading") from error
    if not lines:
        raise InputError(f"{path} is empty; give a table with a heading and a line for each model")
    names = [name.strip() for name in lines[0]]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{path} has more than one column {', '.join(map(repr, twice))}; give each its own name")
    for k, line in enumerate(lines[1:], start=1):
        if len(line) != len(names):
            raise InputError(
                f"model {k} of {path} has {len(line)} cells, and the heading {len(names)}; separate them by commas and "
                "quote cells that hold one"
            )
    return {name: [line[k] for line in lines[1:]] for k, name in enumerate(names) if name}
