"""An analysed corpus as a frozen result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from landscape_kernels.arrays import BoolArray, FloatArray, IntArray

from landscape.arguments import checked
from landscape.errors import InputError, nearest
from landscape.results.base import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PARADOX, NONE, UNDECIDED = "paradox", "none", "undecided"
OUTSIDE = ""  # group of a model without one: its cell is missing
WORDS: Mapping[str, str] = {
    "overall": "Kendall's tau-b of metric and target over all models",
    "within": "mean of Kendall's tau-b inside the groups, by their numbers of models",
    "spearman_overall": "Spearman's rho over all models",
    "spearman_within": "mean of Spearman's rho inside the groups, by their numbers of models",
    "slope_overall": "slope of the least-squares line of the target on the metric over all models",
    "slope_within": "common slope of the least-squares lines of the target on the metric inside the groups",
    "opposed": "share of the draws of models in which tau overall and tau within have opposite signs",
    "p_overall": "p-value of no order of metric and target over all models (normal, ties counted)",
    "p_within": "p-value of no order of metric and target inside any group (normal, ties counted)",
    "p_paradox": "p-value of the signs of tau overall and within not being opposed",
    "p_overall_holm": "p_overall adjusted for all rows by Holm's method",
    "p_within_holm": "p_within adjusted for all rows by Holm's method",
    "p_paradox_holm": "p_paradox adjusted for all rows by Holm's method",
    "granulated": "granulated Kendall's tau: mean over hyper-parameters of tau among models that differ in it alone",
    "cmi": "conditional mutual information of the signs of differences, least over at most two hyper-parameters known",
    "partial": "Spearman's rho of metric and target with the hyper-parameters held",
}


@dataclass(frozen=True)
class Inside:
    """Every metric in every group, n rows."""

    metric: tuple[str, ...]
    grouping: tuple[str, ...]  # the column that says the group
    group: tuple[str, ...]
    models: IntArray  # (n,), known in the group
    kendall: FloatArray  # (n,), tau-b; NaN where metric or target does not vary
    spearman: FloatArray  # (n,)
    slope: FloatArray  # (n,), in units of the target for a unit of the metric


@dataclass(frozen=True, repr=False)
class Corpus(Result):
    """How each metric of N models follows the target, overall and inside groups: R rows, one for metric and grouping.

    `values` are those of `WORDS`, and for tau, rho, slopes and what rests on hyper-parameters the ends of their
    intervals, NAME_low and NAME_high. The latter is there where hyper-parameters were named.
    """

    target: str
    metric: tuple[str, ...]  # (R,)
    grouping: tuple[str, ...]  # (R,), the column that says the groups
    models: IntArray  # (R,), with metric, target and group known
    values: Mapping[str, FloatArray]  # statistic -> (R,), NaN where it is not defined
    simpson: tuple[str, ...]  # (R,), "paradox", "none" or "undecided"
    note: tuple[str, ...]  # (R,), what was left out, and why a value is missing
    inside: Inside
    columns: Mapping[str, FloatArray]  # target and metrics -> (N,), NaN where the cell is missing
    groups: Mapping[str, tuple[str, ...]]  # grouping -> (N,) group of each model
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        found = {state: self.simpson.count(state) for state in (PARADOX, NONE, UNDECIDED)}
        count = len(next(iter(self.columns.values()), ()))
        return (
            f"Corpus({self.target} of {count} models, {len(set(self.metric))} metrics by "
            f"{', '.join(self.groups)}: {', '.join(f'{n} {state}' for state, n in found.items())})"
        )

    @property
    def paradoxes(self) -> tuple[str, ...]:
        """Metrics whose order overall and inside groups is opposed beyond doubt, by any grouping."""
        pairs = zip(self.metric, self.simpson, strict=True)
        return tuple(dict.fromkeys(metric for metric, state in pairs if state == PARADOX))

    @checked()
    def row(self, metric: str, grouping: str | None = None) -> int:
        """The row of a metric and a grouping, by default the first. Raises InputError for one that is not there."""
        if metric not in self.metric:
            raise InputError(f"no metric {metric!r} is in this corpus; {nearest(metric, self.metric)}")
        grouping = next(iter(self.groups)) if grouping is None else grouping
        if grouping not in self.groups:
            raise InputError(f"no grouping {grouping!r} is in this corpus; {nearest(grouping, self.groups)}")
        return list(zip(self.metric, self.grouping, strict=True)).index((metric, grouping))

    @checked()
    def rows_of(self, grouping: str) -> IntArray:
        """The rows of a grouping."""
        return np.array([k for k, name in enumerate(self.grouping) if name == grouping], dtype=np.int64)

    @checked()
    def widest(self, grouping: str) -> tuple[str, ...]:
        """Metrics by how far tau overall and within are apart, the farthest first, paradoxes before others."""
        rows = self.rows_of(grouping)
        apart = np.nan_to_num(np.abs(self.values["overall"] - self.values["within"])[rows], posinf=0.0)
        flagged = np.array([self.simpson[k] == PARADOX for k in rows], dtype=bool)
        return tuple(self.metric[int(rows[k])] for k in np.lexsort((-apart, ~flagged)))

    @checked()
    def known(self, metric: str, grouping: str) -> BoolArray:
        """(N,), models with metric, target and group."""
        there = np.array([group != OUTSIDE for group in self.groups[grouping]], dtype=bool)
        return there & np.isfinite(self.columns[metric]) & np.isfinite(self.columns[self.target])

    @checked()
    def plot(self, kind: str = "chart", **options: Any) -> Figure:
        """A "chart" of overall against within for all metrics, or a "scatter" of one; see `plot_corpus`."""
        return self._drawn(kind, **options)


def ordered(labels: Sequence[str]) -> tuple[str, ...]:
    """Groups in order, without the missing one: by number where all are numbers, else as they come."""
    found = [label for label in dict.fromkeys(labels) if label != OUTSIDE]
    try:
        return tuple(sorted(found, key=float))
    except ValueError:
        return tuple(found)
