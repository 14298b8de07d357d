"""Study: how one kind of result is measured; which one a run is of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from landscape.errors import StoreError
from landscape.results.kind import Kind, register
from landscape.results.stages import Stage
from landscape.results.trial import Trial
from landscape.run.store import History
from landscape.run.task import Description, Rows, Task

R = TypeVar("R")

FromStages = Callable[[Mapping[str, Stage]], R]  # {name of a task: what it left} -> the result, masked where rows lack


@dataclass(frozen=True)
class Input:
    """An argument of `measure` that is no plain value: what a job file names in its place."""

    # "data", "model", "models", "checkpoint" (not of the plane or centre), "curve", "plane", "ranges", "surface",
    # "table" or "trained"; see landscape_jobs.build.objects
    form: str
    key: str = ""  # in the job's table; by default the argument's own name
    required: bool = False
    labels: str = ""  # of "models": the argument that takes their names, where the run of a training gives some


DATA = Input("data")  # a factory and its arguments
PLANE = Input("plane", required=True)  # the job's table [plane]


def anywhere(description: Description, item: int) -> dict[str, float | str]:
    """Where items are whose number says all there is to say."""
    return {}


def place_text(place: Mapping[str, float | str]) -> str:
    """A place in words.

    >>> place_text({"x": 0.25, "layer": "fc1"})
    'x = 0.25, layer fc1'
    """
    return ", ".join(f"{name} {at}" if isinstance(at, str) else f"{name} = {at:.6g}" for name, at in place.items())


@dataclass(frozen=True)
class Study(Generic[R]):
    """How one kind of result is measured."""

    name: str  # its table in a job file
    kind: Kind[R]  # several studies may have one: a curvature map is a surface
    measure: Callable[..., R] | None  # (objective, ...) -> result; None: made of another result, without a run
    tasks: tuple[str, ...] = ()  # names of its tasks, in order; of several each has a folder in the run folder
    result: FromStages[R] | None = None
    settings: type | None = None  # frozen dataclass of plain arguments; the job's table is made of it
    inputs: Mapping[str, Input] = field(default_factory=dict)  # argument -> what a job file names in its place
    task: Callable[..., Task] | None = None  # (objective, plain arguments and inputs) -> its task, of studies of one
    trial: Callable[[Any, Mapping[str, Any], Path, int], Trial] | None = None  # where two items of `task` do not tell
    place: Callable[[Description, int], Mapping[str, float | str]] = anywhere  # where an item is
    leaves_out: bool = True  # whether the result can do without items that fail
    unit: str = "items"  # what its items are called
    # what it is measured on, its first argument: an "objective"; a "factory", which gets data and loss; the inputs of
    # the "data", which get labels and factory; or one of its own inputs: of "trained" models, which get factory, data
    # and loss as far as the job has them; of "models", in whose place the job's network may stand; of a "table"
    subject: str = "objective"
    needs: tuple[str, ...] = ("model", "data")  # tables without which a job cannot name all of that
    minimum: bool = False  # whether the smallest value so far tells how a run does


_STUDIES: dict[str, Study[Any]] = {}  # filled once, by the table of studies


def adopt(*studies: Study[Any]) -> tuple[Study[Any], ...]:
    """Make studies and their kinds known to `study_of`, `kind_of` and what asks them; returns them."""
    for study in studies:
        register(study.kind)
        _STUDIES[study.name] = study
    return studies


def studies() -> tuple[Study[Any], ...]:
    """All studies that are measured, in the order of their table."""
    return tuple(study for study in _STUDIES.values() if study.measure is not None)


def study_of(task: str, beside: Sequence[str] = ()) -> Study[Any]:
    """The study that has a task of that name, `beside` those in the same run folder.

    Raises StoreError for a task that is not known.
    """
    names = {task, *beside}
    for study in studies():
        if names <= set(study.tasks):
            return study
    known = ", ".join(dict.fromkeys(name for study in studies() for name in study.tasks))
    raise StoreError(
        f"a run of the task {task!r}, whose rows this version cannot open (known: {known}); update "
        "loss-landscape-engine, or open the file it wrote"
    )


def of_rows(from_rows: Callable[[Description, Rows, History], R]) -> FromStages[R]:
    """The result of the only task of a study."""

    def result(stages: Mapping[str, Stage]) -> R:
        (stage,) = stages.values()
        return from_rows(stage.description, stage.rows, stage.history)

    return result
