"""Which samples make a product or gradient that is not finite, by their numbers in the user's data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

import torch

from landscape.errors import InputError, NumericalError
from landscape.objective.batches import Batch
from landscape.objective.objective import Objective
from landscape.objective.trees import has_batch_axis, map_tensors, take_rows, tensors_in

_MOST = 10  # samples that are looked for beyond the chunk that failed, as many as a message names
_PATIENCE = 5.0  # seconds in which they are


def not_finite(
    objective: Objective,
    what: str,
    number: int,
    broken: Callable[[int], Sequence[int] | None],
    theta: Any,
    buffers: Any,
) -> NumericalError:
    """The error that says for which samples `what` is not finite, and whether the loss is, at theta (size,).

    `number` is the chunk where that was met. `broken` gives the places of such samples in a chunk, see `broken_rows`;
    None where single ones are not known. Those of other chunks are named, too, as far as a few seconds show them.
    """
    found: dict[int, Sequence[int] | None] = {number: broken(number) or None}
    stops, all_seen = monotonic() + _PATIENCE, True
    for other in (*range(number + 1, objective.chunks), *range(number)):
        if monotonic() > stops or sum(len(rows or ()) for rows in found.values()) >= _MOST:
            all_seen = False
            break
        rows = broken(other)
        if rows:
            found[other] = rows
    named = objective.samples_named(found)
    more = "" if all_seen else " (perhaps for others, too: not all were looked at)"
    finite = {_loss_is_finite(objective, chunk, rows, theta, buffers) for chunk, rows in found.items()}
    if finite == {True}:
        cause = "the loss is finite there, and a derivative of it overflows or is undefined (a root or norm of zero?)"
    elif finite == {False}:
        cause = "the loss is not finite there"
    else:
        cause = "the loss or a derivative overflows or is undefined there"
    return NumericalError(
        f"{what} is not finite for {named}{more}: {cause}. Look at {'it' if named.startswith('sample ') else 'them'}, "
        "leave out of the data what is broken, or evaluate at other parameters."
    )


def broken_rows(batch: Batch, size: int, is_finite: Callable[[Batch, slice], bool]) -> list[int] | None:
    """The rows of a batch of `size` samples for which `is_finite` of that part is false, found by halving.

    None where the batch cannot be cut; [] where no part alone is at fault.
    """
    if not has_batch_axis(batch) or next(tensors_in(batch)).size(0) != size:
        return None
    found: list[int] = []
    left = [slice(0, size)]
    while left:
        part = left.pop()
        try:
            if is_finite(_cut(batch, part), part):
                continue
        except InputError:  # the model takes no such part
            return None
        if part.stop - part.start == 1:
            found.append(part.start)
            continue
        middle = (part.start + part.stop) // 2
        left += [slice(part.start, middle), slice(middle, part.stop)]
    return sorted(found)


def _cut(batch: Batch, part: slice) -> Batch:
    return map_tensors(batch, lambda tensor: take_rows(tensor, part))


def _loss_is_finite(
    objective: Objective, number: int, rows: Sequence[int] | None, theta: Any, buffers: Any
) -> bool | None:
    batch = objective.batch(number)
    if rows is not None:
        index = torch.tensor(rows)
        batch = map_tensors(batch, lambda tensor: take_rows(tensor, index.to(tensor.device)))
    try:
        with objective.differentiable(theta, buffers) as (model, _), torch.no_grad():
            units = objective.loss_units(*objective.outputs(model, batch))
    except (InputError, RuntimeError):
        return None
    return bool(units.numerators.isfinite().all())
