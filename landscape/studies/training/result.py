"""Trained models and how their training went, as a frozen result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from landscape_kernels.arrays import BoolArray, FloatArray, IntArray

from landscape.arguments import checked
from landscape.checkpoints.trained import VALUES, TrainedModels
from landscape.errors import InputError, nearest
from landscape.results.base import Result
from landscape.results.quantities import Meaning
from landscape.studies.training.data import DataSets, trained_on
from landscape.studies.training.recipe import KEYS, Recipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEANINGS: Mapping[str, Meaning] = {
    "loss": Meaning("training loss", "1", "loss on all training data at the end of the epoch, in eval mode"),
    "error": Meaning("training error", "fraction", "share of training samples predicted wrong, in eval mode"),
    "test_loss": Meaning("held-out loss", "1", "loss on the test data at the end of the epoch, in eval mode"),
    "test_error": Meaning("held-out error", "fraction", "share of test samples predicted wrong, in eval mode"),
}


@dataclass(frozen=True, repr=False)
class Training(Result):
    """Models of several cells and seeds, and loss and error of each after every epoch; epoch 0 is before training.

    A model whose loss became NaN or infinite is left out: it has no final weights, and `left_out` says why.
    """

    keys: Mapping[str, tuple[Any, ...]]  # key of the cells -> its value for each of n models
    seed: tuple[int, ...]
    values: Mapping[str, FloatArray]  # "loss", "error", "test_loss", "test_error" -> (n, epochs + 1); NaN after the end
    stderr: Mapping[str, FloatArray]  # the same; standard error over samples, for the population they were drawn from
    kept: IntArray  # (n,), the epoch of the final weights; -1 where the model is not trained
    epochs: IntArray  # (n,), epochs that were begun
    steps: IntArray  # (n,)
    ended: tuple[
        str, ...
    ]  # why the training ended: "epochs", "stop_error", "stop_loss", "diverged"; "" where it did not
    left_out: Mapping[int, str]  # model -> why it is left out
    computed: BoolArray  # (n,); False where the model is not trained yet
    paths: tuple[str, ...]  # (n,), folder of each model's weights in the run folder
    attributes: Mapping[str, Any] = field(default_factory=dict)  # recipe, data, provenance
    # Not filed: where the run is, and what it was made with in this process.
    folder: Path | None = field(default=None, compare=False)
    factory: Callable[..., Any] | None = field(default=None, compare=False)
    data: Any = field(default=None, compare=False)
    test: Any = field(default=None, compare=False)
    loss: Any = field(default=None, compare=False)

    def __repr__(self) -> str:
        by = f" by {', '.join(self.keys)}" if self.keys else ""
        cells = len(set(zip(*self.keys.values(), strict=True))) if self.keys else 1
        left = f", {len(self.left_out)} left out" if self.left_out else ""
        return (
            f"Training({len(self.seed)} models in {cells} cell{'s' if cells > 1 else ''}{by}, "
            f"{int(self.computed.sum())} trained{left})"
        )

    @property
    def complete(self) -> bool:
        """Whether every model was trained, or left out for a reason that is known."""
        return all(done or row in self.left_out for row, done in enumerate(self.computed))

    @checked()
    def final(self, quantity: str) -> FloatArray:
        """A quantity at the final weights, (n,); NaN for models that are left out. Raises InputError for another."""
        self.require(quantity)
        return self._final(self.values[quantity])

    @checked()
    def final_stderr(self, quantity: str) -> FloatArray:
        """Its standard error over samples, (n,). Raises InputError for an unknown quantity."""
        self.require(quantity)
        return self._final(self.stderr[quantity])

    def _final(self, curves: FloatArray) -> FloatArray:
        there = [epoch >= 0 and row not in self.left_out for row, epoch in enumerate(self.kept.tolist())]
        picked = curves[np.arange(len(curves)), np.maximum(self.kept, 0)]
        return np.where(there, picked, np.nan)

    def rows_of_cells(self) -> dict[tuple[Any, ...], tuple[int, ...]]:
        """{values of the keys: rows of the cell's models}, in their order."""
        return self.checkpoints.cells()

    @property
    def checkpoints(self) -> TrainedModels:
        """The models as a table: keys, seed, paths of initial and final weights, values at the final weights."""
        home = Path() if self.folder is None else self.folder
        begun = [bool(done) for done in self.computed]
        there = [done and row not in self.left_out for row, done in enumerate(begun)]

        def of(name: str, known: list[bool]) -> tuple[Path | None, ...]:
            places = zip(self.paths, known, strict=True)
            return tuple(home / place / f"{name}.safetensors" if one else None for place, one in places)

        values = {name: self.final(name) for name in VALUES if name in self.values}
        return TrainedModels(self.keys, self.seed, of("initial", begun), of("final", there), values, self.left_out)

    @checked()
    def recipe(self, row: int = 0) -> Recipe:
        """How one model was trained."""
        changes = {name: column[row] for name, column in self.keys.items() if name in KEYS}
        recipe = Recipe.of(self.attributes["recipe"]).with_keys(**changes)
        tasks = self.keys.get(self.sequence, ())
        return recipe.at_place(list(dict.fromkeys(tasks)).index(tasks[row])) if tasks else recipe

    @property
    def sequence(self) -> str:
        """The key whose values are tasks that followed each other; empty where every model began for itself."""
        return str(self.attributes.get("sequence", ""))

    @checked()
    def training_data(self, row: int = 0) -> Any:
        """What one model was trained on, its noisy labels among it. Raises InputError where the data are not known."""
        if self.data is None:
            raise InputError("the training was opened from its folder, which does not hold the data; give them anew")
        return trained_on(DataSets(self.data).data(self._cell(row)), self.recipe(row))

    @checked()
    def data_hash(self, row: int = 0) -> str:
        """The hash of the data of one model, before its recipe took a fraction of them; empty where it is not known."""
        told = str(self.attributes.get("data_hash", "")).strip()
        if " " not in told:
            return told
        own = {f"{name}={value}" for name, value in self._cell(row).items()}
        found = (one.rsplit(" ", 1) for one in told.split("; "))  # "task=0 HASH", one for each value
        return next((hashed for keys, hashed in found if set(keys.split(",")) <= own), "")

    @checked()
    def test_data(self, row: int = 0) -> Any:
        """The test data of one model; None where there are none, or they are not known."""
        return DataSets(None, self.test).test(self._cell(row))

    def _cell(self, row: int) -> dict[str, Any]:
        return {name: column[row] for name, column in self.keys.items()}

    @checked()
    def label(self, row: int) -> str:
        """One model in words."""
        return self.checkpoints.label(row)

    @checked()
    def at(self, folder: Path) -> Training:
        """The same run in a folder, in which its weights are."""
        return replace(self, folder=folder)

    @checked()
    def made(self, folder: Path, factory: Callable[..., Any], data: Any, test: Any, loss: Any) -> Training:
        """The same run with what it was made with."""
        return replace(self, folder=folder, factory=factory, data=data, test=test, loss=loss)

    @checked()
    def require(self, quantity: str) -> None:
        """Raise InputError for an unknown quantity."""
        if quantity not in self.values:
            raise InputError(f"the training has no quantity {quantity!r}; {nearest(quantity, self.values)}")

    @checked()
    def plot(self, quantity: str | None = None) -> Figure:
        """A Figure of the curves of training; see `plot_training`."""
        return self._drawn(quantity)
