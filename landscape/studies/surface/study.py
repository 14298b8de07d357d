"""The rows of surfaces."""

from __future__ import annotations

import numpy as np

from landscape.planes.grid import Grid
from landscape.precise.task import point_of
from landscape.results.kind import Kind, Pictures, Views
from landscape.results.study import DATA, PLANE, Input, Study, of_rows
from landscape.run.task import Description
from landscape.studies.surface.measure import measure_surface, surface_from_rows
from landscape.studies.surface.result import Surface
from landscape.studies.surface.schema import read_surface, surface_group
from landscape.studies.surface.settings import SurfaceSettings
from landscape.studies.surface.tables import surface_columns, surface_glance, surface_tables
from landscape.studies.surface.trial import surface_trial


def _pictures() -> Pictures[Surface]:
    from landscape.studies.surface.pictures import PICTURES

    return PICTURES


def _views() -> Views[Surface]:
    from landscape.studies.surface.views import surface_views

    return surface_views


KIND = Kind(
    "surface",
    "surface",
    Surface,
    surface_group,
    read_surface,
    surface_tables,
    surface_columns,
    _pictures,
    _views,
    surface_glance,
    flat=False,
)


def place(description: Description, item: int) -> dict[str, float | str]:
    """The coordinates of a grid point; nothing for the models on the plane, which come behind the grid.

    Nor for later rounds of a surface measured to a stated error, whose items follow from the rows.
    """
    grid = Grid({name: np.array(values) for name, values in description.identity["axes"].items()})
    if "precision_asked" in description.identity:
        point = point_of(description, item)
        item = grid.size if point is None else point
    if item >= grid.size:
        return {}
    return dict(zip(grid.axes, grid.coordinates(item), strict=True))


STUDY = Study(
    "surface",
    KIND,
    measure_surface,
    ("surface",),
    of_rows(surface_from_rows),
    settings=SurfaceSettings,
    inputs={"plane": PLANE, "statistics": DATA, "known": Input("surface")},
    trial=surface_trial,
    place=place,
    unit="points",
    minimum=True,
)
