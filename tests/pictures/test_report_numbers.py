"""Numbers of the report and of watch: small variation stays, thinning keeps peaks, and counts are of all."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from landscape_jobs.cli import app
from landscape_jobs.report import page as report
from landscape_kernels.arrays import FloatArray
from made import pictures_of
from test_report import ABOUT, Page, agreement, bowl, pairs_of, path, spectrum, surface, write
from test_watch import drawn
from typer.testing import CliRunner

import landscape as ls
from landscape.pictures.numbers import extremes
from landscape.studies.curve.result import Curve
from landscape.studies.profiles.result import Profiles
from landscape.studies.surface.result import Points, Surface

FLAT = 2.302585092994  # a loss at the beginning of training


@pytest.fixture(autouse=True)
def without_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five megabytes fewer to write and to parse."""
    monkeypatch.setattr(report, "get_plotlyjs", lambda: "const Plotly = null;")


def views(tmp_path: Path, result: Any) -> dict[str, Any]:
    """What the first picture of a report's page holds."""
    found: dict[str, Any] = Page(write(tmp_path, result)).pictures[0]["views"]
    return found


def line(values: FloatArray, stderr: float | FloatArray = math.nan, x: FloatArray | None = None) -> Surface:
    """A surface of one axis."""
    at = np.linspace(-1, 1, len(values)) if x is None else x
    errors = np.broadcast_to(np.asarray(stderr, dtype=np.float64), values.shape)
    return Surface({"x": at}, {"loss": values}, {"loss": errors}, np.ones(len(values), dtype=bool), None, ABOUT)


def trace(view: dict[str, Any], name: str) -> dict[str, Any]:
    """The trace of that name."""
    found: dict[str, Any] = next(one for one in view["data"] if one.get("name") == name)
    return found


def test_a_small_variation_of_a_surface_stays(tmp_path: Path) -> None:
    values = FLAT + 1e-6 * (bowl() - 5) / 4
    held = replace(surface(values), stderr={"loss": np.full(values.shape, 2.5e-8)})
    view = views(tmp_path, held)["loss"]["surface"]
    z = np.array(view["z"])
    assert np.abs(z - values).max() < 1e-11
    assert len(np.unique(z)) == len(np.unique(values.round(13)))
    texts = view["scales"]["linear"]["texts"]
    assert len(texts) > 5
    assert len(set(texts)) == len(texts)
    assert [float(text) for text in texts] == pytest.approx(view["scales"]["linear"]["levels"], abs=1e-10)
    assert "lowest with 2.302584093 ± 2.5e-08" in next(pictures_of(held, 1000)).alt


def test_a_small_variation_of_a_line_and_its_band_stay(tmp_path: Path) -> None:
    x = np.linspace(-1, 1, 21)
    values = 2.3025 + 1e-5 * x**2
    view = views(tmp_path, line(values, 1e-6))["loss"]
    found = trace(view, "loss")
    assert np.abs(np.array(found["y"]) - values).max() < 1e-10
    band = np.array(trace(view, "±2 standard errors")["y"])
    assert band[:21] - band[21:][::-1] == pytest.approx(np.full(21, 4e-6), rel=1e-3)
    assert len(set(found["text"])) == 21
    assert found["text"][1] == "x = -0.9<br>loss 2.3025081 ± 1e-06"


def test_an_axis_of_a_small_range_stays(tmp_path: Path) -> None:
    x = np.linspace(1000, 1000.001, 11)
    view = views(tmp_path, line(np.arange(11.0), x=x))["loss"]
    found = trace(view, "loss")
    assert np.abs(np.array(found["x"]) - x).max() < 1e-8
    assert found["text"][1].startswith("x = 1000.0001<br>")
    plane = Surface({"x": x, "y": x}, {"loss": bowl(11, 11)}, {"loss": bowl(11, 11)}, np.ones((11, 11), dtype=bool))
    assert np.abs(np.array(views(tmp_path, plane)["loss"]["surface"]["x"]) - x).max() < 1e-8
    (picture,) = pictures_of(plane, 1000)
    assert "x from 1000 to 1000.001" in picture.alt
    holes = replace(line(np.where(np.arange(11) == 5, np.nan, 1.0), x=x))
    hole = trace(views(tmp_path, holes)["loss"], "NaN or Inf (1)")
    assert hole["x"][0] == pytest.approx(1000.0005, abs=1e-9)
    assert hole["text"] == ["x = 1000.0005<br>NaN"]


