"""Which units of a network may be permuted without a change of what it computes, found from one traced forward pass."""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product as pairs_of
from typing import Any

import numpy as np
import torch
from landscape_kernels.arrays import IntArray
from landscape_kernels.axes import Atom, Box, Labels, Segment, boxes, pin, products, resolved, root, unite
from landscape_kernels.matching import Action, Group
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from landscape.errors import InputError, nearest
from landscape.network.operations import Sight, Watch, arguments
from landscape.network.piecewise import running_modules
from landscape.objective.objective import Objective
from landscape.objective.trees import alike, floats_in, tensors_in

Table = Mapping[str, Sequence[tuple[str, int]]]
State = tuple[Tensor, Mapping[str, Tensor]]  # flat vector and buffers of a model
_SAMPLES = 4  # of the traced forward pass
_SAME = 1e-4  # relative gap between values of a layer that sums in another order may make


@dataclass(frozen=True)
class Symmetry:
    """The permutations of units that leave the function of a network as it is, for generic values of its parameters."""

    groups: tuple[Group, ...]  # by the parameters and buffers they act on
    shapes: Mapping[str, tuple[int, ...]]  # of the parameters and buffers
    aliases: Mapping[str, str]  # further names of tied tensors -> the name used here
    sights: Mapping[str, Sight]  # name of an activation -> where it is seen
    seen: tuple[Group, ...]  # the same groups by the activations they act on
    pinned: Mapping[str, int]  # operation that had to fix units -> how many

    def __repr__(self) -> str:
        sizes = ", ".join(
            f"{g.name}: {g.size}" + (f" in each of {g.blocks} units of {g.base or 'a fixed axis'}" * (g.blocks > 1))
            for g in self.groups
        )
        return f"Symmetry({sizes})"


def find_symmetry(
    objective: Objective, theta: Any = None, buffers: Mapping[str, Tensor] | None = None, learned: Iterable[str] = ()
) -> Symmetry:
    """The permutation symmetry of the objective's model, from one forward pass of a few samples.

    Every axis of every value is followed through the operations that run: a product contracts two axes, which then
    have to permute together, an elementwise operation ties the axes of its arguments, a reshape multiplies axes or
    divides them, a concatenation puts them one after the other. Inputs, outputs, frozen parameters and buffers stay as
    they are, but for BatchNorm statistics and the buffers named in `learned`; an operation that is not known fixes all
    units that go into it, so that what is found is right, if not all there is.

    Raises InputError, naming the operation and module that fixed most, where no unit is left to permute.
    """
    free = {f"{name}.{kind}" for name in objective.batchnorm_names for kind in ("running_mean", "running_var")}
    free |= set(learned)
    with ExitStack() as stack:
        model, _ = stack.enter_context(objective.differentiable(theta, buffers))
        stack.enter_context(_apart())
        running = stack.enter_context(running_modules(model))
        watch = Watch(running)
        frozen = objective.frozen
        state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        for name, tensor in state.items():
            fixed = "frozen" if name in frozen else "" if name in objective.layout.names or name in free else "a buffer"
            watch.start(name, tensor, fixed)
        batch = objective.data.head(_SAMPLES).first
        with watch:
            outputs, _ = objective.outputs(model, batch)
    for tensor in tensors_in(outputs):
        for axis in watch.of(tensor):
            pin(axis, "an output")
    groups, seen = _groups(watch)
    pinned = _pinned(watch)
    if not groups:
        most = pinned.most_common(1)
        raise InputError(
            "no unit of the model can be permuted: "
            + (f"{most[0][0]} fixes {most[0][1]} units, because it is not known how it acts on them" if most else
               "every axis of its parameters belongs to inputs, outputs or frozen tensors")
            + ". Where you know which axes belong together, give table={group: [(parameter or buffer, axis), ...]}."
        )  # fmt: skip
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    return Symmetry(groups, shapes, _aliases(objective), watch.sights, seen, dict(pinned))


