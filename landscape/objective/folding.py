"""Frozen BatchNorm folded into the convolution or Linear before it: one layer is computed in place of two."""

from __future__ import annotations

import itertools
import logging
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from landscape_kernels.convolution import convolution
from landscape_kernels.probes import normal_vector
from torch import Tensor, fx, nn
from torch.nn.modules import module as torch_module
from torch.nn.modules.batchnorm import _BatchNorm

from landscape.objective.model import BoundModel
from landscape.objective.trees import map_tensors, tensors_in

logger = logging.getLogger(__name__)

# These exact classes: what a subclass computes is its own affair.
_NORMS: dict[type[nn.Module], type[_BatchNorm]] = {
    nn.Linear: nn.BatchNorm1d,
    nn.Conv1d: nn.BatchNorm1d,
    nn.Conv2d: nn.BatchNorm2d,
    nn.Conv3d: nn.BatchNorm3d,
}

Forward = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Pair:
    """A convolution or Linear and the BatchNorm that alone reads its output."""

    layer: Any  # one of the classes in _NORMS
    norm: _BatchNorm

    def folded(self) -> tuple[Tensor, Tensor]:
        """(weight, bias) of the layer at the values that both hold now.

        With s = gamma / sqrt(variance + eps) the weight is s w and the bias beta + s (b - mean).
        """
        layer, norm = self.layer, self.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = (norm.running_var + norm.eps).rsqrt()
        if norm.affine:
            scale = scale * norm.weight
        shift = (-norm.running_mean if layer.bias is None else layer.bias - norm.running_mean) * scale
        if norm.affine:
            shift = shift + norm.bias
        return layer.weight * scale.reshape(-1, *[1] * (layer.weight.ndim - 1)), shift

    def forwards(self, weight: Tensor, shift: Tensor) -> tuple[Forward, Forward]:
        """What layer and norm compute with `folded` values: the norm passes on what it is given."""
        layer, norm = self.layer, self.norm

        # The norm's channels are axis 1. For inputs of other shapes (no batch axis, or a Linear along a third one) they
        # are no longer the layer's own, and both modules go on as they are.
        def layer_forward(input: Tensor) -> Tensor:
            if input.ndim != weight.ndim:
                return type(layer).forward(layer, input)  # type: ignore[no-any-return]
            if isinstance(layer, nn.Linear):
                return F.linear(input, weight, shift)
            if torch.is_grad_enabled() and layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
                return convolution(input, weight, shift, layer.stride, layer.padding, layer.dilation, layer.groups)
            return layer._conv_forward(input, weight, shift)  # type: ignore[no-any-return]

        def norm_forward(input: Tensor) -> Tensor:
            return input if input.ndim == weight.ndim else type(norm).forward(norm, input)

        return layer_forward, norm_forward


def folded(pairs: Sequence[Pair]) -> list[tuple[Tensor, Tensor]]:
    """`Pair.folded` of each; where no graph is wanted each step is one call for all, which on a GPU is one kernel."""
    norms: list[Any] = [pair.norm for pair in pairs]
    if torch.is_grad_enabled() or not all(norm.affine for norm in norms):
        return [pair.folded() for pair in pairs]
    scales = torch._foreach_rsqrt(torch._foreach_add([n.running_var for n in norms], [n.eps for n in norms]))
    scales = torch._foreach_mul(scales, [n.weight for n in norms])
    shifts = list(torch._foreach_neg([n.running_mean for n in norms]))
    biased = [k for k, pair in enumerate(pairs) if pair.layer.bias is not None]
    if biased:
        moved = torch._foreach_add([shifts[k] for k in biased], [pairs[k].layer.bias for k in biased])
        for k, shift in zip(biased, moved, strict=True):
            shifts[k] = shift
    shifts = list(torch._foreach_add(torch._foreach_mul(shifts, scales), [n.bias for n in norms]))
    weights = [pair.layer.weight for pair in pairs]
    by_row = [s.reshape(-1, *[1] * (w.ndim - 1)) for s, w in zip(scales, weights, strict=True)]
    return list(zip(torch._foreach_mul(weights, by_row), shifts, strict=True))


