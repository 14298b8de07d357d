"""`measure_path` to a stated error, against full passes at every place."""

from __future__ import annotations

from pathlib import Path as FilePath
from typing import Any

import numpy as np
import path_cases
import pytest
import surface_cases
import torch

import landscape as ls
from landscape.errors import InputError
from landscape.results.summary import result_tables
from landscape.studies.path.result import mode_connectivity
from landscape.studies.path.study import STUDY
from landscape.studies.path.tables import path_columns
from landscape.studies.path.views import path_views

ASKED: dict[str, Any] = {"t": 21, "error": 0.005, "batchnorm": "frozen"}
MODES = ("frozen", "interpolated", "reestimated")


@pytest.fixture(scope="module")
def objective() -> ls.Objective:
    return surface_cases.many_samples()


@pytest.fixture(scope="module")
def models() -> Any:
    return path_cases.far_ends()


@pytest.fixture(scope="module")
def brute(objective: ls.Objective, models: Any) -> dict[str, ls.Path]:
    return {mode: ls.measure_path(objective, models, t=21, batchnorm=mode) for mode in MODES}


@pytest.fixture(scope="module")
def precise(objective: ls.Objective, models: Any) -> dict[str, ls.Path]:
    return {mode: ls.measure_path(objective, models, **{**ASKED, "batchnorm": mode}) for mode in MODES}


def arrays(path: ls.Path) -> bytes:
    assert path.error is not None
    assert path.found is not None
    parts = [p for q in path.values for p in (path.values[q], path.stderr[q], path.error[q], path.replicates[q])]
    return b"".join(part.tobytes() for part in [*parts, path.t, path.arc, path.found, path.computed])


@pytest.mark.parametrize("mode", MODES)
def test_values_and_barrier_are_those_of_full_passes_within_their_error(
    mode: str, precise: dict[str, ls.Path], brute: dict[str, ls.Path]
) -> None:
    found, full = precise[mode], brute[mode]
    assert found.error is not None
    assert found.found is not None
    assert found.complete
    np.testing.assert_array_equal(found.t, full.t)
    anchors = found.found == "anchor"
    assert anchors[[0, 5, 10, 15, 20]].all()
    assert (found.found[~anchors] == "sampled").all()
    assert (~anchors).any()
    for name in ("loss", "accuracy"):
        gap, error = np.abs(found.values[name] - full.values[name]), found.error[name]
        assert not gap[anchors].any()
        assert not error[anchors].any()
        assert (gap <= 5 * error).all()
        np.testing.assert_array_equal(found.replicates[name][anchors], full.replicates[name][anchors])
        assert np.isnan(found.replicates[name][~anchors]).all()
    assert found.attributes["error_reached"] >= 0.8
    assert found.attributes["work"]["share_of_brute_force"] < 0.9
    exact = found.values["accuracy"][anchors]
    assert found.mc == pytest.approx(-100 * mode_connectivity(exact))
    assert found.mc.stderr > 0
    assert found.barrier_of("accuracy").stderr > 0
    peak = found.peak
    assert found.barrier == peak.height
    assert peak.error <= 0.005 * float(found.values["loss"][found.t == peak.t][0])
    assert 0 <= full.barrier - peak.height <= 3 * peak.error
    assert peak.first <= full.peak.t <= peak.last
    if mode != "reestimated":
        assert found.barrier.stderr == pytest.approx(full.barrier.stderr)
        assert full.peak.error == 0
        assert full.barrier > 0.1


def test_file_tables_and_columns_tell_it(
    precise: dict[str, ls.Path], brute: dict[str, ls.Path], tmp_path: FilePath
) -> None:
    path = precise["frozen"]
    back = ls.open(path.save(tmp_path / "p.h5"))
    assert isinstance(back, ls.Path)
    assert arrays(back) == arrays(path)
    assert back.peak == path.peak
    assert back.attributes["work"] == path.attributes["work"]
    columns = path_columns(path)
    assert {"loss_error", "loss_error_sampling", "loss_error_interpolation", "found"} <= set(columns)
    told = str(next(result_tables(path, "p")))
    for text in ("0.005 relative", "of brute force", "error of the barrier", "place of the barrier"):
        assert text in told
    assert "error 0.005 relative asked" in str(path)
    plain = str(next(result_tables(brute["frozen"], "b")))
    assert "of the barrier" not in plain
    assert "found" not in path_columns(brute["frozen"])


