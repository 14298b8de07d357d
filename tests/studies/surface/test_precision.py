"""`measure_surface` to a stated error, against full passes at every point."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import surface_cases
import torch
from torch import nn

import landscape as ls
from landscape.errors import InputError
from landscape.studies.surface.tables import surface_columns, surface_tables
from landscape.studies.surface.views import surface_views

GRID: dict[str, Any] = {"x": (-4, 4, 8), "y": (-4, 4, 7)}
ASKED: dict[str, Any] = {"error": 0.006, "share": 0.8}  # five rounds or so


@pytest.fixture(scope="module")
def objective() -> ls.Objective:
    return surface_cases.many_samples()


@pytest.fixture(scope="module")
def plane(objective: ls.Objective) -> Any:
    return ls.random_plane(objective, seed=3)


@pytest.fixture(scope="module")
def brute(objective: ls.Objective, plane: Any) -> ls.Surface:
    return ls.measure_surface(objective, plane, **GRID)


@pytest.fixture(scope="module")
def precise(objective: ls.Objective, plane: Any) -> ls.Surface:
    return ls.measure_surface(objective, plane, **GRID, **ASKED)


def arrays(surface: ls.Surface) -> bytes:
    assert surface.error is not None
    assert surface.found is not None
    parts = [p for q in surface.values for p in (surface.values[q], surface.stderr[q], surface.error[q])]
    return b"".join(part.tobytes() for part in [*parts, surface.found, surface.computed])


def test_values_are_those_of_full_passes_within_their_error(precise: ls.Surface, brute: ls.Surface) -> None:
    assert precise.error is not None
    assert precise.found is not None
    assert precise.complete
    anchors = precise.found == "anchor"
    assert anchors.sum() >= 9
    assert (precise.found == "sampled").sum() > 10
    for name in ("loss", "accuracy"):
        gap, error = np.abs(precise.values[name] - brute.values[name]), precise.error[name]
        assert not gap[anchors].any()
        assert not error[anchors].any()
        assert (gap[~anchors] <= 5 * error[~anchors]).all()
        assert (gap[~anchors] <= 1.96 * error[~anchors]).mean() > 0.8
        assert np.median(np.abs(precise.stderr[name] / brute.stderr[name] - 1)) < 0.1
    about = precise.attributes
    close = precise.error["loss"] <= 0.006 * precise.values["loss"]
    assert about["error_reached"] == close.mean() >= 0.8
    work = about["work"]
    assert work["share_of_brute_force"] == pytest.approx(work["sample_passes"] / 1200 / 56)
    assert work["share_of_brute_force"] < 1


def test_file_tables_and_columns_tell_it(precise: ls.Surface, tmp_path: Path) -> None:
    back = ls.open(precise.save(tmp_path / "s.h5"))
    assert arrays(back) == arrays(precise)
    assert back.attributes["work"] == precise.attributes["work"]
    columns = surface_columns(precise)
    assert set(columns["found"]) == set(np.unique(precise.found).tolist())
    assert columns["loss_error"] == pytest.approx(precise.error["loss"].ravel())  # type: ignore[index]
    told = next(surface_tables(precise, "surface"))
    assert "of brute force" in str(told)
    assert "0.006 relative" in str(told)


def test_errors_of_samples_and_of_interpolation_stand_apart(precise: ls.Surface, tmp_path: Path) -> None:
    assert precise.error is not None
    assert precise.error_sampling is not None
    assert precise.error_interpolation is not None
    for name, error in precise.error.items():
        parts = precise.error_sampling[name], precise.error_interpolation[name]
        np.testing.assert_allclose(np.hypot(*parts), error, rtol=1e-12)
        between = precise.found == "interpolated"
        assert not parts[1][~between].any()
        assert (parts[1][between] > 0).any() == between.any()
    path = precise.save(tmp_path / "s.h5")
    back = ls.open(path)
    assert back.error_interpolation["loss"].tobytes() == precise.error_interpolation["loss"].tobytes()
    with h5py.File(path, "r+") as file:  # as a file of before
        for name in ("loss", "accuracy"):
            del file[f"surface/{name}_error_sampling"], file[f"surface/{name}_error_interpolation"]
    old = ls.open(path)
    assert old.error_sampling is None
    assert old.error["loss"].tobytes() == precise.error["loss"].tobytes()
    assert "loss_error_sampling" not in old.with_errors().values


def test_errors_are_drawn_and_told(precise: ls.Surface, brute: ls.Surface) -> None:
    figure = precise.plot("loss_error")
    assert any("standard error of loss" in ax.get_ylabel() for ax in figure.axes)
    picture = next(surface_views(precise, 1000))
    assert {"loss_error", "loss_error_sampling", "accuracy_error"} <= set(picture.views)
    assert "error 0.006 relative asked at 80% of the points" in str(precise)
    assert "of brute force" in str(precise)
    with pytest.raises(InputError, match="loss_error"):
        brute.plot("loss_error")


def test_stopped_at_any_row_and_resumed_is_the_same_to_the_byte(
    objective: ls.Objective, plane: Any, precise: ls.Surface, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    for _ in range(40):
        part = ls.measure_surface(objective, plane, **GRID, **ASKED, out=out, limit_items=23)
        if part.complete:
            break
        assert part.found is not None
        assert not (part.found == "interpolated").any()
        assert not (out / "landscape.h5").exists()
        assert (part.computed == (part.found != "")).all()
    assert len(json.loads((out / "run.json").read_text())["rounds"]) > 3
    assert arrays(part) == arrays(precise)
    assert arrays(ls.open(out)) == arrays(precise)
    assert (out / "landscape.h5").is_file()


def test_a_last_round_with_rows_to_come_is_not_complete(
    objective: ls.Objective, plane: Any, precise: ls.Surface
) -> None:
    rows = int(precise.attributes["work"]["rounds_items"])
    part = ls.measure_surface(objective, plane, **GRID, **ASKED, limit_items=rows - 1)
    assert part.attributes["work"]["rounds_items"] == rows - 1
    assert not part.complete


def test_small_data_get_full_passes() -> None:
    objective = ls.Objective(surface_cases.network(), "cross_entropy", surface_cases.data())
    plane = ls.random_plane(objective, seed=3)
    brute, precise = (ls.measure_surface(objective, plane, x=(-1, 1, 3), y=(-1, 1, 3), **e) for e in ({}, ASKED))
    assert precise.found is not None
    assert (precise.found == "anchor").all()
    assert precise.values["loss"].tobytes() == brute.values["loss"].tobytes()
    assert precise.attributes["work"]["share_of_brute_force"] == 1
    assert brute.error is None
    assert brute.found is None


def test_statistics_estimated_anew_count_as_work(plane: Any, objective: ls.Objective) -> None:
    grid = {"x": (-0.2, 0.2, 7), "y": (-0.2, 0.2, 6)}
    asked = {"batchnorm": "reestimated", "error": 0.05}
    brute = ls.measure_surface(objective, plane, **grid, batchnorm="reestimated")  # type: ignore[arg-type]
    found = ls.measure_surface(objective, plane, **grid, **asked)  # type: ignore[arg-type]
    assert found.error is not None
    assert found.found is not None
    measured = found.found == "sampled"
    assert measured.any()
    gap = np.abs(found.values["loss"] - brute.values["loss"])
    assert (gap <= 5 * found.error["loss"]).all()
    anchors = int((found.found == "anchor").sum())
    rows = int(found.attributes["work"]["rounds_items"])
    assert found.attributes["work"]["sample_passes"] >= anchors * 2400 + (rows - anchors) * 1328 - 25 * 1328


def _near(precise: ls.Surface, brute: ls.Surface) -> None:
    """Every value is that of the full pass, within five errors and the rounding of its precision."""
    assert precise.error is not None
    assert (precise.found == "sampled").any()
    gap, room = np.abs(precise.values["loss"] - brute.values["loss"]), 1e-6 * np.abs(brute.values["loss"])
    assert (gap <= 5 * precise.error["loss"] + room).all()


@pytest.mark.parametrize("how", ["bf16", "streamed", "interpolated", "three axes"])
def test_what_else_goes_with_an_error(how: str, plane: Any, objective: ls.Objective) -> None:
    grid: dict[str, Any] = {"x": (-1, 1, 7), "y": (-1, 1, 6)}
    options: dict[str, Any] = {}
    if how == "bf16":
        objective = objective.on(objective.data, chunk=256, precision="bf16")
    elif how == "streamed":
        inputs, targets = surface_cases.samples()
        streamed = ls.Objective(surface_cases.network(), data=(inputs, targets), metrics=("accuracy",), memory_budget=0)
        objective = streamed.on(streamed.data, chunk=256)
    elif how == "interpolated":
        models = [surface_cases.network() for _ in range(3)]
        for k, model in enumerate(models):
            for parameter in model.parameters():
                torch.nn.init.normal_(parameter, std=0.3 + k / 10)
            model[1].running_mean += k  # type: ignore[operator]
        plane = ls.plane_through(objective, models)
        options["batchnorm"] = "interpolated"
    else:
        plane = ls.random_plane(objective, axes=3, seed=3)
        grid = {"x": (-1, 1, 5), "y": (-1, 1, 5), "z": (-1, 1, 5)}
    brute = ls.measure_surface(objective, plane, **grid, **options)
    precise = ls.measure_surface(objective, plane, **grid, **options, error=0.03)
    _near(precise, brute)
    if how == "bf16":
        assert precise.attributes["precision_error_points"] == 9
    if how == "interpolated":
        assert precise.points is not None
        assert precise.points.true["loss"].tobytes() == brute.points.true["loss"].tobytes()  # type: ignore[union-attr]


def by_class(outputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A sample weighs 1, 2 or 3, as its class says."""
    weights = targets + 1.0
    return weights * nn.functional.cross_entropy(outputs, targets, reduction="none"), weights


