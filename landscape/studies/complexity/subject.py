"""Subject: what a measure is of, and what measures share, each computed once when it is first asked for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from torch import Tensor

from landscape.objective.objective import Objective
from landscape.run.comm import SERIAL, Communicator


class Subject:
    """A network at its parameters, on its training data, with the weights that it began from."""

    def __init__(
        self,
        objective: Objective,
        initial: tuple[Tensor, Mapping[str, Tensor]] | None = None,
        *,
        parity: str | None = None,
        tol: float = 0.05,
        seed: int = 0,
        group: Communicator = SERIAL,
    ) -> None:
        self.objective, self.parity, self.tol, self.seed, self.group = objective, parity, tol, seed, group
        self._initial = initial
        self.notes: list[str] = []  # what is to be said of the value that is being measured
        self.passes = 0.0  # over the data, so far: 1 for each forward pass, 2 more for a backward one

    @property
    def theta(self) -> Tensor:
        """(size,): the parameters as one vector."""
        return self.objective.theta

    @property
    def initial(self) -> Tensor:
        """(size,): the parameters that training began from; for measures that need "initial"."""
        assert self._initial is not None
        return self._initial[0]

    @property
    def no_margins(self) -> str:
        """Why there are no margins; empty where there are."""
        return "margins are not built yet"

    @property
    def samples(self) -> int:
        """m, the number of training samples."""
        return self.objective.samples

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """{name: weight in float64}: the parameters of two axes and more."""
        return self._weights_of(self.theta)

    @cached_property
    def initial_weights(self) -> dict[str, Tensor]:
        """The same of the initial network; for measures that need "initial"."""
        return self._weights_of(self.initial)

    def _weights_of(self, theta: Tensor) -> dict[str, Tensor]:
        blocks = self.objective.layout.blocks
        parts = theta.double().split_with_sizes([block.size for block in blocks])
        return {
            block.name: part.reshape(block.shape)
            for block, part in zip(blocks, parts, strict=True)
            if len(block.shape) > 1
        }
