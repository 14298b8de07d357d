"""Trained models and what is needed to measure them: from a training, a table of the user's, or the path of either."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from landscape.checkpoints.reading import load_state, read_state
from landscape.checkpoints.trained import TrainedModels, read_models
from landscape.errors import InputError, user_code
from landscape.files import hdf5
from landscape.objective.described import describe_callable
from landscape.objective.losses import named_losses
from landscape.objective.objective import Objective
from landscape.objective.random_state import random_state_kept
from landscape.run.store import RESULT
from landscape.studies.training.data import DataSets, trained_on
from landscape.studies.training.recipe import KEYS
from landscape.studies.training.result import Training
from landscape.studies.training.schema import read_training

logger = logging.getLogger(__name__)
ModelsLike = Any  # Training, TrainedModels, or the path of a table or of the folder of a training run


@dataclass(frozen=True)
class Source:
    """Trained models, and what is needed to measure them."""

    models: TrainedModels
    factory: Callable[..., Any] | None  # None where the weights alone are measured
    data_of: Callable[[int], Any]  # row of a model -> what it was trained on
    test_of: Callable[[int], Any]  # row of a model -> its test data, or None
    tested: bool  # whether there are test data
    loss: Any
    sequence: str | None = None  # key of tasks that followed each other, "" for none; None where the models do not tell
    given: Callable[[int], tuple[Any, str, str]] | None = None  # row -> data given anew; hash and precision there
    _digests: dict[tuple[int, str], str] = field(default_factory=dict, repr=False)  # of data given anew, which are kept

    def arguments(self, row: int) -> dict[str, Any]:
        """What of a model's keys its factory takes."""
        assert self.factory is not None
        keys = {name: column[row] for name, column in self.models.keys.items() if name not in KEYS}
        try:
            parameters = inspect.signature(self.factory).parameters
        except ValueError:  # some callables written in C have none
            return keys
        if any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
            return keys
        return {name: value for name, value in keys.items() if name in parameters}

    def untrained(self, row: int) -> Any:
        """The module that the factory makes for a model. Raises InputError where it makes none."""
        assert self.factory is not None
        arguments, name = self.arguments(row), describe_callable(self.factory)
        with random_state_kept(), user_code(f"the factory {name} cannot be called", lambda: f"{arguments}"):
            model = self.factory(**arguments)
        if not hasattr(model, "named_parameters"):
            raise InputError(f"the factory returned {type(model).__name__}; let it return an nn.Module")
        return model

    def trained(self, row: int) -> Any:
        """The same with the model's final weights. Raises InputError where these do not fit, naming the model."""
        model, path = self.untrained(row), self.models.final[row]
        try:
            assert path is not None
            load_state(model, read_state(path), path)
        except InputError as error:
            raise InputError(f"model {self.models.label(row)}, made with {self.arguments(row)}: {error}") from error
        return model

    def objective(
        self, row: int, device: str | torch.device | None = None, metrics: tuple[str, ...] | None = None
    ) -> Objective:
        """The training loss of one model; without `metrics` the error, too, where targets are labels of classes."""
        model, data = self.trained(row), self.data_of(row)
        if metrics is None:
            alone = Objective(model, self.loss, data, device=device)
            with alone.differentiable() as (bound, _), torch.no_grad():
                _, targets = alone.outputs(bound, alone.data.head(2).first)
            if not isinstance(targets, Tensor) or targets.is_floating_point():
                return alone
            metrics = ("error",)
        return Objective(model, self.loss, data, metrics=metrics, device=device)

    def is_other_data(self, row: int) -> bool:
        """Whether a model was trained on other data than those given for it, as far as its training tells."""
        data, hashed, precision = (None, "", "") if self.given is None else self.given(row)
        if not hashed:
            return False
        place = id(data), precision  # many models are of the same data, which takes a look at every sample
        if place not in self._digests:
            there = Objective(self.untrained(row), self.loss, data, device="cpu", precision=precision, check=False)
            self._digests[place] = there.data.digest
        return self._digests[place] != hashed


def of_other_data(seen: Mapping[str, bool]) -> str:
    """How many models were trained on other data than those given, of {label: whether it was}; "" where none was.

    >>> of_other_data({"width=8,seed=0": False, "width=8,seed=1": True})
    '1 of 2 models, width=8,seed=1 first'
    """
    others = [label for label, other in seen.items() if other]
    return f"{len(others)} of {len(seen)} models, {others[0]} first" if others else ""


def warn_of_other_data(others: str, measured: str) -> None:
    """Log what `of_other_data` found; `measured` says what is measured then."""
    if others:
        logger.warning(
            "%s: trained on other data than those given; %s; give data= as in train_models", others, measured
        )


def resolved(
    models: ModelsLike, factory: Any, data: Any, test: Any, loss: Any, *, weights_alone: bool = False
) -> Source:
    """The models and what was given for them, from a training of this process where it was not.

    Raises InputError for what is no models and, but where `weights_alone` are measured, for a training with a forward=
    of its own, and where factory or data are not known.
    """
    if isinstance(models, (str, Path)):
        models = _opened(Path(models))
    sequence = models.sequence if isinstance(models, Training) else None
    given = None
    if isinstance(models, Training):
        forward = models.attributes.get("forward")
        if forward and not weights_alone:
            raise InputError(
                f"the models were trained with forward={forward}, which trained models are not measured with: samples "
                "are drawn and mixed one by one, which batches of forward's own do not allow; where their outputs "
                "are the same without it, give its checkpoints, factory=, data= and loss="
            )
        training, table = models, models.checkpoints
        given_data = data if data is not None else training.data
        factory, test = factory or training.factory, training.test if test is None else test
        if loss is None and not weights_alone:
            loss = _loss_of(training)

        def data_of(row: int) -> Any:
            return trained_on(sets.data(_keys(table, row)), training.recipe(row))

        def anew(row: int) -> tuple[Any, str, str]:
            return sets.data(_keys(table, row)), training.data_hash(row), str(training.attributes["precision"])

        if data is not None and "precision" not in table.keys:
            given = anew

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
        if value is None and not weights_alone:
            raise InputError(
                f"{name}= is not given, and the models do not tell it: only a training of this process does; give "
                f"{name}=, {form}; a job has [{'model' if name == 'factory' else name}] for it"
            )
    if factory is not None and not callable(factory):
        raise InputError(f"factory is {type(factory).__name__}; give a function of the cells' keys that makes a model")
    sets = DataSets(given_data, test)
    loss = "cross_entropy" if loss is None else loss
    return Source(
        table, factory, data_of, lambda row: sets.test(_keys(table, row)), test is not None, loss, sequence, given
    )


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
