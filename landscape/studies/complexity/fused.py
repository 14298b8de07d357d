"""A network with BatchNorm fused into the layers before it, as a point of its own parameter space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from landscape.objective.objective import Objective


@dataclass(frozen=True)
class Fused:
    """Parameters and statistics at which the network is the same function and its fused BatchNorms pass values on.

    With s = gamma / sqrt(variance + eps) a layer has the weight s w, its BatchNorm the scale 1, the bias beta + s (b -
    mean), the mean 0 and the variance 1 - eps.
    """

    theta: Tensor  # (size,) float64
    buffers: Mapping[str, Tensor]
    free: Tensor  # (size,) bool: the parameters of the fused network; scales of 1, say, are none
    affine: tuple[str, ...]  # BatchNorms that are not fused

    def weights(self, objective: Objective) -> dict[str, Tensor]:
        """{name: parameter} of those that vary and have two axes or more, views."""
        blocks = objective.layout.blocks
        split = self.theta.split_with_sizes([block.size for block in blocks])
        return {
            block.name: part.reshape(block.shape)
            for block, part in zip(blocks, split, strict=True)
            if len(block.shape) > 1
        }


def fused(objective: Objective, theta: Tensor, buffers: Mapping[str, Tensor], *, all_free: bool = False) -> Fused:
    """The network at `theta` (size,) with `buffers` {name: value}, its BatchNorm fused where that is safe.

    Elsewhere, and where a tensor that changes is frozen, BatchNorm stays an affine layer of its own. With `all_free`
    the shift goes to the layer's bias where it has one, and all parameters are of the fused network, as Jiang et al.
    have it: BatchNorms that pass values on have noise on their scales of 1 and their biases of 0.
    """
    blocks = {block.name: block for block in objective.layout.blocks}
    point = theta.double().clone()
    free = torch.ones(point.shape, dtype=torch.bool, device=point.device)
    held = {name: value.double() if value.is_floating_point() else value for name, value in buffers.items()}

    def part(name: str) -> Tensor | None:
        return point[blocks[name].slice].reshape(blocks[name].shape) if name in blocks else None

    done: set[str] = set()
    for layer, norm, eps in objective.folded_pairs:
        weight, bias = part(f"{layer}.weight"), part(f"{layer}.bias")
        gamma, beta = part(f"{norm}.weight"), part(f"{norm}.bias")
        mean, variance = f"{norm}.running_mean", f"{norm}.running_var"
        frozen = any(f"{at}.{key}" in objective.frozen for at in (layer, norm) for key in ("weight", "bias"))
        if weight is None or frozen or mean not in held or variance not in held:
            continue
        scale = (held[variance] + eps).rsqrt() * (1.0 if gamma is None else gamma)
        shift = (-held[mean] if bias is None else bias - held[mean]) * scale + (0.0 if beta is None else beta)
        weight.mul_(scale.reshape(-1, *[1] * (weight.ndim - 1)))
        held[variance] = torch.full_like(scale, 1 - eps)
        held[mean] = torch.zeros_like(scale)
        if gamma is not None:
            gamma.fill_(1.0)
            free[blocks[f"{norm}.weight"].slice] = all_free
        if beta is not None and bias is not None:
            at, other = (bias, beta) if all_free else (beta, bias)
            at.copy_(shift)
            other.zero_()
            free[blocks[f"{layer}.bias"].slice] = all_free
        elif beta is not None:
            beta.copy_(shift)
        elif bias is not None:
            bias.copy_(shift)
        else:
            held[mean] = -shift
        done.add(norm)
    return Fused(point, held, free, tuple(n for n in objective.batchnorm_names if n not in done))


def initial_buffers(objective: Objective, buffers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Statistics of the initial network: those given, else mean 0 and variance 1, with which BatchNorm begins."""
    if buffers:
        return dict(buffers)
    found = objective.buffers
    for name in objective.batchnorm_names:
        for key, value in (("running_mean", 0.0), ("running_var", 1.0)):
            if f"{name}.{key}" in found:
                found[f"{name}.{key}"] = torch.full_like(found[f"{name}.{key}"], value)
    return found
