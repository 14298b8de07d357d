"""Surfaces, directions and a checkpoint made by other programs, reproduced."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from landscape_kernels.normalise import block_norms
from shared import Dense, ResNet20, cifar10_test, mnist_train, resnet20_checkpoint, shared
from torch import Tensor, nn

import landscape as ls


class Cnn(nn.Module):
    """conv(1,3)-pool3-conv(3,5)-pool3-linear(20,10)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 3, 3)
        self.conv2 = nn.Conv2d(3, 5, 3)
        self.fc1 = nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 3)
        return self.fc1(F.max_pool2d(F.relu(self.conv2(x)), 3).flatten(1))


NETWORKS = {
    "dense_margin": (lambda: Dense(784, 64, 64, 64, 10), "multi_margin"),
    "small_dense_entropy": (lambda: Dense(784, 128, 10), "cross_entropy"),
    "cnn_entropy": (Cnn, "cross_entropy"),
}
# The stored losses are float32 sums in another order; 2e-6 is the agreement their own recomputation reached.
RTOL = 2e-6


def golden(name: str) -> tuple[ls.Objective, ls.Plane, ls.Surface]:
    folder = shared("data", "surfaces_mnist_h5")
    build, loss = NETWORKS[name]
    model = build()
    ls.load_checkpoint(model, folder / f"{name}.safetensors")
    objective = ls.Objective(model, loss, mnist_train(), metrics=("accuracy",))
    directions = ls.read_loss_landscape_directions(folder / f"{name}.directions.h5", objective)
    plane = ls.plane_from_directions(objective, directions)
    return objective, plane, ls.read_loss_landscape_surface(folder / f"{name}.surface.h5")


@pytest.mark.parametrize("name", NETWORKS)
def test_stored_surface_is_reproduced_on_a_sub_grid(name: str) -> None:
    objective, plane, stored = golden(name)
    columns, rows = [0, len(stored.x) - 2], [1]
    ours = ls.measure_surface(objective, plane, x=stored.x[columns], y=stored.y[rows])
    assert ours.values["loss"].shape == (1, 2)
    picked = np.ix_(rows, columns)
    np.testing.assert_allclose(ours.values["loss"], stored.values["loss"][picked], rtol=RTOL)
    # one image of 60,000 may fall on the other side of a tie
    np.testing.assert_allclose(ours.values["accuracy"], stored.values["accuracy"][picked], rtol=0, atol=2 / 60_000)


@pytest.mark.parametrize("name", NETWORKS)
def test_stored_directions_have_our_filter_norms(name: str) -> None:
    objective, plane, _ = golden(name)
    for direction in plane.directions:
        for block in objective.layout.blocks:
            ours = block_norms(objective.theta, block, "filter")
            theirs = block_norms(direction, block, "filter")
            if block.kind == "bias":
                assert not bool(theirs.any())
            else:
                torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=0)


def test_interrupted_file_resumes(tmp_path: Path) -> None:
    objective, plane, _ = golden("small_dense_entropy")
    folder = shared("data", "surfaces_mnist_h5")
    stored = ls.read_loss_landscape_surface(folder / "small_dense_entropy.surface_25x25_partial.h5")
    assert int((~stored.computed).sum()) == 525
    assert stored.computed.size == 625
    resumed = ls.measure_surface(
        objective, plane, x=stored.x, y=stored.y, known=stored, limit_items=2, out=tmp_path / "run"
    )
    assert int(resumed.computed.sum()) == 102
    old = stored.computed
    np.testing.assert_array_equal(resumed.values["loss"][old], stored.values["loss"][old])
    new = resumed.computed & ~old
    again = ls.measure_surface(objective, plane, x=stored.x, y=stored.y, limit_items=2, out=tmp_path / "run")
    assert int(again.computed.sum()) == 104
    np.testing.assert_array_equal(again.values["loss"][new], resumed.values["loss"][new])


def test_known_surface_of_another_network_is_refused() -> None:
    objective, plane, stored = golden("small_dense_entropy")
    wrong = dataclasses.replace(stored, values={k: v.T.copy() for k, v in stored.values.items()})
    with pytest.raises(ls.InputError, match="another model, data, loss or direction"):
        ls.measure_surface(objective, plane, x=stored.x, y=stored.y, known=wrong, limit_items=1)


def test_resnet20_checkpoint_has_the_accuracy_of_plain_torch() -> None:
    """On the first 500 images; on all 10,000 it has its published 0.9173, and a loss of 0.372661198."""
    model = ResNet20()
    ls.load_checkpoint(model, resnet20_checkpoint())
    values = ls.Objective(model, "cross_entropy", cifar10_test(500), metrics=("accuracy",)).evaluate()
    assert values["accuracy"] == pytest.approx(0.91, abs=1e-12)
    assert values["loss"] == pytest.approx(0.374510315, rel=1e-6)


def test_trajectory_lies_where_its_surface_says() -> None:
    folder = shared("data", "surfaces_mnist_h5")
    epochs = sorted((folder / "trajectory_dense_margin").glob("*.safetensors"))
    model = Dense(784, 64, 64, 64, 10)
    ls.load_checkpoint(model, epochs[-1])
    inputs, targets = mnist_train()
    objective = ls.Objective(model, "multi_margin", (inputs[:5000], targets[:5000]))
    plane = ls.pca_plane(objective, epochs)
    surface = ls.measure_surface(objective, plane, x=np.array([0.0]), y=np.array([0.0]))
    points = surface.points
    assert points is not None
    assert points.kind == "trajectory"
    # the last epoch is the centre: on the plane, at its origin, and equal to the surface there
    np.testing.assert_allclose(points.coordinates[-1], 0, atol=1e-5)
    assert points.distance[-1] == pytest.approx(0, abs=1e-5)
    assert points.true["loss"][-1] == pytest.approx(surface.values["loss"][0, 0], rel=1e-6)
    assert points.projected["loss"][-1] == pytest.approx(surface.values["loss"][0, 0], rel=1e-5)
    # an independent evaluation of one epoch, and of its foot on the plane
    from safetensors.torch import load_file

    model.load_state_dict(load_file(epochs[2]))
    with torch.no_grad():
        true = F.multi_margin_loss(model(inputs[:5000]), targets[:5000])
    assert points.true["loss"][2] == pytest.approx(float(true), rel=1e-5)
    vector = torch.cat([p.detach().reshape(-1) for p in model.parameters()]).double()
    centre, axes = objective.theta.double(), torch.stack([d.double() for d in plane.directions])
    foot = centre + axes.T @ torch.linalg.lstsq(axes.T, (vector - centre)[:, None]).solution[:, 0]
    torch.nn.utils.vector_to_parameters(foot.float(), model.parameters())
    with torch.no_grad():
        projected = F.multi_margin_loss(model(inputs[:5000]), targets[:5000])
    assert points.projected["loss"][2] == pytest.approx(float(projected), rel=1e-4)
    assert points.distance[2] == pytest.approx(float((vector - foot).norm()), rel=1e-4)
    assert points.explained_variance is not None
    assert 0.5 < points.explained_variance.sum() <= 1
