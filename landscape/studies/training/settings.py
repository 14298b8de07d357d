"""What is asked of training."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Ge

from landscape.checkpoints.trained import COLUMNS
from landscape.errors import InputError, nearest
from landscape.results.settings import Settings
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


class _ArmsForm:
    """Ways to train that differ in some keys."""

    def check(self, name: str, value: Any) -> Any:
        """The arms as a tuple, None as none. Raises InputError for what is no list of mappings of keys to values."""
        arms = () if value is None else value
        if isinstance(arms, (str, bytes, Mapping)) or not isinstance(arms, Sequence):
            raise InputError(f"{type(value).__name__}; give a list of changes, as [{{}}, {{optimizer = 'adam'}}]")
        cells = _CellsForm()
        for arm in arms:
            if not isinstance(arm, Mapping):
                raise InputError(f"an arm is {arm!r}; give its keys and their values, {{}} for what is usual")
            cells.check(name, {key: [one] for key, one in arm.items()})
        return tuple(dict(arm) for arm in arms)


Cells = Annotated[Any, _CellsForm()]
Arms = Annotated[Any, _ArmsForm()]
Seeds = Annotated[Any, _SeedsForm()]


@dataclass(frozen=True)
class TrainingSettings(Settings):
    """How models are trained, which and of which seeds; see `train_models`."""

    recipe: RecipeLike = DEFAULT
    cells: Cells = None
    arms: Arms = None
    seeds: Seeds = 1
    sequence: str | None = None
    trajectory: Annotated[int, Ge(0)] = 0
    batched: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "recipe", Recipe.of(self.recipe))
        forms: dict[str, _CellsForm | _ArmsForm | _SeedsForm] = {
            "cells": _CellsForm(),
            "arms": _ArmsForm(),
            "seeds": _SeedsForm(),
        }
        for name, form in forms.items():
            try:
                object.__setattr__(self, name, form.check(name, getattr(self, name)))
            except InputError as error:
                raise InputError(f"{name}: {error}") from None
        self._require_sequence()

    def _require_sequence(self) -> None:
        """Raise InputError for a sequence that is none, and for an lr_decay without one."""
        if self.sequence is None:
            decayed = [*(arm.get("lr_decay", 1.0) for arm in self.arms), *self.cells.get("lr_decay", ())]
            if self.recipe.lr_decay != 1 or any(one != 1 for one in decayed):
                raise InputError(
                    "lr_decay is of models that are trained one after another, and there is no sequence; leave it out, "
                    "or name the key of cells whose values follow each other: sequence='task'"
                )
            return
        if self.sequence not in self.cells:
            raise InputError(
                f"sequence={self.sequence!r} is no key of cells; {nearest(str(self.sequence), self.cells)}"
            )
        if any(self.sequence in arm for arm in self.arms):
            raise InputError(f"sequence={self.sequence!r} is a key of arms, too; name its values in cells alone")
        if len(self.cells[self.sequence]) < 2:
            raise InputError(f"sequence={self.sequence!r} has one value in cells; give two or more, in their order")

    @property
    def seed_list(self) -> tuple[int, ...]:
        """The seeds."""
        return tuple(range(self.seeds)) if isinstance(self.seeds, int) else self.seeds

    def all_cells(self) -> list[Cell]:
        """Every combination of the keys' values, the last key varying fastest, for every arm; at least one cell.

        Every cell has the keys of all arms: where its own arm does not say, the value of the cells or of the recipe.
        Raises InputError for a key that has no such value, and for cells that are equal.
        """
        found: list[Cell] = [
            dict(zip(self.cells, values, strict=True)) for values in itertools.product(*self.cells.values())
        ]
        if not self.arms:
            return found
        keys = list(dict.fromkeys(key for arm in self.arms for key in arm))
        found = [
            {**cell, **{key: arm[key] if key in arm else self._usual(cell, key) for key in keys}}
            for arm in self.arms
            for cell in found
        ]
        twice = next((cell for k, cell in enumerate(found) if cell in found[:k]), None)
        if twice is not None:
            raise InputError(f"arms: the cell {label_of(twice) or '(no keys)'} is there twice; let every arm differ")
        return found

    def _usual(self, cell: Cell, key: str) -> Any:
        """The value of a key for arms that do not say it."""
        value = cell[key] if key in cell else getattr(self.recipe, key, None)
        if not isinstance(value, (bool, int, float, str)):
            raise InputError(
                f"arms: {key!r} has no value where an arm does not say it; name the usual one in cells, as "
                f"{{{key} = [...]}}, or in every arm"
            )
        return value

    def recipe_of(self, cell: Cell) -> Recipe:
        """The recipe of a cell. Raises InputError for values that cannot be, naming the cell."""
        changes = {key: value for key, value in cell.items() if key in KEYS}
        recipe: Recipe = self.recipe
        place = 0 if self.sequence is None else self.cells[self.sequence].index(cell[self.sequence])
        try:
            return recipe.with_keys(**changes).at_place(place)
        except InputError as error:
            raise InputError(f"cell {label_of(cell)}: {error}") from error


def label_of(cell: Cell) -> str:
    """A cell in words.

    >>> label_of({"width": 8, "batch_size": 32})
    'width=8,batch_size=32'
    """
    return ",".join(f"{name}={value}" for name, value in cell.items())
