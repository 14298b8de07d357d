"""The units of one trained network permuted to match those of another, its function unchanged."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import torch
from landscape_kernels.arrays import FloatArray, IntArray
from landscape_kernels.matching import (
    Action,
    AnyArray,
    Group,
    Permutations,
    assign,
    match_weights,
    permuted,
)
from torch import Tensor

from landscape.arguments import Seed, checked
from landscape.checkpoints.states import ThetaLike, named_state, read_model
from landscape.errors import InputError, nearest
from landscape.network.symmetry import Listener, Symmetry, Table, find_symmetry, first_difference, symmetry_from_table
from landscape.objective.gate import of_objective
from landscape.objective.objective import Objective
from landscape.objective.trees import floats_in

METHODS = ("weights", "activations")
_TOLERANCE = 1e-5  # largest change of an output, relative to the largest output
_SAMPLES = 16  # on which the function is compared


@dataclass(frozen=True)
class Alignment:
    """Permutations of the units of model b that match those of model a.

    `similarity` is <theta_a, theta_b> / (|theta_a| |theta_b|) after the permutation, `similarity_before` that before:
    |theta_a - theta_b|^2 = |theta_a|^2 + |theta_b|^2 - 2 similarity |theta_a| |theta_b|.
    """

    permutations: Mapping[str, IntArray]  # {group: (blocks, size)}: what comes to a unit is unit permutation[h, u]
    similarity: float
    similarity_before: float
    method: str
    seed: int
    sweeps: int  # taken by weight matching; 0 for activation matching
    change: float  # largest change of an output by the permutation, relative to the largest output
    symmetry: Symmetry = field(repr=False)

    @checked()
    def permute(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """{name: tensor} with the units permuted: parameters and buffers of model b, or anything laid out like them.

        Values are moved, never computed with; names that the symmetry does not know stay as they are.
        """
        result = dict(tensors)
        for name, tensor in tensors.items():
            known = self.symmetry.aliases.get(name, name)
            shape = self.symmetry.shapes.get(known)
            if shape is None or shape != tuple(tensor.shape):
                continue
            places = np.arange(tensor.numel()).reshape(shape)
            moved = permuted({known: places}, self.symmetry.groups, self.permutations)[known]
            if moved is not places:
                index = torch.from_numpy(moved.reshape(-1)).to(tensor.device)
                result[name] = tensor.reshape(-1)[index].view(tensor.shape)
        return result


@of_objective
@checked()
def align(
    objective: Objective,
    theta_a: ThetaLike,
    theta_b: ThetaLike,
    method: str = "weights",
    *,
    seed: Seed = 0,
    sweeps: int = 100,
    restarts: int = 3,
    table: Table | None = None,
    data: Any = None,
) -> Any:
    """`theta_b` with its units permuted to match those of `theta_a`; the function it computes stays the same.

    Models are flat vectors, state dicts, modules or paths of checkpoints. A flat vector comes back as one (size,);
    anything else as a state dict {name: tensor}, with permuted BatchNorm statistics. With a flat vector statistics have
    to be re-estimated, or permuted by `find_alignment(...).permute(buffers)`.

    The other arguments and what is raised are those of `find_alignment`.
    """
    alignment = find_alignment(
        objective,
        theta_a,
        theta_b,
        method,
        seed=seed,
        sweeps=sweeps,
        restarts=restarts,
        table=table,
        data=data,
    )
    state = named_state(objective, theta_b)
    if state is not None:
        return alignment.permute(state)
    return _permuted_vector(objective, alignment, objective.vector(theta_b))


@of_objective
@checked()
def find_alignment(
    objective: Objective,
    theta_a: ThetaLike,
    theta_b: ThetaLike,
    method: str = "weights",
    *,
    seed: Seed = 0,
    sweeps: int = 100,
    restarts: int = 3,
    table: Table | None = None,
    data: Any = None,
) -> Alignment:
    """The permutations of the units of `theta_b` that match those of `theta_a` best.

    "weights" maximises <theta_a, P theta_b>, which minimises |theta_a - P theta_b|, by coordinate descent over the
    groups of units that permute together: at most `sweeps` through them in each of `restarts` random orders from
    `seed`. "activations" maximises, group by group, the sum over units of the correlation of their activations on
    `data` (in a form the objective takes; by default its own); groups whose activations meet no weight, or only beside
    other units that move, stay as they are. Ainsworth et al., ICLR 2023, sections 3.1 and 3.2; their groups are written
    by hand, here they are found from the model (`find_symmetry`) or stated by `table`,
    {group: [(parameter or buffer name, axis), ...]}.

    Raises InputError for an unknown method, models that do not fit or are not finite, a model none of whose units can
    be permuted, and where outputs change by more than 1e-5 of the largest, naming the first layer whose output does.
    """
    if method not in METHODS:
        raise InputError(f"method={method!r} is unknown; {nearest(method, METHODS)}")
    if sweeps < 1 or restarts < 1:
        raise InputError(f"sweeps={sweeps} and restarts={restarts} must be at least 1")
    if table is not None and method == "activations":
        raise InputError(
            "method='activations' follows activations through the model, which a table does not say; give table= with "
            "method='weights', or leave it out"
        )
    (a, buffers_a), (b, buffers_b) = read_model(objective, theta_a), read_model(objective, theta_b)
    _require_finite(objective, a, "theta_a")
    _require_finite(objective, b, "theta_b")
    buffers_a, buffers_b = objective.buffers | buffers_a, objective.buffers | buffers_b
    if table is None:
        learned = [n for n, v in buffers_b.items() if v.is_floating_point() and not torch.equal(v, buffers_a[n])]
        symmetry = find_symmetry(objective, b, buffers_b, learned)
    else:
        symmetry = symmetry_from_table(objective, table)
    left, right = _arrays(objective, a), _arrays(objective, b)
    taken = 0
    if method == "weights":
        permutations, _, taken = match_weights(
            symmetry.groups, left, right, seed=seed, sweeps=sweeps, restarts=restarts
        )
    else:
        on = objective if data is None else objective.on(objective.read(data))
        permutations = _match_activations(on, symmetry, (a, buffers_a), (b, buffers_b))
    moved = permuted(right, symmetry.groups, permutations)
    alignment = Alignment(permutations, _cosine(left, moved), _cosine(left, right), method, seed, taken, 0.0, symmetry)
    change = _checked_change(objective, alignment, b, buffers_b)
    return Alignment(**{**vars(alignment), "change": change})


def _match_activations(
    objective: Objective,
    symmetry: Symmetry,
    a: tuple[Tensor, Mapping[str, Tensor]],
    b: tuple[Tensor, Mapping[str, Tensor]],
) -> Permutations:
    """{group: (blocks, size)} from correlations of activations, chunk by chunk of the objective's data."""
    correlations = {
        group.name: [_Correlation(action) for action in group.actions if action.counted] for group in symmetry.seen
    }
    names = {correlation.tensor for several in correlations.values() for correlation in several}
    sights = {name: sight for name, sight in symmetry.sights.items() if name in names}
    for _, batch in objective.batches():
        heard: list[dict[str, AnyArray]] = []
        for theta, buffers in (a, b):
            found: dict[str, AnyArray] = {}

            def hear(name: str, tensor: Tensor, found: dict[str, AnyArray] = found) -> None:
                found[name] = tensor.detach().double().cpu().numpy()

            with objective.differentiable(theta, buffers) as (model, _), Listener(sights, hear):
                objective.outputs(model, batch)
            heard.append(found)
        for correlation in chain.from_iterable(correlations.values()):
            correlation.add(heard[0][correlation.tensor], heard[1][correlation.tensor])

    def similarity(group: Group) -> FloatArray:
        n = group.blocks * group.size
        return sum((correlation.value() for correlation in correlations[group.name]), np.zeros((n, n)))

    result = {group.name: group.identity for group in symmetry.groups}
    for group in symmetry.seen:
        fibres = [other for other in symmetry.seen if other.base == group.name]
        if group.base is None and any(correlations[g.name] for g in (group, *fibres)):
            result |= assign(group, fibres, similarity)
    return result