def symmetry_from_table(objective: Objective, table: Table) -> Symmetry:
    """The symmetry a user states: {group: [(name of a parameter or buffer, axis), ...]}, axes that permute together.

    Raises InputError for unknown names, axes that are not there, axes of different lengths, or one that is given twice.
    """
    shapes = dict(zip(objective.layout.names, objective.layout.shapes, strict=True))
    shapes |= {name: tuple(value.shape) for name, value in objective.buffers.items()}
    taken: dict[tuple[str, int], str] = {}
    groups = []
    for group, entries in table.items():
        size, actions = 0, []
        for name, axis in entries:
            if name not in shapes:
                raise InputError(f"table[{group!r}] names {name!r}, which is no trainable parameter or buffer of the "
                                 f"model; {nearest(name, shapes)}")  # fmt: skip
            if not -len(shapes[name]) <= axis < len(shapes[name]):
                raise InputError(f"table[{group!r}]: {name!r} of shape {shapes[name]} has no axis {axis}")
            axis %= len(shapes[name])
            size = size or shapes[name][axis]
            if shapes[name][axis] != size:
                raise InputError(f"table[{group!r}]: axis {axis} of {name!r} has length {shapes[name][axis]}, and "
                                 f"{entries[0][0]!r} has {size}; axes that permute together are as long")  # fmt: skip
            if (name, axis) in taken:
                raise InputError(f"table: axis {axis} of {name!r} is in {taken[name, axis]!r} and in {group!r}")
            taken[name, axis] = group
            actions.append(Action(name, axis, np.arange(size).reshape(1, size, 1)))
        if not actions:
            raise InputError(f"table[{group!r}] is empty; give [(parameter or buffer, axis), ...]")
        groups.append(Group(group, size, tuple(actions)))
    if not groups:
        raise InputError("table is empty; leave it out to have the symmetry found from the model")
    return Symmetry(tuple(groups), shapes, _aliases(objective), {}, (), {})


def first_difference(objective: Objective, before: State, after: State) -> str:
    """The first module, in the order of their calls, whose output holds other values in the two states of the model.

    `before` and `after` are (flat vector, buffers); a module whose output is the same but for the order is passed over.
    """
    batch = objective.data.first
    runs: list[list[tuple[str, list[Tensor]]]] = []
    for theta, buffers in (before, after):
        heard: list[tuple[str, list[Tensor]]] = []

        def hear(name: str, _module: nn.Module, _inputs: object, output: object, heard: Any = heard) -> None:
            heard.append((name, [t.detach().double().flatten().sort().values for t in floats_in(output)]))

        with objective.differentiable(theta, buffers) as (model, _), ExitStack() as stack:
            for name, module in model.named_modules():
                title = f"{name!r} ({type(module).__name__})" if name else f"the model itself ({type(module).__name__})"
                stack.callback(module.register_forward_hook(partial(hear, title)).remove)
            objective.outputs(model, batch)
        runs.append(heard)
    for (name, x), (_, y) in zip(*runs, strict=True):
        if not alike(x, y, _SAME):
            return str(name)
    return "the function that makes the outputs"


def _aliases(objective: Objective) -> dict[str, str]:
    """{further name: name} of tensors that the model holds under several names."""
    with objective.differentiable() as (model, _):
        first = {id(t): n for n, t in [*model.named_parameters(), *model.named_buffers()]}
        every = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
        return {name: first[id(t)] for name, t in every if first[id(t)] != name}


