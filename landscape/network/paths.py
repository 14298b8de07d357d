"""Sums over the paths of a network from its inputs to its outputs, and the sizes of what its convolutions are given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from landscape.errors import InputError
from landscape.objective.trees import tensors_in


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What passes values on, adds them up, or takes the largest: of values that are not negative all of it is path by path.
_PASSED = _words(
    """
    relu leaky_relu prelu _prelu_kernel add sum cat stack max amax maximum topk
    max_pool1d max_pool2d_with_indices max_pool3d_with_indices adaptive_max_pool2d adaptive_max_pool3d
    _reshape_alias _to_copy _unsafe_view alias as_strided clone contiguous copy detach diagonal expand flip lift_fresh
    permute select slice split split_with_sizes squeeze t transpose unbind unfold unsqueeze view repeat roll
    constant_pad_nd reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d channel_shuffle
    native_channel_shuffle pixel_shuffle pixel_unshuffle upsample_nearest1d upsample_nearest2d im2col fill zero
    empty empty_like new_empty new_zeros zeros zeros_like new_ones ones ones_like full full_like new_full arange
    scalar_tensor
    """
)
# What makes numbers that are in no parameter or buffer; they are weights of their own.
_MADE = _words("lift_fresh full full_like new_full arange scalar_tensor")
_NORMS = _words(
    "native_batch_norm cudnn_batch_norm miopen_batch_norm _native_batch_norm_legit "
    "_native_batch_norm_legit_no_training _batch_norm_no_update"
)
_PRODUCTS = _words("mul mm bmm mv dot linear convolution addmm addmv baddbmm addbmm")
_AVERAGES = _words("avg_pool1d avg_pool2d avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d mean")


class Paths(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is on, a forward pass at weights |w|^p on inputs of ones is sum_paths prod |w|^p, or is refused.

    Averages count as weights 1/n, which become 1/n^p, and so do plain numbers that values are multiplied by or that are
    added to them. `constants` are the parameters and buffers, already at |w|^p, by which values may be multiplied, and
    `inputs` what the model is given; values from elsewhere are refused.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch loads its compiler, which takes seconds, only to tell it to stay away

    def __init__(
        self, constants: Iterable[Tensor], power: int, *, inputs: Iterable[Tensor] = (), averages: bool = True
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._constants = {_storage(tensor) for tensor in constants}
        self._known = self._constants | {_storage(tensor) for tensor in inputs}
        self._power, self._averages = power, averages

    def __torch_dispatch__(
        self, function: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = function.overloadpacket.__name__.removesuffix("_")
        named = kwargs or {}
        if name in ("add", "mul", "div", *_PRODUCTS):  # numbers among them are weights; alpha and beta, too
            named = {key: self._weight(value) if key in ("alpha", "beta") else value for key, value in named.items()}
            number = name in ("add", "mul", "div") and len(args) > 1 and isinstance(args[1], (int, float))
            args = (args[0], self._weight(args[1]), *args[2:]) if number else args
        else:
            number = False
        if name not in _MADE:
            self._refuse_unknown(name, [*args, *named.values()])
        result = function(*args, **named)
        found = [tensor for tensor in tensors_in(result) if tensor.is_floating_point()]
        if not found:
            return result
        self._known |= {_storage(tensor) for tensor in found}
        if name in _MADE:
            return result.copy_(result.abs() ** self._power)
        if name in _PASSED or (name in _NORMS and self._is_constant(args[3])):
            return result
        if name in _AVERAGES:
            averaged: Tensor = self._averaged(result, args[0], function, name, args, named)
            self._known.add(_storage(averaged))
            return averaged
        if name in ("mul", "div") and number and not named:
            return result
        if name in _PRODUCTS and sum(not self._is_constant(value) for value in args if isinstance(value, Tensor)) <= 1:
            return result
        raise InputError(
            f"its {name} is no sum over paths: known are products with weights, sums, averages, maxima and ReLU"
        )

    def _weight(self, value: Any) -> Any:
        """A number as a weight of a path."""
        return abs(float(value)) ** self._power if isinstance(value, (int, float)) else value

    def _refuse_unknown(self, name: str, values: list[Any]) -> None:
        for tensor in tensors_in(values):
            if tensor.is_floating_point() and tensor.numel() and _storage(tensor) not in self._known:
                raise InputError(
                    f"its {name} takes a tensor of shape {tuple(tensor.shape)} that is neither parameter nor buffer, "
                    "so that its paths are not known; register it as a buffer"
                )

    def _is_constant(self, value: Any) -> bool:
        return isinstance(value, Tensor) and _storage(value) in self._constants

    def _averaged(self, result: Any, inputs: Tensor, function: Any, name: str, args: Any, kwargs: Any) -> Any:
        """A mean over n divided by n^(p - 1)."""
        if not self._averages or self._power == 1:
            return result
        if name.startswith("avg_pool"):  # which may divide by less at the border
            given = {a.name: value for a, value in zip(function._schema.arguments, args, strict=False)} | kwargs
            ones = torch.ones_like(inputs)
            means = function(*[ones if value is inputs else value for value in given.values()])
            if name == "avg_pool1d":
                counts = function(ones, *args[1:], **kwargs).fill_(_product(given["kernel_size"]))
            else:
                whole = dict(given) | {"self": ones, "divisor_override": 1}
                counts = function(**whole) / means
        elif name.startswith("_adaptive"):
            counts = torch.ones_like(result)
            for axis in range(2, inputs.ndim) if inputs.ndim == result.ndim else ():
                shape = [-1 if k == axis else 1 for k in range(result.ndim)]
                counts = counts * result.new_tensor(_windows(inputs.shape[axis], result.shape[axis])).reshape(shape)
        else:
            counts = torch.full_like(result, inputs.numel() / max(result.numel(), 1))
        return result / counts ** (self._power - 1)


def _windows(inputs: int, outputs: int) -> list[float]:
    """How many inputs each output of an adaptive average is of; neighbouring windows may overlap."""
    return [float(-(-(k + 1) * inputs // outputs) - k * inputs // outputs) for k in range(outputs)]


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage().data_ptr())


def _product(values: Iterable[int]) -> int:
    found = 1
    for value in values:
        found *= value
    return found


class Convolutions(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is on, notes what each convolution weight is used on: spatial extent, groups and dilation."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._names = {tensor.untyped_storage().data_ptr() + _offset(tensor): name for name, tensor in weights.items()}
        self.found: dict[str, tuple[tuple[int, ...], int, tuple[int, ...]]] = {}

    def __torch_dispatch__(
        self, function: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function.overloadpacket.__name__ == "convolution":
            weight = args[1]
            name = self._names.get(weight.untyped_storage().data_ptr() + _offset(weight))
            if name is not None and not args[6]:
                self.found.setdefault(name, (tuple(args[0].shape[2:]), int(args[8]), tuple(args[5])))
        return function(*args, **(kwargs or {}))


def _offset(tensor: Tensor) -> int:
    return int(tensor.storage_offset()) * tensor.element_size()


def path_sum(
    model: Callable[[], Any],
    constants: Iterable[Tensor],
    power: int,
    *,
    inputs: Iterable[Tensor] = (),
    averages: bool = True,
) -> float:
    """The sum of the outputs of `model()`, which runs at |w|^power on ones. Raises InputError for no sum over paths."""
    with Paths(constants, power, inputs=inputs, averages=averages), torch.no_grad():
        outputs = model()
    return sum(float(tensor.double().sum()) for tensor in tensors_in(outputs) if tensor.is_floating_point())


class LastProduct(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is on, notes the last product of a matrix of inputs with a weight."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._names = {
            tensor.untyped_storage().data_ptr() + _offset(tensor): (name, tensor)
            for name, tensor in weights.items()
            if tensor.ndim == 2
        }
        self._seen: tuple[Tensor, Tensor, Tensor] | None = None  # inputs, weight, outputs
        self.name = ""

    def __torch_dispatch__(
        self, function: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if function.overloadpacket.__name__ in ("addmm", "mm", "linear"):
            first = 1 if function.overloadpacket.__name__ == "addmm" else 0
            known = self._names.get(args[first + 1].untyped_storage().data_ptr() + _offset(args[first + 1]))
            if known is not None and args[first].ndim == 2:
                self.name = known[0]
                self._seen = args[first].detach(), known[1].detach(), result
        return result

    def last_layer(self, outputs: Any) -> tuple[Tensor, Tensor]:
        """(inputs (B, K), weight (C, K)) of the layer that gives the outputs (B, C). Raises InputError for none."""
        if self._seen is None or not isinstance(outputs, Tensor) or not torch.equal(self._seen[2], outputs):
            raise InputError("the outputs are not those of a linear layer with one row of inputs for each sample")
        return self._seen[0], self._seen[1]
