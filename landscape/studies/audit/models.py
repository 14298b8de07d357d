"""The models that an audit is of, in cells: one cell's agree in all keys and in the size of their training set."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from landscape_kernels.arrays import BoolArray, FloatArray, IntArray

from landscape.errors import InputError, nearest

RESCALED = "rescaled"  # key and knob of the arm in which weights before a normalisation are multiplied
JOIN = "+"  # between keys that change together
_ROUNDING = 1e-12  # of a difference of test errors: that of 0.31 and 0.3 is more than 0.01


def alike(difference: float, within: float) -> bool:
    """Whether two test errors differ by no more than `within`, to rounding."""
    return bool(abs(difference) <= within + _ROUNDING)


@dataclass(frozen=True)
class Models:
    """n models with what was measured of each."""

    keys: Mapping[str, tuple[Any, ...]]  # key of the cells -> its value for each model, numbers or texts
    seed: tuple[int, ...]
    samples: IntArray  # (n,), of the training set
    test_error: FloatArray  # (n,)
    values: Mapping[str, FloatArray]  # measure -> (n,), NaN where it has no value

    def __len__(self) -> int:
        return len(self.seed)

    def where(self, chosen: BoolArray) -> Models:
        """Some of the models (n,)."""
        rows = np.flatnonzero(chosen)
        return replace(
            self,
            keys={name: tuple(column[row] for row in rows) for name, column in self.keys.items()},
            seed=tuple(self.seed[row] for row in rows),
            samples=self.samples[rows],
            test_error=self.test_error[rows],
            values={name: column[rows] for name, column in self.values.items()},
        )

    def of_knob(self, names: Sequence[str]) -> Models:
        """The models that are compared for a knob: rescaled ones for the knob that rescales, and for no other."""
        if RESCALED not in self.keys or RESCALED in names:
            return self
        return self.where(np.array([value == 1 for value in self.keys[RESCALED]], dtype=bool))

    @cached_property
    def cells(self) -> dict[tuple[Any, ...], IntArray]:
        """{(values of the keys ..., samples): rows}, in the order of their first rows."""
        found: dict[tuple[Any, ...], list[int]] = {}
        for row, (*key, samples) in enumerate(zip(*self.keys.values(), self.samples.tolist(), strict=True)):
            found.setdefault((*key, samples), []).append(row)
        return {cell: np.array(rows) for cell, rows in found.items()}

    def cell_errors(self) -> dict[tuple[Any, ...], tuple[float, float]]:
        """{cell: (mean test error over its seeds, standard error of that)}; NaN for the error of one seed."""
        found = {}
        for cell, rows in self.cells.items():
            known = self.test_error[rows][np.isfinite(self.test_error[rows])]
            spread = known.std(ddof=1) / math.sqrt(len(known)) if len(known) > 1 else math.nan
            found[cell] = (float(known.mean()) if len(known) else math.nan, float(spread))
        return found

    def varied(self) -> tuple[str, ...]:
        """Keys that have several values."""
        return tuple(name for name, column in self.keys.items() if len(set(column)) > 1)

    def require_seeds(self) -> None:
        """Raise InputError where two models agree in all keys and in the seed: a key is missing."""
        for cell, rows in self.cells.items():
            seeds = [self.seed[row] for row in rows]
            twice = next((seed for seed in seeds if seeds.count(seed) > 1), None)
            if twice is not None:
                said = setting_text(dict(zip((*self.keys, "samples"), cell, strict=True))).replace(",", ", ")
                raise InputError(
                    f"two models agree in {said} and seed {twice}; name the column that tells them apart among keys="
                )


@dataclass(frozen=True)
class Pair:
    """Two cells that differ in one knob."""

    samples: int
    first: tuple[Any, ...]
    second: tuple[Any, ...]
    difference: float  # of their mean test errors, second minus first
    stderr: float  # of that, over seeds
    matched: bool  # whether it is no more than `within`


@dataclass(frozen=True)
class Comparison:
    """Two values of a knob with all else equal: a pair of cells for each size of the training set."""

    knob: str
    first: str
    second: str
    setting: str  # the other keys, those that vary
    pairs: tuple[Pair, ...]

    @property
    def matched(self) -> tuple[Pair, ...]:
        """The pairs that do equally well, by their sizes."""
        return tuple(pair for pair in self.pairs if pair.matched)

    def advice(self, within: float, least: int) -> str:
        """How many pairs are matched, and which `within` would match `least` or all; "" where that many are."""
        if len(self.matched) >= least:
            return ""
        gaps = sorted(abs(pair.difference) for pair in self.pairs if math.isfinite(pair.difference))
        said = f"{len(self.matched)} of {len(self.pairs)} pairs agree within {within:g}"
        more = min(least, len(gaps))
        if more <= len(self.matched):
            return said
        return f"{said}; within={_above(gaps[more - 1]):g} would match {more}"


def _above(gap: float) -> float:
    """A number of two digits that is no less."""
    if gap == 0:
        return 0.0
    step = 10.0 ** (math.floor(math.log10(gap)) - 1)
    return float(f"{math.ceil(gap / step * (1 - 1e-12)) * step:.3g}")


def knob_keys(models: Models, knob: str) -> tuple[str, ...]:
    """The keys that a knob changes: one, or several joined by "+". Raises InputError for what no two models differ in.

    The keys have to differ while all others, but for the size of the training set, agree.
    """
    names = tuple(name.strip() for name in knob.split(JOIN))
    for name in names:
        if name not in models.keys:
            raise InputError(f"knob {name!r} is no key of the models; {nearest(name, models.keys)}")
        if len(set(models.keys[name])) < 2:
            raise InputError(f"knob {name!r} is {models.keys[name][0]!r} in every model; train another value of it")
    return names


def comparisons(models: Models, knob: str, within: float) -> list[Comparison]:
    """All pairs of values of a knob, with all other keys equal; see `knob_keys` for what is raised."""
    names = knob_keys(models, knob)
    chosen = models.of_knob(names)
    others = [name for name in chosen.keys if name not in names]
    told = [name for name in others if name in chosen.varied()]
    errors = chosen.cell_errors()
    places = {name: k for k, name in enumerate(chosen.keys)}
    arms: dict[tuple[Any, ...], dict[tuple[Any, ...], dict[int, tuple[Any, ...]]]] = {}
    for cell in chosen.cells:
        setting = tuple(cell[places[name]] for name in others)
        arm = tuple(cell[places[name]] for name in names)
        arms.setdefault(setting, {}).setdefault(arm, {})[int(cell[-1])] = cell
    found = []
    for setting, by_arm in arms.items():
        said = dict(zip(others, setting, strict=True))
        for (one, first), (other, second) in itertools.combinations(by_arm.items(), 2):
            sizes = sorted(first.keys() & second.keys())
            if sizes and all(a != b for a, b in zip(one, other, strict=True)):
                pairs = tuple(_pair(size, first[size], second[size], errors, within) for size in sizes)
                text = setting_text({name: said[name] for name in told})
                a_text, b_text = (JOIN.join(map(value_text, arm)) for arm in (one, other))
                found.append(Comparison(knob, a_text, b_text, text, pairs))
    if not found:
        raise InputError(_alone(chosen, names, knob))
    return found


def value_text(value: Any) -> str:
    """The value of a key as it is read, the same for 1, 1.0 and true."""
    return f"{float(value):.12g}" if isinstance(value, (int, float)) else str(value)


def setting_text(setting: Mapping[str, Any]) -> str:
    """Keys and values in words."""
    return ",".join(f"{name}={value_text(value)}" for name, value in setting.items())


def _pair(
    samples: int,
    first: tuple[Any, ...],
    second: tuple[Any, ...],
    errors: Mapping[tuple[Any, ...], tuple[float, float]],
    within: float,
) -> Pair:
    (a, a_error), (b, b_error) = errors[first], errors[second]
    return Pair(samples, first, second, b - a, math.hypot(a_error, b_error), alike(b - a, within))


def _alone(models: Models, names: Sequence[str], knob: str) -> str:
    """Why no two models differ in a knob alone: the keys that change with it."""
    closest: set[str] | None = None
    for one, other in itertools.combinations(models.cells, 2):
        apart = {name for name, a, b in zip(models.keys, one, other, strict=False) if a != b}
        if all(name in apart for name in names) and (closest is None or len(apart) < len(closest)):
            closest = apart
    more = [name for name in models.keys if name in (closest or ()) and name not in names]
    if not more:
        return f"no two models differ in knob {knob!r} and were trained on as many samples; train them on equal sizes"
    both = JOIN.join((*names, *more))
    return (
        f"no two models differ in knob {knob!r} alone: {', '.join(more)} changes with it; name them as one knob, "
        f"{both!r}, or train models that differ in {knob!r} alone"
    )
