"""Tables drawn for a terminal."""

from __future__ import annotations

from rich import table as rich_table
from rich.text import Text

from landscape.results.tables import Table


def as_rich(table: Table) -> rich_table.Table:
    """A table as a terminal shows it; names and what they stand for go without headings."""
    drawn = rich_table.Table(title=Text(table.title, style="bold"), title_justify="left", show_header=not table.pairs)
    for heading in table.columns:
        drawn.add_column(Text(heading), overflow="fold")
    for row in table.rows:
        drawn.add_row(*(Text(cell.text) for cell in row))
    return drawn
