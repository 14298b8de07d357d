"""Surfaces against closed forms: quadratic losses whose value at every point is known."""

from __future__ import annotations

import copy
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import surface_cases
import torch
from torch import Tensor, nn

import landscape as ls
from landscape.errors import InputError, StoreError
from landscape.planes.plane import PlanePoints

SIZE = 7
EPS = np.finfo(np.float64).eps


class Point(nn.Module):
    """A model that is nothing but its parameters."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.a = nn.Parameter(values[:3].clone())
        self.b = nn.Parameter(values[3:].reshape(2, 2).clone())


def at(model: nn.Module) -> Tensor:
    return torch.cat([p.reshape(-1) for p in model.parameters()])


def targets() -> Tensor:
    return torch.randn(10, SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def centre() -> Tensor:
    return torch.linspace(-1, 2, SIZE, dtype=torch.float64)


def quadratic(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Half the squared distance from each sample's target."""
    return 0.5 * (at(model) - batch[0]).square().sum(1)


def true_loss(theta: np.ndarray | Tensor) -> tuple[float, float]:
    """(mean, standard error) of the loss at theta, written out."""
    losses = 0.5 * ((np.asarray(theta) - targets().numpy()) ** 2).sum(1)
    return float(losses.mean()), float(losses.std(ddof=1) / np.sqrt(len(losses)))


@pytest.fixture
def objective() -> ls.Objective:
    return ls.Objective(Point(centre()), None, (targets(), torch.zeros(10)), forward=quadratic)


def directions(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(SIZE, generator=generator, dtype=torch.float64) for _ in range(count)]


@pytest.mark.parametrize("sizes", [(6,), (4, 3), (2, 3, 4), (2, 3, 1, 2), (5, 1), (1, 5)])
def test_every_value_stands_at_its_coordinates(sizes: tuple[int, ...], objective: ls.Objective) -> None:
    """Grids of 1 to 4 axes with unequal sides: the array's last index is x, the one before y."""
    given = directions(len(sizes))
    plane = ls.plane_from_directions(objective, given)
    axes = [(-1 - i, -1 - i, 1) if n == 1 else (-1 - i, 2, n) for i, n in enumerate(sizes)]
    surface = ls.measure_surface(objective, plane, axes=axes)
    assert surface.values["loss"].shape == sizes[::-1]
    assert list(surface.axes) == list("xyzuvw"[: len(sizes)])
    for place in np.ndindex(*sizes):
        coordinates = [values[i] for values, i in zip(surface.axes.values(), place, strict=True)]
        theta = centre() + sum(c * d for c, d in zip(coordinates, given, strict=True))
        mean, stderr = true_loss(theta)
        assert surface.values["loss"][place[::-1]] == pytest.approx(mean, rel=64 * EPS)
        assert surface.stderr["loss"][place[::-1]] == pytest.approx(stderr, rel=1e-10)
    assert surface.complete


def test_linear_regression_with_a_short_last_chunk() -> None:
    """The mean squared error of a linear model in float32, at every point of a grid with nx != ny."""
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    inputs, answers = torch.randn(83, 4), torch.randn(83, 2)
    objective = ls.Objective(model, "mse", (inputs, answers))
    dx, dy = torch.randn(10), torch.randn(10)
    surface = ls.measure_surface(
        objective, ls.plane_from_directions(objective, [dx, dy]), x=(-1, 1, 5), y=np.array([0.0, 0.3, 2.0])
    )
    x, theta = inputs.double().numpy(), objective.theta.double().numpy()
    for j, b in enumerate(surface.y):
        for i, a in enumerate(surface.x):
            vector = theta + a * dx.double().numpy() + b * dy.double().numpy()
            outputs = x @ vector[:8].reshape(2, 4).T + vector[8:]
            expected = ((outputs - answers.double().numpy()) ** 2).mean()
            assert surface.values["loss"][j, i] == pytest.approx(expected, rel=1e-6)
    assert surface.values["loss"][0, 2] == pytest.approx(float(objective.evaluate()["loss"]), rel=1e-12)


