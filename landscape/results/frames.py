"""Results as pandas tables: the one gate to pandas."""

from __future__ import annotations

from typing import TYPE_CHECKING

from landscape.results.kind import Columns

if TYPE_CHECKING:
    import pandas


def frame(columns: Columns) -> pandas.DataFrame:
    """A DataFrame of columns, a row for each entry."""
    import pandas

    return pandas.DataFrame({name: list(c) if isinstance(c, tuple) else c for name, c in columns.items()})
