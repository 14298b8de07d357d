"""Numbers of a report: digits that tell values, their neighbours and their errors apart, and what thinning keeps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from landscape_kernels.arrays import FloatArray, IntArray

_DIGITS = 6  # of a value in a picture, at least
_FINE = 1e-6  # of the span of the values in a picture, to which each is given
_WHOLE = 16  # digits from which a number is written as it is
_CROWDED = 1.1  # where more than this many times the places asked for are found, it is done again with fewer stretches


def spread(values: FloatArray) -> float:
    """Highest minus lowest finite value; 0 where there is none.

    >>> spread(np.array([2.0, np.nan, 5.0]))
    3.0
    """
    finite = values[np.isfinite(values)]
    return 2 * (float(finite.max()) / 2 - float(finite.min()) / 2) if finite.size else 0.0


def gap(values: FloatArray) -> float:
    """The smallest distance between two finite values that are not equal; 0 where there is none.

    >>> gap(np.array([1.0, 4.0, 1.0, 1.5]))
    0.5
    """
    known = np.unique(values[np.isfinite(values)])
    with np.errstate(over="ignore"):
        return float(np.diff(known).min()) if known.size > 1 else 0.0


def figures(value: float, least: int, *steps: float) -> int:
    """Digits that give a value to the finest of `steps`, `least` at least; steps that are not positive do not count.

    >>> figures(2.302585, 3, 1e-6), figures(1.25, 5, 0.01)
    (7, 5)
    """
    known = [step for step in steps if 0 < step < math.inf]
    if not known or value == 0 or not math.isfinite(value):
        return least
    place = math.floor(math.log10(min(known)) + 1e-9)
    return max(least, math.floor(math.log10(abs(value))) - place + 1)


def value_text(value: float, least: int, *steps: float) -> str:
    """A value with `figures` digits, as read.

    >>> value_text(2.302585093, 3, 1e-5), value_text(math.nan, 3)
    ('2.30259', 'NaN')
    """
    if not math.isfinite(value):
        return str(value).replace("nan", "NaN").replace("inf", "Inf")
    digits = figures(value, least, *steps)
    return repr(value) if digits >= _WHOLE else f"{value:.{digits}g}"


def numbers(values: FloatArray, errors: FloatArray | None = None) -> list[float | None]:
    """Values to a millionth of their span and a tenth of their errors, six digits at least; None for NaN and Inf.

    >>> numbers(np.array([1000.0, 1000.0012345678, np.inf]))
    [1000.0, 1000.001234568, None]
    """
    fine = _FINE * spread(values)
    known = np.full(values.shape, np.nan) if errors is None else errors
    return [
        _short(value, fine, error / 10) if math.isfinite(value) else None
        for value, error in zip(values.tolist(), known.tolist(), strict=True)
    ]


def exact(values: FloatArray) -> list[float | None]:
    """Values as they are; None for NaN and Inf, which JSON has not."""
    return [value if math.isfinite(value) else None for value in values.tolist()]


def _short(value: float, fine: float, error: float) -> float:
    digits = figures(value, _DIGITS, fine, error) if fine > 0 else _WHOLE
    return value if digits >= _WHOLE else float(f"{value:.{digits}g}")


def range_text(values: FloatArray) -> str:
    """First and last value, with as many digits as tell them apart.

    >>> range_text(np.array([1000.0, 1000.0005, 1000.001]))
    '1000 to 1000.001'
    """
    first, last = float(values[0]), float(values[-1])
    return " to ".join(value_text(v, 4, abs(last / 10 - first / 10)) for v in (first, last))


def extremes(lines: Sequence[FloatArray], most: int) -> IntArray:
    """Which places of lines (n,) are kept, about `most`: of each stretch the lowest and highest value of every line.

    Both ends are kept, and of a stretch with values and without the first that has none.

    >>> extremes([np.array([0.0, 0, 0, 9, 0, 0, 0, 0])], 4)
    array([0, 3, 4, 7])
    """
    count = len(lines[0])
    stretches = max(1, most // 2)
    while True:
        kept = _extremes(lines, stretches) if count > most else np.arange(count)
        if len(kept) <= _CROWDED * max(most, 4) or stretches == 1:
            return kept
        stretches = max(1, min(stretches - 1, stretches * most // len(kept)))


def _extremes(lines: Sequence[FloatArray], stretches: int) -> IntArray:
    count = len(lines[0])
    width = -(-count // stretches)
    starts = np.arange(0, count, width)
    found = [np.array([0, count - 1])]
    for values in lines:
        padded = np.full(len(starts) * width, np.nan)
        padded[:count] = values
        rows = padded.reshape(-1, width)
        known = np.isfinite(rows)
        lowest = np.where(known, rows, np.inf).argmin(axis=1)
        highest = width - 1 - np.where(known, rows, -np.inf)[:, ::-1].argmax(axis=1)  # the last of equal ones
        some = known.any(axis=1) & ~known.all(axis=1)
        found += [starts + lowest, starts + highest, (starts + known.argmin(axis=1))[some]]
    return np.unique(np.minimum(np.concatenate(found), count - 1))
