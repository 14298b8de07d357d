"""The training job: every model of every cell, as a Task whose items are models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from landscape.arguments import Count, Natural, checked
from landscape.errors import InputError
from landscape.objective.described import describe_callable
from landscape.objective.losses import LossLike
from landscape.objective.random_state import keeps_random_state
from landscape.results.attributes import EXACT, provenance
from landscape.results.measured import Measurement
from landscape.results.study import of_rows
from landscape.run.comm import Communicator, world
from landscape.run.failures import Tolerance
from landscape.run.progress import Progress
from landscape.run.store import History
from landscape.run.task import Description, Row, Rows
from landscape.run.together import agree
from landscape.studies.training.in_turn import train_in_turn
from landscape.studies.training.one import DIVERGED, ENDS, NOT_BEGUN, Trained
from landscape.studies.training.plan import Plan, model_folder
from landscape.studies.training.recipe import DEFAULT, Recipe
from landscape.studies.training.result import Training
from landscape.studies.training.settings import Cell, TrainingSettings

T = TypeVar("T")
STATE_FOLDER = "fits"  # in the run folder while models are trained
_NUMBERS = ("epochs", "steps", "kept", "end")


class TrainingTask:
    """Items are models, those of one cell after each other; cells, where all of its seeds are trained as one; or
    sequences of models."""

    headline = "loss"

    def __init__(self, plan: Plan, folder: Path | None = None) -> None:
        """`folder` is where the states of what is trained go. `prepare` is to be called before anything else."""
        self._plan, self._folder = plan, folder
        self._items: list[tuple[int, ...]] = []
        self.count = len(plan.models)
        self.report: Callable[[str], None] | None = None  # see `task.Telling`
        self.stopping: Callable[[], bool] | None = None

    def prepare(self, comm: Communicator) -> TrainingTask:
        """Look at all models before any is trained, shared out over the ranks of `comm`; all of them call this.

        Raises InputError for models of one cell that differ in shape, labels that are no class, and all that
        `Objective` refuses.
        """
        plan = self._plan
        self._told = agree(comm, plan.look_at_data)
        mine = range(comm.rank, len(plan.cells), comm.size)
        first = [cells[0] for cells in plan.alike().values()]
        seen = _gathered(comm, lambda: {cell: plan.looked_at(cell, whole=cell in first) for cell in mine})
        all_seen = [seen[cell] for cell in range(len(plan.cells))]
        self._digests = [digest for one in all_seen for digest in one.digests]
        self._structures = [seen[cell].structure for cell in first]
        self._epochs = [one.epochs for one in all_seen]
        self._settle_items(comm, [one.parameters for one in all_seen])
        return self

    def _settle_items(self, comm: Communicator, parameters: Sequence[int]) -> None:
        """An item for each model, for all seeds of a cell that are trained as one, or a sequence: never by a timing."""
        plan = self._plan
        if plan.settings.sequence is not None:
            self._items = plan.sequences()
            self.count = len(self._items)
            return
        may = plan.may_be_batched(parameters, self._epochs)
        alike = [[cell for cell in cells if may[cell]] for cells in plan.alike().values()]
        mine = range(comm.rank, len(alike), comm.size)
        found = _gathered(comm, lambda: {k: plan.batched(alike[k]) for k in mine if alike[k]})
        batched = {cell for cells in found.values() for cell in cells}
        self._items = []
        for cell in range(len(plan.cells)):
            rows = plan.rows_of(cell)
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
        for name in self._told.quantities:
            columns |= {f"curve_{name}": shape, f"curve_{name}_stderr": shape}
        plan = self._plan
        identity = {
            "models": self._digests,
            "structures": self._structures,
            "cells": [dict(cell) for cell in plan.cells],
            "seeds": list(plan.seeds),
            "recipe": plan.settings.recipe.stated(),
            "trajectory": plan.settings.trajectory,
            "items": [list(rows) for rows in self._items],
            **({} if plan.settings.sequence is None else {"sequence": plan.settings.sequence}),
            **self._told.identity,
        }
        about = {
            "factory": describe_callable(plan.factory),
            "quantities": list(self._told.quantities),
            "device": self._told.device,
        }
        return Description("train", columns, identity, about)

    def evaluate(self, index: int, group: Communicator) -> Row:
        """See `Task`; a model is trained by one rank."""
        rows, plan = self._items[index], self._plan
        label = plan.label(rows)
        state = None if self._folder is None else self._folder / STATE_FOLDER / f"{index:04d}.npz"

        def tell(text: str, label: str = label) -> None:
            if self.report is not None:
                self.report(f"{label}: {text}")

        def tell_of(row: int, text: str) -> None:
            tell(text, plan.label((row,)))

        if plan.settings.sequence is not None:
            return self._row(train_in_turn(rows, plan.training, state=state, report=tell_of, stopping=self.stopping))
        if len(rows) > 1:
            return self._row(plan.together(rows).run(state=state, report=tell, stopping=self.stopping))
        return self._row([plan.training(rows[0]).run(state=state, report=tell, stopping=self.stopping)])

    def _row(self, found: Sequence[Trained]) -> Row:
        row: dict[str, Any] = {name: np.full(shape, np.nan) for name, shape in self._description.columns.items()}
        row["loss"] = min(float(one.curves["loss"][one.kept]) for one in found if one.end != NOT_BEGUN)
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
        return len(self._plan.models)

    def extend(self, rows: Rows) -> int:
        """See `Task`: one round."""
        return self.count

    def trial(self) -> tuple[int, float]:
        """(epochs of all models, seconds for one of them): one epoch of the first model, nothing kept."""
        return len(self._plan.seeds) * sum(self._epochs), self._plan.training(0, keep=False).trial()


def _gathered(comm: Communicator, mine: Callable[[], dict[int, T]]) -> dict[int, T]:
    """What all ranks found, by its number."""
    return {number: one for part in comm.gather_all(agree(comm, mine)) for number, one in part.items()}


@keeps_random_state
@checked(TrainingSettings)
def train_models(
    factory: Callable[..., Any],
    data: Any,
    *,
    out: str | Path,
    recipe: Recipe | Mapping[str, Any] = DEFAULT,
    cells: Mapping[str, Sequence[Any]] | None = None,
    arms: Sequence[Mapping[str, Any]] | None = None,
    seeds: int | Sequence[int] = 1,
    sequence: str | None = None,
    train: Any = None,
    test: Any = None,
    loss: LossLike | None = "cross_entropy",
    forward: Callable[..., Any] | None = None,
    device: str | torch.device | None = None,
    trajectory: int = 0,
    batched: bool | None = None,
    ranks_per_item: Count = 1,
    limit_items: Natural | None = None,
    tolerance: Tolerance | None = None,
    progress: Callable[[Progress], None] | None = None,
    job: str = "",
) -> Training:
    """Train a model for every combination of the cells' keys and every seed, on all MPI ranks of this run.

    `factory(**keys)` makes the nn.Module of a cell. A key of `cells` {key: values} that is one of `recipe` changes the
    recipe, any other is an argument of the factory. `arms` [{key: value}] are ways to train that differ in some keys,
    which may change together: every combination is trained in each of them, {} being what recipe and cells say.
    `seeds` is how many models a cell has, or their seeds. The initial weights are those the factory makes from random
    streams set by (seed, cell), the order of the batches and dropout follow from (seed, cell, epoch): equal bits for
    any number of ranks, and whatever other cells there are.

    `sequence` names a key of `cells` whose values are tasks that follow each other: of the models that agree in all
    else, each begins with the weights that the one before ended with, on its own data (a function of that key), with an
    optimiser that begins anew and a step size times `lr_decay` of the recipe. Such a sequence is one item.

    `data` is what loss and error are measured on after every epoch, in eval mode and on all of it (exact, no running
    mean), and `train` the batches that are trained on, by default the same; `test` is held out. `data` and `test` may
    be functions of some keys, as data(dataset), where cells differ in their data. `data`, `loss` and `forward` are
    those of `Objective`; the error is there where targets are labels of classes. Batches are drawn without replacement,
    equal to within one sample (see `TrainingData`); a step goes down the gradient of the mean loss of its batch.

    A model is an item, and trained by one rank. With `batched` all seeds of a cell are one item and trained as one
    batched model (vmap), wherever their operations can be: on the same batches, to the same losses but for rounding.
    By default that is done where it pays: networks of up to 1e5 parameters, steps of up to 6e6 floating-point
    operations, 20,000 steps or more in all, data as tensors, "cross_entropy" by name; never with dropout, with
    buffers, or in a sequence.

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
        arms=arms,
        seeds=seeds,
        sequence=sequence,
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
    device: str | torch.device | None = None,
    folder: Path | None = None,
    **asked: Any,
) -> TrainingTask:
    """The task of `train_models`, `asked` being the fields of `TrainingSettings`; all ranks call this."""
    comm = world()
    plan = agree(
        comm,
        lambda: Plan(
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
    return TrainingTask(plan, folder).prepare(comm)


def training_from_rows(description: Description, rows: Rows, history: History) -> Training:
    """The result in the rows of the models, masked where models are missing."""
    identity, about = description.identity, description.about
    cells: list[Cell] = identity["cells"]
    models = [(cell, seed) for cell in cells for seed in identity["seeds"]]
    found = _by_model(identity["items"], rows, len(models))
    ends = [ENDS[int(end)] if there else "" for end, there in zip(found.columns["end"], found.done, strict=True)]
    done = found.done & np.array([end != NOT_BEGUN for end in ends], dtype=bool)
    numbers = {name: np.where(done, found.columns[name], -1).astype(np.int64) for name in _NUMBERS[:-1]}
    left_out = {row: _diverged(end, int(numbers["epochs"][row])) for row, end in enumerate(ends) if end in DIVERGED}
    left_out |= {row: "the model before it in the sequence is left out" for row, e in enumerate(ends) if e == NOT_BEGUN}
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
        **({"forward": identity["forward"]} if identity["forward"] else {}),
        "device": about["device"],
        "items": [list(item) for item in identity["items"]],
        **({"sequence": identity["sequence"]} if "sequence" in identity else {}),
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
        ended=tuple("diverged" if end in DIVERGED else "" if end == NOT_BEGUN else end for end in ends),
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
