"""What a report's pictures draw and their values: levels, scale, slices, topology, and the CSV files."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from landscape_jobs.report import page as report
from made import pictures_of
from test_report import (
    KINDS,
    Page,
    agreement,
    bowl,
    connectivity,
    layers,
    path,
    surface,
    trajectory,
    with_holes,
    without_plotly,
    write,
)

from landscape.pictures.scale import choose_scale
from landscape.results.tables import Cell, Table
from landscape.studies.topology.find import find_topology
from landscape.studies.topology.result import Topology

__all__ = ["without_plotly"]  # a fixture of every test here


def a_topology() -> Topology:
    """Two basins and a barrier between them."""
    x = np.linspace(-1, 1, 15)
    values = 2 + np.cos(3 * np.pi * x) * np.ones((5, 1)) + np.linspace(-1, 1, 5)[:, None] ** 2
    return find_topology(replace(surface(values), stderr={"loss": np.full(values.shape, 0.01)}))


def test_a_topology_has_its_barcode_and_its_tables(tmp_path: Path) -> None:
    found = a_topology()
    page = Page(write(tmp_path, {"basins": found}))
    assert [str(picture["values"]["file"]) for picture in page.pictures] == ["basins-barcode.csv", "basins-surface.csv"]
    bars = page.pictures[0]["views"]["barcode"]["data"]
    drawn = [x for trace in bars for x in trace["x"] if x is not None]
    assert len(drawn) == 2 * len(found.pairs.birth)
    assert min(drawn) == pytest.approx(found.pairs.birth.min(), rel=1e-5)
    assert "saddles" in page.text


def test_the_values_of_a_picture_are_those_of_to_pandas(tmp_path: Path) -> None:
    held = with_holes()
    values = Page(write(tmp_path, {"half a run (2)": held})).pictures[0]["values"]
    assert values["file"] == "half-a-run-2-surface.csv"
    frame = held.to_pandas()
    assert values["columns"] == list(frame)
    rows = dict(zip(values["columns"], values["data"], strict=True))
    assert rows["loss"][:3] == ["NaN", "Inf", "-Inf"]
    assert rows["loss"][9:20] == frame["loss"][9:20].tolist()
    hole = rows["computed"].index(False)
    assert (rows["loss"][hole], rows["loss_stderr"][hole]) == (None, None)
    for name, make in KINDS.items():
        for picture in Page(write(tmp_path, {name: make()})).pictures:
            assert picture["values"]["columns"], name
            assert len({len(column) for column in picture["values"]["data"]}) == 1, name


def test_levels_are_those_of_the_static_picture(tmp_path: Path) -> None:
    held = trajectory()
    views = Page(write(tmp_path, held)).pictures[0]["views"]
    for scale in ("linear", "log"):
        expected = choose_scale(held.values["loss"].ravel(), scale, 12, 0.1, "loss")
        assert views["loss"]["surface"]["scales"][scale]["levels"] == expected.levels.tolist()
    assert "log" not in Page(write(tmp_path, surface(bowl() - 3))).pictures[0]["views"]["loss"]["surface"]["scales"]
    assert "smoothing: 0" in report._asset("page.js")


@pytest.mark.parametrize(("kind", "same"), [("pca", True), ("through", True), ("curve", True), ("random", False)])
def test_planes_of_distances_are_drawn_to_scale(kind: str, same: bool, tmp_path: Path) -> None:
    page = Page(write(tmp_path, surface(bowl(), plane={"kind": kind}, loss="cross_entropy")))
    drawn = page.pictures[0]["views"]["loss"]["surface"]
    assert drawn["toScale"] == same
    assert drawn["quantity"] == "loss per sample (cross entropy)"
    assert "Surface of net, loss cross entropy" in page.text


def test_each_place_of_a_third_axis_can_be_chosen(tmp_path: Path) -> None:
    view = Page(write(tmp_path, KINDS["cube"]())).pictures[0]["views"]["loss"]
    assert (view["along"], view["slice"], list(view["slices"])) == ("z", "0", ["-1", "0", "1"])
    assert [plane["z"][3][4] for plane in view["slices"].values()] == [1.0, 2.0, 3.0]


def test_matrices_begin_at_0_and_tell_of_grey_only_where_there_is_some() -> None:
    (pairs, _), (alike,) = (list(pictures_of(one, 100)) for one in (connectivity(), agreement()))
    assert pairs.notes == ("grey: pairs that were not measured",)
    (measured,) = pictures_of(replace(agreement(), values={"l2": np.array([3.0, 4.0, 5.0])}, stderr={}), 100)
    assert measured.notes == ()
    limits = [
        (view["data"][0]["zmin"], view["data"][0]["zmax"]) for view in (*alike.views.values(), *measured.views.values())
    ]
    assert limits == [(0.0, 1.0), (0.0, 5.0), (0.0, 5.0)]
    assert pairs.views["line mc"]["layout"]["xaxis"]["title"]["text"].endswith("of the loss")


def test_csv_files_have_plain_names_headings_and_no_nan(tmp_path: Path) -> None:
    text = Table("t", ("layer", "trace +- standard error", "mean +- standard error over all"), (
        (Cell("a"), Cell("1.5", 1.5, 0.25), Cell("2", 2.0, 0.5)),
        (Cell("b"), Cell("nan", math.nan, math.nan), Cell("3", 3.0)),
    )).to_csv()  # fmt: skip
    assert text.splitlines() == [
        "layer,trace,trace_stderr,mean over all,mean over all stderr", '"a",1.5,0.25,2.0,0.5', '"b",,,3.0,'
    ]  # fmt: skip
    page = Page(write(tmp_path, {"Ä run: (2)": layers()}))
    names = page.attributes("download")
    assert names[1] == "A-run-2-value.csv"
    assert all(re.fullmatch(r"[A-Za-z0-9]+(-[A-Za-z0-9]+)*\.csv", name) for name in names)


def test_a_path_tells_what_its_bands_are() -> None:
    (picture,) = pictures_of(path(), 100)
    assert "share their samples" in picture.notes[-1]
