"""Squares of per-sample gradients by each kind of layer's rule, and factors of the loss' Hessian in the outputs."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.nn.modules.batchnorm import _BatchNorm

from landscape.errors import InputError, nearest
from landscape.network import recurrent
from landscape.network.piecewise import graph_nodes

_BLOCK_BYTES = {"cpu": 4 << 20, "cuda": 512 << 20}  # unfolded at a time; on a CPU it should stay in a core's cache
_HELD_BYTES = {"cpu": 512 << 20, "cuda": 8 << 30}  # gradients held until they are used together
PLACES = ("reduce", "expand")  # how the places of a layer that is used at several join in its factors


@dataclass(frozen=True)
class _Call:
    """One call of a layer in the forward pass."""

    inputs: Tensor  # (B, ...)
    version: int  # of the inputs: writing to them afterwards changes it
    before: Node | None  # where the graph goes on behind the layer
    edge: GradientEdge  # the layer's output, whatever is written to it afterwards
    shape: torch.Size


@dataclass(frozen=True)
class Factors:
    """What a weight's gradients g a' are made of, in sums over samples; see `GradientSquares.factors`."""

    outputs: Tensor  # (M, M) float64, sum of g g' over samples and seeds
    inputs: Tensor  # (K, K) float64, sum of a a' over samples
    mean_input: Tensor  # (K,) float64, sum over samples of the mean of a over places
    places: int  # positions of all calls


class _Layer(ABC):
    """Rule of one kind of module: squares of its parameters' per-sample gradients.

    A module that is called several times has the sum of its calls' gradients, each a sum over positions: the positions
    of all calls count together. `gradients` are those of the outputs (B, ...), one for each call.
    """

    parameters: ClassVar[tuple[str, ...]] = ("weight", "bias")

    def __init__(self, title: str, module: Any) -> None:
        self.title = title
        self.module = module
        self.columns: dict[str, int] = {}  # {name of a parameter in the module: its place in the result}
        self.calls: list[_Call] = []

    def refusal(self, inputs: Tensor | None = None) -> str:
        """Why the rule does not hold for this module (and `inputs`); empty when it does."""
        return ""

    def factor_refusal(self) -> str:
        """Why gradients of the weight are no sum of products g a' of one vector each; empty where they are."""
        return f"a {type(self.module).__name__} does not multiply its input by a matrix"

    def prepare(self) -> None:  # noqa: B027 (most need nothing)
        """Compute of the inputs what all seeds need."""

    @abstractmethod
    def squares(self, gradients: list[Tensor], slot: int, slots: int) -> dict[str, Tensor]:
        """{parameter: (B,)} for one seed; what is better done for several at once is held, in one of `slots` places."""

    def held_squares(self, slots: int) -> dict[str, Tensor]:
        """{parameter: (B,)} summed over the seeds in the first `slots` places."""
        return {}

    @abstractmethod
    def entries(self, gradients: list[Tensor]) -> dict[str, Tensor]:
        """{parameter: squares of its entries, summed over the samples, in its shape} for one seed."""

    def summed(self) -> tuple[str, ...]:
        """Parameters whose gradients' sum `sums_and_squares` makes on its way; that of others is autograd's."""
        return ()

    def sums_and_squares(self, gradients: list[Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """({parameter: sum of its gradients over the samples, in its shape}, {parameter: (B,)}) for one seed."""
        return {}, self.squares(gradients, 0, 1)

    def rows(self, gradients: list[Tensor], size: int) -> Iterator[tuple[str, slice, Tensor]]:
        """(parameter, which of its entries, their gradients (entries, B)), about `size` numbers at a time.

        Of the parameters that come; nothing of others.
        """
        yield from ()


class _Product(_Layer):
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

    def activations(self, inputs: Tensor, call: _Call) -> Tensor:
        """(B, groups, K, L): what meets the gradient at each position."""
        return self.by_channel(inputs)

    def errors(self, gradient: Tensor, call: _Call) -> Tensor:
        """(B, groups, M, L): the gradient at each position."""
        return self.by_channel(gradient)

    def squares(self, gradients: list[Tensor], slot: int, slots: int) -> dict[str, Tensor]:
        if "weight" in self.columns:
            for k, (call, gradient) in enumerate(zip(self.calls, gradients, strict=True)):
                errors = self.errors(gradient, call)
                self._room(k, errors, slots)[:, :, slot] = errors
        if "bias" not in self.columns:
            return {}
        return {"bias": _norms(sum(self.by_channel(g).sum(-1) for g in gradients))}

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
        size = max(1, _BLOCK_BYTES[calls[0][1].device.type] // bytes_each)
        blocks = [slice(start, start + size) for start in range(0, len(calls[0][1]), size)]
        return {"weight": torch.cat([self._block_squares(calls, block) for block in blocks])}

    def _block_squares(self, calls: list[tuple[_Call, Tensor]], block: slice) -> Tensor:
        """By the gradient itself, M K L products, or as sum_{l,l'} (g_l.g_l')(a_l.a_l'), L^2 (M + K): the cheaper."""
        a = _joined([self.activations(call.inputs[block], call) for call, _ in calls])
        g = _joined([errors[block] for _, errors in calls])
        M, K, L = g.shape[2], a.shape[2], a.shape[3]
        if L * (M + K) < M * K:
            return _inner(g.transpose(2, 3) @ g, a.transpose(2, 3) @ a)
        return _norms(g @ a.transpose(2, 3))

    def positions(self, call: _Call) -> int:
        """Of one call, the places L whose outer products add up to a sample's gradient."""
        return call.shape[1:-1].numel()

    def _forms_gradients(self) -> bool:
        """Whether the gradient of a sample, M K L products, is cheaper than inner products of places, L^2 (M + K)."""
        weight, length = self.module.weight, sum(map(self.positions, self.calls))
        rows, columns = len(weight) // getattr(self.module, "groups", 1), weight[0].numel()
        return bool(length * (rows + columns) >= rows * columns)

    def summed(self) -> tuple[str, ...]:
        return ("weight",) if "weight" in self.columns and self._forms_gradients() else ()

    def sums_and_squares(self, gradients: list[Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        bias = {"bias": _norms(sum(self.by_channel(g).sum(-1) for g in gradients))} if "bias" in self.columns else {}
        if "weight" not in self.columns:
            return {}, bias
        pairs = list(zip(self.calls, gradients, strict=True))
        forms, squares, total = self._forms_gradients(), list[Tensor](), gradients[0].new_zeros(())
        each = self.bytes_of(pairs, forms)
        size = max(1, _BLOCK_BYTES[gradients[0].device.type] // each)
        for start in range(0, len(gradients[0]), size):
            part = [(replace(c, inputs=c.inputs[start : start + size]), g[start : start + size]) for c, g in pairs]
            if forms:
                found = self.formed(part)
                total = total + found.sum(0).double()
                squares.append(torch.linalg.vector_norm(found.flatten(2), dim=2).double().square().sum(1))
            else:
                a = _joined([self.activations(call.inputs, call) for call, _ in part])
                g = _joined([self.errors(gradient, call) for call, gradient in part])
                squares.append(_inner(g.transpose(2, 3) @ g, a.transpose(2, 3) @ a))
        return {"weight": total} if forms else {}, {"weight": torch.cat(squares), **bias}

    def rows(self, gradients: list[Tensor], size: int) -> Iterator[tuple[str, slice, Tensor]]:
        if "bias" in self.columns:
            bias = torch.stack([self.by_channel(g).sum(-1) for g in gradients]).sum(0).flatten(1).T
            yield "bias", slice(0, len(bias)), bias
        if "weight" not in self.columns or self.factor_refusal():  # which is no matrix of outputs by inputs
            return
        a = _joined([self.activations(call.inputs, call) for call in self.calls])[:, 0]  # (B, K, L)
        g = _joined([self.errors(one, call) for one, call in zip(gradients, self.calls, strict=True)])[:, 0]
        samples, columns, length = a.shape
        step = max(1, size // (columns * samples))
        inputs, outputs = a[..., 0].T.contiguous(), g[..., 0].T.contiguous()
        for start in range(0, g.shape[1], step):
            part = slice(start, start + step)
            outer = length == 1
            found = outputs[part, None] * inputs if outer else (g[:, part] @ a.transpose(1, 2)).permute(1, 2, 0)
            yield "weight", slice(start * columns, (start + found.shape[0]) * columns), found.reshape(-1, samples)

    def bytes_of(self, pairs: Sequence[tuple[_Call, Tensor]], forms: bool) -> int:
        """Memory that a sample takes, with its gradient where it `forms` that."""
        each = sum(self.activations(c.inputs[:1], c).nbytes + self.errors(g[:1], c).nbytes for c, g in pairs)
        return each + forms * int(self.module.weight.nbytes)

    def formed(self, pairs: Sequence[tuple[_Call, Tensor]]) -> Tensor:
        """(B, *shape of the weight): the gradient of each sample, from calls and the gradients of their outputs."""
        a = _joined([self.activations(call.inputs, call) for call, _ in pairs])
        g = _joined([self.errors(gradient, call) for call, gradient in pairs])
        return self.weight_shaped(g @ a.transpose(2, 3))

    def entries(self, gradients: list[Tensor]) -> dict[str, Tensor]:
        result = {}
        if "weight" in self.columns:
            pairs = list(zip(self.calls, gradients, strict=True))
            each = sum(self.activations(c.inputs[:1], c).nbytes + self.errors(g[:1], c).nbytes for c, g in pairs)
            size = max(1, _BLOCK_BYTES[gradients[0].device.type] // (each + self.module.weight.nbytes))
            total: Any = 0.0
            for start in range(0, len(gradients[0]), size):
                block = slice(start, start + size)
                # Channels first: of channels last the K values come in another order than those of the weight.
                a = _joined([self.activations(call.inputs[block].contiguous(), call) for call, _ in pairs])
                g = _joined([self.errors(gradient[block].contiguous(), call) for call, gradient in pairs])
                if a.shape[3] == 1:  # (g a')^2 of all samples in one product
                    total = total + (g[..., 0].square().permute(1, 2, 0) @ a[..., 0].square().transpose(0, 1)).double()
                else:
                    total = total + _entries(g @ a.transpose(2, 3))
            result["weight"] = self.weight_shaped(total)
        if "bias" in self.columns:
            result["bias"] = _entries(sum(self.by_channel(g).sum(-1) for g in gradients)).flatten()
        return result

    def factor_refusal(self) -> str:
        return ""

    def input_factor(self, places: str) -> tuple[Tensor, Tensor, int]:
        """(sum of a a', sum of the mean of a over places, places), see `Factors`."""
        each = sum(self.activations(call.inputs[:1], call).nbytes for call in self.calls)
        inputs = self.calls[0].inputs
        size = max(1, _BLOCK_BYTES[inputs.device.type] // (2 * each))
        products: Any = 0.0
        means: Any = 0.0
        for start in range(0, len(inputs), size):
            block = slice(start, start + size)
            parts = [self.activations(call.inputs[block].contiguous(), call) for call in self.calls]
            a = _joined(parts)[:, 0].double()  # (b, K, L)
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
        g = _joined([self.errors(gradient, call) for call, gradient in pairs])[:, 0].double()  # (B, M, L)
        rows = g.sum(2) if places == "reduce" else g.transpose(1, 2).flatten(0, 1)
        return rows.T @ rows / (1 if places == "reduce" else g.shape[2])


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


def _inner(first: Tensor, second: Tensor) -> Tensor:
    """Inner products (B,) of two (B, ...), in float64."""
    return (first * second).flatten(1).sum(1, dtype=torch.float64)


def _norms(vectors: Any) -> Tensor:
    """Squared norms (B,) of vectors (B, ...)."""
    return _inner(vectors, vectors)


def _entries(vectors: Any) -> Tensor:
    """Squares of (B, ...) summed over the samples, in float64."""
    squares: Tensor = vectors.square().sum(0, dtype=torch.float64)
    return squares


class _Linear(_Product):
    def by_channel(self, values: Tensor) -> Tensor:
        return values.reshape(len(values), 1, -1, values.shape[-1]).transpose(2, 3)


class _Transposed(_Linear):
    """y = x W + b: the weight is (K, M), as transformers' Conv1D has it."""

    def factor_refusal(self) -> str:
        return "its weight is stored as inputs by outputs"

    def weight_shaped(self, entries: Tensor) -> Tensor:
        return super().weight_shaped(entries.transpose(-2, -1))


class _Convolution(_Product):
    def refusal(self, inputs: Tensor | None = None) -> str:
        axes = len(self.module.kernel_size) + 2
        return "" if inputs is None or inputs.ndim == axes else "its input has no axis of samples"

    def factor_refusal(self) -> str:
        return "" if self.module.groups == 1 else f"its {self.module.groups} groups of channels have a matrix each"

    def positions(self, call: _Call) -> int:
        return call.shape[2:].numel()

    def by_channel(self, values: Tensor) -> Tensor:
        return values.unflatten(1, (self.module.groups, -1)).flatten(3)  # type: ignore[no-any-return,no-untyped-call]

    def activations(self, inputs: Tensor, call: _Call) -> Tensor:
        return _patches(self.module, self._padded(inputs), call.shape[2:])

    def _padded(self, inputs: Tensor) -> Tensor:
        mode = "constant" if self.module.padding_mode == "zeros" else self.module.padding_mode
        padding = self.module._reversed_padding_repeated_twice
        return F.pad(inputs, padding, mode) if any(padding) else inputs

    def bytes_of(self, pairs: Sequence[tuple[_Call, Tensor]], forms: bool) -> int:
        if not forms or pairs[0][1].device.type != "cpu":
            return super().bytes_of(pairs, forms)
        return sum(c.inputs[:1].nbytes + g[:1].nbytes for c, g in pairs) + int(self.module.weight.nbytes)

    def formed(self, pairs: Sequence[tuple[_Call, Tensor]]) -> Tensor:
        if pairs[0][1].device.type != "cpu":
            return super().formed(pairs)
        # As a convolution whose groups of channels are the samples: torch's own takes a fifth of what unfolding does.
        m = self.module
        total: Tensor | None = None
        for call, gradient in pairs:
            plain = m.padding_mode == "zeros" and not isinstance(m.padding, str)
            inputs, padding = (call.inputs, m.padding) if plain else (self._padded(call.inputs), [0] * len(m.stride))
            size, like = len(inputs), m.weight.detach()
            found: Tensor = torch.ops.aten.convolution_backward(
                gradient.reshape(1, -1, *gradient.shape[2:]),
                inputs.reshape(1, -1, *inputs.shape[2:]),
                like.new_empty(1).expand(size * len(like), *like.shape[1:]),
                None,
                *(m.stride, padding, m.dilation, False, [0], size * m.groups, (False, True, False)),
            )[1].view(size, *like.shape)
            total = found if total is None else total + found
        assert total is not None
        return total


class _TransposedConvolution(_Convolution):
    """A convolution from the outputs to the inputs: the two change places."""

    def factor_refusal(self) -> str:
        return "a transposed convolution adds up several positions of its kernel in each output"

    def positions(self, call: _Call) -> int:
        return call.inputs.shape[2:].numel()

    def weight_shaped(self, entries: Tensor) -> Tensor:
        return super().weight_shaped(entries.transpose(-2, -1))

    def bytes_of(self, pairs: Sequence[tuple[_Call, Tensor]], forms: bool) -> int:
        return _Product.bytes_of(self, pairs, forms)

    def formed(self, pairs: Sequence[tuple[_Call, Tensor]]) -> Tensor:
        return _Product.formed(self, pairs)

    def activations(self, inputs: Tensor, call: _Call) -> Tensor:
        return self.by_channel(inputs)

    def errors(self, gradient: Tensor, call: _Call) -> Tensor:
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


class _Normalisation(_Layer):
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
        return {name: _norms(found) for name, found in self._per_sample(gradients).items()}

    def entries(self, gradients: list[Tensor]) -> dict[str, Tensor]:
        return {name: _entries(found) for name, found in self._per_sample(gradients).items()}

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


class _Embedding(_Layer):
    """gradient_i of row v = sum of g_il over the positions l where v stands; none for `padding_idx`."""

    parameters = ("weight",)
    _rows: Tensor  # (B, L) of the table
    _place: Tensor  # (B L,) of each position's gradient among the sums
    _counts: Tensor  # (B, L, 1) whether it counts

    def refusal(self, inputs: Tensor | None = None) -> str:
        coupled = self.module.max_norm is not None or self.module.scale_grad_by_freq
        return "max_norm and scale_grad_by_freq couple its rows" if coupled else ""

    def prepare(self) -> None:
        self._rows = rows = torch.cat([call.inputs.flatten(1) for call in self.calls], 1)
        # A row of the table is numbered by the first position of the sample that holds it: so no buffer of the size of
        # the whole table is needed.
        first = (rows[:, :, None] == rows[:, None, :]).to(torch.uint8).argmax(2)
        starts = torch.arange(len(rows), device=rows.device)[:, None] * rows.shape[1]
        self._place = (first + starts).flatten()
        padding = self.module.padding_idx
        self._counts = torch.ones_like(rows)[:, :, None] if padding is None else (rows != padding)[:, :, None]

    def squares(self, gradients: list[Tensor], slot: int, slots: int) -> dict[str, Tensor]:
        return {"weight": _norms(self._by_row(gradients))}

    def entries(self, gradients: list[Tensor]) -> dict[str, Tensor]:
        squares = self._by_row(gradients).double().square().flatten(0, 1)
        table = squares.new_zeros(self.module.weight.shape)
        return {"weight": table.index_add_(0, self._rows.flatten(), squares)}

    @property
    def positions(self) -> Tensor:
        """(B, L) the row of the table that stands at each position."""
        return self._rows

    def by_position(self, gradients: list[Tensor]) -> Tensor:
        """(B, L, width): the gradient at each position, 0 for padding."""
        return torch.cat([g.reshape(len(g), -1, g.shape[-1]) for g in gradients], 1) * self._counts

    def _by_row(self, gradients: list[Tensor]) -> Tensor:
        """(B, L, width): each sample's gradient of a row at the first position where it stands, 0 elsewhere."""
        by_position = self.by_position(gradients)
        sums = torch.zeros_like(by_position).flatten(0, 1).index_add_(0, self._place, by_position.flatten(0, 1))
        return sums.view_as(by_position)


_RULES: dict[type[nn.Module], type[_Layer]] = {
    nn.Linear: _Linear,
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _Convolution),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), _TransposedConvolution),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _Normalisation),
    **dict.fromkeys((nn.GroupNorm, nn.LayerNorm, nn.RMSNorm), _Normalisation),
    nn.Embedding: _Embedding,
}


def _rule(module: nn.Module) -> type[_Layer] | None:
    """The rule of a module whose forward pass is that of a known type."""
    own = {"forward", "_conv_forward", "__call__"}
    if own & set(vars(module)):
        return None
    for kind in type(module).__mro__:
        if kind.__name__ == "Conv1D" and kind.__module__.startswith("transformers."):
            return _Transposed
        if kind in _RULES or own & set(vars(kind)):
            return _RULES.get(kind)
    return None


class GradientSquares:
    """sum_s |gradient in p of <seed_s(i), outputs(i)>|^2 of every sample i and named parameter tensor p.

    With seeds that factor the Hessian of the loss in the outputs, sum_s seed_s seed_s' = H_L(i), the mean over samples
    is the trace of p's block of the Gauss-Newton matrix. One forward pass keeps the inputs of the layers; each seed is
    one backward pass to their outputs, and norms come from the two by the rule of each layer, without the gradients of
    single samples (Goodfellow 2015, "Efficient per-example gradient computations"; Rochette et al. 2019 for
    convolutions).

        squares = GradientSquares(model, names)
        with squares.recording():
            outputs = model(inputs)                        # (B, ...), samples first in every layer
        squares.of(outputs, softmax_seeds(outputs))        # (B, len(names))

    `entries` has the squares of single entries, summed over the samples: the diagonal of the same matrix.
    Raises InputError for a name that is no trainable parameter.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        for name in names:
            if name not in parameters:
                raise InputError(f"no trainable parameter is called {name!r}; {nearest(name, parameters)}")
        self.names = tuple(names)
        self._shapes = [parameters[name].shape for name in names]
        self._tensors = [parameters[name] for name in names]
        self._parameters = {id(parameters[name]): name for name in names}
        self._layers: list[_Layer] = []
        self._samples_seen_apart = False
        self._samples: int | None = None
        self._reasons: dict[str, None] = {}
        self._elsewhere: dict[str, None] = {}  # reasons that hold but for `sums_and_squares`
        uses: dict[str, list[str]] = {}
        self._recurrent: list[tuple[Any, dict[str, _Layer]]] = []
        self._tied: dict[int, list[_Layer]] = {}  # number of a name -> the layers that share it
        for path, module in model.named_modules():
            if isinstance(module, nn.RNNBase) and type(module) in (nn.RNN, nn.GRU, nn.LSTM):
                self._add_recurrent(path, module, uses)
                continue
            kind = _rule(module)
            layer = kind(path or type(module).__name__, module) if kind else None
            for local, parameter in module._parameters.items():
                if id(parameter) not in self._parameters:
                    continue
                name = self._parameters[id(parameter)]
                uses.setdefault(name, []).append(f"{path}.{local}")
                self._refuse(f"{name} is complex" if parameter is not None and parameter.is_complex() else "")
                if layer is None or local not in layer.parameters:
                    self._refuse(f"{name} belongs to a {type(module).__name__}, which has no rule for it")
                else:
                    layer.columns[local] = self.names.index(name)
            if layer and layer.columns:
                self._layers.append(layer)
                self._refuse(layer.refusal(), layer)
        for name, paths in uses.items():
            if len(paths) > 1:
                self._tied[self.names.index(name)] = [
                    layer for layer in self._layers if self.names.index(name) in layer.columns.values()
                ]
                reason = f"{' and '.join(paths)} are tied"
                kinds = sorted(type(layer).__name__ for layer in self._tied[self.names.index(name)])
                if kinds == ["_Embedding", "_Linear"]:
                    self._elsewhere[reason] = None
                else:
                    self._refuse(reason)

    def _add_recurrent(self, path: str, module: Any, uses: dict[str, list[str]]) -> None:
        """A recurrent layer as the linear ones that it is made of, a product of its inputs or of its states each."""
        parts: dict[str, _Layer] = {}
        for product in recurrent.products_of(module):
            names = {kind: f"{kind}_{product}" for kind in ("weight", "bias")}
            tensors = {kind: getattr(module, name, None) for kind, name in names.items()}
            layer = _Linear(f"{path}.{product}", SimpleNamespace(**tensors))
            for kind, tensor in tensors.items():
                if tensor is not None and id(tensor) in self._parameters:
                    name = self._parameters[id(tensor)]
                    uses.setdefault(name, []).append(f"{path}.{names[kind]}")
                    layer.columns[kind] = self.names.index(name)
            parts[product] = layer
        if any(layer.columns for layer in parts.values()):
            self._recurrent.append((module, parts))
            self._layers += parts.values()
            first = next(self.names[k] for layer in parts.values() for k in layer.columns.values())
            self._elsewhere[f"{first} belongs to a {type(module).__name__}, which has no rule for it"] = None
            self._refuse(f"{path}: {why}" if (why := recurrent.refusal(module)) else "")

    @property
    def unsupported(self) -> tuple[str, ...]:
        """Reasons known so far, from the modules and from what was recorded; with any, `of` raises InputError."""
        return (*self._elsewhere, *self._reasons)

    def _refuse(self, reason: str, layer: _Layer | None = None) -> None:
        if reason:
            self._reasons[f"{layer.title}: {reason}" if layer else reason] = None

    @contextmanager
    def recording(self, samples: int | None = None) -> Iterator[None]:
        """Keep the layers' inputs of the forward pass inside, in place of those kept before.

        With `samples` an Embedding of the positions that all samples share, (1, L), is one of each sample.
        """
        self._samples = samples
        with ExitStack() as stack:
            for layer in self._layers:
                layer.calls.clear()
                # Before hooks of the user's, which may return another output.
                record = partial(self._record, layer)
                if isinstance(layer.module, nn.Module):
                    stack.callback(layer.module.register_forward_hook(record, prepend=True, with_kwargs=True).remove)
            for module, parts in self._recurrent:
                module.forward = partial(recurrent.unrolled, module, partial(self._record_product, parts))
                stack.callback(vars(module).pop, "forward")
            stack.enter_context(torch.enable_grad())
            yield

    def _record(self, layer: _Layer, _module: nn.Module, args: Any, kwargs: dict[str, Any], output: Tensor) -> Tensor:
        inputs: Tensor = args[0] if args else kwargs["input"]
        if self._samples is not None and isinstance(layer, _Embedding) and inputs.ndim == 2 and len(inputs) == 1:
            inputs, output = inputs.expand(self._samples, -1), output.expand(self._samples, -1, -1)
        self._refuse(layer.refusal(inputs), layer)
        if not output.requires_grad:
            self._refuse("it runs without derivatives (no_grad, reentrant checkpoints)", layer)
            return output
        if output._is_view():
            output = output.clone()  # writing to a view replaces its place in the graph
        before = get_gradient_edge(inputs).node if inputs.requires_grad else None
        edge = get_gradient_edge(output)
        layer.calls.append(_Call(inputs.detach(), inputs._version, before, edge, output.shape))
        return output

    def _record_product(self, parts: Mapping[str, _Layer], name: str, inputs: Tensor, output: Tensor) -> Tensor:
        layer = parts[name]
        return self._record(layer, layer.module, (inputs,), {}, output) if output.requires_grad else output

    def of(self, outputs: Tensor, seeds: Tensor) -> Tensor:
        """(B, len(names)) in float64, from the recorded outputs (B, ...) and seeds (S, B, ...).

        Raises InputError when `unsupported` names any reason.
        """
        self._check(outputs)
        total = torch.zeros((len(outputs), len(self.names)), dtype=torch.float64, device=outputs.device)
        layers = [layer for layer in self._layers if layer.calls]
        values = sum(call.shape.numel() for layer in layers for call in layer.calls if isinstance(layer, _Product))
        slots = max(1, min(len(seeds), _HELD_BYTES[outputs.device.type] // (outputs.element_size() * max(1, values))))

        def add(layer: _Layer, squares: Mapping[str, Tensor]) -> None:
            for local, values in squares.items():
                total[:, layer.columns[local]] += values

        with torch.no_grad():
            for layer in layers:
                layer.prepare()
            for group in seeds.split(slots) if layers and len(seeds) else ():  # type: ignore[no-untyped-call]
                for slot, seed in enumerate(group):
                    for layer, gradients in self._gradients(outputs, seed):
                        add(layer, layer.squares(gradients, slot, slots))
                for layer in layers:
                    add(layer, layer.held_squares(len(group)))
        return total

    def sums_and_squares(self, values: Tensor, samples: int) -> tuple[list[Tensor], Tensor]:
        """(sum_i g_i for each name in its shape, |g_i|^2 (samples, len(names)) in float64), g_i that of sample i.

        `values` (n,) are losses made of what was recorded, of n/samples parts of each sample in their order, and g_i is
        the gradient of sample i's sum. One backward pass, which frees the graph. Raises InputError as `of` does.
        """
        self._check(values, samples, but=self._elsewhere)
        total = torch.zeros((samples, len(self.names)), dtype=torch.float64, device=values.device)
        sums: list[Tensor | None] = [None] * len(self.names)
        layers = [layer for layer in self._layers if layer.calls]
        with torch.no_grad():
            for layer in layers:
                layer.prepare()
            made = {layer.columns[local] for layer in layers for local in layer.summed()} - set(self._tied)
            left = [k for k in range(len(self.names)) if k not in made]
            edges: list[Any] = [call.edge for layer in layers for call in layer.calls]
            roots = [*edges, *(self._tensors[k] for k in left)]
            found = torch.autograd.grad([values], roots, [torch.ones_like(values)], allow_unused=True)
            for k, gradient in zip(left, found[len(edges) :], strict=True):
                sums[k] = gradient
            kept: dict[int, list[Tensor]] = {}
            for layer, gradients in self._filled(found[: len(edges)], values):
                own, squares = layer.sums_and_squares(gradients)
                kept[id(layer)] = gradients
                for local, one in own.items():
                    if layer.columns[local] in made:
                        sums[layer.columns[local]] = one
                for local, one in squares.items():
                    total[:, layer.columns[local]] += one
            for number, pair in self._tied.items():
                if all(layer.calls for layer in pair):
                    total[:, number] += 2 * _cross(pair, [kept[id(layer)] for layer in pair])
        zeros = zip(sums, self._tensors, strict=True)
        return [torch.zeros_like(p) if one is None else one for one, p in zeros], total

    def rows(self, values: Tensor, size: int) -> Iterator[tuple[int, slice, Tensor]]:
        """(number of the name, which of its entries, their gradients (entries, B)) of losses `values` (B,), in blocks.

        A block has about `size` numbers, and a row of a matrix at least. Where no rule gives the gradients of single
        samples they are taken one sample after another, a backward pass each, and a block is a whole tensor at least.
        """
        left = set(range(len(self.names)))
        if self._holds(values):
            for layer in self._layers:
                if layer.calls:
                    layer.prepare()
            for layer, gradients in self._gradients(values, torch.ones_like(values)):
                for local, part, found in layer.rows(gradients, size):
                    left.discard(layer.columns[local])
                    yield layer.columns[local], part, found
        groups: list[list[int]] = [[]]
        for k in sorted(left):
            if groups[-1] and sum(self._tensors[j].numel() for j in (*groups[-1], k)) * len(values) > size:
                groups.append([])
            groups[-1].append(k)
        for group in groups:
            tensors = [self._tensors[k] for k in group]
            rows = [one.new_empty(one.numel(), len(values)) for one in tensors]
            for i, value in enumerate(values if group else ()):
                found_one = torch.autograd.grad(value, tensors, retain_graph=True, allow_unused=True)
                for row, one in zip(rows, found_one, strict=True):
                    row[:, i] = 0.0 if one is None else one.to_dense().flatten()
            for k, row in zip(group, rows, strict=True):
                yield k, slice(0, len(row)), row

    def _holds(self, values: Tensor) -> bool:
        try:
            self._check(values)
        except InputError:
            return False
        return True

    def entries(self, outputs: Tensor, seeds: Tensor) -> list[Tensor]:
        """sum_i sum_s (gradient in p of <seed_s(i), outputs(i)>)^2 entry by entry, for each name in the shape of p.

        In float64, from the recorded outputs (B, ...) and seeds (S, B, ...). Raises InputError as `of` does.
        """
        self._check(outputs)
        total = [torch.zeros(shape, dtype=torch.float64, device=outputs.device) for shape in self._shapes]
        layers = [layer for layer in self._layers if layer.calls]
        with torch.no_grad():
            for layer in layers:
                layer.prepare()
            for seed in seeds if layers else ():
                for layer, gradients in self._gradients(outputs, seed):
                    for local, squares in layer.entries(gradients).items():
                        total[layer.columns[local]] += squares
        return total

    def factors(self, outputs: Tensor, seeds: Tensor, places: str) -> dict[str, Factors]:
        """{name: the factors of the weight's gradients}, from the recorded outputs (B, ...) and seeds (S, B, ...).

        The gradient of <seed_s(i), outputs(i)> in a weight (M, K) is sum_l g_sil a_il', a_il the layer's input (of a
        convolution the K values under its kernel) at place l and g_sil the gradient in its output there. With one place
        the factors are sum_is g_si g_si' and sum_i a_i a_i'. Of L places "reduce" takes g_si = sum_l g_sil and a_i =
        mean_l a_il, exact where all a_il are alike; "expand" takes sum_isl g_sil g_sil' / L and sum_il a_il a_il', as
        if places did not meet (KFAC-reduce and -expand, Eschenhagen et al. 2023, arXiv 2311.00636; the latter is KFC of
        Grosse & Martens 2016, arXiv 1602.01407). Raises InputError as `of` does, and where `factor_reasons` has any.
        """
        if reasons := self.factor_reasons:
            raise InputError(f"weights without factors: {'; '.join(reasons)}")
        self._check(outputs)
        layers = [layer for layer in self._layers if layer.calls and isinstance(layer, _Product)]
        with torch.no_grad():
            inputs = {id(layer): layer.input_factor(places) for layer in layers}
            total = {id(layer): layer.output_zeros() for layer in layers}
            for seed in seeds if layers else ():
                for layer, gradients in self._gradients(outputs, seed):
                    assert isinstance(layer, _Product)
                    total[id(layer)] += layer.output_factor(gradients, places)
        return {self.names[layer.columns["weight"]]: Factors(total[id(layer)], *inputs[id(layer)]) for layer in layers}

    @property
    def factor_reasons(self) -> tuple[str, ...]:
        """Why `factors` cannot be had of these names, as far as the modules tell."""
        found = dict.fromkeys(
            f"{layer.title}: {reason}" for layer in self._layers if (reason := layer.factor_refusal())
        )
        known = {number for layer in self._layers for local, number in layer.columns.items() if local == "weight"}
        return (*found, *(f"{name} is no weight of a layer" for k, name in enumerate(self.names) if k not in known))

    def _gradients(self, outputs: Tensor, seed: Tensor) -> Iterator[tuple[_Layer, list[Tensor]]]:
        """(layer, gradients of <seed, outputs> in the outputs of its calls) of every layer that was called."""
        edges = [call.edge for layer in self._layers for call in layer.calls]
        found = torch.autograd.grad([outputs], edges, [seed.to(outputs)], retain_graph=True, allow_unused=True)
        yield from self._filled(found, outputs)

    def _filled(self, found: Sequence[Tensor | None], like: Tensor) -> Iterator[tuple[_Layer, list[Tensor]]]:
        """(layer, gradients of its calls) of every layer that was called, zeros where a call does not matter."""
        calls = [call for layer in self._layers for call in layer.calls]
        filled = iter([like.new_zeros(c.shape) if g is None else g for c, g in zip(calls, found, strict=True)])
        for layer in self._layers:
            if layer.calls:
                yield layer, [next(filled) for _ in layer.calls]

    def _check(self, outputs: Tensor, samples: int | None = None, but: Mapping[str, None] | None = None) -> None:
        """Raise InputError unless every rule holds for what was recorded, of so many samples (the outputs).

        Reasons `but` do not count.
        """
        samples = len(outputs) if samples is None else samples
        calls = [(layer, call) for layer in self._layers for call in layer.calls]
        for node in graph_nodes([outputs], {call.edge.node: [call.before] for _, call in calls}):
            leaf = self._parameters.get(id(getattr(node, "variable", None)))
            self._refuse(f"{leaf} is used outside the module it belongs to" if leaf else "")
        for layer, call in calls:
            if call.inputs._version != call.version:
                self._refuse("its input is written to after it has run", layer)
            if not call.inputs.ndim or not len(call.inputs) == call.shape[0] == samples:
                shape = tuple(call.inputs.shape)
                self._refuse(f"the first axis of its input {shape} does not run over {samples} samples", layer)
        if calls and not self._reasons and not self._samples_seen_apart and samples > 1:
            half = samples // 2
            seed = torch.ones_like(outputs)
            seed[half * len(outputs) // samples :] = 0
            for layer, gradients in self._gradients(outputs, seed):
                if any(bool((gradient[half:].abs() > 0).any()) for gradient in gradients):
                    self._refuse("samples meet behind it, or are not the first axis of its input", layer)
            self._samples_seen_apart = True
        if reasons := [reason for reason in self.unsupported if reason not in (but or ())]:
            raise InputError(
                f"per-sample gradients cannot be had layer by layer: {'; '.join(reasons)}. Use a route that "
                "needs none (probes), or leave these parameters out"
            )


def _cross(layers: Sequence[_Layer], gradients: Sequence[list[Tensor]]) -> Tensor:
    """(B,) inner products of each sample's gradients of one table, as an Embedding's and as a Linear's weight.

    sum_p e_p . sum_q d_q[v_p] a_q: at position p stands row v_p, whose output has the gradient e_p; the Linear has the
    input a_q and the gradient d_q of its output at q.
    """
    (table, ours), (head, theirs) = sorted(
        zip(layers, gradients, strict=True), key=lambda pair: isinstance(pair[0], _Linear)
    )
    assert isinstance(table, _Embedding)
    assert isinstance(head, _Linear)
    at = table.by_position(ours)  # (B, P, K)
    a = _joined([head.activations(call.inputs, call) for call in head.calls])[:, 0]  # (B, K, Q)
    d = _joined([head.errors(one, call) for one, call in zip(theirs, head.calls, strict=True)])[:, 0]  # (B, V, Q)
    rows = table.positions[:, :, None].expand(-1, -1, d.shape[2])
    return _inner(d.gather(1, rows), at @ a)


# -- factors of the loss' Hessian in the outputs ------------------------------------------------------------------


def softmax_seeds(outputs: Tensor) -> Tensor:
    """Seeds (C-1, B, C) with sum_s seed_s seed_s' = diag(p) - pp', p the softmax of outputs (B, C).

    The Cholesky factor in closed form (Tanabe & Sagae 1992): with the tails r_c = p_c + ... + p_C, seed s holds
    sqrt(p_s r_{s+1} / r_s) at s and -p_c / r_{s+1} times that at c > s. Nothing is subtracted, so small p keep their
    digits.
    """
    p = outputs.detach().softmax(1)
    tails = p.flip(1).cumsum(1).flip(1).clamp_min(torch.finfo(p.dtype).tiny)
    at = p[:, :-1].sqrt() * (tails[:, 1:] / tails[:, :-1]).sqrt()  # (B, C-1)
    after = p[:, None, :] / tails[:, 1:, None] * at[:, :, None]  # (B, C-1, C)
    return (F.pad(torch.diag_embed(at), (0, 1)) - after.triu(1)).movedim(1, 0)


def output_seeds(loss_of_outputs: Callable[[Tensor], Tensor], outputs: Tensor) -> Tensor:
    """Seeds (S, B, ...) with sum_s seed_s seed_s' = Hessian of sample i's loss in its outputs; S is the largest rank.

    `loss_of_outputs` takes outputs (B, ...) in float64 and returns values (B,), each a function of its own sample's
    outputs. Raises ValueError when it is not, or when a Hessian has a negative eigenvalue (beyond rounding).
    """
    z = outputs.detach().double().requires_grad_()
    with torch.enable_grad():
        values = loss_of_outputs(z)
        if values.shape != z.shape[:1]:
            raise InputError(f"the loss returns shape {tuple(values.shape)} for {len(z)} samples; give one value each")
        hessian = _output_hessian(values, z)
    eigenvalues, vectors = torch.linalg.eigh(hessian)
    rounding = 1e3 * torch.finfo(torch.float64).eps * eigenvalues.abs().amax(1, keepdim=True)
    if bool((eigenvalues < -rounding).any()):
        worst = int(eigenvalues[:, 0].argmin())
        raise InputError(
            f"the loss of sample {worst} is not convex in its outputs: its Hessian there has the eigenvalue "
            f"{float(eigenvalues[worst, 0]):.3g}, and the Gauss-Newton trace has no real factor"
        )
    kept = (eigenvalues > rounding).any(0)
    seeds: Tensor = (vectors * eigenvalues.clamp_min(0).sqrt()[:, None, :])[:, :, kept]
    return seeds.movedim(2, 0).reshape(-1, *outputs.shape).to(outputs.dtype)


def _output_hessian(values: Tensor, z: Tensor) -> Tensor:
    """(B, C, C) second derivatives of values (B,) in the C outputs of each sample z (B, ...)."""
    hessian = z.new_zeros(len(z), z[0].numel(), z[0].numel())
    if not values.requires_grad:
        return hessian
    half = len(z) // 2
    (alone,) = torch.autograd.grad(values[:half].sum(), z, retain_graph=True)
    if bool((alone[half:] != 0).any()):
        raise InputError("the loss of a sample depends on the outputs of others; it has no factor per sample")
    (gradient,) = torch.autograd.grad(values.sum(), z, create_graph=True)
    if gradient.requires_grad:
        for c, column in enumerate(gradient.flatten(1).unbind(1)):
            (row,) = torch.autograd.grad(column.sum(), z, retain_graph=True)
            hessian[:, c] = row.detach().flatten(1)
    return hessian
