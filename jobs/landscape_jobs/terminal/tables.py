"""Tables drawn for a terminal."""

from __future__ import annotations

from rich import table as rich_table
from rich.console import Group
from rich.text import Text

from landscape.results.tables import Table

_WIDEST = 12  # columns side by side; of more, a terminal shows next to nothing
_ABREAST = 6  # of what takes the place of a wider table, beside the first


def as_rich(table: Table) -> Group:
    """A table as a terminal shows it; names and what they stand for go without headings.

    A table of very many columns is several below each other, each with the first of its columns.
    """
    count = len(table.columns)
    step = count if count <= _WIDEST else _ABREAST
    parts = [(0, *range(k, min(k + step, count))) for k in range(1, max(count, 2), step)]
    return Group(*(_drawn(table, part) for part in parts))


def _drawn(table: Table, columns: tuple[int, ...]) -> rich_table.Table:
    drawn = rich_table.Table(title=Text(table.title, style="bold"), title_justify="left", show_header=not table.pairs)
    for k in columns:
        drawn.add_column(Text(table.columns[k]), overflow="fold")
    for row in table.rows:
        drawn.add_row(*(Text(row[k].text) for k in columns))
    return drawn
