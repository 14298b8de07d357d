"""Files and run folders that version d8328f9 wrote, before studies had folders: they open, and the runs go on."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import landscape as ls
from landscape.opening.opening import Place
from landscape.run.store import Store

OLD = Path(__file__).resolve().parents[1] / "golden" / "version_d8328f9"
sys.path.insert(0, str(OLD))

import nets_d8  # noqa: E402  (lies beside the files that were made of it)

CLOSE = {"rtol": 1e-9, "atol": 1e-12}  # float64 on another processor


@pytest.fixture(scope="module")
def objective() -> ls.Objective:
    return ls.Objective(nets_d8.net(), "cross_entropy", nets_d8.data(), metrics=["accuracy"])


def test_a_surface_with_models_on_it(objective: ls.Objective) -> None:
    read = ls.open(OLD / "surface.h5")
    assert isinstance(read, ls.Surface)
    assert read.computed.sum() == 11
    assert read.attributes["plane"]["kind"] == "through"
    plane = ls.plane_through(objective, [nets_d8.net(k) for k in (0, 1, 2)])
    now = ls.measure_surface(objective, plane, x=(-1, 1, 5), y=(-1, 1, 3))
    np.testing.assert_allclose(read.values["loss"][read.computed], now.values["loss"][read.computed], **CLOSE)
    assert read.points is not None
    assert now.points is not None
    np.testing.assert_allclose(read.points.coordinates, now.points.coordinates, **CLOSE)


def test_a_spectrum(objective: ls.Objective) -> None:
    read = ls.open(OLD / "spectrum.h5")
    assert isinstance(read, ls.Spectrum)
    now = ls.measure_spectrum(objective, 3, smallest=1, density_steps=8, density_probes=2, seed=1, trace="split")
    np.testing.assert_allclose(read.eigenvalues, now.eigenvalues, rtol=1e-6)
    assert read.trace is not None
    assert now.trace is not None
    np.testing.assert_allclose(read.trace.value, now.trace.value, rtol=1e-6)
    assert set(read.to_xarray().variables) == set(now.to_xarray().variables)


def test_a_merged_sweep(objective: ls.Objective) -> None:
    place = Place(OLD / "sweep.h5")
    assert place.holds_several
    assert len(place.run_names) == 4
    tree = ls.open(OLD / "sweep.h5")
    assert set(tree.children) == set(place.run_names)
    one = place.open(place.run_names[0])
    assert isinstance(one, ls.Surface)
    assert one.complete
    np.testing.assert_allclose(one.values["loss"][1, 2], float(objective.evaluate()["loss"]), **CLOSE)


def test_a_surface_that_was_begun_goes_on(objective: ls.Objective, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(OLD / "run", folder)
    before = Store.open(folder).rows()
    plane = ls.plane_from_directions(objective, nets_d8.directions())
    whole = ls.measure_surface(objective, plane, x=(-1, 1, 5), y=(-1, 1, 3), out=folder)
    assert before.done.sum() == 7
    attempts = Store.open(folder).attempts.all()
    assert [attempt.get("computed") for attempt in attempts] == [7, 8]
    kept = whole.values["loss"].ravel()[before.done]
    assert kept.tobytes() == before.columns["loss"][before.done].tobytes()
    again = ls.measure_surface(objective, plane, x=(-1, 1, 5), y=(-1, 1, 3))
    np.testing.assert_allclose(whole.values["loss"], again.values["loss"], **CLOSE)


def test_a_spectrum_that_was_begun_goes_on(objective: ls.Objective, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(OLD / "spectrum_run", folder)
    eigenpairs = Store.open(folder / "eigenpairs").rows()
    asked = {"smallest": 1, "trace": "hutchinson", "density_steps": 8, "density_probes": 2, "seed": 1}
    found = ls.measure_spectrum(objective, 3, out=folder, **asked)
    assert [Store.open(folder / name).attempts.all()[-1].get("computed") for name in ("eigenpairs", "density")] == [
        0,
        2,
    ]
    assert found.eigenvalues.tobytes() == eigenpairs.columns["values"][0].tobytes()
    assert found.density is not None
    assert isinstance(ls.open(folder / "landscape.h5"), ls.Spectrum)
