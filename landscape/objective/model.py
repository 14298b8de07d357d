"""The one file that knows nn.Module: a model's parameters as a flat vector, bound for a while and then restored."""

from __future__ import annotations

import copy
import logging
import math
import re
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from landscape_kernels.layout import Filters, Layout
from landscape_kernels.pieces import Piece
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.dropout import _DropoutNd

from landscape.errors import InputError, nearest, user_code
from landscape.objective.centre import LARGE, Centre
from landscape.objective.gpu import cudnn, settled
from landscape.objective.interrupts import until_done
from landscape.objective.placement import Placement, placement_of
from landscape.objective.random_state import random_state_kept, torch_random_state_kept
from landscape.objective.statistics import LayerReached, PooledStatistics
from landscape.objective.trees import as_real, equal, tensors_in, why_without_values
from landscape.objective.uses import axes_of_outputs
from landscape.run.comm import local_rank

logger = logging.getLogger(__name__)
DEVICES = ("cpu", "cuda")
_ALIGNED = 16  # bytes
_HALF = (torch.bfloat16, torch.float16)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_NORM_NAME = re.compile(r"norm", re.IGNORECASE)  # LayerNorm, GroupNorm, LlamaRMSNorm, ...


def choose_device(device: str | torch.device | None) -> torch.device:
    """The device asked for, by default this rank's GPU, else the CPU. Raises InputError for one that cannot be."""
    if device is None:
        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", local_rank() % torch.cuda.device_count())
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"device={device!r} is no device; give 'cpu', 'cuda' or 'cuda:1', or leave it out") from error
    if chosen.type not in DEVICES:
        raise InputError(f"device {device!r} is not supported; use 'cpu' or 'cuda' (float64 sums are needed)")
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise InputError(
            f"device {device!r} is asked for, but torch sees no CUDA device; leave device out, or use 'cpu'"
        )
    if chosen.type == "cuda" and chosen.index is None:  # tensors there have a number, and are compared by it
        return torch.device("cuda", torch.cuda.current_device())
    return chosen


def own_device(model: nn.Module) -> torch.device | None:
    """Where data have to be for a model that is used where it lies; None for any other."""
    placement = placement_of(model) if isinstance(model, nn.Module) else None
    return None if placement is None else placement.device