class Folding:
    """The pairs of a model that are computed as one layer each, and the model called so.

    Parameters and buffers are left alone: only the `forward` of the modules is exchanged, and only while the model is
    called, so that a loss that reads weights or calls submodules finds them as they are.
    """

    def __init__(self, model: nn.Module, pairs: Sequence[Pair] = ()) -> None:
        self.model = model
        self.pairs = tuple(pairs)

    def applied(self) -> Callable[..., Any]:
        """The model at the values it holds now as a function; the model itself where there is nothing to fold."""
        if not self.pairs or has_hooks(self.model):
            return self.model
        forwards: dict[nn.Module, Forward] = {}
        for pair, values in zip(self.pairs, folded(self.pairs), strict=True):
            forwards[pair.layer], forwards[pair.norm] = pair.forwards(*values)

        def call(*inputs: Any, **named: Any) -> Any:
            try:
                for module, forward in forwards.items():
                    vars(module)["forward"] = forward
                return self.model(*inputs, **named)
            finally:
                for module in forwards:
                    vars(module).pop("forward", None)

        return call


def has_hooks(model: nn.Module) -> bool:
    """Whether anybody looks at, or changes, what goes into a module or comes out of it."""
    everywhere = torch_module._global_forward_pre_hooks or torch_module._global_forward_hooks
    return bool(everywhere) or any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


def settled_folding(
    bound: BoundModel, call: Callable[[Callable[..., Any], Any], tuple[Any, Any]], batch: Any, gap: float
) -> Folding:
    """The folding of a model whose (outputs, targets) on a batch are `call(model, batch)`, with autograd off.

    It is used when the outputs agree up to a relative `gap` at the centre and at parameters and statistics far from it.
    """
    with bound.at(None) as model:
        folding = Folding(model, foldable_pairs(model, call, batch))
    for theta, buffers in ((None, None), _disturbed(bound)) if folding.pairs else ():
        with bound.at(theta, buffers) as model:
            plain, folded = (
                [t.detach() for t in tensors_in(call(m, batch)[0]) if t.is_floating_point() and t.numel()]
                for m in (model, folding.applied())
            )
        if not plain or not all(_agree(a, b, gap) for a, b in zip(plain, folded, strict=True)):
            logger.info("BatchNorm is not folded: the outputs are not finite, or not the same with it")
            return Folding(bound.model)
    return folding


def _agree(a: Tensor, b: Tensor, gap: float) -> bool:
    return bool(a.isfinite().all()) and bool((a - b).abs().max() <= gap * a.abs().max())


def _disturbed(bound: BoundModel) -> tuple[Tensor, dict[str, Tensor]]:
    """(theta (size,), BatchNorm statistics) far from the model's own, always the same.

    The statistics matter: those of a new BatchNorm make it all but the identity, which says nothing about who else
    reads what goes into it.
    """

    def noise(tensor: Tensor, *keys: str) -> Tensor:
        return normal_vector(tensor.numel(), 0, "disturbed", *keys).to(tensor).reshape(tensor.shape) / 4

    theta = bound.centre + (bound.centre.abs() + bound.centre.abs().mean()) * noise(bound.centre)
    buffers: dict[str, Tensor] = {}
    for name in bound.batchnorm_names:
        mean, variance = (bound.buffers.get(f"{name}.{key}") for key in ("running_mean", "running_var"))
        if mean is not None and variance is not None:  # tied ones go by their first name alone
            buffers[f"{name}.running_mean"] = mean + variance.sqrt() * noise(mean, name, "mean")
            buffers[f"{name}.running_var"] = variance * noise(variance, name, "variance").exp()
    return theta, buffers


