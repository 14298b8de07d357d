"""Planes: random, given, through models, principal axes; against closed forms and numpy, in float64."""

from __future__ import annotations

import math
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import landscape as ls
from landscape.checkpoints.states import read_model
from landscape.errors import InputError
from landscape.objective.objective import Objective
from landscape.planes.directions import pca_plane, plane_from_directions, plane_through, random_plane
from landscape.planes.plane import Plane


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    model = nn.Sequential(*layers).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
        model[1].running_mean.normal_()
        model[1].running_var.exponential_()
    return model


X, Y = torch.randn(12, 1, 6, 6, dtype=torch.float64), torch.arange(12) % 3


def objective_of(model: nn.Module | None = None) -> Objective:
    return Objective(net() if model is None else model, data=(X, Y))


@pytest.fixture(scope="module")
def objective() -> Objective:
    return objective_of()


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


# -- random ---------------------------------------------------------------------------------------------


def test_directions_depend_on_seed_and_axis_alone(objective: Objective) -> None:
    one, three = random_plane(objective, axes=1), random_plane(objective, axes=3)
    torch.manual_seed(5)
    assert torch.equal(one.directions[0], three.directions[0])
    assert torch.equal(one.directions[0], random_plane(objective, axes=1).directions[0])
    assert not torch.equal(one.directions[0], random_plane(objective, axes=1, seed=1).directions[0])
    assert not torch.equal(three.directions[0], three.directions[1])
    assert torch.equal(three.centre, flat(net()))


def test_filters_have_the_norm_of_the_weights(objective: Objective) -> None:
    plane = random_plane(objective)
    state = dict(net().named_parameters())
    for direction in plane.directions:
        parts = objective.layout.unflatten(direction)
        for name, part in parts.items():
            if part.ndim == 1:
                assert not part.any(), name
                continue
            for ours, theirs in zip(part, state[name].detach(), strict=True):
                assert float(ours.norm()) == pytest.approx(float(theirs.norm()), rel=1e-14)
                assert abs(float(ours.flatten() @ theirs.flatten())) < 0.99 * float(theirs.norm()) ** 2


def test_directions_are_gaussian() -> None:
    big = objective_of(nn.Sequential(nn.Flatten(), nn.Linear(36, 2000)).double())
    x = random_plane(big, normalize="none", ignore=(), axes=1).directions[0].numpy()
    for power, expected, spread in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((x**power).mean() - expected) < 3 * math.sqrt(spread / x.size), power


@pytest.mark.parametrize(
    ("ignore", "zero"),
    [
        (("bias", "norm"), {"0.bias", "1.weight", "1.bias", "4.bias"}),
        ("bias", {"0.bias", "4.bias"}),
        ((), set()),
        (("embedding",), set()),
        (("0.*", "norm"), {"0.weight", "0.bias", "1.weight", "1.bias"}),
        (("weight",), {"0.weight", "4.weight"}),
    ],
)
def test_ignored_by_kind_and_pattern(objective: Objective, ignore: Any, zero: set[str]) -> None:
    plane = random_plane(objective, ignore=ignore)
    for direction in plane.directions:
        parts = objective.layout.unflatten(direction)
        assert {name for name, part in parts.items() if not part.any()} == zero
    assert plane.about["ignore"] == ([ignore] if isinstance(ignore, str) else list(ignore))


