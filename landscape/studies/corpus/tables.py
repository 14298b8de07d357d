"""An analysed corpus in tables, and as columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from landscape.results.kind import Columns
from landscape.results.tables import Cell, Table, number, pairs_table
from landscape.studies.corpus.result import NONE, PARADOX, UNDECIDED, WORDS, Corpus, ordered

_ROWS = 200  # shown in a table; files and columns have them all
_MAIN = ("overall", "within", "slope_overall", "slope_within")
_BY_SETTINGS = ("granulated", "cmi", "partial")


def corpus_columns(corpus: Corpus) -> Columns:
    """A row for each metric and grouping: the flag, every statistic with the ends of its interval, and notes."""
    first: dict[str, Any] = {
        "metric": list(corpus.metric),
        "groups": list(corpus.grouping),
        "models": corpus.models,
        "simpson": list(corpus.simpson),
    }
    return {**first, **corpus.values, "note": list(corpus.note)}


def corpus_tables(corpus: Corpus, title: str) -> Iterator[Table]:
    """What was analysed, a line for each metric and grouping, tau inside each group, and what the numbers are."""
    about = corpus.attributes
    count = len(next(iter(corpus.columns.values()), ()))
    states = {state: corpus.simpson.count(state) for state in (PARADOX, NONE, UNDECIDED)}
    held = sum(float(p) < 1 - _level(corpus) for p in corpus.values.get("p_paradox_holm", ()))
    groups = {f"groups by {name}": ", ".join(ordered(labels)) for name, labels in corpus.groups.items()}
    yield pairs_table(
        title,
        {
            "table": about.get("table", "unknown"),
            "target": corpus.target,
            "models": count,
            **groups,
            "Simpson's paradox": ", ".join(f"{n} {state}" for state, n in states.items() if n) or "no metrics",
            "paradoxes that hold among all rows": f"{held}, by Holm's method",
            "intervals": about.get("error", "unknown"),
        },
    )
    several = len(corpus.groups) > 1
    extra = tuple(name for name in _BY_SETTINGS if name in corpus.values)
    headings = (
        "metric",
        *(("groups",) if several else ()),
        "models",
        *(name.replace("_", " ") for name in (*_MAIN, *extra)),
        "simpson",
        "note",
    )
    rows = [_row(corpus, k, several, extra) for k in range(min(len(corpus.metric), _ROWS))]
    if len(corpus.metric) > _ROWS:
        rows.append((Cell(f"and {len(corpus.metric) - _ROWS} more"), *[Cell("")] * (len(headings) - 1)))
    yield Table("value [interval]", headings, tuple(rows))
    yield _inside(corpus, several)
    yield pairs_table("what they are", {name: WORDS[name] for name in corpus.values if name in WORDS})


def _level(corpus: Corpus) -> float:
    return float(corpus.attributes.get("level", 0.95))


def _row(corpus: Corpus, k: int, several: bool, extra: tuple[str, ...]) -> tuple[Cell, ...]:
    first = (Cell(corpus.metric[k]), *((Cell(corpus.grouping[k]),) if several else ()), number(int(corpus.models[k])))
    cells = (_with_interval(corpus, name, k) for name in (*_MAIN, *extra))
    return (*first, *cells, Cell(corpus.simpson[k]), Cell(corpus.note[k]))


def _with_interval(corpus: Corpus, name: str, k: int) -> Cell:
    value = float(corpus.values[name][k])
    plain = number(value, 3, nan="-")
    low, high = (
        float(corpus.values[f"{name}_{end}"][k]) if f"{name}_{end}" in corpus.values else value for end in _ENDS
    )
    return Cell(f"{plain.text} [{low:.2g}, {high:.2g}]", value) if low < high else plain


_ENDS = ("low", "high")


def _inside(corpus: Corpus, several: bool) -> Table:
    inside = corpus.inside
    headings = ("metric", *(("groups",) if several else ()), "group", "models", "tau", "rho", "slope")
    rows = []
    for k in range(min(len(inside.metric), _ROWS)):
        names = (inside.metric[k], *((inside.grouping[k],) if several else ()), inside.group[k])
        numbers = (number(float(v[k]), 3, nan="-") for v in (inside.kendall, inside.spearman, inside.slope))
        rows.append((*map(Cell, names), number(int(inside.models[k])), *numbers))
    if len(inside.metric) > _ROWS:
        rows.append((Cell(f"and {len(inside.metric) - _ROWS} more"), *[Cell("")] * (len(headings) - 1)))
    return Table("inside each group", headings, tuple(rows))
