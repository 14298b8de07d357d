"""The rows of generalisation measures."""

from __future__ import annotations

from landscape.results.kind import Kind, Pictures, Views
from landscape.results.study import Input, Study, of_rows
from landscape.run.task import Description
from landscape.studies.complexity.measure import complexity_from_rows, complexity_task, measure_complexity
from landscape.studies.complexity.result import Complexity
from landscape.studies.complexity.schema import complexity_group, read_complexity
from landscape.studies.complexity.settings import ComplexitySettings
from landscape.studies.complexity.tables import complexity_columns, complexity_glance, complexity_tables


def _pictures() -> Pictures[Complexity]:
    from landscape.studies.complexity.pictures import PICTURES

    return PICTURES


def _views() -> Views[Complexity]:
    from landscape.studies.complexity.views import complexity_views

    return complexity_views


def place(description: Description, item: int) -> dict[str, float | str]:
    """The measures of an item."""
    return {"measures": " ".join(name for name, _ in description.identity["measures"][item][1])}


KIND = Kind(
    "complexity",
    "measures of complexity",
    Complexity,
    complexity_group,
    read_complexity,
    complexity_tables,
    complexity_columns,
    _pictures,
    _views,
    complexity_glance,
    unit="measures",
)
STUDY = Study(
    "complexity",
    KIND,
    measure_complexity,
    ("complexity",),
    of_rows(complexity_from_rows),
    settings=ComplexitySettings,
    inputs={"initial": Input("checkpoint")},
    task=complexity_task,
    place=place,
    unit="groups of measures",
)