def of_batches(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """A mean that cannot be taken sample by sample."""
    kept = outputs.sum(1) > -1e9
    return nn.functional.cross_entropy(outputs[kept], targets[kept])


@pytest.mark.parametrize(("loss", "found"), [(by_class, "sampled"), (of_batches, "anchor")])
def test_other_weights_than_one_and_values_of_batches_alone(loss: Any, found: str) -> None:
    objective = surface_cases.many_samples(loss=loss)
    plane = ls.random_plane(objective, seed=3)
    grid: dict[str, Any] = {"x": (-1, 1, 6), "y": (-1, 1, 5)}
    precise, brute = (ls.measure_surface(objective, plane, **grid, **e) for e in ({**ASKED, "error": 0.05}, {}))
    assert precise.error is not None
    assert precise.found is not None
    rest = precise.found != "anchor"
    assert rest.any() == (found == "sampled")
    gap = np.abs(precise.values["loss"] - brute.values["loss"])
    assert (gap <= 5 * precise.error["loss"]).all()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"error": 0.0}, "above 0"),
        ({"error": 2.0}, "1 or more"),
        ({"error": float("nan")}, "above 0"),
        ({"error": 0.1, "scale": "relativ"}, "relative, absolute"),
        ({"error": 0.1, "share": 0.0}, "share=0.0"),
        ({"error": 0.1, "share": "a"}, "share='a'"),
        ({"scale": "range"}, "give an error"),
    ],
)
def test_what_cannot_be_asked_is_refused(wrong: dict[str, Any], said: str, objective: ls.Objective, plane: Any) -> None:
    with pytest.raises(InputError, match=said):
        ls.measure_surface(objective, plane, **GRID, **wrong)


def test_known_and_error_do_not_go_together(objective: ls.Objective, plane: Any, brute: ls.Surface) -> None:
    with pytest.raises(InputError, match="known and error"):
        ls.measure_surface(objective, plane, **GRID, error=0.1, known=brute)


def test_only_full_passes_are_taken_over_from_a_surface_to_an_error(
    objective: ls.Objective, plane: Any, brute: ls.Surface, precise: ls.Surface
) -> None:
    surface = ls.measure_surface(objective, plane, **GRID, known=precise)
    assert surface.values["loss"].tobytes() == brute.values["loss"].tobytes()
