"""The trained models of an audit: the objective of each, and what is looked at before any is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from landscape_kernels.arrays import FloatArray

from landscape.checkpoints.reading import load_state, read_state
from landscape.errors import InputError
from landscape.objective.objective import Objective
from landscape.objective.trees import digest
from landscape.run.comm import Communicator
from landscape.run.together import agree
from landscape.studies.audit.models import RESCALED, Models
from landscape.studies.audit.rescaling import before_normalisation, rescaled
from landscape.studies.audit.settings import AuditSettings
from landscape.studies.training.sources import Source, of_other_data

SIZE = "fraction"  # key that says nothing but the size of the training set, where each size has one


@dataclass(frozen=True)
class Looked:
    """What was seen of a cell before anything is measured."""

    identity: dict[str, Any]  # of its objective, without parameters
    digests: tuple[tuple[str, str], ...]  # of the final and initial weights of its models
    samples: int
    pairs: tuple[tuple[str, str], ...]  # layers that stand before a BatchNorm
    other_data: Mapping[int, bool]  # by row, whether the model was trained on other data than those given


class Networks:
    """The models of an audit. Item i is a model, as it is or, where that is asked for, rescaled."""

    def __init__(self, source: Source, settings: AuditSettings, device: str | torch.device | None) -> None:
        self.source, self.settings, self._device = source, settings, device
        models = source.models
        if "test_error" not in models.values or not np.isfinite(models.values["test_error"]).any():
            raise InputError(
                "the models have no test_error, and only those that do equally well are compared; train them with "
                "test=, or give the table a column test_error"
            )
        self._rows = [
            row
            for row in range(len(models))
            if models.final[row] is not None and np.isfinite(models.values["test_error"][row])
        ]
        if not self._rows:
            raise InputError("no model has final weights and a test_error; finish the training, or mend the table")
        self._looked: dict[int, Looked] = {}  # by the first row of a cell

    @property
    def rescales(self) -> bool:
        """Whether the arm of exact invariance was asked for."""
        return RESCALED in self.settings.knobs

    def prepare(self, comm: Communicator) -> Networks:
        """Look at all cells before any model is measured, shared out over the ranks of `comm`; all of them call this.

        Raises InputError for factories that cannot be called, checkpoints that do not fit the model of their cell, all
        that `Objective` refuses, and for the knob that rescales where no model has a BatchNorm.
        """
        cells = self._cells
        mine = range(comm.rank, len(cells), comm.size)
        found = agree(comm, lambda: {number: self._looked_at(cells[number]) for number in mine})
        together = {number: seen for part in comm.gather_all(found) for number, seen in part.items()}
        self._looked = {row: together[number] for number, rows in enumerate(cells) for row in rows}
        agree(comm, self._require_pairs)
        return self

    @cached_property
    def _cells(self) -> list[tuple[int, ...]]:
        """Rows of the models of each cell."""
        there = set(self._rows)
        cells = (tuple(row for row in rows if row in there) for rows in self.source.models.cells().values())
        return [rows for rows in cells if rows]

    @cached_property
    def items(self) -> tuple[tuple[int, float], ...]:
        """(row, what weights are multiplied by) of every item."""
        found = [(row, 1.0) for row in self._rows]
        if self.rescales:
            found += [(row, self.settings.rescale) for row in self._rows if self._looked[row].pairs]
        return tuple(found)

    @property
    def looked(self) -> dict[int, Looked]:
        """What was seen of the cell of each row."""
        return self._looked

    @property
    def of_other_data(self) -> str:
        """The models, in words, that their training tells were trained on other data than those given."""
        return of_other_data({self.source.models.label(row): self._looked[row].other_data[row] for row in self._rows})

    def models(self, values: dict[str, FloatArray] | None = None) -> Models:
        """The items as models that are compared, with `values` {measure: (items,)} where there are some."""
        table, rows = self.source.models, [row for row, _ in self.items]
        keys = {name: tuple(column[row] for row in rows) for name, column in table.keys.items()}
        samples = [self._looked[row].samples for row in rows]
        if len(set(samples)) == len(set(zip(keys.get(SIZE, samples), samples, strict=True))):
            keys.pop(SIZE, None)
        if self.rescales:
            keys[RESCALED] = tuple(factor for _, factor in self.items)
        return Models(
            keys,
            tuple(table.seed[row] for row in rows),
            np.array(samples, dtype=np.int64),
            np.asarray(table.values["test_error"][rows], dtype=np.float64),
            values or {},
        )

    def label(self, item: int) -> str:
        """One item in words."""
        row, factor = self.items[item]
        return self.source.models.label(row) + (f",{RESCALED}={factor:g}" if factor != 1 else "")

    def objective(self, item: int) -> Objective:
        """The training loss at an item's parameters."""
        row, factor = self.items[item]
        return self._made(row, self._looked[row].pairs, factor)

    def initial(self, item: int) -> Any:
        """Path of the weights that training began from; None where it is not known."""
        return self.source.models.initial[self.items[item][0]]

    def _made(self, row: int, pairs: tuple[tuple[str, str], ...] = (), factor: float = 1.0) -> Objective:
        source, path = self.source, self.source.models.final[row]
        assert path is not None
        model = source.untrained(row)
        try:
            state = read_state(path)
            load_state(model, rescaled(state, pairs, factor) if factor != 1 else state, path)
        except InputError as error:
            raise InputError(f"model {source.models.label(row)}: {error}") from error
        return Objective(model, source.loss, source.data_of(row), device=self._device)

    def _looked_at(self, rows: Sequence[int]) -> Looked:
        objective = self._made(rows[0])
        return Looked(
            objective.identity(centre=False),
            tuple((_digest(self.source.models.final[row]), _digest(self.source.models.initial[row])) for row in rows),
            objective.samples,
            before_normalisation(objective) if self.rescales else (),
            {row: self.source.is_other_data(row) for row in rows},
        )

    def _require_pairs(self) -> None:
        if self.rescales and not any(seen.pairs for seen in self._looked.values()):
            raise InputError(
                f"knob {RESCALED!r} multiplies weights that a BatchNorm follows, and no model has any: a Linear or "
                "convolution whose output goes to a BatchNorm and nowhere else; leave the knob out"
            )


def _digest(path: Any) -> str:
    return "" if path is None else digest(*read_state(path).values())
