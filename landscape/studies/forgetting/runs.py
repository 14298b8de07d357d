"""Which trained models followed each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from landscape.checkpoints.trained import TrainedModels
from landscape.errors import InputError, nearest


@dataclass(frozen=True)
class Run:
    """One sequence of models: a cell but for its task, and a seed."""

    keys: Mapping[str, Any]
    seed: int
    rows: tuple[int | None, ...]  # of the models after each task, in order; None where there are no final weights

    def later(self, place: int) -> tuple[int, ...]:
        """Places of the later tasks that left weights."""
        return tuple(k for k in range(place + 1, len(self.rows)) if self.rows[k] is not None)


@dataclass(frozen=True)
class Runs:
    """Sequences of models over the same tasks."""

    key: str
    tasks: tuple[Any, ...]  # its values, in the order in which they were trained on
    runs: tuple[Run, ...]
    lost: Mapping[str, str]  # a model without final weights -> why

    def items(self) -> Iterator[tuple[int, int]]:
        """(run, place) of every task that left weights and has a later one that did; seeds of a cell side by side."""
        cells: dict[tuple[Any, ...], list[int]] = {}
        for number, run in enumerate(self.runs):
            cells.setdefault(tuple(run.keys.items()), []).append(number)
        for numbers in cells.values():
            for place in range(len(self.tasks)):
                for number in numbers:
                    if self.runs[number].rows[place] is not None and self.runs[number].later(place):
                        yield number, place


def runs_of(models: TrainedModels, told: str | None, asked: str | None) -> Runs:
    """The sequences in a table of models.

    `told` is the key that the models' training names, "" where they were not trained in a sequence, None for a table of
    the user's, whose rows of one cell and seed stand in the order of their tasks. Raises InputError for a key that is
    not there or contradicts the training, and where no two models followed each other.
    """
    if told == "":
        raise InputError(
            "these models were not trained one after another: each began with weights of its own. Train them with "
            "sequence='task', a key of cells that the data follow from"
        )
    if asked is not None and told is not None and asked != told:
        raise InputError(f"sequence={asked!r}, and the models were trained in the sequence of {told!r}; leave it out")
    key = asked or told
    if key is None:
        raise InputError(
            "sequence= is not given, and a table does not tell which key is the task; name it: "
            + ", ".join(models.keys)
        )
    if key not in models.keys:
        raise InputError(f"sequence={key!r} is no key of the models; {nearest(key, models.keys)}")
    tasks = tuple(dict.fromkeys(models.keys[key]))
    found: dict[tuple[Any, ...], dict[Any, int]] = {}
    for row in range(len(models)):
        others = tuple((name, column[row]) for name, column in models.keys.items() if name != key)
        found.setdefault((others, models.seed[row]), {})[models.keys[key][row]] = row
    runs = tuple(
        Run(dict(others), seed, tuple(_with_weights(models, rows.get(task)) for task in tasks))
        for (others, seed), rows in found.items()
    )
    lost = {
        models.label(row): models.left_out.get(row, "it has no final weights")
        for row in range(len(models))
        if models.final[row] is None
    }
    every = Runs(key, tasks, runs, lost)
    if next(every.items(), None) is None:
        raise InputError(
            f"no two models follow each other in {key!r} ({len(tasks)} tasks, {len(runs)} runs, {len(lost)} models "
            "without final weights); forgetting is of a task that a later one follows"
        )
    return every


def _with_weights(models: TrainedModels, row: int | None) -> int | None:
    return row if row is not None and models.final[row] is not None else None
