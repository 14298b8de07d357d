"""The rows of phases."""

from __future__ import annotations

from landscape.results.kind import Kind, Pictures, Views
from landscape.results.study import Study
from landscape.studies.phases.result import Phases
from landscape.studies.phases.schema import phases_group, read_phases
from landscape.studies.phases.tables import phases_columns, phases_glance, phases_tables


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
STUDY = Study("phases", KIND, None)
