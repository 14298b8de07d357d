"""measure_curvature_map(error=) against dense Hessians of all data: values, errors, resuming, small data, `check`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from matplotlib.text import Text
from torch import nn

import landscape as ls
from landscape.curvature.matrix import matrix_of
from landscape.curvature.sampling import Balanced
from landscape.planes.plane import Plane
from landscape.run.comm import SERIAL
from landscape.studies.curvature_map.low_end import lowest
from landscape.studies.curvature_map.trial import map_trial
from landscape.studies.surface.tables import surface_columns, surface_tables

N, ERROR = 2400, 0.15
GRID: dict[str, Any] = {"x": np.array([-0.5, 0.4]), "y": np.array([0.0, 0.3])}
POINT: dict[str, Any] = {"x": np.array([0.4]), "y": np.array([0.3])}


GENERATOR = torch.Generator().manual_seed(0)
LABELS = torch.randint(3, (N,), generator=GENERATOR)
POINTS = torch.randn(3, 4, generator=GENERATOR)[LABELS] + torch.randn(N, 4, generator=GENERATOR)


@pytest.fixture(scope="module")
def objective() -> ls.Objective:
    """A network of 51 parameters on three clouds of points, trained for an epoch."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for batch in torch.arange(N).split(64):
        optimizer.zero_grad()
        F.cross_entropy(model(POINTS[batch]), LABELS[batch]).backward()
        optimizer.step()
    return ls.Objective(model.double(), data=(POINTS.double(), LABELS))


@pytest.fixture(scope="module")
def plane(objective: ls.Objective) -> Plane:
    return ls.random_plane(objective, seed=3)


def ends(theta: torch.Tensor) -> tuple[float, float]:
    """The largest and the smallest eigenvalue of the Hessian of all data, by a dense solver."""

    def loss(flat: torch.Tensor) -> torch.Tensor:
        a, b, c, d = flat.split([24, 6, 18, 3])
        return F.cross_entropy(torch.tanh(POINTS.double() @ a.view(6, 4).T + b) @ c.view(3, 6).T + d, LABELS)

    values = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, theta))
    return float(values[-1]), float(values[0])


def measured(objective: ls.Objective, plane: Plane, **options: Any) -> ls.Surface:
    return ls.measure_curvature_map(objective, plane, **{**GRID, "error": ERROR, **options})


def test_both_ends_are_known_to_the_error_asked(objective: ls.Objective, plane: Plane, tmp_path: Path) -> None:
    """Line by line into a folder, as at once: within errors of the dense matrix at every point, and said everywhere."""
    at_once = measured(objective, plane)
    assert not measured(objective, plane, out=tmp_path, limit_items=1).complete
    found = measured(objective, plane, out=tmp_path)
    opened = ls.open(tmp_path / "landscape.h5")
    assert isinstance(opened, ls.Surface)
    names = ("eigenvalue_max", "eigenvalue_min", "convexity")
    assert tuple(found.values) == names
    for other in (at_once, opened, ls.open(tmp_path)):
        for name in names:
            np.testing.assert_array_equal(other.values[name], found.values[name])
            np.testing.assert_array_equal(other.error[name], found.error[name])
        np.testing.assert_array_equal(other.found, found.found)
        assert other.attributes["work"] == found.attributes["work"]
    assert found.error is not None
    assert found.found is not None
    for j, i in np.ndindex(2, 2):
        high, low = ends(plane.point((found.x[i], found.y[j])))
        true = {"eigenvalue_max": high, "eigenvalue_min": low, "convexity": abs(low / high)}
        assert 0 < found.error["eigenvalue_max"][j, i] <= ERROR * found.values["eigenvalue_max"][j, i]
        assert found.error["eigenvalue_min"][j, i] <= ERROR * found.values["eigenvalue_max"][j, i]
        for name, value in true.items():
            assert abs(found.values[name][j, i] - value) <= 3 * found.error[name][j, i], (name, j, i)
    assert set(found.found.ravel()) == {"sampled"}
    assert np.isnan(found.stderr["eigenvalue_max"]).all()
    work = found.attributes["work"]
    assert work["products_of_all_data"] == work["sample_products"] / N
    assert work["share_of_brute_force"] < 0.5
    assert found.attributes["error_reached"] == 1
    assert f"by {work['share_of_brute_force']:.1%} of brute force" in str(found)
    told = str(next(iter(surface_tables(found, "map"))))
    assert f"{work['products_of_all_data']:,.1f} products of all data" in told
    assert "4 sampled" in told
    values = next(table for table in surface_tables(found, "map") if table.title.startswith("values"))
    assert "error" in values.columns
    largest = f"{found.error['eigenvalue_max'].ravel()[found.values['eigenvalue_max'].argmax()]:.2g}"
    assert largest in [cell.text for row in values.rows for cell in row]
    assert "error of what was not measured at most " in " ".join(
        text.get_text() for text in found.plot("eigenvalue_max").findobj(Text)
    )
    np.testing.assert_array_equal(surface_columns(found)["eigenvalue_min_error"], found.error["eigenvalue_min"].ravel())
    said = map_trial(objective, {"plane": plane, **POINT, "error": ERROR}, tmp_path / "other", 1).said
    assert f"of what all data take, for an error of {ERROR:g}; a guess from two lines" in said["work"]
    with pytest.raises(ls.InputError, match="error"):
        measured(objective, plane, out=tmp_path, error=0.1)


def test_small_data_are_measured_whole_and_nothing_changes_without_an_error(
    objective: ls.Objective, plane: Plane, tmp_path: Path
) -> None:
    few = objective.on(objective.data.head(100))
    plain, asked = (measured(few, plane, error=error, tol=0.1, **POINT) for error in (None, ERROR))
    assert plain.error is None
    assert "error_asked" not in plain.attributes
    assert asked.error is not None
    assert asked.found is not None
    for name, values in plain.values.items():
        np.testing.assert_array_equal(asked.values[name], values)
        np.testing.assert_array_equal(asked.stderr[name], plain.stderr[name])
        assert not asked.error[name].any()
    assert set(asked.found.ravel()) == {"anchor"}
    assert asked.attributes["work"]["share_of_brute_force"] == 1
    said = map_trial(few, {"plane": plane, **POINT, "error": ERROR, "tol": 0.1}, tmp_path, 1).said
    assert said["work"].startswith("all data at every point")


def test_the_lower_end_is_within_its_errors(objective: ls.Objective) -> None:
    """Over seeds; the bracket alone is not empty, and a tight error takes all data."""
    matrix, _ = matrix_of(objective, params=None, operator="hessian", weight_decay=0.0, seed=0)
    high, low = ends(objective.theta)
    draws = Balanced.of(objective)

    def found(error: float, seed: int) -> Any:
        return lowest(
            matrix, draws, high, error, tol=1e-3, max_products=60, seed=seed, start=None, group=SERIAL
        )  # fmt: skip

    ratios = []
    for seed in range(8):
        one = found(0.1, seed)
        assert not one.whole
        assert 0 < one.error <= 0.1 * high
        ratios.append((one.value - low) / one.error)
    assert np.mean(np.abs(ratios) < 2) >= 0.85, ratios
    assert (np.abs(ratios) < 3).all(), ratios
    assert np.std(ratios) > 0.05, ratios
    exact = found(1e-4, 0)
    assert exact.whole
    assert exact.error == 0
    assert exact.value == pytest.approx(low, abs=1e-3 * abs(low))
