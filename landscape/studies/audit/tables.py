"""An audit in tables, and as columns."""

from __future__ import annotations

from collections.abc import Iterator

from landscape.results.attributes import what
from landscape.results.kind import Columns
from landscape.results.tables import Cell, Table, number, pairs_table
from landscape.studies.audit.result import ENDS, FRAGILE, ROBUST, UNDECIDED, WORDS, Audit

_ROWS = 200  # shown in a table; files and columns have them all


def audit_columns(audit: Audit) -> Columns:
    """A row for each measure and comparison of two values of a knob: every number with the ends of its interval."""
    return audit.comparisons.columns()


def audit_tables(audit: Audit, title: str) -> Iterator[Table]:
    """What was audited, a line for each measure with its verdict for each knob, then every comparison and order."""
    about, rows = audit.attributes, audit.comparisons
    count = len(audit.seed)
    yield pairs_table(
        title,
        {
            "models": Cell(f"{count}, {int(audit.computed.sum())} measured", count),
            "keys": ", ".join(audit.varied) or "none",
            "equally good": f"test errors within {about.get('within', 'an unknown difference')}",
            "fragile": "a factor of more than 2, or a slope of another sign, between equally good models",
            "sure at": f"{about.get('level', 'unknown')}, over {about.get('draws', 'unknown')} draws of the seeds",
            **({"table": about["table"]} if "table" in about else what(about)),
        },
    )
    if audit.knobs:
        lines = tuple(
            (Cell(measure), *(_verdict(audit, measure, knob) for knob in audit.knobs)) for measure in audit.measures
        )
        yield Table("verdict, and the largest factor, by knob", ("measure", *audit.knobs), lines)
        yield from _compared(audit)
    if audit.orders.measure:
        yield _ordered(audit)
    matched = {knob: _matching(audit, knob) for knob in audit.knobs}
    if matched:
        yield pairs_table("pairs that do equally well", matched)
    if rows.measure:
        yield pairs_table("what they are", WORDS)


def _verdict(audit: Audit, measure: str, knob: str) -> Cell:
    fold = audit.fold(measure, knob)
    return Cell(f"{audit.verdict(measure, knob)}, {number(fold, 3, nan='no pair').text}", fold)


def _matching(audit: Audit, knob: str) -> str:
    """How many pairs of a knob are matched, and the advice that was given."""
    rows = audit.rows_of(audit.measures[0], knob)
    found = audit.comparisons
    said = f"{int(found.matched[rows].sum())} of {int(found.pairs[rows].sum())}"
    advice = dict.fromkeys(f"{found.setting[row] or 'all'}: {found.note[row]}" for row in rows if found.note[row])
    return "; ".join([said, *list(advice)[:3]])


def _compared(audit: Audit) -> Iterator[Table]:
    """The comparisons, numbered, and then what each measure is in each."""
    found = audit.comparisons
    keys = list(zip(found.knob, found.first, found.second, found.setting, strict=True))
    numbers = {key: place for place, key in enumerate(dict.fromkeys(keys), start=1)}
    headings: tuple[str, ...] = ("", "knob", "values", "setting")
    lines: list[tuple[Cell, ...]] = [
        (Cell(f"{place}", place), Cell(knob), Cell(f"{first} to {second}"), Cell(setting.replace(",", ", ")))
        for (knob, first, second, setting), place in numbers.items()
    ]
    yield Table("what is compared", headings, (*lines[:_ROWS], *_more(len(numbers), headings)))
    names = ("ratio", "slope_first", "slope_second")
    words = tuple(name.replace("_", " ") for name in names)
    headings = ("measure", "in", "matched", *words, "probability", "verdict")
    lines = [
        (
            Cell(found.measure[row]),
            Cell(f"{numbers[keys[row]]}", numbers[keys[row]]),
            Cell(f"{found.matched[row]} of {found.pairs[row]}", int(found.matched[row])),
            *(_with_interval(audit, name, row) for name in names),
            number(float(found.values["probability"][row]), 3, nan="-"),
            Cell(found.verdict[row]),
        )
        for row in range(min(len(found.measure), _ROWS))
    ]
    yield Table("value [interval]", headings, (*lines, *_more(len(found.measure), headings)))
    said = {f"{found.measure[row]} in {numbers[keys[row]]}": note for row, note in enumerate(found.note) if note}
    if said:
        yield pairs_table("what is to be said", dict(list(said.items())[:_ROWS]))


def _more(count: int, headings: tuple[str, ...]) -> list[tuple[Cell, ...]]:
    """A last row that tells how many are not shown, where some are not."""
    return [(Cell(f"and {count - _ROWS} more"), *[Cell("")] * (len(headings) - 1))] if count > _ROWS else []


def _with_interval(audit: Audit, name: str, row: int) -> Cell:
    value, low, high = (float(audit.comparisons.values[f"{name}{end}"][row]) for end in ("", *(f"_{e}" for e in ENDS)))
    plain = number(value, 3, nan="-")
    return Cell(f"{plain.text} [{low:.2g}, {high:.2g}]", value) if low < high else plain


def _ordered(audit: Audit) -> Table:
    found = audit.orders
    lines: list[tuple[Cell, ...]] = []
    for row in range(min(len(found.measure), _ROWS)):
        value, low, high = (float(found.values[name][row]) for name in ("order", "order_low", "order_high"))
        plain = number(value, 3, nan="-")
        lines.append(
            (
                Cell(found.measure[row]),
                Cell(found.key[row]),
                Cell(found.setting[row]),
                Cell(f"{found.apart[row]} of {found.pairs[row]}", int(found.apart[row])),
                Cell(f"{plain.text} [{low:.2g}, {high:.2g}]", value) if low < high else plain,
                Cell(found.verdict[row]),
                Cell(found.note[row]),
            )
        )
    headings = ("measure", "data", "setting", "apart", "order", "verdict", "note")
    return Table(
        "order over the data against that of the test error", headings, (*lines, *_more(len(found.measure), headings))
    )


def states_text(audit: Audit) -> str:
    """How many comparisons have each verdict, in words."""
    found = audit.comparisons.verdict
    return ", ".join(f"{found.count(state)} {state}" for state in (FRAGILE, ROBUST, UNDECIDED) if state in found)
