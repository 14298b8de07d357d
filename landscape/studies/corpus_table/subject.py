"""One model of a corpus as its metrics are measured of it: weights, losses, made when they are asked for."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch

from landscape.curvature.sampling import draw
from landscape.errors import InputError
from landscape.objective.objective import Objective
from landscape.studies.training.sources import Source


class Asked(Protocol):
    """The settings that metrics know."""

    @property
    def samples(self) -> int | None:
        """Training samples that curvature and random directions are measured on; None for all."""

    @property
    def seed(self) -> int:
        """Of everything random."""


class Subject:
    """One model."""

    def __init__(
        self, source: Source, row: int, settings: Asked, device: str | torch.device | None, *, from_start: bool
    ) -> None:
        self._source, self._row, self._device, self._from_start = source, row, device, from_start
        self.settings = settings

    @property
    def path(self) -> Path:
        """The checkpoint of the final weights."""
        path = self._source.models.final[self._row]
        assert path is not None, "models without final weights are no subjects"
        return path

    @property
    def weights(self) -> Any:
        """The module where its factory is known, which tells groups of convolutions; else the checkpoint."""
        return self.path if self._source.factory is None else self._source.trained(self._row)

    @property
    def initial(self) -> Path | None:
        """The checkpoint of the initial weights, where all models of the corpus have one."""
        return self._source.models.initial[self._row] if self._from_start else None

    def untrained(self) -> Any:
        """The module as its factory makes it."""
        return self._source.untrained(self._row)

    @cached_property
    def objective(self) -> Objective:
        """The training loss, and the error where targets are labels."""
        return self._source.objective(self._row, self._device)

    @cached_property
    def test(self) -> Objective | None:
        """The same on the test data; None where there are none."""
        data = self._source.test_of(self._row)
        return None if data is None else self.objective.elsewhere(data)

    @cached_property
    def part(self) -> Objective:
        """The training loss of as many samples as were asked for, the same of all models with the same data.

        Raises InputError where there are fewer.
        """
        count = self.settings.samples
        if count is None or count == self.objective.samples:
            return self.objective
        if count > self.objective.samples:
            raise InputError(f"samples={count}, and the training data are {self.objective.samples}; give fewer")
        return draw(self.objective, count, "uniform", self.settings.seed)[0].objective
