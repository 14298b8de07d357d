"""The networks of a map: the objective of each cell, its checkpoints, and how its curvature is computed."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from landscape_kernels.probes import derive_seed
from torch import Tensor

from landscape.checkpoints.states import read_model, require_finite
from landscape.curvature.check import ProductCheck, check_products
from landscape.curvature.matrix import Matrix
from landscape.curvature.sampling import Sample, draw, whole
from landscape.errors import InputError
from landscape.objective.batches import inputs_and_targets
from landscape.objective.objective import Objective
from landscape.objective.trees import digest
from landscape.run.comm import Communicator
from landscape.run.together import agree
from landscape.studies.phases.cells import Place
from landscape.studies.phases.settings import PhasesSettings
from landscape.studies.phases.sources import Map
from landscape.studies.spectrum.measure import Plan
from landscape.studies.spectrum.settings import SpectrumSettings
from landscape.studies.spectrum.ways import choose_method
from landscape.studies.training.sources import Source, of_other_data

_BETA = 16.0  # of the mixing weights, Beta(16, 16)
_TOL = 1e-3  # relative residual of an eigenvalue
_TRACE_TOL = 0.05  # relative standard error, where it is not taken exactly


@dataclass(frozen=True)
class Looked:
    """What was seen of a cell before anything is measured."""

    identity: dict[str, Any]  # of its objective
    digests: tuple[str, ...]  # of its models, in the order of its rows
    check: ProductCheck
    ways: tuple[str, str]  # to the trace of a sample and of all data
    test: str  # digest of its test data
    other_data: tuple[bool, ...]  # whether its models were trained on other data than those given


class Networks:
    """The models of a map, of which one cell is held at a time."""

    def __init__(
        self, source: Source, placed: Map, settings: PhasesSettings, device: str | torch.device | None = None
    ) -> None:
        self.source, self.placed, self.settings, self._device = source, placed, settings, device
        self._held: tuple[Place, Objective, Objective | None] | None = None
        self._mixed: tuple[Place, Objective] | None = None
        self._metrics: tuple[str, ...] | None = None
        self.looked: dict[Place, Looked] = {}

    def prepare(self, comm: Communicator) -> Networks:
        """Look at all cells before any is measured, shared out over the ranks of `comm`; all of them call this.

        Raises InputError for factories that cannot be called, checkpoints that do not fit their cell's model or hold
        NaN, and all that `Objective` and curvature refuse.
        """
        places = list(self.placed.rows)
        agree(comm, lambda: self.objective(places[0]))
        mine = places[comm.rank :: comm.size]
        found = agree(comm, lambda: {place: self._looked_at(place) for place in mine})
        together = {place: seen for part in comm.gather_all(found) for place, seen in part.items()}
        self.looked = {place: together[place] for place in places}  # in the same order on any number of ranks
        return self

    def asked(self, settings: PhasesSettings) -> Networks:
        """The same networks, looked at already, with other settings."""
        other = copy.copy(self)
        other.settings = settings
        return other

    @property
    def of_other_data(self) -> str:
        """The models, in words, that their training tells were trained on other data than those given."""
        rows = ((row, k, seen) for place, seen in self.looked.items() for k, row in enumerate(self.placed.rows[place]))
        return of_other_data({self.label(row): seen.other_data[k] for row, k, seen in rows})

    @property
    def labelled(self) -> bool:
        """Whether targets are labels of classes, so that there is an error."""
        return bool(self._metrics)

    def label(self, row: int) -> str:
        """One model in words."""
        return self.source.models.label(row)

    def objective(self, place: Place) -> Objective:
        """The training loss of the models of a cell."""
        return self._cell(place)[0]

    def test(self, place: Place) -> Objective | None:
        """Their test loss, where there are test data."""
        return self._cell(place)[1]

    def model(self, place: Place, row: int) -> tuple[Tensor, dict[str, Tensor]]:
        """(vector, buffers) of one model. Raises InputError where it does not fit, naming it."""
        try:
            vector, buffers = read_model(self.objective(place), self.source.models.final[row])
        except InputError as error:
            raise InputError(f"model {self.label(row)}: {error}") from error
        require_finite(vector, f"model {self.label(row)}")
        if self.objective(place).batchnorm_names and not buffers:
            raise InputError(
                f"model {self.label(row)} comes without BatchNorm statistics, and those of another seed belong to "
                "other parameters; save the whole state_dict()"
            )
        return vector, buffers

    def _cell(self, place: Place) -> tuple[Objective, Objective | None]:
        if self._held is None or self._held[0] != place:
            row = self.placed.rows[place][0]
            objective = self._made(row)
            data = self.source.test_of(row)
            test = None if data is None else objective.elsewhere(data)
            self._held = place, objective, test
        return self._held[1], self._held[2]

    def _made(self, row: int) -> Objective:
        """The objective of a cell, with the first of its models."""
        objective = self.source.objective(row, self._device, self._metrics)
        self._metrics = tuple(objective.quantities[1:])
        return objective

    def _checked(
        self, place: Place, read: list[tuple[Tensor, dict[str, Tensor]]]
    ) -> tuple[ProductCheck, Tensor, dict[str, Tensor]]:
        """How products are computed in a cell, and where that was seen: at its first model that allows, or untrained.

        A training that diverged without a NaN leaves weights at which rounding hides the gradient.
        """
        objective, rows = self.objective(place), self.placed.rows[place]
        everything = list(range(len(objective.layout.blocks)))
        first: InputError | None = None
        for theta, buffers in chain(read, self._before(place)):
            try:
                return check_products(objective, "hessian", everything, theta, buffers or None), theta, buffers
            except InputError as error:
                first = first or error
        raise InputError(f"model {self.label(rows[0])}: {first}") from first

    def _before(self, place: Place) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """The model of a cell as its factory makes it, made when it is asked for."""
        yield read_model(self.objective(place), self.source.untrained(self.placed.rows[place][0]))

    def _looked_at(self, place: Place) -> Looked:
        objective, test = self._cell(place)
        rows = self.placed.rows[place]
        read = [self.model(place, row) for row in rows]
        for k, (vector, _) in enumerate(read):
            twin = next((j for j in range(k) if torch.equal(read[j][0], vector)), None)
            if twin is not None:
                pair = f"{self.label(rows[twin])} and {self.label(rows[k])}"
                raise InputError(f"models {pair} are equal; the seeds of a cell are to differ")
        check, theta, buffers = self._checked(place, read)
        few = Matrix(self.few(objective), "hessian", None, 0.0, theta, buffers or None, check)
        every = Matrix(whole(objective), "hessian", None, 0.0, theta, buffers or None, check)
        ways = tuple(choose_method(matrix, True, 1) for matrix in (few, every))
        if self.settings.cka_inputs == "mixup":
            mixed(objective, 2, self.settings.seed)
        return Looked(
            objective.identity(centre=False),
            tuple(digest(vector, *buffers.values()) for vector, buffers in read),
            check,
            (ways[0], ways[1]),
            "" if test is None else test.data.digest,
            tuple(self.source.is_other_data(row) for row in rows),
        )

    # -- curvature ----------------------------------------------------------------------------------------------

    def few(self, objective: Objective) -> Sample:
        """The samples of the paper's Hessian, the same for all models that were trained on as many."""
        count = min(self.settings.hessian_samples, objective.samples)
        return draw(objective, count, "uniform", self.settings.seed)[0]

    def plan(
        self,
        place: Place,
        sample: Sample,
        model: tuple[Tensor, dict[str, Tensor]],
        way: str,
        apart: Sample | None = None,
    ) -> Plan:
        """The tasks of the largest eigenvalue and, where a `way` is given, of the trace of a sample's mean Hessian."""
        theta, buffers = model
        matrix = Matrix(sample, "hessian", None, 0.0, theta, buffers or None, self.looked[place].check)
        asked = SpectrumSettings(
            k=1, tol=_TOL, trace=bool(way), density=False, trace_tol=_TRACE_TOL, seed=self.settings.seed
        )
        return Plan(asked, matrix, apart, way, whole=False)  # one eigenvalue takes few products

    # -- inputs that outputs are compared on ---------------------------------------------------------------------

    def compared(self, place: Place) -> Objective:
        """The objective on the inputs that outputs are compared on."""
        if self._mixed is None or self._mixed[0] != place:
            objective, asked = self.objective(place), self.settings
            if asked.cka_inputs == "mixup":
                self._mixed = place, mixed(objective, asked.cka_samples, asked.seed)
            else:
                self._mixed = place, _some(objective, asked.cka_samples, asked.seed)
        return self._mixed[1]


