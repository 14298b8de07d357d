"""Forgetting against curvature, as a frozen result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from landscape_kernels.arrays import BoolArray, FloatArray

from landscape.arguments import checked
from landscape.errors import InputError
from landscape.results.base import Result
from landscape.results.quantities import QUANTITIES, Meaning

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# w is the weights that a task left, v those that a later one left, L the loss of the first task on its training data.
MEANINGS: Mapping[str, Meaning] = {
    "forgetting": Meaning("forgetting", definition="L(v) - L(w) of the task, w its weights, v those of a later task"),
    "gradient": Meaning("part of the gradient", definition="part of the gradient g'(v - w), g the gradient of L at w"),
    "quadratic": Meaning("quadratic form", definition="quadratic form (v - w)'H(v - w) / 2, H the Hessian of L at w"),
    "bound": Meaning("bound", definition="bound lambda_max |v - w|^2 / 2 of the quadratic form"),
    "distance": Meaning("distance of the weights", "parameter units", "distance |v - w|"),
    "lambda_max": Meaning("largest eigenvalue", definition="largest eigenvalue of H; its error has its residual in it"),
}  # fmt: skip
OF_LAYERS = ("gradient", "quadratic", "distance")
HOLDS, WITHIN, EXCEEDED = "holds", "within errors", "exceeded"
_SURE = 2.0  # standard errors


@dataclass(frozen=True, repr=False)
class Forgetting(Result):
    """What P pairs of a task and a later one show: how the loss of the first rose, and what its curvature says.

    With w the weights after the task, v those after the later one, L the loss of the task on its training data, g and H
    its gradient and Hessian at w: F = L(v) - L(w) = g'(v - w) + (v - w)'H(v - w) / 2 + terms of third order. The bound
    lambda_max |v - w|^2 / 2 is one of the quadratic form alone.
    """

    sequence: str  # the key that tells the tasks
    keys: Mapping[str, tuple[Any, ...]]  # every other key of the cells -> its value for each pair
    seed: tuple[int, ...]  # (P,)
    task: tuple[Any, ...]  # (P,) value of the key
    later: tuple[Any, ...]  # (P,) value of the key of the later task
    layers: tuple[str, ...]  # (L,)
    values: Mapping[str, FloatArray]  # of MEANINGS but the bound, and QUANTITY_before, QUANTITY_after -> (P,)
    stderr: Mapping[str, FloatArray]  # the same -> (P,); for the population the data were drawn from
    layer_values: Mapping[str, FloatArray]  # of OF_LAYERS -> (P, L): the parts that layers have in gradient and form
    layer_stderr: Mapping[str, FloatArray]  # of "gradient" and "quadratic" -> (P, L)
    computed: BoolArray  # (P,)
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        runs = len({(*self._cell(k), self.seed[k]) for k in range(len(self.seed))})
        tasks = len(dict.fromkeys((*self.task, *self.later)))
        return (
            f"Forgetting({len(self.seed)} pairs of {tasks} tasks in {runs} run{'s' if runs != 1 else ''}, "
            f"{int(self.computed.sum())} computed)"
        )

    @property
    def complete(self) -> bool:
        """Whether every pair was computed."""
        return bool(self.computed.all())

    @property
    def forgetting(self) -> FloatArray:
        """(P,) F = L(v) - L(w)."""
        return self.values["forgetting"]

    @property
    def quadratic(self) -> FloatArray:
        """(P,) (v - w)'H(v - w) / 2."""
        return self.values["quadratic"]

    @property
    def predicted(self) -> FloatArray:
        """(P,) g'(v - w) + (v - w)'H(v - w) / 2: F to second order."""
        found: FloatArray = self.values["gradient"] + self.values["quadratic"]
        return found

    @property
    def predicted_stderr(self) -> FloatArray:
        """(P,) its error, those of the two parts taken as independent."""
        found: FloatArray = np.hypot(self.stderr["gradient"], self.stderr["quadratic"])
        return found

    @property
    def bound(self) -> FloatArray:
        """(P,) lambda_max |v - w|^2 / 2."""
        found: FloatArray = self.values["lambda_max"] * self.values["distance"] ** 2 / 2
        return found

    @property
    def bound_stderr(self) -> FloatArray:
        """(P,) error of the bound: of the largest eigenvalue over samples, and its residual."""
        found: FloatArray = self.stderr["lambda_max"] * self.values["distance"] ** 2 / 2
        return found

    @property
    def excess(self) -> FloatArray:
        """(P,) F - bound: above 0 where the bound is exceeded."""
        with np.errstate(invalid="ignore"):  # both may be infinite
            found: FloatArray = self.forgetting - self.bound
        return found

    @property
    def excess_stderr(self) -> FloatArray:
        """(P,) its error, those of F and of the bound taken as independent."""
        found: FloatArray = np.hypot(self.stderr["forgetting"], self.bound_stderr)
        return found

    @property
    def verdict(self) -> tuple[str, ...]:
        """(P,) "holds" where F is at most the bound; else "within errors" (two standard errors), or "exceeded".

        Empty where it is not known.
        """
        excess, error = self.excess, self.excess_stderr
        found = np.where(excess <= 0, HOLDS, np.where(excess <= _SURE * error, WITHIN, EXCEEDED))
        return tuple(np.where(self.computed & ~np.isnan(excess), found, "").tolist())

    @property
    def last(self) -> BoolArray:
        """(P,) whether the later task is the last one that its run has."""
        found = {(*self._cell(k), self.seed[k], self.task[k]): k for k in range(len(self.seed))}
        return np.isin(np.arange(len(self.seed)), list(found.values()))

    def rows_of_cells(self) -> dict[str, tuple[int, ...]]:
        """{keys of a cell in words: its pairs}, in their order."""
        found: dict[str, list[int]] = {}
        for k in range(len(self.seed)):
            words = ",".join(f"{name}={value}" for name, value in zip(self.keys, self._cell(k), strict=True))
            found.setdefault(words or "all", []).append(k)
        return {words: tuple(rows) for words, rows in found.items()}

    @checked()
    def label(self, row: int) -> str:
        """One pair in words."""
        keys = [f"{name}={value}" for name, value in zip(self.keys, self._cell(row), strict=True)]
        return ",".join([*keys, f"seed={self.seed[row]}", f"{self.sequence}={self.task[row]} after {self.later[row]}"])

    @checked()
    def plot(self, kind: str = "bound") -> Figure:
        """A Figure of forgetting against the quadratic form and the bound, or of layers; see `plot_forgetting`."""
        return self._drawn(kind)

    def _cell(self, row: int) -> tuple[Any, ...]:
        return tuple(column[row] for column in self.keys.values())


def meaning_of(name: str) -> Meaning:
    """What a quantity of `Forgetting.values` is. Raises InputError for none."""
    if name in MEANINGS:
        return MEANINGS[name]
    quantity, _, when = name.rpartition("_")
    plain = quantity.removeprefix("test_")
    if when not in ("before", "after") or plain not in QUANTITIES:
        raise InputError(f"{name!r} is no quantity of forgetting; known: {', '.join(MEANINGS)}")
    of = QUANTITIES[plain]
    data = "test data" if quantity != plain else "training data"
    at = "at w, the weights after the task" if when == "before" else "at v, the weights after the later task"
    return Meaning(f"{of.words} {when}", of.unit, f"{of.long_name} of the task's {data} {at}")
