"""How a model is called on a batch, and what is found out once about a model and its data."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from landscape_kernels.probes import normal_vector
from torch import Tensor, nn

from landscape.errors import InputError
from landscape.objective.data import Batch, Data, inputs_and_targets, random_streams, seed_everything
from landscape.objective.folding import Folding, settled_folding
from landscape.objective.losses import (
    LossLike,
    Quantity,
    Units,
    loss_quantity,
    main_output,
    mean_as_unit,
    metric_quantities,
    values_as_units,
)
from landscape.objective.model import BoundModel, default_precision
from landscape.objective.raised import raised_by
from landscape.objective.trees import (
    alike,
    batch_size,
    floats_in,
    has_batch_axis,
    map_tensors,
    shapes_in,
    strided_parts,
    take_rows,
    tensors_in,
)

logger = logging.getLogger(__name__)
Metrics = Sequence[str | Callable[..., Any]] | Mapping[str, Callable[..., Any]]
# The largest activation of one chunk: about the cache a core has on CPUs (measured best for convolutions: 64 CIFAR
# images of a ResNet-20), far above launch overhead on GPUs.
_CHUNK_BYTES = {"cpu": 4 << 20, "cuda": 512 << 20}
_SMALLEST_CHUNK = 8
_TRIAL = 16  # samples that questions are settled on, where batches may be cut
# Relative gaps that rounding may cause, and no more: between batch sizes or memory formats, which sum in another order,
# and between two runs on the same batch, whose order varies only by atomics on GPUs.
_ROUNDING = {torch.float32: 1e-3, torch.float64: 1e-9}
_SAME = {torch.float32: 1e-5, torch.float64: 1e-12}


@dataclass(frozen=True)
class Calls:
    """How a model is called on a batch."""

    model: BoundModel
    forward: Callable[[nn.Module, Any], Any] | None  # the user's own, see `Objective`
    loss_is_returned: bool  # by `forward`
    precision: str
    dtype: torch.dtype
    device: torch.device
    needs_grad: bool = False  # a derivative is part of the forward pass
    copies_inputs: bool = False  # the model writes to its inputs
    channels_last: bool = False  # memory format of images

    @contextmanager
    def context(self, full_precision: bool) -> Iterator[None]:
        """Autograd and autocast as the forward pass needs them; `full_precision` leaves autocast off."""
        autocast = self.precision == "bf16" and not full_precision
        # Entering takes time, so it is left out where it would change nothing. An autocast of the caller's is undone.
        switch = autocast or torch.is_autocast_enabled(self.device.type)
        with (
            torch.set_grad_enabled(self.needs_grad),
            torch.autocast(self.device.type, torch.bfloat16, enabled=autocast) if switch else nullcontext(),
        ):
            yield

    def call(self, model: Callable[..., Any], batch: Batch) -> tuple[Any, Any]:
        """(outputs, targets) of one batch; with loss=None the loss values and the batch."""
        if self.copies_inputs:
            batch = map_tensors(batch, Tensor.clone)
        if self.forward is not None:
            # It gets new tensors and containers: what it pops, or sets requires_grad on, is whole again the next time.
            result = self.forward(model, map_tensors(batch, Tensor.detach))  # type: ignore[arg-type]
            if self.loss_is_returned:
                return result, batch
            if not (isinstance(result, tuple) and len(result) == 2):
                raise InputError(
                    f"forward returned {type(result).__name__}; with a loss it returns (outputs, targets), and with "
                    "loss=None the loss itself"
                )
            return result
        inputs, named, targets = inputs_and_targets(batch)
        return main_output(model(*inputs, **named)), targets

    def outputs(self, model: Callable[..., Any], batch: Batch) -> tuple[Any, Any]:
        """`call` with scores in float32 or better, so that losses do not sum in half precision."""
        outputs, targets = self.call(model, batch)
        half = isinstance(outputs, Tensor) and outputs.dtype in (torch.bfloat16, torch.float16)
        return outputs.float() if half else outputs, targets

    def units(self, quantities: Sequence[Quantity], model: Callable[..., Any], batch: Batch) -> list[Units]:
        """Numerators and denominators of every quantity on one batch."""
        outputs, targets = self.outputs(model, batch)
        return [quantity.units(outputs, targets) for quantity in quantities]

    def run(self, batch: Batch, full_precision: bool = False, theta: Tensor | None = None) -> tuple[Any, Any]:
        """(outputs, targets) of one batch at theta (size,), the centre by default."""
        with self.model.at(self.model.centre if theta is None else theta) as model, self.context(full_precision):
            return self.outputs(model, batch)

    def formatted(self, tensor: Tensor) -> Tensor:
        """Images in the memory format that is fastest for this model; anything else as it is."""
        if self.channels_last and tensor.ndim == 4 and tensor.is_floating_point():
            return tensor.contiguous(memory_format=torch.channels_last)
        return tensor


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


def settle(calls: Calls, loss: LossLike | None, metrics: Metrics, data: Data) -> Settled:
    """Try the model on the data, and settle how it is evaluated.

    Raises InputError for a model, a loss or data that would give numbers that mean something else than asked.
    """
    trial = _trial_batch(data)
    calls = _tried(calls, trial)
    calls = _in_memory_format(calls, trial)
    with calls.context(True):
        calls.model.settle_filters(trial, calls.outputs)
    undivided = data.converted(calls.formatted) if calls.channels_last else data
    values_per_sample = _largest_activation(calls, trial)
    chunk = _chunk_size(calls, undivided, trial, values_per_sample)
    data = undivided.divided(chunk)
    quantities = settled_quantities(calls, loss, metrics, data)
    _check_determinism(calls, quantities, data)
    if calls.forward is None:  # what a function of the user's returns need not be made by the model
        _check_moves(calls, data)
    _check_all_batches(calls, quantities, data)
    writes_buffers = _side_effects(calls, quantities, data)
    folding = Folding(calls.model.model)
    # Frozen BatchNorm is folded where that is safe: not for functions of the user's, which may call submodules.
    if calls.forward is None and not calls.needs_grad and not writes_buffers:
        with calls.context(True):
            folding = settled_folding(calls.model, calls.call, _trial_batch(data), _ROUNDING[calls.dtype])
    return Settled(calls, undivided, data, chunk, values_per_sample, quantities, writes_buffers, folding)


def settled_quantities(calls: Calls, loss: LossLike | None, metrics: Metrics, data: Data) -> list[Quantity]:
    """The loss, then the metrics. Raises InputError where they cannot be computed of what the model returns."""
    outputs, targets = calls.run(_trial_batch(data))
    if loss is None:

        def units(values: Any, batch: Batch) -> Units:
            return values_as_units(values, batch_size(batch), "forward") or mean_as_unit(values, batch_size(batch))

        return [Quantity("loss", "returned by forward", units)]
    try:
        with calls.context(False):
            quantity = loss_quantity(loss, outputs, targets)
            quantity.units(outputs, targets)
            return [quantity, *metric_quantities(metrics, outputs, targets, quantity)]
    except (RuntimeError, IndexError, TypeError) as error:
        raise InputError(
            f"the loss or a metric cannot be computed from outputs and targets "
            f"({shapes_in((outputs, targets))}): {type(error).__name__}: "
            f"{error}. Where forward returns the loss itself, give loss=None."
        ) from error


def _trial_batch(data: Data) -> Batch:
    """A few samples (or the first of the user's own batches) to settle questions on."""
    _, batch = next(data.chunks())
    return map_tensors(batch, lambda t: take_rows(t, slice(_TRIAL))) if data.divisible else batch


def _tried(calls: Calls, trial: Batch) -> Calls:
    """The first call of the model; what does not fit is told with the shapes that met."""
    try:
        return _first_call(calls, trial)
    except (RuntimeError, IndexError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"the model cannot be evaluated on the data's first batch ({shapes_in(trial)}): "
            f"{type(error).__name__}: {error}{_runs_in_own_precision(calls, trial, error)}"
        ) from error


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
    same = alike(floats_in(plain), floats_in(found), _ROUNDING[calls.dtype])
    calls.model.channels_last = same
    return other if same else calls


def _largest_activation(calls: Calls, trial: Batch) -> int:
    """Values of the largest tensor met per sample, the input included."""
    inside = calls.model.largest_activation(lambda: calls.run(trial))
    inputs = max(part.numel() for t in tensors_in(trial) for part in strided_parts(t))
    return -(-max(inside, inputs) // batch_size(trial))


def _chunk_size(calls: Calls, data: Data, trial: Batch, values_per_sample: int) -> int:
    """Samples per chunk, a power of two: fixed by the model and the device kind, so that bits do not vary."""
    if not data.divisible:
        return batch_size(trial)
    width = 2 if calls.precision == "bf16" else calls.dtype.itemsize
    fitting = _CHUNK_BYTES[calls.device.type] // (values_per_sample * width)
    return max(_SMALLEST_CHUNK, 1 << max(fitting, 1).bit_length() - 1)


def _check_determinism(calls: Calls, quantities: Sequence[Quantity], data: Data) -> None:
    """The same batch twice, and half of it alone: refuse models that draw random numbers or couple samples."""
    _, batch = next(data.chunks())
    first, second = (_loss_units(calls, quantities, batch, seed) for seed in (0, 1))
    if not alike([first.numerators], [second.numerators], _SAME[calls.dtype]):
        names = calls.model.stochastic_modules()
        raise InputError(
            "the model answers differently to the same batch in eval mode: it draws random numbers"
            + (f" (modules that may: {', '.join(names[:5])})" if names else " in its forward or loss")
            + ". Make functional dropout depend on self.training, or fix the noise."
        )
    size = batch_size(batch)
    if calls.forward is None and first.per_sample and size > 1 and has_batch_axis(batch):
        half = _loss_units(calls, quantities, map_tensors(batch, lambda t: take_rows(t, slice(size // 2))), 0)
        if not alike([first.numerators[: size // 2]], [half.numerators], _ROUNDING[calls.dtype]):
            raise InputError(
                "the loss of a sample changes with the other samples of its batch, so its mean depends on the "
                "batching. Normalise per sample or with fixed statistics, or say how batches are made: pass a "
                "list of batches with forward=."
            )


def _loss_units(calls: Calls, quantities: Sequence[Quantity], batch: Batch, seed: int) -> Units:
    """The loss with every random stream at `seed`, in full precision, where rounding says little."""
    with calls.model.at(calls.model.centre) as model, calls.context(True):
        seed_everything(seed)
        return calls.units(quantities, model, batch)[0]


def _check_moves(calls: Calls, data: Data) -> None:
    """Outputs must follow the parameters and come back; those of a forward pass that caches weights do not."""
    trial, at = _trial_batch(data), calls.model.centre
    centre = floats_in(calls.run(trial, full_precision=True))
    step = 1e-2 * at.abs().mean() * normal_vector(calls.model.layout.size, 0, "moves").to(at)
    moved = floats_in(calls.run(trial, full_precision=True, theta=at + step))
    back = floats_in(calls.run(trial, full_precision=True))
    if not alike(centre, back, _SAME[calls.dtype]):
        raise InputError(
            "the model answers differently at its own parameters after it was evaluated at others: its forward "
            "keeps something from call to call. Compute it anew in each call."
        )
    finite = any(bool(t.isfinite().all()) and t.numel() for t in centre)
    same = all(a.shape == b.shape and bool((a == b).all()) for a, b in zip(centre, moved, strict=True))
    if finite and same and bool(step.any()):
        raise InputError(
            "the model's outputs do not change when all its trainable parameters do: its forward uses something "
            "made of them earlier (a cached weight?), or other parameters than those of the given model"
        )


def _check_all_batches(calls: Calls, quantities: Sequence[Quantity], data: Data) -> None:
    """Scalar callables are weighted by samples, which must be right for every batch and not only the trial's."""
    checks = [quantity.verify for quantity in quantities if quantity.verify is not None]
    if not checks:
        return
    with calls.model.at(calls.model.centre) as model, calls.context(True):
        for _, batch in data.chunks():
            outputs, targets = calls.outputs(model, batch)
            for check in checks:
                check(outputs, targets)


def _side_effects(calls: Calls, quantities: Sequence[Quantity], data: Data) -> bool:
    """Whether evaluating the first batch writes to buffers; whether it moves numpy's or Python's random stream, too.

    The model keeps the latter, as `draws_elsewhere`.
    """
    _, batch = next(data.chunks())
    before = random_streams()
    calls.model.draws_elsewhere = False
    with calls.model.at(calls.model.centre) as model, calls.context(False):
        calls.units(quantities, model, batch)
        written = calls.model.buffers_were_written()
    calls.model.draws_elsewhere = random_streams() != before
    return written