@pytest.mark.parametrize(
    ("params", "moved"),
    [
        ("0", {"0.weight"}),
        (["4", "1"], {"4.weight"}),
        ("*.weight", {"0.weight", "4.weight"}),
        (None, {"0.weight", "4.weight"}),
    ],
)
@pytest.mark.parametrize("normalize", ["none", "filter", "model"])
def test_params_are_all_that_varies(objective: Objective, params: Any, moved: set[str], normalize: str) -> None:
    plane = random_plane(objective, params=params, normalize=normalize, orthogonal=True)
    whole = random_plane(objective, normalize=normalize)
    for direction in plane.directions:
        parts = objective.layout.unflatten(direction)
        assert {name for name, part in parts.items() if part.any()} == moved
    assert abs(plane.geometry()["cosines"][0][1]) < 1e-12
    if normalize == "filter":  # the numbers are those of the whole plane, which params only cuts out
        first, other = (objective.layout.unflatten(p.directions[0]) for p in (plane, whole))
        assert all(torch.equal(first[name], other[name]) for name in moved)
    if normalize == "model":
        theta = objective.layout.unflatten(objective.theta)
        norm = torch.stack([theta[name].norm() ** 2 for name in moved]).sum().sqrt()
        assert plane.geometry()["lengths"][0] == pytest.approx(float(norm), rel=1e-12)
    assert plane.about.get("params") == ([params] if isinstance(params, str) else params)


def test_bad_requests_are_named(objective: Objective) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"ignore": ("4.wieght",)}, "did you mean '4.weight'"),
        ({"ignore": ("norms",)}, "kinds are bias, norm"),
        ({"ignore": ("*",)}, "no direction is left"),
        ({"params": "layer1"}, r"params='layer1' matches no trainable parameter"),
        ({"params": "1"}, r"covers all 2 parameter tensors of params='1'; no direction is left"),
        ({"normalize": "filters"}, "did you mean 'filter'"),
        ({"axes": 0}, "axes=0; give a whole number of 1 or more"),
    ]
    for options, says in cases:
        with pytest.raises(InputError, match=says):
            random_plane(objective, **options)
    zero = net()
    with torch.no_grad():
        for parameter in zero.parameters():
            parameter.zero_()
    with pytest.raises(InputError, match="parameters that are all zero"):
        random_plane(objective_of(zero))
    tiny = Objective(nn.Linear(1, 3).double(), data=(X[:, 0, 0, :1], Y))
    with pytest.raises(InputError, match="axis 1 cannot be made orthogonal"):
        random_plane(tiny, orthogonal=True)


@pytest.mark.parametrize(("normalize", "still"), [("filter", True), ("layer", True), ("none", False), ("model", False)])
def test_zero_weights_that_no_direction_moves_are_told(
    normalize: str, still: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """As the second factor of a fresh LoRA is."""
    fresh = net()
    name, weight = next((name, p) for name, p in reversed(list(fresh.named_parameters())) if p.ndim == 2)
    with torch.no_grad():
        weight.zero_()
    fresh.nothing = nn.Parameter(torch.zeros(0, 2))  # has nothing to move
    random_plane(objective_of(fresh), normalize=normalize)
    assert "nothing" not in caplog.text
    assert (f"no direction moves {name}: with normalize='{normalize}'" in caplog.text) == still


@pytest.mark.parametrize("normalize", ["none", "filter", "layer", "weight", "model"])
def test_orthogonal_means_orthogonal(objective: Objective, normalize: str) -> None:
    plane = random_plane(objective, normalize=normalize, orthogonal=True, axes=3)
    cosines = np.array(plane.geometry()["cosines"])
    assert np.abs(cosines - np.eye(3)).max() < 1e-12
    loose = random_plane(objective, normalize=normalize, axes=3)
    assert np.abs(np.array(loose.geometry()["cosines"]) - np.eye(3)).max() > 1e-6
    if normalize in ("layer", "filter", "model"):
        assert plane.geometry()["lengths"] == pytest.approx(loose.geometry()["lengths"], rel=1e-12)


# -- given ----------------------------------------------------------------------------------------------


def test_given_directions_are_taken_as_given(objective: Objective) -> None:
    layout = objective.layout
    names = {"4.weight": torch.ones(3, 64), "1.bias": np.arange(4.0)}
    vector = torch.arange(float(layout.size), dtype=torch.float64)
    plane = plane_from_directions(objective, [vector, names], centre=net(1))
    assert torch.equal(plane.directions[0], vector)
    expected = {block.name: torch.zeros(block.shape, dtype=torch.float64) for block in layout.blocks}
    expected |= {"4.weight": torch.ones(3, 64).double(), "1.bias": torch.arange(4.0).double()}
    assert torch.equal(plane.directions[1], layout.flatten(expected))
    assert torch.equal(plane.point((0.0, 0.0)), flat(net(1)))
    for bad, says in (
        ({"4.weigt": torch.ones(3, 64)}, "direction 1 names parameter '4.weigt'; did you mean '4.weight'"),
        ({"4.weight": torch.ones(64, 3)}, "direction 1: 4.weight has shape"),
        (vector[1:], "theta has"),
        (torch.zeros_like(vector), "direction 1 is zero"),
        (vector * math.nan, "direction 1 has .* NaN"),
    ):
        with pytest.raises(InputError, match=says):
            plane_from_directions(objective, [vector, bad])
    with pytest.raises(InputError, match="at least one"):
        plane_from_directions(objective, [])


def test_points_are_centre_plus_coordinates_times_directions() -> None:
    def vector(seed: int) -> Tensor:
        return torch.randn(9, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))

    plane = Plane(vector(0), (vector(1), vector(2), vector(3)))
    expected = vector(0) + 0.5 * vector(1) - 2 * vector(2) + 3 * vector(3)
    assert torch.allclose(plane.point((0.5, -2, 3)), expected, rtol=1e-14, atol=1e-14)


