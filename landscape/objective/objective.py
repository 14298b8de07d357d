"""The loss of a model on data as a function of its flat parameter vector."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from landscape_kernels.layout import Layout
from landscape_kernels.moments import MOMENTS, moments_, ratio
from landscape_kernels.probes import normal_vector
from torch import Tensor, nn

from landscape.errors import InputError
from landscape.objective.data import (
    Batch,
    Data,
    inputs_and_targets,
    random_state_kept,
    random_streams,
    read_data,
    seed_everything,
)
from landscape.objective.folding import Folding, settled_folding
from landscape.objective.losses import (
    LossLike,
    Quantity,
    Units,
    describe_callable,
    loss_quantity,
    main_output,
    mean_as_unit,
    metric_quantities,
    values_as_units,
)
from landscape.objective.model import BoundModel, choose_device, default_precision
from landscape.objective.trees import (
    alike,
    batch_size,
    digest,
    digest_text,
    floats_in,
    has_batch_axis,
    map_tensors,
    shapes_in,
    tensors_in,
)
from landscape.results.estimate import Estimate
from landscape.run.comm import SERIAL, Communicator

logger = logging.getLogger(__name__)
PRECISIONS = ("float32", "float64", "bf16")
BATCHNORM_MODES = ("frozen", "reestimated", "interpolated")
# The largest activation of one chunk: about the cache a core has on CPUs (measured best for convolutions: 64 CIFAR
# images of a ResNet-20), far above launch overhead on GPUs.
_CHUNK_BYTES = {"cpu": 4 << 20, "cuda": 512 << 20}
_SMALLEST_CHUNK = 8
# A statistics pass is one chunk (and one pass, whatever the depth) while its largest activation stays below this.
_STATISTICS_BYTES = 1 << 30
# Relative gaps that rounding may cause, and no more: between batch sizes or memory formats, which sum in another order,
# and between two runs on the same batch, whose order varies only by atomics on GPUs.
_ROUNDING = {torch.float32: 1e-3, torch.float64: 1e-9}
_SAME = {torch.float32: 1e-5, torch.float64: 1e-12}


class Objective:
    """Loss and metrics of `model` on `data` at any parameter vector theta.

    `loss` is a name (see `landscape.named_losses`), a torch criterion, or a callable of (outputs,
    targets) that returns a mean or sum over the batch, values per sample, or (numerators, denominators). The value is
    always sum(numerators) / sum(denominators) over all data: the mean per sample, per element or per kept token, so a
    short last batch weighs what it holds. `loss=None` means that `forward` returns the loss itself in one of those
    forms (a scalar then counts as the mean over the batch).

    `data` is (inputs, targets), a Dataset, a DataLoader, or a re-iterable of batches, tuples `(*inputs, targets)` or
    mappings with a label key. Labels are used as they are: a language model that predicts the next token needs
    `forward(model, batch)`, which replaces that convention and returns (outputs, targets), to shift them. Data given
    as tensors are then one batch.

    `metrics` are names ("accuracy", "error") or callables like `loss`. The model runs in eval mode; its parameters,
    buffers, modes and the random state are untouched between calls. `precision` is "float32", "float64" or "bf16"
    (autocast over float32 parameters); by default that of the model's parameters. `device` defaults to this rank's
    GPU, else the CPU. `memory_budget` bytes of data are held in memory, more is streamed at each evaluation. `check`
    reads the data twice and refuses it when the passes differ.

    Raises InputError for anything that would give numbers that mean something else than asked.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: LossLike | None = "cross_entropy",
        data: Any = None,
        *,
        metrics: Sequence[str | Callable[..., Any]] | Mapping[str, Callable[..., Any]] = (),
        forward: Callable[[nn.Module, Any], Any] | None = None,
        device: str | torch.device | None = None,
        precision: str | None = None,
        memory_budget: int = 4 << 30,
        check: bool = True,
    ) -> None:
        if data is None:
            raise InputError("data is missing; give (inputs, targets), a Dataset, a DataLoader or a list of batches")
        if loss is None and forward is None:
            raise InputError("loss=None needs forward=, a function (model, batch) that returns the loss")
        if loss is None and metrics:
            raise InputError("metrics need outputs and targets: give loss=, and let forward return (outputs, targets)")
        natural = default_precision(model)
        self.precision = precision or natural
        if self.precision not in PRECISIONS:
            raise InputError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")
        self.dtype = torch.float64 if self.precision == "float64" else torch.float32
        self.device = choose_device(device)
        self._forward: Callable[[Any, Any], Any] | None = forward
        self._loss, self._metrics = loss, (metrics,) if isinstance(metrics, str) else metrics
        self._loss_is_returned = loss is None
        self._memory_budget = memory_budget
        self._check = check
        self._needs_grad = False
        self._channels_last = False
        self._copies_inputs = False
        self._writes_buffers = False
        self._model = BoundModel(model, self.device, self.dtype)
        self._folding = Folding(self._model.model)
        with random_state_kept():
            self._data = self.read(data)
            trial = self._trial_batch()
            self._try(trial)
            self._settle_memory_format(trial)
            self._values_per_sample = self._largest_activation(trial)
            self.chunk = self._chunk_size(trial)
            self._undivided, self._data = self._data, self._data.divided(self.chunk)
            self._quantities = self._settle_quantities()
            self._check_determinism()
            if forward is None:  # what a function of the user's returns need not be made by the model
                self._check_moves()
            self._check_all_batches()
            self._settle_side_effects()
            self._settle_folding()

    def __repr__(self) -> str:
        return (
            f"Objective({type(self._model.model).__name__} with {self.layout.size:,} parameters, "
            f"{', '.join(self.quantities)} on {self.samples:,} samples in chunks of {min(self.chunk, self.samples)}, "
            f"{self.precision} on {self.device})"
        )

    @property
    def theta(self) -> Tensor:
        """The centre: trainable parameters as one vector (size,), in `named_parameters` order (a copy)."""
        return self._model.centre.clone()

    @property
    def layout(self) -> Layout:
        """Names, shapes, kinds and filters of the parameters in the flat vector."""
        return self._model.layout

    @property
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """{name: shape} of the model's state_dict, in its order."""
        return self._model.state_shapes

    @property
    def buffers(self) -> dict[str, Tensor]:
        """The model's buffers at the centre by name (copies)."""
        return {name: value.clone() for name, value in self._model.buffers.items()}

    @property
    def frozen(self) -> dict[str, Tensor]:
        """The parameters that do not vary, by name."""
        return dict(zip(self._model.frozen_names, self._model.frozen_values, strict=True))

    @property
    def batchnorm_names(self) -> list[str]:
        """Names of the model's BatchNorm modules."""
        return self._model.batchnorm_names

    @property
    def samples(self) -> int:
        """Number of samples in the data."""
        return self._data.samples

    @property
    def quantities(self) -> tuple[str, ...]:
        """Names of what `evaluate` returns: "loss", then the metrics."""
        return tuple(q.name for q in self._quantities)

    def identity(self, *, centre: bool = True) -> dict[str, Any]:
        """What the values depend on, as plain text and numbers: two objectives that agree here give the same values.

        Without the `centre` and its BatchNorm statistics for what is measured elsewhere alone.
        """
        norms = () if centre else tuple(f"{name}." for name in self.batchnorm_names)
        buffers = [value for name, value in self._model.buffers.items() if not (norms and name.startswith(norms))]
        return {
            "model": f"{type(self._model.model).__module__}.{type(self._model.model).__qualname__}",
            "parameters": self.layout.size,
            "structure": digest_text(self._model.structure),
            "layout": digest_text(repr([(b.name, b.shape) for b in self.layout.blocks])),
            "centre": digest(self._model.centre) if centre else "",
            "fixed": digest(*buffers, *self._model.frozen_values),
            "data": self._data.digest,
            "samples": self.samples,
            "loss": self._quantities[0].describe,
            "metrics": {q.name: q.describe for q in self._quantities[1:]},
            "forward": describe_callable(self._forward) if self._forward else "",
            "precision": self.precision,
            "chunk": self.chunk,
        }

    def evaluate(
        self,
        theta: Any = None,
        *,
        buffers: Mapping[str, Tensor] | None = None,
        group: Communicator = SERIAL,
        full_precision: bool = False,
    ) -> dict[str, Estimate]:
        """{"loss": Estimate, metric: Estimate, ...} at `theta` (size,), the centre by default.

        `buffers` {name: value} replace the model's own (BatchNorm statistics). The ranks of `group` share the data's
        chunks; their sums are added in chunk order, so the result has the same bits for any number of ranks.
        `full_precision` leaves autocast off. Raises InputError when theta has another size.
        """
        vector = self._model.centre if theta is None else self.vector(theta)
        sums = torch.zeros((self._data.count, len(self._quantities), MOMENTS), dtype=torch.float64, device=self.device)
        per_sample = [True] * len(self._quantities)
        with self._model.at(vector, buffers), self._context(full_precision):
            model = self._folding.applied()
            for number, batch in self._data.chunks(group.rank, group.size):
                if self._writes_buffers:  # no chunk may see what another left, whoever computes it
                    self._model.reset_buffers()
                for k, units in enumerate(self.units(model, batch)):
                    moments_(sums[number, k], units.numerators, units.denominators)
                    per_sample[k] &= units.per_sample
        array: npt.NDArray[np.float64] = sums.cpu().numpy()
        group.allreduce_(array)
        totals = np.add.reduce(array, axis=0)  # adds whole chunks one after the other: the order is fixed
        estimates: dict[str, Estimate] = {}
        for quantity, moments, single in zip(self._quantities, totals, per_sample, strict=True):
            value, stderr, n = ratio(moments)
            estimates[quantity.name] = Estimate(value, stderr=stderr, n=n, unit="sample" if single else "batch")
        return estimates

    def reestimate(self, theta: Any, statistics: Data | None = None) -> dict[str, Tensor]:
        """BatchNorm statistics at `theta` from `statistics` (see `read`), by default the objective's own data.

        {buffer name: value}, to be given to `evaluate` as `buffers`: mean and unbiased variance pooled over all
        samples and positions, as torch stores them after one training-mode pass over the data as one batch.
        """
        data = self.read_statistics() if statistics is None else statistics

        def chunks() -> Iterator[Batch]:
            return (batch for _, batch in data.chunks())

        def forward(model: nn.Module, batch: Batch) -> None:
            with self._context(True):
                self._call(model, batch)

        return self._model.reestimate(self.vector(theta), chunks, data.count, forward)

    def read_statistics(self, data: Any = None) -> Data:
        """Data to re-estimate BatchNorm on, by default the objective's own, in as few chunks as memory allows."""
        read = self._undivided if data is None else data if isinstance(data, Data) else self.read(data)
        return read.divided(max(1, _STATISTICS_BYTES // (self._values_per_sample * self.dtype.itemsize)))

    def read(self, data: Any) -> Data:
        """Read data in one of the forms the constructor takes."""
        divisible, check, budget = self._forward is None, self._check, self._memory_budget
        read = read_data(data, device=self.device, dtype=self.dtype, budget=budget, divisible=divisible, check=check)
        return read.converted(self.formatted) if self._channels_last else read

    @contextmanager
    def differentiable(
        self, theta: Any = None, buffers: Mapping[str, Tensor] | None = None
    ) -> Iterator[tuple[nn.Module, list[Tensor]]]:
        """(model, its trainable parameters in the layout's order) at `theta`, autograd on, never in half precision.

        Attention runs by its plain formula and recurrences without cuDNN: the fused ones have no second derivatives.
        """
        vector = self._model.centre if theta is None else self.vector(theta)
        with (
            self._model.at(vector, buffers) as model,
            self._context(True),
            torch.enable_grad(),
            self._model.twice_differentiable(),
        ):
            yield model, self._model.trainable
            self._model.require_eval()

    @contextmanager
    def training(self, theta: Tensor, gradient: Tensor) -> Iterator[nn.Module]:
        """The model in train mode on views of `theta` (size,), backward adding to `gradient` (size,), autograd on."""
        with self._model.at(theta, gradient=gradient) as model, self._context(False), torch.enable_grad():
            yield model

    def outputs(self, model: Any, batch: Batch) -> tuple[Any, Any]:
        """(outputs, targets) of one batch inside `differentiable`; with loss=None the loss values and the batch."""
        return self._outputs(model, batch)

    def folded(self) -> Callable[..., Any]:
        """The bound model with frozen BatchNorm folded into the layers before it where that is safe.

        Its graph reaches the parameters, so derivatives of any order are right, and cheaper by the layers left out.
        """
        return self._folding.applied()

    def units(self, model: Callable[..., Any], batch: Batch) -> list[Units]:
        """Numerators and denominators of every quantity on one batch, in the order of `quantities`."""
        outputs, targets = self._outputs(model, batch)
        return [quantity.units(outputs, targets) for quantity in self._quantities]

    def loss_units(self, outputs: Any, targets: Any) -> Units:
        """Numerators and denominators of the loss from what `outputs` returned."""
        return self._quantities[0].units(outputs, targets)

    def call_with(
        self, values: Sequence[Tensor], function: Callable[[nn.Module, Batch], Tensor], batch: Batch
    ) -> Tensor:
        """`function(model, batch)` with `values` (dual numbers, say) as the trainable parameters."""
        return self._model.call_with(values, function, batch)

    def batches(self, group: Communicator = SERIAL) -> Iterator[tuple[int, Batch]]:
        """(number, batch) of the chunks that are this rank's share in `group`."""
        return self._data.chunks(group.rank, group.size)

    def batch(self, number: int) -> Batch:
        """The chunk of that number."""
        with random_state_kept():
            return next(self._data.chunks(number, self._data.count))[1]

    @property
    def chunks(self) -> int:
        """Number of chunks of the data."""
        return self._data.count

    @property
    def loss_is_returned(self) -> bool:
        """Whether `forward` returns the loss itself, so that there are no outputs to tell apart from it."""
        return self._loss_is_returned

    @property
    def data(self) -> Data:
        """The data as read, undivided where its batching is free."""
        return self._undivided

    @property
    def loss_is_cross_entropy(self) -> bool:
        """Whether the loss is "cross_entropy" by name: unweighted, labels of -100 ignored."""
        return self._loss == "cross_entropy"

    def on(self, data: Data, *, chunk: int | None = None, precision: str | None = None) -> Objective:
        """The same model and loss on other data (see `read`), in chunks of another size or another precision.

        Nothing is checked again.
        """
        other = copy.copy(self)
        other.chunk = chunk or self.chunk
        other.precision = precision or self.precision
        if other.precision != self.precision:
            other.dtype = torch.float64 if other.precision == "float64" else torch.float32
            other._model = self._model.in_precision(other.dtype)
            data = data.converted(lambda t: t.to(other.dtype) if t.is_floating_point() else t)
        other._undivided, other._data = data, data.divided(other.chunk)
        if other.precision != self.precision:
            with random_state_kept():
                other._quantities = other._settle_quantities()  # class weights follow the precision
        return other

    def vector(self, theta: Any) -> Tensor:
        """`theta` as a vector on the device in the working precision. Raises InputError for another size."""
        try:
            tensor = torch.as_tensor(theta).detach().to(self.device, self.dtype).reshape(-1)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f"theta of type {type(theta).__name__} is not a vector of numbers ({error}); from a state dict or a "
                "checkpoint, plane_through and pca_plane take it as it is"
            ) from error
        if tensor.numel() != self.layout.size:
            raise InputError(
                f"theta has {tensor.numel()} values, the model {self.layout.size} trainable ones "
                f"({len(self.layout.blocks)} tensors from {self.layout.names[0]!r} on)"
            )
        return tensor

    # -- settled once, at construction --------------------------------------------------------------------------

    def _trial_batch(self) -> Batch:
        """A few samples (or the first of the user's own batches) to settle questions on."""
        _, batch = next(self._data.chunks())
        return map_tensors(batch, lambda t: t[:16]) if self._data.divisible else batch

    def _try(self, trial: Batch) -> None:
        """The first call of the model; what does not fit is told with the shapes that met."""
        try:
            self._settle_call(trial)
        except (RuntimeError, IndexError, TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"the model cannot be evaluated on the data's first batch ({shapes_in(trial)}): "
                f"{type(error).__name__}: {error}"
            ) from error

    def _settle_call(self, trial: Batch) -> None:
        """Losses with derivatives inside (physics-informed ones) need autograd on; most are faster without.

        A model that writes to its inputs gets copies, since the data held must stay what they are.
        """
        trial = map_tensors(trial, Tensor.clone)
        versions = [t._version for t in tensors_in(trial)]
        try:
            self._run(trial)
        except RuntimeError as error:
            if "does not require grad" not in str(error):
                raise
            self._needs_grad = True
            self._run(trial)
        self._copies_inputs = versions != [t._version for t in tensors_in(trial)]

    def _settle_memory_format(self, trial: Batch) -> None:
        """Channels-last images make convolutions faster; used where the model takes them and answers alike."""
        if not self._model.has_convolutions or not any(t.ndim == 4 for t in tensors_in(trial)):
            return
        plain = self._run(trial, full_precision=True)
        self._channels_last = True
        try:
            other = self._run(map_tensors(trial, self.formatted), full_precision=True)
        except RuntimeError as error:
            logger.info("channels-last inputs are not used: %s", error)
            self._channels_last = False
            return
        self._channels_last = alike(floats_in(plain), floats_in(other), _ROUNDING[self.dtype])
        self._model.channels_last = self._channels_last
        if self._channels_last:
            self._data = self._data.converted(self.formatted)

    def _chunk_size(self, trial: Batch) -> int:
        """Samples per chunk, a power of two: fixed by the model and the device kind, so that bits do not vary."""
        if not self._data.divisible:
            return batch_size(trial)
        width = 2 if self.precision == "bf16" else self.dtype.itemsize
        fitting = _CHUNK_BYTES[self.device.type] // (self._values_per_sample * width)
        return max(_SMALLEST_CHUNK, 1 << max(fitting, 1).bit_length() - 1)

    def _settle_quantities(self) -> list[Quantity]:
        trial = self._trial_batch()
        outputs, targets = self._run(trial)
        if self._loss is None:

            def units(values: Any, batch: Batch) -> Units:
                return values_as_units(values, batch_size(batch), "forward") or mean_as_unit(values, batch_size(batch))

            return [Quantity("loss", "returned by forward", units)]
        try:
            with self._context(False):
                quantity = loss_quantity(self._loss, outputs, targets)
                quantity.units(outputs, targets)
                return [quantity, *metric_quantities(self._metrics, outputs, targets, quantity)]
        except (RuntimeError, IndexError, TypeError) as error:
            raise InputError(
                f"the loss or a metric cannot be computed from outputs and targets "
                f"({shapes_in((outputs, targets))}): {type(error).__name__}: "
                f"{error}. Where forward returns the loss itself, give loss=None."
            ) from error

    def _check_determinism(self) -> None:
        """The same batch twice, and half of it alone: refuse models that draw random numbers or couple samples."""
        _, batch = next(self._data.chunks())
        first, second = self._trial_units(batch, seed=0), self._trial_units(batch, seed=1)
        if not alike([first.numerators], [second.numerators], _SAME[self.dtype]):
            names = self._model.stochastic_modules()
            raise InputError(
                "the model answers differently to the same batch in eval mode: it draws random numbers"
                + (f" (modules that may: {', '.join(names[:5])})" if names else " in its forward or loss")
                + ". Make functional dropout depend on self.training, or fix the noise."
            )
        size = batch_size(batch)
        if self._forward is None and first.per_sample and size > 1 and has_batch_axis(batch):
            half = self._trial_units(map_tensors(batch, lambda t: t[: size // 2]), seed=0)
            if not alike([first.numerators[: size // 2]], [half.numerators], _ROUNDING[self.dtype]):
                raise InputError(
                    "the loss of a sample changes with the other samples of its batch, so its mean depends on the "
                    "batching. Normalise per sample or with fixed statistics, or say how batches are made: pass a "
                    "list of batches with forward=."
                )

    def _check_moves(self) -> None:
        """Outputs must follow the parameters and come back; those of a forward pass that caches weights do not."""
        trial = self._trial_batch()
        centre = floats_in(self._run(trial, full_precision=True))
        step = (
            1e-2 * self._model.centre.abs().mean() * normal_vector(self.layout.size, 0, "moves").to(self._model.centre)
        )
        moved = floats_in(self._run(trial, full_precision=True, theta=self._model.centre + step))
        back = floats_in(self._run(trial, full_precision=True))
        if not alike(centre, back, _SAME[self.dtype]):
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

    def _check_all_batches(self) -> None:
        """Scalar callables are weighted by samples, which must be right for every batch and not only the trial's."""
        checks = [quantity.verify for quantity in self._quantities if quantity.verify is not None]
        if not checks:
            return
        with self._model.at(self._model.centre) as model, self._context(True):
            for _, batch in self._data.chunks():
                outputs, targets = self._outputs(model, batch)
                for check in checks:
                    check(outputs, targets)

    def _settle_side_effects(self) -> None:
        """Whether evaluating the first batch moves numpy's or Python's random stream, or writes to buffers."""
        _, batch = next(self._data.chunks())

        before = random_streams()
        self._model.draws_elsewhere = False
        with self._model.at(self._model.centre) as model, self._context(False):
            self.units(model, batch)
            self._writes_buffers = self._model.buffers_were_written()
        self._model.draws_elsewhere = random_streams() != before

    def _settle_folding(self) -> None:
        """Frozen BatchNorm is folded where that is safe: not for functions of the user's, which may call submodules."""
        if self._forward is None and not self._needs_grad and not self._writes_buffers:
            with self._context(True):
                self._folding = settled_folding(self._model, self._call, self._trial_batch(), _ROUNDING[self.dtype])

    @contextmanager
    def _context(self, full_precision: bool) -> Iterator[None]:
        autocast = self.precision == "bf16" and not full_precision
        # Entered only where it says something, for its time; the caller's own counts for nothing here.
        switch = autocast or torch.is_autocast_enabled(self.device.type)
        with (
            torch.set_grad_enabled(self._needs_grad),
            torch.autocast(self.device.type, torch.bfloat16, enabled=autocast) if switch else nullcontext(),
        ):
            yield

    def _call(self, model: Callable[..., Any], batch: Batch) -> tuple[Any, Any]:
        """(outputs, targets) of one batch; with loss=None the loss values and the batch."""
        if self._copies_inputs:
            batch = map_tensors(batch, Tensor.clone)
        if self._forward is not None:
            # New tensors and containers: what it pops or sets requires_grad on is whole again the next time.
            result = self._forward(model, map_tensors(batch, Tensor.detach))
            if self._loss_is_returned:
                return result, batch
            if not (isinstance(result, tuple) and len(result) == 2):
                raise InputError(
                    f"forward returned {type(result).__name__}; with a loss it returns (outputs, targets), and with "
                    "loss=None the loss itself"
                )
            return result
        inputs, named, targets = inputs_and_targets(batch)
        return main_output(model(*inputs, **named)), targets

    def _run(self, batch: Batch, full_precision: bool = False, theta: Tensor | None = None) -> tuple[Any, Any]:
        with self._model.at(self._model.centre if theta is None else theta) as model, self._context(full_precision):
            return self._outputs(model, batch)

    def _outputs(self, model: Callable[..., Any], batch: Batch) -> tuple[Any, Any]:
        """`_call` with scores in float32 or better, so that losses do not sum in half precision."""
        outputs, targets = self._call(model, batch)
        half = isinstance(outputs, Tensor) and outputs.dtype in (torch.bfloat16, torch.float16)
        return outputs.float() if half else outputs, targets

    def _trial_units(self, batch: Batch, seed: int) -> Units:
        """The loss with every random stream at `seed`, in full precision, where rounding says little."""
        with self._model.at(self._model.centre) as model, self._context(True):
            seed_everything(seed)
            return self.units(model, batch)[0]

    def formatted(self, tensor: Tensor) -> Tensor:
        """Images in the memory format that is fastest for this model; anything else as it is."""
        if self._channels_last and tensor.ndim == 4 and tensor.is_floating_point():
            return tensor.contiguous(memory_format=torch.channels_last)
        return tensor

    def _largest_activation(self, trial: Batch) -> int:
        """Values of the largest tensor met per sample, the input included."""
        inside = self._model.largest_activation(lambda: self._run(trial))
        inputs = max(t.numel() for t in tensors_in(trial))
        return -(-max(inside, inputs) // batch_size(trial))
