"""What is found out once about a model and its data."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from landscape.errors import InputError, UserCodeError, raised_by, told_of_user, user_code
from landscape.objective.batches import Batch
from landscape.objective.calls import Calls, shapes_met
from landscape.objective.counting import (
    WAYS,
    Counting,
    is_along_second,
    lengths_of_lists,
    may_be_samples,
    rows_of,
    second_axis,
    uncounted,
)
from landscape.objective.data import Data
from landscape.objective.described import own_parameters
from landscape.objective.folding import Folding, settled_folding
from landscape.objective.losses import LossLike, loss_quantity, metric_quantities, no_such_class
from landscape.objective.model import default_precision
from landscape.objective.moves import Moves
from landscape.objective.random_state import random_streams, seed_everything
from landscape.objective.reductions import NoPartError, check_batches, halves, near, rows_in, scalar_of, weighted_mean
from landscape.objective.remembered import Remembered
from landscape.objective.slow_half import tell_slow_half
from landscape.objective.trees import (
    alike,
    axes_of,
    floats_in,
    has_batch_axis,
    map_tensors,
    shapes_in,
    strided_parts,
    take_rows,
    tensors_in,
)
from landscape.objective.units import COMPARING, Quantity, Units, is_pair, mean_as_unit, values_as_units

logger = logging.getLogger(__name__)
Metrics = Sequence[str | Callable[..., Any]] | Mapping[str, str | Callable[..., Any]]
# The largest activation of one chunk: about the cache a core has on CPUs (measured best for convolutions: 64 CIFAR
# images of a ResNet-20), far above launch overhead on GPUs.
_CHUNK_BYTES = {"cpu": 4 << 20, "cuda": 512 << 20}
_SMALLEST_CHUNK = 8
_MOVES = (1e-2, 1.0, 10.0, 1e3)  # steps that parameters are moved by, relative to their mean size
_TRIAL = 16  # samples that questions are settled on, where batches may be cut
# Relative gaps that rounding may cause, and no more: between batch sizes or memory formats, which sum in another order,
# and between two runs on the same batch, whose order varies only by atomics on GPUs.
_ROUNDING = {torch.float32: 1e-3, torch.float64: 1e-9, torch.bfloat16: 0.1, torch.float16: 0.02}
_SAME = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 1e-2, torch.float16: 2e-3}


@dataclass(frozen=True)
class Settled:
    """What was found out about a model and its data."""

    calls: Calls
    undivided: Data  # as read, in the memory format of the calls
    data: Data  # in chunks
    chunk: int  # samples of a chunk
    values_per_sample: int  # of the largest tensor met
    quantities: list[Quantity]  # the loss, then the metrics
    writes_buffers: bool  # by a forward pass in eval mode
    folding: Folding


def settle(
    calls: Calls, loss: LossLike | None, metrics: Metrics, data: Data, chunk: int | None, channels_last: bool
) -> Settled:
    """Try the model on the data, and settle how it is evaluated; in chunks of `chunk` samples where that is given.

    Raises InputError for a model, a loss or data that would give numbers that mean something else than asked.
    """
    _tell_own_parameters(calls, loss, metrics)
    trial = _trial_batch(data)
    untouched = Remembered(dict(calls.model.model.named_modules()))
    calls = _tried(calls, trial)
    lies = calls.model.placement is not None  # what is not exchanged is not laid out anew either
    if channels_last and not lies:
        calls = _in_memory_format(calls, trial)
    with calls.context(True):
        calls.model.settle_filters(trial, calls.outputs)
    undivided = data.converted(calls.formatted) if calls.channels_last else data
    values_per_sample = _largest_activation(calls, trial)
    chunk = _checked_chunk(chunk, undivided) or _chunk_size(calls, undivided, trial, values_per_sample)
    data = undivided.divided(chunk)
    quantities = settled_quantities(calls, loss, metrics, data)
    calls, data = counted(calls, quantities, data)
    if calls.loss_is_returned:
        quantities = [replace(quantities[0], units=_returned_units(calls.counting))]
    if not undivided.divisible:
        undivided, chunk = data, data.samples_of(0)
    _check_determinism(calls, quantities, data)
    _check_moves(calls, quantities, data, untouched)
    check_batches(calls, quantities, data)
    writes_buffers = _side_effects(calls, quantities, data)
    folding = Folding(calls.model.model)
    # Frozen BatchNorm is folded where that is safe: not for functions of the user's, which may call submodules.
    if calls.forward is None and not calls.needs_grad and not writes_buffers and not lies:
        with calls.context(True):
            folding = settled_folding(calls.model, calls.call, _trial_batch(data), _ROUNDING[calls.model.arithmetic])
    if calls.precision == "bf16" and not lies:
        tell_slow_half(calls, quantities, data.first)
    return Settled(calls, undivided, data, chunk, values_per_sample, quantities, writes_buffers, folding)


def settled_quantities(calls: Calls, loss: LossLike | None, metrics: Metrics, data: Data) -> list[Quantity]:
    """The loss, then the metrics. Raises InputError where they cannot be computed of what the model returns."""
    outputs, targets = calls.run(_trial_batch(data))
    if loss is None:
        units = values_as_units(outputs, None, "forward")
        _require_no_booleans(units, outputs, "forward")
        counting = calls.counting
        return [
            Quantity(
                "loss",
                "returned by forward",
                _returned_units(counting),
                is_scalar=units is None,
                is_pair=is_pair(outputs),
            )
        ]
    advice = (
        "Where forward returns the loss itself, give loss=None; a criterion of other arguments than (outputs, targets) "
        "is called in forward=."
    )
    given, failed = shapes_met(outputs, targets), "the loss or a metric cannot be computed from outputs and targets"
    with (
        calls.context(False),
        user_code(failed, lambda: given, advice),
    ):
        try:
            quantity = loss_quantity(loss, outputs, targets)
            _require_no_booleans(quantity.units(outputs, targets), None, f"{quantity.name} ({quantity.describe})")
            return [quantity, *metric_quantities(metrics, outputs, targets, quantity)]
        except IndexError as error:
            if (told := no_such_class(error, outputs, targets)) is None:
                raise
            raise told_of_user(error, failed, given, told) from error


def _returned_units(counting: Counting) -> Callable[[Any, Any], Units]:
    """Units of the loss that forward returns: values per sample, a pair, or the mean over the samples of the batch."""

    def units(values: Any, batch: Batch) -> Units:
        found = values_as_units(values, counting.of(batch), "forward")
        return mean_as_unit(values, counting.require(batch)) if found is None else found

    return units


def _require_no_booleans(units: Units | None, value: Any, what: str) -> None:
    """Raise InputError for a loss that is yes or no: it has no slope."""
    tensor = value if units is None else units.numerators
    if isinstance(tensor, bool) or (isinstance(tensor, Tensor) and tensor.dtype == torch.bool):
        shape = tuple(tensor.shape) if isinstance(tensor, Tensor) else ()
        raise InputError(
            f"{what} returned values of dtype {torch.bool} and shape {shape}, and a loss is a number; "
            "convert them (values.float()), or give what is right or wrong as a metric"
        )


def _tell_own_parameters(calls: Calls, loss: LossLike | None, metrics: Metrics) -> None:
    """Say that parameters of a criterion stay as they are: the landscape is that of the model's alone."""
    known = {id(parameter) for parameter in calls.model.model.parameters()}
    functions = [loss, *(metrics.values() if isinstance(metrics, Mapping) else metrics)]
    for function in functions:
        own = [name for name, parameter in own_parameters(function).items() if id(parameter) not in known]
        if own:
            logger.warning(
                "%s has %d parameters of its own (%s), which stay as they are: only the model's vary. To vary them, "
                "too, give a model that holds both, and forward= that calls them",
                type(function).__name__,
                len(own),
                ", ".join(own[:5]),
            )


