"""Results at a glance in a terminal: fields in coloured half blocks, lines in columns of eighths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from landscape_kernels.arrays import BoolArray, FloatArray
from rich.console import Console
from rich.style import Style
from rich.text import Text

from landscape.results.kind import Field, Line, kind_of

_WIDTH = 72  # columns of a picture, at most
_HEIGHT = 20  # lines of a picture, where the terminal has them
_BELOW = 14  # lines left free for what stands below the picture
_EIGHTHS = " ▁▂▃▄▅▆▇█"
_RAMP = ".:-=+*#%@"  # of rising density, where there are too few colours
_HOLE = "/"  # not computed, as the hatches of other pictures
_FINE = ("256", "truecolor")  # systems of enough colours
# viridis at nine even steps
_STOPS = ("440154", "472d7b", "3b528b", "2c728e", "21918c", "28ae80", "5ec962", "addc30", "fde725")
_COLOURS = np.array([[int(stop[k : k + 2], 16) for k in (0, 2, 4)] for stop in _STOPS], dtype=np.float64)
_COLUMN = "#21918c"
_MISSING, _BAD = (78, 78, 84), (213, 94, 0)


@dataclass(frozen=True)
class _Scale:
    """Values as numbers from 0 to 1, by their logarithm where all are positive and span over two decades."""

    low: float
    high: float
    log: bool

    @classmethod
    def of(cls, values: FloatArray) -> _Scale:
        low, high = float(values.min()), float(values.max())
        return cls(low, high, 0 < low < high / 100)

    def places(self, values: FloatArray) -> FloatArray:
        """Values that are finite, as numbers from 0 to 1."""
        change = np.log10 if self.log else np.asarray
        low, high, at = (np.asarray(change(np.asarray(v)), dtype=np.float64) for v in (self.low, self.high, values))
        half = np.full(np.shape(values), 0.5)
        with np.errstate(over="ignore", invalid="ignore"):  # halves, since the widest ranges overflow
            return half if low == high else np.clip((at / 2 - low / 2) / (high / 2 - low / 2), 0, 1)


def picture(result: Any, console: Console) -> Text | None:
    """A result at a glance, as far as it is known, as large as the console has room for; None where there is none."""
    glance = kind_of(result).glance(result)
    if isinstance(glance, Line):
        return _columns(glance, console)
    return None if glance is None else _blocks(glance, console)


def _blocks(field: Field, console: Console) -> Text:
    values, computed, x, y = field.values, field.computed, field.x, field.y
    x_name, y_name = field.axes
    finite = computed & np.isfinite(values)
    text = Text().append(f"{field.title}\n", style="bold")
    if not finite.any():
        return text.append("no finite value yet\n")
    scale = _Scale.of(values[finite])
    coloured = console.color_system in _FINE  # of 8 or 16 colours neighbours would look alike
    # a letter holds two half blocks, one above the other, and is about as wide as one of them is high
    width = _width(len(x), console)
    lines = max(4, min(_HEIGHT, console.height - _BELOW)) if console.is_terminal else _HEIGHT
    rows = 2 * lines if coloured else lines
    rows = max(1, min(rows, round(width * len(y) / len(x)) if coloured else round(width * len(y) / len(x) / 2)))
    rows += rows % 2 if coloured else 0

    def cells(of: npt.NDArray[Any], find: np.ufunc) -> npt.NDArray[Any]:
        return _gathered(_gathered(of, rows, 0, find), width, 1, find)[::-1]  # the largest y on top

    known, good = cells(computed, np.logical_or), cells(finite, np.logical_or)
    places = scale.places(np.where(good, cells(np.where(finite, values, np.inf), np.minimum), scale.low))
    of = max(1, -(-len(y) // rows)) * max(1, -(-len(x) // width))
    least, most = _ends(float(y[0]), float(y[-1]))
    if coloured:
        colours = _coloured(places, known, good)
        blocks = [_half_blocks(colours[k], colours[k + 1]) for k in range(0, rows, 2)]
    else:
        blocks = [Text(_letters(places[k], known[k], good[k])) for k in range(rows)]
    for k, block in enumerate(blocks):
        edge = f"{most:>10} " if k == 0 else f"{least:>10} " if k == len(blocks) - 1 else " " * 11
        text.append(edge).append_text(block).append("\n")
    said = f"{x_name} from {' to '.join(_ends(float(x[0]), float(x[-1])))}, {y_name} upwards"
    said += f", a cell: the lowest of up to {of} points" if of > 1 else ""
    text.append(f"{'':11}{said:<{max(1, width)}}\n")
    text.append(" " * 11)
    bar = np.linspace(0, 1, 16)
    everywhere = np.ones(16, dtype=bool)
    if coloured:
        colours = _coloured(bar[None], everywhere[None], everywhere[None])[0]
        text.append_text(_half_blocks(colours, colours))
    else:
        text.append(_letters(bar, everywhere, everywhere))
    text.append(f" {' to '.join(_ends(scale.low, scale.high))}{', log scale' if scale.log else ''}")
    missing, bad = int((~computed).sum()), int((computed & ~finite).sum())
    for count, colour, letter, word in ((missing, _MISSING, _HOLE, "not computed"), (bad, _BAD, "!", "NaN or Inf")):
        if count:
            mark = Text("  ") + (Text("██", style=_style(colour)) if coloured else Text(f"'{letter}'"))
            text.append_text(mark).append(f" {word} {count:,}")
    return text.append("\n")


def _width(count: int, console: Console) -> int:
    """Columns for so many places: a multiple of them where there is room."""
    room = max(1, min(console.width - 14, _WIDTH))
    return room if count > room else count * (room // count)


def _spread(count: int, over: int) -> npt.NDArray[np.int64]:
    """Which of `count` places each of `over` columns shows."""
    return ((np.arange(over) + 0.5) * count / over).astype(np.int64)


def _gathered(values: npt.NDArray[Any], over: int, axis: int, find: np.ufunc) -> npt.NDArray[Any]:
    """Values in `over` places along an axis: repeated where they are fewer, else what `find` makes of each stretch."""
    count = values.shape[axis]
    if count <= over:
        return np.take(values, _spread(count, over), axis)
    gathered: npt.NDArray[Any] = find.reduceat(values, np.arange(over) * count // over, axis)
    return gathered


def _ends(low: float, high: float) -> tuple[str, str]:
    """Two values with the fewest digits that tell them apart, from four on, in at most ten letters."""
    pair = f"{low:.4g}", f"{high:.4g}"
    for digits in range(5, 10):
        finer = f"{low:.{digits}g}", f"{high:.{digits}g}"
        if pair[0] != pair[1] or max(map(len, finer)) > 10:
            break
        pair = finer
    return pair


def _coloured(places: FloatArray, known: BoolArray, good: BoolArray) -> FloatArray:
    """Red, green and blue, 0 to 255, of each place."""
    at = places * (len(_COLOURS) - 1)
    below = np.minimum(at.astype(int), len(_COLOURS) - 2)
    share = (at - below)[..., None]
    colours: FloatArray = (1 - share) * _COLOURS[below] + share * _COLOURS[below + 1]
    colours[~good], colours[~known] = _BAD, _MISSING
    return colours


def _half_blocks(upper: FloatArray, lower: FloatArray) -> Text:
    line = Text()
    for top, bottom in zip(upper.round().astype(int).tolist(), lower.round().astype(int).tolist(), strict=True):
        line.append("▀", style=Style(color=_hex(top), bgcolor=_hex(bottom)))
    return line


def _letters(places: FloatArray, known: BoolArray, good: BoolArray) -> str:
    step = np.minimum((places * len(_RAMP)).astype(int), len(_RAMP) - 1)
    found = zip(step.tolist(), known.tolist(), good.tolist(), strict=True)
    return "".join(_HOLE if not is_known else "!" if not is_good else _RAMP[k] for k, is_known, is_good in found)


def _columns(line: Line, console: Console) -> Text:
    """A column for each place, as high as its value; "·" stands where nothing is computed, "!" for NaN and Inf.

    Of more places than columns each column shows its lowest value, or its highest.
    """
    x, values, computed, axis, highest = line.x, line.values, line.computed, line.axis, line.highest
    finite = computed & np.isfinite(values)
    text = Text().append(f"{line.title}\n", style="bold")
    if not finite.any():
        return text.append("no finite value yet\n")
    scale = _Scale.of(values[finite])
    width = _width(len(x), console)
    find = np.maximum if highest else np.minimum
    known = _gathered(computed, width, 0, np.logical_or)
    good = _gathered(finite, width, 0, np.logical_or)
    shown = _gathered(np.where(finite, values, -np.inf if highest else np.inf), width, 0, find)
    lines = max(4, min(_HEIGHT // 2, console.height - _BELOW))
    eighths = 1 + np.rint(scale.places(np.where(good, shown, scale.low)) * (8 * lines - 1)).astype(int)
    low, high = _ends(scale.low, scale.high)
    coloured = console.color_system is not None
    for k in range(lines - 1, -1, -1):
        edge = f"{high:>10} " if k == lines - 1 else f"{low:>10} " if k == 0 else " " * 11
        text.append(edge)
        letters = [
            _column(int(e) - 8 * k) if is_good else _empty(k, is_known)
            for e, is_known, is_good in zip(eighths, known, good, strict=True)
        ]
        text.append("".join(letters), style=_COLUMN if coloured else "").append("\n")
    parts: Sequence[str] = [f"{axis} from {' to '.join(_ends(float(x[0]), float(x[-1])))}"]
    if len(x) > width:
        parts = [*parts, f"a column: the {'highest' if highest else 'lowest'} of up to {-(-len(x) // width)} places"]
    parts = [*parts, *(["log scale"] if scale.log else [])]
    for count, sign, word in (
        (int((~computed).sum()), "·", "not computed"),
        (int((computed & ~finite).sum()), "!", "NaN or Inf"),
    ):
        parts = [*parts, *([f"{sign} {word} {count:,}"] if count else [])]
    return text.append(f"{'':11}{', '.join(parts)}\n")


def _column(eighths: int) -> str:
    return _EIGHTHS[max(0, min(8, eighths))]


def _empty(line: int, known: bool) -> str:
    return " " if line else "!" if known else "·"


def _style(colour: tuple[int, int, int]) -> Style:
    return Style(color=_hex(colour))


def _hex(colour: Sequence[float]) -> str:
    return "#" + "".join(f"{int(c):02x}" for c in colour)
