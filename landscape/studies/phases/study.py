"""The rows of phases."""

from __future__ import annotations

from landscape.results.kind import Kind, Pictures, Views
from landscape.results.study import DATA, Input, Study
from landscape.run.task import Description
from landscape.studies.phases.measure import STAGES, measure_phases, phases_from_stages
from landscape.studies.phases.result import Phases
from landscape.studies.phases.schema import phases_group, read_phases
from landscape.studies.phases.settings import PhasesSettings
from landscape.studies.phases.tables import phases_columns, phases_glance, phases_tables
from landscape.studies.phases.trial import phases_trial


def _pictures() -> Pictures[Phases]:
    from landscape.studies.phases.pictures import PICTURES

    return PICTURES


def _views() -> Views[Phases]:
    from landscape.studies.phases.views import phases_views

    return phases_views


KIND = Kind(
    "phases",
    "phase map",
    Phases,
    phases_group,
    read_phases,
    phases_tables,
    phases_columns,
    _pictures,
    _views,
    phases_glance,
    unit="cells",
)


def place(description: Description, item: int) -> dict[str, float | str]:
    """The model, or the pair of seeds."""
    return {description.name.removesuffix("s"): str(description.identity["items"][item]["label"])}


STUDY = Study(
    "phases",
    KIND,
    measure_phases,
    STAGES,
    phases_from_stages,
    settings=PhasesSettings,
    inputs={"models": Input("trained", required=True), "test": DATA},
    trial=phases_trial,
    place=place,
    subject="models",
    unit="items",
)