@contextmanager
def _apart() -> Iterator[None]:
    """Without oneDNN, whose recurrent layers are one operation that cannot be followed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="TF32 acceleration")  # said whatever is switched
        with torch.backends.mkldnn.flags(enabled=False):
            yield


class Listener(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Hands the tensors at the given places of a forward pass to `hear(name, tensor)` as it runs."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch loads its compiler, which takes seconds, only to tell it to stay away

    def __init__(self, sights: Mapping[str, Sight], hear: Callable[[str, Tensor], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._calls, self._hear = 0, hear
        self._at: dict[int, list[tuple[str, Sight]]] = defaultdict(list)
        for name, sight in sights.items():
            self._at[sight.call].append((name, sight))

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for name, sight in self._at.get(self._calls, ()):
            if sight.operation != str(function):
                raise InputError(
                    f"the model runs other operations for other samples ({function} in place of {sight.operation}), so "
                    "that its activations cannot be compared; use method='weights'"
                )
            self._hear(name, arguments(function, args, kwargs)[sight.argument] if sight.argument else result)
        self._calls += 1
        return result


# -- from labelled axes to groups --------------------------------------------------------------------------------------

Boxes = list[list[Box]]  # of each axis of a tensor


def _settle_families(watch: Watch) -> None:
    """Give the units under each index of an outer factor permutations of their own, where nothing ties them."""
    families = list(dict.fromkeys((root(top), p, inner) for top, p, inner in watch.families))
    mixed = _mixed_pairs(watch)

    def tied(p: Atom, inner: Segment) -> bool:
        loose = (not (f.shared or f.same or f.parts or f.reason or (p, f) in mixed) for f in inner)
        return p.shared or p.same is not None or not all(loose)

    while found := [family for family in families if tied(*family[1:])]:
        for family in found:
            families.remove(family)
            for f in family[2]:
                for member in f.members.values():
                    unite(((member,),), ((f,),))
    for top, p, inner in families:
        top.parts = tuple(tuple(f.members.get(j) or Atom(f.size) for f in inner) for j in range(p.size))


def _mixed_pairs(watch: Watch) -> set[tuple[Atom, Atom]]:
    """(units an operation runs over, units it keeps), for those under an index of an outer factor, too."""
    found: set[tuple[Atom, Atom]] = set()
    for over, kept in watch.mixed:
        for a, b in pairs_of(_atoms(over), _atoms(kept)):
            found.add((a, b))
            found.update((root(a.members[j]), root(b.members[j])) for j in a.members.keys() & b.members.keys())
    return found


def _groups(watch: Watch) -> tuple[tuple[Group, ...], tuple[Group, ...]]:
    """The groups by the parameters and buffers they act on, and by the activations."""
    _settle_families(watch)
    state = {name: [list(boxes(axis)) for axis in labels] for name, labels in watch.state.items()}
    unique = {tuple(resolved(axis) for axis in labels) for labels in [*watch.records, *watch.state.values()]}
    records = [[list(products(axis)) for axis in labels] for labels in unique]
    free = list(dict.fromkeys(
        a for axes in state.values() for axis in axes for segment, _ in axis for a in segment if not a.reason
    ))  # fmt: skip
    bases = _bases(free, records, _mixed_pairs(watch))
    plain = [a for a in free if a not in bases]
    units = [*_twins([a for a in plain if a not in bases.values()], records)]
    units += [(a,) for a in plain if a in bases.values()] + [(f,) for f in bases]
    units.sort(key=lambda atoms: free.index(atoms[0]))
    names: dict[Atom, str] = {}
    for atoms in units:
        first = next(n for n, axes in state.items() if any(atoms[0] in s for axis in axes for s, _ in axis))
        number = 1 + len({name for name in names.values() if name.split("#")[0] == first})
        names.update(dict.fromkeys(atoms, f"{first}#{number}" if number > 1 else first))
    heard = {name: [list(boxes(axis)) for axis in labels] for name, labels in watch.heard.items()}
    still = {  # activations whose other axes are samples alone
        name: axes
        for name, axes in heard.items()
        if all(
            a.reason
            for d, axis in enumerate(axes)
            if d != watch.sights[name].dim
            for segment, _ in axis
            for a in segment
        )
    }
    return (
        tuple(_group(atoms, names, bases, state) for atoms in units),
        tuple(_group(atoms, names, bases, still, aligned=True) for atoms in units),
    )


def _pinned(watch: Watch) -> Counter[str]:
    """{operation: units of parameters and buffers that it fixed} for the operations that are not known."""
    atoms = {atom for labels in watch.state.values() for atom in _atoms(labels)}
    return Counter({why: n for why in watch.doubts if (n := sum(a.size for a in atoms if a.reason == why))})


def _atoms(labels: Labels) -> set[Atom]:
    return {atom for axis in labels for segment in products(axis) for atom in segment}


def _bases(
    free: Sequence[Atom], records: Sequence[Sequence[Sequence[Segment]]], mixed: set[tuple[Atom, Atom]]
) -> dict[Atom, Atom]:
    """{units: the units they lie within}, for units with a permutation of their own under each index of others.

    Those others stand beside them in every value, and no operation runs over them and keeps the units.
    """
    beside: dict[Atom, set[Atom]] = {}
    for axes in records:
        for d, axis in enumerate(axes):
            others = Counter(a for e, other in enumerate(axes) if e != d and len(other) == 1 for a in other[0])
            unclear = {a for e, other in enumerate(axes) if e != d and len(other) > 1 for s in other for a in s}
            for segment in axis:
                around = others + Counter(segment)
                once = {a for a, times in around.items() if times == 1} - unclear
                for f in segment:
                    reach = once - {f} if f in once else set()
                    beside[f] = beside[f] & reach if f in beside else reach
    bases: dict[Atom, Atom] = {}
    for f in free:
        allowed = [b for b in beside[f] if (b, f) not in mixed and b not in bases]
        if allowed and f not in bases.values():
            bases[f] = max(allowed, key=lambda b: (not b.reason, b.size))
    return bases


def _twins(atoms: Sequence[Atom], records: Sequence[Sequence[Sequence[Segment]]]) -> list[tuple[Atom, ...]]:
    """The atoms, with those together that stand in the same places of the same axes of every value.

    Nothing tells their units apart: zeros put before and after the channels of a shortcut.
    """
    places: dict[Atom, set[object]] = {a: set() for a in atoms}
    for number, axes in enumerate(records):
        for d, axis in enumerate(axes):
            for segment in axis:
                for k, a in enumerate(segment):
                    if a in places:
                        places[a].add((number, d, segment[:k], segment[k + 1 :]))
    found: dict[frozenset[object], list[Atom]] = defaultdict(list)
    for a, where in places.items():
        found[frozenset(where)].append(a)
    return [tuple(together) for together in found.values()]


def _group(
    atoms: Sequence[Atom],
    names: Mapping[Atom, str],
    bases: Mapping[Atom, Atom],
    tensors: Mapping[str, Boxes],
    aligned: bool = False,
) -> Group:
    """The group of some atoms with its actions on the tensors; `aligned`: only fixed units may stand beside them."""
    base = bases.get(atoms[0])
    fibres = {f for f, b in bases.items() if b is atoms[0]}
    found: dict[object, list[Action]] = defaultdict(list)
    for name, axes in tensors.items():
        times: Counter[object] = Counter()  # an atom may be in an axis several times, as in the gates of an LSTM
        everywhere = {a for axis in axes for segment, _ in axis for a in segment}
        for d, axis in enumerate(axes):
            for segment, positions in axis:
                for k in (k for k, a in enumerate(segment) if a in atoms):
                    beside = {*segment[:k], *segment[k + 1 :]} - {base}
                    counted = not (fibres & everywhere) and not (aligned and any(not a.reason for a in beside))
                    action = _action(name, d, segment, positions, k, base, axes, counted)
                    where = (name, d, segment[:k], segment[k + 1 :])
                    times[segment[k], where] += 1
                    found[where, times[segment[k], where]].append(action)
    actions = tuple(
        together[0]
        if len(together) == 1
        else Action(
            together[0].tensor,
            together[0].axis,
            np.concatenate([action.places for action in together], axis=1),
            counted=together[0].counted,
        )
        for together in found.values()
    )
    size = sum(a.size for a in atoms)
    if base is None:
        return Group(names[atoms[0]], size, actions)
    return Group(names[atoms[0]], size, actions, base.size, names.get(base))


def _action(
    name: str, d: int, segment: Segment, positions: IntArray, k: int, base: Atom | None, axes: Boxes, counted: bool
) -> Action:
    """How the units of factor k of a box along axis d lie there, block by block of their base."""
    size = segment[k].size
    if base is None:
        return Action(name, d, np.moveaxis(positions, k, 0).reshape(1, size, -1), counted=counted)
    if base in segment:
        moved = np.moveaxis(positions, (segment.index(base), k), (0, 1))
        return Action(name, d, moved.reshape(base.size, size, -1), counted=counted)
    at, (outer, where) = next(
        (e, axis[0]) for e, axis in enumerate(axes) if e != d and len(axis) == 1 and base in axis[0][0]
    )
    base_places = np.moveaxis(where, outer.index(base), 0).reshape(base.size, -1)
    return Action(name, d, np.moveaxis(positions, k, 0).reshape(1, size, -1), at, base_places, counted)