def test_errors_far_below_the_range_stay_apart() -> None:
    values = np.array([1.0, 1.0 + 3e-9, 50.0])
    (picture,) = pictures_of(line(values, 1e-9), 1000)
    found = trace(picture.views["loss"], "loss")
    assert found["y"][1] - found["y"][0] == pytest.approx(3e-9, rel=0.1)
    assert found["text"][1].endswith("loss 1.000000003 ± 1e-09")


def test_other_pictures_have_the_digits_of_their_range() -> None:
    held = agreement()
    (matrix,) = pictures_of(replace(held, values={"cka": 0.9 + np.array([0.0, 1e-8, 2e-8])}, stderr={}), 1000)
    assert matrix.views["cka"]["data"][0]["z"][0][2] == pytest.approx(0.9 + 1e-8, abs=1e-12)
    assert "cka from 0.9 to 0.90000002" in matrix.alt
    eigenvalues = replace(spectrum(), largest=pairs_of([FLAT + 1e-7, FLAT], [1e-9, 1e-9]))
    marks = next(pictures_of(eigenvalues, 1000)).views["eigenvalues"]["data"][0]
    assert marks["y"][0] - marks["y"][1] == pytest.approx(1e-7, rel=1e-3)
    known = np.array([1.0 + 1e-7, 1.0])
    points = Points("trajectory", ("a", "b"), np.zeros((2, 2)), np.zeros(2), {"loss": known}, {"loss": known})
    drawn_points = next(pictures_of(surface(bowl(), points=points), 1000)).views["loss"]["surface"]["points"]
    assert drawn_points["z"] == known.tolist()
    assert "loss 1.0000001 itself" in drawn_points["texts"][0]


def test_counts_of_a_thinned_picture_are_of_all() -> None:
    values = bowl(400, 300)
    values[10:20, 30:50] = np.nan
    values[10, 30] = np.inf
    computed = np.ones(values.shape, dtype=bool)
    computed[200:, 300:] = False
    held = surface(np.where(computed, values, np.nan), computed=computed)
    (picture,) = pictures_of(held, 1000)
    view = picture.views["loss"]["surface"]
    assert view["counts"] == [10_000, 200]
    assert sum(row.count("m") for row in view["state"]) < 1000
    assert "200 of its values are NaN or Inf" in picture.alt
    assert "10,000 of 120,000 points not computed" in picture.alt
    (picture,) = pictures_of(line(np.where(np.arange(30_000) % 3 == 1, np.nan, 1.0)), 600)
    mark = trace(picture.views["loss"], "NaN or Inf (10,000)")
    assert len(mark["x"]) == 600
    assert "10,000 of its values are NaN or Inf" in picture.alt


def test_a_thinned_surface_keeps_the_lowest_of_every_quantity() -> None:
    values = {"loss": bowl(211, 207), "error": bowl(211, 207), "margin": bowl(211, 207)}
    for k, found in enumerate(values.values()):
        found[3 + 50 * k, 7 + 61 * k] = -1.0 - k
    (picture,) = pictures_of(replace(surface(bowl(211, 207)), values=values, stderr=values), 900)
    for k, view in enumerate(picture.views.values()):
        assert np.min(view["surface"]["z"]) == -1.0 - k
    assert "the lowest value of each quantity" in picture.notes[0]


@pytest.mark.parametrize("most", [50, 333, 1000])
def test_no_extreme_of_any_line_is_lost(most: int) -> None:
    held = [np.random.default_rng(k).normal(size=5001) for k in range(3)]
    held[1][100:200] = np.nan
    kept = extremes(held, most)
    assert len(kept) <= 1.1 * most
    assert {0, 5000} <= set(kept.tolist())
    for values in held:
        assert {int(np.nanargmin(values)), int(np.nanargmax(values))} <= set(kept.tolist())
    assert np.isnan(held[1][kept]).any()
    assert extremes([np.arange(7.0)], 7).tolist() == list(range(7))


