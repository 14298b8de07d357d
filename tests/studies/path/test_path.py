"""Paths between models against closed forms, naive loops, and published curves."""

from __future__ import annotations

import csv
import json
import logging
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path as FilePath
from typing import Any

import numpy as np
import path_cases
import pytest
import torch
from landscape_kernels.probes import derive_seed
from shared import shared
from torch import Tensor, nn

import landscape as ls
from landscape.errors import InputError
from landscape.objective.objective import Objective
from landscape.run.store import Store
from landscape.studies.curve.result import Curve, curve_from_points
from landscape.studies.path import measure as path_module
from landscape.studies.path.measure import measure_path
from landscape.studies.path.result import arc_mean, barrier, maximum_excess, mode_connectivity, to_split, upper_bounds

EPS = float(np.finfo(np.float64).eps)


class Point(nn.Module):
    """A model that is nothing but a vector."""

    def __init__(self, *values: float) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor(values, dtype=torch.float64))


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def point_objective(loss: Callable[[Tensor], Tensor], size: int = 2, samples: int = 3) -> ls.Objective:
    """A loss that is a function of the vector alone."""
    return ls.Objective(
        Point(*[0.5] * size), None, [torch.zeros(samples)], forward=lambda m, b: loss(m.p) + 0 * b.sum()
    )


def ring(p: Tensor) -> Tensor:
    return (p.square().sum() - 1) ** 2


def along(function: Callable[[Tensor], Tensor]) -> ls.Objective:
    """An objective whose loss on the straight line from 0 to 1 is `function(t)`."""
    return point_objective(lambda p: function(p[0]), size=1)


def line_of(function: Callable[[Tensor], Tensor], **options: Any) -> ls.paths.Path:
    return measure_path(along(function), [vector(0.0), vector(1.0)], **options)


def batchnorm_net(seed: int, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Tanh())
    net.append(nn.Linear(6, 3))
    net = net.to(dtype)
    x, _ = samples(150, seed + 10, dtype)
    net.train()
    with torch.no_grad():
        for _ in range(4):
            net(x + seed)
    return net.eval()


def samples(count: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 5, generator=generator, dtype=dtype)
    return x, (x[:, :3] + 0.3 * torch.randn(count, 3, generator=generator, dtype=dtype)).argmax(1)


def flat(net: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in net.parameters()])


def naive(net: nn.Module, theta: Tensor, statistics: Tensor | None, data: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """(loss, error) with the statistics of one training-mode pass over `statistics`, on a copy of the network."""
    torch.manual_seed(0)
    twin = batchnorm_net(0)
    twin.load_state_dict(net.state_dict())
    nn.utils.vector_to_parameters(theta, twin.parameters())
    with torch.no_grad():
        if statistics is not None:
            for module in twin.modules():
                if isinstance(module, nn.BatchNorm1d):
                    module.momentum = 1.0
            twin.train()
            twin(statistics)
            twin.eval()
        out = twin(data[0])
        loss = nn.functional.cross_entropy(out, data[1])
        return float(loss), float((out.argmax(1) != data[1]).double().mean())


# -- numbers made of several places -----------------------------------------------------------------------------------


def test_mode_connectivity_of_a_published_curve() -> None:
    errors = np.array([19.720, 25.426, 38.272, 25.050, 19.386])
    assert mode_connectivity(errors) == pytest.approx(-18.719, abs=1e-12)
    assert mode_connectivity(-errors) == pytest.approx(18.719, abs=1e-12)


def test_mode_connectivity_of_the_published_grid() -> None:
    with shared("reference", "taxonomy_curves.csv").open() as file:
        curves: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for row in csv.DictReader(file):
            key = row["batch_size"], row["width"]
            curves.setdefault(key, []).append((float(row["t"]), float(row["train_err_pct"])))
    with shared("reference", "taxonomy_phase.csv").open() as file:
        published = {
            (row["batch_size"], row["width"]): float(row["mode_connectivity"])
            for row in csv.DictReader(file)
            if row["mode_connectivity"]
        }
    assert len(published) > 100
    assert published.keys() <= curves.keys()
    for key, mc in published.items():
        errors = np.array([error for _, error in sorted(curves[key])])
        assert mode_connectivity(errors) == pytest.approx(mc, abs=100 * 4 * EPS), key


def test_mode_connectivity_is_nan_with_a_nan_and_infinite_with_inf() -> None:
    assert math.isnan(mode_connectivity(np.array([0.0, np.nan, 1.0])))
    assert mode_connectivity(np.array([0.0, np.inf, 1.0])) == -math.inf


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([1.0, 4.0, 3.0], 2.0),  # 4 - (1 + 3)/2
        ([1.0, 2.0, 3.0], 0.0),
        ([1.0, 0.5, 3.0], 0.0),  # below the line, so the ends are highest above it
        ([0.0, 0.0, 1.0], 0.0),
        ([1.0, math.inf, 0.0], math.inf),
        ([1.0, math.nan, 0.0], math.nan),
        ([math.inf, 1.0, 0.0], math.nan),
    ],
)
def test_barrier(losses: list[float], expected: float) -> None:
    assert barrier(np.array([0.0, 0.5, 1.0]), np.array(losses)) == pytest.approx(expected, nan_ok=True)