def counted(calls: Calls, quantities: Sequence[Quantity], data: Data) -> tuple[Calls, Data]:
    """The samples of batches whose tensors leave it open, from the values per sample that the loss has on them.

    A single batch of which not even these say it is one unit: it is all the data, and its weight says nothing. So are
    several whose shapes are all the same: they weigh alike, whatever they hold. Raises InputError, with the shapes and
    the ways out, for others.
    """
    if data.sizes is None:
        return calls, data
    calls = replace(calls, counting=replace(_seen_by_loss(calls, quantities[0], data), alone=False))
    if calls.counting != Counting(calls.counting.given):
        data = data.counted([calls.counting.of(batch) for _, batch in data.chunks()])
    if data.sizes is None or None not in data.sizes:
        return calls, data
    quantity = quantities[0]
    if calls.loss_is_returned and not quantity.is_scalar:  # then they decide for all batches
        calls = replace(calls, counting=replace(calls.counting, by_values=True))
        quantity = replace(quantity, units=_returned_units(calls.counting))
        data = data.counted([None] * data.count)
    sizes: list[int] = []
    seen, fits = data.sizes or [], True
    with calls.model.at(None) as model, calls.context(True):
        for number, batch in data.chunks():
            known = seen[number]
            sizes.append(_units_in(calls, quantity, model, batch) if known is None else known)
            if sizes[-1] == 0 and not _are_of_one_shape(data):
                raise InputError(uncounted(batch))
            fits = fits and (known is not None or quantity.is_pair or _may_have(batch, sizes[-1]))
    if 0 in sizes:
        if data.count > 1:
            logger.warning(
                "how many samples a batch holds cannot be told from its tensors (%s). All batches have these shapes, "
                "so each counts as one sample, and they weigh alike; where they hold different numbers of samples, %s",
                shapes_in(data.first),
                WAYS,
            )
        return replace(calls, counting=replace(calls.counting, alone=True)), data.counted([1] * data.count)
    # As many values whatever the batch are no values of samples, but of classes, say, or a mean of shape (1,).
    constant = calls.loss_is_returned and data.count > 1 and len(set(sizes)) == 1 and not fits
    if constant and (sizes[0] == 1 or len({frozenset(rows_of(batch)) for _, batch in data.chunks()}) > 1):
        raise InputError(uncounted(data.first))
    return calls, data.counted(sizes)


