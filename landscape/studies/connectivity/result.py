"""What measuring pairs of models returns: loss on straight lines and fitted curves, and the numbers made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from landscape_kernels.arrays import BoolArray, FloatArray, IntArray

from landscape.arguments import checked
from landscape.errors import InputError, nearest
from landscape.results.base import Result
from landscape.results.estimate import Estimate
from landscape.results.quantities import Meaning
from landscape.studies.path.result import Path

if TYPE_CHECKING:
    from matplotlib.figure import Figure


# Made of each pair; the words are short, so that many columns stand side by side
NUMBERS: Mapping[str, Meaning] = {
    "line_barrier": Meaning("line barrier", definition="barrier of the loss on the straight line"),
    "barrier": Meaning(
        "lower barrier", definition="the lower of the barriers on the straight line and on the fitted curve"
    ),
    "line_mc": Meaning("line mc", definition="mode connectivity (mc) on the straight line"),
    "curve_barrier": Meaning("curve barrier", definition="barrier of the loss on the fitted curve"),
    "curve_mc": Meaning("curve mc", definition="mode connectivity (mc) on the fitted curve"),
    "distance": Meaning(
        "distance",
        "parameter units",
        "Euclidean distance of the two models, after alignment where they were aligned",
    ),
    "unaligned_distance": Meaning(
        "before alignment", "parameter units", "Euclidean distance of the two models as they were given"
    ),
    "length": Meaning("length", "parameter units", "length of the fitted curve, in parameter units"),
}


@dataclass(frozen=True, repr=False)
class Connectivity(Result):
    """Pairs of models: quantities at places t of the straight line and of the fitted curve from one to the other."""

    labels: tuple[str, ...]  # N names of the models
    pairs: IntArray  # (P, 2), numbers of the models at t = 0 and t = 1
    t: FloatArray  # (T,), ascending from 0 to 1
    line: Mapping[str, FloatArray]  # quantity -> (P, T), on the straight line; "test_..." on the test data
    line_stderr: Mapping[str, FloatArray]  # quantity -> (P, T); standard error over samples (population)
    curve: Mapping[str, FloatArray]  # quantity -> (P, T), on the fitted curve; empty where none was fitted
    curve_stderr: Mapping[str, FloatArray]  # quantity -> (P, T)
    arc: FloatArray  # (P, T), length of the fitted curve from 0 to t, in parameter units; NaN without one
    distance: FloatArray  # (P,), of the models, after alignment where they were aligned
    unaligned_distance: FloatArray  # (P,), of the models as given
    computed: BoolArray  # (P,); False where a pair was not measured yet
    attributes: Mapping[str, Any] = field(default_factory=dict)  # fit, alignment, BatchNorm, data, provenance
    line_replicates: Mapping[str, FloatArray] = field(default_factory=dict)  # quantity -> (P, T, groups); see `Path`
    curve_replicates: Mapping[str, FloatArray] = field(default_factory=dict)  # quantity -> (P, T, groups)

    def __repr__(self) -> str:
        fitted = "lines and fitted curves" if self.curve else "lines"
        return (
            f"Connectivity({len(self.labels)} models, {len(self.pairs)} pairs, {int(self.computed.sum())} computed: "
            f"{fitted} at {len(self.t)} places)"
        )

    @property
    def complete(self) -> bool:
        """Whether every pair was measured."""
        return bool(self.computed.all())

    @checked()
    def line_path(self, i: int, j: int) -> Path:
        """What was measured on the straight line from model i to model j, as a Path."""
        k, turned = self._place(i, j)
        arc = self.t * self.distance[k]
        return self._path(k, turned, self.line, self.line_stderr, self.line_replicates, arc, "line")

    @checked()
    def curve_path(self, i: int, j: int) -> Path:
        """What was measured on the fitted curve from model i to model j, as a Path. InputError where none was."""
        if not self.curve:
            raise InputError("no curves were fitted (epochs=0); measure with epochs= of 1 or more")
        k, turned = self._place(i, j)
        return self._path(k, turned, self.curve, self.curve_stderr, self.curve_replicates, self.arc[k], "curve")

    @cached_property
    def numbers(self) -> dict[str, FloatArray]:
        """{name: (P,)}: the numbers of `NUMBERS` for every pair, NaN where it is not measured."""
        found = {"distance": self.distance, "unaligned_distance": self.unaligned_distance}
        found |= {name: np.array(values, dtype=np.float64) for name, values in self._estimates.items()}
        if self.curve:
            found["barrier"] = np.fmin(found["line_barrier"], found["curve_barrier"])
            found["length"] = self.arc[:, -1]
        return {name: np.where(self.computed, values, np.nan) for name, values in found.items()}

    @cached_property
    def errors(self) -> dict[str, FloatArray]:
        """{name: (P,)}: standard errors of the barriers and mc in `numbers`, as those of a `Path`."""
        found = {name: np.array([value.stderr for value in values]) for name, values in self._estimates.items()}
        if self.curve:
            lower = self.numbers["curve_barrier"] == self.numbers["barrier"]
            found["barrier"] = np.where(lower, found["curve_barrier"], found["line_barrier"])
        return {name: np.where(self.computed, values, np.nan) for name, values in found.items()}

    @cached_property
    def roundings(self) -> dict[str, FloatArray]:
        """{name: (P,)}: what is surely rounding in the barriers and mc of `numbers`; see `Path.rounding_of`."""
        found: dict[str, FloatArray] = {}
        for kind, path_of in self._kinds.items():
            paths = [path_of(int(i), int(j)) for i, j in self.pairs]
            found[f"{kind}_barrier"] = np.array([path.rounding_of("loss") for path in paths])
            found[f"{kind}_mc"] = np.array([path.mc_rounding for path in paths])
        if self.curve:
            found["barrier"] = np.fmax(found["line_barrier"], found["curve_barrier"])
        return found

    @property
    def _kinds(self) -> dict[str, Callable[[int, int], Path]]:
        return {"line": self.line_path, "curve": self.curve_path} if self.curve else {"line": self.line_path}

    @cached_property
    def _estimates(self) -> dict[str, list[Estimate]]:
        found: dict[str, list[Estimate]] = {}
        for kind, path_of in self._kinds.items():
            paths = [path_of(int(i), int(j)) for i, j in self.pairs]
            found[f"{kind}_barrier"] = [path.barrier for path in paths]
            found[f"{kind}_mc"] = [path.mc for path in paths]
        return found

    @checked()
    def matrix(self, name: str) -> FloatArray:
        """One of the `numbers` as a symmetric table (N, N); NaN where a pair was not asked for, 0 on the diagonal."""
        numbers = self.numbers
        if name not in numbers:
            raise InputError(f"pairs of models have no {name!r}; {nearest(name, numbers)}")
        table = np.full((len(self.labels), len(self.labels)), np.nan)
        np.fill_diagonal(table, 0.0)
        i, j = self.pairs.T
        table[i, j] = table[j, i] = numbers[name]
        return table

    @checked()
    def groups(self, threshold: float, by: str | None = None) -> list[list[str]]:
        """Connected parts of the low-loss graph, largest first: models joined where a barrier is at most `threshold`.

        `by` is one of `numbers`, by default the lower of the barriers on the line and on the fitted curve. Pairs that
        are not measured do not join.
        """
        from scipy.sparse import coo_array  # loading scipy would be a sixth of `import landscape`
        from scipy.sparse.csgraph import connected_components

        below = self.matrix(by or self.default_barrier) <= threshold
        count, part = connected_components(coo_array(below), directed=False)
        found = [[label for label, p in zip(self.labels, part, strict=True) if p == number] for number in range(count)]
        return sorted(found, key=lambda labels: (-len(labels), labels))

    @property
    def default_barrier(self) -> str:
        """The number that pictures and groups are about unless told otherwise."""
        return "barrier" if self.curve else "line_barrier"

    @checked()
    def plot(self, kind: str = "table", **options: Any) -> Figure:
        """A Figure: "table" (heat maps of barriers), "graph" (models and low barriers) or "paths" (every pair)."""
        return self._drawn(kind, **options)

    def _place(self, i: int, j: int) -> tuple[int, bool]:
        """(number of the pair, whether it runs the other way round)."""
        for turned in (False, True):
            if (k := self._numbered.get((j, i) if turned else (i, j))) is not None and i != j:
                return k, turned
        raise InputError(f"there is no pair ({i}, {j}) here; the pairs are {self.pairs.tolist()}")

    @cached_property
    def _numbered(self) -> dict[tuple[int, int], int]:
        return {(i, j): k for k, (i, j) in enumerate(self.pairs.tolist())}

    def _path(
        self,
        k: int,
        turned: bool,
        values: Mapping[str, FloatArray],
        stderr: Mapping[str, FloatArray],
        replicates: Mapping[str, FloatArray],
        arc: FloatArray,
        kind: str,
    ) -> Path:
        order = slice(None, None, -1 if turned else 1)
        i, j = self.pairs[k][order]
        return Path(
            t=1 - self.t[order] if turned else self.t,
            values={name: array[k][order] for name, array in values.items()},
            stderr={name: array[k][order] for name, array in stderr.items()},
            replicates={name: array[k][order] for name, array in replicates.items()},
            arc=arc[-1] - arc[order] if turned else arc,
            length=float(arc[-1]),
            distance=float(self.distance[k]),
            computed=np.full(len(self.t), bool(self.computed[k])),
            attributes={**self.attributes, "curve_kind": kind, "from": self.labels[i], "to": self.labels[j]},
        )
