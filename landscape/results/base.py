"""Result: what every result can do, by its kind."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from landscape.arguments import checked
from landscape.files import hdf5
from landscape.files.fields import flat
from landscape.files.schema import file_tree, to_xarray
from landscape.results.kind import kind_of

if TYPE_CHECKING:
    import pandas
    import xarray
    from matplotlib.figure import Figure


class Result:
    """A measurement's outcome: it saves itself, draws itself, and becomes arrays and tables."""

    attributes: Mapping[str, Any]  # where it comes from, and what it is of

    @checked()
    def save(self, path: str | Path) -> Path:
        """Write the result as one HDF5 file (netCDF-4), whole or not at all; returns the path.

        Raises StoreError where the file cannot be written.
        """
        kind = kind_of(self)
        return hdf5.write(Path(path), file_tree({kind.name: (kind.group(self), self.attributes)}))

    def to_xarray(self) -> xarray.Dataset:
        """The result as an xarray Dataset: the variables of its group in a file, with all attributes."""
        kind = kind_of(self)
        group = kind.group(self)
        variables = flat(group) if kind.flat else group.variables
        return to_xarray(variables, {**self.attributes, **group.attributes})

    def to_pandas(self) -> pandas.DataFrame:
        """The result as a DataFrame: a row for each thing measured, errors beside values."""
        from landscape.results.frames import frame

        return frame(kind_of(self).columns(self))

    def _drawn(self, *given: Any, **options: Any) -> Figure:
        return kind_of(self).pictures().plot(self, *given, **options)

    def _repr_html_(self) -> str:
        from landscape.results.html import card_html
        from landscape.results.summary import result_tables

        kind = kind_of(self)
        tables = result_tables(self, "what was measured")
        return card_html(repr(self), tables, lambda: kind.pictures().card(self))
