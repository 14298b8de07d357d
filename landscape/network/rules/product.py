"""Layers that multiply their inputs by a matrix: linear ones, and what all of them have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from landscape.network.rules.layer import BLOCK_BYTES, Call, Layer, entries_of, joined, norms, squares_by_places


class Product(Layer):
    """gradient_i = sum_l g_il a_il' for the weight (within each group of channels) and sum_l g_il for the bias.

    The weight waits for several seeds, which make larger products of matrices.
    """

    def __init__(self, title: str, module: Any) -> None:
        super().__init__(title, module)
        # By call, (B, groups, slots, M, L). Kept for the next chunk of data: fresh memory costs more than its use.
        self._held: dict[int, Tensor] = {}

    @abstractmethod
    def by_channel(self, values: Tensor) -> Tensor:
        """(B, groups, channels of a group, L) view of the layer's input or output."""

    def weight_shaped(self, entries: Tensor) -> Tensor:
        """Entries (..., groups, M, K) of the weight in its own shape."""
        return entries.reshape(*entries.shape[:-3], *self.module.weight.shape)

    def activations(self, inputs: Tensor, call: Call) -> Tensor:
        """(B, groups, K, L): what meets the gradient at each position."""
        return self.by_channel(inputs)

    def errors(self, gradient: Tensor, call: Call) -> Tensor:
        """(B, groups, M, L): the gradient at each position."""
        return self.by_channel(gradient)

    def _in_order(self, values: Tensor) -> Tensor:
        """Channels first, so that the entries of several calls stand for the same ones of the weight."""
        return values.contiguous() if len(self.calls) > 1 else values

    def squares(self, gradients: list[Tensor], slot: int, slots: int) -> dict[str, Tensor]:
        if "weight" in self.columns:
            for k, (call, gradient) in enumerate(zip(self.calls, gradients, strict=True)):
                errors = self.errors(self._in_order(gradient), call)
                self._room(k, errors, slots)[:, :, slot] = errors
        if "bias" not in self.columns:
            return {}
        return {"bias": norms(sum(self.by_channel(g).sum(-1) for g in gradients))}

    def _room(self, k: int, errors: Tensor, slots: int) -> Tensor:
        size, groups, rows, length = errors.shape
        shape = (size, groups, slots, rows, length)
        if k not in self._held or self._held[k].shape != shape or self._held[k].dtype != errors.dtype:
            self._held.pop(k, None)
            self._held[k] = (
                errors.new_empty(shape)
                if errors.stride(-1) == 1
                else errors.new_empty(size, length, groups, slots, rows).permute(0, 2, 3, 4, 1)
            )
        return self._held[k]

    def held_squares(self, slots: int) -> dict[str, Tensor]:
        if "weight" not in self.columns:
            return {}
        calls = [(call, self._held[k][:, :, :slots].flatten(2, 3)) for k, call in enumerate(self.calls)]
        bytes_each = sum(self.activations(call.inputs[:1], call).nbytes + errors[0].nbytes for call, errors in calls)
        size = max(1, BLOCK_BYTES[calls[0][1].device.type] // bytes_each)
        blocks = [slice(start, start + size) for start in range(0, len(calls[0][1]), size)]
        return {"weight": torch.cat([self._block_squares(calls, block) for block in blocks])}

    def _block_squares(self, calls: list[tuple[Call, Tensor]], block: slice) -> Tensor:
        """By the gradient itself, M K L products, or as sum_{l,l'} (g_l.g_l')(a_l.a_l'), L^2 (M + K): the cheaper."""
        a = joined([self.activations(self._in_order(call.inputs[block]), call) for call, _ in calls])
        g = joined([errors[block] for _, errors in calls])
        M, K, L = g.shape[2], a.shape[2], a.shape[3]
        if L * (M + K) < M * K:
            return squares_by_places(g, a)
        return norms(g @ a.transpose(2, 3))

    def positions(self, call: Call) -> int:
        """Of one call, the places L whose outer products add up to a sample's gradient."""
        return call.shape[1:-1].numel()

    def _forms_gradients(self) -> bool:
        return self._forms(sum(map(self.positions, self.calls)))

    def _forms(self, length: int) -> bool:
        """Whether sum and squares are cheaper of the gradients of samples, formed by M K L products.

        Else inner products of L places take L^2 (M + K), and the sum, where it is of use, M K L again.
        """
        weight = self.module.weight
        rows, columns = len(weight) // getattr(self.module, "groups", 1), weight[0].numel()
        return bool((1 if self.tied else 2) * length * (rows + columns) >= rows * columns)

    def summed(self) -> tuple[str, ...]:
        made = {"weight": self._forms_gradients(), "bias": True}
        return tuple(name for name in self.columns if made.get(name))

    def sums_and_squares(self, gradients: list[Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        sums, found_squares = dict[str, Tensor](), dict[str, Tensor]()
        if "bias" in self.columns:
            biases: Any = sum(self.by_channel(g).sum(-1) for g in gradients)
            sums["bias"], found_squares["bias"] = biases.sum(0, dtype=torch.float64).flatten(), norms(biases)
        if "weight" not in self.columns:
            return sums, found_squares
        pairs = list(zip(self.calls, gradients, strict=True))
        forms, squares, total = self._forms_gradients(), list[Tensor](), gradients[0].new_zeros(())
        for part in self.blocks(pairs, forms):
            if forms:
                found = self.formed(part)
                total = total + found.sum(0).double()
                squares.append(torch.linalg.vector_norm(found.flatten(2), dim=2).double().square().sum(1))
            else:
                a = joined([self.activations(self._in_order(call.inputs), call) for call, _ in part])
                g = joined([self.errors(self._in_order(gradient), call) for call, gradient in part])
                squares.append(squares_by_places(g, a))
        if forms:
            sums["weight"] = self.arranged(total)
        return sums, found_squares | {"weight": torch.cat(squares)}

    def blocks(self, pairs: Sequence[tuple[Call, Tensor]], forms: bool) -> Iterator[list[tuple[Call, Tensor]]]:
        """Calls and the gradients of their outputs, of as many samples at a time as memory should hold."""
        first = pairs[0][1]
        size = max(1, BLOCK_BYTES[first.device.type] // self.bytes_of(pairs, forms))
        for start in range(0, len(first), size):
            block = slice(start, start + size)
            yield [(replace(call, inputs=call.inputs[block]), gradient[block]) for call, gradient in pairs]

    def rows(self, gradients: list[Tensor], size: int) -> Iterator[tuple[str, slice, Tensor]]:
        if "bias" in self.columns:
            bias = torch.stack([self.by_channel(g).sum(-1) for g in gradients]).sum(0).flatten(1).T
            yield "bias", slice(0, len(bias)), bias
        if "weight" not in self.columns or self.factor_refusal():  # which is no matrix of outputs by inputs
            return
        # Channels first, as in `entries`: the order of the weight.
        a = joined([self.activations(call.inputs.contiguous(), call) for call in self.calls])[:, 0]  # (B, K, L)
        g = joined([self.errors(one, call) for one, call in zip(gradients, self.calls, strict=True)])[:, 0]
        samples, columns, length = a.shape
        step = max(1, size // (columns * samples))
        inputs, outputs = a[..., 0].T.contiguous(), g[..., 0].T.contiguous()
        for start in range(0, g.shape[1], step):
            part = slice(start, start + step)
            outer = length == 1
            found = outputs[part, None] * inputs if outer else (g[:, part] @ a.transpose(1, 2)).permute(1, 2, 0)
            yield "weight", slice(start * columns, (start + found.shape[0]) * columns), found.reshape(-1, samples)

    def bytes_of(self, pairs: Sequence[tuple[Call, Tensor]], forms: bool) -> int:
        """Memory that a sample takes, with its gradient where it `forms` that."""
        each = sum(self.activations(c.inputs[:1], c).nbytes + self.errors(g[:1], c).nbytes for c, g in pairs)
        return each + forms * int(self.module.weight.nbytes)

    def formed(self, pairs: Sequence[tuple[Call, Tensor]]) -> Tensor:
        """(B, ...): the gradient of each sample as it lies in memory, from calls and the gradients of their outputs."""
        a = joined([self.activations(call.inputs, call) for call, _ in pairs])
        g = joined([self.errors(gradient, call) for call, gradient in pairs])
        return g @ a.transpose(2, 3)

    def arranged(self, total: Tensor) -> Tensor:
        """A sum of what is `formed` (...) in the shape of the weight."""
        return self.weight_shaped(total)

    def entries(self, gradients: list[Tensor]) -> dict[str, Tensor]:
        result = {}
        if "weight" in self.columns:
            pairs = list(zip(self.calls, gradients, strict=True))
            each = sum(self.activations(c.inputs[:1], c).nbytes + self.errors(g[:1], c).nbytes for c, g in pairs)
            size = max(1, BLOCK_BYTES[gradients[0].device.type] // (each + self.module.weight.nbytes))
            total: Any = 0.0
            for start in range(0, len(gradients[0]), size):
                block = slice(start, start + size)
                # Channels first: of channels last the K values come in another order than those of the weight.
                a = joined([self.activations(call.inputs[block].contiguous(), call) for call, _ in pairs])
                g = joined([self.errors(gradient[block].contiguous(), call) for call, gradient in pairs])
                if a.shape[3] == 1:  # (g a')^2 of all samples in one product
                    total = total + (g[..., 0].square().permute(1, 2, 0) @ a[..., 0].square().transpose(0, 1)).double()
                else:
                    total = total + entries_of(g @ a.transpose(2, 3))
            result["weight"] = self.weight_shaped(total)
        if "bias" in self.columns:
            result["bias"] = entries_of(sum(self.by_channel(g).sum(-1) for g in gradients)).flatten()
        return result

    def factor_refusal(self) -> str:
        return ""

    def input_factor(self, places: str) -> tuple[Tensor, Tensor, int]:
        """(sum of a a', sum of the mean of a over places, places), see `Factors`."""
        each = sum(self.activations(call.inputs[:1], call).nbytes for call in self.calls)
        inputs = self.calls[0].inputs
        size = max(1, BLOCK_BYTES[inputs.device.type] // (2 * each))
        products: Any = 0.0
        means: Any = 0.0
        for start in range(0, len(inputs), size):
            block = slice(start, start + size)
            parts = [self.activations(call.inputs[block].contiguous(), call) for call in self.calls]
            a = joined(parts)[:, 0].double()  # (b, K, L)
            mean = a.mean(2)
            means = means + mean.sum(0)
            rows = mean if places == "reduce" else a.transpose(1, 2).flatten(0, 1)
            products = products + rows.T @ rows
        return products, means, a.shape[2]

    def output_zeros(self) -> Tensor:
        """(M, M) of zeros, what a loss without curvature in the outputs leaves."""
        weight: Tensor = self.module.weight
        return weight.new_zeros(len(weight), len(weight), dtype=torch.float64)

    def output_factor(self, gradients: list[Tensor], places: str) -> Tensor:
        """Sum of g g', see `Factors`, for one seed."""
        pairs = zip(self.calls, gradients, strict=True)
        g = joined([self.errors(gradient, call) for call, gradient in pairs])[:, 0].double()  # (B, M, L)
        rows = g.sum(2) if places == "reduce" else g.transpose(1, 2).flatten(0, 1)
        return rows.T @ rows / (1 if places == "reduce" else g.shape[2])


class Linear(Product):
    """y = W x + b at every position."""

    def by_channel(self, values: Tensor) -> Tensor:
        return values.reshape(len(values), 1, -1, values.shape[-1]).transpose(2, 3)


class Transposed(Linear):
    """y = x W + b: the weight is (K, M), as transformers' Conv1D has it."""

    def factor_refusal(self) -> str:
        return "its weight is stored as inputs by outputs"

    def weight_shaped(self, entries: Tensor) -> Tensor:
        return super().weight_shaped(entries.transpose(-2, -1))
