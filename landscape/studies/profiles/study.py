"""The rows of profiles."""

from __future__ import annotations

from landscape.results.kind import Kind, Pictures, Views
from landscape.results.study import DATA, Study, of_rows
from landscape.run.task import Description
from landscape.studies.profiles.measure import ProfilesTask, measure_profiles, profiles_from_rows
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
    """The direction and the place on it."""
    x = description.identity["x"]
    number, at = divmod(item, len(x))
    return {"direction": number, "x": x[at]} if number < int(description.identity["n"]) else {}


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
    task=lambda objective, statistics=None, **asked: ProfilesTask(objective, ProfilesSettings(**asked), statistics),
    place=place,
    unit="points",
)