# -- through models -------------------------------------------------------------------------------------


def test_three_models_have_exact_coordinates(objective: Objective) -> None:
    models = [net(1), net(2), net(3)]
    plane = plane_through(objective, models)
    a, b, c = (flat(m) for m in models)
    x, y = plane.directions
    assert torch.equal(plane.centre, a)
    assert torch.allclose(x, b - a, rtol=1e-14, atol=1e-15)
    assert abs(float(x @ y)) < 1e-13 * float(x.norm() * y.norm())
    assert float(y.norm()) == pytest.approx(float(x.norm()), rel=1e-13)
    cx = float((c - a) @ (b - a) / ((b - a) @ (b - a)))
    cy = math.sqrt(float((c - a) @ (c - a) / ((b - a) @ (b - a))) - cx**2)
    assert plane.points is not None
    np.testing.assert_allclose(plane.points.coordinates, [[0, 0], [1, 0], [cx, cy]], rtol=1e-12, atol=1e-13)
    assert plane.points.distance.max() < 1e-12
    for model, vector, coordinates in zip(models, (a, b, c), plane.points.coordinates, strict=True):
        assert torch.allclose(plane.point(coordinates.tolist()), vector, rtol=1e-12, atol=1e-12)
        buffers = plane.buffers_at(coordinates.tolist())
        for name, value in model.named_buffers():
            if value.is_floating_point():
                assert torch.allclose(buffers[name], value, rtol=1e-11, atol=1e-12), name


def test_interpolated_buffers_lie_between_and_variances_never_below_zero(objective: Objective) -> None:
    models = [net(1), net(2)]
    plane = plane_through(objective, models)
    a, b = (dict(m.named_buffers()) for m in models)
    middle = plane.buffers_at((0.25,))
    for name in ("1.running_mean", "1.running_var"):
        assert torch.allclose(middle[name], 0.75 * a[name] + 0.25 * b[name], rtol=1e-13)
    beyond = [plane.buffers_at((x,))["1.running_var"] for x in (-50.0, 50.0)]
    assert float(torch.stack(beyond).min()) == 0
    at_b = objective.evaluate(plane.point((1.0,)), buffers=plane.buffers_at((1.0,)))["loss"]
    truth = nn.functional.cross_entropy(models[1].eval()(X), Y).detach()
    assert at_b == pytest.approx(float(truth), rel=1e-10)
    assert not plane_through(objective, [flat(m) for m in models]).buffers


def test_planes_that_differ_in_buffers_only_are_different(objective: Objective) -> None:
    other = net(2)
    with torch.no_grad():
        other[1].running_var.mul_(2)
    first, second = (plane_through(objective, [net(1), b]).identity() for b in (net(2), other))
    assert first != second
    assert first == plane_through(objective, [net(1), net(2)]).identity()


