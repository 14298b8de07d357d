"""Basins against closed forms and against a plain loop over forward passes."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from landscape_kernels.probes import normal_vector
from landscape_kernels.volumes import log_unit_ball
from scipy.stats import ncx2
from torch import Tensor, nn

import landscape as ls
from landscape.objective import stacked
from landscape.objective.stacked import Stacked
from landscape.studies.basin.pictures import plot_boundary, plot_minima, plot_volumes

K = np.logspace(-1, 1, 20)
EXACT = -42.777344  # ln of the volume of sum K w^2 / 2 < 0.01


class Quadratic(nn.Module):
    """Outputs whose mean square is sum_i k_i w_i^2 / 2, around `centre`."""

    def __init__(self, k: np.ndarray, at: float = 0.0) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.full((len(k),), at, dtype=torch.float64))
        self.root = torch.from_numpy(np.sqrt(k * len(k) / 2))
        self.at = at

    def forward(self, x: Tensor) -> Tensor:
        return (self.root * (self.w - self.at)).expand(len(x), -1)


def quadratic(k: np.ndarray, at: float = 0.0) -> ls.Objective:
    data = torch.zeros(2, 1, dtype=torch.float64), torch.zeros(2, len(k), dtype=torch.float64)
    return ls.Objective(Quadratic(k, at), "mse", data, device="cpu")


def test_isotropic_is_exact_for_every_direction() -> None:
    basin = ls.measure_basin(quadratic(np.full(12, 3.0)), 0.5, directions=40, kind="gaussian")
    np.testing.assert_allclose(basin.radii, math.sqrt(2 * 0.5 / 3), rtol=1e-6)
    np.testing.assert_allclose(basin.lengths, 1.0, rtol=1e-12)
    exact = log_unit_ball(12) + 6 * math.log(2 * 0.5 / 3)
    assert float(basin.log_volume) == pytest.approx(exact, abs=12e-6)
    assert basin.log_volume.believable
    np.testing.assert_allclose(basin.profiles / 0.5, np.tile(basin.places**2, (len(basin.profiles), 1)), rtol=1e-5)


def test_ellipsoid_is_told_to_be_too_low() -> None:
    found = ls.measure_basin(quadratic(K), 0.01, directions=100, kind="gaussian")
    assert float(found.log_volume) < EXACT - 1
    assert not found.log_volume.believable
    assert found.log_volume.interval[0] < EXACT
    assert "precondition='diagonal'" in found.believed


@pytest.mark.parametrize("precondition", ["diagonal", "krylov", "adam"])
def test_a_preconditioner_makes_one_direction_enough(precondition: str) -> None:
    given = {"w": torch.from_numpy(K)} if precondition == "adam" else None
    found = ls.measure_basin(quadratic(K), 0.01, "loss", 2, "gaussian", precondition, second_moments=given)
    assert found.contributions == pytest.approx(np.full(2, EXACT), abs=1e-4)
    assert found.log_volume.believable


class Rotated(nn.Module):
    """A quadratic whose axes are not the parameters': one steep direction beside a diagonal."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(30, dtype=torch.float64))
        v = normal_vector(30, 3)
        matrix = torch.diag(torch.logspace(0, 0.5, 30, dtype=torch.float64)) + 30 * torch.outer(v, v) / (v @ v)
        self.matrix = matrix
        self.root = torch.linalg.cholesky(matrix).T * math.sqrt(30 / 2)

    def forward(self, x: Tensor) -> Tensor:
        return (self.root @ self.w).expand(len(x), -1)


def test_krylov_finds_what_a_diagonal_cannot() -> None:
    data = torch.zeros(2, 1, dtype=torch.float64), torch.zeros(2, 30, dtype=torch.float64)
    objective = ls.Objective(Rotated(), "mse", data, device="cpu")
    spreads = []
    for precondition in (None, "diagonal", "krylov"):
        found = ls.measure_basin(objective, 0.1, "loss", 100, "gaussian", precondition)
        spreads.append(found.log_volume.spread)
    exact = log_unit_ball(30) + 15 * math.log(0.2) - float(torch.logdet(Rotated().matrix)) / 2
    assert float(found.log_volume) == pytest.approx(exact, abs=0.02)
    assert spreads[2] < 0.1 * spreads[1] < spreads[0]


