"""Recurrent layers step by step, so that what their weights multiply is seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# (name of the parameters: "ih_l0", "hh_l0_reverse", ...; what its weight multiplies (B, T, K); the product (B, T, M) or
# what stands for it and has its gradient) -> the product
Record = Callable[[str, Tensor, Tensor], Tensor]


def products_of(module: nn.RNNBase) -> list[str]:
    """The names of the products of a layer: of its inputs and of its states, for each of its layers and directions."""
    ends = ("", "_reverse") if module.bidirectional else ("",)
    return [f"{kind}_l{layer}{end}" for layer in range(module.num_layers) for end in ends for kind in ("ih", "hh")]


def refusal(module: nn.RNNBase) -> str:
    """Why `unrolled` is not what the module does; empty where it is."""
    if module.proj_size:
        return "it projects its states"
    return "it drops states at random" if module.training and module.dropout else ""


def unrolled(module: Any, record: Record, inputs: Tensor, hx: Any = None) -> tuple[Tensor, Any]:
    """What an nn.RNN, nn.GRU or nn.LSTM returns for a batch of sequences; `record` is told of each product.

    It returns the product, or another tensor of its values in its place. Products of inputs are told once for all
    steps, those of states of an LSTM, too, and of others once for each; of packed sequences, and one without an axis of
    samples, nothing is told. An LSTM has first derivatives only.
    """
    if not isinstance(inputs, Tensor) or inputs.ndim != 3:
        plain: tuple[Tensor, Any] = type(module).forward(module, inputs, hx)
        return plain
    x = inputs if module.batch_first else inputs.transpose(0, 1)
    names = products_of(module)
    zeros = x.new_zeros(len(names) // 2, len(x), module.hidden_size)
    memory = isinstance(module, nn.LSTM)
    first = hx if hx is not None else ((zeros, zeros) if memory else zeros)
    states = first if memory else (first, first)
    ends: list[tuple[Tensor, Tensor]] = []
    for _ in range(module.num_layers):
        outputs = []
        for direction in range(1 + module.bidirectional):
            place = len(ends)
            ih, hh = names[2 * place], names[2 * place + 1]
            forward = x.flip(1) if direction else x
            direction_of = _lstm if memory else _direction
            found, last = direction_of(module, record, ih, hh, forward, states[0][place], states[1][place])
            outputs.append(found.flip(1) if direction else found)
            ends.append(last)
        x = torch.cat(outputs, 2) if len(outputs) > 1 else outputs[0]
    hidden, cell = (torch.stack([end[k] for end in ends]) for k in (0, 1))
    return x if module.batch_first else x.transpose(0, 1), (hidden, cell) if memory else hidden


def _direction(
    module: Any, record: Record, ih: str, hh: str, x: Tensor, hidden: Tensor, cell: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """(outputs (B, T, H), the last state) of one layer of an RNN or a GRU in one direction, which has no cell."""

    def product(name: str, values: Tensor) -> Tensor:
        bias = getattr(module, f"bias_{name}", None)
        found: Tensor = F.linear(values, getattr(module, f"weight_{name}"), bias)
        return record(name, values, found)

    outputs = []
    for step in product(ih, x).unbind(1):
        recurrent = product(hh, hidden[:, None])[:, 0]
        if isinstance(module, nn.GRU):
            (r, z, n), (r_, z_, n_) = step.chunk(3, 1), recurrent.chunk(3, 1)
            update = torch.sigmoid(z + z_)
            hidden = (1 - update) * torch.tanh(n + torch.sigmoid(r + r_) * n_) + update * hidden
        else:
            bend = torch.tanh if module.nonlinearity == "tanh" else torch.relu
            hidden = bend(step + recurrent)
        outputs.append(hidden)
    return torch.stack(outputs, 1), (hidden, cell)


def _lstm(
    module: Any, record: Record, ih: str, hh: str, x: Tensor, hidden: Tensor, cell: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """(outputs (B, T, H), the last state) of one layer of an LSTM in one direction."""
    inputs, states = ((getattr(module, f"weight_{n}"), getattr(module, f"bias_{n}", None)) for n in (ih, hh))
    product = record(ih, x, F.linear(x, *inputs))
    with torch.no_grad():
        steps = _Steps(product, *states, hidden, cell)
    before = steps.hidden[:-1].transpose(0, 1)
    told = record(hh, before, _Known.apply(before, *states))  # type: ignore[no-untyped-call]
    made_of = (product, told, hidden, cell)
    outputs, last = _States.apply(steps, states[0].detach(), *made_of)  # type: ignore[no-untyped-call]
    return outputs, (outputs[:, -1], last)


class _Steps:
    """The steps of an LSTM, time first: torch's autograd takes three times as long through its many small operations.

    c_t = f_t c_{t-1} + i_t g_t and h_t = o_t tanh(c_t), where i, f, o are sigmoids and g the tanh of the gates, sums of
    the products of inputs and of states (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000).
    """

    def __init__(self, product: Tensor, weight: Tensor, bias: Tensor | None, hidden: Tensor, cell: Tensor) -> None:
        """Of the product of inputs (B, T, 4 H), the weight (4 H, H) and bias of states, the first states (B, H)."""
        samples, length, width = *product.shape[:2], weight.shape[1]
        gates = product.new_empty(length, samples, 4 * width)
        torch.add(product.transpose(0, 1), 0 if bias is None else bias, out=gates)
        self.gates = gates.view(length, samples, 4, width)  # i, f, g, o
        self.hidden, self.cells = (first.new_empty(length + 1, samples, width) for first in (hidden, cell))
        self.hidden[0], self.cells[0] = hidden, cell
        self.bent = torch.empty_like(self.cells[1:])  # tanh(c)
        for k in range(length):
            gates[k].addmm_(self.hidden[k], weight.T)
            self.gates[k, :, :2].sigmoid_()
            self.gates[k, :, 2].tanh_()
            self.gates[k, :, 3].sigmoid_()
            i, f, g, o = self.gates[k].unbind(1)
            torch.mul(f, self.cells[k], out=self.cells[k + 1]).addcmul_(i, g)
            torch.mul(o, torch.tanh(self.cells[k + 1], out=self.bent[k]), out=self.hidden[k + 1])

    def backward(self, outputs: Tensor, last: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of the gates (T, B, 4 H), of the first hidden state and of the first cell (B, H).

        From those of the outputs (T, B, H) and of the last cell.
        """
        i, f, g, o = self.gates.unbind(2)
        found = torch.addcmul(self.gates, self.gates, self.gates, value=-1)  # the slopes of sigmoids
        found[:, :, 0].mul_(g)
        found[:, :, 1].mul_(self.cells[:-1])
        torch.addcmul(i, i * g, g, value=-1, out=found[:, :, 2])
        found[:, :, 3].mul_(self.bent)
        through = torch.addcmul(o, o * self.bent, self.bent, value=-1)  # from the hidden state to the cell
        hidden, cell = torch.zeros_like(last), last.clone()
        for k in range(len(found) - 1, -1, -1):
            hidden += outputs[k]
            cell.addcmul_(hidden, through[k])
            found[k, :, :3].mul_(cell[:, None])
            found[k, :, 3].mul_(hidden)
            cell *= f[k]
            torch.mm(found[k].flatten(1), weight, out=hidden)
        return found.flatten(2), hidden, cell


