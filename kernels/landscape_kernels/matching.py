"""Permutations that bring the units of one network onto those of another: assignments, one group at a time.

Ainsworth, Hayase, Srinivasa, "Git Re-Basin: merging models modulo permutation symmetries", ICLR 2023.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from landscape_kernels.arrays import FloatArray, IntArray
from landscape_kernels.probes import derive_seed

AnyArray = npt.NDArray[Any]
Permutations = dict[str, IntArray]
_GAIN = 1e-12  # smallest gain that counts, in units of |a| |b|: far above the rounding of float64 sums


@dataclass(frozen=True)
class Action:
    """How the units of a group lie along one axis of one tensor.

    Position `places[h, u, r]` along `axis` is the r-th that belongs to unit u of block h. Where the blocks lie along
    another axis than the units, `places` has one block and `base_places[h, s]` are the positions of block h there.
    """

    tensor: str
    axis: int
    places: IntArray  # (blocks, size, rest)
    base_axis: int | None = None
    base_places: IntArray | None = None  # (blocks, rest)
    counted: bool = True  # whether a matching of the group weighs it; not where the group's fibres do

    def rows(self, tensor: AnyArray) -> AnyArray:
        """The tensor's values by unit, (blocks, size, values of one unit)."""
        view, index = self._cells(tensor)
        cells = view[index]
        rows: AnyArray = cells.reshape(*cells.shape[:2], -1)
        return rows

    def moved(self, tensor: AnyArray, permutation: IntArray) -> AnyArray:
        """The tensor with the values of unit `permutation[h, u]` of block h at unit u, the rest as it was."""
        result = tensor.copy()
        view, index = self._cells(result)
        cells = view[index]
        view[index] = cells[np.arange(len(permutation))[:, None], permutation]
        return result

    def _cells(self, tensor: AnyArray) -> tuple[AnyArray, Any]:
        """A view of the tensor, and the index that turns it into (blocks, size, ...)."""
        if self.base_places is None:
            return np.moveaxis(tensor, self.axis, 0), self.places
        view = np.moveaxis(tensor, (self.base_axis or 0, self.axis), (0, 1))
        return view, (self.base_places[:, None, :, None], self.places[0][None, :, None, :])


@dataclass(frozen=True)
class Group:
    """Units that may be permuted among themselves, in each of `blocks` blocks on its own, and the tensors they are in.

    With a `base`, the blocks are the units of that group and move with them (dimensions within attention heads).
    A permutation is (blocks, size): what comes to unit u of block h is unit `permutation[h, u]` of the block that
    comes to h.
    """

    name: str
    size: int
    actions: tuple[Action, ...]
    blocks: int = 1
    base: str | None = None

    @property
    def identity(self) -> IntArray:
        """The permutation that leaves all as it is, (blocks, size)."""
        return np.tile(np.arange(self.size), (self.blocks, 1))


def permuted(
    tensors: Mapping[str, AnyArray], groups: Sequence[Group], permutations: Mapping[str, IntArray]
) -> dict[str, AnyArray]:
    """{name: array} with the units of every group permuted, bases before what lies within them.

    `permutations` {group: (blocks, size)} may leave groups out; actions on tensors that are not given do nothing.
    """
    result = dict(tensors)
    for group in sorted(groups, key=lambda group: group.base is not None):
        permutation = permutations.get(group.name)
        if permutation is None or np.array_equal(permutation, group.identity):
            continue
        for action in group.actions:
            if action.tensor in result:
                result[action.tensor] = action.moved(result[action.tensor], permutation)
    return result


def assign(group: Group, fibres: Sequence[Group], costs: Callable[[Group], FloatArray]) -> Permutations:
    """The permutations of a group, and of its fibres along with it, that gather the largest total similarity.

    `costs(g)[h * size + u, k * size + v]` is the similarity of unit u of block h and unit v of block k. Without fibres
    each block is one linear assignment; with them two units are as similar as their fibres at their best matching:

        C[h, k] = c[h, k] + sum_f max_Q sum_u c_f[h, u; k, Q(u)].
    """
    cost = costs(group)
    if not fibres:
        n = group.size
        blocks = (cost[h * n : (h + 1) * n, h * n : (h + 1) * n] for h in range(group.blocks))
        return {group.name: np.stack([_best(block)[0] for block in blocks])}
    inner = {f.name: costs(f).reshape(f.blocks, f.size, f.blocks, f.size) for f in fibres}
    total = cost.copy()
    for h, k in np.ndindex(*total.shape):
        total[h, k] += sum(_best(c[h, :, k, :])[1] for c in inner.values())
    order, _ = _best(total)
    found = {name: np.stack([_best(c[h, :, k, :])[0] for h, k in enumerate(order)]) for name, c in inner.items()}
    return {group.name: order[None], **found}