def test_prior_is_a_noncentral_chi_square() -> None:
    """A ball of radius 1 around theta, |theta|^2 = 5 * 0.36, under N(0, 0.7^2 I)."""
    found = ls.measure_basin(quadratic(np.full(5, 2.0), 0.6), 1.0, "loss", 500, "gaussian", None, 0.7)
    exact = math.log(ncx2.cdf(1 / 0.49, 5, 5 * 0.36 / 0.49))
    assert abs(float(found.log_volume) - exact) < 3 * found.log_volume.stderr
    assert found.log_volume.believable
    # what the same directions say of all of space is near 0, as they see the prior here
    assert abs(found.attributes["whole_prior"]) < 0.5


def test_a_basin_that_reaches_past_the_prior_is_told() -> None:
    """In 200 dimensions no direction from theta sees the prior, and the basin is wide: the estimate is of all space."""
    found = ls.measure_basin(quadratic(np.full(200, 1e-6), 1.0), 1.0, "loss", 20, "gaussian", None, 0.05)
    assert float(found.log_volume) == pytest.approx(found.attributes["whole_prior"])
    assert float(found.log_volume) < -10_000
    assert "reaches past the prior" in found.believed


# -- a network -------------------------------------------------------------------------------------------------------


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def data(count: int = 50) -> tuple[Tensor, Tensor]:
    inputs = normal_vector(4 * count, 1).reshape(count, 4)
    return inputs, (inputs[:, :3] + 0.3 * inputs[:, 1:]).argmax(1)


@pytest.fixture(scope="module")
def trained() -> ls.Objective:
    model, (inputs, labels) = net(), data()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(80):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    return ls.Objective(model, data=(inputs, labels), metrics=("error",), device="cpu")


MODEL, DATA = net(), data()


def value(objective: ls.Objective, theta: Tensor, of: str) -> float:
    """By plain torch, one forward pass."""
    model, (inputs, labels) = MODEL, DATA

    def scores(vector: Tensor) -> Tensor:
        torch.nn.utils.vector_to_parameters(vector, model.parameters())
        with torch.no_grad():
            return model(inputs)

    at = scores(theta)
    if of == "error":
        return float((at.argmax(1) != labels).double().mean())
    if of == "loss":
        return float(nn.functional.cross_entropy(at, labels))
    p, q = torch.distributions.Categorical(logits=scores(objective.theta)), torch.distributions.Categorical(logits=at)
    return float(torch.distributions.kl_divergence(p, q).mean())


def naive(objective: ls.Objective, direction: Tensor, of: str, cutoff: float) -> float:
    """A radius in small steps, then bisection."""
    theta, high = objective.theta, 1e-2
    while value(objective, theta + high * direction, of) < cutoff:
        high *= 1.2
    low = high / 1.2
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if value(objective, theta + middle * direction, of) < cutoff else (low, middle)
    return high


@pytest.mark.parametrize(("of", "cutoff"), [("loss", 0.8), ("kl", 0.05), ("error", 0.29)])
def test_radii_are_those_of_a_plain_loop(trained: ls.Objective, of: str, cutoff: float) -> None:
    basin = ls.measure_basin(trained, cutoff, of, directions=3, seed=3)
    plane = ls.random_plane(trained, seed=3, axes=3)
    expected = [naive(trained, d, of, cutoff) for d in plane.directions]
    np.testing.assert_allclose(basin.radii, expected, rtol=2e-6)
    assert basin.centre == pytest.approx(value(trained, trained.theta, of), abs=1e-12)
    assert basin.dimension == 4 * 6 + 6 * 3  # biases do not move
    at = value(trained, trained.theta + basin.places[3] * basin.radii[2] * plane.directions[2], of)
    assert basin.profiles[2, 3] == pytest.approx(at, abs=1e-12)


def test_side_by_side_is_one_after_another(trained: ls.Objective) -> None:
    class Alone(Stacked):
        def _settle(self, many: bool) -> None:
            super()._settle(many)
            self.width = 1

    thetas = torch.stack([trained.theta + 0.1 * k for k in range(5)])
    for of in ("loss", "error", "kl"):
        together, alone = Stacked(trained, of), Alone(trained, of)
        assert together.width > 1
        np.testing.assert_allclose(together.values(thetas), alone.values(thetas), rtol=1e-12, atol=1e-15)