def test_barrier_is_above_the_line_between_the_ends_at_uneven_places() -> None:
    t = np.array([0.0, 0.1, 0.7, 1.0])
    assert barrier(t, 2 - t + np.array([0.0, 0.25, 0.5, 0.0])) == pytest.approx(0.5, abs=4 * EPS)


def test_arc_mean_weighs_by_length() -> None:
    assert arc_mean(np.array([0.0, 1.0, 4.0]), np.array([0.0, 2.0, 4.0])) == pytest.approx((1 + 9) / 4)


@pytest.mark.parametrize("seed", range(5))
def test_upper_bounds_hold_for_smooth_functions(seed: int) -> None:
    draw = np.random.default_rng(seed)
    a, k, phase = draw.normal(size=4), draw.uniform(0, 12, 4), draw.uniform(0, 6, 4)

    def f(t: Any) -> Any:
        return sum(ai * np.sin(ki * t + p) for ai, ki, p in zip(a, k, phase, strict=True))

    t = np.sort(np.r_[0.0, draw.uniform(0, 1, 40), 1.0])
    bounds = upper_bounds(t, f(t))
    for low, high, bound in zip(t[:-1], t[1:], bounds, strict=True):
        assert f(np.linspace(low, high, 200)).max() <= bound + 8 * EPS
    assert maximum_excess(t, f(t)) >= f(np.linspace(0, 1, 20_001)).max() - f(t).max()


def test_upper_bound_of_a_parabola() -> None:
    """With M four times the second derivative of 1 - t^2 on equal intervals, written out."""
    t = np.array([-0.5, -0.25, 0.0, 0.25])
    m, h = 4 * 2.0, 0.25
    f = 1 - t**2
    rise = np.diff(f)
    inside = (f[:-1] + f[1:]) / 2 + m * h**2 / 8 + rise**2 / (2 * m * h**2)
    assert np.abs(rise[0]) < m * h**2 / 2
    np.testing.assert_allclose(upper_bounds(t, f), inside, rtol=16 * EPS)


def test_intervals_to_split() -> None:
    t = np.linspace(0, 1, 9)
    assert to_split(t, np.ones(9), 1e-12).size == 0
    assert to_split(t, 3 - 2 * t, 1e-12).size == 0
    bump = np.exp(-((t - 0.5) ** 2) / 2e-3)  # seen by one place alone
    np.testing.assert_array_equal(to_split(t, bump, 1e-3), [7 / 16, 9 / 16])
    assert to_split(t, np.where(t == 0.5, np.nan, bump), 1e-3).size == 0
    assert to_split(np.array([0.0, 1.0]), np.array([1.0, 1.0]), 1e-3).tolist() == [0.5]


def test_intervals_are_split_for_the_barrier_too() -> None:
    """High above the line between the ends, yet far below the highest value."""
    t = np.linspace(0, 1, 17)
    losses = 10 * t + np.exp(-(((t - 0.3) / 0.06) ** 2))
    middles = to_split(t, losses, 1e-4)
    assert ((middles > 0.25) & (middles < 0.35)).any()