def test_errors_are_drawn_as_bands(precise: dict[str, ls.Path], brute: dict[str, ls.Path]) -> None:
    band = "±2 errors of what was not measured"
    for paths, drawn in ((precise, True), (brute, False)):
        named = [text.get_text() for box in paths["frozen"].plot().legends for text in box.get_texts()]
        assert named.count(band) == drawn
        assert (band in str(next(path_views(paths["frozen"], 1000)).views["loss"])) == drawn


def test_stopped_and_resumed_is_the_same_to_the_byte(
    objective: ls.Objective, models: Any, precise: dict[str, ls.Path], tmp_path: FilePath
) -> None:
    out = tmp_path / "run"
    for _ in range(20):
        part = ls.measure_path(objective, models, **ASKED, out=out, limit_items=19)
        if part.complete:
            break
        assert not (out / "landscape.h5").exists()
    assert arrays(part) == arrays(precise["frozen"])
    assert arrays(ls.open(out)) == arrays(precise["frozen"])


class Holed(torch.nn.Module):
    """Outputs of a line from a = 0 to 1, NaN or infinite where a lies in a hole."""

    def __init__(self, low: float, high: float, inside: float) -> None:
        super().__init__()
        self.a = torch.nn.Parameter(torch.zeros(1))
        self.low, self.high, self.inside = low, high, inside

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hole = (self.a > self.low) & (self.a < self.high)
        return torch.where(hole, torch.full_like(x, self.inside), x + self.a * (1 - self.a))


@pytest.mark.parametrize("inside", [float("nan"), float("inf")])
def test_a_barrier_is_not_finite_where_a_place_without_a_full_pass_is_not(inside: float) -> None:
    x = torch.rand(1100, 1, generator=torch.Generator().manual_seed(0))
    objective = ls.Objective(Holed(0.3, 0.4, inside), loss="mse", data=(x, torch.zeros(1100, 1)), chunk=256)
    ends = [torch.tensor([0.0]), torch.tensor([1.0])]
    full, found = (ls.measure_path(objective, ends, t=17, **asked) for asked in ({}, {"error": 0.01}))
    assert found.found is not None
    assert found.attributes["work"]["share_of_brute_force"] < 1
    np.testing.assert_array_equal(np.isfinite(found.values["loss"]), np.isfinite(full.values["loss"]))
    for name in ("barrier", "rebasin_barrier", "mc"):
        np.testing.assert_array_equal(float(getattr(found, name)), float(getattr(full, name)), err_msg=name)
        assert np.isnan(getattr(found, name).stderr)


def test_small_data_get_full_passes() -> None:
    objective = ls.Objective(surface_cases.network(), "cross_entropy", surface_cases.data())
    brute, precise = (
        ls.measure_path(objective, path_cases.ends(), t=4, batchnorm="frozen", **e) for e in ({}, {"error": 0.01})
    )
    assert precise.found is not None
    assert (precise.found == "anchor").all()
    assert precise.values["loss"].tobytes() == brute.values["loss"].tobytes()
    assert precise.replicates["loss"].tobytes() == brute.replicates["loss"].tobytes()
    assert precise.attributes["work"]["share_of_brute_force"] == 1


def test_a_check_foretells_the_work(objective: ls.Objective, models: Any, precise: Any, tmp_path: FilePath) -> None:
    assert STUDY.trial is not None
    trial = STUDY.trial(objective, {"curve": models, **ASKED}, tmp_path / "out", 1)
    told = float(trial.said["work"].split()[1])
    assert 0.4 < told / precise["frozen"].attributes["work"]["full_passes"] < 2


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"error": -1.0}, "above 0"),
        ({"error": 0.1, "tol": 0.1}, "tol=0.1 and error=0.1"),
        ({"error": 0.1, "test": surface_cases.data()}, "test and error"),
        ({"share": 0.5}, "give an error"),
    ],
)
def test_an_error_that_cannot_be_asked_is_refused(wrong: Any, said: str, objective: ls.Objective, models: Any) -> None:
    with pytest.raises(InputError, match=said):
        ls.measure_path(objective, models, **wrong)
