"""Normalisations: a factor and a shift of what is normalised."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from landscape.network.rules.layer import Layer, entries_of, norms

# the gradient of an output (B, ...) -> those of the weight and the bias of each sample
Pulled = Callable[[Tensor], tuple[Tensor, Tensor]]


class Normalisation(Layer):
    """gradient_i = sum_l g_il x_il, elementwise, of the weight and sum_l g_il of the bias; x the normalised input."""

    _pulled: list[Pulled]

    def refusal(self, inputs: Tensor | None = None) -> str:
        if inputs is None or not isinstance(self.module, _BatchNorm):
            return ""
        batch = self.module.training or self.module.running_mean is None
        return "it normalises by the statistics of the batch, which couples samples" if batch else ""

    def prepare(self) -> None:
        self._pulled = [self._pull(call.inputs) for call in self.calls]

    def _pull(self, inputs: Tensor) -> Pulled:
        m = self.module
        if inputs.device.type == "cpu" and inputs.ndim > 2 and isinstance(m, (_BatchNorm, nn.GroupNorm)):
            return _by_channel(m, inputs)
        if isinstance(m, _BatchNorm):
            normalise = partial(F.batch_norm, running_mean=m.running_mean, running_var=m.running_var, eps=m.eps)
        elif isinstance(m, nn.GroupNorm):
            normalise = partial(F.group_norm, num_groups=m.num_groups, eps=m.eps)
        else:
            function = F.rms_norm if isinstance(m, nn.RMSNorm) else F.layer_norm
            normalise = partial(function, normalized_shape=m.normalized_shape, eps=m.eps)
        normalised = normalise(inputs)
        return lambda g: (self._over_positions(g * normalised), self._over_positions(g))

    def _over_positions(self, values: Tensor) -> Tensor:
        """Sums (B, ...) over what shares a parameter: all but channels, or all but the last axes."""
        if not isinstance(self.module, (nn.LayerNorm, nn.RMSNorm)):
            return values.flatten(2).sum(2) if values.ndim > 2 else values
        positions = values.ndim - len(self.module.normalized_shape)
        return values.flatten(1, positions - 1).sum(1) if positions > 1 else values

    def squares(self, gradients: list[Tensor], slot: int, slots: int) -> dict[str, Tensor]:
        return {name: norms(found) for name, found in self._per_sample(gradients).items()}

    def entries(self, gradients: list[Tensor]) -> dict[str, Tensor]:
        return {name: entries_of(found) for name, found in self._per_sample(gradients).items()}

    def rows(self, gradients: list[Tensor], size: int) -> Iterator[tuple[str, slice, Tensor]]:
        for name, found in self._per_sample(gradients).items():
            yield name, slice(0, found[0].numel()), found.flatten(1).T

    def summed(self) -> tuple[str, ...]:
        return tuple(self.columns)

    def sums_and_squares(self, gradients: list[Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        found = self._per_sample(gradients)
        sums = {name: one.sum(0, dtype=torch.float64) for name, one in found.items()}
        return sums, {name: norms(one) for name, one in found.items()}

    def _per_sample(self, gradients: list[Tensor]) -> dict[str, Any]:
        """{parameter: its gradient of each sample, (B, ...)}."""
        found = zip(*(pulled(g) for pulled, g in zip(self._pulled, gradients, strict=True)), strict=True)
        both = dict(zip(("weight", "bias"), map(sum, found), strict=True))
        return {name: both[name] for name in self.columns}


def _by_channel(module: Any, inputs: Tensor) -> Pulled:
    """Of a BatchNorm or a GroupNorm on a CPU: torch's own pass over the memory, the samples as channels of one."""
    samples, channels = inputs.shape[:2]
    x = inputs.reshape(1, samples * channels, -1)
    if isinstance(module, _BatchNorm):
        statistics: Any = module.running_mean, module.running_var
        mean, variance = (one.repeat(samples) for one in statistics)
    else:
        both = torch.var_mean(x.reshape(samples * module.num_groups, -1), 1, correction=0)
        variance, mean = (one.repeat_interleave(channels // module.num_groups) for one in both)

    def pulled(gradient: Tensor) -> tuple[Tensor, Tensor]:
        _, weight, bias = torch.ops.aten.native_batch_norm_backward(
            gradient.reshape(x.shape), x, None, mean, variance, None, None, False, module.eps, (False, True, True)
        )
        return weight.view(samples, channels), bias.view(samples, channels)

    return pulled