class _Correlation:
    """Pearson's correlation of every unit of a with every unit of b, from sums over chunks in float64."""

    def __init__(self, action: Action) -> None:
        self.tensor, self._action, self._count = action.tensor, action, 0
        self._sums: list[FloatArray] | None = None  # of a, b, a^2, b^2, a b'

    def add(self, a: AnyArray, b: AnyArray) -> None:
        """The activations of one chunk."""
        x, y = (rows.reshape(-1, rows.shape[-1]) for rows in (self._action.rows(a), self._action.rows(b)))
        new = [x.sum(1), y.sum(1), (x * x).sum(1), (y * y).sum(1), x @ y.T]
        self._count += x.shape[1]
        self._sums = new if self._sums is None else [s + n for s, n in zip(self._sums, new, strict=True)]

    def value(self) -> FloatArray:
        """(units of a, units of b); 0 where a unit does not vary."""
        assert self._sums is not None
        x, y, xx, yy, xy = (s / self._count for s in self._sums)
        spread = np.sqrt(np.outer(_variances(x, xx), _variances(y, yy)))
        result: FloatArray = np.divide(xy - np.outer(x, y), spread, out=np.zeros_like(xy), where=spread > 0)
        return result


def _variances(mean: FloatArray, square: FloatArray) -> FloatArray:
    """Variances, 0 where they drown in the rounding of the sums."""
    variance = square - mean**2
    return np.where(variance > 1e-12 * square, variance, 0.0)