def foldable_pairs(model: nn.Module, call: Callable[[Any, Any], Any], batch: Any) -> list[Pair]:
    """The pairs of `model`, which is in eval mode, that `call(model, batch)` allows to fold; none when in doubt.

    The graph of the forward pass must show that the layer's output goes to the BatchNorm and nowhere else, whatever
    the values (a forward pass that branches on them has no such graph); both are called once, as they are in torch,
    and nobody else holds the output when the pass is over.
    """
    if has_hooks(model) or not _may_have_pairs(model):
        return []
    try:
        with _attributes_kept(model):
            pairs = _pairs_in_graph(model, call, batch)
    except Exception as error:  # whatever a forward pass does with inputs that are no tensors
        logger.info("BatchNorm is not folded, since the forward pass cannot be traced: %s", error)
        return []
    held = _held_after(model, [pair.layer for pair in pairs], call, batch) if pairs else set()
    return [pair for pair in pairs if pair.layer not in held]


def _may_have_pairs(model: nn.Module) -> bool:
    kinds = {type(module) for module in model.modules()}
    return any(layer in kinds and norm in kinds for layer, norm in _NORMS.items())


def _is_plain(module: nn.Module) -> bool:
    """Whether calling the module runs the forward of its class and nothing more."""
    return "forward" not in vars(module) and module._compiled_call_impl is None


class _Root(nn.Module):
    """`call(model, batch)` as the module that a tracer starts from, the batch's tensors numbered in their order."""

    def __init__(self, model: nn.Module, call: Callable[[Any, Any], Any], batch: Any) -> None:
        super().__init__()
        self.model = model
        self._call, self._batch = call, batch

    def forward(self, leaves: Any) -> Any:
        number = itertools.count()
        return self._call(self.model, map_tensors(self._batch, lambda _: leaves[next(number)]))


def _pairs_in_graph(model: nn.Module, call: Callable[[Any, Any], Any], batch: Any) -> list[Pair]:
    root = _Root(model, call, batch)
    graph = fx.Tracer().trace(root)
    modules = {node: root.get_submodule(str(node.target)) for node in graph.nodes if node.op == "call_module"}
    calls = Counter(modules.values())
    # A forward pass that takes parameters out of their modules may also write to them.
    taken: list[object] = [
        reduce(getattr, str(node.target).split("."), root) for node in graph.nodes if node.op == "get_attr"
    ]
    pairs: list[Pair] = []
    for node, norm in modules.items():
        source = node.args[0] if len(node.args) == 1 and not node.kwargs else None
        if not isinstance(source, fx.Node) or source not in modules:
            continue
        layer = modules[source]
        own = [*layer.parameters(), *norm.parameters()]
        if (
            type(norm) is _NORMS.get(type(layer))
            and norm.num_features
            == layer.get_parameter("weight").shape[0]  # a Linear along another axis has channels of its own
            and len(source.users) == 1
            and calls[layer] == calls[norm] == 1
            and _is_plain(layer)
            and _is_plain(norm)
            and not any(tensor is parameter for tensor in taken for parameter in own)
        ):
            pairs.append(Pair(layer, norm))
    return pairs


def _held_after(
    model: nn.Module, layers: Sequence[nn.Module], call: Callable[[Any, Any], Any], batch: Any
) -> set[nn.Module]:
    """The layers whose output somebody still has when the forward pass is over: a loss may read it there."""
    outputs: list[tuple[nn.Module, weakref.ref[Tensor]]] = []

    def note(module: nn.Module, _inputs: object, output: Tensor) -> None:
        outputs.append((module, weakref.ref(output)))

    handles = [layer.register_forward_hook(note) for layer in layers]
    try:
        _returned = call(model, batch)  # alive below, so what it holds counts as held
        return {module for module, output in outputs if output() is not None}
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _attributes_kept(model: nn.Module) -> Iterator[None]:
    """What the forward pass notes on its modules is gone afterwards."""
    saved = [(vars(module), dict(vars(module))) for module in model.modules()]
    try:
        yield
    finally:
        for now, before in saved:
            for name in set(now) - set(before):
                del now[name]
            now.update(before)
