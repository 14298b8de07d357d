"""Bezier curves and polygonal chains against closed forms, de Casteljau's construction and dense quadrature."""

from __future__ import annotations

import itertools
import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from landscape_kernels import curves as kernel
from landscape_kernels.curves import (
    CURVES,
    arc_length,
    combine_,
    difference_gram,
    slopes,
    stratified,
    weights,
)
from torch import Tensor, nn

import landscape as ls
from landscape.checkpoints.states import require_finite
from landscape.errors import InputError
from landscape.studies.curve.result import Curve, curve_from_points

EPS = float(np.finfo(np.float64).eps)
PLACES = [0.0, 1e-9, 0.1, 1 / 3, 0.5, 0.7, 1 - 1e-9, 1.0]


def points(count: int, size: int = 5, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def de_casteljau(p: np.ndarray, t: float) -> np.ndarray:
    while len(p) > 1:
        p = (1 - t) * p[:-1] + t * p[1:]
    return p[0]


def on_chain(p: np.ndarray, t: float) -> np.ndarray:
    return np.array([np.interp(t, np.linspace(0, 1, len(p)), column) for column in p.T])


def true_point(kind: str, p: np.ndarray, t: float) -> np.ndarray:
    return de_casteljau(p, t) if kind == "bezier" else on_chain(p, t)


def length(kind: str, p: Tensor, t: float = 1.0) -> float:
    return arc_length(kind, difference_gram(p.unbind()), t)


# -- kernels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CURVES)
@pytest.mark.parametrize("count", [2, 3, 4, 7])
def test_points_are_those_of_the_construction(kind: str, count: int) -> None:
    p = points(count)
    curve = Curve(kind, p)
    for t in PLACES:
        w = weights(kind, count, t)
        assert w.sum() == pytest.approx(1, abs=4 * EPS)
        assert (w >= 0).all()
        expected = true_point(kind, p.numpy(), t)
        np.testing.assert_allclose(curve.point(t).numpy(), expected, atol=16 * EPS * float(p.abs().max()))


@pytest.mark.parametrize("kind", CURVES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ends_are_met_to_the_bit(kind: str, dtype: torch.dtype) -> None:
    p = points(4, dtype=dtype)
    p[1] = math.inf  # a point of weight 0 counts for nothing
    curve = Curve(kind, p)
    assert torch.equal(curve.point(0), p[0])
    assert torch.equal(curve.point(1), p[3])
    if kind == "polychain":
        assert torch.equal(curve.point(2 / 3), p[2])


@pytest.mark.parametrize("kind", CURVES)
@pytest.mark.parametrize("count", [2, 3, 5])
def test_tangents_are_derivatives(kind: str, count: int) -> None:
    p = points(count)
    curve = Curve(kind, p)
    for t in (0.05, 0.3, 0.6, 0.95):
        h = 1e-5
        difference = (curve.point(t + h) - curve.point(t - h)) / (2 * h)
        np.testing.assert_allclose(curve.tangent(t).numpy(), difference.numpy(), atol=1e-8)
    np.testing.assert_allclose(curve.tangent(0).numpy(), (count - 1) * (p[1] - p[0]).numpy(), rtol=1e-13)
    np.testing.assert_allclose(curve.tangent(1).numpy(), (count - 1) * (p[-1] - p[-2]).numpy(), rtol=1e-13)


def test_tangent_at_a_bend_is_the_later_segments() -> None:
    p = points(3)
    np.testing.assert_allclose(Curve("polychain", p).tangent(0.5).numpy(), 2 * (p[2] - p[1]).numpy())
    assert slopes("polychain", 3, 0.5).tolist() == [0, 2]


def test_combination_into_a_buffer_that_held_nan() -> None:
    p = points(2)
    out = torch.full((5,), math.nan, dtype=torch.float64)
    assert combine_(out, p.unbind(), [2.0, -1.0]) is out
    np.testing.assert_allclose(out.numpy(), (2 * p[0] - p[1]).numpy(), rtol=4 * EPS, atol=4 * EPS)
    assert combine_(out, p.unbind(), [0.0, 0.0]).tolist() == [0.0] * 5


def test_length_of_a_quadratic_by_its_closed_form() -> None:
    """|gamma'|^2 = a t^2 + b t + c: the textbook integral, for many bends."""
    for seed in range(20):
        p = points(3, seed=seed)
        first, second = (p[1] - p[0]).numpy() * 2, (p[2] - 2 * p[1] + p[0]).numpy() * 2
        a, b, c = second @ second, 2 * first @ second, first @ first

        def primitive(t: float, a: float = a, b: float = b, c: float = c) -> float:
            root = math.sqrt(a * t * t + b * t + c)
            logarithm = math.log(2 * math.sqrt(a) * root + 2 * a * t + b)
            return (2 * a * t + b) / (4 * a) * root + (4 * a * c - b * b) / (8 * a**1.5) * logarithm

        for t in (0.2, 0.9, 1.0):
            assert length("bezier", p, t) == pytest.approx(primitive(t) - primitive(0), rel=1e-12)


@pytest.mark.parametrize("count", [4, 6, 9])
def test_length_of_higher_degrees_by_a_fine_polygon(count: int) -> None:
    p = points(count, seed=count)
    fine = np.array([de_casteljau(p.numpy(), t) for t in np.linspace(0, 1, 4001)])
    polygon = np.linalg.norm(np.diff(fine, axis=0), axis=1).sum()
    found = length("bezier", p)
    assert polygon <= found * (1 + 1e-12)  # a polygon is never longer
    assert found == pytest.approx(polygon, rel=1e-6)


@pytest.mark.filterwarnings("error")
def test_length_with_cusps_and_turns() -> None:
    """Out and back on a line: the speed has a zero, where the integrand has a kink."""
    a, b = torch.zeros(3, dtype=torch.float64), torch.tensor([3.0, 0.0, 4.0], dtype=torch.float64)
    # p(t) = 2 t (1 - t) b, so 1/2 |b| out and 1/2 |b| back
    assert length("bezier", torch.stack([a, b, a])) == pytest.approx(5.0, rel=1e-12)
    assert length("bezier", torch.stack([a, b, a]), 0.5) == pytest.approx(2.5, rel=1e-12)
    # p(t) = (3 t (1 - t)^2 - 6 t^2 (1 - t)) b, which turns at irrational places
    p = torch.stack([a, b, -2 * b, a])
    turns = np.array([0, (24 - math.sqrt(252)) / 54, (24 + math.sqrt(252)) / 54, 1])
    heights = 9 * turns**3 - 12 * turns**2 + 3 * turns
    assert length("bezier", p) == pytest.approx(5 * np.abs(np.diff(heights)).sum(), rel=1e-14)
    # (s^2, s^3), s = 2 t - 1, has speed |s| sqrt(4 + 9 s^2) by s, and so a cusp at t = 1/2
    cubic = torch.tensor([[1, -1], [-1 / 3, 1], [-1 / 3, -1], [1, 1]], dtype=torch.float64)
    assert torch.allclose(Curve("bezier", cubic).point(0.75), torch.tensor([0.25, 0.125], dtype=torch.float64))
    half = (13**1.5 - 8) / 27
    assert length("bezier", cubic) == pytest.approx(2 * half, rel=1e-12)
    assert length("bezier", cubic, 0.5) == pytest.approx(half, rel=1e-12)


def test_lengths_with_turns_take_few_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals end where the speed is stationary; halving towards a turn would take thousands."""
    calls = []
    monkeypatch.setattr(kernel, "slopes", lambda *given: calls.append(given) or slopes(*given))
    line = torch.tensor([0.0, 1.0, -2.0, 0.0], dtype=torch.float64)[:, None]
    assert length("bezier", line) > 0
    assert 0 < len(calls) < 300


@pytest.mark.parametrize("kind", CURVES)
def test_length_of_straight_lines_and_of_points(kind: str) -> None:
    p = points(1).repeat(4, 1) + torch.linspace(0, 1, 4, dtype=torch.float64)[:, None] * points(1, seed=1)
    distance = float((p[3] - p[0]).norm())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for count in (p[[0, 3]], p):
            assert length(kind, count) == pytest.approx(distance, rel=1e-12)
            assert length(kind, count, 0.3) == pytest.approx(0.3 * distance, rel=1e-12)
        assert length(kind, p, 0.0) == 0.0
        assert length(kind, p[[0, 0, 0]]) == 0.0


def test_length_of_a_chain_is_the_sum_of_its_segments() -> None:
    p = points(4)
    steps = (p[1:] - p[:-1]).norm(dim=1).numpy()
    assert length("polychain", p) == pytest.approx(steps.sum(), rel=1e-14)
    assert length("polychain", p, 0.5) == pytest.approx(steps[0] + steps[1] / 2, rel=1e-14)


def test_lengths_are_of_float64_differences_of_float32_points() -> None:
    p = 1e4 + points(3, dtype=torch.float32) * 1e-2
    exact = (p[1:].double() - p[:-1].double()).norm(dim=1)
    assert length("polychain", p) == pytest.approx(float(exact.sum()), rel=1e-12)


def test_stratified_places() -> None:
    whole = stratified(3, 0, 100)
    assert ((whole >= 0) & (whole < 1)).all()
    for start, count in ((0, 1), (15, 2), (7, 40), (64, 16), (99, 1), (5, 0)):
        np.testing.assert_array_equal(stratified(3, start, count), whole[start : start + count])
    assert not np.isin(stratified(4, 0, 100), whole).any()
    for block in range(6):
        strata = (whole[16 * block : 16 * block + 16] * 16).astype(int)
        assert sorted(strata) == list(range(16))
    orders = {tuple((whole[16 * b : 16 * b + 16] * 16).astype(int)) for b in range(6)}
    assert len(orders) == 6


def test_stratified_places_are_uniform_with_little_variance() -> None:
    many = stratified(0, 0, 16_000)
    for edge in (0.2, 0.55, 0.9):  # three standard errors of free draws, which these are well within
        assert np.mean(many < edge) == pytest.approx(edge, abs=3 * math.sqrt(edge * (1 - edge) / 16_000))
    means = many.reshape(-1, 16).mean(1)
    free = 1 / 12 / 16
    # Within a stratum of width 1/16 the variance is 256 times smaller.
    assert means.var(ddof=1) == pytest.approx(free / 256, rel=3 * math.sqrt(2 / 999))


# -- curves of models -------------------------------------------------------------------------------------------------


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))


@pytest.fixture(scope="module")
def objective() -> ls.Objective:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 4, generator=generator)
    return ls.Objective(network(0), "cross_entropy", (x, (x[:, 0] > 0).long()))


def test_curve_of_models_in_any_form(objective: ls.Objective) -> None:
    nets = [network(i) for i in range(3)]
    flat = [torch.cat([p.detach().reshape(-1) for p in net.parameters()]) for net in nets]
    curve = curve_from_points(objective, [nets[0], flat[1], nets[2].state_dict()], "bezier")
    assert torch.equal(curve.control_points, torch.stack(flat))
    assert len(curve.buffers) == 2
    assert torch.equal(curve.buffers[1]["1.running_var"], nets[2].state_dict()["1.running_var"])
    assert curve_from_points(objective, [flat[0], nets[1]]).buffers == ()
    assert curve_from_points(objective, flat).kind == "polychain"
    assert "bezier of 3 control points" in repr(curve)
    out = torch.empty_like(flat[0])
    assert curve.point(0.25, out) is out
    torch.testing.assert_close(out, 0.5625 * flat[0] + 0.375 * flat[1] + 0.0625 * flat[2], rtol=1e-6, atol=1e-6)


def test_length_distance_and_arcs(objective: ls.Objective) -> None:
    nets = [network(i) for i in range(3)]
    for kind in CURVES:
        curve = curve_from_points(objective, nets, kind)
        ends = curve.control_points[-1].double() - curve.control_points[0].double()
        assert curve.distance == pytest.approx(float(ends.norm()), rel=1e-12)
        assert curve.length > curve.distance
        arcs = curve.arc([0.0, 0.25, 0.5, 1.0])
        assert arcs[0] == 0
        assert arcs[-1] == curve.length
        assert (np.diff(arcs) > 0).all()
        for a, b in itertools.pairwise([0.0, 0.25, 0.5, 1.0]):
            fine = [curve.point(t).double() for t in np.linspace(a, b, 300)]
            polygon = sum(float((q - p).norm()) for p, q in itertools.pairwise(fine))
            assert curve.arc([b])[0] - curve.arc([a])[0] == pytest.approx(polygon, rel=1e-5)
    line = curve_from_points(objective, nets[:2])
    assert line.length == pytest.approx(line.distance, rel=1e-14)


def test_identity_tells_curves_apart(objective: ls.Objective) -> None:
    nets = [network(i) for i in range(3)]
    same = [curve_from_points(objective, nets, "bezier").identity() for _ in range(2)]
    assert same[0] == same[1]
    others: list[dict[str, Any]] = [
        curve_from_points(objective, nets, "polychain").identity(),
        curve_from_points(objective, nets[::-1], "bezier").identity(),
        curve_from_points(objective, [nets[0], nets[0], nets[2]], "bezier").identity(),
    ]
    assert all(other != same[0] for other in others)


def test_bad_curves_are_refused(objective: ls.Objective) -> None:
    nets = [network(0), network(1)]
    with pytest.raises(InputError, match=r"kind='beziér' is unknown; did you mean 'bezier'"):
        curve_from_points(objective, nets, "beziér")
    with pytest.raises(InputError, match="1 control point given; a line needs 2"):
        curve_from_points(objective, nets[:1])
    broken = objective.theta
    broken[3] = math.nan
    with pytest.raises(InputError, match="control point 1 holds 1 values that are NaN"):
        curve_from_points(objective, [nets[0], broken])
    with pytest.raises(InputError):
        curve_from_points(objective, [nets[0], nn.Linear(4, 6)])
    with pytest.raises(InputError, match="theta has 7 values"):
        curve_from_points(objective, [nets[0], torch.zeros(7)])
    with pytest.raises(InputError, match="theta has 3 values"):
        Curve("bezier", torch.zeros(2, 3)).placed(objective)
    curve = curve_from_points(objective, nets)
    with pytest.raises(InputError, match="t=nan; give a finite number"):
        curve.point(math.nan)
    for t in (-0.1, 1.1):
        with pytest.raises(InputError, match="not on the curve; it runs from 0 to 1"):
            curve.point(t)
        with pytest.raises(InputError, match="not on the curve"):
            curve.tangent(t)
        with pytest.raises(InputError, match="not on the curve"):
            curve.arc([t])
    with pytest.raises(InputError, match="the end holds 2 values"):
        require_finite(torch.tensor([1.0, math.inf, math.nan]), "the end")


def test_placed_takes_the_objectives_precision(objective: ls.Objective) -> None:
    curve = curve_from_points(objective, [network(0), network(1)])
    double = ls.Objective(network(0).double(), "cross_entropy", [(torch.randn(8, 4).double(), torch.zeros(8).long())])
    placed = curve.placed(double)
    assert placed.control_points.dtype == torch.float64
    assert torch.equal(placed.control_points.float(), curve.control_points)
    assert placed.kind == curve.kind
