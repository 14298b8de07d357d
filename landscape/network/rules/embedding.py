"""Tables of embeddings, and a table that is a linear layer, too."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from landscape.network.rules.layer import Layer, inner, joined, norms
from landscape.network.rules.product import Linear


class Embedding(Layer):
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
        return {"weight": norms(self._by_row(gradients))}

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


def cross(layers: Sequence[Layer], gradients: Sequence[list[Tensor]]) -> Tensor:
    """(B,) inner products of each sample's gradients of one table, as an Embedding's and as a Linear's weight.

    sum_p e_p . sum_q d_q[v_p] a_q: at position p stands row v_p, whose output has the gradient e_p; the Linear has the
    input a_q and the gradient d_q of its output at q.
    """
    (table, ours), (head, theirs) = sorted(
        zip(layers, gradients, strict=True), key=lambda pair: isinstance(pair[0], Linear)
    )
    assert isinstance(table, Embedding)
    assert isinstance(head, Linear)
    at = table.by_position(ours)  # (B, P, K)
    a = joined([head.activations(call.inputs, call) for call in head.calls])[:, 0]  # (B, K, Q)
    d = joined([head.errors(one, call) for one, call in zip(theirs, head.calls, strict=True)])[:, 0]  # (B, V, Q)
    rows = table.positions[:, :, None].expand(-1, -1, d.shape[2])
    return inner(d.gather(1, rows), at @ a)