def test_points_of_a_plane_through_models(objective: ls.Objective) -> None:
    ends = [centre() + d for d in (torch.zeros(SIZE, dtype=torch.float64), *directions(2))]
    plane = ls.plane_through(objective, ends, labels=("a", "b", "c"))
    surface = ls.measure_surface(objective, plane, x=(0, 1, 3), y=(0, 1, 2))
    points = surface.points
    assert points is not None
    assert (points.kind, points.labels) == ("points", ("a", "b", "c"))
    for k, end in enumerate(ends):
        assert points.true["loss"][k] == pytest.approx(true_loss(end)[0], rel=64 * EPS)
        assert points.projected["loss"][k] == pytest.approx(true_loss(end)[0], rel=1e-12)
    np.testing.assert_allclose(points.distance, 0, atol=1e-13)
    assert surface.values["loss"][0, 0] == pytest.approx(true_loss(ends[0])[0], rel=64 * EPS)
    assert surface.values["loss"][0, -1] == pytest.approx(true_loss(ends[1])[0], rel=64 * EPS)


def test_trajectory_has_true_and_projected_losses(objective: ls.Objective, tmp_path: Path) -> None:
    """Off the plane the two differ; the feet are found by numpy's least squares."""
    steps = [centre() + 0.3 * k * torch.ones(SIZE) + 0.5 * d for k, d in enumerate(directions(5))]
    plane = ls.pca_plane(objective, steps)
    surface = ls.measure_surface(objective, plane, x=(-1, 1, 3), y=(-1, 1, 2), out=tmp_path / "run")
    points = surface.points
    assert points is not None
    axes = torch.stack(list(plane.directions), 1).numpy()
    for k, step in enumerate(steps):
        offset = (step - centre()).numpy()
        foot, *_ = np.linalg.lstsq(axes, offset, rcond=None)
        np.testing.assert_allclose(points.coordinates[k], foot, rtol=1e-10, atol=1e-12)
        assert points.distance[k] == pytest.approx(np.linalg.norm(offset - axes @ foot), rel=1e-9)
        assert points.distance[k] > 0.1
        assert points.true["loss"][k] == pytest.approx(true_loss(step)[0], rel=64 * EPS)
        assert points.projected["loss"][k] == pytest.approx(true_loss(centre().numpy() + axes @ foot)[0], rel=1e-10)
    again = ls.open(tmp_path / "run" / "landscape.h5").points
    assert again is not None
    assert again.kind == "trajectory"
    for name in ("coordinates", "distance", "explained_variance"):
        np.testing.assert_array_equal(getattr(again, name), getattr(points, name))
    np.testing.assert_array_equal(again.true["loss"], points.true["loss"])
    np.testing.assert_array_equal(again.projected["loss"], points.projected["loss"])


# -- run folders ------------------------------------------------------------------------------------------------------


def grid_surface(objective: ls.Objective, **options: Any) -> ls.Surface:
    return ls.measure_surface(
        objective, ls.plane_from_directions(objective, directions(2)), x=(-1, 1, 4), y=(0, 1, 3), **options
    )


