"""Tables in words and numbers: what a terminal, a notebook and a report say of a result, before it is drawn."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from landscape_kernels.rounding import settled


@dataclass(frozen=True)
class Cell:
    """One entry: what is read, and the number behind it where there is one."""

    text: str
    value: float | None = None
    stderr: float | None = None  # standard error of `value`


@dataclass(frozen=True)
class Table:
    """A title, headings, and rows of cells; two columns without headings are names and what they stand for."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    @property
    def pairs(self) -> bool:
        """Whether these are names and what they stand for."""
        return not any(self.columns)

    def to_csv(self) -> str:
        """The table as comma-separated text: numbers in full, each standard error in a column of its own.

        A column NAME has its errors in NAME_stderr, or in "NAME stderr" where it is several words, and is empty where
        there is no number.

        >>> Table("t", ("layer", "trace"), ((Cell("conv1"), Cell("1.5 +- 0.1", 1.5, 0.125)),)).to_csv()
        'layer,trace,trace_stderr\\n"conv1",1.5,0.125\\n'
        """
        width = len(self.columns)
        with_error = [any(row[k].stderr is not None for row in self.rows) for k in range(width)]
        headings = ("name", "value") if self.pairs else self.columns
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(
            [part for k, h in enumerate(headings) for part in (_with_stderr(h) if with_error[k] else (h,))]
        )
        for row in self.rows:
            entries: list[str] = []
            for k, cell in enumerate(row):
                entries.append(_quoted(cell.text) if cell.value is None else _known(cell.value))
                if with_error[k]:
                    entries.append(_known(cell.stderr))
            text.write(f"{','.join(entries)}\n")
        return text.getvalue()


def _with_stderr(heading: str) -> tuple[str, str]:
    """A heading without its own word of an error, and the heading of its errors."""
    name = heading.replace("+- standard error", "").replace("  ", " ").strip() or "value"
    return name, f"{name}{' ' if ' ' in name else '_'}stderr"


def _known(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else str(value)


def _quoted(text: str) -> str:
    doubled = text.replace('"', '""')
    return f'"{doubled}"'


def number(
    value: float, digits: int = 6, stderr: float | None = None, *, nan: str = "nan", rounding: float = 0.0
) -> Cell:
    """A value to so many digits and, where it is finite, its standard error; a value of NaN reads as `nan`.

    Whole numbers stand in full. What is no more than `rounding` leaves is 0, and a value says so unless its error is
    larger; an error is 0, too, where it is below what additions leave of the value.

    >>> number(0.123456789, 3, 0.01).text, number(1_234_567).text
    ('0.123 +- 0.01', '1234567')
    >>> number(1e-9, 3, 3e-10, rounding=2e-7).text, number(0.5, stderr=1e-17).text
    ('0 (to rounding, 2e-07)', '0.5 +- 0')
    """
    if isinstance(value, Integral):
        return Cell(str(value), int(value))
    told = settled(float(value), 0.0, rounding)
    error, removed = "", told == 0 != value
    if stderr is not None:
        given, stderr = float(stderr), settled(float(stderr), float(value), rounding)
        removed |= told == 0 == stderr != given
        error = f" +- {stderr:.2g}" if math.isfinite(stderr) else ""
    text = nan if math.isnan(value) else f"{told + 0.0:.{digits}g}"  # 0 without a sign
    if removed and not (stderr is not None and stderr > 0):
        error = f" (to rounding, {rounding:.1g})"
    return Cell(text + error, told, stderr)


def pairs_table(title: str, content: Mapping[str, Any]) -> Table:
    """Names and what they stand for: cells as they are, numbers with their value, mappings and lists as words."""
    return Table(title, ("", ""), tuple((Cell(name), _cell(value)) for name, value in content.items()))


def _cell(value: Any) -> Cell:
    if isinstance(value, Cell):
        return value
    if isinstance(value, Mapping):
        return Cell(", ".join(str(k) if k == v else f"{k} {v}" for k, v in value.items()))
    if isinstance(value, list):
        return Cell(", ".join(str(v) for v in value))
    if isinstance(value, Real) and not isinstance(value, bool):
        return Cell(str(value), int(value) if isinstance(value, Integral) else float(value))
    return Cell(str(value))
