"""The row of measures, which studies measure that each have rows of their own."""

from __future__ import annotations

from landscape.results.kind import Kind, Pictures, Views
from landscape.studies.measures.result import Measures
from landscape.studies.measures.schema import measures_group, read_measures
from landscape.studies.measures.tables import measures_columns, measures_glance, measures_tables


def _pictures() -> Pictures[Measures]:
    from landscape.studies.measures.pictures import PICTURES

    return PICTURES


def _views() -> Views[Measures]:
    from landscape.studies.measures.views import measures_views

    return measures_views


KIND = Kind(
    "measures",
    "table of measures",
    Measures,
    measures_group,
    read_measures,
    measures_tables,
    measures_columns,
    _pictures,
    _views,
    measures_glance,
    unit="rows",
    flat=False,
)