def default_precision(model: nn.Module) -> str:
    """The precision of the first parameter of numbers: "float64", or "float32" for that and anything shorter.

    A large model whose parameters that vary are in half precision is measured in its "own": in float32 it would be
    twice as large. So is one that has a `Placement`, which is not converted.
    Raises InputError for what is no nn.Module.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"model is {type(model).__name__}; give a torch.nn.Module")
    dtype = _real_dtype(model.parameters())
    if _own_dtype(model) is not None and placement_of(model) is not None:
        return "own"
    # not those with adapters in float32, which may not run so
    alike = {p.dtype for p in model.parameters() if p.requires_grad} == {dtype}
    if alike and dtype in _HALF and sum(p.numel() * p.element_size() for p in model.parameters()) >= LARGE:
        return "own"
    return "float64" if dtype == torch.float64 else "float32"


def dtype_of(precision: str, model: nn.Module) -> torch.dtype:
    """The dtype of theta in a precision. Raises InputError where "own" is of a model that is not in half precision."""
    if precision != "own":
        return torch.float64 if precision == "float64" else torch.float32
    found = _own_dtype(model)
    if found is not None:
        return found
    varying = sorted({str(p.dtype) for p in model.parameters() if p.requires_grad})
    raise InputError(
        "precision='own' keeps the parameters of a model in bfloat16 or float16 as they are, or adapters in float32 "
        f"beside them, and those that vary here are {', '.join(varying) or 'none'}; leave precision out"
    )


def _own_dtype(model: nn.Module) -> torch.dtype | None:
    """The one dtype of the parameters that vary, where a model has some in half precision and is measured as it is."""
    varying = {p.dtype for p in model.parameters() if p.requires_grad}
    half = any(p.dtype in _HALF for p in model.parameters())
    return varying.pop() if half and len(varying) == 1 and varying <= {*_HALF, torch.float32} else None


def _real_dtype(parameters: Iterable[Tensor]) -> torch.dtype | None:
    """The dtype of the first parameter of numbers, of a complex one that of its parts; None where there is none."""
    found = next((p for p in parameters if p.is_floating_point() or p.is_complex()), None)
    return None if found is None else found.dtype.to_real()


def parameter_layout(model: nn.Module, placement: Placement | None = None) -> Layout:
    """Layout of the trainable parameters in `named_parameters` order, each tensor once however often it is tied.

    A filter holds the weights of one output unit: a row of Linear, Embedding, recurrent and attention projections
    (axis 0, so each of q, k, v of a packed projection has its own rows), an output channel of a convolution (grouped
    or not), and an output channel of each group of a transposed convolution, whose axis 0 counts inputs. The
    (in, out) weight of transformers' `Conv1D` has a filter per column, and a (1, N, D) table of positions one per
    position, like an Embedding. A complex tensor has a last axis of 2 more, its real and imaginary parts, which lie in
    the same filter. Of other layers axis 0 is taken here; see `BoundModel.settle_filters`. Parameters whose values are
    elsewhere are known to the `placement`.
    """
    owners = _owners(model)
    shapes: dict[str, tuple[int, ...]] = {}
    kinds: dict[str, str] = {}
    filters: dict[str, Filters | None] = {}
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise InputError(f"parameter {name} has no shape yet; run the model once on one batch before measuring")
        if not parameter.requires_grad or (placement and name in placement.tied):
            continue
        if not (placement and placement.holds(name)):
            _require_values(f"parameter {name}", parameter)
        _require_numbers(name, parameter)
        module, local = owners[id(parameter)]
        shapes[name] = tuple(parameter.shape)
        kinds[name] = _kind(module, local, parameter)
        found = filters[name] = _filters(module, parameter)
        if parameter.is_complex():  # real and imaginary parts in turn
            shapes[name] = (*parameter.shape, 2)
            filters[name] = found and Filters((*found.shape, 2), (*found.inner, len(found.shape)))
    return Layout.of(shapes, kinds, filters)


def _require_values(what: str, tensor: Tensor) -> None:
    """Raise InputError for a tensor whose values are not here."""
    lacks = why_without_values(tensor)
    if "DTensor" in lacks:
        raise InputError(
            f"{what} {lacks}; give it whole on every rank (full_tensor(), or the model before it was sharded): "
            "of what is sharded only parameters are found"
        )
    if lacks:
        raise InputError(
            f"{what} {lacks}; load the weights first (to_empty() and load_state_dict, or from_pretrained). Of what "
            "accelerate offloads, parameters are found in host memory, buffers are not (offload_buffers=False)"
        )


def _require_numbers(name: str, parameter: Tensor) -> None:
    """Raise InputError for a parameter whose values cannot be put into a vector."""
    if not (parameter.is_floating_point() or parameter.is_complex()):
        raise InputError(f"parameter {name} is {parameter.dtype}; parameters that vary hold floating-point numbers")
    if parameter.layout != torch.strided:
        raise InputError(f"parameter {name} is {parameter.layout}; keep what varies dense, by .to_dense()")


def _owners(model: nn.Module) -> dict[int, tuple[nn.Module, str]]:
    """{id of a parameter: the module it belongs to, its name there}."""
    owners: dict[int, tuple[nn.Module, str]] = {}
    for module in model.modules():
        for name, parts in getattr(module, "parametrizations", {}).items():  # spectral_norm and its kin
            for parameter in parts.parameters():
                owners.setdefault(id(parameter), (module, name))
        for name, parameter in module.named_parameters(recurse=False):
            owners.setdefault(id(parameter), (module, name))
    return owners


def _kind(module: nn.Module, local: str, parameter: Tensor) -> str:
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        return "norm"
    if parameter.ndim <= 1 and _NORM_NAME.search(type(module).__name__):
        return "norm"
    if "bias" in local:
        return "bias"
    table = isinstance(module, (nn.Embedding, nn.EmbeddingBag)) or _is_positions(module, parameter)
    return "embedding" if table else "weight"


def _is_positions(module: nn.Module, parameter: Tensor) -> bool:
    """(1, N, D) embeddings of N positions, or of one special token, that models hold without an Embedding."""
    return parameter.ndim == 3 and parameter.shape[0] == 1 < parameter.shape[2] and not isinstance(module, _ConvNd)


def _filters(module: nn.Module, parameter: Tensor) -> Filters | None:
    shape = tuple(parameter.shape)
    if len(shape) < 2 or isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        return None
    if _is_positions(module, parameter):
        return Filters(shape[1:], (1,))
    if isinstance(module, _ConvTransposeNd) and len(shape) > 2:
        inputs, outputs = shape[0] // module.groups, shape[1]
        return Filters((module.groups, inputs, outputs, math.prod(shape[2:])), (1, 3))
    if type(module).__name__ == "Conv1D" and len(shape) == 2:
        return Filters(shape, (0,))
    return Filters((shape[0], math.prod(shape[1:])), (1,))


def _filters_along(shape: tuple[int, ...], outputs: frozenset[int]) -> Filters:
    """A filter for each index of the axes `outputs`."""
    if outputs == {0}:
        return Filters((shape[0], math.prod(shape[1:])), (1,))
    return Filters(shape, tuple(axis for axis in range(len(shape)) if axis not in outputs))


# Modules whose parameters are known to have a filter per index of axis 0, or as `_filters` says.
_KNOWN = (
    *(nn.Linear, nn.Bilinear, _ConvNd, nn.Embedding, nn.EmbeddingBag, nn.RNNBase, nn.RNNCellBase),
    *(nn.MultiheadAttention, nn.LayerNorm, nn.RMSNorm),
)


def _unknown_layers(model: nn.Module, layout: Layout) -> tuple[str, ...]:
    """Names of the parameters with several axes whose layer says nothing of what the axes are."""
    owners, named = _owners(model), dict(model.named_parameters())
    found = []
    for block in layout.blocks:
        parameter = named[block.name]
        module, _ = owners[id(parameter)]
        known = isinstance(module, _KNOWN) or type(module).__name__ == "Conv1D" or _is_positions(module, parameter)
        if not known and sum(size > 1 for size in parameter.shape) > 1:
            found.append(block.name)
    return tuple(found)


def _unwrapped(model: nn.Module) -> nn.Module:
    """The user's own module inside torch.compile and (Distributed)DataParallel."""
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model.get_submodule("_orig_mod")
        else:
            break
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise InputError(
                f"module {name or type(module).__name__!r} is TorchScript, which takes no hooks and fixes its "
                "parameters; give the module it was made from"
            )
    return model


