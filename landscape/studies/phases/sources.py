"""The models that phases are measured of: from a training run, a table of the user's, or the path of either."""

from __future__ import annotations

import inspect
import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from landscape.checkpoints.trained import TrainedModels, read_models
from landscape.errors import InputError, nearest
from landscape.files import hdf5
from landscape.objective.losses import named_losses
from landscape.run.store import RESULT
from landscape.studies.phases.cells import Cells, Place
from landscape.studies.training.data import DataSets, trained_on
from landscape.studies.training.recipe import KEYS
from landscape.studies.training.result import Training
from landscape.studies.training.schema import read_training

ModelsLike = Any  # Training, TrainedModels, or the path of a table or of the folder of a training run


@dataclass(frozen=True)
class Source:
    """Trained models, and what is needed to measure them."""

    models: TrainedModels
    factory: Callable[..., Any]
    data_of: Callable[[int], Any]  # row of a model -> what it was trained on
    test_of: Callable[[int], Any]  # row of a model -> its test data, or None
    loss: Any

    def arguments(self, row: int) -> dict[str, Any]:
        """What of a model's keys its factory takes."""
        keys = {name: column[row] for name, column in self.models.keys.items() if name not in KEYS}
        try:
            parameters = inspect.signature(self.factory).parameters
        except ValueError:  # some callables written in C have none
            return keys
        if any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
            return keys
        return {name: value for name, value in keys.items() if name in parameters}


def resolved(models: ModelsLike, factory: Any, data: Any, test: Any, loss: Any) -> Source:
    """The models and what was given for them, from a training of this process where it was not.

    Raises InputError for what is no models, for a training with a forward= of its own, and where factory or data are
    not known.
    """
    if isinstance(models, (str, Path)):
        models = _opened(Path(models))
    if isinstance(models, Training):
        forward = models.attributes.get("forward")
        if forward:
            raise InputError(
                f"the models were trained with forward={forward}, which the metrics of a map do not use: samples are "
                "drawn and mixed one by one, which batches of forward's own do not allow; where their outputs "
                "are the same without it, give its checkpoints, factory=, data= and loss="
            )
        training, table = models, models.checkpoints
        given_data = data if data is not None else training.data
        factory, test = factory or training.factory, training.test if test is None else test
        loss = _loss_of(training) if loss is None else loss

        def data_of(row: int) -> Any:
            return trained_on(sets.data(_keys(table, row)), training.recipe(row))

    elif isinstance(models, TrainedModels):
        table, given_data = models, data

        def data_of(row: int) -> Any:
            return sets.data(_keys(table, row))

    else:
        raise InputError(
            f"models is a {type(models).__name__}; give what train_models returned, the folder of its run, a table of "
            "models (TrainedModels), or the path of one (.csv or .toml)"
        )
    for name, value, form in (
        ("factory", factory, "the function of the cells' keys that makes a model"),
        ("data", given_data, "what the models were trained on"),
    ):
        if value is None:
            raise InputError(
                f"{name}= is not given, and the models do not tell it: only a training of this process does; give "
                f"{name}=, {form}"
            )
    if not callable(factory):
        raise InputError(f"factory is {type(factory).__name__}; give a function of the cells' keys that makes a model")
    sets = DataSets(given_data, test)
    loss = "cross_entropy" if loss is None else loss
    return Source(table, factory, data_of, lambda row: sets.test(_keys(table, row)), loss)


def _keys(models: TrainedModels, row: int) -> dict[str, Any]:
    return {name: column[row] for name, column in models.keys.items()}


def _loss_of(training: Training) -> Any:
    """What a training minimised, as far as it tells."""
    name = str(training.attributes.get("loss", ""))
    if training.loss is None and name not in named_losses():
        raise InputError(f"the models were trained with the loss {name!r}, a function of the user's; give it as loss=")
    return name if training.loss is None else training.loss


def _opened(path: Path) -> Training | TrainedModels:
    """A table, or a training from its run folder."""
    if not path.is_dir():
        return read_models(path)
    if not (path / RESULT).is_file():
        raise InputError(
            f"{path} holds no {RESULT}: it is no run of train_models, or one that is not finished; finish it "
            "(landscape resume), or give a table of models (.csv or .toml)"
        )
    return read_training(hdf5.read(path / RESULT), path / RESULT).at(path)


@dataclass(frozen=True)
class Map:
    """Which models are in which cell of load and temperature."""

    cells: Cells
    rows: Mapping[Place, tuple[int, ...]]  # of the models that have final weights
    lost: Mapping[Place, tuple[str, ...]]  # why others have none

    @property
    def ordered(self) -> list[tuple[Place, int]]:
        """(place, row) of every model that is there, cell by cell."""
        return [(place, row) for place, rows in self.rows.items() for row in rows]


def mapped(models: TrainedModels, load: str, temperature: str) -> Map:
    """The cells that models lie in. Raises InputError for keys that are not there, or no axes of a map."""
    for name, key in (("load", load), ("temperature", temperature)):
        if key not in models.keys:
            raise InputError(f"{name}={key!r} is no key of the models; {nearest(key, models.keys)}")
    others = [name for name in models.keys if name not in (load, temperature)]
    for name in others:
        values = list(dict.fromkeys(models.keys[name]))
        if len(values) > 1:
            shown = ", ".join(map(str, values[:4]))
            raise InputError(
                f"the models differ in {name!r}, too ({shown}): a map has two axes, {load!r} and {temperature!r}; give "
                f"models of one {name}, or name it as an axis"
            )
    rows: dict[Place, list[int]] = defaultdict(list)
    lost: dict[Place, list[str]] = defaultdict(list)
    for row in range(len(models)):
        place = (_number(models, load, row), _number(models, temperature, row))
        if models.final[row] is not None:
            rows[place].append(row)
        else:
            lost[place].append(f"seed {models.seed[row]}: {models.left_out.get(row, 'it has no final weights')}")
    if not any(len(found) > 1 for found in rows.values()):
        most = max(map(len, rows.values()), default=0)
        raise InputError(
            f"no cell of {load!r} and {temperature!r} has two trained models (at most {most}), and mode connectivity "
            "and CKA are of pairs of seeds; train two seeds or more of each cell"
        )
    places = sorted({*rows, *lost})
    return Map(
        Cells.of(places),
        {place: tuple(rows[place]) for place in places if place in rows},
        {place: tuple(found) for place, found in lost.items()},
    )


def _number(models: TrainedModels, key: str, row: int) -> float:
    value = models.keys[key][row]
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(float(value)):  # type: ignore[arg-type]
        raise InputError(
            f"the key {key!r} of model {models.label(row)} is {value!r}; an axis of a map has finite numbers"
        )
    return float(value)  # type: ignore[arg-type]
