"""What is to be trained: the models of all cells, made one by one, and what is looked at before any is trained."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from landscape_kernels.probes import derive_seed

from landscape.checkpoints.recorder import state_of
from landscape.errors import InputError, nearest, user_code
from landscape.objective.batches import as_whole
from landscape.objective.described import describe_callable
from landscape.objective.losses import LossLike
from landscape.objective.objective import Objective
from landscape.objective.random_state import random_state_kept, seed_everything
from landscape.objective.training import TrainingData
from landscape.objective.trees import digest, tensors_in
from landscape.studies.training.data import DataSets, poison_of, trained_on
from landscape.studies.training.one import ModelTraining
from landscape.studies.training.recipe import KEYS, Recipe
from landscape.studies.training.settings import Cell, TrainingSettings, label_of
from landscape.studies.training.together import (
    MOST_OPERATIONS,
    MOST_PARAMETERS,
    SeedsTraining,
    Step,
    batched_gradient,
    operations,
)

_MODEL_FOLDER = "models"  # in the run folder: the weights, a folder for each model
_LEAST_STEPS = 20_000  # of all models, from which on tracing them, about 2 s, is little


@dataclass(frozen=True)
class Seen:
    """What is known of the models of a cell before any is trained."""

    digests: list[str]  # of the initial state of each seed's model
    epochs: int  # of the training
    parameters: int  # and buffers
    structure: str  # the architecture, of the first cell of those alike


@dataclass(frozen=True)
class Told:
    """What is known of the data, by the first model."""

    identity: dict[str, Any]  # what values depend on
    quantities: tuple[str, ...]
    device: str


class Plan:
    """Cells, seeds, and the models and data of each."""

    def __init__(
        self,
        factory: Callable[..., Any],
        data: Any,
        settings: TrainingSettings,
        *,
        train: Any = None,
        test: Any = None,
        loss: LossLike | None = "cross_entropy",
        forward: Callable[..., Any] | None = None,
        device: str | torch.device | None = None,
        folder: Path | None = None,
    ) -> None:
        """See `train_models`. Raises InputError for keys that nobody knows, and recipes that cannot be."""
        if not callable(factory):
            raise InputError(
                f"factory is {type(factory).__name__}; give a function of the cells' keys that makes a model"
            )
        self.factory, self._sets, self.settings = factory, DataSets(data, test), settings
        self._train, self._tested, self._loss = train, test is not None, loss
        self._forward, self._device, self._folder = forward, device, folder
        self.cells = settings.all_cells()
        self.seeds = settings.seed_list
        self._recipes = [settings.recipe_of(cell) for cell in self.cells]
        self.models = [(cell, seed) for cell in range(len(self.cells)) for seed in self.seeds]
        self._require_arguments()
        self._require_consistent()
        self._metrics: tuple[str, ...] = ()
        self._steps: dict[str, Step | None] = {}  # kind of a cell -> its models' gradients at once

    # -- what is asked ------------------------------------------------------------------------------------------

    def _require_arguments(self) -> None:
        """Raise InputError for keys that are neither of a recipe nor arguments of the factory."""
        try:
            signature = inspect.signature(self.factory)
        except ValueError:  # some callables written in C have none
            return
        for cell in self.cells:
            arguments = self._factory_arguments(cell)
            try:
                signature.bind(**arguments)
            except TypeError as error:
                called = f"the factory {getattr(self.factory, '__name__', describe_callable(self.factory))}{signature}"
                unknown = next((name for name in arguments if name not in signature.parameters), None)
                if unknown is not None:
                    known = nearest(unknown, [*signature.parameters, *KEYS])
                    told = f"key {unknown!r} is no key of a recipe, and no argument of {called}; {known}"
                else:
                    told = f"{called} cannot be called with the keys {label_of(arguments) or '(none)'}: {error}"
                raise InputError(told) from error

    def _require_consistent(self) -> None:
        key = self.settings.sequence
        if key is not None and any(key in self._factory_arguments(cell) for cell in self.cells):
            raise InputError(
                f"sequence={key!r} goes to the factory, and models of a sequence are made alike, as each begins with "
                "the weights of the one before; let the data follow from it, and the factory name the keys it takes"
            )
        if key is not None and self._train is not None:
            raise InputError(f"train= are the same batches in every task of sequence={key!r}; leave it out")
        for cell, recipe in zip(self.cells, self._recipes, strict=True):
            where = f"cell {label_of(cell)}: " if cell else ""
            if recipe.keep == "best" and not self._tested:
                raise InputError(
                    f"{where}keep='best' keeps the weights of the lowest held-out loss, and there is no test="
                )
            if self._train is not None and (recipe.fraction != 1 or recipe.label_noise or recipe.poison):
                raise InputError(
                    f"{where}fraction, label_noise and poison change `data`, and the batches are of train=; leave it "
                    "out"
                )
            if recipe.poison and self._loss != "cross_entropy":
                raise InputError(f"{where}poison makes labels wrong, which needs loss='cross_entropy'")

    # -- looking before training --------------------------------------------------------------------------------

    def look_at_data(self) -> Told:
        """What the data are, by the first model; to be called before anything else."""
        objective = self._objective(0, self._data(0))
        with objective.differentiable() as (model, _):
            _, targets = objective.outputs(model, objective.data.head(2).first)
        labels = self._loss is not None and not getattr(targets, "is_floating_point", lambda: True)()
        self._metrics = ("error",) if labels else ()
        for recipe in self._recipes:
            if recipe.stop_error is not None and not labels:
                raise InputError("stop_error needs targets that are labels of classes, and these are none")
        identity = objective.identity(centre=False)
        test = self._test(objective, 0)
        told = {
            "data": identity["data"] if self._sets.one else self._digests("data"),
            "samples": objective.samples,
            "test": "" if test is None else test.data.digest if self._sets.one else self._digests("test"),
            "test_samples": 0 if test is None else test.samples,
            "train": "",
            **{name: identity[name] for name in ("model", "loss", "forward", "precision")},
        }
        if self._train is not None:
            told["train"] = self._batches(objective, self._recipes[0], self._train).identity(0)
        names = ["loss", *self._metrics]
        quantities = (*names, *(f"test_{name}" for name in names if test is not None))
        return Told(told, quantities, str(objective.device))

    def looked_at(self, cell: int, *, whole: bool) -> Seen:
        """What there is to know of the models of one cell.

        `whole` has all of the data seen by the first model: labels that are no class are found then.
        """
        rows = self.rows_of(cell)
        digests: list[str] = []
        first: dict[str, tuple[int, ...]] = {}
        for row in rows:
            state = state_of(self._model(row))
            shapes = {name: tuple(value.shape) for name, value in state.items()}
            first = first or shapes
            for name in dict.fromkeys((*first, *shapes)):
                if first.get(name) != shapes.get(name):
                    raise InputError(
                        f"the models of cell {label_of(self.cells[cell]) or '(all)'} differ in shape: {name!r} is "
                        f"{first.get(name, 'not there')} for seed {self.seeds[0]} and {shapes.get(name, 'not there')} "
                        f"for seed {self.models[row][1]}; models of one cell differ by their seeds alone, so give the "
                        "factory what shapes follow from as a key"
                    )
            digests.append(digest(*state.values()))
        recipe, size = self._recipes[cell], sum(value.numel() for value in state.values())
        if not whole and recipe.steps is None:
            return Seen(digests, recipe.epochs, size, "")
        objective = self._objective(rows[0], self._data(rows[0]))
        if whole:
            for one in (objective, self._test(objective, rows[0])):
                if one is not None:
                    one.estimates()
        per_epoch = self._batches(objective, recipe, self._trained(rows[0])).steps(self._stream(rows[0]))
        if per_epoch == 0:
            raise InputError("the training data gave no batch; give one at least")
        epochs = -(-recipe.total_steps(per_epoch) // per_epoch)
        return Seen(digests, epochs, size, str(objective.identity(centre=False)["structure"]))

    # -- one model ----------------------------------------------------------------------------------------------

    def label(self, rows: Sequence[int]) -> str:
        """One model in words, or all seeds of a cell."""
        cell, seed = self.models[rows[0]]
        keys = self.cells[cell]
        return label_of({**keys, "seed": seed} if len(rows) == 1 else keys) or "all seeds"

    def rows_of(self, cell: int) -> list[int]:
        """The models of a cell."""
        return [row for row, (its, _) in enumerate(self.models) if its == cell]

    def sequences(self) -> list[tuple[int, ...]]:
        """The models of every sequence, in the order in which they are trained: cells that agree but for its key."""
        key, found = self.settings.sequence, dict[tuple[Any, ...], list[int]]()
        for row, (cell, seed) in enumerate(self.models):
            others = (label_of({name: value for name, value in self.cells[cell].items() if name != key}), seed)
            found.setdefault(others, []).append(row)
        return [tuple(rows) for rows in found.values()]

    def alike(self) -> dict[str, list[int]]:
        """Cells whose models the factory makes alike, in one precision."""
        found: dict[str, list[int]] = {}
        for cell in range(len(self.cells)):
            found.setdefault(self._kind(cell), []).append(cell)
        return found

    def _kind(self, cell: int) -> str:
        keys = self.cells[cell]
        return repr((self._factory_arguments(keys), self._sets.keys(keys), self._recipes[cell].precision))

    def may_be_batched(self, parameters: Sequence[int], planned: Sequence[int]) -> list[bool]:
        """Whether the seeds of each cell may be trained as one, as far as sizes tell; `planned` are epochs.

        By default that are small networks, and so many steps in all that tracing them is little.
        """
        asked = self.settings.batched
        simple = self._loss == "cross_entropy" and self._forward is None and not self.settings.trajectory
        simple &= self.settings.sequence is None
        if asked is False or not simple or self._train is not None or len(self.seeds) < 2:
            return [False] * len(self.cells)
        found, steps = [], 0
        for cell, (size, recipe, epochs) in enumerate(zip(parameters, self._recipes, planned, strict=True)):
            whole = as_whole(self._sets.data(self.cells[cell]))
            if whole is None:
                return [False] * len(self.cells)
            samples = int(next(tensors_in(whole)).shape[0])
            alone = recipe.winsorise or recipe.poison
            found.append((asked is True or size <= MOST_PARAMETERS) and not alone)
            batches = -(-max(1, round(recipe.fraction * samples)) // recipe.batch_size)
            steps += found[-1] * len(self.seeds) * epochs * batches
        return found if asked or steps >= _LEAST_STEPS else [False] * len(self.cells)

    def batched(self, cells: Sequence[int]) -> list[int]:
        """Those of some cells that are alike whose seeds are trained as one: where it can be and, by default, pays."""
        if self.gradients(cells[0]) is None:
            return []
        if self.settings.batched:
            return list(cells)
        row, recipe = self.rows_of(cells[0])[0], self._recipes[cells[0]]
        objective = self._objective(row, self._data(row))
        each = operations(objective, self._batches(objective, recipe, self._data(row)), self._stream(row))
        return [cell for cell in cells if each * self._recipes[cell].batch_size <= MOST_OPERATIONS]

    def _stream(self, row: int) -> int:
        """The seed of all that is random in one model, which its cell and its seed give, wherever it stands."""
        cell, seed = self.models[row]
        return int(derive_seed(seed, "train", label_of(self.cells[cell])))

    def _model(self, row: int) -> Any:
        """The model as the factory makes it from random streams that are the model's own."""
        cell, _ = self.models[row]
        arguments = self._factory_arguments(self.cells[cell])
        with random_state_kept():
            seed_everything(derive_seed(self._stream(row), "initial"))
            with user_code(f"the factory {describe_callable(self.factory)} cannot be called", lambda: f"{arguments}"):
                model = self.factory(**arguments)
        if not hasattr(model, "named_parameters"):
            raise InputError(f"the factory returned {type(model).__name__}; let it return an nn.Module")
        return model

    def _objective(self, row: int, data: Any) -> Objective:
        recipe = self._recipes[self.models[row][0]]
        return Objective(
            self._model(row),
            self._loss,
            data,
            metrics=self._metrics,
            forward=self._forward,
            device=self._device,
            precision=recipe.precision,
        )

    def _factory_arguments(self, cell: Cell) -> dict[str, Any]:
        """What of a cell goes to the factory: all that is no key of a recipe, nor of the data alone."""
        others = {key: value for key, value in cell.items() if key not in KEYS}
        own = self._sets.keys(cell)
        try:
            known = inspect.signature(self.factory).parameters
        except ValueError:
            return others
        taking = any(one.kind is one.VAR_KEYWORD for one in known.values())
        return {key: value for key, value in others.items() if key not in own or key in known or taking}

    def _data(self, row: int) -> Any:
        """The data of a model, before its recipe takes a fraction of them or changes labels."""
        return self._sets.data(self.cells[self.models[row][0]])

    def _test(self, objective: Objective, row: int) -> Objective | None:
        """The objective of a model on its test data."""
        data = self._sets.test(self.cells[self.models[row][0]])
        return None if data is None else objective.elsewhere(data)

    def _digests(self, name: str) -> str:
        """Digests of all data sets, by the keys that they follow from."""
        found = {}
        for row in range(0, len(self.models), len(self.seeds)):
            label = label_of(self._sets.keys(self.cells[self.models[row][0]]))
            if label not in found:
                objective = self._objective(row, self._data(row))
                one = objective if name == "data" else self._test(objective, row)
                found[label] = "" if one is None else one.data.digest
        return "; ".join(f"{label} {told}" for label, told in found.items())

    def _trained(self, row: int) -> Any:
        """What a model is trained on."""
        recipe = self._recipes[self.models[row][0]]
        return trained_on(self._data(row), recipe) if self._train is None else self._train

    def _batches(self, objective: Objective, recipe: Recipe, train: Any) -> TrainingData:
        return TrainingData(
            train, recipe.batch_size, device=objective.device, dtype=objective.dtype, convert=objective.formatted
        )

    def training(self, row: int, *, keep: bool = True) -> ModelTraining:
        """The training of a model; without `keep` no file is written."""
        cell, _ = self.models[row]
        recipe, stream = self._recipes[cell], self._stream(row)
        data = trained_on(self._data(row), recipe)
        objective = self._objective(row, data)
        batches = self._batches(objective, recipe, data if self._train is None else self._train)
        per_epoch = batches.steps(stream)
        return ModelTraining(
            objective,
            self._test(objective, row),
            batches,
            recipe,
            stream,
            poison=self._poison(objective, recipe, row, per_epoch),
            per_epoch=per_epoch,
            folder=None if self._folder is None or not keep else self._folder / model_folder(row),
            trajectory=self.settings.trajectory,
        )

    def _poison(self, objective: Objective, recipe: Recipe, row: int, steps: int) -> TrainingData | None:
        """What is trained to be wrong, in one batch for every step of an epoch where there are so many samples."""
        part = poison_of(self._data(row), recipe)
        if part is None:
            return None
        size = max(1, int(next(tensors_in(part)).shape[0]) // steps)
        return self._batches(objective, recipe.with_keys(batch_size=size), part)

    def together(self, rows: Sequence[int]) -> SeedsTraining:
        """The training of all models of a cell as one, where `gradients` are there."""
        cell, _ = self.models[rows[0]]
        gradient = self.gradients(cell)
        assert gradient is not None
        members = [self.training(row) for row in rows]
        return SeedsTraining(members, gradient, self._recipes[cell], [self._stream(row) for row in rows])

    def gradients(self, cell: int) -> Step | None:
        """The gradients of all models of a cell at once, None where that cannot be; the same for cells alike."""
        key = self._kind(cell)
        if key not in self._steps:
            first = self.alike()[key][0]
            rows, recipe = self.rows_of(first), self._recipes[first]
            data = trained_on(self._data(rows[0]), recipe)
            objectives = [self._objective(row, data) for row in rows]
            batches = self._batches(objectives[0], recipe, data)
            self._steps[key] = batched_gradient(objectives, batches, self._stream(rows[0]))
        return self._steps[key]


def model_folder(row: int) -> str:
    """Where the weights of a model are, in the run folder."""
    return f"{_MODEL_FOLDER}/{row:04d}"