def _attributes(model: nn.Module) -> list[Tensor]:
    """Tensors that modules hold as plain attributes, or in a list, tuple or dict of them."""
    found: list[Tensor] = []
    for module in model.modules():
        for key, value in vars(module).items():
            if key in ("_parameters", "_buffers", "_modules"):
                continue
            parts = value.values() if type(value) is dict else value if type(value) in (list, tuple) else (value,)
            found += [part for part in parts if type(part) is Tensor and part.layout == torch.strided]
    return found


def _nothing_to_vary(model: nn.Module) -> str:
    """Why a model has no trainable parameter, and what can be done: integers of a quantised one cannot be varied."""
    name = type(model).__name__
    packed = [n or name for n, m in model.named_modules() if "quantized" in type(m).__module__.split(".")]
    whole = [n for n, p in model.named_parameters() if not p.is_floating_point()]
    if packed or whole:
        what = f"module {packed[0]!r}" if packed else f"parameter {whole[0]!r}"
        return (
            f"{name} is quantised ({what} holds integers), and a loss is no function of integers that varies smoothly; "
            "give the floating-point model that it was made from, or its parameters dequantised: another "
            "model of floats with the same weights"
        )
    if not any(True for _ in model.parameters()):
        return f"{name} has no trainable parameter, and no other either: there is nothing to vary; give one with some"
    return f"{name} has no trainable parameter; call requires_grad_(True) on those to vary, or on the model for all"


