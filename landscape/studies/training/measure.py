"""The training job: every model of every cell, as a Task whose items are models."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from landscape_kernels.probes import derive_seed

from landscape.checkpoints.recorder import state_of
from landscape.errors import InputError, nearest, user_code
from landscape.objective.losses import LossLike, describe_callable
from landscape.objective.objective import Objective
from landscape.objective.random_state import keeps_random_state, random_state_kept, seed_everything
from landscape.objective.training import TrainingData
from landscape.objective.trees import digest
from landscape.results.attributes import EXACT, provenance
from landscape.results.measured import Measurement
from landscape.results.study import of_rows
from landscape.run.comm import Communicator, world
from landscape.run.failures import Tolerance
from landscape.run.progress import Progress
from landscape.run.store import History
from landscape.run.task import Description, Row, Rows
from landscape.run.together import agree
from landscape.studies.training.data import trained_on
from landscape.studies.training.one import ENDS, ModelTraining
from landscape.studies.training.recipe import DEFAULT, KEYS, Recipe
from landscape.studies.training.result import Training
from landscape.studies.training.settings import Cell, TrainingSettings, factory_arguments, label_of

MODEL_FOLDER = "models"  # in the run folder: the weights, a folder for each model
STATE_FOLDER = "fits"  # in the run folder while models are trained


class TrainingTask:
    """Items are models, those of one cell after each other, a seed each."""

    headline = "loss"

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
        device: str | None = None,
        folder: Path | None = None,
    ) -> None:
        """See `train_models`; `folder` is where weights and states go. `prepare` is to be called before anything."""
        if not callable(factory):
            raise InputError(
                f"factory is {type(factory).__name__}; give a function of the cells' keys that makes a model"
            )
        self._factory, self._data, self._settings = factory, data, settings
        self._train, self._test, self._loss = train, test, loss
        self._forward, self._device, self._folder = forward, device, folder
        self._cells = settings.all_cells()
        self._seeds = settings.seed_list
        self._recipes = [settings.recipe_of(cell) for cell in self._cells]
        self._models = [(cell, seed) for cell in range(len(self._cells)) for seed in self._seeds]
        self._require_arguments()
        self._require_consistent()
        self._metrics: tuple[str, ...] = ()
        self.count = len(self._models)
        self.report: Callable[[str], None] | None = None  # see `task.Telling`
        self.stopping: Callable[[], bool] | None = None

    def prepare(self, comm: Communicator) -> TrainingTask:
        """Look at all models before any is trained, shared out over the ranks of `comm`; all of them call this.

        Raises InputError for models of one cell that differ in shape, labels that are no class, and all that
        `Objective` refuses.
        """
        agree(comm, self._look_at_data)
        first = {repr(factory_arguments(cell)): number for number, cell in reversed(list(enumerate(self._cells)))}
        mine = range(comm.rank, len(self._cells), comm.size)
        found = agree(comm, lambda: {c: self._looked_at(c, whole=c in first.values()) for c in mine})
        together = {c: seen for part in comm.gather_all(found) for c, seen in part.items()}
        self._digests: list[str] = [one for c in range(len(self._cells)) for one in together[c][0]]
        self._structures = [together[c][2] for c in sorted(first.values())]
        self._epochs: list[int] = [together[c][1] for c in range(len(self._cells))]
        return self

    def describe(self) -> Description:
        """See `Task`."""
        return self._description

    @cached_property
    def _description(self) -> Description:
        columns: dict[str, tuple[int, ...]] = {"loss": (), "epochs": (), "steps": (), "kept": (), "end": ()}
        for name in self._quantities:
            columns |= {f"curve_{name}": (self._longest + 1,), f"curve_{name}_stderr": (self._longest + 1,)}
        settings = self._settings
        identity = {
            "models": self._digests,
            "structures": self._structures,
            "cells": [dict(cell) for cell in self._cells],
            "seeds": list(self._seeds),
            "recipe": settings.recipe.stated(),
            "trajectory": settings.trajectory,
            "train": self._trained_on,
            **self._told,
        }
        about = {
            "factory": describe_callable(self._factory),
            "quantities": list(self._quantities),
            "device": self._on,
            "longest": self._longest,
        }
        return Description("train", columns, identity, about)

    def evaluate(self, index: int, group: Communicator) -> Row:
        """See `Task`; a model is trained by one rank."""
        training, label = self._training(index)
        state = None if self._folder is None else self._folder / STATE_FOLDER / f"{index:04d}.npz"
        trained = training.run(state=state, report=lambda text: self._tell(f"{label}: {text}"), stopping=self.stopping)
        row: dict[str, Any] = {
            "loss": trained.curves["loss"][trained.kept],
            "epochs": trained.epochs,
            "steps": trained.steps,
            "kept": trained.kept,
            "end": ENDS.index(trained.end),
        }
        for name, values in trained.curves.items():
            row[f"curve_{name}"] = np.full(self._longest + 1, np.nan)
            row[f"curve_{name}"][: len(values)] = values
        return row

    def extend(self, rows: Rows) -> int:
        """See `Task`: one round."""
        return self.count

    def trial(self) -> tuple[int, float]:
        """(epochs of all models, seconds for one of them): one epoch of the first model, nothing kept."""
        training, _ = self._training(0, keep=False)
        return len(self._seeds) * sum(self._epochs), training.trial()

    # -- what is asked ------------------------------------------------------------------------------------------

    def _require_arguments(self) -> None:
        """Raise InputError for keys that are neither of a recipe nor arguments of the factory."""
        try:
            signature = inspect.signature(self._factory)
        except ValueError:  # some callables written in C have none
            return
        for cell in self._cells:
            arguments = factory_arguments(cell)
            try:
                signature.bind(**arguments)
            except TypeError as error:
                called = (
                    f"the factory {getattr(self._factory, '__name__', describe_callable(self._factory))}{signature}"
                )
                unknown = next((name for name in arguments if name not in signature.parameters), None)
                if unknown is not None:
                    known = nearest(unknown, [*signature.parameters, *KEYS])
                    told = f"key {unknown!r} is no key of a recipe, and no argument of {called}; {known}"
                else:
                    told = f"{called} cannot be called with the keys {label_of(arguments) or '(none)'}: {error}"
                raise InputError(told) from error

    def _require_consistent(self) -> None:
        for cell, recipe in zip(self._cells, self._recipes, strict=True):
            where = f"cell {label_of(cell)}: " if cell else ""
            if recipe.keep == "best" and self._test is None:
                raise InputError(
                    f"{where}keep='best' keeps the weights of the lowest held-out loss, and there is no test="
                )
            if self._train is not None and (recipe.fraction != 1 or recipe.label_noise):
                raise InputError(
                    f"{where}fraction and label_noise change `data`, and the batches are of train=; leave it out"
                )

    # -- looking before training --------------------------------------------------------------------------------

    def _look_at_data(self) -> None:
        """What the data are, by the first model."""
        objective = self._objective(0, self._data)
        with objective.differentiable() as (model, _):
            _, targets = objective.outputs(model, objective.data.head(2).first)
        labels = self._loss is not None and not getattr(targets, "is_floating_point", lambda: True)()
        self._metrics = ("error",) if labels else ()
        for recipe in self._recipes:
            if recipe.stop_error is not None and not labels:
                raise InputError("stop_error needs targets that are labels of classes, and these are none")
        identity = objective.identity(centre=False)
        test = None if self._test is None else objective.elsewhere(self._test)
        self._told = {
            "data": identity["data"],
            "samples": objective.samples,
            "test": "" if test is None else test.data.digest,
            "test_samples": 0 if test is None else test.samples,
            **{name: identity[name] for name in ("model", "loss", "forward", "precision")},
        }
        names = ["loss", *self._metrics]
        self._quantities = (*names, *(f"test_{name}" for name in names if test is not None))
        self._on = str(objective.device)
        self._trained_on = (
            "" if self._train is None else self._batches(objective, self._recipes[0], self._train).identity(0)
        )

    def _looked_at(self, cell: int, *, whole: bool) -> tuple[list[str], int, str]:
        """(a digest of the initial state of each seed's model, epochs of the training, the architecture) of one cell.

        `whole` has all of the data seen by the first model: labels that are no class are found then.
        """
        rows = [row for row, (c, _) in enumerate(self._models) if c == cell]
        digests: list[str] = []
        first: dict[str, tuple[int, ...]] = {}
        for row in rows:
            state = state_of(self._model(row))
            shapes = {name: tuple(value.shape) for name, value in state.items()}
            first = first or shapes
            for name in dict.fromkeys((*first, *shapes)):
                if first.get(name) != shapes.get(name):
                    raise InputError(
                        f"the models of cell {label_of(self._cells[cell]) or '(all)'} differ in shape: {name!r} is "
                        f"{first.get(name, 'not there')} for seed {self._seeds[0]} and {shapes.get(name, 'not there')} "
                        f"for seed {self._models[row][1]}; models of one cell differ by their seeds alone, so give the "
                        "factory what shapes follow from as a key"
                    )
            digests.append(digest(*state.values()))
        recipe = self._recipes[cell]
        if not whole and recipe.steps is None:
            return digests, recipe.epochs, ""
        objective = self._objective(rows[0], self._data)
        if whole:
            for one in (objective, *([] if self._test is None else [objective.elsewhere(self._test)])):
                one.estimates()
        per_epoch = self._batches(objective, recipe, self._trained(recipe)).steps(self._stream(rows[0]))
        if per_epoch == 0:
            raise InputError("the training data gave no batch; give one at least")
        epochs = -(-recipe.total_steps(per_epoch) // per_epoch)
        return digests, epochs, str(objective.identity(centre=False)["structure"])

    # -- one model ----------------------------------------------------------------------------------------------

    @property
    def _longest(self) -> int:
        """Epochs of the longest training."""
        return max(self._epochs)

    def _stream(self, row: int) -> int:
        """The seed of all that is random in one model, which its cell and its seed give, wherever it stands."""
        cell, seed = self._models[row]
        return int(derive_seed(seed, "train", label_of(self._cells[cell])))

    def _model(self, row: int) -> Any:
        """The model as the factory makes it from random streams that are the model's own."""
        cell, _ = self._models[row]
        arguments = factory_arguments(self._cells[cell])
        with random_state_kept():
            seed_everything(derive_seed(self._stream(row), "initial"))
            with user_code(f"the factory {describe_callable(self._factory)} cannot be called", lambda: f"{arguments}"):
                model = self._factory(**arguments)
        if not hasattr(model, "named_parameters"):
            raise InputError(f"the factory returned {type(model).__name__}; let it return an nn.Module")
        return model

    def _objective(self, row: int, data: Any) -> Objective:
        recipe = self._recipes[self._models[row][0]]
        return Objective(
            self._model(row),
            self._loss,
            data,
            metrics=self._metrics,
            forward=self._forward,
            device=self._device,
            precision=recipe.precision,
        )

    def _trained(self, recipe: Recipe) -> Any:
        """What is trained on."""
        return trained_on(self._data, recipe) if self._train is None else self._train

    def _batches(self, objective: Objective, recipe: Recipe, train: Any) -> TrainingData:
        return TrainingData(
            train, recipe.batch_size, device=objective.device, dtype=objective.dtype, convert=objective.formatted
        )

    def _training(self, row: int, *, keep: bool = True) -> tuple[ModelTraining, str]:
        """(the training of a model, what it is called); without `keep` no file is written."""
        cell, seed = self._models[row]
        recipe, stream = self._recipes[cell], self._stream(row)
        data = trained_on(self._data, recipe)
        objective = self._objective(row, data)
        test = None if self._test is None else objective.elsewhere(self._test)
        batches = self._batches(objective, recipe, data if self._train is None else self._train)
        label = label_of({**self._cells[cell], "seed": seed})
        folder = None if self._folder is None or not keep else self._folder / model_folder(row)
        training = ModelTraining(
            objective,
            test,
            batches,
            recipe,
            stream,
            per_epoch=batches.steps(stream),
            folder=folder,
            trajectory=self._settings.trajectory,
        )
        return training, label

    def _tell(self, text: str) -> None:
        if self.report is not None:
            self.report(text)


def model_folder(row: int) -> str:
    """Where the weights of a model are, in the run folder."""
    return f"{MODEL_FOLDER}/{row:04d}"


@keeps_random_state
def train_models(
    factory: Callable[..., Any],
    data: Any,
    *,
    out: str | Path,
    recipe: Recipe | Mapping[str, Any] = DEFAULT,
    cells: Mapping[str, Sequence[Any]] | None = None,
    seeds: int | Sequence[int] = 1,
    train: Any = None,
    test: Any = None,
    loss: LossLike | None = "cross_entropy",
    forward: Callable[..., Any] | None = None,
    device: str | None = None,
    trajectory: int = 0,
    ranks_per_item: int = 1,
    limit_items: int | None = None,
    tolerance: Tolerance | None = None,
    progress: Callable[[Progress], None] | None = None,
    job: str = "",
) -> Training:
    """Train a model for every combination of the cells' keys and every seed, on all MPI ranks of this run.

    `factory(**keys)` makes the nn.Module of a cell. A key of `cells` {key: values} that is one of `recipe` changes the
    recipe, any other is an argument of the factory. `seeds` is how many models a cell has, or their seeds. The initial
    weights are those the factory makes from random streams set by (seed, cell), the order of the batches and dropout
    follow from (seed, cell, epoch): equal bits for any number of ranks, and whatever other cells there are.

    `data` is what loss and error are measured on after every epoch, in eval mode and on all of it (exact, no running
    mean), and `train` the batches that are trained on, by default the same; `test` is held out. `data`, `loss` and
    `forward` are those of `Objective`; the error is there where targets are labels of classes. Batches are drawn
    without replacement, equal to within one sample (see `TrainingData`); a step goes down the gradient of the mean loss
    of its batch.

    A model is an item, and trained by one rank. The folder `out` keeps `models/NUMBER/initial.safetensors` and
    `final.safetensors` of every model, with `trajectory` its state every so many steps, too, and `landscape.h5` with
    the curves. A killed run goes on from the last epoch of every model in hand, to the same bits. A model whose loss
    becomes NaN or infinite is left out, with its reason and epoch, and the run goes on.

    Raises InputError, before any training, for keys that are neither of a recipe nor of the factory, models of one cell
    that differ in shape, labels that are no class, and all that `Objective` refuses; see `run_task` for the rest.
    """
    if ranks_per_item != 1:
        raise InputError(f"ranks_per_item={ranks_per_item}: a model is trained by one rank; leave it out")
    folder = Path(out)
    task = training_task(
        factory,
        data,
        recipe=recipe,
        cells=cells,
        seeds=seeds,
        train=train,
        test=test,
        loss=loss,
        forward=forward,
        device=device,
        trajectory=trajectory,
        folder=folder,
    )
    run = Measurement(out, limit_items=limit_items, tolerance=tolerance, progress=progress, job=job)
    run.run(task, kept=folder / STATE_FOLDER)
    found = run.result(of_rows(training_from_rows))
    return found.made(folder, factory, data, test, loss)


def training_task(
    factory: Callable[..., Any],
    data: Any,
    *,
    train: Any = None,
    test: Any = None,
    loss: LossLike | None = "cross_entropy",
    forward: Callable[..., Any] | None = None,
    device: str | None = None,
    folder: Path | None = None,
    **asked: Any,
) -> TrainingTask:
    """The task of `train_models`, `asked` being the fields of `TrainingSettings`; all ranks call this."""
    comm = world()
    task = agree(
        comm,
        lambda: TrainingTask(
            factory,
            data,
            TrainingSettings(**asked),
            train=train,
            test=test,
            loss=loss,
            forward=forward,
            device=device,
            folder=folder,
        ),
    )
    return task.prepare(comm)


def training_from_rows(description: Description, rows: Rows, history: History) -> Training:
    """The result in the rows of the models, masked where models are missing."""
    identity, about, columns = description.identity, description.about, rows.columns
    cells: list[Cell] = identity["cells"]
    models = [(cell, seed) for cell in cells for seed in identity["seeds"]]
    numbers = {name: np.where(rows.done, columns[name], -1).astype(np.int64) for name in ("epochs", "steps", "kept")}
    ends = [ENDS[int(end)] if done else "" for end, done in zip(columns["end"], rows.done, strict=True)]
    left_out = {row: _diverged(end, int(numbers["epochs"][row])) for row, end in enumerate(ends) if end in ENDS[3:]}
    left_out |= {row: f"its training failed: {_last_line(reason)}" for row, reason in history.failed.items()}
    names = list(about["quantities"])
    attributes = {
        "task": description.name,
        **{name: identity[name] for name in ("model", "samples", "test_samples", "loss", "precision")},
        "data_hash": identity["data"],
        "recipe": dict(identity["recipe"]),
        "factory": about["factory"],
        "train": identity["train"],
        "device": about["device"],
        **provenance(description, history),
        "error": EXACT,
    }
    return Training(
        keys={name: tuple(cell[name] for cell, _ in models) for name in cells[0]},
        seed=tuple(seed for _, seed in models),
        values={name: columns[f"curve_{name}"] for name in names},
        stderr={name: columns[f"curve_{name}_stderr"] for name in names},
        kept=numbers["kept"],
        epochs=numbers["epochs"],
        steps=numbers["steps"],
        ended=tuple("diverged" if end in ENDS[3:] else end for end in ends),
        left_out=left_out,
        computed=rows.done,
        paths=tuple(model_folder(row) for row in range(len(models))),
        attributes=attributes,
    )


def _diverged(end: str, epoch: int) -> str:
    became = "NaN" if end == "nan" else "infinite"
    return f"its loss became {became} in epoch {epoch}" if epoch else f"its loss is {became} before the first step"


def _last_line(reason: str) -> str:
    return reason.strip().splitlines()[-1]
