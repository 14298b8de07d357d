"""What is said of a measure, as a pure function of a table of models: ratios, slopes, order; each over seeds drawn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from landscape_kernels.arrays import FloatArray
from landscape_kernels.probes import derive_seed
from landscape_kernels.rank_statistics import percentile_interval

from landscape.errors import InputError, nearest
from landscape.studies.audit.models import RESCALED, Comparison, Models, alike, comparisons, setting_text
from landscape.studies.audit.result import (
    AGAINST,
    ENDS,
    FOLLOWS,
    FRAGILE,
    ROBUST,
    UNDECIDED,
    Comparisons,
    Orders,
)
from landscape.studies.complexity.result import log_base

FACTOR = 2.0  # between equally good models, beyond which a measure is fragile
SIZES = 3  # matched ones that a slope is fitted to
_ROUNDING = 64 * np.finfo(np.float64).eps

Drawn = tuple[float, FloatArray]  # a number, and the same of every draw of the seeds (draws,)


def log10_of(measure: str, values: FloatArray) -> FloatArray:
    """log10 of a measure: what is called log_... is a natural logarithm already, but for metrics of weights (base 10).

    NaN where a value is not positive or not finite.
    """
    base = log_base(measure)
    if base is not None:
        logs = values * math.log10(base)
    else:
        logs = np.log10(values, out=np.full(len(values), np.nan), where=values > 0)
    return np.where(np.isfinite(logs), logs, np.nan)


class SeedDraws:
    """The mean of a measure's logarithm in every cell, and the same of seeds drawn anew.

    The seeds of a cell are drawn with replacement, and how far a drawn mean is from the mean is multiplied by
    sqrt(n / (n - 1)), so that its variance is that of a mean of n seeds (Efron and Tibshirani 1993, section 5.3). The
    draws of a cell follow from its keys and the seed of the audit; models that are compared with themselves, rescaled,
    are drawn together. A cell of one seed has NaN for its draws.
    """

    def __init__(self, models: Models, measure: str, draws: int, seed: int) -> None:
        self._logs = log10_of(measure, models.values[measure])
        self._models, self._draws, self._seed = models, draws, seed
        self._found: dict[tuple[Any, ...], Drawn] = {}

    def __call__(self, cell: tuple[Any, ...]) -> Drawn:
        """log10 of the measure in a cell."""
        if cell not in self._found:
            known = self._logs[self._models.cells[cell]]
            self._found[cell] = self._of(known[np.isfinite(known)], cell)
        return self._found[cell]

    def without(self, cells: Iterable[tuple[Any, ...]]) -> str:
        """How many models of these cells have no value and are left out; "" where all have one."""
        rows = np.concatenate([self._models.cells[cell] for cell in dict.fromkeys(cells)])
        lost = int((~np.isfinite(self._logs[rows])).sum())
        return f"no positive value in {lost} of {len(rows)} models, which are left out" if lost else ""

    def _of(self, known: FloatArray, cell: tuple[Any, ...]) -> Drawn:
        n = len(known)
        if n < 2:
            return (float(known[0]) if n else math.nan), np.full(self._draws, np.nan)
        keys = dict(zip((*self._models.keys, "samples"), cell, strict=True))
        said = setting_text({name: keys[name] for name in sorted(keys) if name != RESCALED})
        random = np.random.Generator(np.random.Philox(key=derive_seed(self._seed, "audit", said, n)))
        means = known[random.integers(0, n, (self._draws, n))].mean(1)
        return float(known.mean()), known.mean() + math.sqrt(n / (n - 1)) * (means - known.mean())


def slope_of(samples: FloatArray, logs: FloatArray) -> FloatArray:
    """Slopes (d,) of the least-squares lines of logs (d, k) against log10 of samples (k,); 0 where rounding is all."""
    x = np.log10(samples) - np.log10(samples).mean()
    found = (logs - logs.mean(1, keepdims=True)) @ x / (x @ x)
    return np.where(np.abs(found) <= _ROUNDING * (1 + np.abs(logs).max(1)) / np.abs(x).max(), 0.0, found)


def compare(
    models: Models, measures: Sequence[str], knobs: Sequence[str], within: float, level: float, draws: int, seed: int
) -> Comparisons:
    """Every measure in every comparison of every knob. Raises InputError for knobs that no two models differ in."""
    all_found = {knob: comparisons(models, knob, within) for knob in knobs}
    rows = []
    for measure in measures:
        drawn = SeedDraws(models, measure, draws, seed)
        rows += [_compared(measure, drawn, one, within, level) for found in all_found.values() for one in found]
    return Comparisons.of(rows)


def _compared(measure: str, drawn: SeedDraws, comparison: Comparison, within: float, level: float) -> dict[str, Any]:
    matched = [
        pair
        for pair in comparison.matched
        if math.isfinite(drawn(pair.first)[0]) and math.isfinite(drawn(pair.second)[0])
    ]
    notes = [comparison.advice(within, SIZES if len(comparison.pairs) >= SIZES else 1)]
    if len(matched) < len(comparison.matched):
        notes.append(f"no positive value in {len(comparison.matched) - len(matched)} matched pairs")
    if matched:
        notes.append(drawn.without(cell for pair in matched for cell in (pair.first, pair.second)))
    row: dict[str, Any] = {
        "measure": measure,
        "knob": comparison.knob,
        "first": comparison.first,
        "second": comparison.second,
        "setting": comparison.setting,
        "pairs": len(comparison.pairs),
        "matched": len(matched),
    }
    if not matched:
        return row | {"verdict": UNDECIDED, "note": "; ".join(filter(None, notes))}
    sizes = np.array([pair.samples for pair in matched], dtype=np.float64)
    first, second = (
        (np.array([drawn(cell)[0] for cell in cells])[None], np.stack([drawn(cell)[1] for cell in cells], axis=1))
        for cells in ([pair.first for pair in matched], [pair.second for pair in matched])
    )
    logs = [b - a for a, b in zip(first, second, strict=True)]  # of the means (1, k) and of the draws (d, k)
    ratio, ratios = float(logs[0].mean()), logs[1].mean(1)
    row |= _interval("ratio", 10.0**ratio, 10.0**ratios, level)
    beyond = np.abs(ratios) > math.log10(FACTOR)
    flipped = np.zeros_like(beyond)
    if len(sizes) >= SIZES:
        slopes = [[slope_of(sizes, part) for part in arm] for arm in (first, second)]
        for name, (slope, several) in zip(("slope_first", "slope_second"), slopes, strict=True):
            row |= _interval(name, float(slope[0]), several, level)
        row |= _interval("slope_change", float(slopes[1][0][0] - slopes[0][0][0]), slopes[1][1] - slopes[0][1], level)
        flipped = slopes[0][1] * slopes[1][1] < 0
    unseen = len(sizes) < SIZES <= len(comparison.pairs)  # slopes, which might flip
    if unseen:
        notes.append("no slopes")
    known = np.isfinite(ratios).all()
    if not known:
        notes.append("a cell has one seed, which tells no error")
    probability = float((beyond | flipped).mean()) if known else math.nan
    row |= {
        "p_ratio": float(beyond.mean()) if known else math.nan,
        "p_flip": float(flipped.mean()) if known and len(sizes) >= SIZES else math.nan,
        "probability": probability,
        "verdict": FRAGILE
        if probability >= level
        else ROBUST
        if probability <= 1 - level and not unseen
        else UNDECIDED,
    }
    return row | {"note": "; ".join(filter(None, notes))}


def _interval(name: str, value: float, drawn: FloatArray, level: float) -> dict[str, float]:
    low, high = percentile_interval(drawn, level)
    return dict(zip((name, *(f"{name}_{end}" for end in ENDS)), (value, low, high), strict=True))


def follow(
    models: Models,
    measures: Sequence[str],
    complexity: Sequence[str],
    within: float,
    level: float,
    draws: int,
    seed: int,
) -> Orders:
    """Whether every measure orders the values of every key of data complexity as the test error does.

    Raises InputError for a key that the models do not have, or that does not vary.
    """
    for name in complexity:
        if name not in models.keys:
            raise InputError(f"complexity key {name!r} is no key of the models; {nearest(name, models.keys)}")
        if len(set(models.keys[name])) < 2:
            raise InputError(f"complexity key {name!r} is {models.keys[name][0]!r} in every model; train other values")
    chosen = models.of_knob(complexity)
    rows = []
    for measure in measures:
        drawn = SeedDraws(chosen, measure, draws, seed)
        for name in complexity:
            rows += _ordered(chosen, measure, drawn, name, within, level)
    return Orders.of(rows)


def _ordered(
    models: Models, measure: str, drawn: SeedDraws, key: str, within: float, level: float
) -> list[dict[str, Any]]:
    """A row for each setting of the other keys."""
    place = list(models.keys).index(key)
    others = [name for name in models.keys if name != key]
    told = [name for name in others if name in models.varied()]
    settings: dict[tuple[Any, ...], dict[int, list[tuple[Any, ...]]]] = {}
    for cell in models.cells:
        setting = tuple(value for k, value in enumerate(cell[:-1]) if k != place)
        settings.setdefault(setting, {}).setdefault(int(cell[-1]), []).append(cell)
    errors, rows = models.cell_errors(), []
    for setting, by_size in settings.items():
        pairs = [
            (one, other, errors[other][0] - errors[one][0])
            for cells in by_size.values()
            for k, one in enumerate(cells)
            for other in cells[k + 1 :]
        ]
        if not pairs:
            continue
        apart = [(one, other, gap) for one, other, gap in pairs if math.isfinite(gap) and not alike(gap, within)]
        apart = [pair for pair in apart if all(math.isfinite(drawn(cell)[0]) for cell in pair[:2])]
        said = dict(zip(others, setting, strict=True))
        row: dict[str, Any] = {
            "measure": measure,
            "key": key,
            "setting": setting_text({name: said[name] for name in told}),
            "pairs": len(pairs),
            "apart": len(apart),
            "verdict": UNDECIDED,
            "note": "" if apart else f"no two test errors with a value differ by more than {within:g}",
        }
        if apart:
            value = _agreement([math.copysign(1.0, gap) * _step(drawn, a, b) for a, b, gap in apart])
            several = _agreement([math.copysign(1.0, gap) * _steps(drawn, a, b) for a, b, gap in apart])
            row |= _interval("order", float(value), np.asarray(several), level)
            row["note"] = drawn.without(cell for one, other, _ in apart for cell in (one, other))
            low, high = row["order_low"], row["order_high"]
            row["verdict"] = FOLLOWS if low > 0 else AGAINST if high < 0 else UNDECIDED
        rows.append(row)
    return rows


def _step(drawn: SeedDraws, one: tuple[Any, ...], other: tuple[Any, ...]) -> Any:
    return np.sign(_settled(drawn(other)[0] - drawn(one)[0], drawn(one)[0]))


def _steps(drawn: SeedDraws, one: tuple[Any, ...], other: tuple[Any, ...]) -> Any:
    return np.sign(_settled(drawn(other)[1] - drawn(one)[1], drawn(one)[0]))


def _settled(difference: Any, of: float) -> Any:
    return np.where(np.abs(difference) <= _ROUNDING * (1 + abs(of)), 0.0, difference)


def _agreement(signs: Sequence[Any]) -> Any:
    """Pairs in the right order less those in the wrong one, over all of them."""
    return np.mean(np.stack([np.asarray(sign, dtype=np.float64) for sign in signs]), axis=0)
