"""Axes of tensors as products and sums of units that permute together."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from landscape_kernels.arrays import IntArray


@dataclass(eq=False)
class Atom:
    """Units that are permuted as one: an axis, a factor of an axis, or a stretch of one.

    Axes that have to permute together share their atoms (union-find); one that turns out to be made of smaller ones
    gets them as its `parts`.
    """

    size: int
    reason: str = ""  # why the units must stay where they are; empty where they may move
    same: Atom | None = None  # the atom this one has been united with
    parts: Axis | None = None
    source: Atom | None = None  # the atom this one is a factor of
    shared: bool = False  # whether another atom has been united with this one
    members: dict[int, Atom] = field(default_factory=dict)  # index along the outer factor -> the units under it alone


Segment = tuple[Atom, ...]  # a product, outer factor first; () is a single unit
Axis = tuple[Segment, ...]  # segments one after the other
Labels = list[Axis]  # one per axis of a tensor
ONE: Axis = ((),)


def fresh(size: int, reason: str = "") -> Axis:
    """An axis of new units."""
    return () if size == 0 else ONE if size == 1 else ((Atom(size, reason),),)


def size_of(segment: Segment) -> int:
    """Number of positions of a segment."""
    return math.prod(atom.size for atom in segment)


def length(axis: Axis) -> int:
    """Number of positions of an axis."""
    return sum(map(size_of, axis))


def root(atom: Atom) -> Atom:
    """The atom that stands for all it has been united with."""
    while atom.same is not None:
        atom = atom.same
    return atom


def resolved(axis: Axis) -> Axis:
    """The axis in its finest known units: a sum of products, of whose factors only inner ones may be sums again."""
    return tuple(fine for segment in axis for fine in _segments(segment))


def _segments(segment: Segment) -> Iterator[Segment]:
    factors: Segment = ()
    for i, atom in enumerate(map(root, segment)):
        parts = ((atom,),) if atom.parts is None else resolved(atom.parts)
        if len(parts) == 1:
            factors += parts[0]
        elif not factors:
            for part in parts:
                yield from _segments((*part, *segment[i + 1 :]))
            return
        else:
            factors += (atom,)
    yield factors


def pin(axis: Axis, reason: str) -> None:
    """Fix the units of an axis where they are; the first reason stands."""
    for atom in (root(atom) for segment in axis for atom in segment):
        if atom.parts is not None:
            pin(atom.parts, reason)
        elif not atom.reason:
            atom.reason = reason


def unite(x: Axis, y: Axis) -> None:
    """Make two axes of one length permute alike; what cannot be told apart or together is fixed."""
    x, y = resolved(x), resolved(y)
    if x == y:
        return
    (a, *xs), (b, *ys) = x, y
    if size_of(a) != size_of(b):
        longer, at = (a, size_of(b)) if size_of(a) > size_of(b) else (b, size_of(a))
        done = _cut(longer, at)
    elif not a:
        unite(tuple(xs), tuple(ys))
        return
    elif a[0].size != b[0].size:
        larger, small = (a[0], b[0].size) if a[0].size > b[0].size else (b[0], a[0].size)
        done = larger.size % small == 0 and _factor(larger, larger.size // small)
    else:
        _join(a[0], b[0])
        unite((a[1:],), (b[1:],))
        unite(tuple(xs), tuple(ys))
        return
    if done:
        unite(x, y)
    else:
        for axis in (x, y):
            pin(axis, "units that are divided in ways that do not fit together")


def _join(p: Atom, q: Atom) -> None:
    if p is q:
        return
    if p.parts is not None and q.parts is not None:
        unite(p.parts, q.parts)
        p, q = root(p), root(q)
        if p is q:
            return
    elif p.parts is not None:
        p, q = q, p
    p.same, q.shared = q, True
    if p.parts is None and p.reason:
        pin(((q,),), p.reason)


def _factor(atom: Atom, inner: int) -> bool:
    """Divide an atom into a product with an inner factor of that size, if that can be."""
    if atom.parts is not None:
        halves = split(atom.parts, inner)
        if halves is None:
            return False
        atom.parts = product(*halves)
        return True
    factors = (Atom(atom.size // inner, atom.reason, source=atom), Atom(inner, atom.reason, source=atom))
    atom.parts = (factors,)
    return True


def _cut(segment: Segment, at: int) -> bool:
    """Divide the outer factor of a resolved segment into stretches before and after `at`, if that can be."""
    inner = size_of(segment[1:])
    if at % inner:
        return False
    first = segment[0]
    first.parts = fresh(at // inner, first.reason) + fresh(first.size - at // inner, first.reason)
    return True


def split(axis: Axis, inner: int) -> tuple[Axis, Axis] | None:
    """(outer, inner) axes whose product the axis is, the inner one of the given size; None where it is none."""
    if inner == length(axis):
        return ONE, axis
    outer: list[Segment] = []
    tail: Axis | None = None
    for segment in resolved(axis):
        found = _split(segment, inner)
        if found is None:
            return None
        outer.append(found[0])
        if tail is None:
            tail = (found[1],)
        else:
            unite(tail, (found[1],))
    return tuple(outer), ONE if tail is None else tail


def _split(segment: Segment, inner: int) -> tuple[Segment, Segment] | None:
    at, left = len(segment), inner
    while left > 1:
        if at == 0:
            return None
        at -= 1
        atom = segment[at]
        if left % atom.size == 0:
            left //= atom.size
        elif atom.size % left == 0 and _factor(atom, left):
            again = resolved((segment,))
            return _split(again[0], inner) if len(again) == 1 else None
        else:
            return None
    return segment[:at], segment[at:]


def product(outer: Axis, inner: Axis) -> Axis:
    """The axis that runs over `inner` within `outer`."""
    inner = resolved(inner)
    if not inner:
        return ()
    tail = inner[0] if len(inner) == 1 else (Atom(length(inner), parts=inner),)
    return tuple((*segment, *tail) for segment in resolved(outer))


def stretch(axis: Axis, start: int, stop: int) -> Axis | None:
    """Positions start to stop of an axis; None where its units cannot be divided there."""
    axis, begin = resolved(axis), 0
    taken: Axis = ()
    for segment in axis:
        end = begin + size_of(segment)
        inside = [at for at in (start, stop) if begin < at < end]
        if inside:
            return stretch(axis, start, stop) if _cut(segment, inside[0] - begin) else None
        if start <= begin and end <= stop:
            taken += (segment,)
        begin = end
    return taken


def products(axis: Axis) -> Iterator[Segment]:
    """The plain products that an axis is made of."""
    for segment in resolved(axis):
        sums = (k for k, atom in enumerate(segment) if atom.parts is not None)
        k = next(sums, None)
        if k is None:
            yield segment
        else:
            for part in resolved(segment[k].parts or ()):
                yield from products(((*segment[:k], *part, *segment[k + 1 :]),))


Box = tuple[Segment, IntArray]


def boxes(axis: Axis) -> Iterator[Box]:
    """The plain products that an axis is made of, each with its positions in an array of a factor to an axis."""
    begin = 0
    for segment in resolved(axis):
        positions = np.arange(begin, begin + size_of(segment)).reshape([atom.size for atom in segment])
        yield from _boxes(segment, positions)
        begin += size_of(segment)


def _boxes(segment: Segment, positions: IntArray) -> Iterator[Box]:
    for k, atom in enumerate(segment):
        if atom.parts is not None:
            begin = 0
            for part in resolved(atom.parts):
                inside = np.take(positions, range(begin, begin + size_of(part)), axis=k)
                shape = (*inside.shape[:k], *(inner.size for inner in part), *inside.shape[k + 1 :])
                yield from _boxes((*segment[:k], *part, *segment[k + 1 :]), inside.reshape(shape))
                begin += size_of(part)
            return
    yield segment, positions
