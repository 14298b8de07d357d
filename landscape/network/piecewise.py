"""Whether a network is piecewise linear layer by layer, from the operations it runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.utils._python_dispatch import TorchDispatchMode

from landscape.objective.trees import tensors_in


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Operations that are piecewise linear in all their real arguments together.
_LINEAR = _words(
    """
    abs add hardshrink hardsigmoid hardtanh leaky_relu neg relu rsub softshrink sub threshold
    amax amin clamp clamp_max clamp_min max maximum mean min minimum sort sum topk cumsum where
    _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d avg_pool2d avg_pool3d
    max_pool2d_with_indices max_pool3d_with_indices
    _reshape_alias _to_copy _unsafe_view alias as_strided cat clone contiguous copy detach diagonal expand fill flip
    lift_fresh masked_fill permute repeat roll select slice split split_with_sizes squeeze stack t transpose unbind
    unfold unsqueeze view zero
    constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d
    replication_pad3d channel_shuffle native_channel_shuffle pixel_shuffle pixel_unshuffle im2col col2im
    upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d upsample_trilinear3d
    embedding gather index index_add index_put index_select native_dropout scatter_add
    """
)
# Operations that are linear in each of their real arguments. An argument called bias, and the first one of
# `_SUMS_OF_PRODUCTS`, is added to a product of the others.
_PRODUCTS = _words("mul mm bmm mv dot linear convolution _prelu_kernel")
_SUMS_OF_PRODUCTS = _words("addmm baddbmm addbmm addmv")
_BATCH_NORMS = _words(
    "native_batch_norm cudnn_batch_norm miopen_batch_norm _native_batch_norm_legit "
    "_native_batch_norm_legit_no_training _batch_norm_no_update"
)
# Operations whose results do not depend on the values of their arguments.
_CONSTANT = _words(
    "bernoulli empty_like full_like new_empty new_empty_strided new_full new_ones new_zeros ones_like rand_like "
    "randn_like zeros_like"
)
_NOTHING: frozenset[str] = frozenset()


def piecewise_linear(model: nn.Module, call: Callable[[], object]) -> tuple[str, ...]:
    """Reasons why diag(H) = diag(G) does not follow from how `call()` computes the outputs; empty when it does.

    H = G + sum_k dL/dz_k d2z_k/dtheta2, and the second term has no diagonal (nor any block of a single tensor) where
    every output z_k is piecewise linear in each parameter tensor with the others held fixed (Botev et al. 2017,
    "Practical Gauss-Newton optimisation for deep learning"). That is decided from the operations that run, whichever
    module or function they come from: each value is known to depend on a set of parameters; piecewise linear
    operations unite these sets, a product needs disjoint ones (a weight used twice on a path meets itself there), and
    every other operation on a value that depends on parameters is a reason. Trainable parameters count.

    `call` runs `model` in the mode it is to be judged in, and returns the outputs the loss is a function of. The model
    is left as it was.
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with running_modules(model) as running, torch.enable_grad():
        judge = _Judge(parameters, running)
        with judge:
            outputs = list(tensors_in(call()))
        return judge.verdict(outputs)


@contextmanager
def running_modules(model: nn.Module) -> Iterator[list[str]]:
    """The names of the modules a forward pass is in, innermost last."""
    running: list[str] = []

    def enter(title: str, _module: nn.Module, _inputs: object) -> None:
        running.append(title)

    def leave(_module: nn.Module, _inputs: object, _output: object) -> None:
        running.pop()

    with ExitStack() as stack:
        for name, module in model.named_modules():
            title = f"{name!r} ({type(module).__name__})" if name else type(module).__name__
            stack.callback(module.register_forward_pre_hook(partial(enter, title)).remove)
            stack.callback(module.register_forward_hook(leave, always_call=True).remove)
        yield running


