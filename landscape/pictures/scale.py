"""Which levels a picture has, and how values become heights and colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from landscape_kernels.arrays import FloatArray
from matplotlib.axis import Axis
from matplotlib.colors import BoundaryNorm
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from landscape.errors import InputError, nearest
from landscape.pictures.style import VALUES

Extend = Literal["neither", "both", "min", "max"]
LEVELS = ("auto", "linear", "log", "step")
_STEPS = 20  # of levels="step" above the lowest value, before levels 1, 2, 5 of each decade take over
_DECADES = 8  # of which levels="step" draws 1, 2, 5 each; more have their powers of ten
_POWERS = 24  # powers of ten of levels="step" at most
_MANTISSAS = ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3))  # of log levels in each decade
_LINEAR = ("accuracy", "test_accuracy")  # whose good end is the upper one, which a log scale hides
_MOST = 200  # levels of a picture
_NAMED = 12  # levels that a colour bar names at most
_FEW = 2.5  # decades up to which a log axis names several of each


@dataclass(frozen=True)
class Scale:
    """How values become heights and colours: log10, or division by a factor that keeps extreme numbers drawable."""

    log: bool
    exponent: int  # the factor is 10**exponent
    levels: FloatArray  # ascending, as drawn: where colours change
    heights: FloatArray  # ascending, as drawn: where an axis names values; its ends enclose all values
    note: str = ""
    constant: bool = False
    extend: Extend = "neither"  # at which ends values lie beyond the levels

    @property
    def ticks(self) -> list[float]:
        """Where a colour bar names values, as drawn."""
        if self.constant:
            return [float(self.levels.mean())]
        named: list[float] = self.levels[:: -(-self.levels.size // _NAMED)].tolist()
        return named

    @property
    def floor(self) -> float:
        """Lower border of a log picture, a little below all values."""
        return float(self.heights[0] - 0.02 * (self.heights[-1] - self.heights[0]))

    @property
    def colours(self) -> dict[str, Any]:
        """One colour for each band between two levels, as matplotlib takes it."""
        return {"cmap": VALUES, "norm": BoundaryNorm(self.levels, VALUES.N, extend=self.extend)}

    def drawn(self, values: FloatArray) -> FloatArray:
        """Values as drawn, NaN where they cannot be."""
        values = np.where(np.isfinite(values), values, np.nan)
        if not self.log:
            return values / 10.0**self.exponent
        return np.log10(values, out=np.full(values.shape, np.nan), where=values > 0)

    def text(self, level: float) -> str:
        """The value of a drawn level, in words."""
        if self.log and -4 < level < 4:
            return f"{float(f'{10.0**level:.3g}'):g}"  # three digits, and 1000 rather than 1e+03
        exponent = math.floor(level + 1e-9) if self.log else self.exponent
        mantissa = f"{10.0 ** (level - exponent) if self.log else level:.3g}"
        if mantissa == "0" or exponent == 0:
            return mantissa
        return f"$10^{{{exponent}}}$" if mantissa == "1" else f"${mantissa}\\times10^{{{exponent}}}$"

    def tick(self, axis: Axis, places: Sequence[float] | FloatArray) -> None:
        """Write values, not what is drawn, at `places` of an axis; linear axes of usual numbers do so by themselves."""
        if self.log or self.exponent:
            axis.set_major_locator(FixedLocator(list(places)))
            axis.set_minor_locator(FixedLocator([]))
            axis.set_major_formatter(FuncFormatter(lambda level, _: self.text(level)))


def check_levels(levels: str | Sequence[float] | FloatArray, count: int, step: float) -> None:
    """Raise InputError for levels, a `count` of them or a `step` between them that no picture can have."""
    if count < 2:
        raise InputError(f"count {count} is too small: a picture has 2 levels or more, 12 is usual")
    if not 0 < step < math.inf:
        raise InputError(f"step {step} is not a positive number; 0.1 is usual for a cross entropy")
    if isinstance(levels, str):
        if levels not in LEVELS:
            raise InputError(f"levels {levels!r} is not known; {nearest(levels, LEVELS)}")
        return
    given = np.asarray(levels, dtype=np.float64)
    if given.ndim != 1 or not 2 <= given.size <= _MOST:
        raise InputError(f"levels have shape {given.shape}; give 2 to {_MOST} values, as np.arange(0.1, 10, 0.5)")
    if not np.isfinite(given).all() or (np.diff(given) <= 0).any():
        raise InputError("levels are values that increase and are finite, as [0.1, 1, 10]")


def choose_scale(
    values: FloatArray,
    levels: str | Sequence[float] | FloatArray,
    count: int,
    step: float,
    quantity: str,
    passed: FloatArray | None = None,
) -> Scale:
    """The scale of finite `values` (n,) by `levels` as `plot_surface` takes them; `passed` (m,), what training passed.

    Raises InputError for log levels of values that are not positive, and for a `step` too small to tell them apart.
    """
    named = levels if isinstance(levels, str) else ""
    if not values.size:
        return _plain(False, 0, np.array([0.0, 1.0]), "no finite value to draw")
    low, high = float(values.min()), float(values.max())
    if named == "log" and low <= 0:
        raise InputError(
            f"levels 'log' needs positive values; {int((values <= 0).sum())} of {values.size} values of {quantity} are "
            f"not, the lowest is {low:g}. Use levels='linear' or 'auto'."
        )
    wide = quantity not in _LINEAR and (_wide(values) or (passed is not None and _wide(passed)))
    log = named == "log" or (named != "linear" and wide and low > 0)
    largest = max(abs(low), abs(high))
    exponent = 0 if log or largest == 0 or 1e-30 < largest < 1e30 else max(-300, math.floor(math.log10(largest)))
    if high - low <= 8 * np.finfo(np.float64).eps * largest:
        middle = math.log10(low) if log else low / 10.0**exponent
        margin = max(abs(middle), 1e-3) / 20
        ends = np.array([middle - margin, middle + margin])
        return Scale(log, exponent, ends, ends, f"constant: every value is {low:.6g}", constant=True)
    if log:
        plain = _plain(True, 0, _decades(math.log10(low), math.log10(high), count), "log scale")
    else:
        lost = f"linear levels: values of 0 or below ({int((values <= 0).sum())}) have no logarithm"
        rounded = _round_levels(low / 10.0**exponent, high / 10.0**exponent, count)
        plain = _plain(False, exponent, rounded, lost if named == "auto" and wide else "")
    if named == "step":
        steps, told = _steps(low, high, step)
        return _with_levels(plain, steps, values, told)
    return plain if named else _with_levels(plain, np.asarray(levels, dtype=np.float64), values)


def _wide(values: FloatArray) -> bool:
    """Whether the positive ones among `values` span more than a decade."""
    positive = values[np.isfinite(values) & (values > 0)]
    return bool(positive.size) and bool(np.log10(positive.max()) - np.log10(positive.min()) > 1)


def _plain(log: bool, exponent: int, levels: FloatArray, note: str) -> Scale:
    return Scale(log, exponent, levels, levels, note)


def _with_levels(scale: Scale, levels: FloatArray, values: FloatArray, note: str = "") -> Scale:
    """A scale whose colours change at other levels."""
    if scale.log and levels[0] <= 0:  # no value is there
        levels = np.unique([10.0 ** scale.heights[0], *levels[levels > 0]])
    below, above = int((values < levels[0]).sum()), int((values > levels[-1]).sum())
    beyond = ((below, f"below {levels[0]:g}"), (above, f"above {levels[-1]:g}"))
    notes = [part for part in (note, scale.note) if part]
    notes += [f"{number} value{'s' * (number != 1)} {where}" for number, where in beyond if number]
    extend: Extend = ("both" if above else "min") if below else ("max" if above else "neither")
    return replace(scale, levels=scale.drawn(levels), note="; ".join(notes), extend=extend)


def _steps(low: float, high: float, step: float) -> tuple[FloatArray, str]:
    """Multiples of `step` from the lowest value on, then 1, 2, 5 of each decade up to the highest; in words, too."""
    first = math.floor(low / step)
    start = first * step
    if not start < start + step < math.inf:
        raise InputError(f"step {step:g} is lost beside values of {low:g}; give a larger one, or levels='linear'")
    last = max(min(first + _STEPS, math.ceil(high / step)), first + 1)
    levels = [k * step for k in range(first, last + 1)]
    told, end = f"steps of {step:g}", float(f"{levels[-1]:.12g}")
    least = max(end, step)
    if high > least:
        further, how = _walls(least, high)
        levels += further
        told += f" up to {end:g}, then {how}"
    elif high > end:  # all below one step
        told += f" up to {end:g}, then the highest value"
    if levels[-1] < high:  # such a value, or one beyond the largest power of ten
        levels.append(high)
    return np.unique([float(f"{level:.12g}") for level in levels]), told


def _walls(least: float, high: float) -> tuple[list[float], str]:
    """1, 2, 5 of each decade from `least` until one reaches `high`, of many decades powers of ten; in words, too."""
    decades = math.log10(high) - math.log10(least)
    every = math.ceil(decades / _POWERS)
    mantissas, how = ((1, 2, 5), "1-2-5 per decade") if decades <= _DECADES else ((1,), "powers of ten")
    powers = range(math.floor(math.log10(least)), math.ceil(math.log10(high)) + every, every)
    levels = [m * 10.0**power for power in powers if power < 308 for m in mantissas]
    enough = 1 + sum(level < high for level in levels)
    how += f", one in {every}" if every > 1 else ""
    return [level for level in levels[:enough] if level > 1.01 * least], how


def _round_levels(low: float, high: float, count: int) -> FloatArray:
    levels = np.unique(np.asarray(MaxNLocator(count).tick_values(low, high), dtype=np.float64))
    if levels.size < 3 or levels[0] > low or levels[-1] < high:  # a range of a few rounding errors
        levels = np.linspace(low, high, count + 1)
    return levels


def _decades(low: float, high: float, count: int) -> FloatArray:
    """Up to six levels of each decade as `count` allows, else every k-th power of ten; as log10."""
    step = max(1, math.ceil((high - low) / count))
    most = 1.5 * count / (high - low)  # of levels in each decade
    mantissas = next((m for m in _MANTISSAS if len(m) <= most / (1.5 if len(m) > 3 else 1)), (1,))
    powers = range(math.floor(low), math.ceil(high) + step, step)
    levels = np.array([math.log10(m) + power for power in powers for m in mantissas])
    first = max(0, int(np.searchsorted(levels, low, side="right")) - 1)
    last = int(np.searchsorted(levels, high, side="left"))
    levels = levels[first : last + 1]
    return levels if levels.size > max(2, min(count // 2, 4)) else _round_levels(low, high, count)


def name_log_ticks(axis: Axis) -> None:
    """Plain numbers on a log axis that is drawn already: some of each decade, or powers of ten where these are many."""
    low, high = axis.get_view_interval()
    if high / low <= 10**_FEW:
        axis.set_major_locator(LogLocator(subs=_MANTISSAS[0 if high / low <= 10 else 1]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
