"""Whether scalars that code of the user's returns are means over samples, and pairs numerators and weights."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from landscape.errors import InputError, user_code
from landscape.objective.batches import Batch
from landscape.objective.calls import Calls, shapes_met
from landscape.objective.counting import (
    WAYS,
    second_axis,
    targets_in,
)
from landscape.objective.data import Data
from landscape.objective.moves import Moves
from landscape.objective.trees import (
    has_batch_axis,
    joined,
    map_tensors,
    shapes_in,
    tensors_in,
)
from landscape.objective.units import SEPARABLE, Quantity, Units, require_weights

logger = logging.getLogger(__name__)


def check_batches(calls: Calls, quantities: Sequence[Quantity], data: Data) -> None:
    """Scalars are weighted by samples, which must be right for every batch and not only the trial's.

    Halves of a batch, and halves of two batches together, have to give the mean or sum that is expected of them. Where
    they cannot be put together a warning says so, with the ways out; where what a scalar is a mean over may differ from
    batch to batch it is refused. Of a single batch a scalar that is no mean is all of the loss, but for a sum.
    """
    checks = [quantity for quantity in quantities if quantity.verify is not None]
    returned = quantities[0].is_scalar and calls.loss_is_returned
    _check_weights(calls, quantities, data)
    if not (checks or returned):
        return
    doubt = ""
    with calls.model.at(None) as model, calls.context(True):
        before: Any = None
        for _, batch in data.chunks():
            if returned:
                if data.count == 1:
                    _try_whole(calls, model, batch)
                else:
                    doubt = _try_returned(calls, model, batch, before) or doubt
                before = batch
                continue
            pair = calls.outputs(model, batch)
            together = None if before is None else _together(before, pair)
            for quantity in checks:
                _verify(quantity, *pair)
                if together is not None:
                    _verify(quantity, *together)
            if before is not None and together is None and _shape_of_one(before[1]) != _shape_of_one(pair[1]):
                raise InputError(
                    f"{checks[0].name} ({checks[0].describe}) is a scalar, and samples have targets of other shapes "
                    f"from batch to batch ({shapes_in(before[1])}; {shapes_in(pair[1])}), so whether it is a mean over "
                    "samples or over what these hold (tokens, pixels) cannot be told. Return values per sample, or a "
                    "(numerators, denominators) pair"
                )
            before = pair
    if doubt and calls.counting.given is None:
        logger.warning(
            "the scalar that forward returns is taken for a mean over samples, which could not be tried on batches put "
            "together (%s). Where it is a mean over anything else (tokens, pixels, nodes), batches are weighted wrong: "
            "%s",
            doubt,
            WAYS,
        )


def _check_weights(calls: Calls, quantities: Sequence[Quantity], data: Data) -> None:
    """Denominators that the user's code returns are weights: none negative, and of a loss some positive and all fixed.

    Those of a metric may move with the parameters, as the predicted positives of a precision do, and all be zero.
    """
    pairs = [k for k, quantity in enumerate(quantities) if quantity.is_pair]
    if not pairs:
        return
    names = ["forward" if calls.loss_is_returned else f"{q.name} ({q.describe})" for q in quantities]
    move = Moves(calls.model)
    totals = dict.fromkeys(pairs, 0.0)

    def units(batch: Batch, scale: float) -> list[Units] | None:
        try:
            with move.by(scale) as theta, calls.model.at(theta) as model, calls.context(True):
                return calls.units(quantities, model, batch)
        except InputError:
            return None

    for number, batch in data.chunks():
        with calls.model.at(None) as model, calls.context(True):
            found = calls.units(quantities, model, batch)
        moved = [units(batch, scale) for scale in (1.0, 10.0)] if number == 0 else []
        single = number == 0 and calls.loss_is_returned and found[0].numerators.numel() == 1
        parts = [units(part, 0.0) for part in _parts(calls, batch)] if single else []
        for k in pairs:
            halves = [part[k] for part in parts if part is not None] if None not in parts else []
            there = [units[k] for units in moved if units is not None] if k == 0 else []
            require_weights(found[k], names[k], there, halves)
            totals[k] += found[k].total
    if totals.get(0) == 0:
        raise InputError(
            f"{names[0]} returned denominators that are all zero, so nothing is left to divide by: return weights, or "
            "numbers of what the numerators sum over"
        )


def _verify(quantity: Quantity, outputs: Any, targets: Any) -> None:
    assert quantity.verify is not None
    with user_code(f"{quantity.name} cannot be computed on a part of a batch", lambda: shapes_met(outputs, targets)):
        quantity.verify(outputs, targets)


def _together(first: Any, second: Any) -> Any | None:
    """Equal parts of two batches as one, at most half of each; None where they do not fit together."""
    if not (has_batch_axis(first) and has_batch_axis(second)):
        return None
    half = max(1, min(rows_in(first), rows_in(second)) // 2)
    return joined(*(map_tensors(tree, lambda t: t[:half]) for tree in (first, second)))


def _shape_of_one(targets: Any) -> list[tuple[int, ...]]:
    """The shapes of the targets of a sample."""
    return [tuple(t.shape[1:]) for t in tensors_in(targets)]


def _try_returned(calls: Calls, model: Any, batch: Batch, before: Batch | None) -> str:
    """Try a scalar that forward returns on halves of a batch and on two batches together; why it could not be tried.

    Raises InputError where it is no mean over samples, or where that is open and the batches differ.
    """
    try:
        parts = _parts(calls, batch)
        _require_mean(calls, model, batch, parts)
        if not calls.counting.can_be_cut(batch):
            if not parts or before is None:
                return "" if parts else f"a batch cannot be cut: {shapes_in(batch)}"
            lists = _lists_together(calls, before, batch)
            if not lists:
                return "samples of two batches cannot be put together"
            _require_mean(calls, model, *lists)
            return ""
        if before is None or not calls.counting.can_be_cut(before):
            return ""
        together = _together(before, batch)
        if together is None:
            if calls.counting.given is None:
                _require_known_shapes(before, batch)
            return ""
        _require_mean(calls, model, together, halves(together))
    except NoPartError as error:
        return str(error)
    return ""


def _require_known_shapes(before: Batch, batch: Batch) -> None:
    """Raise InputError for batches of samples of other shapes, where a scalar may be a mean over what these hold."""
    seconds = second_axis(before), second_axis(batch)
    targets = [targets_in(one) for one in (before, batch)]
    if None not in seconds and seconds[0] != seconds[1]:
        cause = (
            f"all tensors of a batch share a second axis, of length {seconds[0]} in one batch and {seconds[1]} in the "
            "next"
        )
    elif None in targets or _shape_of_one(targets[0]) != _shape_of_one(targets[1]) or _may_be_weights(batch):
        cause = "samples have other shapes from batch to batch"
    else:
        return
    raise InputError(
        f"forward returned a scalar, and what it is a mean over cannot be told: {cause} ({shapes_in(before)}; "
        f"{shapes_in(batch)}), and the scalar may be a mean over that (tokens, or samples after time); {WAYS}"
    )


def _may_be_weights(batch: Batch) -> bool:
    """Whether what stands last in a batch of several parts is no label but a number for each sample."""
    targets = targets_in(batch)
    several = isinstance(batch, (tuple, list)) and len(batch) > 2
    return several and isinstance(targets, Tensor) and targets.is_floating_point()


def _try_whole(calls: Calls, model: Any, batch: Batch) -> None:
    """Try a scalar that forward returns for all of the data: it need not be a mean over samples, but must be no sum.

    Raises InputError for a sum, and for the mean over every input with every target that broadcasting makes.
    """
    halves = _parts(calls, batch)
    if not halves:
        return
    rows = sum(_weight(calls, half) for half in halves)
    try:
        whole, *values = [scalar_of(calls, model, of) for of in (batch, *halves)]
        if not math.isfinite(whole) or near(whole, weighted_mean(values, [_weight(calls, half) for half in halves])):
            return
        constant, quarters = 0.0, _parts(calls, halves[0])
        if quarters:  # a penalty on the weights, which each part has
            constant = sum(scalar_of(calls, model, of) for of in quarters) - values[0]
        grows = abs(whole - constant) > abs(whole) / 2
        if near(whole, sum(values)) or (grows and near(whole, sum(values) - constant)):
            raise InputError(_no_mean(round(rows), whole, values, None))
        crossed = _crossed(batch) if calls.counting.can_be_cut(batch) else []
        if crossed and near(
            scalar_of(calls, model, crossed[0]), weighted_mean([scalar_of(calls, model, c) for c in crossed[1:]])
        ):
            raise InputError(
                f"forward returned {whole:.6g} for {round(rows)} samples, which is a mean over every input with every "
                f"target ({shapes_in(batch)}): broadcasting compares every sample with every other ((n, 1) outputs "
                "with (n,) targets?). Reshape one to the other's shape."
            )
    except NoPartError:
        return


def _crossed(batch: Batch) -> list[Batch]:
    """An even number of samples, and its four batches of the inputs of one half with the targets of another."""
    targets = targets_in(batch)
    if not isinstance(targets, Tensor):
        return []
    half = rows_in(batch) // 2
    rows = slice(half), slice(half, 2 * half)

    def made(inputs: slice, others: slice) -> Batch:
        return map_tensors(batch, lambda t: t[others] if t is targets else t[inputs])

    return [made(slice(2 * half), slice(2 * half)), *(made(a, b) for a in rows for b in rows)]


def halves(batch: Batch) -> list[Batch]:
    """The first and the second half of the samples of a batch."""
    half = rows_in(batch) // 2
    return [map_tensors(batch, lambda t: t[:half]), map_tensors(batch, lambda t: t[half:])]


def _parts(calls: Calls, batch: Batch) -> list[Batch]:
    """The two halves of a batch; none of one that cannot be cut, or holds one sample."""
    if calls.counting.can_be_cut(batch):
        return halves(batch) if rows_in(batch) > 1 else []
    half = (calls.counting.of(batch) or 0) // 2
    parts = [calls.counting.part(batch, rows) for rows in (slice(half), slice(half, None))] if half else []
    return [] if any(part is None for part in parts) else parts


def _lists_together(calls: Calls, first: Batch, second: Batch) -> tuple[Batch, list[Batch]] | None:
    """As many samples of two batches that are lists of them as one such list, and its two parts."""
    if not all(isinstance(batch, (list, tuple)) for batch in (first, second)):
        return None
    counts = [calls.counting.of(batch) or 0 for batch in (first, second)]
    half = max(1, min(counts) // 2)
    parts = [calls.counting.part(batch, slice(half)) for batch in (first, second)]
    if counts != [len(first), len(second)] or any(type(part) is not type(first) for part in parts):
        return None
    joint = [one for part in parts if part is not None for one in part]
    return (tuple(joint) if isinstance(first, tuple) else joint), parts


def _weight(calls: Calls, batch: Batch) -> float:
    """The samples of a part of a batch."""
    counting = calls.counting
    given = callable(counting.given) or not has_batch_axis(batch) or counting.listed
    return float(counting.require(batch) if given else rows_in(batch))


class NoPartError(Exception):
    """The user's forward cannot be evaluated on a part of a batch."""