def counted(objective: ls.Objective, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Addresses of the vectors that are evaluated from now on."""
    addresses: list[int] = []
    original = objective.estimates

    def evaluate(theta: Any = None, **options: Any) -> Any:
        addresses.append(theta.data_ptr())
        return original(theta, **options)

    monkeypatch.setattr(objective, "estimates", evaluate)
    return addresses


def test_partial_surface_is_masked_and_resumes(
    objective: ls.Objective, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = grid_surface(objective)
    part = grid_surface(objective, out=tmp_path / "run", limit_items=5)
    assert not (tmp_path / "run" / "landscape.h5").exists()
    opened = ls.open(tmp_path / "run")
    for surface in (part, opened):
        assert surface.computed.ravel().tolist() == [True] * 5 + [False] * 7
        np.testing.assert_array_equal(surface.values["loss"].ravel()[:5], whole.values["loss"].ravel()[:5])
        assert np.isnan(surface.values["loss"].ravel()[5:]).all()
    calls = counted(objective, monkeypatch)
    rest = grid_surface(objective, out=tmp_path / "run")
    assert len(calls) == 7 + 2  # two finished rows are checked
    assert rest.values["loss"].tobytes() == whole.values["loss"].tobytes()
    assert ls.open(tmp_path / "run" / "landscape.h5").values["loss"].tobytes() == whole.values["loss"].tobytes()
    grid_surface(objective, out=tmp_path / "run")
    assert len(calls) == 7 + 2 + 2


def test_grid_uses_one_vector_for_all_points(objective: ls.Objective, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(objective, monkeypatch)
    grid_surface(objective)
    assert len(calls) == 12
    assert len(set(calls)) == 1


def test_memory_does_not_grow_with_points(objective: ls.Objective) -> None:
    """What Python and numpy hold at the peak: a row's few numbers for each point more, not its vector."""
    plane = ls.plane_from_directions(objective, directions(2))

    def peak(n: int) -> int:
        tracemalloc.start()
        ls.measure_surface(objective, plane, x=(-1, 1, n), y=(-1, 1, n))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(3)
    small, large = peak(3), peak(23)
    assert (large - small) / (23**2 - 3**2) < 1500  # 101 x 101 points then take 15 MB


def test_other_plane_or_data_in_the_folder_is_refused(objective: ls.Objective, tmp_path: Path) -> None:
    grid_surface(objective, out=tmp_path / "run")
    other = ls.plane_from_directions(objective, directions(3)[1:])
    with pytest.raises(InputError, match=r"holds a different run[\s\S]*plane\.directions"):
        ls.measure_surface(objective, other, x=(-1, 1, 4), y=(0, 1, 3), out=tmp_path / "run")
    moved = ls.Objective(Point(centre()), None, (targets() + 1e-9, torch.zeros(10)), forward=quadratic)
    with pytest.raises(InputError, match=r"objective\.data: "):
        grid_surface(moved, out=tmp_path / "run")
    with pytest.raises(InputError, match=r"axes\.x: "):
        ls.measure_surface(
            objective, ls.plane_from_directions(objective, directions(2)), x=(-1, 1.5, 4), y=(0, 1, 3),
            out=tmp_path / "run",
        )  # fmt: skip


def test_nan_and_inf_are_results(tmp_path: Path) -> None:
    """1/x and log x of the parameter along a line: Inf at 0, NaN below, all computed, once."""
    model = Point(torch.zeros(SIZE, dtype=torch.float64))
    calls: list[float] = []

    def forward(model: nn.Module, batch: Any) -> Tensor:
        value = at(model)[0]
        calls.append(float(value))
        return value.log().expand(10)

    data = (targets(), torch.zeros(10))
    objective = ls.Objective(model, None, data, forward=forward, check=False)
    direction = torch.zeros(SIZE, dtype=torch.float64)
    direction[0] = 1
    plane = ls.plane_from_directions(objective, [direction])
    for repeat in range(2):
        calls.clear()
        surface = ls.measure_surface(objective, plane, x=(-1, 1, 3), out=tmp_path / "run")
        assert surface.complete
        np.testing.assert_array_equal(surface.values["loss"], [np.nan, -np.inf, 0.0])
        assert len(calls) == (2 if repeat else 3)  # of finished rows two are checked


# -- what cannot be asked ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"x": (-1, 1, 3)}, "the plane has 2 axes and the grid 1"),
        ({"x": (-1, 1, 3), "y": (0, 1, 2), "z": (0, 1, 2)}, r"the plane has 2 axes and the grid 3 \(x, y, z\)"),
        ({}, "0 axes given"),
        ({"y": (-1, 1, 3), "x": None}, "y given; axes are named in order"),
        ({"axes": [(-1, 1, 3)] * 2, "x": (0, 1, 2)}, "both axes and x are given"),
        ({"x": (-1, 1, 0), "y": (0, 1, 2)}, "x has n=0 points"),
        ({"x": (1, -1, 3), "y": (0, 1, 2)}, "x runs from 1.0 down to -1.0"),
        ({"x": (-1, 1, 3), "y": (0, float("nan"), 2)}, "y runs from 0.0 to nan"),
        ({"x": (-1, 1, 3), "y": (0, 1, 2), "batchnorm": "fozen"}, "batchnorm='fozen'; give one of frozen, reest"),
        ({"x": (-1, 1, 3), "y": (0, 1, 2), "batchnorm": "reestimated"}, "the model has no BatchNorm layer"),
        ({"x": (-1, 1, 3), "y": (0, 1, 2), "batchnorm": "frozen", "statistics": (1, 2)}, "statistics are given, but"),
    ],
)
def test_refused_before_anything_is_written(
    options: dict[str, Any], told: str, objective: ls.Objective, tmp_path: Path
) -> None:
    plane = ls.plane_from_directions(objective, directions(2))
    with pytest.raises(InputError, match=told):
        ls.measure_surface(objective, plane, **options, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


# -- a surface known before -------------------------------------------------------------------------------------------


def test_known_points_are_taken_over(objective: ls.Objective, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = grid_surface(objective)
    computed = np.ones((3, 4), dtype=bool)
    computed[1, 2] = computed[2, 0] = False
    known = replace(whole, computed=computed, attributes={"origin": "elsewhere"})
    calls = counted(objective, monkeypatch)
    surface = grid_surface(objective, known=known, out=tmp_path / "run")
    assert len(calls) == 2 + 3 + 2  # the gaps, the three that are checked, and two of the rows taken over
    assert surface.values["loss"].tobytes() == whole.values["loss"].tobytes()
    assert surface.attributes["attempts"][0]["rows_taken_over"] == 10


def test_known_gaps_are_computed(objective: ls.Objective, monkeypatch: pytest.MonkeyPatch) -> None:
    """A NaN in an imported file may be a gap: it is computed rather than believed."""
    whole = grid_surface(objective)
    values = whole.values["loss"].copy()
    values[1, 1] = np.nan
    surface = grid_surface(objective, known=replace(whole, values={"loss": values}))
    np.testing.assert_array_equal(surface.values["loss"], whole.values["loss"])


def test_known_surface_that_does_not_belong_is_refused(objective: ls.Objective, tmp_path: Path) -> None:
    whole = grid_surface(objective)
    cases = {
        "the known surface has loss": replace(whole, values={"loss": whole.values["loss"] * 1.001}),
        "or other coordinates": replace(whole, axes={"x": whole.x + 0.1, "y": whole.y}),
        "take the grid from the known one": replace(whole, axes={"x": whole.x}),
        "but not loss": replace(whole, values={"test_loss": whole.values["loss"]}),
    }
    for told, known in cases.items():
        with pytest.raises(InputError, match=told):
            grid_surface(objective, known=known, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


# -- precision, BatchNorm, ranks --------------------------------------------------------------------------------------


def test_bf16_tells_its_error() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 30), nn.Tanh(), nn.Linear(30, 5))
    data = (torch.randn(64, 20), torch.randint(5, (64,)))
    surfaces = {}
    for precision in ("float32", "bf16"):
        objective = ls.Objective(model, "cross_entropy", data, precision=precision)
        plane = ls.random_plane(objective, seed=0)
        surfaces[precision] = ls.measure_surface(objective, plane, x=(-1, 1, 5), y=(-1, 1, 4))
    full, low = (surfaces[p].values["loss"].ravel() for p in ("float32", "bf16"))
    anchors = np.linspace(0, 19, 9).round().astype(int)
    expected = (np.abs(low - full) / full)[anchors].max()
    attributes = surfaces["bf16"].attributes
    assert 1e-5 < expected < 0.05
    assert attributes["precision_error_relative"] == pytest.approx(expected, rel=1e-2)
    assert attributes["precision_error_points"] == 9
    assert attributes["precision"] == "bf16"
    assert "precision_error_relative" not in surfaces["float32"].attributes


def naive_loss(model: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    with torch.no_grad():
        return float(nn.functional.cross_entropy(model.eval()(data[0]), data[1]))


def with_parameters(model: nn.Module, theta: Tensor) -> nn.Module:
    model = copy.deepcopy(model)
    torch.nn.utils.vector_to_parameters(theta, model.parameters())
    return model


def trained(seed: int) -> nn.Module:
    """A network with BatchNorm whose running statistics are its own."""
    model = surface_cases.network()
    torch.manual_seed(seed)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    for _ in range(20):
        model(surface_cases.data()[0][:150])
    return model.eval()


@pytest.mark.parametrize("mode", ["frozen", "reestimated", "interpolated"])
def test_batchnorm_modes(mode: str, tmp_path: Path) -> None:
    """Each against a plain loop: load, re-run or interpolate the statistics, average the loss."""
    first, second, data = trained(1), trained(2), surface_cases.data()
    objective = ls.Objective(first, "cross_entropy", data)
    line = ls.plane_through(objective, [first, second])
    statistics = (data[0][:100], data[1][:100]) if mode == "reestimated" else None
    surface = ls.measure_surface(
        objective, line, x=(0, 1, 3), batchnorm=mode, statistics=statistics, out=tmp_path / "run"
    )
    parameters = [torch.nn.utils.parameters_to_vector(m.parameters()).detach() for m in (first, second)]
    for i, x in enumerate(surface.x):
        model = with_parameters(first, torch.lerp(*parameters, float(x)))
        norm, norms = model[1], (first[1], second[1])
        if mode == "reestimated":
            norm.momentum = 1.0
            model.train()(data[0][:100])
        if mode == "interpolated":
            for name in ("running_mean", "running_var"):
                getattr(norm, name).copy_(torch.lerp(*(getattr(n, name) for n in norms), float(x)))
        assert surface.values["loss"][i] == pytest.approx(naive_loss(model, data), rel=1e-5)
    # the two models themselves, each with its own statistics; their projections, where the surface shows them
    assert surface.points is not None
    true, projected = surface.points.true["loss"], surface.points.projected["loss"]
    np.testing.assert_allclose(projected, surface.values["loss"][[0, -1]], rtol=1e-6)
    if mode == "reestimated":
        np.testing.assert_allclose(true, projected, rtol=1e-6)
    else:
        np.testing.assert_allclose(true, [naive_loss(first, data), naive_loss(second, data)], rtol=1e-5)
    stored = ls.open(tmp_path / "run" / "landscape.h5").attributes
    assert stored["batchnorm"] == mode
    assert stored["statistics_samples"] == (100 if mode == "reestimated" else 0)


def test_interpolated_buffers_are_part_of_the_run(tmp_path: Path) -> None:
    """Models with the same parameters and other BatchNorm statistics make another run."""
    first, second, data = trained(1), trained(2), surface_cases.data()
    other = copy.deepcopy(second)
    other[1].running_mean += 1
    objective = ls.Objective(first, "cross_entropy", data)
    options: dict[str, Any] = {"x": (0, 1, 3), "batchnorm": "interpolated", "out": tmp_path / "run"}
    ls.measure_surface(objective, ls.plane_through(objective, [first, second]), **options)
    with pytest.raises(InputError, match="buffers: "):
        ls.measure_surface(objective, ls.plane_through(objective, [first, other]), **options)


def test_a_plane_of_other_centre_or_points_is_another_run(tmp_path: Path) -> None:
    """Directions and grid alike, all but the part that is changed."""
    model, data = surface_cases.network(), surface_cases.data()
    objective = ls.Objective(model, "cross_entropy", data)
    theta = objective.theta
    steps = [torch.zeros_like(theta), torch.zeros_like(theta)]
    steps[0][0], steps[1][1] = 1.0, 1.0

    def measured(centre: Tensor, moved: float, folder: str) -> ls.Surface:
        plane = ls.plane_from_directions(objective, steps, centre=centre)
        points = PlanePoints("points", ("p",), (centre + moved,), np.zeros((1, 2)), np.zeros(1))
        return ls.measure_surface(
            objective, replace(plane, points=points), x=(0, 1, 2), y=(0, 1, 2), out=tmp_path / folder
        )

    measured(theta, 0.1, "run")
    with pytest.raises(InputError, match=r"plane\.centre: "):
        measured(theta + 1, 0.1 - 1, "run")
    with pytest.raises(InputError, match=r"plane\.points: "):
        measured(theta, 0.2, "run")


def test_interpolated_needs_buffers() -> None:
    first = trained(1)
    objective = ls.Objective(first, "cross_entropy", surface_cases.data())
    line = ls.plane_through(objective, [objective.theta, objective.theta + 1])
    with pytest.raises(InputError, match="given with their buffers"):
        ls.measure_surface(objective, line, x=(0, 1, 3), batchnorm="interpolated")


def test_folder_that_is_not_there() -> None:
    with pytest.raises(StoreError, match="does not exist; give a run folder or an HDF5 file"):
        ls.open("nowhere")


def test_objects_say_what_they_are() -> None:
    objective = ls.Objective(torch.nn.Linear(3, 2), data=(torch.zeros(5, 3), torch.zeros(5, dtype=torch.long)))
    plane = ls.random_plane(objective, seed=7)
    surface = ls.measure_surface(objective, plane, x=(-1, 1, 4), y=(-1, 1, 3), limit_items=2)
    assert repr(objective) == ("Objective(Linear with 8 parameters, loss on 5 samples in chunks of 5, float32 on cpu)")
    assert "2 axes in 8 parameters" in repr(plane)
    assert "seed=7" in repr(plane)
    assert repr(surface) == "Surface(loss at 4 x 3 points of (x, y), 2 computed)"


FACTOR = 1.0


def test_a_change_no_identity_sees_is_found_by_computing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss that reads a global: the folder's rows belong to its old value."""

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return FACTOR * nn.functional.cross_entropy(outputs, targets, reduction="none")

    def measured() -> ls.Surface:
        objective = ls.Objective(surface_cases.network(), loss, surface_cases.data())
        return ls.measure_surface(
            objective, ls.random_plane(objective), x=(-1, 1, 3), y=(-1, 1, 2), out=tmp_path / "run"
        )

    measured()
    measured()
    monkeypatch.setitem(globals(), "FACTOR", 3.0)
    with pytest.raises(InputError, match="was changed since"):
        measured()


def test_another_activation_is_another_model(tmp_path: Path) -> None:
    def measured(activation: nn.Module) -> ls.Surface:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), activation, nn.Linear(8, 3))
        objective = ls.Objective(model, data=(torch.ones(6, 4), torch.zeros(6, dtype=torch.long)))
        return ls.measure_surface(
            objective, ls.random_plane(objective), x=(-1, 1, 3), y=(-1, 1, 2), out=tmp_path / "run"
        )

    measured(nn.Tanh())
    with pytest.raises(InputError, match=r"objective\.structure"):
        measured(nn.ReLU())


def test_trajectory_points_keep_their_own_batchnorm_statistics() -> None:
    models, data = [trained(seed) for seed in (1, 2, 3)], surface_cases.data()
    objective = ls.Objective(models[-1], "cross_entropy", data)
    surface = ls.measure_surface(objective, ls.pca_plane(objective, models), x=(-1, 1, 2), y=(-1, 1, 2))
    assert surface.points is not None
    np.testing.assert_allclose(surface.points.true["loss"], [naive_loss(m, data) for m in models], rtol=1e-5)