def _are_of_one_shape(data: Data) -> bool:
    """Whether all batches hold tensors of the same shapes."""
    shapes = {(lengths_of_lists(b), tuple(tuple(axes_of(t)) for t in tensors_in(b))) for _, b in data.chunks()}
    return len(shapes) == 1


def _may_have(batch: Batch, count: int) -> bool:
    """Whether something in a batch other than settings (of floating point, or a single one) has so many entries."""
    if count == 1:
        return rows_of(batch) == {1} or 1 in lengths_of_lists(batch)
    rows = any(t.size(0) == count and not t.is_floating_point() for t in tensors_in(batch) if t.ndim)
    second = any(t.size(1) == count for t in tensors_in(batch) if t.ndim > 2 and not t.is_nested)
    return rows or second or count in lengths_of_lists(batch)


def _seen_by_loss(calls: Calls, quantity: Quantity, data: Data) -> Counting:
    """The counting that the values of the loss, and the shapes from batch to batch, are seen to agree with."""
    counting, batch = calls.counting, data.first
    if calls.forward is None or counting.second or counting.listed or counting.by_values:
        return counting
    free = counting.given is None
    lists = {lengths_of_lists(batch) for _, batch in data.chunks()} if lengths_of_lists(batch) and free else set()
    if len(lists) > 1:  # the number of columns does not change from batch to batch: these are lists of samples
        return replace(counting, listed=True)
    count = counting.of(batch)
    if free and is_along_second(batch) and _is_constant(counting, data):
        return replace(counting, by_values=True)
    if quantity.is_scalar and calls.loss_is_returned:
        return replace(counting, listed=True) if lists and _is_list_by_trial(calls, data, count) else counting
    values, given = calls.run(batch)
    if not calls.loss_is_returned:
        units = calls.units_of(quantity, values, given).numerators if lists else None
        several = units is not None and may_be_samples(batch) and count != units.numel() == len(batch)
        return replace(counting, listed=True) if several else counting
    values = values[0] if is_pair(values) else values
    found = len(values) if isinstance(values, list) else values.shape[0] if getattr(values, "ndim", 0) else None
    if found is None or count is None or found == count:
        return counting
    if lists and may_be_samples(batch) and found == len(batch):
        return replace(counting, listed=True)
    rows = {frozenset(rows_of(batch)) for _, batch in data.chunks()}
    if free and found == second_axis(batch):  # of features there are as many whatever the number of samples
        several = len({second_axis(batch) for _, batch in data.chunks()}) > 1
        return replace(counting, second=True) if several or len(rows) == 1 else counting
    return replace(counting, by_values=True) if _follows_rows(calls, batch, int(found)) else counting


def _is_constant(counting: Counting, data: Data) -> bool:
    """Whether batches are counted alike although their first axes differ: so many settings, not samples."""
    shapes = [(counting.of(batch), frozenset(rows_of(batch))) for _, batch in data.chunks()]
    return len({count for count, _ in shapes}) == 1 < len({rows for _, rows in shapes})


