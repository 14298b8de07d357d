"""The rows of coherence."""

from __future__ import annotations

from landscape.results.kind import Kind, Pictures, Views
from landscape.results.study import DATA, Input, Study, of_rows
from landscape.run.task import Description
from landscape.studies.coherence.measure import coherence_from_rows, coherence_task, measure_coherence
from landscape.studies.coherence.result import Coherence
from landscape.studies.coherence.schema import coherence_group, read_coherence
from landscape.studies.coherence.settings import CoherenceSettings
from landscape.studies.coherence.tables import coherence_columns, coherence_glance, coherence_tables


def _pictures() -> Pictures[Coherence]:
    from landscape.studies.coherence.pictures import PICTURES

    return PICTURES


def _views() -> Views[Coherence]:
    from landscape.studies.coherence.views import coherence_views

    return coherence_views


def place(description: Description, item: int) -> dict[str, float | str]:
    """The parameter vector."""
    return {"theta": str(description.about["labels"][item])}


KIND = Kind(
    "coherence",
    "coherence",
    Coherence,
    coherence_group,
    read_coherence,
    coherence_tables,
    coherence_columns,
    _pictures,
    _views,
    coherence_glance,
    unit="parameter vectors",
)
STUDY = Study(
    "coherence",
    KIND,
    measure_coherence,
    ("coherence",),
    of_rows(coherence_from_rows),
    settings=CoherenceSettings,
    inputs={"thetas": Input("models", "models", labels="labels"), "groups": DATA},
    task=coherence_task,
    place=place,
    unit="parameter vectors",
)
