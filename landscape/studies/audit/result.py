"""An audit of measures of generalisation as a frozen result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from landscape_kernels.arrays import BoolArray, FloatArray, IntArray

from landscape.arguments import checked
from landscape.errors import InputError, nearest
from landscape.results.base import Result
from landscape.results.frames import frame
from landscape.results.kind import Columns

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

FRAGILE, ROBUST, UNDECIDED = "fragile", "robust", "undecided"
FOLLOWS, AGAINST = "follows", "against"
ENDS = ("low", "high")  # of an interval, NAME_low and NAME_high
_WITH_ENDS: Mapping[str, str] = {
    "ratio": "measure of the second value over that of the first, geometric mean over matched pairs and seeds",
    "slope_first": "slope of log10 measure against log10 training samples, of the first value, on matched pairs",
    "slope_second": "the same slope of the second value",
    "slope_change": "slope of the second value less that of the first",
}
WORDS: Mapping[str, str] = {  # the numbers of a comparison
    **{
        name: text
        for stem, told in _WITH_ENDS.items()
        for name, text in ((stem, told), *((f"{stem}_{end}", f"{end} end of the interval of {stem}") for end in ENDS))
    },
    "p_ratio": "share of the draws of seeds in which the two values are more than a factor of 2 apart",
    "p_flip": "share of the draws of seeds in which the two slopes have opposite signs",
    "probability": "share of the draws of seeds in which one of the two holds: that the measure is fragile here",
}
ORDER_WORDS: Mapping[str, str] = {
    "order": "pairs of data that the measure orders as the test error does, less the others, over all of them",
    **{f"order_{end}": f"{end} end of the interval of order" for end in ENDS},
}


@dataclass(frozen=True)
class Comparisons:
    """Every measure in every comparison of two values of a knob with all other keys equal, R rows."""

    measure: tuple[str, ...]
    knob: tuple[str, ...]
    first: tuple[str, ...]  # value of the knob
    second: tuple[str, ...]
    setting: tuple[str, ...]  # the other keys, those that vary, as "key=value,..."
    pairs: IntArray  # (R,), sizes of the training set at which both were trained
    matched: IntArray  # (R,), of these, whose test errors agree and whose measures have values
    values: Mapping[str, FloatArray]  # of WORDS -> (R,), NaN where it is not known
    verdict: tuple[str, ...]  # "fragile", "robust" or "undecided"
    note: tuple[str, ...]

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]]) -> Comparisons:
        """The columns of rows."""
        texts = {name: tuple(str(row[name]) for row in rows) for name in ("measure", "knob", "first", "second")}
        return cls(
            **texts,
            setting=tuple(str(row["setting"]) for row in rows),
            pairs=np.array([row["pairs"] for row in rows], dtype=np.int64),
            matched=np.array([row["matched"] for row in rows], dtype=np.int64),
            values={name: np.array([row.get(name, np.nan) for row in rows], dtype=np.float64) for name in WORDS},
            verdict=tuple(str(row["verdict"]) for row in rows),
            note=tuple(str(row["note"]) for row in rows),
        )

    def columns(self) -> Columns:
        """A row for each."""
        texts = {name: list(getattr(self, name)) for name in ("measure", "knob", "first", "second", "setting")}
        counts = {"pairs": self.pairs, "matched": self.matched}
        return {**texts, **counts, **self.values, "verdict": list(self.verdict), "note": list(self.note)}


@dataclass(frozen=True)
class Orders:
    """Whether every measure orders data of several complexities as the test error does, R rows."""

    measure: tuple[str, ...]
    key: tuple[str, ...]  # of the data's complexity
    setting: tuple[str, ...]  # the other keys, those that vary
    pairs: IntArray  # (R,), pairs of values of the key at equal sizes of the training set
    apart: IntArray  # (R,), of these, whose test errors differ by more than `within`
    values: Mapping[str, FloatArray]  # of ORDER_WORDS -> (R,)
    verdict: tuple[str, ...]  # "follows", "against" or "undecided"
    note: tuple[str, ...]

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]]) -> Orders:
        """The columns of rows."""
        return cls(
            **{name: tuple(str(row[name]) for row in rows) for name in ("measure", "key", "setting")},
            pairs=np.array([row["pairs"] for row in rows], dtype=np.int64),
            apart=np.array([row["apart"] for row in rows], dtype=np.int64),
            values={name: np.array([row.get(name, np.nan) for row in rows], dtype=np.float64) for name in ORDER_WORDS},
            verdict=tuple(str(row["verdict"]) for row in rows),
            note=tuple(str(row["note"]) for row in rows),
        )

    def columns(self) -> Columns:
        """A row for each."""
        texts = {name: list(getattr(self, name)) for name in ("measure", "key", "setting")}
        counts = {"pairs": self.pairs, "apart": self.apart}
        return {**texts, **counts, **self.values, "verdict": list(self.verdict), "note": list(self.note)}

    def to_pandas(self) -> pandas.DataFrame:
        """The rows as a DataFrame."""
        return frame(self.columns())


@dataclass(frozen=True, repr=False)
class Audit(Result):
    """Measures of n trained models, and how fragile each of them is.

    Models that agree in all keys and in the size of their training set are the seeds of one cell. A cell whose model
    was rescaled has the key "rescaled", what the weights before each normalisation were multiplied by.
    """

    keys: Mapping[str, tuple[Any, ...]]  # key of the cells -> its value for each model, numbers or texts
    seed: tuple[int, ...]
    samples: IntArray  # (n,), of the training set
    test_error: FloatArray  # (n,), fraction
    values: Mapping[str, FloatArray]  # measure -> (n,), NaN where it has no value
    stderr: Mapping[str, FloatArray]  # measure -> (n,), its own error, NaN where it is not known
    computed: BoolArray  # (n,), False where a model is not measured yet
    note: tuple[str, ...]  # (n,), which measures have no value, and why
    comparisons: Comparisons
    orders: Orders
    attributes: Mapping[str, Any] = field(default_factory=dict)  # within, level, draws, provenance

    def __repr__(self) -> str:
        states = {state: self.comparisons.verdict.count(state) for state in (FRAGILE, ROBUST, UNDECIDED)}
        return (
            f"Audit({len(self.values)} measures of {int(self.computed.sum())} of {len(self.seed)} models, "
            f"{len(self.knobs)} knobs: {', '.join(f'{n} {state}' for state, n in states.items())})"
        )

    @property
    def complete(self) -> bool:
        """Whether every model was measured."""
        return bool(self.computed.all())

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of the measures."""
        return tuple(self.values)

    @property
    def knobs(self) -> tuple[str, ...]:
        """The knobs that were compared."""
        return tuple(dict.fromkeys(self.comparisons.knob))

    @property
    def varied(self) -> tuple[str, ...]:
        """Keys that have several values."""
        return tuple(name for name, column in self.keys.items() if len(set(column)) > 1)

    @checked()
    def rows_of(self, measure: str, knob: str) -> list[int]:
        """The comparisons of a measure and a knob. Raises InputError for one that is not there."""
        self.require(measure)
        if knob not in self.knobs:
            raise InputError(f"no knob {knob!r} was audited; {nearest(knob, self.knobs)}")
        found = zip(self.comparisons.measure, self.comparisons.knob, strict=True)
        return [row for row, one in enumerate(found) if one == (measure, knob)]

    @checked()
    def verdict(self, measure: str, knob: str) -> str:
        """ "fragile" where it is in one comparison of the knob, "robust" where in all, else "undecided".

        Raises InputError for a measure or knob that is not there.
        """
        states = {self.comparisons.verdict[row] for row in self.rows_of(measure, knob)}
        return FRAGILE if FRAGILE in states else ROBUST if states == {ROBUST} else UNDECIDED

    @checked()
    def fold(self, measure: str, knob: str) -> float:
        """The largest factor between two values of a knob, 1 or more; NaN where no pair is matched.

        Raises InputError for a measure or knob that is not there.
        """
        with np.errstate(divide="ignore"):
            logs = np.abs(np.log10(self.comparisons.values["ratio"][self.rows_of(measure, knob)]))
        known = logs[~np.isnan(logs)]
        return float(10 ** known.max()) if len(known) else float("nan")

    def models(self) -> Columns:
        """A row for each model: keys, seed, samples, test error, every measure with its own error, and its note."""
        found: dict[str, Any] = {**self.keys, "seed": self.seed, "samples": self.samples, "test_error": self.test_error}
        for name, values in self.values.items():
            found |= {name: values, f"{name}_stderr": self.stderr[name]}
        return {**found, "computed": self.computed, "note": list(self.note)}

    def models_to_pandas(self) -> pandas.DataFrame:
        """`models` as a DataFrame; `audit_table` takes it, several below each other, too."""
        return frame(self.models())

    @checked()
    def require(self, measure: str) -> None:
        """Raise InputError for a measure that is not there."""
        if measure not in self.values:
            raise InputError(f"no measure {measure!r} is in this audit; {nearest(measure, self.values)}")

    @checked()
    def plot(self, kind: str = "matrix", **options: Any) -> Figure:
        """A "matrix" of measures by knobs, "ratios" of all comparisons, or "curves" of a measure; see `plot_audit`."""
        return self._drawn(kind, **options)
