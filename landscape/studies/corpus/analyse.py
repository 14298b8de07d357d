"""How well each metric of a corpus of models follows a target, overall and inside groups: Simpson's paradox found."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from landscape_kernels.arrays import FloatArray, IntArray
from landscape_kernels.rank_statistics import (
    basic_interval,
    conditional_information,
    granulated_kendall,
    kendall,
    kendall_variance,
    members,
    partial_spearman,
    percentile_interval,
    redrawn,
    slope,
    spearman,
    weighted_mean,
)

from landscape.errors import InputError
from landscape.studies.corpus.reading import MODEL, ModelTable, read_table
from landscape.studies.corpus.result import NONE, PARADOX, UNDECIDED, Inside, ordered
from landscape.studies.corpus.settings import LEAST_DRAWS, CorpusSettings

_FEWEST = 3  # models that an order is asked of
_INFORMED = 5_000_000  # pairs of models in the draws for conditional information, and
_INFORMED_DRAWS = 200  # at least so many draws
_BY_SETTINGS = ("granulated", "cmi", "partial")
_WITH_INTERVAL = ("overall", "within", "spearman_overall", "spearman_within", "slope_overall", "slope_within")


@dataclass(frozen=True)
class Asked:
    """What is asked of a table, checked: every row is a metric and a grouping."""

    table: ModelTable
    target: str
    rows: tuple[tuple[str, str], ...]  # (metric, grouping)
    settings: tuple[str, ...]  # hyper-parameters
    level: float
    draws: int
    seed: int

    @classmethod
    def of(cls, table: Any, settings: CorpusSettings) -> Asked:
        """Raises InputError for a table, columns or settings that cannot be used."""
        found, by = read_table(table), settings.hyperparameters
        names = _metrics(found, settings.target, settings.groups, settings.metrics, by)
        _check(found, settings.target, settings.groups, settings.level, settings.draws)
        rows = tuple((name, grouping) for grouping in settings.groups for name in names)
        return cls(found, settings.target, rows, by, settings.level, settings.draws, settings.seed)

    def columns(self) -> tuple[str, ...]:
        """The columns that the result depends on."""
        return tuple(dict.fromkeys([self.target, *(name for row in self.rows for name in row), *self.settings]))


def _metrics(
    table: ModelTable, target: str, groups: Sequence[str], asked: Sequence[str] | None, settings: Sequence[str]
) -> tuple[str, ...]:
    """The metrics to look at, by default every column of numbers with another role in none."""
    table.require("target", target, numeric=True)
    for role, names in (("group", groups), ("hyper-parameter", settings)):
        for name in names:
            table.require(role, name)
            if name == target:
                raise InputError(f"{role} {name!r} is the target itself; name another column")
    if asked is None:
        roles = {target, *groups, *settings}
        roles |= {MODEL, *table.of_models}
        found = tuple(name for name in table.order if name in table.numbers and name not in roles)
        if not found:
            raise InputError(f"{table.source} has no column of numbers beside target and groups; add one for a metric")
        return found
    for name in asked:
        table.require("metric", name, numeric=True)
        if name == target or name in groups:
            raise InputError(f"metric {name!r} is the target or says the groups; name another column")
    if not asked:
        raise InputError("metrics is empty; name one or more, or leave it out for all columns of numbers")
    return tuple(dict.fromkeys(asked))


def _check(table: ModelTable, target: str, groups: Sequence[str], level: float, draws: int) -> None:
    if not groups or len(set(groups)) < len(groups):
        raise InputError(f"groups={list(groups)}: name one column or several, each once")
    if not 0 < level < 1:
        raise InputError(f"level={level} is not between 0 and 1; 0.95 asks for intervals of 95 %")
    if draws < LEAST_DRAWS:
        raise InputError(f"draws={draws} are too few for the ends of an interval; give {LEAST_DRAWS} or more")
    goal = table.numbers[target]
    known = np.isfinite(goal)
    if known.sum() < _FEWEST:
        raise InputError(
            f"target {target!r} is known of {int(known.sum())} of {len(table)} models of {table.source}; an order "
            f"needs {_FEWEST} or more"
        )
    if np.ptp(goal[known]) == 0:
        raise InputError(f"target {target!r} is {goal[known][0]:g} of every model of {table.source}: there is no order")
    for name in groups:
        labels = [label for label, there in zip(table.labels(name), known, strict=True) if there and label is not None]
        if len(set(labels)) == len(labels):
            raise InputError(
                f"group {name!r} has {len(labels)} values of {len(labels)} models, so that no group holds two; name a "
                "column that several models share, or put ranges of it into a column of its own"
            )


@dataclass(frozen=True)
class Group:
    """One metric in one group."""

    name: str
    models: int
    kendall: float
    spearman: float
    slope: float


@dataclass(frozen=True)
class Analysed:
    """One metric by one grouping."""

    metric: str
    grouping: str
    values: Mapping[str, float]
    inside: list[Group]


def analysed(shared: Asked, metric: str, grouping: str) -> Analysed:
    """Every statistic of a metric and a grouping."""
    places, named = known_models(shared, metric, grouping)
    x, y = (shared.table.numbers[name][places] for name in (metric, shared.target))
    if len(x) < 2:
        nothing = dict.fromkeys(statistics(shared.settings), math.nan)
        return Analysed(metric, grouping, nothing, [])
    order = {name: k for k, name in enumerate(ordered(named))}
    code = np.array([order[name] for name in named], dtype=np.int64)
    groups = sorted(members(named), key=lambda group: int(code[group[0]]))
    counts = np.empty((shared.draws, len(x)))
    for group, part in zip(groups, redrawn([len(g) for g in groups], shared.draws, shared.seed), strict=True):
        counts[:, group] = part
    values, drawn = _correlations(x, y, groups, counts, shared.level)
    values |= _tests(x, y, groups, values)
    values["opposed"] = float(np.mean(drawn["overall"] * drawn["within"] < 0))
    values["p_paradox"] = _p_paradox(values, drawn)
    if shared.settings:
        values |= _by_settings(shared, places, x, y, counts, code)
    inside = [
        Group(name, len(g), *(float(s(x[g], y[g])[0]) for s in (kendall, spearman, slope)))
        for name, g in zip(order, groups, strict=True)
    ]
    return Analysed(metric, grouping, values, inside)


def known_models(shared: Asked, metric: str, grouping: str) -> tuple[IntArray, list[str]]:
    """Places of the models with metric, target and group known, and the groups they are in."""
    labels, every, goal = (
        shared.table.labels(grouping),
        shared.table.numbers[metric],
        shared.table.numbers[shared.target],
    )
    grouped = np.array([label is not None for label in labels])
    places = np.flatnonzero(np.isfinite(every) & np.isfinite(goal) & grouped)
    return places, [str(labels[k]) for k in places]


def statistics(settings: Sequence[str]) -> Iterator[str]:
    """Names of all values of a row."""
    for name in (*_WITH_INTERVAL, *(_BY_SETTINGS if settings else ())):
        yield from (name, f"{name}_low", f"{name}_high")
    yield from ("p_overall", "p_within", "p_paradox", "opposed")


Drawn = dict[str, FloatArray]


def _correlations(
    x: FloatArray, y: FloatArray, groups: Sequence[IntArray], counts: FloatArray, level: float
) -> tuple[dict[str, float], Drawn]:
    """Each statistic of the models as they are, with its interval; and its values over the draws."""
    sizes = np.array([float(len(group)) for group in groups])

    def within(statistic: Callable[..., FloatArray], drawn: FloatArray | None) -> FloatArray:
        parts = [statistic(x[g], y[g], None if drawn is None else drawn[:, g]) for g in groups]
        return weighted_mean(np.stack(parts, axis=1), sizes)

    values: dict[str, float] = {}
    found: Drawn = {}
    for name in _WITH_INTERVAL:
        inside = name.endswith("within")
        for drawn in (None, counts):
            if name.startswith("slope"):
                result = slope(x, y, drawn, groups if inside else ())
            else:
                statistic = spearman if name.startswith("spearman") else kendall
                result = within(statistic, drawn) if inside else statistic(x, y, drawn, groups)
            if drawn is None:
                values[name] = float(result[0])
            else:
                found[name] = result
        values[f"{name}_low"], values[f"{name}_high"] = percentile_interval(found[name], level)
        if math.isnan(values[name]):
            values[f"{name}_low"] = values[f"{name}_high"] = math.nan
    return values, found


def _tests(x: FloatArray, y: FloatArray, groups: Sequence[IntArray], values: dict[str, float]) -> dict[str, float]:
    """Two-sided p-values of no order, overall and inside the groups."""
    variances = [(len(g), kendall_variance(x[g], y[g])) for g in groups if len(g) > 1]
    vary = [(size, variance) for size, variance in variances if math.isfinite(variance)]
    whole = sum(size for size, _ in vary)
    inside = sum(size**2 * variance for size, variance in vary) / whole**2 if whole else math.nan
    return {"p_overall": _p(values["overall"], kendall_variance(x, y)), "p_within": _p(values["within"], inside)}


def _p(tau: float, variance: float) -> float:
    return math.erfc(abs(tau) / math.sqrt(2 * variance)) if variance > 0 else math.nan


def _p_paradox(values: dict[str, float], drawn: Drawn) -> float:
    """The larger of the one-sided p-values that tau overall and tau within do not have the signs they have.

    Of each the larger of the bootstrap's, (1 + draws of another sign) / (1 + draws), and the test's of no order.
    """
    signs = [float(np.sign(values[name])) for name in ("overall", "within")]
    if not all(map(math.isfinite, signs)):
        return math.nan
    if signs[0] * signs[1] >= 0:
        return 1.0
    found = [values["p_overall"] / 2, values["p_within"] / 2]
    for sign, name in zip(signs, ("overall", "within"), strict=True):
        known = drawn[name][np.isfinite(drawn[name])]
        found.append((1 + int((known * sign <= 0).sum())) / (1 + known.size))
    return max(found)


def simpson_flag(values: Mapping[str, float], level: float) -> str:
    """The flag of a row: the product of the signs of tau overall and within, where both are beyond doubt."""
    product = 1
    for name in ("overall", "within"):
        low, high = values[f"{name}_low"], values[f"{name}_high"]
        sure = values[f"p_{name}"] < 1 - level
        product *= 1 if sure and low > 0 else -1 if sure and high < 0 else 0
    return {1: NONE, -1: PARADOX}.get(product, UNDECIDED)


def _by_settings(
    shared: Asked, places: IntArray, x: FloatArray, y: FloatArray, counts: FloatArray, code: IntArray
) -> dict[str, float]:
    """What rests on hyper-parameters, of the models that have all of them."""
    labels = [[shared.table.labels(name)[k] for k in places] for name in shared.settings]
    whole = np.array([all(part[k] is not None for part in labels) for k in range(len(x))], dtype=bool)
    kept = np.flatnonzero(whole)
    x, y, places = x[kept], y[kept], places[kept]
    settings = [[part[k] for k in kept] for part in labels]
    controls = [c for name in shared.settings for c in _controls(shared.table, name, places)]
    if not len(x):
        return {}
    counts = counts[:, kept]
    inside = members(code[kept].tolist())
    fewer = counts[: max(_INFORMED_DRAWS, _INFORMED // len(x) ** 2)]
    found: dict[str, float] = {}
    for name, value, drawn in (
        ("granulated", granulated_kendall(x, y, settings), granulated_kendall(x, y, settings, counts)),
        ("cmi", conditional_information(x, y, settings), conditional_information(x, y, settings, fewer)),
        ("partial", partial_spearman(x, y, controls), partial_spearman(x, y, controls, counts, inside)),
    ):
        found[name] = float(value[0])
        low, high = percentile_interval(drawn, shared.level)
        if name == "cmi":  # too large in draws as in the corpus: the interval of the differences, too
            ends = basic_interval(found[name], drawn, shared.level)
            low, high = max(0.0, min(low, ends[0])), min(1.0, max(high, ends[1]))
        known = math.isfinite(found[name])
        found |= {f"{name}_low": low if known else math.nan, f"{name}_high": high if known else math.nan}
    return found


def _controls(table: ModelTable, name: str, places: IntArray) -> Iterator[FloatArray]:
    """A hyper-parameter as columns of numbers: of texts one for each value but the first."""
    if name in table.numbers:
        yield table.numbers[name][places]
        return
    labels = [table.texts[name][k] for k in places]
    for value in list(dict.fromkeys(labels))[1:]:
        yield np.array([float(label == value) for label in labels])


def notes_of(shared: Asked, row: Analysed) -> list[str]:
    """What was left out, and why a value is missing."""
    places, _ = known_models(shared, row.metric, row.grouping)
    x, y = (shared.table.numbers[name][places] for name in (row.metric, shared.target))
    missing, inside = len(shared.table) - len(x), row.inside
    notes = [f"{missing} model{'s' if missing > 1 else ''} left out: a cell is missing"] if missing else []
    if len(x) < 2 or not np.ptp(x) or not np.ptp(y):
        constant = "metric" if len(x) > 1 and not np.ptp(x) else "target"
        return [*notes, "fewer than two models" if len(x) < 2 else f"the {constant} is constant"]
    alone = [group.name for group in inside if group.models == 1]
    flat = [group.name for group in inside if group.models > 1 and math.isnan(group.kendall)]
    notes += [f"one model in group {', '.join(alone)}"] if alone else []
    notes += [f"no variation in group {', '.join(flat)}"] if flat else []
    return notes


def inside_of(rows: Sequence[Analysed]) -> Inside:
    """The groups of all rows."""
    found = [(row.metric, row.grouping, group) for row in rows for group in row.inside]
    return Inside(
        metric=tuple(metric for metric, _, _ in found),
        grouping=tuple(grouping for _, grouping, _ in found),
        group=tuple(group.name for _, _, group in found),
        models=np.array([group.models for *_, group in found], dtype=np.int64),
        kendall=np.array([group.kendall for *_, group in found]),
        spearman=np.array([group.spearman for *_, group in found]),
        slope=np.array([group.slope for *_, group in found]),
    )