# -- closed forms -----------------------------------------------------------------------------------------------------


def test_ring_loss_on_the_line_and_on_the_bezier_curve() -> None:
    objective = point_objective(ring)
    ends = vector(1.0, 0.0), vector(0.0, 1.0)
    line = measure_path(objective, ends, t=5)
    assert line.mc == pytest.approx(-0.25, abs=4 * EPS)
    assert line.barrier == pytest.approx(0.25, abs=4 * EPS)
    assert line.maximum["loss"].t == 0.5
    assert line.length == line.distance == pytest.approx(math.sqrt(2))
    bend = (math.sqrt(2) - 0.5) * torch.ones(2, dtype=torch.float64)
    path = measure_path(objective, curve_from_points(objective, [ends[0], bend, ends[1]], "bezier"), t=5)
    assert path.mc == pytest.approx(-2.587e-4, abs=5e-8)
    assert path.maximum["loss"].t == 0.25
    assert path.distance == pytest.approx(math.sqrt(2))
    assert path.length > path.distance


def test_values_errors_and_mean_along_a_chain_are_those_of_a_naive_loop() -> None:
    targets = torch.randn(37, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    objective = ls.Objective(
        Point(0.0, 0.0, 0.0), None, [targets[:20], targets[20:]], forward=lambda m, b: (m.p - b).square().sum(1)
    )
    corners = [vector(0, 0, 0), vector(3, 0, 0), vector(3, 1, 0)]
    path = measure_path(objective, curve_from_points(objective, corners), t=[0.25, 0.75, 0.5, 0.125])
    np.testing.assert_array_equal(path.t, [0, 0.125, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(path.arc, [0, 0.75, 1.5, 3, 3.5, 4], rtol=4 * EPS)
    places = np.array([[0, 0, 0], [0.75, 0, 0], [1.5, 0, 0], [3, 0, 0], [3, 0.5, 0], [3, 1, 0]])
    losses = ((places[:, None] - targets.numpy()) ** 2).sum(-1)
    np.testing.assert_allclose(path.values["loss"], losses.mean(1), rtol=1e-14)
    np.testing.assert_allclose(path.stderr["loss"], losses.std(1, ddof=1) / math.sqrt(37), rtol=1e-12)
    weights = np.diff(path.arc)
    mean = (weights * (losses.mean(1)[1:] + losses.mean(1)[:-1]) / 2).sum() / 4
    assert path.mean["loss"] == pytest.approx(mean, rel=1e-14)
    assert path.minimum["loss"].value == path.values["loss"].min()
    assert path.maximum["loss"].stderr == path.stderr["loss"][path.values["loss"].argmax()]


def test_mc_is_of_the_error_in_per_cent_where_it_was_measured() -> None:
    data = samples(60)
    ends = [batchnorm_net(0), batchnorm_net(1)]
    found = {}
    for metrics in ((), ("error",), ("accuracy",)):
        objective = ls.Objective(ends[0], "cross_entropy", data, metrics=metrics)
        found[metrics] = measure_path(objective, ends, t=5)
    assert found[()].mc == mode_connectivity(found[()].values["loss"])
    expected = mode_connectivity(100 * found[("error",)].values["error"])
    assert abs(expected) > 1
    assert found[("error",)].mc == pytest.approx(expected, rel=1e-13)
    assert found[("accuracy",)].mc == pytest.approx(expected, rel=1e-13)
    assert found[("error",)].mc_quantity == "error in per cent"
    with pytest.raises(InputError, match="no quantity 'eror'; did you mean 'error'"):
        found[("error",)].mc_of("eror")


def test_nan_and_inf_are_results() -> None:
    nan = line_of(lambda t: torch.where((t - 0.5).abs() < 0.05, math.nan, t), t=11, tol=1e-3)
    assert nan.complete
    assert np.isnan(nan.values["loss"]).sum() == 1
    assert math.isnan(nan.maximum["loss"].value)
    assert nan.maximum["loss"].t == 0.5
    assert math.isnan(nan.barrier)
    assert math.isnan(nan.mc)
    inf = line_of(lambda t: torch.where(t > 0.75, math.inf, t), t=5)
    assert inf.maximum["loss"].value == math.inf
    assert inf.minimum["loss"].value == 0.0
    assert math.isnan(inf.barrier)


def test_one_vector_serves_all_places(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    evaluate = Objective.estimates_and_replicates

    def watched(self: Objective, theta: Any = None, **options: Any) -> Any:
        seen.append(theta.data_ptr())
        return evaluate(self, theta, **options)

    objective = point_objective(ring)
    monkeypatch.setattr(Objective, "estimates_and_replicates", watched)
    measure_path(objective, [vector(1.0, 0.0), vector(0.0, 1.0)], t=9)
    assert len(seen) == 9
    assert len(set(seen)) == 1


# -- BatchNorm --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batchnorm", ["reestimated", "frozen", "interpolated"])
def test_ends_are_the_end_models_bit_for_bit(batchnorm: str) -> None:
    """Also in float32, and for models evaluated as objectives of their own."""
    for dtype in (torch.float64, torch.float32):
        data, statistics = samples(83, dtype=dtype), samples(120, 5, dtype)
        ends = [batchnorm_net(0, dtype), batchnorm_net(1, dtype)]
        objective = ls.Objective(ends[0], "cross_entropy", data, metrics=("error",))
        given = statistics if batchnorm == "reestimated" else None
        path = measure_path(objective, ends, 3, batchnorm, given)
        for place, net in ((0, ends[0]), (-1, ends[1])):
            alone = ls.Objective(net, "cross_entropy", data, metrics=("error",))
            buffers = None
            if batchnorm == "reestimated":
                buffers = alone.reestimate(alone.theta, alone.read_statistics(statistics))
            if batchnorm == "frozen":
                buffers = objective.buffers
            expected = alone.evaluate(buffers=buffers)
            for name in ("loss", "error"):
                assert path.values[name][place] == float(expected[name])
                assert path.stderr[name][place] == expected[name].stderr


def test_batchnorm_modes_against_a_naive_twin() -> None:
    data, statistics = samples(83), samples(120, 5)
    nets = [batchnorm_net(0), batchnorm_net(1)]
    middle = (flat(nets[0]) + flat(nets[1])) / 2
    objective = ls.Objective(nets[0], "cross_entropy", data, metrics=("error",))
    reestimated = measure_path(objective, nets, 3, statistics=statistics)
    assert reestimated.attributes["batchnorm"] == "reestimated"
    assert reestimated.attributes["statistics_samples"] == 120
    frozen = measure_path(objective, nets, 3, "frozen")
    interpolated = measure_path(objective, nets, 3, "interpolated")
    own = measure_path(objective, nets, 3)
    mixed = batchnorm_net(0)
    between = {
        name: (value + nets[1].state_dict()[name]) / 2 if value.is_floating_point() else value
        for name, value in nets[0].state_dict().items()
    }
    mixed.load_state_dict(between)
    for path, net, used in (
        (reestimated, nets[0], statistics[0]),
        (own, nets[0], data[0]),
        (frozen, nets[0], None),
        (interpolated, mixed, None),
    ):
        loss, error = naive(net, middle, used, data)
        assert path.values["loss"][1] == pytest.approx(loss, rel=1e-12)
        assert path.values["error"][1] == pytest.approx(error, abs=1e-12)
    losses = [path.values["loss"][1] for path in (reestimated, own, frozen, interpolated)]
    assert min(abs(a - b) for a in losses for b in losses if a is not b) > 1e-4


def test_without_batchnorm_nothing_is_estimated() -> None:
    path = line_of(lambda t: t, t=3)
    assert path.attributes["batchnorm"] == "frozen"
    assert not path.statistics_stderr


def test_test_data_are_evaluated_on_the_same_model() -> None:
    data, test = samples(83), samples(47, 7)
    nets = [batchnorm_net(0), batchnorm_net(1)]
    objective = ls.Objective(nets[0], "cross_entropy", data, metrics=("error",))
    path = measure_path(objective, nets, 3, test=test)
    loss, error = naive(nets[0], (flat(nets[0]) + flat(nets[1])) / 2, data[0], test)
    assert path.values["test_loss"][1] == pytest.approx(loss, rel=1e-12)
    assert path.values["test_error"][1] == pytest.approx(error, abs=1e-12)
    assert path.attributes["test_samples"] == 47
    assert set(path.statistics_stderr) == {"loss", "error"}


def shuffled(count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The order in which samples are dealt out to the quarters, as documented: Philox of ("parts")."""
    return np.random.Generator(np.random.Philox(key=derive_seed(0, "parts"))).permutation(count)


def test_statistics_error_does_not_depend_on_the_order_of_the_data() -> None:
    """Data are often stored class by class; quarters taken in that order would differ by far more than they should."""
    x, y = samples(1024)
    order = y.argsort(stable=True)
    nets = [batchnorm_net(0), batchnorm_net(1)]
    x = x + 3.0 * y[:, None]  # so that classes have statistics of their own
    told = []
    for inputs, targets in ((x, y), (x[order], y[order])):
        path = measure_path(ls.Objective(nets[0], "cross_entropy", (inputs, targets)), nets, 3)
        told.append(np.nanmax(path.statistics_stderr["loss"]))
    assert told[1] < 5 * told[0]  # each from 4 values; it was 100 times as much


def test_statistics_error_is_that_of_four_quarters() -> None:
    data, statistics = samples(640), samples(130, 5)
    nets = [batchnorm_net(0), batchnorm_net(1)]
    objective = ls.Objective(nets[0], "cross_entropy", data, metrics=("error",))
    path = measure_path(objective, nets, 9, statistics=statistics)
    highest = path.values["loss"].argmax()
    other = 4 if highest != 4 else 2
    known = np.flatnonzero(np.isfinite(path.statistics_stderr["loss"]))
    assert set(known) == {highest, other}
    order = shuffled(130)
    rows = np.sort(shuffled(640)[:40])
    for place in known:
        theta = (1 - path.t[place]) * flat(nets[0]) + path.t[place] * flat(nets[1])
        few = (data[0][rows], data[1][rows])
        quarters = [naive(nets[0], theta, statistics[0][np.sort(order[k::4])], few) for k in range(4)]
        for name, values in zip(("loss", "error"), zip(*quarters, strict=True), strict=True):
            expected = np.std(values, ddof=1) / 2
            assert path.statistics_stderr[name][place] == pytest.approx(expected, rel=1e-9, abs=1e-12), name


def test_statistics_error_is_the_spread_over_samples_of_the_population() -> None:
    """The mean square of the error told, against the variance over 60 independent sets of statistics."""
    nets = [batchnorm_net(0), batchnorm_net(1)]
    data = samples(32)  # few enough that the spread is measured on all of them
    objective = ls.Objective(nets[0], "cross_entropy", data)
    values, told = [], []
    for seed in range(60):
        path = measure_path(objective, nets, [0.5], statistics=samples(400, 100 + seed))
        values.append(path.values["loss"][1])
        told.append(path.statistics_stderr["loss"][1] ** 2)
    # Relative standard errors: of a variance from 60 values, and of a mean of 60 variances from 4 values each.
    allowed = 3 * math.hypot(math.sqrt(2 / 59), math.sqrt(2 / 3 / 60))
    known = np.isfinite(told)
    assert known.all()
    assert np.mean(told) / np.var(values, ddof=1) == pytest.approx(1, abs=allowed)


def test_users_own_batches_are_parted_whole() -> None:
    def forward(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return model(batch[0]), batch[1]

    x, y = samples(96)
    for size, parts in ((16, 4), (48, 0)):
        batches = [(x[i : i + size], y[i : i + size]) for i in range(0, 96, size)]
        objective = ls.Objective(batchnorm_net(0), "cross_entropy", batches, forward=forward)
        path = measure_path(objective, [batchnorm_net(0), batchnorm_net(1)], 5)
        assert bool(path.statistics_stderr) == bool(parts)
        if parts:
            place = path.values["loss"].argmax()
            theta = (1 - path.t[place]) * flat(batchnorm_net(0)) + path.t[place] * flat(batchnorm_net(1))
            dealt = [np.sort(shuffled(6)[k::4]) for k in range(4)]  # of 6 batches: 2, 2, 1, 1
            mine = [torch.cat([batches[b][0] for b in numbers]) for numbers in dealt]
            quarters = [naive(batchnorm_net(0), theta, inputs, (x[:16], y[:16]))[0] for inputs in mine]
            expected = np.std(quarters, ddof=1) / 2
            assert path.statistics_stderr["loss"][place] == pytest.approx(expected, rel=1e-9)


def test_statistics_error_costs_less_than_a_twentieth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples that pass the network, for 61 places."""
    data, statistics = samples(3200), samples(1600, 5)
    objective = ls.Objective(batchnorm_net(0), "cross_entropy", data)
    passed: Counter[str] = Counter()
    reestimate = Objective.reestimate

    def counting(name: str) -> Any:
        evaluate = getattr(Objective, name)

        def evaluating(self: Objective, theta: Any = None, **options: Any) -> Any:
            passed["loss"] += self.samples
            return evaluate(self, theta, **options)

        return evaluating

    def estimating(self: Objective, theta: Any, given: Any = None) -> Any:
        passed["statistics"] += given.samples
        return reestimate(self, theta, given)

    for name in ("estimates", "estimates_and_replicates"):
        monkeypatch.setattr(Objective, name, counting(name))
    monkeypatch.setattr(Objective, "reestimate", estimating)
    path = measure_path(objective, [batchnorm_net(0), batchnorm_net(1)], statistics=statistics)
    assert np.isfinite(path.statistics_stderr["loss"]).sum() == 2
    assert 61 * 3200 < passed["loss"] <= 1.05 * 61 * 3200
    assert 61 * 1600 < passed["statistics"] <= 1.05 * 61 * 1600


# -- refinement -------------------------------------------------------------------------------------------------------


def test_maximum_of_a_narrow_bump_is_found_to_tol() -> None:
    """Width 0.004 on places 1/60 apart: the first round sees 1 part in 30 of its height."""

    def bump(t: Any) -> Any:
        return 1 + 0.5 * t + 2 * torch.exp(-(((t - 0.4065) / 0.004) ** 2))

    dense = torch.linspace(0.38, 0.43, 200_001, dtype=torch.float64)
    truth = float(bump(dense).max())
    above = float((bump(dense) - 1 - 0.5 * dense).max())
    coarse = line_of(bump)
    assert truth - coarse.maximum["loss"].value > 0.5
    for tol in (1e-2, 1e-5):
        path = line_of(bump, tol=tol)
        assert 0 <= truth - path.maximum["loss"].value <= tol
        assert 0 <= above - path.barrier <= tol
        assert path.maximum_excess <= tol
        assert 61 < len(path.t) < 110
        assert path.attributes["tol"] == tol


def test_resumed_refinement_equals_the_uninterrupted_one(tmp_path: FilePath) -> None:
    whole = path_cases.path(out=tmp_path / "whole")
    assert len(Store.open(tmp_path / "whole").manifest()["rounds"]) >= 4
    assert (tmp_path / "whole" / "landscape.h5").is_file()
    folder = tmp_path / "parts"
    lengths = []
    for _ in range(40):
        part = path_cases.path(out=folder, limit_items=3)
        lengths.append(len(part.t))
        done = part.computed
        there = np.isin(whole.t, part.t[done])
        np.testing.assert_array_equal(part.values["loss"][done], whole.values["loss"][there])
        if (folder / "landscape.h5").is_file():
            break
    assert (folder / "landscape.h5").is_file()
    assert len(set(lengths)) > 2  # several rounds, each met in an attempt of its own
    for name, column in Store.open(tmp_path / "whole").rows().columns.items():
        assert column.tobytes() == Store.open(folder).rows().columns[name].tobytes()
    assert Store.open(folder).manifest()["rounds"] == Store.open(tmp_path / "whole").manifest()["rounds"]
    again = path_cases.path(out=folder)
    np.testing.assert_array_equal(again.values["loss"], whole.values["loss"])


def test_partial_path_is_masked(tmp_path: FilePath) -> None:
    objective = along(lambda t: t * (1 - t))
    path = measure_path(objective, [vector(0.0), vector(1.0)], t=5, out=tmp_path / "run", limit_items=3)
    assert path.computed.tolist() == [True, True, True, False, False]
    assert np.isnan(path.values["loss"][3:]).all()
    assert not path.complete
    assert math.isnan(path.mc)
    assert path.maximum["loss"].value == 0.25
    assert not (tmp_path / "run" / "landscape.h5").exists()


def test_a_noisy_loss_ends_with_a_warning(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(path_module, "_MOST", 100)
    with caplog.at_level(logging.WARNING, "landscape"):
        path = line_of(lambda t: torch.sin(1e5 * t), tol=1e-3)
    assert path.complete
    assert 100 <= len(path.t) <= 200
    assert path.maximum_excess > 1e-3
    assert "known to" in caplog.text
    assert "not to tol=0.001" in caplog.text


def test_intervals_have_a_shortest_length() -> None:
    path = line_of(lambda t: torch.where(t > 0.3, 1.0 - 0 * t, t), t=5, tol=1e-9)
    assert 2.0**-22 < np.diff(path.t).min() <= 2.0**-20
    assert len(path.t) < 120


def test_bf16_runs_and_keeps_its_ends() -> None:
    data = samples(83, dtype=torch.float32)
    nets = [batchnorm_net(0, torch.float32), batchnorm_net(1, torch.float32)]
    low = ls.Objective(nets[0], "cross_entropy", data, precision="bf16")
    path = measure_path(low, nets, 3)
    full = measure_path(ls.Objective(nets[0], "cross_entropy", data), nets, 3)
    np.testing.assert_allclose(path.values["loss"], full.values["loss"], rtol=3 * 2.0**-8)
    assert path.values["loss"][0] == float(low.evaluate(buffers=low.reestimate(low.theta))["loss"])
    assert path.values["loss"][0] != full.values["loss"][0]


# -- what is refused --------------------------------------------------------------------------------------------------


def two_nets() -> tuple[ls.Objective, list[nn.Sequential]]:
    nets = [batchnorm_net(0), batchnorm_net(1)]
    return ls.Objective(nets[0], "cross_entropy", samples(40)), nets


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"t": 1}, "t=1 places; a path has its two ends"),
        ({"t": [0.5, 1.5]}, r"t holds 1.5; a curve runs from 0 to 1"),
        ({"t": (0, 1, 5)}, r"t=\[0, 0.25, 1\]; it takes no \(start, stop, n\)"),
        ({"t": [0.5, math.nan]}, r"t holds nan; a curve runs from 0 to 1"),
        ({"t": []}, r"t of shape \(0,\)"),
        ({"tol": 0.0}, "tol=0.0; give a finite number above 0"),
        ({"batchnorm": "fresh"}, "batchnorm='fresh'; give one of frozen, reestimated, interpolated"),
        ({"batchnorm": "frozen", "statistics": samples(40)}, "does not use them; say 'reestimated'"),
        ({"statistics": samples(31)}, "31 samples .* too few, at least 32 .* 10 % with 100, 1 % with 10,000"),
        ({"statistics": (torch.zeros(0, 5), torch.zeros(0, dtype=torch.long))}, "empty"),
    ],
)
def test_bad_options_are_refused_before_any_work(
    options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective, nets = two_nets()
    monkeypatch.setattr(Objective, "estimates_and_replicates", lambda *_, **__: pytest.fail("computed"))
    with pytest.raises(InputError, match=message):
        measure_path(objective, nets, **options)


def test_own_data_can_be_too_few_for_statistics() -> None:
    nets = [batchnorm_net(0), batchnorm_net(1)]
    objective = ls.Objective(nets[0], "cross_entropy", samples(20))
    with pytest.raises(InputError, match=r"20 samples .* batchnorm='frozen'"):
        measure_path(objective, nets)
    assert measure_path(objective, nets, 2, "frozen").complete


def test_bad_curves_are_refused() -> None:
    objective, nets = two_nets()
    with pytest.raises(InputError, match="identical"):
        measure_path(objective, [nets[0], nets[0]])
    with pytest.raises(InputError, match="one model given; a straight line joins 2"):
        measure_path(objective, "model.pt")
    with pytest.raises(InputError, match=r"3 models given; .* use curve_from_points"):
        measure_path(objective, [*nets, nets[0]])
    with pytest.raises(InputError, match="trainable ones"):
        measure_path(objective, Curve("bezier", torch.zeros(3, 4)))
    with pytest.raises(InputError):
        measure_path(objective, [nets[0], nn.Linear(5, 3)])
    line = [flat(net) for net in nets]
    with pytest.raises(InputError, match="needs a straight line between two models given with their buffers"):
        measure_path(objective, line, batchnorm="interpolated")
    bent = curve_from_points(objective, [nets[0], nets[1], nets[0]])
    with pytest.raises(InputError, match="needs a straight line"):
        measure_path(objective, bent, batchnorm="interpolated")
    plain = point_objective(ring)
    with pytest.raises(InputError, match="no BatchNorm layer"):
        measure_path(plain, [vector(1, 0), vector(0, 1)], batchnorm="reestimated")
    with pytest.raises(InputError, match="statistics are given, but the model has no BatchNorm"):
        measure_path(plain, [vector(1, 0), vector(0, 1)], statistics=[torch.zeros(40)])


def test_batchnorm_without_statistics_is_refused() -> None:
    net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, 3)).double()
    with pytest.raises(InputError, match="track_running_stats=False"):
        ls.Objective(net, "cross_entropy", samples(40))


def test_the_folder_of_another_path_is_refused(tmp_path: FilePath) -> None:
    objective, nets = two_nets()
    measure_path(objective, nets, 3, out=tmp_path)
    for options in ({"t": 5}, {"tol": 0.1}, {"batchnorm": "frozen"}, {"statistics": samples(50)}, {"test": samples(9)}):
        with pytest.raises(InputError, match="holds a different run"):
            measure_path(objective, nets, **{"t": 3, "out": tmp_path, **options})  # type: ignore[arg-type]
    measure_path(objective, nets, 3, out=tmp_path / "test", test=samples(9))
    with pytest.raises(InputError, match=r"holds a different run[^$]*test: "):
        measure_path(objective, nets, 3, out=tmp_path / "test", test=samples(9, 1))


# -- a published curve ------------------------------------------------------------------------------------------------


class ConvNet(nn.Module):
    """The network of the published curve."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((3, 16), (16, 32), (32, 64)):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers[:-1], nn.AdaptiveAvgPool2d(4))
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Dropout(0.3), nn.Linear(1024, 256), nn.ReLU(), nn.Dropout(0.3), nn.Linear(256, 10)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))  # type: ignore[no-any-return]


def test_published_curve_between_convolutional_networks() -> None:
    """All 10,000 CIFAR-10 test images: the ends and the middle of the curve, a point of the stored plane."""
    folder = shared("data", "ckpt_cifar10_convnet_curve")
    with np.load(shared("data", "cifar10", "cifar10_test.npz")) as file:
        images, labels = torch.from_numpy(file["x"]).float() / 255, torch.from_numpy(file["y"]).long()
    objective = ls.Objective(ConvNet(), "cross_entropy", (images, labels), metrics=("accuracy",))
    points = [folder / f"{name}.safetensors" for name in ("start", "theta", "end")]
    curve = curve_from_points(objective, points, "bezier")
    path = measure_path(objective, curve, [0.5])
    known = json.loads((folder / "README.json").read_text())["measured_here"]
    published = np.array(known["bezier_test"])[[0, 5, 10]]
    np.testing.assert_allclose(path.values["loss"], published[:, 1], rtol=1e-6)
    np.testing.assert_allclose(path.values["accuracy"], published[:, 2], atol=1e-6)
    assert path.mc == pytest.approx(100 * (0.776 - (0.8025 + 0.7918) / 2), abs=1e-4)
    start, theta, end = curve.control_points
    with np.load(folder / "lossmesh.npz") as mesh:
        x, y, loss = (float(mesh[name][10, 12]) for name in ("x", "y", "loss"))
    value = objective.evaluate(theta + x * (start - theta) + y * (end - theta))["loss"]
    assert float(value) == pytest.approx(loss, rel=1e-6)