def _checked_change(objective: Objective, alignment: Alignment, vector: Tensor, buffers: Mapping[str, Tensor]) -> float:
    """The largest change of an output, relative to the largest output; InputError where it is more than rounding.

    A change that float32 rounding might have made is looked at in float64.
    """
    trial = objective.on(objective.data.head(_SAMPLES))
    after = _permuted_vector(objective, alignment, vector), alignment.permute(buffers)
    change = _change(trial, (vector, buffers), after)
    if change > _TOLERANCE and objective.dtype != torch.float64:
        with suppress(Exception):  # a model that mixes in float32 of its own: what was measured stands
            change = _change(objective.on(objective.data.head(_SAMPLES), precision="float64"), (vector, buffers), after)
    if change <= _TOLERANCE:
        return change
    layer = first_difference(trial, (vector, buffers), after)
    raise InputError(
        f"permuting the units changes the outputs by {change:.1e} of their largest, more than {_TOLERANCE:.0e}; the "
        f"first layer whose output differs in more than the order of its values is {layer}. "
        + (
            "An axis is missing in the table, or two that do not belong together are in one group."
            if not alignment.symmetry.seen
            else "It computes something that could not be followed; state which axes permute together by table=."
        )
    )


State = tuple[Tensor, Mapping[str, Tensor]]  # flat vector and buffers


def _change(objective: Objective, before: State, after: State) -> float:
    batch = objective.data.first
    outputs: list[list[Tensor]] = []
    for theta, buffers in (before, after):
        with objective.differentiable(theta, buffers) as (model, _):
            outputs.append([t.detach().double() for t in floats_in(objective.outputs(model, batch)[0])])
    worst = 0.0
    for x, y in zip(*outputs, strict=True):
        finite = x.isfinite()
        if not torch.equal(finite, y.isfinite()):
            return float("inf")
        if bool(finite.any()):
            gap, scale = float((x - y)[finite].abs().max()), float(x[finite].abs().max())
            worst = max(worst, gap / scale if scale else gap)
    return worst


def _permuted_vector(objective: Objective, alignment: Alignment, vector: Tensor) -> Tensor:
    return objective.vector(objective.layout.flatten(alignment.permute(objective.layout.unflatten(vector))))


def _arrays(objective: Objective, vector: Tensor) -> dict[str, AnyArray]:
    """{parameter: float64 array}."""
    return {name: t.double().cpu().numpy() for name, t in objective.layout.unflatten(vector).items()}


def _cosine(a: Mapping[str, AnyArray], b: Mapping[str, AnyArray]) -> float:
    dot, aa, bb = (sum(float(np.vdot(x[n], y[n])) for n in a) for x, y in ((a, b), (a, a), (b, b)))
    return dot / np.sqrt(aa * bb) if aa * bb else 0.0


def _require_finite(objective: Objective, vector: Tensor, what: str) -> None:
    bad = [name for name, tensor in objective.layout.unflatten(vector).items() if not bool(tensor.isfinite().all())]
    if bad:
        raise InputError(
            f"{what} has values that are not finite, the first in {bad[0]!r}; units cannot be matched by them. Give "
            "a model whose training has not diverged."
        )