def test_models_come_as_modules_states_vectors_and_files(objective: Objective, tmp_path: Path) -> None:
    path = tmp_path / "épreuve 3.pt"
    torch.save({"state_dict": {f"module.{k}": v for k, v in net(3).state_dict().items()}}, path)
    given = [flat(net(1)).numpy(), nn.DataParallel(net(2)), path]
    plane = plane_through(objective, given)
    expected = plane_through(objective, [net(1), dict(net(2).named_parameters()), net(3).state_dict()])
    assert all(torch.equal(a, b) for a, b in zip(plane.directions, expected.directions, strict=True))
    assert plane.points is not None
    assert plane.points.labels == ("0", "1", "épreuve 3")


def test_models_on_one_line_are_refused(objective: Objective) -> None:
    a, b = flat(net(1)), flat(net(2))
    for thetas, says in (
        ([a], "a line needs 2"),
        ([a, a, b], "equal"),
        ([a, b, b], "model 2 lies in the span"),
        ([a, b, a + 0.3 * (b - a)], "model 2 lies in the span"),
    ):
        with pytest.raises(InputError, match=says):
            plane_through(objective, thetas)
    with pytest.raises(InputError, match="3 labels for 2 models"):
        plane_through(objective, [a, b], labels=("a", "b", "c"))
    close = a.float() * (1 + 1e-4 * torch.rand(a.shape))
    single = Objective(net().float(), data=(X, Y))
    with pytest.raises(InputError, match="span"):  # off the line by the rounding of float32 alone
        plane_through(single, [a.float(), close, (a.float() + close) / 2])


def test_states_that_do_not_fit_are_refused(objective: Objective) -> None:
    with pytest.raises(InputError, match=r"missing: 0\.weight.*another architecture"):
        plane_through(objective, [net(1), {k: v for k, v in net(2).state_dict().items() if k != "0.weight"}])
    frozen = net()
    frozen[4].bias.requires_grad_(False)
    with pytest.raises(InputError, match=r"another value of '4\.bias', which is frozen"):
        plane_through(objective_of(frozen), [frozen, net(2)])


