"""How well each metric of a corpus of models follows a target, overall and inside groups: Simpson's paradox found."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from landscape_kernels.arrays import FloatArray, IntArray
from landscape_kernels.rank_statistics import (
    basic_interval,
    conditional_information,
    granulated_kendall,
    holm,
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
from landscape.files.provenance import engine_version
from landscape.results.settings import name_tuple
from landscape.studies.corpus.reading import MODEL, ModelTable, read_table
from landscape.studies.corpus.result import NONE, OUTSIDE, PARADOX, UNDECIDED, Corpus, Inside, ordered

_FEWEST = 3  # models that an order is asked of
_LEAST_DRAWS = 100
_INFORMED = 5_000_000  # pairs of models in the draws for conditional information, and
_INFORMED_DRAWS = 200  # at least so many draws
_BY_SETTINGS = ("granulated", "cmi", "partial")
_WITH_INTERVAL = ("overall", "within", "spearman_overall", "spearman_within", "slope_overall", "slope_within")


def analyse_corpus(
    table: Any,
    target: str = "test_accuracy",
    groups: str | Sequence[str] = "depth",
    metrics: str | Sequence[str] | None = None,
    *,
    hyperparameters: str | Sequence[str] = (),
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Corpus:
    """Kendall's tau-b, Spearman's rho and slopes of the target on each metric, over all models and inside groups.

    `table` has a row for each model: the path of a CSV file, a DataFrame, a mapping of columns, or a result; or it is a
    list of these, joined by their columns "model". `target` and `metrics` (by default every other column of numbers)
    name columns of numbers, `groups` one or several columns, each of which groups the models in its own way. Tau and
    rho within are means over the groups, by their numbers of models; the slope within is the common one of lines with
    an intercept for each group, in units of the target for a unit of the metric. Groups in which metric or target do
    not vary have no tau and are left out, and so is a model whose cell of metric, target or group is missing.

    Intervals are central ones of `level` over `draws` draws of the models with replacement inside their groups; they
    hold the design of the corpus, its groups and their sizes, as fixed. Simpson's paradox: tau overall and tau within
    have opposite signs. The flag is "paradox" or "none" where both intervals lie on one side of 0, and both orders are
    no chance at 1 - `level` by the test of no order (which a bootstrap of a few models cannot tell: tau of two models
    is 1 or -1 in every draw); else it is "undecided". It is of one row; over all rows of the corpus Holm's method
    holds the chance of any false finding: `p_paradox_holm` and its like are adjusted by it.

    With `hyperparameters`, columns that say how the models were trained: granulated tau, conditional mutual
    information, and the partial rho with these held, of the models that have all of them, each with its interval. Of
    conditional information, which is too large in draws as in the corpus, it spans the percentile and the basic one.

    Raises InputError for a table, target, metric or group column that cannot be used, a target that does not vary, and
    groups of one model each.
    Source: Martin and Mahoney, Post-mortem on a deep learning contest: a Simpson's paradox and the complementary roles
    of scale metrics versus shape metrics, arXiv:2106.00734 (2021); Jiang et al., ICLR 2020, section 2.2.
    """
    found = read_table(table)
    settings = name_tuple(hyperparameters) or ()
    names = _metrics(found, target, groupings := name_tuple(groups) or (), name_tuple(metrics), settings)
    _check(found, target, groupings, level, draws)
    shared = _Shared(found, target, settings, level, draws, seed)
    rows = [_row(shared, name, grouping) for grouping in groupings for name in names]
    values = {key: np.array([row.values.get(key, math.nan) for row in rows]) for key in _statistics(settings)}
    for key in ("p_overall", "p_within", "p_paradox"):
        values[f"{key}_holm"] = holm(values[key])
    error = f"central {100 * level:.4g} % of {draws:,} draws of the models with replacement inside their groups"
    return Corpus(
        target=target,
        metric=tuple(row.metric for row in rows),
        grouping=tuple(row.grouping for row in rows),
        models=np.array([row.models for row in rows], dtype=np.int64),
        values=values,
        simpson=tuple(row.simpson for row in rows),
        note=tuple("; ".join(row.notes) for row in rows),
        inside=_inside(rows),
        columns={name: found.numbers[name] for name in (target, *names)},
        groups={name: tuple(OUTSIDE if v is None else v for v in found.labels(name)) for name in groupings},
        attributes={
            "engine_version": engine_version(),
            "table": found.source,
            "hyperparameters": list(settings),
            "level": level,
            "draws": draws,
            "seed": seed,
            "error": error,
        },
    )


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
        found = tuple(name for name in table.order if name in table.numbers and name not in roles and name != MODEL)
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
    if draws < _LEAST_DRAWS:
        raise InputError(f"draws={draws} are too few for the ends of an interval; give {_LEAST_DRAWS} or more")
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
class _Shared:
    """What all rows share."""

    table: ModelTable
    target: str
    settings: tuple[str, ...]
    level: float
    draws: int
    seed: int


@dataclass(frozen=True)
class _Group:
    name: str
    models: int
    kendall: float
    spearman: float
    slope: float


@dataclass(frozen=True)
class _Row:
    metric: str
    grouping: str
    models: int
    values: dict[str, float]
    simpson: str
    notes: list[str]
    inside: list[_Group]


def _row(shared: _Shared, metric: str, grouping: str) -> _Row:
    table = shared.table
    labels, every, goal = table.labels(grouping), table.numbers[metric], table.numbers[shared.target]
    grouped = np.array([label is not None for label in labels])
    known = np.isfinite(every) & np.isfinite(goal) & grouped
    places = np.flatnonzero(known)
    x, y = every[places], goal[places]
    if len(x) < 2:
        nothing = dict.fromkeys(_statistics(shared.settings), math.nan)
        return _Row(metric, grouping, len(x), nothing, UNDECIDED, _notes(len(table) - len(x), x, y, []), [])
    named = [str(labels[k]) for k in places]
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
        _Group(name, len(g), *(float(s(x[g], y[g])[0]) for s in (kendall, spearman, slope)))
        for name, g in zip(order, groups, strict=True)
    ]
    notes = _notes(len(table) - len(x), x, y, inside)
    return _Row(metric, grouping, len(x), values, _simpson(values, shared.level), notes, inside)


def _statistics(settings: Sequence[str]) -> Iterator[str]:
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


def _simpson(values: dict[str, float], level: float) -> str:
    """The flag of a row: the product of the signs of tau overall and within, where both are beyond doubt."""
    product = 1
    for name in ("overall", "within"):
        low, high = values[f"{name}_low"], values[f"{name}_high"]
        sure = values[f"p_{name}"] < 1 - level
        product *= 1 if sure and low > 0 else -1 if sure and high < 0 else 0
    return {1: NONE, -1: PARADOX}.get(product, UNDECIDED)


def _by_settings(
    shared: _Shared, places: IntArray, x: FloatArray, y: FloatArray, counts: FloatArray, code: IntArray
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


def _notes(missing: int, x: FloatArray, y: FloatArray, inside: Sequence[_Group]) -> list[str]:
    """What was left out, and why a value is missing."""
    notes = [f"{missing} model{'s' if missing > 1 else ''} left out: a cell is missing"] if missing else []
    if len(x) < 2 or not np.ptp(x) or not np.ptp(y):
        constant = "metric" if len(x) > 1 and not np.ptp(x) else "target"
        return [*notes, "fewer than two models" if len(x) < 2 else f"the {constant} is constant"]
    alone = [group.name for group in inside if group.models == 1]
    flat = [group.name for group in inside if group.models > 1 and math.isnan(group.kendall)]
    notes += [f"one model in group {', '.join(alone)}"] if alone else []
    notes += [f"no variation in group {', '.join(flat)}"] if flat else []
    return notes


def _inside(rows: Sequence[_Row]) -> Inside:
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
