"""The rows of pairs of models."""

from __future__ import annotations

from landscape.results.kind import Kind, Pictures, Views
from landscape.results.study import DATA, Input, Study, of_rows
from landscape.run.task import Description
from landscape.studies.connectivity.measure import connectivity_from_rows, measure_connectivity
from landscape.studies.connectivity.result import Connectivity
from landscape.studies.connectivity.schema import connectivity_group, read_connectivity
from landscape.studies.connectivity.settings import ConnectivitySettings
from landscape.studies.connectivity.tables import connectivity_columns, connectivity_tables
from landscape.studies.connectivity.trial import connectivity_trial


def _pictures() -> Pictures[Connectivity]:
    from landscape.studies.connectivity.pictures import PICTURES

    return PICTURES


def _views() -> Views[Connectivity]:
    from landscape.studies.connectivity.views import connectivity_views

    return connectivity_views


KIND = Kind(
    "connectivity",
    "mode connectivity",
    Connectivity,
    connectivity_group,
    read_connectivity,
    connectivity_tables,
    connectivity_columns,
    _pictures,
    _views,
)


def place(description: Description, item: int) -> dict[str, float | str]:
    """The two models."""
    i, j = description.identity["pairs"][item]
    labels = description.about["labels"]
    return {"from": str(labels[i]), "to": str(labels[j])}


STUDY = Study(
    "connectivity",
    KIND,
    measure_connectivity,
    ("connectivity",),
    of_rows(connectivity_from_rows),
    settings=ConnectivitySettings,
    inputs={
        "thetas": Input("models", "models", required=True, labels="labels"),
        "train": DATA,
        "statistics": DATA,
        "test": DATA,
    },
    trial=connectivity_trial,
    place=place,
    unit="pairs",
)
