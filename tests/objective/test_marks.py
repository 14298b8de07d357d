"""Processes that share a sharded model tell by a number whether they are at the same point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from landscape_kernels.layout import Layout
from landscape_kernels.pieces import Piece
from torch import Tensor

from landscape.objective.centre import Centre
from landscape.objective.placement import Home

LAYOUT = Layout.of({"first": (4, 3), "head": (1, 3), "bias": (1,), "last": (2, 3)})


def mark(rank: int, at: Tensor) -> int:
    """The mark at a point (size,) of one of two processes with half of the rows each; a single row is on the first."""
    homes = {}
    for block in LAYOUT.blocks:
        each = -(-block.shape[0] // 2)
        start, stop = min(rank * each, block.shape[0]), min((rank + 1) * each, block.shape[0])
        row = block.size // block.shape[0]
        homes[block.name] = Home(torch.zeros((stop - start) * row), start * row, 0)
    centre: Any = object.__new__(Centre)
    placement = SimpleNamespace(is_sharded=True, home=homes.__getitem__)
    centre.__dict__ |= {"_layout": LAYOUT, "_placement": placement, "dtype": torch.float32}

    def write(chosen: Sequence[Piece], parts: Mapping[str, Tensor]) -> None:
        for piece in chosen:
            parts[piece.block.name][piece.inside] = at[piece.slice]

    centre._write(write)
    found: int = centre.mark
    return found


def test_a_parameter_of_one_row_is_whole_on_one_process_and_nothing_on_the_other() -> None:
    point = torch.arange(float(LAYOUT.size))
    assert mark(0, point) == mark(1, point) != mark(0, point + 1)