def scalar_of(calls: Calls, model: Any, batch: Batch) -> float:
    """What forward returns for a batch or a part of one."""
    try:
        return float(torch.as_tensor(calls.call(model, batch)[0]))
    except (InputError, RuntimeError, ValueError, TypeError) as error:
        raise NoPartError(f"forward fails on a part of a batch: {error}") from error


def weighted_mean(values: Sequence[float], weights: Sequence[float] | None = None) -> float:
    """sum w v / sum w, all weights 1 by default."""
    weights = [1.0] * len(values) if weights is None else weights
    return sum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights)


def near(first: float, second: float) -> bool:
    """Whether two values of a loss are equal but for rounding in half precision."""
    return math.isclose(first, second, rel_tol=10 * SEPARABLE, abs_tol=1e-9)


def _require_mean(calls: Calls, model: Any, batch: Batch, parts: Sequence[Batch]) -> None:
    """Raise InputError where the scalar of a batch is not the mean of those of its parts, by their samples."""
    if not parts:
        return

    whole, values = scalar_of(calls, model, batch), [scalar_of(calls, model, part) for part in parts]
    weights = [_weight(calls, part) for part in parts]
    mean = weighted_mean(values, weights)
    if math.isfinite(whole) and not near(whole, mean):
        raise InputError(_no_mean(round(sum(weights)), whole, values, None if near(whole, sum(values)) else mean))


def _no_mean(samples: int, whole: float, values: Sequence[float], mean: float | None) -> str:
    """The message for a scalar that is no mean over samples, but a sum where no `mean` is given."""
    return (
        f"forward returned {whole:.6g} for {samples} samples, whose parts give {values[0]:.6g} and {values[1]:.6g}: "
        + (
            "it is a sum, and a scalar counts as the mean over a batch. Return the mean, "
            if mean is None
            else f"no mean over samples, which would be {mean:.6g} (a mean over kept tokens?), so batches cannot be "
            "weighted right. Return "
        )
        + "values per sample, or (numerators, denominators): the sum and the number of what it is a mean over."
    )


def rows_in(batch: Batch) -> int:
    """The length of the first axis of the first tensor that has one."""
    return next((int(tensor.size(0)) for tensor in tensors_in(batch) if tensor.ndim), 0)
