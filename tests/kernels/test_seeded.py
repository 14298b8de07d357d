"""Directions that stay seeds against the same ones as whole vectors, bit for bit, in pieces of a few values."""

from __future__ import annotations

from collections.abc import Sequence

import landscape_kernels.normalise as normalising
import landscape_kernels.pieces as cutting
import landscape_kernels.seeded as drawing
import numpy as np
import pytest
import torch
from landscape_kernels.layout import Filters, Layout
from landscape_kernels.normalise import NORMALIZATIONS, normalise_
from landscape_kernels.perturb import perturb_
from landscape_kernels.pieces import Piece, pieces
from landscape_kernels.probes import NormalPieces, normal_vector
from landscape_kernels.projection import gram
from landscape_kernels.seeded import SeededDirections
from torch import Tensor

SHAPES: dict[str, tuple[int, ...]] = {
    "conv": (4, 3, 2, 2),
    "bias": (23,),
    "up": (4, 3, 2, 2),
    "columns": (9, 5),
    "head": (6, 31),
    "zero": (3, 4),
    "gain": (),
}
FILTERS = {"up": Filters((2, 2, 3, 4), (1, 3)), "columns": Filters((9, 5), (0,))}
LAYOUT = Layout.of(SHAPES, filters=FILTERS)
IGNORED = [block for block in LAYOUT.blocks if block.name == "head"]


@pytest.fixture(params=[1 << 21, 10], ids=["whole norms", "norms of pieces"])
def small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Pieces of 12 values, and norms of more than so many values made of those of pieces."""
    monkeypatch.setattr(cutting, "PIECE", 12)
    for module in (cutting, normalising, drawing):
        monkeypatch.setattr(module, "WHOLE", request.param)
    whole: int = request.param
    return whole


def theta() -> Tensor:
    values = torch.from_numpy(np.random.default_rng(1).standard_normal(LAYOUT.size)).float().double()
    values[next(block for block in LAYOUT.blocks if block.name == "zero").slice] = 0
    return values


def seeded(how: str, dtype: torch.dtype) -> tuple[SeededDirections, list[Tensor]]:
    """The directions, and what they showed while they were settled."""
    values = theta().to(dtype)

    def centre(piece: Piece) -> Tensor:
        return values[piece.slice]

    found = SeededDirections(LAYOUT, centre, how, IGNORED, seed=5, axes=2, dtype=dtype)
    shown: list[list[Tensor]] = [[], [], [], []]

    def made(axis: int, _: Piece, values: Tensor) -> None:
        shown[axis].append(values.clone())

    def see(_: Piece, parts: Sequence[Tensor]) -> None:
        for of_axis, part in zip(shown[2:], parts, strict=True):
            of_axis.append(part.clone())

    found.settle(made, see)
    return found, [torch.cat(parts) for parts in shown]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("how", NORMALIZATIONS)
def test_values_are_those_of_whole_vectors(small: int, how: str, dtype: torch.dtype) -> None:
    whole = [
        normalise_(normal_vector(LAYOUT.size, 5, "direction", axis), theta(), LAYOUT, how, IGNORED).to(dtype)
        for axis in range(2)
    ]
    found, shown = seeded(how, dtype)
    assert all(torch.equal(a, b) for a, b in zip(shown, whole + whole, strict=True))
    for piece in reversed(pieces(LAYOUT)):
        values = found.at(piece, [1, 0])
        assert all(torch.equal(part, whole[axis][piece.slice]) for part, axis in zip(values, (1, 0), strict=True))
        assert found.at(piece, []) == []


def test_filters_of_all_lengths() -> None:
    """Rows are normed a few at a time, and those that torch sums in another order where they are alone as they were."""
    layout = Layout.of({"narrow": (5000, 9), "rows": (20, 5650), "wide": (9, 40_000), "conv": (8, 700, 3, 3)})
    theta = normal_vector(layout.size, 1, "theta").float()
    found = SeededDirections(layout, lambda piece: theta[piece.slice], "filter", [], seed=5, axes=1, dtype=theta.dtype)
    shown: list[Tensor] = []
    found.settle(lambda _axis, _piece, values: shown.append(values.clone()), lambda _piece, _values: None)
    whole = normalise_(normal_vector(layout.size, 5, "direction", 0), theta.double(), layout, "filter").float()
    assert torch.equal(torch.cat(shown), whole)


def test_norms_of_pieces_are_norms(small: int) -> None:
    for how in ("filter", "layer", "model"):
        found = normalise_(normal_vector(LAYOUT.size, 5, "direction", 0), theta(), LAYOUT, how)
        for block in LAYOUT.blocks:
            a, b = found[block.slice], theta()[block.slice]
            if how == "filter" and block.name == "columns":
                a, b = (v.view(9, 5).norm(dim=0) for v in (a, b))
            elif how == "filter" and block.filters:
                a, b = (v.view(block.filters.shape).norm(dim=block.filters.inner) for v in (a, b))
            elif how == "model":
                a, b = found.norm(), theta().norm()
            else:
                a, b = a.norm(), b.norm()
            torch.testing.assert_close(a, b, rtol=1e-14, atol=0)


def test_pieces_are_rows_that_leave_nothing_out(small: int) -> None:
    found = pieces(LAYOUT)
    assert [i for piece in found for i in range(piece.slice.start, piece.slice.stop)] == list(range(LAYOUT.size))
    sizes = {name: [p.size for p in found if p.block.name == name] for name in SHAPES}
    assert sizes["conv"] == [12] * 4
    assert sizes["bias"] == [12, 11]
    assert sizes["up"] == [48]  # its filters lie across it
    assert sizes["columns"] == [10, 10, 10, 10, 5]
    assert sizes["head"] == [31] * 6


def test_pieces_of_normal_values_are_drawn_in_any_order() -> None:
    sizes = [3, 1000, 1, 50, 7]
    whole = normal_vector(sum(sizes), 0, "a").numpy()
    drawn = NormalPieces(sizes, 0, "a")
    for number in (3, 0, 4, 1, 3, 2):
        start = sum(sizes[:number])
        assert np.array_equal(drawn.draw(number, np.empty(sizes[number])), whole[start : start + sizes[number]])


def test_half_precision_is_rounded_once() -> None:
    centre, directions = torch.randn(4096).bfloat16(), [torch.randn(4096), torch.randn(4096)]
    out = perturb_(torch.empty_like(centre), centre, directions, [1e-3, 0.25])
    assert torch.equal(
        out, (centre.double() + 1e-3 * directions[0].double() + 0.25 * directions[1].double()).float().bfloat16()
    )
    assert torch.equal(perturb_(out, centre, directions, [0.0, 0.0]), centre)


def test_products_of_long_vectors_are_summed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = [torch.randn(1000), torch.randn(1000)]
    whole = gram(vectors)
    monkeypatch.setattr("landscape_kernels.projection._LONG", 64)
    np.testing.assert_allclose(gram(vectors), whole, rtol=1e-12)
