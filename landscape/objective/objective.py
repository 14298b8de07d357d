"""The loss of a model on data as a function of its flat parameter vector."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge
from landscape_kernels.arrays import FloatArray
from landscape_kernels.layout import Layout
from landscape_kernels.moments import ratio, without_each
from torch import Tensor, nn

from landscape.arguments import Count, checked
from landscape.errors import InputError, raised_by
from landscape.objective.batches import Batch
from landscape.objective.calls import Calls
from landscape.objective.centre import Centre
from landscape.objective.chosen import ChosenSamples
from landscape.objective.counting import Counting
from landscape.objective.data import Data, read_data
from landscape.objective.described import describe_callable
from landscape.objective.graphs import PointGraph, point_graph, require_gpu, require_recordable
from landscape.objective.groups import SampleGroups
from landscape.objective.losses import LossLike
from landscape.objective.model import BoundModel, choose_device, default_precision, dtype_of, own_device
from landscape.objective.random_state import keeps_random_state, random_state_kept
from landscape.objective.recompute import Recomputing
from landscape.objective.reductions import check_batches
from landscape.objective.settling import counted, settle, settled_quantities
from landscape.objective.sums import Sums, summed
from landscape.objective.trees import (
    digest_of,
    digest_text,
)
from landscape.objective.units import Units
from landscape.objective.widened import widened, widened_tensor
from landscape.results.estimate import Estimate
from landscape.run.comm import SERIAL, Communicator

PRECISIONS = ("float32", "float64", "bf16", "own")
BATCHNORM_MODES = ("frozen", "reestimated", "interpolated")
# A statistics pass is one chunk (and one pass, whatever the depth) while its largest activation stays below this.
_STATISTICS_BYTES = 1 << 30


class Objective:
    """Loss and metrics of `model` on `data` at any parameter vector theta.

    `loss` is a name (see `landscape.named_losses`), a torch criterion, or a callable of (outputs,
    targets) that returns a mean or sum over the batch, values per sample, or (numerators, denominators). The value is
    always sum(numerators) / sum(denominators) over all data: the mean per sample, per element or per kept token, so a
    short last batch weighs what it holds. `loss=None` means that `forward` returns the loss itself in one of those
    forms (a scalar then counts as the mean over the batch, which is tried on parts of several batches).

    `data` is (inputs, targets), a Dataset, a DataLoader, or a re-iterable of batches, tuples `(*inputs, targets)` or
    mappings with a label key. Labels are used as they are: a language model that predicts the next token needs
    `forward(model, batch)`, which replaces that convention and returns (outputs, targets), to shift them. Data given
    as tensors are then one batch.

    `batch_size` says how many samples a batch holds where its tensors do not (graphs, lists, flat tokens; see
    `landscape.objective.counting`): a function of the batch, or the number of full batches, of which the last may be
    shorter. Samples weigh alike whatever batch they are in.

    `metrics` are names ("accuracy", "error") or callables like `loss`. The model runs in eval mode; its parameters,
    buffers, modes and the random state are untouched between calls. `precision` is "float32", "float64" or "bf16"
    (autocast over float32 parameters); by default that of the model's parameters. "own" keeps parameters in bfloat16 or
    float16 as they are, and adapters in float32 beside them, for surfaces; large models in half precision are measured
    so by default. `device` defaults to this rank's GPU, else the CPU. `memory_budget` bytes of data are held in memory,
    more is streamed at each evaluation. `check` reads the data twice and refuses it when the passes differ. `chunk` is
    how many samples are evaluated at a time, by default what follows from the model's sizes, and `channels_last`
    whether images may be laid out so where the model answers alike: `speed_trial` tells what is faster here, and values
    depend on both in their last bits. Where bf16 is slower than float32 on a first chunk, a warning says by how much.

    `cuda_graphs` has the pass over the data recorded as a CUDA graph, and started again at each point, with the same
    values to the bit; `speed_trial` tells whether that is faster. It is refused where a pass does more than start the
    same kernels on data that are held on the device.

    A large model (parameters of 256 MiB or more) is not copied: nobody else may write to it while the objective is
    used. `checkpoint`, a safetensors file or a folder of them with the same values, lets points be made in the model
    itself, which is put back from there; without it a copy holds them. A model that is spread over devices, offloaded
    to host memory by accelerate, or sharded by FSDP2 over the ranks that share an item, is used where it lies, in its
    own precision (see the page on large models).

    With `recompute` derivatives keep of each block of the model its inputs alone, and compute its activations again in
    backward passes, also in those of Hessian products: blocks are the entries of the model's ModuleLists and
    Sequentials, of single layers about sqrt(n) together, or the modules named. Values are the same.

    Raises InputError for anything that would give numbers that mean something else than asked, and a UserCodeError (one
    of them) with the shapes that met for what the user's own model, loss, metric or data raises.
    """

    made_by: ClassVar[str] = "ls.Objective(model, loss, data)"

    @keeps_random_state
    @checked()
    def __init__(
        self,
        model: nn.Module,
        loss: LossLike | None = "cross_entropy",
        data: Any = None,
        *,
        metrics: str | Sequence[str | Callable[..., Any]] | Mapping[str, str | Callable[..., Any]] = (),
        forward: Callable[[nn.Module, Any], Any] | None = None,
        device: str | torch.device | None = None,
        precision: str | None = None,
        memory_budget: Annotated[float, Ge(0)] = 4 << 30,
        check: bool = True,
        batch_size: int | Callable[[Any], int] | None = None,
        chunk: Count | None = None,
        channels_last: bool = True,
        checkpoint: str | Path | None = None,
        cuda_graphs: bool = False,
        recompute: bool | str | Sequence[str] = False,
    ) -> None:
        if data is None:
            raise InputError("data is missing; give (inputs, targets), a Dataset, a DataLoader or a list of batches")
        if loss is None and forward is None:
            raise InputError("loss=None needs forward=, a function (model, batch) that returns the loss")
        if loss is None and metrics:
            raise InputError("metrics need outputs and targets: give loss=, and let forward return (outputs, targets)")
        self.precision = precision or default_precision(model)
        if self.precision not in PRECISIONS:
            raise InputError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")
        self.dtype = dtype_of(self.precision, model)
        self.device = choose_device(device if device is not None else own_device(model))
        if cuda_graphs:
            require_gpu(self.device)
        self._loss, self._metrics = loss, (metrics,) if isinstance(metrics, str) else metrics
        self._memory_budget, self._check, self._may_be_channels_last = int(memory_budget), check, channels_last
        self._model = BoundModel(model, self.device, self.dtype, as_is=self.precision == "own", checkpoint=checkpoint)
        counting = Counting(batch_size)
        self._calls = Calls(self._model, forward, loss is None, self.precision, self.dtype, self.device, counting)
        settled = settle(self._calls, self._loss, self._metrics, self._read(data), chunk, channels_last)
        self._calls, self._folding, self._quantities = settled.calls, settled.folding, settled.quantities
        self._writes_buffers, self._values_per_sample = settled.writes_buffers, settled.values_per_sample
        self._undivided, self._data, self.chunk = settled.undivided, settled.data, settled.chunk
        self._groups: SampleGroups | None = None  # made where they are asked for
        self._graphs: dict[tuple[int, int], PointGraph | None] | None = None  # of a rank's share of the chunks
        self._recomputing = None if recompute is False else Recomputing(self._model.model, recompute)
        self._check_recomputing()
        if cuda_graphs:
            self._record()

    def _record(self) -> None:
        """Have points computed by recorded passes from now on. Raises InputError where that cannot be."""
        require_recordable(self._model, self._calls, self._quantities, self._data, self._writes_buffers)
        self._graphs = {}

    def __repr__(self) -> str:
        return (
            f"Objective({type(self._model.model).__name__} with {self.layout.size:,} parameters, "
            f"{', '.join(self.quantities)} on {self.samples:,} samples in chunks of {min(self.chunk, self.samples)}, "
            f"{self.precision} on {self.device})"
        )

    @property
    def theta(self) -> Tensor:
        """The centre: trainable parameters as one vector (size,), in `named_parameters` order (a copy)."""
        self._model.own.require_unchanged()
        return self._model.centre if self._model.own.live else self._model.centre.clone()

    @property
    def centre(self) -> Centre:
        """The centre's values piece by piece, and the place where others are put in their stead."""
        return self._model.own

    @property
    def channels_last(self) -> bool:
        """Whether images and convolutions are laid out channels-last."""
        return self._calls.channels_last

    @property
    def cuda_graphs(self) -> bool:
        """Whether points are computed by recorded passes; False, too, where a first one could not be recorded."""
        return self._graphs is not None and None not in self._graphs.values()

    @property
    def layout(self) -> Layout:
        """Names, shapes, kinds and filters of the parameters in the flat vector."""
        return self._model.layout

    @property
    def complex_names(self) -> tuple[str, ...]:
        """Names of the parameters that are complex: real and imaginary parts lie in turn in the flat vector."""
        return self._model.complex_names

    @property
    def along_axis_0(self) -> tuple[str, ...]:
        """Names of the parameters whose filters are taken along axis 0 because their use does not tell their axes."""
        return self._model.along_axis_0

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
        return dict(zip(self._model.frozen_names, self._model.frozen_values(), strict=True))

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

    @keeps_random_state
    def identity(self, *, centre: bool = True) -> dict[str, Any]:
        """What the values depend on, as plain text and numbers: two objectives that agree here give the same values.

        Without the `centre` and its BatchNorm statistics for what is measured elsewhere alone.
        """
        self._model.own.require_unchanged()
        self._model.require_same_parameters()
        given = self._calls.counting.given
        norms = () if centre else tuple(f"{name}." for name in self.batchnorm_names)
        buffers = [value for name, value in self._model.buffers.items() if not (norms and name.startswith(norms))]
        return {
            "model": f"{type(self._model.model).__module__}.{type(self._model.model).__qualname__}",
            "parameters": self.layout.size,
            "structure": digest_text(self._model.structure),
            "layout": digest_text(repr([(b.name, b.shape) for b in self.layout.blocks])),
            "centre": self._model.own.digest if centre else "",
            "fixed": digest_of(chain(buffers, self._model.frozen_values())),
            "data": self._data.digest,
            "samples": self.samples,
            "loss": self._quantities[0].describe,
            "metrics": {q.name: q.describe for q in self._quantities[1:]},
            "forward": describe_callable(self._calls.forward) if self._calls.forward else "",
            "precision": self.precision,
            "chunk": self.chunk,
            **({} if self._may_be_channels_last else {"channels_last": False}),
            **({} if given is None else {"batch_size": describe_callable(given) if callable(given) else given}),
        }

    @keeps_random_state
    @checked()
    def evaluate(
        self,
        theta: Any = None,
        *,
        buffers: Mapping[str, Tensor] | None = None,
        group: Communicator = SERIAL,
        full_precision: bool = False,
    ) -> dict[str, Estimate]:
        """{"loss": Estimate, metric: Estimate, ...} at `theta` (size,), the centre by default; see `estimates`."""
        self._model.require_same_parameters()
        return self.estimates(theta, buffers=buffers, group=group, full_precision=full_precision)

    def estimates(
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
        `full_precision` leaves autocast off. Raises InputError when theta has another size, and a UserCodeError where
        the user's code raises. Unlike `evaluate` it trusts that the model draws from numpy's and Python's random
        streams as it did on a trial: who calls it often keeps them around all calls.
        """
        return self._estimated(theta, buffers, group, full_precision, None)[0]

    def estimates_widened(
        self,
        values: Callable[[str], Tensor],
        *,
        buffers: Mapping[str, Tensor] | None = None,
        group: Communicator = SERIAL,
    ) -> dict[str, Estimate]:
        """What `estimates` returns of a model in half precision that computes in float32.

        `values(name)` are its trainable parameters in float32, asked for when they are used. Raises InputError where
        the model does not run so.
        """
        return self._widened(values, buffers, group, None)[0]

    def _widened(
        self,
        values: Callable[[str], Tensor],
        buffers: Mapping[str, Tensor] | None,
        group: Communicator,
        groups: SampleGroups | None,
    ) -> tuple[dict[str, Estimate], dict[str, FloatArray], FloatArray]:
        if self._model.placement is not None and not self._model.placement.is_spread_alone:
            raise InputError("parameters that are offloaded or sharded are brought in by hooks, in their own precision")
        other = copy.copy(self)
        other._data = self._data.converted(widened_tensor)
        idle: set[nn.Module] = set()
        inside = widened(self._model, values, idle=idle)
        found = other._estimated(None, buffers, group, False, groups, inside=inside)
        if idle:  # their parameters, if they were used at all, were the model's own
            found = other._estimated(None, buffers, group, False, groups, inside=widened(self._model, values, idle))
        return found

    def estimates_and_replicates(
        self,
        theta: Any = None,
        *,
        buffers: Mapping[str, Tensor] | None = None,
        group: Communicator = SERIAL,
        values: Callable[[str], Tensor] | None = None,
    ) -> tuple[dict[str, Estimate], dict[str, FloatArray]]:
        """What `estimates` returns, and {"loss": (GROUPS,), metric: ...}: the values without one group of the samples.

        Each group of `SampleGroups` is left out in turn; NaN for groups without a sample. What is made of values at
        several thetas has the standard error that `jackknife` gives of what is made of their replicates. With `values`
        a model in half precision computes in float32 (see `estimates_widened`).
        """
        groups = self._sample_groups()
        if values is not None:
            return self._widened(values, buffers, group, groups)[:2]
        return self._estimated(theta, buffers, group, False, groups)[:2]

    def estimates_and_samples(
        self,
        theta: Any = None,
        *,
        chosen: ChosenSamples,
        buffers: Mapping[str, Tensor] | None = None,
        group: Communicator = SERIAL,
        full_precision: bool = False,
    ) -> tuple[dict[str, Estimate], FloatArray, FloatArray]:
        """What `estimates` returns, the numerators of the n chosen samples, and the mean denominators of all samples.

        Numerators are (quantities, n), denominators (quantities,). A value is the mean over all samples of numerator /
        mean denominator. Both are NaN for quantities of which only batch values are known.
        """
        found, _, units, weights = self.estimates_replicates_and_samples(
            theta, chosen=chosen, buffers=buffers, group=group, full_precision=full_precision, replicates=False
        )
        return found, units, weights

    def estimates_replicates_and_samples(
        self,
        theta: Any = None,
        *,
        chosen: ChosenSamples,
        buffers: Mapping[str, Tensor] | None = None,
        group: Communicator = SERIAL,
        full_precision: bool = False,
        replicates: bool = True,
    ) -> tuple[dict[str, Estimate], dict[str, FloatArray], FloatArray, FloatArray]:
        """What `estimates_and_replicates` and `estimates_and_samples` return, of one pass; {} without `replicates`."""
        groups = self._sample_groups() if replicates else None
        estimates, left_out, totals = self._estimated(theta, buffers, group, full_precision, groups, chosen)
        weights: FloatArray = totals[:, 2] / totals[:, 0]
        single = np.array([estimate.unit == "sample" for estimate in estimates.values()])
        return estimates, left_out, chosen.taken(group), np.where(single, weights, np.nan)

    def _sample_groups(self) -> SampleGroups:
        if self._groups is None:
            self._groups = SampleGroups(self._data, self.device)
        return self._groups

    def _estimated(
        self,
        theta: Any,
        buffers: Mapping[str, Tensor] | None,
        group: Communicator,
        full_precision: bool,
        groups: SampleGroups | None,
        chosen: ChosenSamples | None = None,
        inside: AbstractContextManager[object] | None = None,
    ) -> tuple[dict[str, Estimate], dict[str, FloatArray], FloatArray]:
        vector = None if theta is None else self.vector(theta)
        parts = groups.sums(len(self._quantities), group.rank, group.size) if groups else None

        def each(number: int, k: int, units: Units) -> None:
            if groups and parts is not None:
                groups.add_(parts[number, k], number, units)
            if chosen:
                chosen.take(k, number, units)

        plain = not (groups or chosen or inside or full_precision)
        graph = self._graph(vector, buffers or {}, group) if plain and self._graphs is not None else None
        if graph is not None:
            self._model.all_buffers(buffers or {})  # which refuses unknown ones
            moments = graph.moments(self._model.centre if vector is None else vector, buffers or {})
            per_sample = graph.per_sample
        else:
            sums = self._sums()
            with self._model.at(vector, buffers), self._calls.context(full_precision), inside or nullcontext():
                per_sample = self._pass(sums, group, each if groups or chosen else None)
            moments = sums.fetched()
        totals = summed(moments, group)
        estimates: dict[str, Estimate] = {}
        for quantity, total, single in zip(self._quantities, totals, per_sample, strict=True):
            value, stderr, n = ratio(total)
            estimates[quantity.name] = Estimate(value, stderr=stderr, n=n, unit="sample" if single else "batch")
        if parts is None:
            return estimates, {}, totals
        left_out = without_each(summed(parts.cpu().numpy(), group))
        return estimates, dict(zip(self.quantities, left_out, strict=True)), totals

    def _sums(self) -> Sums:
        return Sums(self._data.count, len(self._quantities), self.device)

    def _pass(
        self, sums: Sums, group: Communicator, each: Callable[[int, int, Units], None] | None = None
    ) -> list[bool]:
        """This rank's chunks through the bound model: moments into `sums`, and `each` quantity's units of each chunk.

        Returns of each quantity whether it has values per sample.
        """
        model, per_sample = self._folding.applied(), [True] * len(self._quantities)
        for number, batch in self._data.chunks(group.rank, group.size):
            if self._writes_buffers:  # no chunk may see what another left, whoever computes it
                self._model.reset_buffers()
            for k, units in enumerate(self.units(model, batch)):
                sums.put(number, k, units)
                per_sample[k] &= units.per_sample
                if each is not None:
                    each(number, k, units)
        if self._model.placement is not None and self._model.placement.is_sharded:
            self._keep_company(model, group)
        return per_sample

    def _graph(self, vector: Tensor | None, buffers: Mapping[str, Tensor], group: Communicator) -> PointGraph | None:
        """The recorded pass of this rank, recorded at the first point; None where it cannot be used."""
        assert self._graphs is not None
        share = group.rank, group.size
        if share not in self._graphs:
            at = self._model.centre if vector is None else vector
            with torch.inference_mode(False):  # whose tensors may not be written to outside of it
                self._graphs[share] = point_graph(
                    self._model, self._calls, self._sums(), lambda sums: self._pass(sums, group), at, buffers
                )
        return self._graphs[share]

    def _keep_company(self, model: Callable[..., Any], group: Communicator) -> None:
        """One more call where other ranks of the group have a chunk more: a sharded model is called by all of them."""
        left = self._data.count % group.size
        if left and group.rank >= left:
            if self._writes_buffers:
                self._model.reset_buffers()
            self.units(model, next(self._data.chunks(0, self._data.count))[1])

    @keeps_random_state
    def reestimate(self, theta: Any, statistics: Any = None) -> dict[str, Tensor]:
        """BatchNorm statistics at `theta` from `statistics` (read, or to be), by default the objective's own data.

        {buffer name: value}, to be given to `evaluate` as `buffers`: mean and unbiased variance pooled over all
        samples and positions, as torch stores them after one training-mode pass over the data as one batch.
        """
        if self._model.placement is not None and self._model.placement.is_sharded:
            raise InputError(
                "statistics of BatchNorm are found in passes that end at a layer, which a sharded model does not bear; "
                "use batchnorm='frozen', or the model before it was sharded"
            )
        data = statistics if isinstance(statistics, Data) else self.read_statistics(statistics)

        def chunks() -> Iterator[Batch]:
            return (batch for _, batch in data.chunks())

        def forward(model: nn.Module, batch: Batch) -> None:
            with self._calls.context(True):
                self._calls.call(model, batch)

        return self._model.reestimate(None if theta is None else self.vector(theta), chunks, data.count, forward)

    @keeps_random_state
    def read_statistics(self, data: Any = None) -> Data:
        """Data to re-estimate BatchNorm on, by default the objective's own, in as few chunks as memory allows."""
        read = self._undivided if data is None else data if isinstance(data, Data) else self.read(data)
        return read.divided(max(1, _STATISTICS_BYTES // (self._values_per_sample * self.dtype.itemsize)))

    @keeps_random_state
    def read(self, data: Any) -> Data:
        """Read data in one of the forms the constructor takes, its samples counted as there."""
        return counted(self._calls, self._quantities, self._read(data))[1]

    def _read(self, data: Any) -> Data:
        divisible, check, budget = self._calls.forward is None, self._check, self._memory_budget
        counting = Counting(self._calls.counting.given)
        read = read_data(
            data,
            device=self.device,
            dtype=self.dtype,
            budget=budget,
            divisible=divisible,
            check=check,
            counting=counting,
        )
        return read.converted(self.formatted) if self._calls.channels_last else read

    @contextmanager
    def differentiable(
        self, theta: Any = None, buffers: Mapping[str, Tensor] | None = None, *, half: bool = False
    ) -> Iterator[tuple[nn.Module, list[Tensor]]]:
        """(model, its trainable parameters in the layout's order) at `theta`, autograd on, never in half precision.

        Attention runs by its plain formula and recurrences without cuDNN: the fused ones have no second derivatives.
        With `half` a model in half precision is taken as it is, for a gradient that only has to be a direction.
        """
        placement = self._model.placement
        if not half or (placement is not None and not placement.is_spread_alone):  # hooks use other tensors than these
            self._require_derivatives()
        vector = None if theta is None else self.vector(theta)
        with (
            self._model.at(vector, buffers) as model,
            self._calls.context(True),
            torch.enable_grad(),
            self._model.twice_differentiable(),
        ):
            yield model, self._model.trainable
            self._model.require_eval()

    @contextmanager
    def training(
        self, theta: Tensor, gradient: Tensor, buffers: Mapping[str, Tensor] | None = None
    ) -> Iterator[nn.Module]:
        """The model in train mode on views of `theta` (size,), backward adding to `gradient` (size,), autograd on.

        Its buffers begin with the values of `buffers` {name: value}, by default with the model's own.
        """
        self._require_derivatives()
        with (
            self._model.at(theta, buffers, gradient=gradient) as model,
            self._calls.context(False),
            torch.enable_grad(),
        ):
            yield model

    @contextmanager
    def at(self, theta: Tensor | None, buffers: Mapping[str, Tensor] | None = None) -> Iterator[nn.Module]:
        """The model in eval mode at `theta` (size,), None for the centre, with `buffers`, as to write it to a file."""
        with self._model.at(None if theta is None else self.vector(theta), buffers) as model:
            yield model

    def _require_derivatives(self) -> None:
        if self._model.placement is not None:
            raise InputError(
                "derivatives and training need all parameters on one device of this process, and those of the model "
                "are spread over devices, offloaded or sharded: surfaces, profiles and what is made of losses alone "
                "can be measured of it as it lies; load it whole for the rest"
            )
        if self.precision == "own":
            raise InputError(
                "derivatives and training need float32, and this model is measured in its own half precision; make the "
                "objective with precision='float32', which takes twice the memory"
            )

    def outputs(self, model: Any, batch: Batch) -> tuple[Any, Any]:
        """(outputs, targets) of one batch inside `differentiable`; with loss=None the loss values and the batch."""
        return self._calls.outputs(model, batch)

    def folded(self) -> Callable[..., Any]:
        """The bound model with frozen BatchNorm folded into the layers before it where that is safe.

        Its graph reaches the parameters, so derivatives of any order are right, and cheaper by the layers left out.
        With `recompute` nothing is folded: a block is computed again with its own parameters.
        """
        return self._folding.applied() if self._recomputing is None else self._model.model

    def recomputing(self) -> AbstractContextManager[None]:
        """Inside `differentiable`: calls of the model keep of each block its inputs alone, where that is asked for."""
        return nullcontext() if self._recomputing is None else self._recomputing.active()

    @property
    def recomputed(self) -> tuple[str, ...]:
        """Names of the blocks whose activations are computed again."""
        return () if self._recomputing is None else tuple(self._recomputing.names)

    def _check_recomputing(self) -> None:
        if self._recomputing is None:
            return
        few = self.on(self._undivided.head(1))
        with few.differentiable(half=self.precision == "own" and self._model.placement is None) as (model, _):
            self._recomputing.check(lambda: few.outputs(model, few.batch(0)))

    @property
    def folded_pairs(self) -> tuple[tuple[str, str, float], ...]:
        """(layer, BatchNorm behind it, eps of that) by name, of the pairs that `folded` computes as one layer."""
        names = {module: name for name, module in self._model.model.named_modules()}
        return tuple((names[pair.layer], names[pair.norm], float(pair.norm.eps)) for pair in self._folding.pairs)

    @property
    def batchnorm_eps(self) -> dict[str, float]:
        """{name: eps} of the model's BatchNorm modules."""
        modules = dict(self._model.model.named_modules())
        return {name: float(getattr(modules[name], "eps", 0.0)) for name in self.batchnorm_names}

    def units(self, model: Callable[..., Any], batch: Batch) -> list[Units]:
        """Numerators and denominators of every quantity on one batch, in the order of `quantities`."""
        self._model.load()
        return self._calls.units(self._quantities, model, batch)

    def loss_of(self, model: Callable[..., Any], batch: Batch) -> Units:
        """Numerators and denominators of the loss alone on one batch, inside `training`."""
        self._model.load()
        if self.precision == "bf16":
            torch.clear_autocast_cache()  # which holds the weights before the last step in half precision
        return self._calls.units_of(self._quantities[0], *self._calls.outputs(model, batch))

    def loss_units(self, outputs: Any, targets: Any) -> Units:
        """Numerators and denominators of the loss from what `outputs` returned."""
        return self._calls.units_of(self._quantities[0], outputs, targets)

    def loss_elements(self, outputs: Any, targets: Any) -> Tensor:
        """Numerators of the loss; of the usual ones without a look at weights, which tracing does not know."""
        if isinstance(outputs, Tensor) and isinstance(targets, Tensor):
            real = targets.is_floating_point()
            if self.loss_is_cross_entropy and outputs.ndim == 2 and targets.ndim == 1 and not real:
                return F.cross_entropy(outputs, targets.long(), reduction="none")
            if self.loss_words == "mse" and outputs.shape == targets.shape and real:
                return F.mse_loss(outputs, targets, reduction="none")
        return self.loss_units(outputs, targets).numerators

    def units_of(self, quantity: str, outputs: Any, targets: Any) -> Units:
        """Numerators and denominators of one of `quantities` from what `outputs` returned."""
        return self._calls.units_of(self._quantities[self.quantities.index(quantity)], outputs, targets)

    def choose(self, numbers: Sequence[int]) -> ChosenSamples:
        """Where `estimates_and_samples` puts the values of the samples of these numbers."""
        return ChosenSamples(self._data, numbers, len(self.quantities))

    def samples_of(self, chunk: int) -> int:
        """How many samples the chunk of that number holds."""
        return self._data.samples_of(chunk)

    def call_with(
        self, values: Sequence[Tensor], function: Callable[[nn.Module, Batch], Tensor], batch: Batch
    ) -> Tensor:
        """`function(model, batch)` with `values` (dual numbers, say) as the trainable parameters."""
        return self._model.call_with(values, function, batch)

    def samples_named(self, places: Mapping[int, Sequence[int] | None]) -> str:
        """Samples in words, by their numbers in the user's data; `places` holds their rows in each chunk, or None."""
        return self._data.named(places)

    def batches(self, group: Communicator = SERIAL) -> Iterator[tuple[int, Batch]]:
        """(number, batch) of the chunks that are this rank's share in `group`."""
        return self._data.chunks(group.rank, group.size)

    def every(self, step: int, start: int) -> Iterator[tuple[int, Batch]]:
        """(number, batch) of every `step`-th chunk from `start` on."""
        return self._data.chunks(start, step)

    def batch(self, number: int) -> Batch:
        """The chunk of that number."""
        with random_state_kept():
            return next(self._data.chunks(number, self._data.count))[1]

    @property
    def chunks(self) -> int:
        """Number of chunks of the data."""
        return self._data.count

    @property
    def values_per_sample(self) -> int:
        """Numbers for each sample of the largest tensor that the model makes or is given."""
        return self._values_per_sample

    @property
    def loss_is_returned(self) -> bool:
        """Whether `forward` returns the loss itself, so that there are no outputs to tell apart from it."""
        return self._calls.loss_is_returned

    @property
    def data(self) -> Data:
        """The data as read, undivided where its batching is free."""
        return self._undivided

    @property
    def loss_words(self) -> str:
        """The loss as `identity` describes it."""
        return self._quantities[0].describe

    @property
    def loss_is_cross_entropy(self) -> bool:
        """Whether the loss is "cross_entropy" by name: unweighted, labels of -100 ignored."""
        return self._loss == "cross_entropy"

    def on(
        self,
        data: Data,
        *,
        chunk: int | None = None,
        precision: str | None = None,
        channels_last: bool = True,
        cuda_graphs: bool | None = None,
    ) -> Objective:
        """The same model and loss on other data (see `read`), in chunks of another size or another precision.

        Without `channels_last` images are laid out as they come. `cuda_graphs` are used as by this objective where it
        is not said, and the data are held on the device.

        Nothing is checked again. Raises InputError for data that were not read, and for a model that does not run in
        that precision.
        """
        if not isinstance(data, Data):
            raise InputError(
                f"on() takes data that were read, and not a {type(data).__name__}: objective.on(objective.read(data)); "
                "or objective.elsewhere(data), which reads them and checks that their batches are weighted right"
            )
        other = copy.copy(self)
        other.chunk = chunk or self.chunk
        other.precision = precision or self.precision
        if other.precision != self.precision:
            other.dtype = dtype_of(other.precision, self._model.model)
            other._model = self._model.in_precision(other.dtype)
            other._calls = replace(self._calls, model=other._model, precision=other.precision, dtype=other.dtype)
            data = data.converted(lambda t: t.to(other.dtype) if t.is_floating_point() else t)
        if self.channels_last and not channels_last:
            other._model = copy.copy(other._model)
            other._model.channels_last = other._may_be_channels_last = False
            other._calls = replace(other._calls, model=other._model, channels_last=False)
            data = data.converted(lambda t: t.contiguous() if t.ndim == 4 and t.is_floating_point() else t)
        other._undivided, other._data, other._groups = data, data.divided(other.chunk), None
        if other.precision != self.precision:
            try:
                with random_state_kept():
                    # class weights follow the precision
                    other._quantities = settled_quantities(other._calls, self._loss, self._metrics, other._data)
            except Exception as error:  # whatever they do in a precision that they were not made for
                raise InputError(
                    f"the model or its loss runs in {self.precision} and not in {other.precision}: {raised_by(error)}. "
                    "Make constants with the dtype of what they meet (torch.eye(3).to(x)), or keep them by "
                    "register_buffer; or stay in its own precision"
                ) from error
        other._graphs = {} if self._graphs is not None and cuda_graphs is not False and data.held else None
        if cuda_graphs and other._graphs is None:
            other._record()
        return other

    @keeps_random_state
    def elsewhere(self, data: Any) -> Objective:
        """The same model and loss on other data of the user's, whose batches are weighted right: checked as the own."""
        other = self.on(self.read(data))
        check_batches(other._calls, other._quantities, other._data)
        return other

    def formatted(self, tensor: Tensor) -> Tensor:
        """Images in the memory format that is fastest for this model; anything else as it is."""
        return self._calls.formatted(tensor)

    def vector(self, theta: Any, dtype: torch.dtype | None = None) -> Tensor:
        """`theta` as a vector on the device, by default in the working precision. Raises InputError for other sizes."""
        if dtype is None and type(theta) is Tensor and self._is_vector(theta):
            return theta
        way_out = "from a module, a state dict or a checkpoint, plane_through and pca_plane take it as it is"
        tensor = real_tensor(theta, "theta", way_out).to(self.device, dtype or self.dtype).reshape(-1)
        if tensor.numel() != self.layout.size:
            raise InputError(
                f"theta has {tensor.numel()} values, the model {self.layout.size} trainable ones "
                f"({len(self.layout.blocks)} tensors from {self.layout.names[0]!r} on)"
            )
        return tensor

    def _is_vector(self, theta: Tensor) -> bool:
        as_asked = theta.dtype == self.dtype and theta.device == self.device and not theta.requires_grad
        return as_asked and theta.ndim == 1 and theta.numel() == self.layout.size


def real_tensor(given: Any, name: str, way_out: str) -> Tensor:
    """What was given as a tensor of real numbers. Raises InputError, which ends with the way out, for anything else."""
    try:
        tensor = torch.as_tensor(given).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} of type {type(given).__name__} is not a vector of numbers; {way_out}") from error
    if tensor.is_complex() or tensor.dtype is torch.bool:
        raise InputError(f"{name} is of {tensor.dtype}, not of real numbers; {way_out}")
    return tensor
