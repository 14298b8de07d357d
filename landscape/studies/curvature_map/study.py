"""The row of curvature maps, whose results are surfaces."""

from __future__ import annotations

import numpy as np

from landscape.results.study import PLANE, Study, of_rows
from landscape.run.task import Description
from landscape.studies.curvature_map.measure import map_from_rows, map_task, measure_curvature_map
from landscape.studies.curvature_map.settings import CurvatureMapSettings
from landscape.studies.curvature_map.trial import map_trial
from landscape.studies.surface.study import KIND


def place(description: Description, item: int) -> dict[str, float | str]:
    """The line along x."""
    _, *further = description.identity["axes"].items()
    sizes = [len(values) for _, values in reversed(further)]
    places = reversed(np.unravel_index(item, sizes)) if sizes else ()
    return {name: values[int(at)] for (name, values), at in zip(further, places, strict=True)}


STUDY = Study(
    "curvature_map",
    KIND,
    measure_curvature_map,
    ("curvature_map",),
    of_rows(map_from_rows),
    settings=CurvatureMapSettings,
    inputs={"plane": PLANE},
    task=lambda objective, plane, **asked: map_task(objective, plane, CurvatureMapSettings(**asked)),
    trial=map_trial,
    place=place,
    unit="lines",
)
