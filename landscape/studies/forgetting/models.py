"""The models that followed each other, and the loss of the task that each was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from landscape.checkpoints.states import read_model, require_finite
from landscape.curvature.check import ProductCheck, check_products
from landscape.curvature.matrix import Matrix
from landscape.curvature.pairs import check_tol
from landscape.curvature.sampling import whole
from landscape.errors import InputError
from landscape.objective.objective import Objective
from landscape.objective.parameters import layers_of
from landscape.objective.trees import digest
from landscape.run.comm import Communicator
from landscape.run.together import agree
from landscape.studies.forgetting.runs import Runs
from landscape.studies.training.sources import Source, of_other_data


@dataclass(frozen=True)
class Looked:
    """What was seen of an item before anything is measured."""

    identity: dict[str, Any]  # of its objective
    models: tuple[str, ...]  # digests of the model after the task and after each later one
    layers: tuple[str, ...]
    check: ProductCheck
    test: str  # digest of the test data
    other_data: bool  # whether the model after the task was trained on other data


class Models:
    """The models of runs, of which the data of one task are held at a time."""

    def __init__(self, source: Source, runs: Runs, device: str | torch.device | None = None) -> None:
        self.source, self.runs, self._device = source, runs, device
        self.items = list(runs.items())
        self._held: tuple[Any, Objective, Objective | None] | None = None
        self._frozen = False  # whether models have weights that do not vary, which other seeds may have others of
        self._metrics: tuple[str, ...] | None = None
        self.looked: list[Looked] = []

    def prepare(self, comm: Communicator, tol: float) -> Models:
        """Look at all items before any is measured, shared out over the ranks of `comm`; all of them call this.

        Raises InputError for factories that cannot be called, checkpoints that do not fit or hold NaN, a `tol` that the
        precision does not reach, and all that `Objective` and curvature refuse.
        """
        first = agree(comm, lambda: self.objective(0)[0])
        agree(comm, lambda: check_tol(tol, first, self._check(0, first)))
        mine = range(comm.rank, len(self.items), comm.size)
        found = agree(comm, lambda: {item: self._looked_at(item) for item in mine})
        together = {item: seen for part in comm.gather_all(found) for item, seen in part.items()}
        self.looked = [together[item] for item in range(len(self.items))]
        self.layers = tuple(dict.fromkeys(name for seen in self.looked for name in seen.layers))
        return self

    @property
    def quantities(self) -> tuple[str, ...]:
        """Loss and error of the task, and of its test data."""
        own = ("loss", *(self._metrics or ()))
        return (*own, *(f"test_{name}" for name in own if self.source.tested))

    @property
    def of_other_data(self) -> str:
        """The models, in words, that their training tells were trained on other data than those given."""
        return of_other_data({self.label(item): seen.other_data for item, seen in enumerate(self.looked)})

    def label(self, item: int) -> str:
        """The model that an item is of, in words."""
        run, place = self.items[item]
        return self.source.models.label(self._row(run, place))

    def objective(self, item: int) -> tuple[Objective, Objective | None]:
        """The loss of an item's task on its training data, and on its test data where there are some."""
        run, place = self.items[item]
        key = tuple(self.runs.runs[run].keys.items()), place, self.runs.runs[run].seed if self._frozen else None
        if self._held is None or self._held[0] != key:
            row = self._row(run, place)
            objective = self.source.objective(row, self._device, self._metrics)
            if objective.frozen and not self._frozen:
                self._frozen, key = True, (*key[:2], self.runs.runs[run].seed)
            self._metrics = tuple(objective.quantities[1:])
            data = self.source.test_of(row)
            self._held = key, objective, None if data is None else objective.elsewhere(data)
        return self._held[1], self._held[2]

    def model(self, item: int, place: int) -> tuple[Tensor, dict[str, Tensor]]:
        """(vector, buffers) of the model after a task of an item's run. Raises InputError where it does not fit."""
        objective, row = self.objective(item)[0], self._row(self.items[item][0], place)
        label = f"model {self.source.models.label(row)}"
        try:
            vector, buffers = read_model(objective, self.source.models.final[row])
        except InputError as error:
            raise InputError(f"{label}: {error}") from error
        require_finite(vector, label)
        if objective.batchnorm_names and not buffers:
            raise InputError(f"{label} comes without BatchNorm statistics; save the whole state_dict()")
        return vector, buffers

    def matrix(self, item: int) -> Matrix:
        """The Hessian of an item's loss at the weights that its task left."""
        theta, buffers = self.model(item, self.items[item][1])
        sample, check = whole(self.objective(item)[0]), self.looked[item].check
        return Matrix(sample, "hessian", None, 0.0, theta, buffers or None, check)

    def later(self, item: int) -> tuple[int, ...]:
        """Places of the tasks that came after."""
        run, place = self.items[item]
        return self.runs.runs[run].later(place)

    def _row(self, run: int, place: int) -> int:
        row = self.runs.runs[run].rows[place]
        assert row is not None
        return row

    def _check(self, item: int, objective: Objective) -> ProductCheck:
        theta, buffers = self.model(item, self.items[item][1])
        everything = list(range(len(objective.layout.blocks)))
        try:
            return check_products(objective, "hessian", everything, theta, buffers or None)
        except InputError as error:
            raise InputError(f"model {self.label(item)}: {error}") from error

    def _looked_at(self, item: int) -> Looked:
        objective, test = self.objective(item)
        places = (self.items[item][1], *self.later(item))
        models = (self.model(item, place) for place in places)
        return Looked(
            objective.identity(centre=False),
            tuple(digest(vector, *buffers.values()) for vector, buffers in models),
            tuple(layers_of(objective.layout.names)),
            self._check(item, objective),
            "" if test is None else test.data.digest,
            self.source.is_other_data(self._row(*self.items[item])),
        )
