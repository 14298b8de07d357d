"""Recurrent layers step by step, so that what their weights multiply is seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

# (name of the parameters: "ih_l0", "hh_l0_reverse", ...; what its weight multiplies (B, T, K); the product (B, T, M))
# -> the product
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
    steps, those of states once for each; of packed sequences, and one without an axis of samples, nothing is told.
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
            found, last = _direction(module, record, ih, hh, forward, states[0][place], states[1][place])
            outputs.append(found.flip(1) if direction else found)
            ends.append(last)
        x = torch.cat(outputs, 2) if len(outputs) > 1 else outputs[0]
    hidden, cell = (torch.stack([end[k] for end in ends]) for k in (0, 1))
    return x if module.batch_first else x.transpose(0, 1), (hidden, cell) if memory else hidden


def _direction(
    module: Any, record: Record, ih: str, hh: str, x: Tensor, hidden: Tensor, cell: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """(outputs (B, T, H), the last state) of one layer in one direction."""

    def product(name: str, values: Tensor) -> Tensor:
        bias = getattr(module, f"bias_{name}", None)
        found: Tensor = nn.functional.linear(values, getattr(module, f"weight_{name}"), bias)
        return record(name, values, found)

    outputs = []
    for step in product(ih, x).unbind(1):
        recurrent = product(hh, hidden[:, None])[:, 0]
        if isinstance(module, nn.LSTM):
            i, f, g, o = (step + recurrent).chunk(4, 1)
            cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
            hidden = torch.sigmoid(o) * torch.tanh(cell)
        elif isinstance(module, nn.GRU):
            (r, z, n), (r_, z_, n_) = step.chunk(3, 1), recurrent.chunk(3, 1)
            update = torch.sigmoid(z + z_)
            hidden = (1 - update) * torch.tanh(n + torch.sigmoid(r + r_) * n_) + update * hidden
        else:
            bend = torch.tanh if module.nonlinearity == "tanh" else torch.relu
            hidden = bend(step + recurrent)
        outputs.append(hidden)
    return torch.stack(outputs, 1), (hidden, cell)