def match_weights(
    groups: Sequence[Group],
    a: Mapping[str, AnyArray],
    b: Mapping[str, AnyArray],
    *,
    seed: int = 0,
    sweeps: int = 100,
    restarts: int = 3,
) -> tuple[Permutations, float, int]:
    """Permutations P of b with large sum_T <a_T, (P b)_T>, that is with small |a - P b| (algorithm 1 of the paper).

    Coordinate descent: groups in random order, each by the linear assignment that is best with the others held; a step
    counts only where the whole sum grows, which the assignment alone does not ensure when a group acts on two axes of
    one tensor. Ends after a sweep without gain, or `sweeps`. The best of `restarts` orders, each from (seed, number).
    Returns ({group: (blocks, size)}, the sum, sweeps taken by the best).
    """
    touched = {action.tensor for group in groups for action in group.actions if action.tensor in a}
    left = {name: np.asarray(a[name], np.float64) for name in sorted(touched)}
    right = {name: np.asarray(b[name], np.float64) for name in sorted(touched)}
    rounding = _GAIN * max(float(np.sqrt(_inner(left, left) * _inner(right, right))), np.finfo(float).tiny)
    best: tuple[Permutations, float, int] | None = None
    for number in range(max(restarts, 1)):
        generator = np.random.Generator(np.random.Philox(key=derive_seed(seed, "weight matching", number)))
        found = _descend(groups, left, right, generator, sweeps, rounding)
        if best is None or found[1] > best[1] + rounding:
            best = found
    assert best is not None
    return best


def _descend(
    groups: Sequence[Group],
    left: Mapping[str, AnyArray],
    right: Mapping[str, AnyArray],
    generator: np.random.Generator,
    sweeps: int,
    rounding: float,
) -> tuple[Permutations, float, int]:
    current = dict(right)
    found = {group.name: group.identity for group in groups}

    def similarity(group: Group) -> FloatArray:
        n = group.blocks * group.size
        cost = np.zeros((n, n))
        for action in group.actions:
            if action.counted and action.tensor in left:
                rows = (action.rows(side[action.tensor]).reshape(n, -1) for side in (left, current))
                cost += next(rows) @ next(rows).T
        return cost

    taken, gained = 0, True
    while gained and taken < sweeps:
        taken, gained = taken + 1, False
        for number in generator.permutation(len(groups)):
            group = groups[number]
            fibres = [other for other in groups if other.base == group.name]
            step = assign(group, fibres, similarity)
            names = {action.tensor for action in group.actions} & left.keys()
            trial = permuted({name: current[name] for name in names}, [group, *fibres], step)
            if _inner(left, trial) > _inner(left, {name: current[name] for name in names}) + rounding:
                current.update(trial)
                found.update(composed(found, group, fibres, step))
                gained = True
    return found, _inner(left, current), taken


def composed(
    before: Mapping[str, IntArray], group: Group, fibres: Iterable[Group], step: Mapping[str, IntArray]
) -> Permutations:
    """The permutations of a group and its fibres that do what `before` does, and then `step`."""
    order = step[group.name]
    result = {group.name: np.take_along_axis(before[group.name], order, 1)}
    for fibre in fibres:
        result[fibre.name] = np.take_along_axis(before[fibre.name][order[0]], step[fibre.name], 1)
    return result


def _best(similarity: FloatArray) -> tuple[IntArray, float]:
    """The permutation p with the largest sum_u similarity[u, p(u)], and the sum; NaN counts as no similarity."""
    from scipy.optimize import linear_sum_assignment  # loading it would be a sixth of `import landscape`

    similarity = np.nan_to_num(similarity, posinf=0.0, neginf=0.0)
    rows, columns = linear_sum_assignment(similarity, maximize=True)
    return np.asarray(columns, np.int64), float(similarity[rows, columns].sum())


def _inner(a: Mapping[str, AnyArray], b: Mapping[str, AnyArray]) -> float:
    """sum_T <a_T, b_T> over the tensors of b."""
    return float(sum(np.vdot(a[name], value) for name, value in b.items()))