def test_a_model_whose_names_begin_like_a_wrapper() -> None:
    class Wrapper(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            self.module = net(seed)

        def forward(self, x: Tensor) -> Tensor:
            return self.module(x)

    plane = plane_through(objective_of(Wrapper(0)), [Wrapper(1), Wrapper(2)])
    assert torch.equal(plane.centre, flat(net(1)))


# -- principal axes -------------------------------------------------------------------------------------


def test_principal_axes_distances_and_variance_are_numpys(objective: Objective) -> None:
    start, drift, bend = flat(net(1)), flat(net(2)), flat(net(3))
    steps = [start + t * drift + math.sin(t) * bend + 0.01 * flat(net(10 + t)) for t in range(7)]
    plane = pca_plane(objective, steps)
    matrix = torch.stack(steps).numpy()
    _, values, axes = np.linalg.svd(matrix - matrix.mean(0), full_matrices=False)
    centre = objective.theta.numpy()
    assert plane.points is not None
    assert plane.points.explained_variance is not None
    np.testing.assert_allclose(plane.points.explained_variance, values[:2] ** 2 / (values**2).sum(), rtol=1e-10)
    signs = [np.sign(float(d.numpy() @ a)) for d, a in zip(plane.directions, axes, strict=False)]
    coordinates = (matrix - centre) @ (axes[:2].T * signs)
    np.testing.assert_allclose(plane.points.coordinates, coordinates, rtol=1e-8, atol=1e-8)
    rest = matrix - centre - (matrix - centre) @ axes[:2].T @ axes[:2]
    np.testing.assert_allclose(plane.points.distance, np.linalg.norm(rest, axis=1), rtol=1e-9)
    assert plane.points.kind == "trajectory"
    np.testing.assert_allclose(plane.geometry()["lengths"], [1, 1], rtol=1e-13)


def test_trajectories_that_span_too_little_are_refused(objective: Objective) -> None:
    a, b = flat(net(1)), flat(net(2))
    for thetas, axes in (([], 2), ([a, b], 2), ([a, b, a + 2 * (b - a)], 2)):
        with pytest.raises(InputError, match="checkpoint"):
            pca_plane(objective, thetas, axes=axes)
    with pytest.raises(InputError, match="axes=0; give a whole number of 1 or more"):
        pca_plane(objective, [a, b], axes=0)


def test_a_folder_of_checkpoints_is_a_trajectory_in_the_order_of_steps(objective: Objective, tmp_path: Path) -> None:
    for step in (5, 10, 100):
        torch.save(net(step).state_dict(), tmp_path / f"step-{step}.pt")
    plane = pca_plane(objective, tmp_path)
    assert plane.points is not None
    assert plane.points.labels == ("5", "10", "100")
    assert all(torch.equal(v, flat(net(s))) for v, s in zip(plane.points.vectors, (5, 10, 100), strict=True))
    for path in tmp_path.iterdir():
        path.rename(path.with_name(path.name.replace("step-", "epoch")))
    plane = pca_plane(objective, sorted(tmp_path.iterdir()))
    assert plane.points is not None
    assert plane.points.labels == ("epoch5", "epoch10", "epoch100")
    with pytest.raises(InputError, match="no folder of checkpoints"):
        pca_plane(objective, tmp_path / "epoch5.pt")


def test_checkpoints_in_files_are_read_when_they_are_needed(
    objective: Objective, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not all of them at once: the plane keeps none, and the bits are those of models in memory."""
    states = {step: net(step).state_dict() for step in (1, 2, 3, 4, 5, 6)}
    for step, state in states.items():
        torch.save(state, tmp_path / f"step-{step}.pt")
    alive = []

    def read(objective: Objective, theta: Any) -> Any:
        state = read_model(objective, theta)
        alive.append(weakref.ref(state[0]))
        most.append(sum(ref() is not None for ref in alive))
        return state

    most: list[int] = []
    monkeypatch.setattr("landscape.checkpoints.states.read_model", read)
    plane = pca_plane(objective, tmp_path)
    assert plane.points is not None
    assert max(most) <= 2
    monkeypatch.undo()
    held = pca_plane(objective, list(states.values()))
    assert held.points is not None
    assert plane.identity() == held.identity()
    assert all(torch.equal(v, flat(net(s))) for v, s in zip(plane.points.vectors, states, strict=True))
    assert torch.equal(plane.points.vectors[-1], plane.points.vectors[4:][1])
    np.testing.assert_array_equal(plane.points.coordinates, held.points.coordinates)
    states[2]["0.weight"].zero_()  # the caller's own, and copies were taken
    assert plane.identity() == held.identity()
    torch.save(net(9).state_dict(), tmp_path / "step-3.pt")
    with pytest.raises(InputError, match=r"checkpoint 3 has other values than when it was read first"):
        plane.identity()
    (tmp_path / "step-3.pt").unlink()
    with pytest.raises(InputError, match=r"step-3\.pt does not exist"):
        plane.points.vectors[2]


def test_a_checkpoint_that_diverged_is_named(objective: Objective) -> None:
    states = [net(step).state_dict() for step in range(4)]
    states[2]["0.weight"][0, 0] = math.nan
    with pytest.raises(InputError, match=r"checkpoint 2 holds 9 values that are NaN"):
        pca_plane(objective, states)


def test_the_public_names() -> None:
    assert (ls.random_plane, ls.plane_through, ls.pca_plane) == (random_plane, plane_through, pca_plane)


@pytest.mark.parametrize("seed", [1.5, "a", None, True])
def test_a_seed_that_is_no_whole_number_is_refused(seed: Any) -> None:
    with pytest.raises(InputError, match=f"seed={seed!r}; give a whole number"):
        random_plane(objective_of(), seed=seed)
