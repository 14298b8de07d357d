"""The rows of forgetting."""

from __future__ import annotations

from landscape.results.kind import Kind, Pictures, Views
from landscape.results.study import DATA, Input, Study, of_rows
from landscape.run.task import Description
from landscape.studies.forgetting.measure import forgetting_from_rows, measure_forgetting
from landscape.studies.forgetting.result import Forgetting
from landscape.studies.forgetting.schema import forgetting_group, read_forgetting
from landscape.studies.forgetting.settings import ForgettingSettings
from landscape.studies.forgetting.tables import forgetting_columns, forgetting_glance, forgetting_tables
from landscape.studies.forgetting.trial import forgetting_trial


def _pictures() -> Pictures[Forgetting]:
    from landscape.studies.forgetting.pictures import PICTURES

    return PICTURES


def _views() -> Views[Forgetting]:
    from landscape.studies.forgetting.views import forgetting_views

    return forgetting_views


def place(description: Description, item: int) -> dict[str, float | str]:
    """The run, and the task whose loss is looked at."""
    about, one = description.about, description.identity["items"][item]
    keys, seed = about["runs"][one["run"]]
    return {**keys, "seed": seed, about["sequence"]: about["tasks"][one["task"]]}


KIND = Kind(
    "forgetting",
    "forgetting",
    Forgetting,
    forgetting_group,
    read_forgetting,
    forgetting_tables,
    forgetting_columns,
    _pictures,
    _views,
    forgetting_glance,
    unit="pairs",
)
STUDY = Study(
    "forgetting",
    KIND,
    measure_forgetting,
    ("forgetting",),
    of_rows(forgetting_from_rows),
    settings=ForgettingSettings,
    inputs={"models": Input("trained", required=True), "test": DATA},
    trial=forgetting_trial,
    place=place,
    subject="models",
    unit="tasks of runs",
)
