"""A convolution and the frozen BatchNorm behind it, computed as one layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from landscape.network.rules.convolution import Convolution
from landscape.network.rules.layer import norms

NORM = "norm."  # before the names of the BatchNorm's parameters


class FoldedConvolution(Convolution):
    """z = s (W a + b - mean) + beta, s = gamma / sigma: gradients come from G_i = sum_l g_il a_il', g that of z.

    Those of W and b are s G_i and s sum_l g_il, that of beta sum_l g_il. That of gamma is sum_l g_il (W a_il + b -
    mean) / sigma, hence (<G_i, W> + (b - mean) sum_l g_il) / sigma, row by row. So the BatchNorm runs neither forward
    nor backward. Where forming G_i is not the cheaper way, both modules run as they are (`folds`).
    """

    def __init__(self, title: str, module: Any, norm: Any) -> None:
        super().__init__(title, module)
        self.norm = norm
        self.folds = False

    def forwards(self) -> dict[Any, Callable[[Tensor], Tensor]]:
        """{module: its forward pass}, for one pass of the model at the values that both hold now."""
        module, norm = self.module, self.norm
        self.folds = False

        def convolve(inputs: Tensor) -> Tensor:
            self.folds = self._can_fold(inputs)
            if not self.folds:
                return type(module).forward(module, inputs)  # type: ignore[no-any-return]
            with torch.no_grad():
                inverse, shift = self._affine()
                scale = inverse if norm.weight is None else inverse * norm.weight
                shift = shift * scale
                bias = shift if norm.bias is None else shift + norm.bias
                weight = module.weight * scale.reshape(-1, *[1] * (module.weight.ndim - 1))
            # Of a first layer nothing else would let the graph begin.
            bias.requires_grad_(not inputs.requires_grad)
            return module._conv_forward(inputs, weight, bias)  # type: ignore[no-any-return]

        def normalise(inputs: Tensor) -> Tensor:
            return inputs if self.folds else type(norm).forward(norm, inputs)

        return {module: convolve, norm: normalise}

    def _affine(self) -> tuple[Tensor, Tensor]:
        """(1 / sigma, b - mean) of each channel."""
        norm, bias = self.norm, self.module.bias
        return (norm.running_var + norm.eps).rsqrt(), -norm.running_mean if bias is None else bias - norm.running_mean

    def _can_fold(self, inputs: Tensor) -> bool:
        m = self.module
        if self.norm.training or self.norm.running_mean is None or inputs.device.type != "cpu":
            return False
        if inputs.ndim != m.weight.ndim:
            return False
        ends, axes = m._reversed_padding_repeated_twice[::-1], range(len(m.kernel_size))
        padded = [inputs.shape[2 + k] + ends[2 * k] + ends[2 * k + 1] for k in axes]
        places = ((padded[k] - m.dilation[k] * (m.kernel_size[k] - 1) - 1) // m.stride[k] + 1 for k in axes)
        return self._forms(math.prod(places))

    def summed(self) -> tuple[str, ...]:
        return tuple(self.columns) if self.folds else super().summed()

    def sums_and_squares(self, gradients: list[Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        if not self.folds:
            return super().sums_and_squares(gradients)
        ((call, gradient),) = zip(self.calls, gradients, strict=True)
        inverse, shift = self._affine()
        scale = inverse if self.norm.weight is None else inverse * self.norm.weight
        weight, channels = self.laid_out(self.module.weight.detach()), self.by_channel(gradient).sum(-1).flatten(1)
        last = 2 + self.rows_axis()  # from here on a row's own numbers lie together
        squares, products, total = [], [], gradient.new_zeros((), dtype=torch.float64)
        for part in self.blocks([(call, gradient)], True):
            found = self.formed(part)
            total = total + found.sum(0).double()
            squares.append(torch.linalg.vector_norm(found.flatten(last), dim=last).double().square())
            products.append((found * weight).flatten(last).sum(last))
        lengths, dots = (
            torch.cat(one).reshape(len(gradient), -1, len(self.module.weight)).sum(1) for one in (squares, products)
        )
        slopes = (dots + shift * channels) * inverse
        made = {
            "bias": channels * scale,
            NORM + "weight": slopes,
            NORM + "bias": channels,
        }
        made = {name: rows for name, rows in made.items() if name in self.columns}
        sums = {name: rows.sum(0, dtype=torch.float64) for name, rows in made.items()}
        found_squares = {name: norms(rows) for name, rows in made.items()}
        if "weight" in self.columns:
            sums["weight"] = self.arranged(total) * scale.reshape(-1, *[1] * (self.module.weight.ndim - 1))
            found_squares["weight"] = lengths @ scale.double().square()
        return sums, found_squares
