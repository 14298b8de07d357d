"""A convolution whose second derivatives cost what its first do.

Differentiated twice, torch's own convolution computes the weight part of a second derivative as a convolution with
kernels as large as the image. Here every part is one of the three convolutions that a training step uses.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Sizes = tuple[int, ...]
_Gradients = tuple[Tensor | None, ...]


def convolution(
    x: Tensor, weight: Tensor, bias: Tensor, stride: Sizes, padding: Sizes, dilation: Sizes, groups: int
) -> Tensor:
    """torch's convolution of 1, 2 or 3 axes (zero padding), differentiable twice and no more.

    `x` (B, C, ...), `weight` w (O, C / groups, ...), `bias` (O,). The backward pass takes g to gradients in x and w,
    both bilinear; the derivative of these along (a, v) is conv(a, w) + conv(x, v) in g, the x-gradient with v for w in
    x, and the w-gradient with a for x in w.
    """
    result: Tensor = _Forward.apply(x, weight, bias, (stride, padding, dilation, groups))  # type: ignore[no-untyped-call]
    return result


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, settings: Any) -> Tensor:
    stride, padding, dilation, groups = settings
    still = [0] * len(stride)
    result: Tensor = torch.ops.aten.convolution(x, weight, bias, stride, padding, dilation, False, still, groups)
    return result


def _gradients(g: Tensor, x: Tensor, weight: Tensor, settings: Any, wanted: list[bool]) -> _Gradients:
    """(gradient in x, in the weight, in the bias), None where not wanted."""
    stride, padding, dilation, groups = settings
    found: _Gradients = torch.ops.aten.convolution_backward(
        g, x, weight, [len(weight)], stride, padding, dilation, False, [0] * len(stride), groups, wanted
    )
    return tuple(part if want else None for part, want in zip(found, wanted, strict=True))


class _Forward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, settings: Any) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.settings = settings
        return _convolve(x, weight, bias, settings)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        x, weight = ctx.saved_tensors
        wanted = list(ctx.needs_input_grad[:3])
        found = _Backward.apply(grad_outputs[0], x, weight, ctx.settings, wanted)  # type: ignore[no-untyped-call]
        return (*found, None)


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, weight: Tensor, settings: Any, wanted: list[bool]) -> Any:
        ctx.save_for_backward(g, x, weight)
        ctx.settings = settings
        ctx.set_materialize_grads(False)
        return _gradients(g, x, weight, settings, wanted)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, along_x: Tensor | None, along_w: Tensor | None, along_b: Tensor | None) -> Any:
        g, x, weight = ctx.saved_tensors
        in_g: Tensor | None = None
        in_x: Tensor | None = None
        in_w: Tensor | None = None
        if along_x is not None:
            in_g = _convolve(along_x, weight, None, ctx.settings)
            if ctx.needs_input_grad[2]:
                in_w = _gradients(g, along_x, weight, ctx.settings, [False, True, False])[1]
        if along_w is not None or along_b is not None:
            v = torch.zeros_like(weight) if along_w is None else along_w
            part = _convolve(x, v, along_b, ctx.settings)
            in_g = part if in_g is None else in_g.add_(part)
            if along_w is not None and ctx.needs_input_grad[1]:
                in_x = _gradients(g, x, along_w, ctx.settings, [True, False, False])[0]
        return in_g, in_x, in_w, None, None
