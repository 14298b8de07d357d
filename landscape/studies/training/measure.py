"""The training job: every model of every cell, as a Task whose items are models."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from landscape_kernels.probes import derive_seed

from landscape.checkpoints.recorder import state_of
from landscape.errors import InputError, nearest, user_code
from landscape.objective.data import as_whole
from landscape.objective.losses import LossLike, describe_callable
from landscape.objective.objective import Objective
from landscape.objective.random_state import keeps_random_state, random_state_kept, seed_everything
from landscape.objective.training import TrainingData
from landscape.objective.trees import digest, tensors_in
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
from landscape.studies.training.one import ENDS, ModelTraining, Trained
from landscape.studies.training.recipe import DEFAULT, KEYS, Recipe
from landscape.studies.training.result import Training
from landscape.studies.training.settings import Cell, TrainingSettings, factory_arguments, label_of
from landscape.studies.training.together import (
    MOST_PARAMETERS,
    MOST_PRODUCTS,
    SeedsTraining,
    Step,
    batched_gradient,
)

T = TypeVar("T")
MODEL_FOLDER = "models"  # in the run folder: the weights, a folder for each model
STATE_FOLDER = "fits"  # in the run folder while models are trained
LEAST_STEPS = 20_000  # of all models, from which on tracing them, about 2 s, is little
_NUMBERS = ("epochs", "steps", "kept", "end")


@dataclass(frozen=True)
class _Seen:
    """What is known of the models of a cell before any is trained."""

    digests: list[str]  # of the initial state of each seed's model
    epochs: int  # of the training
    parameters: int  # and buffers
    structure: str  # the architecture, of the first cell of those alike


class TrainingTask:
    """Items are models, those of one cell after each other; or cells, where all of its seeds are trained as one."""

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
        mine = range(comm.rank, len(self._cells), comm.size)
        first = [cells[0] for cells in self._alike().values()]
        seen = _gathered(comm, lambda: {cell: self._looked_at(cell, whole=cell in first) for cell in mine})
        self._digests: list[str] = [one for cell in range(len(self._cells)) for one in seen[cell].digests]
        self._structures = [seen[cell].structure for cell in first]
        self._epochs: list[int] = [seen[cell].epochs for cell in range(len(self._cells))]
        self._settle_items(comm, [seen[cell].parameters for cell in range(len(self._cells))])
        return self

    def _settle_items(self, comm: Communicator, parameters: Sequence[int]) -> None:
        """An item for each model, or for all seeds of a cell that are trained as one: never by a timing."""
        wanted = self._to_be_batched(parameters)
        alike = [cells for cells in self._alike().values() if any(wanted[cell] for cell in cells)]
        mine = range(comm.rank, len(alike), comm.size)
        can = _gathered(comm, lambda: {k: self._gradients(alike[k][0])[0] is not None for k in mine})
        batched = {cell for k, cells in enumerate(alike) for cell in cells if can[k] and wanted[cell]}
        self._items: list[tuple[int, ...]] = []
        for cell in range(len(self._cells)):
            rows = self._rows_of(cell)
            self._items += [tuple(rows)] if cell in batched else [(row,) for row in rows]
        self.count = len(self._items)

    def describe(self) -> Description:
        """See `Task`."""
        return self._description

    @cached_property
    def _description(self) -> Description:
        beside = max(len(rows) for rows in self._items)
        columns: dict[str, tuple[int, ...]] = {"loss": (), **dict.fromkeys(_NUMBERS, (beside,))}
        shape = (beside, max(self._epochs) + 1)
        for name in self._quantities:
            columns |= {f"curve_{name}": shape, f"curve_{name}_stderr": shape}
        settings = self._settings
        identity = {
            "models": self._digests,
            "structures": self._structures,
            "cells": [dict(cell) for cell in self._cells],
            "seeds": list(self._seeds),
            "recipe": settings.recipe.stated(),
            "trajectory": settings.trajectory,
            "items": [list(rows) for rows in self._items],
            "train": self._trained_on,
            **self._told,
        }
        about = {
            "factory": describe_callable(self._factory),
            "quantities": list(self._quantities),
            "device": self._on,
        }
        return Description("train", columns, identity, about)

    def evaluate(self, index: int, group: Communicator) -> Row:
        """See `Task`; a model is trained by one rank."""
        rows, state = self._items[index], None
        if self._folder is not None:
            state = self._folder / STATE_FOLDER / f"{index:04d}.npz"
        cell = self._models[rows[0]][0]
        if len(rows) == 1:
            label = label_of({**self._cells[cell], "seed": self._models[rows[0]][1]})
            training = self._training(rows[0])
            told = lambda text: self._tell(f"{label}: {text}")  # noqa: E731
            found = [training.run(state=state, report=told, stopping=self.stopping)]
        else:
            label = label_of(self._cells[cell]) or "all seeds"
            together = self._together(rows)
            told = lambda text: self._tell(f"{label}: {text}")  # noqa: E731
            found = together.run(state=state, report=told, stopping=self.stopping)
        return self._row(found)

    def _row(self, found: Sequence[Trained]) -> Row:
        row: dict[str, Any] = {name: np.full(shape, np.nan) for name, shape in self._description.columns.items()}
        row["loss"] = min(float(one.curves["loss"][one.kept]) for one in found)
        for number, one in enumerate(found):
            for name in _NUMBERS[:-1]:
                row[name][number] = getattr(one, name)
            row["end"][number] = ENDS.index(one.end)
            for name, values in one.curves.items():
                row[f"curve_{name}"][number, : len(values)] = values
        return row

    @property
    def models(self) -> int:
        """How many models there are."""
        return len(self._models)

    def extend(self, rows: Rows) -> int:
        """See `Task`: one round."""
        return self.count

    def trial(self) -> tuple[int, float]:
        """(epochs of all models, seconds for one of them): one epoch of the first model, nothing kept."""
        return len(self._seeds) * sum(self._epochs), self._training(0, keep=False).trial()

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

    def _looked_at(self, cell: int, *, whole: bool) -> _Seen:
        """What there is to know of the models of one cell.

        `whole` has all of the data seen by the first model: labels that are no class are found then.
        """
        rows = self._rows_of(cell)
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
        recipe, size = self._recipes[cell], sum(value.numel() for value in state.values())
        if not whole and recipe.steps is None:
            return _Seen(digests, recipe.epochs, size, "")
        objective = self._objective(rows[0], self._data)
        if whole:
            for one in (objective, *([] if self._test is None else [objective.elsewhere(self._test)])):
                one.estimates()
        per_epoch = self._batches(objective, recipe, self._trained(recipe)).steps(self._stream(rows[0]))
        if per_epoch == 0:
            raise InputError("the training data gave no batch; give one at least")
        epochs = -(-recipe.total_steps(per_epoch) // per_epoch)
        return _Seen(digests, epochs, size, str(objective.identity(centre=False)["structure"]))

    # -- one model ----------------------------------------------------------------------------------------------

    def _rows_of(self, cell: int) -> list[int]:
        """The models of a cell."""
        return [row for row, (its, _) in enumerate(self._models) if its == cell]

    def _alike(self) -> dict[str, list[int]]:
        """Cells whose models the factory makes alike."""
        found: dict[str, list[int]] = {}
        for number, cell in enumerate(self._cells):
            found.setdefault(repr(factory_arguments(cell)), []).append(number)
        return found

    def _to_be_batched(self, parameters: Sequence[int]) -> list[bool]:
        """Whether the seeds of each cell are to be trained as one, where that can be.

        By default where it pays: small networks on small batches, and so many steps in all that tracing is little.
        """
        asked, whole = self._settings.batched, None if self._train is not None else as_whole(self._data)
        simple = self._loss == "cross_entropy" and self._forward is None and not self._settings.trajectory
        if asked is False or not simple or whole is None or len(self._seeds) < 2:
            return [False] * len(self._cells)
        samples = int(next(tensors_in(whole)).shape[0])
        found, steps = [], 0
        for size, recipe, epochs in zip(parameters, self._recipes, self._epochs, strict=True):
            trained = max(1, round(recipe.fraction * samples))
            small = size <= MOST_PARAMETERS and size * min(recipe.batch_size, trained) <= MOST_PRODUCTS
            found.append(asked is True or small)
            steps += found[-1] * len(self._seeds) * epochs * -(-trained // recipe.batch_size)
        return found if asked or steps >= LEAST_STEPS else [False] * len(self._cells)

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

    def _training(self, row: int, *, keep: bool = True) -> ModelTraining:
        """The training of a model; without `keep` no file is written."""
        cell, _ = self._models[row]
        recipe, stream = self._recipes[cell], self._stream(row)
        data = trained_on(self._data, recipe)
        objective = self._objective(row, data)
        batches = self._batches(objective, recipe, data if self._train is None else self._train)
        return ModelTraining(
            objective,
            None if self._test is None else objective.elsewhere(self._test),
            batches,
            recipe,
            stream,
            per_epoch=batches.steps(stream),
            folder=None if self._folder is None or not keep else self._folder / model_folder(row),
            trajectory=self._settings.trajectory,
        )

    def _together(self, rows: Sequence[int]) -> SeedsTraining:
        """The training of all models of a cell as one."""
        cell, _ = self._models[rows[0]]
        gradient, batches = self._gradients(cell)
        if gradient is None:
            raise InputError(
                f"the seeds of cell {label_of(self._cells[cell])} were trained as one when this run began, and cannot "
                "be here: another version of torch? Name another folder, or give batched=False"
            )
        members = [self._training(row) for row in rows]
        streams = [self._stream(row) for row in rows]
        return SeedsTraining(members, gradient, batches, self._recipes[cell], streams, batches.steps(streams[0]))

    def _gradients(self, cell: int) -> tuple[Step | None, TrainingData]:
        """(the gradients of all models of a cell at once, None where that cannot be; the batches)."""
        row, recipe = self._rows_of(cell)[0], self._recipes[cell]
        data = trained_on(self._data, recipe)
        objective = self._objective(row, data)
        batches = self._batches(objective, recipe, data)
        return batched_gradient(objective, len(self._seeds), batches, self._stream(row)), batches

    def _tell(self, text: str) -> None:
        if self.report is not None:
            self.report(text)


def _gathered(comm: Communicator, mine: Callable[[], dict[int, T]]) -> dict[int, T]:
    """What all ranks found, by its number."""
    return {number: one for part in comm.gather_all(agree(comm, mine)) for number, one in part.items()}


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
    batched: bool | None = None,
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

    A model is an item, and trained by one rank. With `batched` all seeds of a cell are one item and trained as one
    batched model (vmap), wherever their operations can be: on the same batches, to the same losses but for rounding.
    By default that is done where it pays: networks of up to 1e5 parameters, no more than 1e6 parameters times samples
    of a batch, 20,000 steps or more in all, data as tensors, "cross_entropy" by name; never with dropout or buffers.

    The folder `out` keeps `models/NUMBER/initial.safetensors` and `final.safetensors` of every model, with `trajectory`
    its state every so many steps, too, and `landscape.h5` with the curves. A killed run goes on from the last epoch of
    every model in hand, to the same bits. A model whose loss becomes NaN or infinite is left out, with its reason and
    epoch, and the run goes on.

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
        batched=batched,
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
    identity, about = description.identity, description.about
    cells: list[Cell] = identity["cells"]
    models = [(cell, seed) for cell in cells for seed in identity["seeds"]]
    found = _by_model(identity["items"], rows, len(models))
    done = found.done
    numbers = {name: np.where(done, found.columns[name], -1).astype(np.int64) for name in _NUMBERS[:-1]}
    ends = [ENDS[int(end)] if there else "" for end, there in zip(found.columns["end"], done, strict=True)]
    left_out = {row: _diverged(end, int(numbers["epochs"][row])) for row, end in enumerate(ends) if end in ENDS[3:]}
    for item, reason in history.failed.items():
        left_out |= {row: f"its training failed: {_last_line(reason)}" for row in identity["items"][item]}
    names = list(about["quantities"])
    attributes = {
        "task": description.name,
        **{name: identity[name] for name in ("model", "samples", "test_samples", "loss", "precision")},
        "data_hash": identity["data"],
        "recipe": dict(identity["recipe"]),
        "factory": about["factory"],
        "train": identity["train"],
        "device": about["device"],
        "items": [list(item) for item in identity["items"]],
        **provenance(description, history),
        "error": EXACT,
    }
    return Training(
        keys={name: tuple(cell[name] for cell, _ in models) for name in cells[0]},
        seed=tuple(seed for _, seed in models),
        values={name: found.columns[f"curve_{name}"] for name in names},
        stderr={name: found.columns[f"curve_{name}_stderr"] for name in names},
        kept=numbers["kept"],
        epochs=numbers["epochs"],
        steps=numbers["steps"],
        ended=tuple("diverged" if end in ENDS[3:] else end for end in ends),
        left_out=left_out,
        computed=done,
        paths=tuple(model_folder(row) for row in range(len(models))),
        attributes=attributes,
    )


def _by_model(items: Sequence[Sequence[int]], rows: Rows, count: int) -> Rows:
    """Rows of items as rows of models."""
    columns = {name: shape[1:] for name, shape in ((n, v.shape[1:]) for n, v in rows.columns.items()) if shape}
    found = Rows.empty(columns, count)
    for item, models in enumerate(items):
        for place, row in enumerate(models):
            found.done[row] = rows.done[item]
            for name in columns:
                found.columns[name][row] = rows.columns[name][item, place]
    return found


def _diverged(end: str, epoch: int) -> str:
    became = "NaN" if end == "nan" else "infinite"
    return f"its loss became {became} in epoch {epoch}" if epoch else f"its loss is {became} before the first step"


def _last_line(reason: str) -> str:
    return reason.strip().splitlines()[-1]
