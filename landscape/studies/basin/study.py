"""The rows of basins."""

from __future__ import annotations

from landscape.results.kind import Kind, Pictures, Views
from landscape.results.study import Study, of_rows
from landscape.run.task import Description
from landscape.studies.basin.measure import basin_from_rows, basin_task, measure_basin
from landscape.studies.basin.result import Basin
from landscape.studies.basin.schema import basin_group, read_basin
from landscape.studies.basin.settings import BasinSettings
from landscape.studies.basin.tables import basin_columns, basin_glance, basin_tables


def _pictures() -> Pictures[Basin]:
    from landscape.studies.basin.pictures import PICTURES

    return PICTURES


def _views() -> Views[Basin]:
    from landscape.studies.basin.views import basin_views

    return basin_views


def place(description: Description, item: int) -> dict[str, float | str]:
    """The first direction of the block."""
    return {"direction": item * int(description.identity["width"])}


KIND = Kind(
    "basin",
    "basin",
    Basin,
    basin_group,
    read_basin,
    basin_tables,
    basin_columns,
    _pictures,
    _views,
    basin_glance,
    unit="directions",
)
STUDY = Study(
    "basin",
    KIND,
    measure_basin,
    ("basin",),
    of_rows(basin_from_rows),
    settings=BasinSettings,
    task=lambda objective, **asked: basin_task(objective, BasinSettings(**asked)),
    place=place,
    unit="blocks of directions",
)
