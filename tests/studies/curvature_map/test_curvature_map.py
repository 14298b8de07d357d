"""Eigenvalue maps on grids and planes of eigenvectors, against dense Hessians."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import landscape as ls

INPUTS = torch.randn(60, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
TARGETS = torch.randint(0, 3, (60,), generator=torch.Generator().manual_seed(2))


def tanh_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def dense_hessian(net: nn.Module, theta: Tensor) -> Tensor:
    shapes = {name: p.shape for name, p in net.named_parameters()}

    def loss(flat: Tensor) -> Tensor:
        parts = torch.split(flat, [s.numel() for s in shapes.values()])
        given = {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
        return F.cross_entropy(torch.func.functional_call(net, given, (INPUTS,)), TARGETS)

    hessian: Tensor = torch.autograd.functional.hessian(loss, theta)
    return hessian


@pytest.fixture(scope="module")
def objective() -> ls.Objective:
    return ls.Objective(tanh_net(), data=(INPUTS, TARGETS))


def test_map_is_that_of_dense_hessians(objective: ls.Objective, tmp_path: Path) -> None:
    plane = ls.random_plane(objective, seed=3)
    surface = ls.measure_curvature_map(
        objective, plane, x=(-1, 1, 4), y=(-0.5, 1, 3), tol=1e-6, max_products=80, out=tmp_path
    )
    assert surface.values["eigenvalue_max"].shape == (3, 4)
    assert surface.complete
    for (j, i), found in np.ndenumerate(surface.values["eigenvalue_max"]):
        theta = plane.point((surface.x[i], surface.y[j]))
        exact = torch.linalg.eigvalsh(dense_hessian(tanh_net(), theta)).numpy()
        low = surface.values["eigenvalue_min"][j, i]
        # a residual of 1e-6 |theta| bounds the eigenvalue's error
        assert found == pytest.approx(exact[-1], rel=2e-6)
        assert low == pytest.approx(exact[0], rel=2e-6)
        assert surface.values["convexity"][j, i] == pytest.approx(abs(low / found), rel=1e-12)
        assert surface.values["eigenvalue_max_residual"][j, i] <= 1e-6
    assert (surface.stderr["eigenvalue_max"] > 0).all()
    for place in (tmp_path, tmp_path / "landscape.h5"):
        opened = ls.open(place)
        assert isinstance(opened, ls.Surface)
        np.testing.assert_array_equal(opened.values["eigenvalue_min"], surface.values["eigenvalue_min"])
    assert surface.plot().axes


def test_neighbours_warm_start(objective: ls.Objective) -> None:
    """Starting from eigenvectors of a point nearby costs fewer products than starting from nothing."""
    with ls.CurvatureOperator(objective) as H:
        from landscape_kernels.krylov import eigenpairs

        cold = eigenpairs(H, 1, smallest=1, tol=1e-4)
        guess = torch.cat([cold.largest.vectors, cold.smallest.vectors])
        warm = eigenpairs(H, 1, smallest=1, tol=1e-4, start=guess)
    assert warm.products < 0.75 * cold.products  # a part of the start is random, so that it hides no eigenvector


def test_eigenvector_plane_curves_as_its_eigenvalues_say(objective: ls.Objective) -> None:
    spectrum = ls.measure_spectrum(objective, k=2, smallest=1, tol=1e-8, trace=False, density=False)
    plane = ls.eigenvector_plane(objective, spectrum)
    step = 1e-3
    for axis, value in enumerate(spectrum.eigenvalues):
        at = [0.0, 0.0]
        losses = []
        for c in (-step, 0.0, step):
            at[axis] = c
            losses.append(float(objective.evaluate(plane.point(at))["loss"]))
        second = (losses[0] - 2 * losses[1] + losses[2]) / step**2
        assert second == pytest.approx(value, rel=1e-4)
    assert np.abs(plane.geometry()["cosines"][0][1]) < 1e-8
    low = ls.eigenvector_plane(objective, spectrum, smallest=True)
    ends = [float(objective.evaluate(low.point((0.0, c)))["loss"]) for c in (-step, 0.0, step)]
    assert (ends[0] - 2 * ends[1] + ends[2]) / step**2 == pytest.approx(spectrum.smallest.values[0], rel=1e-3)


def test_eigenvectors_of_some_parameters_are_zero_elsewhere(objective: ls.Objective) -> None:
    spectrum = ls.measure_spectrum(objective, k=1, params="2", trace=False, density=False)
    plane = ls.eigenvector_plane(objective, spectrum, axes=1)
    parts = objective.layout.unflatten(plane.directions[0])
    assert not parts["0.weight"].any()
    assert parts["2.weight"].any()


def test_refusals(objective: ls.Objective) -> None:
    plane = ls.random_plane(objective, seed=3)
    with pytest.raises(ls.InputError, match="2 axes and the grid 1"):
        ls.measure_curvature_map(objective, plane, x=(-1, 1, 3))
    with pytest.raises(ls.InputError, match="x is missing"):
        ls.measure_curvature_map(objective, plane)
    with pytest.raises(ls.InputError, match="floor"):
        ls.measure_curvature_map(objective, plane, x=(-1, 1, 3), y=(-1, 1, 3), tol=1e-17)
    spectrum = ls.measure_spectrum(objective, k=1, trace=False, density=False)
    with pytest.raises(ls.InputError, match="keeps 1 eigenvectors"):
        ls.eigenvector_plane(objective, spectrum)
    with pytest.raises(ls.InputError, match="lower end"):
        ls.eigenvector_plane(objective, spectrum, smallest=True)
    other = ls.Objective(nn.Linear(5, 3).double(), data=(INPUTS, TARGETS))
    with pytest.raises(ls.InputError, match="another model"):
        ls.eigenvector_plane(other, spectrum, axes=1)