class _Judge(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows which parameters each value depends on, by the memory it lies in, so that views and writes are seen."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch loads its compiler, which takes seconds, only to tell it to stay away

    def __init__(self, parameters: Mapping[str, Tensor], running: Sequence[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._reasons: dict[str, None] = {}
        self._running = running
        self._parameters = {id(parameter): name for name, parameter in parameters.items()}
        self._regions: dict[int, dict[tuple[int, int], frozenset[str]]] = {}
        self._alive: list[object] = []  # storages: an address that was freed could be given to another value
        for name, parameter in parameters.items():
            self._mark(parameter, frozenset({name}))

    def __torch_dispatch__(
        self, function: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = {a.name: value for a, value in zip(function._schema.arguments, args, strict=False)} | (kwargs or {})
        sources = {name: self._depends(value) for name, value in given.items()}
        result = function(*args, **(kwargs or {}))
        united = _NOTHING.union(*sources.values())
        name = function.overloadpacket.__name__.removesuffix("_")
        known = function.namespace == "aten"
        reals = [t for t in tensors_in(result) if t.is_floating_point() or t.is_complex()]
        if united and (reals or isinstance(result, float)) and not (known and name in _CONSTANT):
            reason = self._objection(name, given, sources) if known else f"{function} is not a known operation"
            if reason:
                where = f" in {self._running[-1]}" if self._running else ""
                self._reasons[reason + where] = None
            for tensor in reals:
                self._mark(tensor, united)
        return result

    def _objection(self, name: str, given: Mapping[str, Any], sources: Mapping[str, frozenset[str]]) -> str:
        """Why a known operation is not piecewise linear in each parameter; empty when it is."""
        if name in _LINEAR:
            return ""
        if name == "div":
            bad = sources["other"] or given.get("rounding_mode")
            return "a division by a value that depends on parameters, or a rounded one," if bad else ""
        if name in _BATCH_NORMS:
            if given.get("training") or sources["running_mean"] or sources["running_var"]:
                return "normalisation by statistics that depend on parameters"
        elif name not in _PRODUCTS and name not in _SUMS_OF_PRODUCTS:
            return f"{name} is not known to be piecewise linear,"
        added = {"bias", "self"} if name in _SUMS_OF_PRODUCTS else {"bias"}
        met = Counter(parameter for argument in sources.keys() - added for parameter in sources[argument])
        twice = sorted(parameter for parameter, times in met.items() if times > 1)
        more = f" and {len(twice) - 1} more" if len(twice) > 1 else ""
        return f"{name} multiplies two values that both depend on {twice[0]}{more}," if twice else ""

    def _depends(self, tree: object) -> frozenset[str]:
        found = _NOTHING
        for tensor in tensors_in(tree):
            if tensor.is_floating_point() or tensor.is_complex():
                address, (start, stop) = _extent(tensor)
                regions = self._regions.get(address, {})
                found = found.union(*(names for (a, b), names in regions.items() if a < stop and start < b))
        return found

    def _mark(self, tensor: Tensor, names: frozenset[str]) -> None:
        address, extent = _extent(tensor)
        if address not in self._regions:
            self._alive.append(tensor.untyped_storage())
        regions = self._regions.setdefault(address, {})
        regions[extent] = regions.get(extent, _NOTHING) | names

    def verdict(self, outputs: Sequence[Tensor]) -> tuple[str, ...]:
        """All reasons, with those that the derivatives of the outputs reveal where operations were not seen."""
        reached = set()
        for node in graph_nodes(outputs, {}):
            if isinstance(node, torch.autograd.function.BackwardCFunction):
                self._reasons[f"{type(node).__name__.removesuffix('Backward')} has a derivative of its own"] = None
            reached.add(self._parameters.get(id(getattr(node, "variable", None))))
        for name in sorted(reached - {None} - self._depends(outputs), key=str):
            self._reasons[f"how the outputs depend on {name} could not be followed"] = None
        return tuple(self._reasons)


def _extent(tensor: Tensor) -> tuple[int, tuple[int, int]]:
    """(address of the storage, (first byte, end) of what the tensor covers of it)."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    start, length = int(tensor.storage_offset()), int(last) + 1 if tensor.numel() else 0
    address: int = tensor.untyped_storage()._cdata
    return address, (start * tensor.element_size(), (start + length) * tensor.element_size())


def graph_nodes(outputs: Iterable[Tensor], instead: Mapping[Node, Sequence[Node | None]]) -> set[Node]:
    """Nodes of the graph behind `outputs`; behind a node named in `instead`, the search goes on at those given."""
    waiting: list[Node | None] = [tensor.grad_fn for tensor in outputs]
    found: set[Node] = set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.add(node)
            waiting.extend(instead[node] if node in instead else (following for following, _ in node.next_functions))
    return found
