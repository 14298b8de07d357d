"""The rows of paths."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any

from landscape.precise.task import PreciseTask
from landscape.precise.trial import precise_trial
from landscape.results.kind import Kind, Pictures, Views
from landscape.results.study import DATA, Input, Study, of_rows
from landscape.results.trial import Trial, timed
from landscape.run.comm import world
from landscape.run.together import agree
from landscape.studies.path.measure import measure_path, path_from_rows, path_task
from landscape.studies.path.result import Path
from landscape.studies.path.schema import path_group, read_path
from landscape.studies.path.settings import PathSettings
from landscape.studies.path.tables import path_columns, path_glance, path_tables


def _pictures() -> Pictures[Path]:
    from landscape.studies.path.pictures import PICTURES

    return PICTURES


def _views() -> Views[Path]:
    from landscape.studies.path.views import path_views

    return path_views


def _trial(objective: Any, arguments: Mapping[str, Any], out: FilePath, ranks_per_item: int) -> Trial:
    """Two places; to a stated error the first block of samples at some."""
    task = agree(world(), lambda: path_task(objective, **arguments))
    if isinstance(task, PreciseTask):
        return precise_trial(task, out, ranks_per_item)
    return timed(task, out, ranks_per_item, "places")


KIND = Kind(
    "path",
    "path between models",
    Path,
    path_group,
    read_path,
    path_tables,
    path_columns,
    _pictures,
    _views,
    path_glance,
)
STUDY = Study(
    "path",
    KIND,
    measure_path,
    ("path",),
    of_rows(path_from_rows),
    settings=PathSettings,
    inputs={"curve": Input("curve", required=True), "statistics": DATA, "test": DATA},
    task=path_task,
    trial=_trial,
    unit="places",
)