class BoundModel:
    """A user's model whose parameters and buffers can be replaced for the length of a `with` block.

    Nothing of the model is copied but its values: hooks, closures over the model and tied tensors keep their meaning,
    because the Parameter objects stay and only what they point to is exchanged.
    """

    def __init__(
        self,
        model: nn.Module,
        device: torch.device,
        dtype: torch.dtype,
        *,
        as_is: bool = False,
        checkpoint: str | Path | None = None,
    ) -> None:
        model = _unwrapped(model)
        self.model = model
        self.placement = placement = placement_of(model)  # of a model that is used where it lies
        self.device = device
        self.dtype = dtype
        self._as_is = as_is or placement is not None  # frozen parameters, buffers and constants keep their dtype
        self.layout = parameter_layout(model, placement)
        named = {k: p for k, p in model.named_parameters() if not (placement and k in placement.tied)}
        self._trainable = [named.pop(name) for name in self.layout.names]
        if not self._trainable:
            raise InputError(_nothing_to_vary(model))
        # Parameters whose filters are taken along axis 0 because nothing is known of their axes.
        self.along_axis_0 = _unknown_layers(model, self.layout)
        self._shapes = [block.shape for block in self.layout.blocks]
        self._sizes = [block.size for block in self.layout.blocks]
        self._frozen = list(named.values())
        self.frozen_names = tuple(named)
        self._exchanged = [*self._trainable, *self._frozen]
        self._are_complex = [p.is_complex() for p in self._trainable]
        # (the last vector, where its values are and how far apart, the parameters as views of it)
        self._viewed: tuple[Callable[[], Tensor | None], tuple[int, int], list[Tensor]] = (lambda: None, (0, 0), [])
        for name, held in [*named.items(), *model.named_buffers()]:
            if not (placement and placement.holds(name)):
                _require_values(f"{'parameter' if isinstance(held, nn.Parameter) else 'buffer'} {name}", held)
        buffers, attributes = list(model.buffers()), _attributes(model)
        self.own = Centre(
            self.layout, self._trainable, self._frozen, buffers, attributes, device, dtype, checkpoint, placement
        )
        moved = [] if placement else [self._to_device(p.data) for p in self._frozen]
        self._frozen_values = moved if self.own.live else [value.clone() for value in moved]
        self.complex_names = tuple(
            name for name, p in zip(self.layout.names, self._trainable, strict=True) if p.is_complex()
        )
        self._modules = list(model.modules())
        numbers = {id(parameter): number for number, parameter in enumerate(self._trainable)}
        # Each place once, of a module that stands at two places of the model, too: functional_call of torch would put
        # back there what it had put in.
        self._parameter_slots = [
            (module, key, numbers[id(parameter)])
            for module in self._modules
            for key, parameter in module._parameters.items()
            if id(parameter) in numbers
        ]
        names = {id(buffer): name for name, buffer in model.named_buffers()}
        self._buffer_slots = [
            (module, key, names[id(buffer)])
            for module in self._modules
            for key, buffer in module._buffers.items()
            if buffer is not None
        ]
        self.buffers = {name: self._to_device(buffer).clone() for name, buffer in model.named_buffers()}
        # Whether a forward pass may draw from numpy's or Python's random streams: keeping them costs more than all else
        # here, so the objective finds out on a trial.
        self.draws_elsewhere = True
        # Whether a forward pass writes to buffers, found out on a trial, too. Where it does not, those of BatchNorm are
        # lent to it, (tensor, how often it was written to), and copied anew where it did all the same.
        self.writes_buffers = True
        self._lent: dict[str, tuple[Tensor, int]] = {}
        self._lendable = {
            f"{name}.{key}" if name else key
            for name, module in model.named_modules()
            if type(module) in _NORMS  # what a subclass does with its buffers is its own affair
            for key in module._buffers
        }
        self.channels_last = False  # whether convolution weights are laid out like channels-last images
        self._working: dict[str, Tensor] = {}
        self._given: dict[str, Tensor] = {}
        self._own_dtype = _real_dtype(self._trainable) or dtype
        self._loads: list[tuple[Tensor, Tensor]] = []  # parameters that are copies in training, what they are copies of
        self._constants = self._find_constants()
        self._check_batchnorm()

    def in_precision(self, dtype: torch.dtype) -> BoundModel:
        """The same model with the same centre, buffers and frozen parameters in another precision."""
        if self.placement is not None:
            raise InputError(
                "a model that is spread over devices, offloaded or sharded is measured as it lies, in no other "
                "precision than that of its parameters"
            )
        other = copy.copy(self)
        other.dtype = dtype
        other._as_is = False
        other.own = self.own.converted(dtype)
        other._frozen_values = [other._to_device(value) for value in self._frozen_values]
        other.buffers = {name: other._to_device(value) for name, value in self.buffers.items()}
        other._lent = {}
        other._constants = other._find_constants()
        return other

    @property
    def centre(self) -> Tensor:
        """The trainable parameters as one vector (size,), which is not to be written to."""
        return self.own.vector

    def frozen_values(self) -> Iterator[Tensor]:
        """The parameters that do not vary, one after another; the ranks that share a sharded one call this together."""
        if self.placement is None:
            return iter(self._frozen_values)
        return map(self.placement.whole, self.frozen_names)

    def require_same_parameters(self) -> None:
        """Raise InputError where a parameter is no longer in the model, so that what it computes does not follow it."""
        if self.placement is not None:  # whose hooks exchange them
            return
        there = {id(parameter) for parameter in self.model.parameters()}
        for name, parameter in zip((*self.layout.names, *self.frozen_names), self._exchanged, strict=True):
            if id(parameter) not in there:
                raise InputError(
                    f"parameter {name} was put in another's place after the objective was made, or taken away (a new "
                    "layer, load_state_dict(..., assign=True)), and the objective still varies the one it knew; make a "
                    "new Objective of the model as it is now"
                )

    def _find_constants(self) -> list[tuple[nn.Module, str]]:
        """Attributes of modules that hold tensors which are no buffers, and which this precision or device needs moved.

        Those of the model's own precision follow it; what is in another is meant to be.
        """
        if self.placement is not None:
            return []
        return [
            (module, key)
            for module in self._modules
            for key, value in vars(module).items()
            if key not in ("_parameters", "_buffers", "_modules") and self._moved(value) is not value
        ]

    def _moved(self, value: Any) -> Any:
        """A tensor, or a list, tuple or dict with tensors, where this precision needs them; else the same object."""
        if isinstance(value, Tensor):
            real = value.is_floating_point() or value.is_complex()
            if not real or value.requires_grad or isinstance(value, nn.Parameter):
                return value
            follows = value.real.dtype == self._own_dtype != self.dtype
            if follows:
                return self._to_device(value)
            return value if value.device == self.device else value.to(self.device)
        if type(value) in (list, tuple):
            moved = [self._moved(entry) for entry in value]
            same = all(a is b for a, b in zip(moved, value, strict=True))
            return value if same else type(value)(moved)
        if type(value) is dict:
            entries = {key: self._moved(entry) for key, entry in value.items()}
            return value if all(entries[key] is entry for key, entry in value.items()) else entries
        return value

    @property
    def arithmetic(self) -> torch.dtype:
        """The dtype that layers compute in, the shortest of several."""
        found = {p.dtype for p in (*self._trainable, *self._frozen)} if self._as_is else set()
        return next((half for half in _HALF if half in found), self.dtype)

    @property
    def trainable(self) -> list[Tensor]:
        """The trainable parameters themselves, in the layout's order."""
        return list(self._trainable)

    def settle_filters(self, batch: Any, call: Callable[[nn.Module, Any], object]) -> None:
        """Find from `call(model, batch)` which axes make outputs in layers that are not known; else axis 0 stays."""
        if not self.along_axis_0 or (self.placement and not self.placement.is_spread_alone):
            return
        named = dict(zip(self.layout.names, self._trainable, strict=True))
        with self.at(None) as model:
            parameters = {name: named[name] for name in self.along_axis_0}
            try:
                found = axes_of_outputs(parameters, batch, lambda: call(model, batch))
            except Exception as error:  # whatever a forward pass does under a mode that watches it
                logger.info(
                    "the axes of parameters are not looked at, since the forward pass cannot be traced: %s", error
                )
                return
        blocks = [
            replace(block, filters=_filters_along(block.shape, found[block.name])) if block.name in found else block
            for block in self.layout.blocks
        ]
        self.layout = Layout(tuple(blocks))
        self.along_axis_0 = tuple(name for name in self.along_axis_0 if name not in found)

    @property
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """{name: shape} of every entry of the model's state_dict, in its order."""
        return {name: tuple(value.shape) for name, value in self.model.state_dict().items()}

    @property
    def structure(self) -> str:
        """The model as text: its modules as they print, and the plain settings each of them holds."""
        settings = [
            f"{name}.{key}={value!r}"
            for name, module in self.model.named_modules()
            for key, value in sorted(vars(module).items())
            if not key.startswith("_") and key != "training" and isinstance(value, (bool, int, float, str, tuple))
        ]
        with user_code("the model cannot be printed, which tells one model from another"):
            printed = repr(self.model)
        return re.sub(r"0x[0-9a-f]+", "", "\n".join([printed, *settings]))

    def buffers_were_written(self) -> bool:
        """Inside `at`: whether a forward pass has changed a buffer."""
        return any(not equal(value, self._given[name]) for name, value in self._working.items())

    def reset_buffers(self) -> None:
        """Inside `at`: give the buffers the values they had on entry."""
        for name, value in self._working.items():
            if value.layout == torch.strided and not value.is_nested:
                value.copy_(self._given[name])
            elif not equal(value, self._given[name]):  # of a layout that is not copied in place
                self._working[name] = self._given[name].clone()
                for module, key, slot in self._buffer_slots:
                    if slot == name:
                        module._buffers[key] = self._working[name]

    @property
    def has_convolutions(self) -> bool:
        """Whether a 2-D convolution is inside, so that a channels-last layout of images may pay."""
        return any(isinstance(m, _ConvNd) and m.weight.ndim == 4 for m in self._modules)

    @property
    def batchnorm_names(self) -> list[str]:
        """Names of the BatchNorm modules."""
        return [name for name, module in self.model.named_modules() if isinstance(module, _BatchNorm)]

    @contextmanager
    def at(
        self, theta: Tensor | None, buffers: Mapping[str, Tensor] | None = None, gradient: Tensor | None = None
    ) -> Iterator[nn.Module]:
        """The model in eval mode at `theta` (size,), with `buffers` in place of those it had at the start.

        None is the centre; of a model that is its own centre, what its parameters hold now (see `Centre.written`).

        With `gradient` (size,) it is in train mode: its parameters are views of `theta`, which may change meanwhile
        (call `load` after a change), and their gradients views of `gradient`, to which a backward pass adds. A
        parameter that would begin in the middle of 16 bytes is a copy, as operations that read memory in another type
        (complex numbers, packed ones) need it. Parameters, their gradients, buffers,
        modes and random states are put back on every way out.
        """
        if theta is None:
            self.own.require_unchanged()
        placement, training = self.placement, gradient is not None
        # At every point of a small network this is a good part of the time: it asks before it writes.
        parameters = () if placement else self._exchanged
        saved = [(p, p.data, p.grad, p.requires_grad) for p in parameters]
        saved_buffers = [module._buffers[key] for module, key, _ in self._buffer_slots]
        modes = [module.training for module in self._modules]
        constants = [vars(module).get(key) for module, key in self._constants]
        hooks: list[Any] = []

        def put_back() -> None:
            for parameter, data, grad, requires_grad in saved:
                if parameter.grad is not None:
                    parameter.grad = None
                parameter.data = data
                if grad is not None:
                    parameter.grad = grad
                if parameter.requires_grad != requires_grad:
                    parameter.requires_grad_(requires_grad)
            for (module, key, _), buffer in zip(self._buffer_slots, saved_buffers, strict=True):
                module._buffers[key] = buffer
            for (module, key), constant in zip(self._constants, constants, strict=True):
                vars(module)[key] = constant
            for module, mode in zip(self._modules, modes, strict=True):
                if module.training != mode:
                    module.training = mode
            for hook in hooks:
                hook.remove()
            if training:
                self._loads.clear()

        self._given = {**self.buffers, **buffers} if buffers else self.buffers
        self._working = working = self._working_buffers(buffers or {}, lend=not training)
        with self._around(theta):
            try:
                for parameter, _, grad, _ in saved:
                    if grad is not None:
                        parameter.grad = None
                whole = self.own.held if theta is None else theta
                values = [] if placement else self._values_in(whole)
                for parameter, value in zip(self._trainable, values, strict=False):
                    # Once here rather than in every convolution of every chunk.
                    parameter.data = (
                        value.contiguous(memory_format=torch.channels_last)
                        if self.channels_last and value.ndim == 4 and not training
                        else value
                    )
                if gradient is not None:
                    assert whole is not None
                    hooks += self._receive(whole, gradient)
                for parameter, value in zip(() if placement else self._frozen, self._frozen_values, strict=True):
                    parameter.data = value
                for module, key, name in self._buffer_slots:
                    module._buffers[key] = working[name]
                for (module, key), constant in zip(self._constants, constants, strict=True):
                    vars(module)[key] = self._moved(constant)
                if training:
                    self.model.train()  # which may leave some layers in eval mode
                for module in () if training or True not in modes else self._modules:
                    if module.training:
                        module.training = False
                yield self.model
            finally:
                try:
                    until_done(put_back)
                except KeyboardInterrupt:  # which may come before its first line
                    until_done(put_back)
                    raise

    def _around(self, theta: Tensor | None) -> AbstractContextManager[object]:
        """Inside, random streams are kept, and the device and a model that is used where it lies are made ready."""
        streams = random_state_kept() if self.draws_elsewhere else torch_random_state_kept()
        if self.device.type != "cuda" and self.placement is None:
            return streams
        return self._ready(streams, theta)

    @contextmanager
    def _ready(self, streams: AbstractContextManager[object], theta: Tensor | None) -> Iterator[None]:
        exact = settled(self.device) if self.device.type == "cuda" else nullcontext()
        there = nullcontext() if self.placement is None else self._in_place(self.placement, theta)
        with streams, exact, there:
            yield

    def _values_in(self, vector: Tensor | None) -> list[Tensor]:
        """The values of the trainable parameters: views of `vector` (size,), copies where one would not be aligned.

        None is what the parameters hold.
        """
        if vector is None:
            return [parameter.data for parameter in self._trainable]
        address, step = vector.data_ptr(), vector.stride(0)
        known, place, views = self._viewed
        if known() is vector and place == (address, step):
            return views  # the points of a surface are written into one vector, again and again
        start, width = vector.storage_offset(), vector.element_size()
        views, copied = [], False
        parts = vector.detach().split_with_sizes(self._sizes)
        for block, part, is_complex in zip(self.layout.blocks, parts, self._are_complex, strict=True):
            before = block.offset * step
            if (address + before * width) % _ALIGNED or (start + before) * width % _ALIGNED:
                copied, part = True, part.clone()
            value = part.view(block.shape)
            views.append(torch.view_as_complex(value) if is_complex else value)
        # They show what is written to the vector, and are kept as long as it is there.
        if not copied and not torch.is_inference_mode_enabled():
            self._viewed = weakref.ref(vector, lambda _: views.clear()), (address, step), views
        return views

    def _receive(self, vector: Tensor, gradient: Tensor) -> Iterator[Any]:
        """Let gradients of the parameters, which are views of `vector`, be views of `gradient` (size,); the hooks."""
        parts, slopes = vector.split_with_sizes(self._sizes), gradient.split_with_sizes(self._sizes)
        for parameter, shape, part, slope in zip(self._trainable, self._shapes, parts, slopes, strict=True):
            if is_aligned(part) and is_aligned(slope):
                parameter.grad = shaped_like(parameter, slope, shape)
                continue
            self._loads.append((parameter, part))
            add = partial(_add_gradient, slope)
            yield parameter.register_post_accumulate_grad_hook(add)  # type: ignore[no-untyped-call]

    @contextmanager
    def _in_place(self, placement: Placement, theta: Tensor | None) -> Iterator[None]:
        """The model where it lies, at `theta` (size,); None is what its parameters hold."""
        with ExitStack() as stack:
            if theta is not None:
                vector = theta

                def write(chosen: Sequence[Piece], parts: Mapping[str, Tensor]) -> None:
                    for piece in chosen:
                        parts[piece.block.name][piece.inside].copy_(vector[piece.slice])

                stack.enter_context(self.own.written(write))
            stack.enter_context(placement.slots_kept())
            stack.callback(placement.reshard)
            placement.reshard()
            placement.require_together(self.own.mark)
            yield

    def load(self) -> None:
        """Inside `at` with a gradient: let parameters that could not be views of `theta` have its values now."""
        for parameter, part in self._loads:
            as_real(parameter.data).view(-1).copy_(part)

    def refresh(self, theta: Tensor) -> None:
        """Inside `at(theta)`: let parameters that are copies (laid out anew, or aligned) have theta's values now."""
        for parameter, shape, part in zip(
            self._trainable, self._shapes, theta.split_with_sizes(self._sizes), strict=True
        ):
            value = shaped_like(parameter, part, shape)
            if parameter.data_ptr() != value.data_ptr():
                parameter.data.copy_(value)

    @property
    def working_buffers(self) -> dict[str, Tensor]:
        """Inside `at`: the tensors that stand for the buffers, by name."""
        return self._working

    def read_now(self) -> list[Any]:
        """Inside `at`: all that a pass reads at its address, to be kept as long as the pass may be started again."""
        constants = [vars(module).get(key) for module, key in self._constants]
        values = [parameter.data for parameter in self._exchanged]
        return [values, dict(self._working), constants, _attributes(self.model)]

    def all_buffers(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The buffers by name, those `given` in place of the model's own. Raises InputError for other names."""
        unknown = sorted(set(given) - set(self.buffers)) if given else []
        if unknown:
            raise InputError(f"the model has no buffer {unknown[0]!r}; {nearest(unknown[0], self.buffers)}")
        return {**self.buffers, **given}

    def _working_buffers(self, given: Mapping[str, Tensor], *, lend: bool) -> dict[str, Tensor]:
        """Copies of the buffers, which a forward pass may write to, with the given ones in their place.

        With `lend` those of BatchNorm are the copies of the last time, unless they were written to.
        """
        found: dict[str, Tensor] = {}
        lend = lend and not self.writes_buffers and not torch.is_inference_mode_enabled()
        for name, value in self.all_buffers(given).items():
            own = self.buffers[name]
            if not lend or name in given or name not in self._lendable:
                found[name] = value.to(own.device, own.dtype, copy=True)
                continue
            lent, version = self._lent.get(name, (None, 0))
            if lent is None or lent._version != version:
                lent = own.clone()
                self._lent[name] = lent, lent._version
            found[name] = lent
        return found

    def reestimate(
        self,
        theta: Tensor | None,
        chunks: Callable[[], Iterable[Any]],
        count: int,
        forward: Callable[[nn.Module, Any], object],
    ) -> dict[str, Tensor]:
        """Running statistics of every BatchNorm at `theta` from `count` chunks of data; returns {buffer name: value}.

        They equal what torch stores after one training-mode pass over the data as a single batch with momentum 1:
        mean and unbiased variance, pooled over all samples and positions in float64, every layer fed by layers that
        normalise with their own pooled statistics. With one chunk that takes one pass; with more, one pass per
        BatchNorm layer, since a layer's input is known only when those before it are settled.
        """
        names: dict[nn.Module, str] = {
            module: name for name, module in self.model.named_modules() if isinstance(module, _BatchNorm)
        }
        pooled = PooledStatistics(names)
        handles = [module.register_forward_pre_hook(pooled.observe) for module in names]
        try:
            with self.at(theta) as model, torch.no_grad():
                while True:
                    for chunk in chunks():
                        pooled.start_chunk(only=count == 1)
                        with suppress(LayerReached):
                            forward(model, chunk)
                    if not pooled.settle():
                        return pooled.buffers()
        finally:
            for handle in handles:
                handle.remove()

    def require_eval(self) -> None:
        """Inside `at`, after a forward pass: InputError where it has switched BatchNorm to the batch's statistics."""
        for name, module in self.model.named_modules():
            if isinstance(module, _BatchNorm) and module.training:
                raise InputError(
                    f"forward puts BatchNorm {name!r} into train mode, which couples the samples of a batch: the loss "
                    "is then no mean over samples. Leave the model in eval mode; statistics of other data are given as "
                    "buffers=objective.reestimate(theta, objective.read_statistics(data))."
                )

    @contextmanager
    def twice_differentiable(self) -> Iterator[None]:
        """Kernels that have second derivatives: attention by its plain formula, recurrences without cuDNN."""
        recurrent = any(isinstance(module, nn.RNNBase) for module in self._modules)
        with ExitStack() as stack:
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            if recurrent and self.device.type == "cuda":
                stack.enter_context(cudnn(enabled=False))
            yield

    def call_with(self, values: Sequence[Tensor], function: Callable[[nn.Module, Any], Any], batch: Any) -> Tensor:
        """`function(model, batch)` with `values` (dual numbers, say) in place of the trainable parameters."""
        try:
            for module, key, number in self._parameter_slots:
                module._parameters[key] = values[number]  # type: ignore[assignment]
            result: Tensor = function(self.model, batch)
            return result
        finally:
            for module, key, number in self._parameter_slots:
                module._parameters[key] = self._trainable[number]

    def largest_activation(self, forward: Callable[[], object]) -> int:
        """Values in the largest output of any module during `forward()`, at least 1."""
        largest = 1

        def measure(_module: nn.Module, _inputs: object, output: object) -> None:
            nonlocal largest
            for tensor in tensors_in(output):
                largest = max(largest, tensor.numel())

        handles = [module.register_forward_hook(measure) for module in self._modules]
        try:
            forward()
        finally:
            for handle in handles:
                handle.remove()
        return largest

    def stochastic_modules(self) -> list[str]:
        """Names of modules that may draw random numbers in eval mode (custom dropout and its kin), for messages."""
        pattern = re.compile(r"drop|noise|stochastic", re.IGNORECASE)
        return [
            name or type(module).__name__
            for name, module in self.model.named_modules()
            if pattern.search(type(module).__name__) and not isinstance(module, _DropoutNd)
        ]

    def _to_device(self, tensor: Tensor) -> Tensor:
        dtype = tensor.dtype
        if tensor.is_floating_point() or tensor.is_complex():
            dtype = dtype if self._as_is else self.dtype.to_complex() if tensor.is_complex() else self.dtype
        return tensor.detach().to(tensor.device if self.placement else self.device, dtype)

    def _check_batchnorm(self) -> None:
        for name, module in self.model.named_modules():
            if isinstance(module, _BatchNorm) and module.running_mean is None:
                raise InputError(
                    f"BatchNorm {name!r} has track_running_stats=False: it normalises by whatever batch it meets, so "
                    "the loss of one sample depends on its neighbours. Build the model with track_running_stats=True "
                    "and measure with batchnorm='reestimated'."
                )


def is_aligned(part: Tensor) -> bool:
    """Whether the values begin where a tensor of their own might."""
    return part.storage_offset() * part.element_size() % _ALIGNED == 0 and part.data_ptr() % _ALIGNED == 0


def aligned(part: Tensor) -> Tensor:
    """The same values, copied where they begin in the middle of 16 bytes."""
    return part if is_aligned(part) else part.clone()


def shaped_like(parameter: Tensor, part: Tensor, shape: Sequence[int]) -> Tensor:
    """View of `part` (n,) in a block's shape, complex where the parameter is."""
    return torch.view_as_complex(part.view(shape)) if parameter.is_complex() else part.view(shape)


def _add_gradient(total: Tensor, parameter: Tensor) -> None:
    if parameter.grad is not None:
        total.add_(as_real(parameter.grad).reshape(-1))
        parameter.grad = None
