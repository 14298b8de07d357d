"""The rows of training."""

from __future__ import annotations

from landscape.results.kind import Kind, Pictures, Views
from landscape.results.study import DATA, Study, of_rows
from landscape.run.task import Description
from landscape.studies.training.measure import train_models, training_from_rows
from landscape.studies.training.result import Training
from landscape.studies.training.schema import read_training, training_group
from landscape.studies.training.settings import TrainingSettings
from landscape.studies.training.tables import training_columns, training_glance, training_tables
from landscape.studies.training.trial import training_trial


def _pictures() -> Pictures[Training]:
    from landscape.studies.training.pictures import PICTURES

    return PICTURES


def _views() -> Views[Training]:
    from landscape.studies.training.views import training_views

    return training_views


def place(description: Description, item: int) -> dict[str, float | str]:
    """Where an item is: the keys of its cell but for tasks in sequence, and its seed unless it is all of them."""
    identity = description.identity
    rows, sequence = identity["items"][item], identity.get("sequence")
    cell, seed = divmod(rows[0], len(identity["seeds"]))
    keys = {name: value for name, value in identity["cells"][cell].items() if name != sequence}
    return {**keys, **({"seed": identity["seeds"][seed]} if len(rows) == 1 or sequence else {})}


KIND = Kind(
    "training",
    "training",
    Training,
    training_group,
    read_training,
    training_tables,
    training_columns,
    _pictures,
    _views,
    training_glance,
    unit="models",
    located=Training.at,
)
STUDY = Study(
    "train",
    KIND,
    train_models,
    ("train",),
    of_rows(training_from_rows),
    settings=TrainingSettings,
    inputs={"train": DATA, "test": DATA},
    trial=training_trial,
    place=place,
    subject="factory",
    unit="models",
    minimum=True,
)
