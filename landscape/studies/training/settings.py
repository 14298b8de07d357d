"""What is asked of training."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Ge

from landscape.checkpoints.trained import COLUMNS
from landscape.errors import InputError
from landscape.studies.training.recipe import DEFAULT, KEYS, Recipe, RecipeLike

Cell = Mapping[str, Any]  # key -> value


class _CellsForm:
    """Keys and the values of each."""

    def check(self, name: str, value: Any) -> Any:
        """Lists as tuples, None as no keys. Raises InputError for what is no mapping of keys to values that differ."""
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise InputError(f"{type(value).__name__}; give the values of each key, as {{width = [8, 16]}}")
        found: dict[str, tuple[Any, ...]] = {}
        for key, values in value.items():
            if key in COLUMNS:
                raise InputError(
                    f"key {key!r} is a column of every table of models ({', '.join(COLUMNS)}); name it otherwise"
                    + (", or give the seeds as seeds=" if key == "seed" else "")
                )
            if isinstance(values, (str, bytes)) or not isinstance(values, (Sequence, range)) or not len(values):
                raise InputError(f"key {key!r} has {values!r}; give a list of values, at least one")
            unfit = next((one for one in values if not isinstance(one, (bool, int, float, str))), None)
            if unfit is not None:
                raise InputError(f"key {key!r} has {unfit!r}; the key of a cell is a number, a text, true or false")
            if len(set(values)) < len(values):
                raise InputError(f"key {key!r} has a value twice: {list(values)}")
            found[key] = tuple(values)
        return found


class _SeedsForm:
    """How many seeds, or which."""

    def check(self, name: str, value: Any) -> Any:
        """The number, or the seeds as a tuple. Raises InputError for anything else."""
        listed = value if isinstance(value, (list, tuple, range)) else ()
        if type(value) is int and value >= 1:
            return value
        if listed and all(type(one) is int and one >= 0 for one in listed) and len(set(listed)) == len(listed):
            return tuple(listed)
        raise InputError(f"{value!r}; give how many seeds, 1 or more, or a list of different whole numbers from 0 on")


Cells = Annotated[Any, _CellsForm()]
Seeds = Annotated[Any, _SeedsForm()]


@dataclass(frozen=True)
class TrainingSettings:
    """How models are trained, which and of which seeds; see `train_models`."""

    recipe: RecipeLike = DEFAULT
    cells: Cells = None
    seeds: Seeds = 1
    trajectory: Annotated[int, Ge(0)] = 0
    batched: bool | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "recipe", Recipe.of(self.recipe))
        forms: dict[str, _CellsForm | _SeedsForm] = {"cells": _CellsForm(), "seeds": _SeedsForm()}
        for name, form in forms.items():
            try:
                object.__setattr__(self, name, form.check(name, getattr(self, name)))
            except InputError as error:
                raise InputError(f"{name}: {error}") from None
        if type(self.trajectory) is not int or self.trajectory < 0:
            raise InputError(f"trajectory={self.trajectory!r}; give the steps from one state to the next, 0 for none")

    @property
    def seed_list(self) -> tuple[int, ...]:
        """The seeds."""
        return tuple(range(self.seeds)) if isinstance(self.seeds, int) else self.seeds

    def all_cells(self) -> list[Cell]:
        """Every combination of the keys' values, the last key varying fastest; one cell where there are no keys."""
        return [dict(zip(self.cells, values, strict=True)) for values in itertools.product(*self.cells.values())]

    def recipe_of(self, cell: Cell) -> Recipe:
        """The recipe of a cell. Raises InputError for values that cannot be, naming the cell."""
        changes = {key: value for key, value in cell.items() if key in KEYS}
        recipe: Recipe = self.recipe
        try:
            return recipe.with_keys(**changes)
        except InputError as error:
            raise InputError(f"cell {label_of(cell)}: {error}") from error


def factory_arguments(cell: Cell) -> dict[str, Any]:
    """What of a cell goes to the factory: all that is no key of a recipe."""
    return {key: value for key, value in cell.items() if key not in KEYS}


def label_of(cell: Cell) -> str:
    """A cell in words.

    >>> label_of({"width": 8, "batch_size": 32})
    'width=8,batch_size=32'
    """
    return ",".join(f"{name}={value}" for name, value in cell.items())
