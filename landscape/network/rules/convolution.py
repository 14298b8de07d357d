"""Convolutions and transposed ones: products at every position of a kernel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from landscape.network.rules.layer import Call
from landscape.network.rules.product import Product


class Convolution(Product):
    """W times the values under the kernel at every position, within groups of channels."""

    def refusal(self, inputs: Tensor | None = None) -> str:
        axes = len(self.module.kernel_size) + 2
        return "" if inputs is None or inputs.ndim == axes else "its input has no axis of samples"

    def factor_refusal(self) -> str:
        return "" if self.module.groups == 1 else f"its {self.module.groups} groups of channels have a matrix each"

    def positions(self, call: Call) -> int:
        return call.shape[2:].numel()

    def by_channel(self, values: Tensor) -> Tensor:
        return values.unflatten(1, (self.module.groups, -1)).flatten(3)  # type: ignore[no-any-return,no-untyped-call]

    def activations(self, inputs: Tensor, call: Call) -> Tensor:
        return _patches(self.module, self._padded(inputs), call.shape[2:])

    def _padded(self, inputs: Tensor) -> Tensor:
        mode = "constant" if self.module.padding_mode == "zeros" else self.module.padding_mode
        padding = self.module._reversed_padding_repeated_twice
        return F.pad(inputs, padding, mode) if any(padding) else inputs

    def bytes_of(self, pairs: Sequence[tuple[Call, Tensor]], forms: bool) -> int:
        if not forms or pairs[0][1].device.type != "cpu":
            return super().bytes_of(pairs, forms)
        times = math.prod(self.module.kernel_size[1:]) if self._has_long_rows() else 1
        return sum(times * c.inputs[:1].nbytes + g[:1].nbytes for c, g in pairs) + int(self.module.weight.nbytes)

    def formed(self, pairs: Sequence[tuple[Call, Tensor]]) -> Tensor:
        if pairs[0][1].device.type != "cpu":
            return self._formed_by_patches(pairs)
        each = self._by_rows if self._has_long_rows() else self._by_groups
        found = [each(*pair) for pair in pairs]
        total: Tensor = sum(found[1:], found[0])
        return total

    def _formed_by_patches(self, pairs: Sequence[tuple[Call, Tensor]]) -> Tensor:
        """(B, groups, M, K) as products of what is under the kernel: of channels last K comes in another order."""
        return super().formed([(replace(c, inputs=c.inputs.contiguous()), g.contiguous()) for c, g in pairs])

    def arranged(self, total: Tensor) -> Tensor:
        if total.device.type != "cpu":
            return super().arranged(total)
        return total.movedim((0, -1), (2, 1)) if self._has_long_rows() else total

    def laid_out(self, weight: Tensor) -> Tensor:
        """The weight as what is `formed` lies in memory, on a CPU."""
        return weight.movedim((2, 1), (0, -1)) if self._has_long_rows() else weight

    def rows_axis(self) -> int:
        """The axis of the M rows in that."""
        return 1 if self._has_long_rows() else 0

    def _has_long_rows(self) -> bool:
        """Whether a row of the kernel meets more numbers than the kernel has rows: then a product for each is cheap."""
        m = self.module
        return bool(m.groups == 1 and m.weight[0].numel() >= m.kernel_size[0] ** 2)

    def _by_groups(self, call: Call, gradient: Tensor) -> Tensor:
        """As a convolution whose groups of channels are the samples, in a fifth of the time of unfolding."""
        m = self.module
        plain = m.padding_mode == "zeros" and not isinstance(m.padding, str)
        inputs, padding = (call.inputs, m.padding) if plain else (self._padded(call.inputs), [0] * len(m.stride))
        size, like = len(inputs), m.weight.detach()
        found: Tensor = torch.ops.aten.convolution_backward(
            gradient.reshape(1, -1, *gradient.shape[2:]),
            inputs.reshape(1, -1, *inputs.shape[2:]),
            like.new_empty(1).expand(size * len(like), *like.shape[1:]),
            None,
            *(m.stride, padding, m.dilation, False, [0], size * m.groups, (False, True, False)),
        )[1]
        return found.view(size, *like.shape)

    def _by_rows(self, call: Call, gradient: Tensor) -> Tensor:
        """(B, rows of the kernel, M, its other axes, K): one product for each row, with no copy of its own.

        Channels come last and the inputs are unfolded along all axes of space but the first, along which each row of
        the kernel meets one piece of memory.
        """
        m, padded = self.module, self._padded(call.inputs).movedim(1, -1).contiguous()
        (count, *kernel), (step, *steps), (gap, *gaps) = m.kernel_size, m.stride, m.dilation
        rows, *positions = call.shape[2:]
        if left := -padded.shape[1] % step:  # whole numbers of steps
            padded = F.pad(padded, [0, 0] * len(m.stride) + [0, left])
        samples, channels = len(padded), padded.shape[-1]
        sample, row, *space, _ = padded.stride()
        values = padded.as_strided(
            (samples, step, padded.shape[1] // step, *positions, *kernel, channels),
            (
                *(sample, row, row * step, *(a * b for a, b in zip(space, steps, strict=True))),
                *(*(a * b for a, b in zip(space, gaps, strict=True)), 1),
            ),
        ).reshape(samples, step, -1, math.prod(kernel) * channels)
        each, g = math.prod(positions), gradient.movedim(1, -1).reshape(samples, -1, gradient.shape[1]).transpose(1, 2)
        found = g.new_empty(count, samples, g.shape[1], values.shape[3])
        for k in range(count):
            first = k * gap // step * each
            torch.bmm(g, values[:, k * gap % step, first : first + rows * each], out=found[k])
        return found.view(*found.shape[:3], *kernel, channels).transpose(0, 1)


class TransposedConvolution(Convolution):
    """A convolution from the outputs to the inputs: the two change places."""

    def factor_refusal(self) -> str:
        return "a transposed convolution adds up several positions of its kernel in each output"

    def positions(self, call: Call) -> int:
        return call.inputs.shape[2:].numel()

    def weight_shaped(self, entries: Tensor) -> Tensor:
        return super().weight_shaped(entries.transpose(-2, -1))

    def bytes_of(self, pairs: Sequence[tuple[Call, Tensor]], forms: bool) -> int:
        return Product.bytes_of(self, pairs, forms)

    def formed(self, pairs: Sequence[tuple[Call, Tensor]]) -> Tensor:
        return self._formed_by_patches(pairs)

    def arranged(self, total: Tensor) -> Tensor:
        return Product.arranged(self, total)

    def activations(self, inputs: Tensor, call: Call) -> Tensor:
        return self.by_channel(inputs)

    def errors(self, gradient: Tensor, call: Call) -> Tensor:
        padding = [size for size in reversed(self.module.padding) for _ in range(2)]
        return _patches(self.module, F.pad(gradient, padding), call.inputs.shape[2:])


def _patches(module: Any, padded: Tensor, positions: Sequence[int]) -> Tensor:
    """(B, groups, K, L): for each of L positions of the kernel the K values under it."""
    size, channels = padded.shape[:2]
    n, length, each = len(positions), math.prod(positions), channels // module.groups
    batch, channel, *space = padded.stride()
    under = [s * d for s, d in zip(space, module.dilation, strict=True)]
    steps = [s * d for s, d in zip(space, module.stride, strict=True)]
    patches = padded.as_strided(
        (size, module.groups, each, *module.kernel_size, *positions),
        (batch, each * channel, channel, *under, *steps),
        padded.storage_offset(),
    )
    if channel != 1 or channels == 1:
        return patches.reshape(size, module.groups, -1, length)
    # Channels last: long runs of memory stay together when positions come first.
    positions_first = patches.permute(0, 1, *range(3 + n, 3 + 2 * n), *range(3, 3 + n), 2)
    return positions_first.reshape(size, module.groups, length, -1).transpose(2, 3)