class _Known(torch.autograd.Function):
    """Stands for the product of known states: it has its gradients, and nobody reads its values."""

    @staticmethod
    def forward(ctx: Any, before: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(before)
        return before.new_empty(*before.shape[:2], len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (before,) = ctx.saved_tensors
        of_weight = bias = None
        if ctx.needs_input_grad[1]:
            rows, columns = (one.transpose(0, 1).flatten(0, 1) for one in (gradient, before))  # as they lie in memory
            of_weight = rows.T @ columns
        if ctx.needs_input_grad[2]:
            bias = gradient.sum((0, 1))
        return None, of_weight, bias


class _States(torch.autograd.Function):
    """(outputs (B, T, H), the last cell) of known steps, as made of the products of inputs and of states."""

    @staticmethod
    def forward(ctx: Any, steps: _Steps, weight: Tensor, *_made_of: Tensor) -> tuple[Tensor, Tensor]:
        ctx.steps, ctx.weight = steps, weight
        return steps.hidden[1:].transpose(0, 1).clone(), steps.cells[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outputs: Tensor, last: Tensor) -> Any:
        gates, hidden, cell = ctx.steps.backward(outputs.transpose(0, 1), last, ctx.weight)
        return None, None, gates.transpose(0, 1), gates.transpose(0, 1), hidden, cell
