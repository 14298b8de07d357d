"""The rows of weight matrices."""

from __future__ import annotations

from landscape.results.kind import Kind, Pictures, Views
from landscape.results.study import Input, Study, of_rows
from landscape.run.task import Description
from landscape.studies.weights.measure import measure_weights, weights_from_rows, weights_task
from landscape.studies.weights.result import Weights
from landscape.studies.weights.schema import read_weights, weights_group
from landscape.studies.weights.settings import WeightsSettings
from landscape.studies.weights.tables import weights_columns, weights_glance, weights_tables


def _pictures() -> Pictures[Weights]:
    from landscape.studies.weights.pictures import PICTURES

    return PICTURES


def _views() -> Views[Weights]:
    from landscape.studies.weights.views import weights_views

    return weights_views


def place(description: Description, item: int) -> dict[str, float | str]:
    """The layer, and of several models which."""
    about = description.about
    found = {"layer": str(about["matrix"]["layer"][item])}
    if len(about["models"]) > 1:
        found["model"] = str(about["models"][description.identity["matrices"][item][0]])
    return dict(found)


KIND = Kind(
    "weights",
    "weight matrices",
    Weights,
    weights_group,
    read_weights,
    weights_tables,
    weights_columns,
    _pictures,
    _views,
    weights_glance,
    unit="matrices",
)
STUDY = Study(
    "weights",
    KIND,
    measure_weights,
    ("weights",),
    of_rows(weights_from_rows),
    settings=WeightsSettings,
    inputs={"model": Input("models", "models", labels="labels"), "initial": Input("checkpoint")},
    task=weights_task,
    place=place,
    subject="model",
    needs=(),
    unit="matrices",
)