def _is_list_by_trial(calls: Calls, data: Data, count: int | None) -> bool:
    """Whether batches are lists of samples, as the scalar of forward on parts of such a list shows.

    Raises InputError where they may be lists of columns as well, of numbers that differ from batch to batch.
    """
    batch = data.first
    if not may_be_samples(batch) or len(batch) < 2:
        return False
    half = len(batch) // 2
    parts = [batch[:half], batch[half:]]
    with calls.model.at(None) as model, calls.context(True):
        try:
            whole, *values = [scalar_of(calls, model, of) for of in (batch, *parts)]
        except NoPartError:
            return False
    if not near(whole, weighted_mean(values, [half, len(batch) - half])):
        return False
    if count is not None and len({frozenset(rows_of(batch)) for _, batch in data.chunks()}) > 1:
        raise InputError(uncounted(batch))
    return count is None or not isinstance(batch[0], Tensor)


def _follows_rows(calls: Calls, batch: Batch, found: int) -> bool:
    """Whether the number of values that forward returns for a batch is the sum of those for its halves."""
    if not (has_batch_axis(batch) and rows_in(batch) > 1):
        return found in rows_of(batch)
    try:
        found_in = [calls.run(part)[0] for part in halves(batch)]
    except InputError:
        return False
    found_in = [values[0] if is_pair(values) else values for values in found_in]
    lengths = [len(values) if getattr(values, "ndim", 1) else 0 for values in found_in]
    return min(lengths) > 0 and sum(lengths) == found


def _units_in(calls: Calls, quantity: Quantity, model: Any, batch: Batch) -> int:
    """How many samples a batch has by the values of the loss; 0 where they do not say."""
    outputs, targets = calls.outputs(model, batch)
    if quantity.is_scalar and calls.loss_is_returned:
        return 0
    units = calls.units_of(quantity, outputs, targets)
    if units.per_sample:
        return int(units.numerators.numel())
    return max(1, round(units.total)) if math.isfinite(units.total) else 1


def _trial_batch(data: Data) -> Batch:
    """A few samples (or the first of the user's own batches) to settle questions on."""
    _, batch = next(data.chunks())
    return map_tensors(batch, lambda t: take_rows(t, slice(_TRIAL))) if data.divisible else batch


def _tried(calls: Calls, trial: Batch) -> Calls:
    """The first call of the model; what it cannot do in the precision asked for is told."""
    try:
        return _first_call(calls, trial)
    except UserCodeError as error:
        more = _runs_in_own_precision(calls, trial, error)
        if not more:
            raise
        raise UserCodeError(f"{error}{more}") from error


def _runs_in_own_precision(calls: Calls, trial: Batch, error: Exception) -> str:
    """What is said of an error where the precision asked for was seen to be its cause; else nothing."""
    own = default_precision(calls.model.model)
    if calls.precision != "float64" or own == "float64":
        return ""
    dtype = torch.float32
    other = replace(calls, model=calls.model.in_precision(dtype), precision=own, dtype=dtype)
    try:
        _first_call(other, map_tensors(trial, lambda t: t.to(dtype) if t.is_floating_point() else t))
    except Exception:  # it fails in its own precision, too: something else is wrong
        return ""
    return (
        f". The model runs in {own}, its own precision, and not in {calls.precision}: {raised_by(error)}. Make "
        "constants with the dtype of what they meet (torch.eye(3).to(x)), or keep them by register_buffer; or leave "
        "precision out"
    )


def _first_call(calls: Calls, trial: Batch) -> Calls:
    """Losses with derivatives inside (physics-informed ones) need autograd on; most are faster without.

    A model that writes to its inputs gets copies, since the data held must stay what they are.
    """
    trial = map_tensors(trial, Tensor.clone)
    versions = [t._version for t in tensors_in(trial)]
    try:
        calls.run(trial)
    except RuntimeError as error:
        if "does not require grad" not in str(error):
            raise
        calls = replace(calls, needs_grad=True)
        calls.run(trial)
    if calls.model.batchnorm_names:
        with calls.model.at(None) as model, calls.context(False):
            calls.call(model, trial)
            calls.model.require_eval()
    return replace(calls, copies_inputs=versions != [t._version for t in tensors_in(trial)])


