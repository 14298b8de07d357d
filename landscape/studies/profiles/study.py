"""The rows of profiles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from landscape.precise.task import PreciseTask, point_of
from landscape.precise.trial import precise_trial
from landscape.results.kind import Kind, Pictures, Views
from landscape.results.study import DATA, Study, of_rows
from landscape.results.trial import Trial, timed
from landscape.run.comm import world
from landscape.run.task import Description, Task
from landscape.run.together import agree
from landscape.studies.profiles.measure import measure_profiles, profiles_from_rows, profiles_task
from landscape.studies.profiles.result import Profiles
from landscape.studies.profiles.schema import profiles_group, read_profiles
from landscape.studies.profiles.settings import ProfilesSettings
from landscape.studies.profiles.tables import profiles_columns, profiles_glance, profiles_tables


def _pictures() -> Pictures[Profiles]:
    from landscape.studies.profiles.pictures import PICTURES

    return PICTURES


def _views() -> Views[Profiles]:
    from landscape.studies.profiles.views import profiles_views

    return profiles_views


def place(description: Description, item: int) -> dict[str, float | str]:
    """The direction and the place on it; nothing for later rounds of profiles measured to a stated error."""
    x = description.identity["x"]
    point = point_of(description, item) if "precision_asked" in description.identity else item
    if point is None or point >= int(description.identity["n"]) * len(x):
        return {}
    number, at = divmod(point, len(x))
    return {"direction": number, "x": x[at]}


def _task(objective: Any, statistics: Any = None, **asked: Any) -> Task:
    return profiles_task(objective, ProfilesSettings(**asked), statistics)


def _trial(objective: Any, arguments: Mapping[str, Any], out: Path, ranks_per_item: int) -> Trial:
    """Two points; to a stated error the first block of samples at some points of a few lines."""
    task = agree(world(), lambda: _task(objective, **arguments))
    if isinstance(task, PreciseTask):
        return precise_trial(task, out, ranks_per_item)
    return timed(task, out, ranks_per_item, "points")


KIND = Kind(
    "profiles",
    "profiles",
    Profiles,
    profiles_group,
    read_profiles,
    profiles_tables,
    profiles_columns,
    _pictures,
    _views,
    profiles_glance,
)
STUDY = Study(
    "profiles",
    KIND,
    measure_profiles,
    ("profiles",),
    of_rows(profiles_from_rows),
    ProfilesSettings,
    {"statistics": DATA},
    task=_task,
    trial=_trial,
    place=place,
    unit="points",
)