def test_thinned_lines_say_so_and_keep_their_peaks() -> None:
    spike = np.ones(100_000)
    spike[54_321], spike[777] = 9.0, 0.25
    (picture,) = pictures_of(line(spike), 1000)
    y = trace(picture.views["loss"], "loss")["y"]
    assert (max(y), min(y)) == (9.0, 0.25)
    assert f"{len(y):,} of 100,000 points are drawn" in picture.notes[0]

    (picture,) = pictures_of(Curve("bezier", torch.zeros(3, 5), dict(ABOUT), {"loss": spike}), 1000)
    y = trace(picture.views["loss"], "loss")["y"]
    assert (max(y), min(y)) == (9.0, 0.25)
    assert any(f"{len(y):,} of 100,000 epochs of loss" in note for note in picture.notes)

    whole = path(100_000)
    (picture,) = pictures_of(replace(whole, values={"loss": spike}, stderr={"loss": spike / 9}), 1000)
    y = [v for v in trace(picture.views["loss"], "loss")["y"] if v is not None]
    assert (max(y), min(y)) == (9.0, 0.25)
    assert "of 100,000 places are drawn" in picture.notes[0]

    density = spectrum().density
    assert density is not None
    grid = np.linspace(0, 1, 5000)
    narrow = np.where(np.arange(5000) == 1234, 50.0, 0.01)
    fine = replace(density, grid=grid, values=narrow, lower=narrow, upper=narrow)
    picture = next(one for one in pictures_of(replace(spectrum(), density=fine), 600) if one.title == "density")
    assert max(trace(picture.views["density"], "density")["y"]) == 50.0
    assert any("of 5,000 places are drawn" in note for note in picture.notes)


def test_thinned_profiles_say_so_and_keep_every_lowest_value() -> None:
    x = np.linspace(-1, 1, 2001)
    values = np.tile(1 + x**2, (100, 1))
    places = np.random.default_rng(0).integers(0, 2001, 100)
    values[np.arange(100), places] = -np.arange(100.0)
    done = np.ones(values.shape, dtype=bool)
    (picture,) = pictures_of(Profiles(x, {"loss": values}, {"loss": values / 9}, done, dict(ABOUT)), 40_000)
    lines = [one for one in picture.views["loss"]["data"] if one["name"] == "one direction"]
    assert len(lines) == 100
    assert [min(one["y"]) for one in lines] == (-np.arange(100.0)).tolist()
    assert max(len(one["y"]) for one in lines) <= 440
    assert any("of 2,001 points of a direction at most are drawn" in note for note in picture.notes)


def test_watch_shows_the_lowest_of_each_column() -> None:
    values = np.ones(300)
    values[151] = 0.25
    lines = drawn(surface(values))
    columns = ["".join(row[11:][k] for row in lines[1:-1]) for k in range(72)]
    assert len(set(columns)) == 2
    assert sum(column != columns[0] for column in columns) == 1
    assert "a column: the lowest of up to 5 places" in lines[-1]
    hilly = np.full(300, 1.0)
    hilly[151] = 5.0
    whole = path(300)
    lines = drawn(replace(whole, values={"loss": hilly}, computed=np.ones(300, dtype=bool)))
    assert sum(letter != " " for letter in lines[1][11:]) == 1
    assert "the highest of up to 5 places" in lines[-1]
    valley = bowl(300, 200) + 5
    valley[77, 133] = 0.0
    lines = drawn(surface(valley))
    assert "".join(lines[1:-2]).count(".") >= 1 + sum(line.split()[0].count(".") for line in (lines[1], lines[-3]))
    assert re.search(r"a cell: the lowest of up to \d+ points", lines[-2])


def test_watch_tells_small_ranges_apart() -> None:
    lines = drawn(surface(FLAT + 1e-6 * bowl()[3]))
    assert lines[1].split()[0] != lines[-2].split()[0]


def test_watching_an_unreadable_run_is_an_error(tmp_path: Path) -> None:
    torch.manual_seed(0)
    objective = ls.Objective(torch.nn.Linear(3, 2), data=(torch.randn(20, 3), torch.arange(20) % 2), device="cpu")
    plane = ls.random_plane(objective, seed=0)
    ls.measure_surface(objective, plane, (-1, 1, 4), (-1, 1, 3), out=tmp_path / "run", limit_items=5)
    assert CliRunner().invoke(app, ["watch", str(tmp_path / "run")]).exit_code == 0
    record = tmp_path / "run" / "run.json"
    record.write_bytes(record.read_bytes()[:200])
    done = CliRunner().invoke(app, ["watch", str(tmp_path / "run")])
    assert done.exit_code == 2
    assert "unreadable" in done.output