def _in_memory_format(calls: Calls, trial: Batch) -> Calls:
    """Channels-last images make convolutions faster; used where the model takes them and answers alike."""
    if not calls.model.has_convolutions or not any(t.ndim == 4 for t in tensors_in(trial)):
        return calls
    plain = calls.run(trial, full_precision=True)
    other = replace(calls, channels_last=True)
    try:
        found = other.run(map_tensors(trial, other.formatted), full_precision=True)
    except RuntimeError as error:
        logger.info("channels-last inputs are not used: %s", error)
        return calls
    same = alike(floats_in(plain), floats_in(found), _ROUNDING[calls.model.arithmetic])
    calls.model.channels_last = same
    return other if same else calls


def _largest_activation(calls: Calls, trial: Batch) -> int:
    """Values of the largest tensor met per sample, the input included."""
    inside = calls.model.largest_activation(lambda: calls.run(trial))
    inputs = max(part.numel() for t in tensors_in(trial) for part in strided_parts(t))
    size = calls.counting.of(trial) if calls.forward is not None else None
    return -(-max(inside, inputs) // (size or rows_in(trial) or 1))


def _checked_chunk(chunk: int | None, data: Data) -> int | None:
    if chunk is None:
        return None
    if not data.divisible:
        raise InputError(
            f"chunk={chunk} cannot be used: the batches are the user's own (forward=, or batches that cannot be cut), "
            "and each is a chunk; leave it out, and make the batches of that size"
        )
    return chunk


def _chunk_size(calls: Calls, data: Data, trial: Batch, values_per_sample: int) -> int:
    """Samples per chunk, a power of two: fixed by the model and the device kind, so that bits do not vary."""
    if not data.divisible:
        return rows_in(trial)
    width = 2 if calls.precision == "bf16" else calls.dtype.itemsize
    fitting = _CHUNK_BYTES[calls.device.type] // (values_per_sample * width)
    return max(_SMALLEST_CHUNK, 1 << max(fitting, 1).bit_length() - 1)


def _check_determinism(calls: Calls, quantities: Sequence[Quantity], data: Data) -> None:
    """The same batch twice, and half of it alone: refuse models that draw random numbers or couple samples."""
    _, batch = next(data.chunks())
    first, second = (_loss_units(calls, quantities, batch, seed) for seed in (0, 1))
    if not alike([first.numerators], [second.numerators], _SAME[calls.model.arithmetic]):
        third = _loss_units(calls, quantities, batch, 1)
        if not alike([second.numerators], [third.numerators], _SAME[calls.model.arithmetic]):
            raise InputError(
                "the model answers differently to the same batch in eval mode, also where all random streams of torch, "
                "numpy and Python begin at the same place: its forward or loss keeps something from call to call (a "
                "counter, a cache, a generator of its own). Compute it anew in each call."
            )
        names = calls.model.stochastic_modules()
        raise InputError(
            "the model answers differently to the same batch in eval mode: it draws random numbers"
            + (f" (modules that may: {', '.join(names[:5])})" if names else " in its forward or loss")
            + ". Make functional dropout depend on self.training, or fix the noise."
        )
    size = data.samples_of(0)
    if size < 2 or not has_batch_axis(batch) or rows_in(batch) != size:
        return
    if calls.forward is not None:  # batches are then the user's own, and their samples may be coupled
        _check_crossed(calls, batch, size)
    elif first.per_sample:
        half = _loss_units(calls, quantities, map_tensors(batch, lambda t: take_rows(t, slice(size // 2))), 0)
        if not alike([first.numerators[: size // 2]], [half.numerators], _ROUNDING[calls.model.arithmetic]):
            raise InputError(
                "the loss of a sample changes with the other samples of its batch, so its mean depends on the "
                "batching. Normalise per sample or with fixed statistics; where a solver chooses its steps for a whole "
                "batch, fix them or tighten its tolerances; or say how batches are made: pass a list of batches with "
                f"forward=. {COMPARING}"
            )


def _check_crossed(calls: Calls, batch: Batch, size: int) -> None:
    """Refuse values (n, n) of every sample with every other, which (n, 1) outputs make of (n,) targets."""
    if not calls.loss_is_returned:
        return
    values, _ = calls.run(batch)
    if not isinstance(values, Tensor) or values.shape != (size, size):
        return
    try:
        half, _ = calls.run(map_tensors(batch, lambda t: t[: size // 2]))
    except InputError:
        return
    if isinstance(half, Tensor) and half.shape == (size // 2, size // 2):
        raise InputError(
            f"forward returned values of shape ({size}, {size}) for a batch of {size} samples, and of shape "
            f"({size // 2}, {size // 2}) for half of it: broadcasting compares every sample with every other ((n, 1) "
            "outputs with (n,) targets?). Reshape one to the other's shape."
        )


def _loss_units(calls: Calls, quantities: Sequence[Quantity], batch: Batch, seed: int) -> Units:
    """The loss with every random stream at `seed`, in full precision, where rounding says little."""
    with calls.model.at(None) as model, calls.context(True):
        seed_everything(seed)
        return calls.units(quantities, model, batch)[0]


def _check_moves(calls: Calls, quantities: Sequence[Quantity], data: Data, untouched: Remembered) -> None:
    """Outputs must follow the parameters and come back; those of a forward pass that caches weights do not.

    What modules remember since they were `untouched` must not matter: a part that caches hides behind one that moves.
    """
    trial, move = _trial_batch(data), Moves(calls.model)
    centre = _answers(calls, quantities, trial, None)
    still = any(bool(t.isfinite().all()) and t.numel() for t in centre)
    moved: list[Tensor] | None = None
    for scale in _MOVES:  # a loss may be flat near the centre, as a hinge is
        try:
            with move.by(scale) as there:
                moved = _answers(calls, quantities, trial, there)
        except InputError:  # what cannot be evaluated there is no constant
            still, moved = False, None
            break
        still = still and len(moved) == len(centre)
        still = still and all(a.shape == b.shape and bool((a == b).all()) for a, b in zip(centre, moved, strict=True))
        if not still:
            break
    back = _answers(calls, quantities, trial, None)
    if not alike(centre, back, _SAME[calls.model.arithmetic]):
        raise InputError(
            "the model answers differently at its own parameters after it was evaluated at others: its forward "
            "keeps something from call to call. Compute it anew in each call."
        )
    if still:
        what = "the loss that forward returns does" if calls.loss_is_returned else "the model's outputs do"
        raise InputError(
            f"{what} not change when all its trainable parameters do: its forward uses something "
            "made of them earlier (a cached weight?), or other parameters than those of the given model"
            + (": forward=lambda model, batch: ... has to call the model it is given" if calls.forward else "")
        )
    if moved is not None and untouched.changed():
        with move.by(scale) as there:
            _check_remembered(calls, quantities, trial, there, moved, untouched)


def _check_remembered(
    calls: Calls,
    quantities: Sequence[Quantity],
    batch: Batch,
    theta: Tensor | None,
    seen: list[Tensor],
    untouched: Remembered,
) -> None:
    """Whether the answers `seen` at theta (size,) are those of a model that was not called before."""
    names = untouched.changed()
    with untouched.as_before():
        anew = _answers(calls, quantities, batch, theta)
    if not alike(seen, anew, _SAME[calls.model.arithmetic]):
        raise InputError(
            "at other parameters the model answers differently after an earlier call than without one: its forward "
            f"keeps something made of the parameters ({', '.join(names[:5])}). Compute it anew in each call; where "
            "train mode does, as in variational models of gpytorch, call model.train() inside forward="
        )


def _answers(calls: Calls, quantities: Sequence[Quantity], batch: Batch, theta: Tensor | None) -> list[Tensor]:
    """What the model gives at theta (size,), None for what it holds: its outputs, or a loss that is returned."""
    if not calls.loss_is_returned:
        return floats_in(calls.run(batch, full_precision=True, theta=theta))
    with calls.model.at(theta) as model, calls.context(True):
        return [calls.units(quantities[:1], model, batch)[0].numerators]


def _side_effects(calls: Calls, quantities: Sequence[Quantity], data: Data) -> bool:
    """Whether evaluating the first batch writes to buffers; whether it moves numpy's or Python's random stream, too.

    The model keeps both, as `writes_buffers` and `draws_elsewhere`.
    """
    _, batch = next(data.chunks())
    before = random_streams()
    calls.model.draws_elsewhere = False
    with calls.model.at(None) as model, calls.context(False):
        calls.units(quantities, model, batch)
        written = calls.model.buffers_were_written()
    calls.model.draws_elsewhere = random_streams() != before
    calls.model.writes_buffers = written
    return written