def test_traced_is_one_after_another(trained: ls.Objective, monkeypatch: pytest.MonkeyPatch) -> None:
    """In chunks of 7 of 50 samples, of which some have no label."""
    monkeypatch.setattr(stacked, "_ACTIVATIONS", 7 * 16 * trained.values_per_sample)
    inputs, labels = data()
    objective = trained.on(trained.read((inputs, labels.where(torch.arange(50) % 5 > 0, -100))))
    thetas = torch.stack([trained.theta * (1 + 0.02 * k) for k in range(20)])
    together = Stacked(objective, many=True)
    assert together.objective.chunks == 8
    assert together._traced is not None
    expected = [float(objective.evaluate(theta)["loss"]) for theta in thetas]
    np.testing.assert_allclose(together.values(thetas), expected, rtol=1e-12)
    np.testing.assert_array_equal(together.values(thetas[17:]), together.values(thetas)[17:])


def test_models_that_cannot_be_stacked_are_computed_one_by_one() -> None:
    class Stubborn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(3, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return x * float(self.w.sum())

    inputs = torch.ones(4, 1, dtype=torch.float64)
    objective = ls.Objective(Stubborn(), "mse", (inputs, 3 * inputs), device="cpu")
    assert Stacked(objective).width == 1
    assert Stacked(objective).values(torch.zeros(1, 3)) == pytest.approx([9.0])


def test_resumed_and_repeated_are_the_same_bits(trained: ls.Objective, tmp_path: Path) -> None:
    asked = {"directions": 70, "kind": "gaussian", "seed": 5}
    whole = ls.measure_basin(trained, 0.8, **asked)
    part = ls.measure_basin(trained, 0.8, **asked, out=tmp_path / "run", limit_items=1)
    assert 0 < part.computed.sum() < 70
    assert not part.complete
    rest = ls.measure_basin(trained, 0.8, **asked, out=tmp_path / "run")
    np.testing.assert_array_equal(rest.radii, whole.radii)
    fewer = ls.measure_basin(trained, 0.8, **{**asked, "directions": 40})
    np.testing.assert_array_equal(fewer.radii[:32], whole.radii[:32])  # the blocks are the same
    np.testing.assert_allclose(fewer.radii, whole.radii[:40], rtol=1e-6)


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"cutoff": 1e-9}, "the centre lies outside"),
        ({"cutoff": math.nan}, "give a finite number"),
        ({"cutoff": "0.8"}, "cutoff='0.8'; give a finite number, or leave it out for 0.1"),
        ({"prior_sigma": "1", "kind": "gaussian"}, "prior_sigma='1'; give a finite number above 0"),
        ({"of": "error", "cutoff": 2.0}, "at most 1"),
        ({"of": "margin"}, "give one of loss, error, kl"),
        ({"kind": "sphere"}, "give one of filter, gaussian"),
        ({"directions": 0}, "whole number of 1 or more"),
        ({"rtol": 2.0}, "between 0 and 1"),
        ({"precondition": "diagonal"}, "needs kind='gaussian'"),
        ({"prior_sigma": 1.0}, "needs kind='gaussian'"),
        ({"prior_sigma": -1.0, "kind": "gaussian"}, "give a finite number above 0, or leave it out"),
        ({"precondition": "hessian", "kind": "gaussian"}, "diagonal, krylov, adam"),
        ({"second_moments": {}}, "used with precondition='adam' alone"),
        ({"second_moments": {}, "precondition": "adam", "kind": "gaussian"}, "nothing for parameter '0.weight'"),
        ({"second_moments": [1.0], "precondition": "adam", "kind": "gaussian"}, "second_moments is of type list"),
        ({"ignore": "*"}, "covers all parameters"),
    ],
)
def test_refused_before_computing(trained: ls.Objective, asked: dict[str, object], told: str, tmp_path: Path) -> None:
    with pytest.raises(ls.InputError, match=told):
        ls.measure_basin(trained, **{"cutoff": 0.8, "out": tmp_path / "run", **asked})
    assert not (tmp_path / "run").exists()


def test_what_is_no_objective_or_has_no_loss_is_refused() -> None:
    with pytest.raises(ls.InputError, match="a model without loss and data"):
        ls.measure_basin(net())  # type: ignore[arg-type]
    broken = net()
    for parameter in broken.parameters():
        parameter.data.fill_(math.nan)
    with pytest.raises(ls.InputError, match="the loss at the centre is nan, so it has no basin"):
        ls.measure_basin(ls.Objective(broken, data=data(), device="cpu", check=False))


