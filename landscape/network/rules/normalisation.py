"""Normalisations: a factor and a shift of what is normalised."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from landscape.network.rules.layer import Layer, entries_of, norms


class Normalisation(Layer):
    """gradient_i = sum_l g_il x_il, elementwise, of the weight and sum_l g_il of the bias; x the normalised input."""

    _factors: list[Tensor]

    def refusal(self, inputs: Tensor | None = None) -> str:
        if inputs is None or not isinstance(self.module, _BatchNorm):
            return ""
        batch = self.module.training or self.module.running_mean is None
        return "it normalises by the statistics of the batch, which couples samples" if batch else ""

    def prepare(self) -> None:
        m = self.module
        if isinstance(m, _BatchNorm):
            normalise = partial(F.batch_norm, running_mean=m.running_mean, running_var=m.running_var, eps=m.eps)
        elif isinstance(m, nn.GroupNorm):
            normalise = partial(F.group_norm, num_groups=m.num_groups, eps=m.eps)
        else:
            function = F.rms_norm if isinstance(m, nn.RMSNorm) else F.layer_norm
            normalise = partial(function, normalized_shape=m.normalized_shape, eps=m.eps)
        self._factors = [normalise(call.inputs) for call in self.calls]

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

    def _per_sample(self, gradients: list[Tensor]) -> dict[str, Any]:
        """{parameter: its gradient of each sample, (B, ...)}."""
        result = {}
        if "weight" in self.columns:
            products = (g * x for g, x in zip(gradients, self._factors, strict=True))
            result["weight"] = sum(map(self._over_positions, products))
        if "bias" in self.columns:
            result["bias"] = sum(map(self._over_positions, gradients))
        return result