def _drawn(count: int, samples: int, seed: int, purpose: str) -> list[int]:
    random = np.random.Generator(np.random.Philox(key=derive_seed(seed, "cka", purpose)))
    found: list[int] = random.permutation(count)[:samples].tolist()
    return found


def _some(objective: Objective, samples: int, seed: int) -> Objective:
    """The objective on some of its samples, or all."""
    return objective.on(objective.data.taken(_drawn(objective.samples, samples, seed, "first")))


def mixed(objective: Objective, samples: int, seed: int) -> Objective:
    """The objective on inputs w x_i + (1 - w) x_j of samples drawn from its own, each w from Beta(16, 16).

    Labels are those of x_i: outputs are compared, not the loss. Raises InputError for inputs that are not tensors of
    real numbers. Source: Zhang et al., "mixup: beyond empirical risk minimization", ICLR 2018, as the taxonomy paper
    uses it.
    """
    data = objective.data
    if not data.divisible:
        raise InputError("samples in batches of their own cannot be mixed; compare outputs on them: cka_inputs='data'")
    first, second = (_drawn(data.samples, samples, seed, purpose) for purpose in ("first", "second"))
    one, other = (inputs_and_targets(data.taken(rows).first) for rows in (first, second))
    for tensor in (*one[0], *one[1].values()):
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            kind = str(tensor.dtype) if isinstance(tensor, Tensor) else type(tensor).__name__
            raise InputError(f"inputs of {kind} cannot be mixed; compare outputs on the data: cka_inputs='data'")
    if one[1]:
        raise InputError("inputs that have names cannot be mixed; compare outputs on the data: cka_inputs='data'")
    random = np.random.Generator(np.random.Philox(key=derive_seed(seed, "cka", "mixup")))
    weights = torch.from_numpy(random.beta(_BETA, _BETA, len(first)))

    def mix(a: Tensor, b: Tensor) -> Tensor:
        w = weights.to(a.device, a.dtype).reshape(-1, *[1] * (a.ndim - 1))
        return w * a + (1 - w) * b

    inputs = [mix(a, b) for a, b in zip(one[0], other[0], strict=True)]
    return objective.on(objective.read((*inputs, one[2])))