@pytest.mark.parametrize("of", ["loss", "kl"])
def test_a_model_in_its_own_half_precision_is_refused(of: str) -> None:
    half = ls.Objective(net().bfloat16(), data=data(), device="cpu", precision="own")
    with pytest.raises(ls.InputError, match=r"rises near the centre need float32.*precision='float32'"):
        ls.measure_basin(half, 3.0, of=of, directions=2)


def test_of_kl_the_centre_is_the_smallest(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        basin = ls.measure_basin(ls.Objective(net(), data=data(), device="cpu"), 0.1, "kl", directions=3)
    assert "no minimum" not in caplog.text
    assert basin.attributes["minimum"] == 1
    assert basin.attributes["descent_gain"] > 0


def test_help_is_what_can_be_asked(trained: ls.Objective) -> None:
    """With filters, a preconditioner needs another kind; with one that is there, directions alone may be too few."""
    assert "'krylov', with kind='gaussian'" in ls.measure_basin(trained, 0.8, directions=5).believed
    gaussian = {"directions": 5, "kind": "gaussian"}
    assert "'krylov', with" not in ls.measure_basin(trained, 0.8, **gaussian).believed
    wide = ls.measure_basin(trained, 0.8, **gaussian, precondition="krylov")
    assert ("no number of them" in wide.believed) == (wide.log_volume.spread > 4)
    many = replace(wide, contributions=10 * np.arange(5.0))
    assert "no number of them" in many.believed
    error = ls.measure_basin(trained, 0.9, "error", **gaussian, prior_sigma=1.0)
    assert error.never > 0
    assert "no end" not in error.believed


def test_objectives_without_the_quantity_are_refused() -> None:
    objective = quadratic(np.ones(3))
    with pytest.raises(ls.InputError, match="metrics=\\('error',\\)"):
        ls.measure_basin(objective, 0.1, "error")
    with pytest.raises(ls.InputError, match="scores of classes"):
        ls.measure_basin(objective, 0.1, "kl")
    with pytest.raises(ls.InputError, match="parameters that are all zero"):
        ls.measure_basin(objective, 0.1)


def test_a_centre_that_is_no_minimum_is_told(caplog: pytest.LogCaptureFixture) -> None:
    objective = ls.Objective(net(), data=data(), device="cpu")
    with caplog.at_level(logging.WARNING):
        basin = ls.measure_basin(objective, 1.5, directions=3)
    assert "the centre is no minimum" in caplog.text
    assert basin.attributes["minimum"] == 0
    gain = basin.attributes["descent_gain"]
    with objective.differentiable() as (model, parameters):
        inputs, labels = data()
        slopes = torch.autograd.grad(nn.functional.cross_entropy(model(inputs), labels), parameters)
    slope = torch.cat([s.flatten() for s in slopes])
    for step in (0.5, 1.0, 2.0):
        assert value(objective, objective.theta - step * slope, "loss") > basin.centre - 1.3 * gain
    assert gain > basin.centre - value(objective, objective.theta - slope, "loss") - 0.02


def test_directions_that_never_cross_are_counted(trained: ls.Objective) -> None:
    """With 50 samples of three classes no direction makes nearly all of them wrong."""
    basin = ls.measure_basin(trained, 0.9, "error", directions=5)
    assert basin.never > 0
    assert len(basin.radii) == 5
    assert np.isinf(basin.radii).sum() == basin.never
    assert "never cross" in repr(basin)
    assert "give prior_sigma" in basin.believed
    assert not basin.log_volume.believable
    prior = ls.measure_basin(trained, 0.9, "error", directions=5, kind="gaussian", prior_sigma=1.0)
    assert np.isfinite(float(prior.log_volume))


# -- pictures of several ---------------------------------------------------------------------------------------------


def test_pictures_of_volumes_and_boundaries(trained: ls.Objective) -> None:
    basins = [ls.measure_basin(quadratic(np.full(4, k)), 0.1, directions=5, kind="gaussian") for k in (1.0, 4.0)]
    (ax,) = plot_volumes(basins, [0.5, 0.9], labels=["poisoned", "clean"]).axes
    drawn = [line.get_ydata()[0] for line in ax.lines if len(line.get_ydata()) == 1]
    assert float(basins[0].log_volume) in drawn
    with pytest.raises(ls.InputError, match="one for each"):
        plot_volumes(basins, [0.5])
    torch.manual_seed(0)
    inputs = torch.randn(30, 2)
    flat = ls.Objective(nn.Linear(2, 3), data=(inputs, torch.arange(30) % 3), device="cpu")
    assert plot_boundary(flat).axes[0].collections
    with pytest.raises(ls.InputError, match="inputs \\(samples, 2\\)"):
        plot_boundary(trained)


def test_minima_lie_where_their_plane_has_them() -> None:
    """Coordinates, colours by value, a marker for each label; what is not known has no colour."""
    torch.manual_seed(0)
    model = nn.Linear(2, 2, bias=False)
    places = [torch.tensor(p) for p in ([0.0, 0, 0, 0], [3.0, 0, 0, 0], [0.0, 2, 0, 0], [0.0, 0, 0, 0.1])]
    objective = ls.Objective(model, data=(torch.randn(9, 2), torch.arange(9) % 2), check=False)
    plane = ls.pca_plane(objective, places)
    assert plane.points is not None
    axes = plot_minima(plane, [0.9, 0.5, math.nan, 0.7], labels=["good", "bad", "bad", "good"]).axes
    drawn = {tuple(at) for part in axes[0].collections for at in np.round(part.get_offsets(), 9).tolist()}
    assert drawn == {tuple(at) for at in np.round(plane.points.coordinates, 9).tolist()}
    coloured = [part for part in axes[0].collections if part.get_array() is not None]
    assert [part.get_array().tolist() for part in coloured] == [[0.9, 0.7], [0.5]]
    assert axes[1].get_ylabel() == "test accuracy"
    assert " % of the variance" in axes[0].get_xlabel()
    with pytest.raises(ls.InputError, match="4 models with 1 values"):
        plot_minima(plane, [0.5])
    with pytest.raises(ls.InputError, match="has 2 axes and no points"):
        plot_minima(ls.random_plane(objective), [0.5])
    for wrong in (0.5, ["good"] * 4, [None] * 4):
        with pytest.raises(ls.InputError, match=r"values=.*; give a list, each a number"):
            plot_minima(plane, wrong)  # type: ignore[arg-type]
    with pytest.raises(ls.InputError, match=r"plane=.*; give a plane, as"):
        plot_minima([0.5], plane)  # type: ignore[arg-type]


def test_what_falls_again_is_told() -> None:
    """The cutoff is first met at about 0.6, and the search begins beyond the hill, at a tenth of |w| = 20."""
    data = torch.zeros(2, 1, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64)

    def hilly(w: Tensor, _: Tensor) -> Tensor:
        r = (w - 20 / math.sqrt(2)).norm(dim=1)
        return 0.05 * r**2 + 2 * torch.exp(-(((r - 1) / 0.3) ** 2))

    class Weights(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.full((2,), 20 / math.sqrt(2), dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return self.w.expand(len(x), -1)

    found = ls.measure_basin(ls.Objective(Weights(), hilly, data), 0.5, directions=40, kind="gaussian")
    np.testing.assert_allclose(found.radii, math.sqrt(10), rtol=1e-3)
    assert found.crossed_before == len(found.profiles) == 32
    assert not found.log_volume.believable
    assert found.log_volume.interval == (-math.inf, math.inf)
    assert "along 32 of 32 directions that were looked at, loss comes to the cutoff before" in found.believed


def test_with_a_prior_a_volume_has_an_end_where_radii_have_none() -> None:
    """And what is told of it does not ask for one."""
    data = torch.zeros(2, 1, dtype=torch.float64), torch.zeros(2, 3, dtype=torch.float64)
    objective = ls.Objective(Quadratic(np.ones(3)), lambda out, _: torch.tanh(out.square().sum(1)), data)
    plain = ls.measure_basin(objective, 2.0, directions=5, kind="gaussian")
    assert plain.never == 5
    assert "the volume has no end" in plain.believed
    found = ls.measure_basin(objective, 2.0, directions=1, kind="gaussian", prior_sigma=1.0)
    assert found.never == 1
    assert float(found.log_volume) == pytest.approx(0.0, abs=1e-9)
    assert "no end" not in found.believed


def test_second_moments_of_another_shape_are_refused() -> None:
    model = nn.Linear(4, 3)
    objective = ls.Objective(model, data=(torch.randn(6, 4), torch.arange(6) % 3))
    given = {"weight": torch.ones(4, 3), "bias": torch.ones(3)}
    with pytest.raises(ls.InputError, match=r"second_moments of 'weight' have shape \(4, 3\), and the parameter"):
        ls.measure_basin(objective, 9.0, directions=2, kind="gaussian", precondition="adam", second_moments=given)
