"""The report as a file: alone in the world, small, escaped, and something for every kind of result and bad input."""

from __future__ import annotations

import json
import math
import re
import urllib.parse
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from landscape_jobs.cli import app
from landscape_jobs.report import page as report
from landscape_jobs.report.page import LIMIT, Part, report_html, write_report
from landscape_jobs.report.sources import read_parts
from landscape_kernels.arrays import FloatArray
from made import pictures_of
from typer.testing import CliRunner

import landscape as ls
from landscape.studies.agreement.result import Agreement
from landscape.studies.connectivity.result import Connectivity
from landscape.studies.curve.result import Curve
from landscape.studies.layer_spectra.result import LayerSpectra
from landscape.studies.path.result import Path as LossPath
from landscape.studies.profiles.result import Profiles
from landscape.studies.spectrum.result import Density, Eigenpairs, Spectrum, Trace
from landscape.studies.surface.result import Points, Surface

ABOUT = {"model": "net", "samples": 10, "engine_version": "0.1.0", "plane": {"kind": "random", "normalize": "filter"}}
EVIL = "\"'><script>alert(1)</script><img src=http://x.test/y> Ä 模型 ${style}"


def surface(values: FloatArray, *, computed: Any = None, points: Points | None = None, **about: Any) -> Surface:
    """A surface of these values over [-1, 1] along each axis."""
    axes = {n: np.linspace(-1, 1, k) if k > 1 else np.zeros(1) for n, k in zip("xyz", values.shape[::-1], strict=False)}
    known = np.ones(values.shape, dtype=bool) if computed is None else computed
    return Surface(axes, {"loss": values}, {"loss": np.abs(values) / 10}, known, points, {**ABOUT, **about})


def bowl(nx: int = 9, ny: int = 7) -> FloatArray:
    """1 + 4 (x^2 + y^2) over [-1, 1]^2, (ny, nx)."""
    x, y = np.linspace(-1, 1, nx), np.linspace(-1, 1, ny)
    return 1.0 + 4 * (x**2 + y[:, None] ** 2)


def with_holes() -> Surface:
    """A bowl with places not computed, NaN and both infinities."""
    values = bowl()
    values[0, 0], values[0, 1], values[0, 2] = np.nan, np.inf, -np.inf
    computed = np.ones(values.shape, dtype=bool)
    computed[3:5, 4:] = False
    return surface(np.where(computed, values, np.nan), computed=computed)


def trajectory() -> Surface:
    """A bowl of two quantities with a trajectory of three points on it."""
    coordinates = np.array([[-0.9, 0.8], [-0.4, 0.5], [0.0, 0.0]])
    found = {"loss": np.array([9.0, 3.0, 1.0]), "accuracy": np.array([0.1, 0.5, 0.9])}
    points = Points("trajectory", ("epoch0", "epoch1", "epoch2"), coordinates, np.array([0.2, 0.1, 0.0]), found, found)
    points = replace(points, explained_variance=np.array([0.8, 0.15]))
    whole = surface(bowl(), points=points)
    right = 1 / bowl()
    return replace(whole, values={**whole.values, "accuracy": right}, stderr={**whole.stderr, "accuracy": right / 50})


def pairs_of(values: list[float], residuals: list[float]) -> Eigenpairs:
    """Eigenpairs with errors of a tenth, the last not converged."""
    found = np.array(values)
    solid = np.arange(len(values)) < len(values) - 1
    return Eigenpairs(found, np.array(residuals), solid, np.abs(found) / 10, np.zeros(len(values)))


def spectrum() -> Spectrum:
    """Eigenvalues at both ends, a trace by layers and a density."""
    grid = np.linspace(-1, 12, 300)
    values = np.exp(-0.5 * (grid / 0.3) ** 2) + 1e-3 * np.exp(-0.5 * ((grid - 10) / 0.3) ** 2)
    density = Density(
        grid,
        values,
        0.8 * values,
        1.2 * values,
        np.zeros((3, 8)),
        np.full((3, 8), 1 / 8),
        np.array([10.0]),
        0.3,
        24,
        24,
    )
    trace = Trace(21.5, 0.5, 0.0, 0.5, "exact", 0, 1, 9.0, {"conv1": 15.0, "fc": 6.5}, {"conv1": 0.4, "fc": 0.2})
    ends = pairs_of([10.0, 4.0, 1.5], [1e-7, 1e-5, 3e-2]), pairs_of([-0.5, -0.2], [1e-4, 1e-3])
    return Spectrum(*ends, 1000, 24, 12, trace, density, dict(ABOUT))


def layers() -> LayerSpectra:
    """Three layers, one of which is not computed."""
    first = np.array([[3.0], [20.0], [np.nan]])
    done = np.array([True, True, False])
    names, sizes = ("block.conv1", "block.conv2", "head"), (100, 2000, 30)
    small, trace = first / 10, 9 * first[:, 0]
    solid = done[:, None]
    return LayerSpectra(
        names, sizes, first, small / 1e3, small, solid, trace, trace / 9, done, 30, 20, attributes=dict(ABOUT)
    )


def path(places: int = 9) -> LossPath:
    """The loss over a barrier of 2, one place not computed."""
    t = np.linspace(0, 1, places)
    computed = np.arange(places) != 2
    values = np.where(computed, 0.5 + 8 * t * (1 - t), np.nan)
    found = {"loss": values, "error": values / 10, "test_loss": values + 0.1}
    errors = {name: np.full(places, 0.05) for name in found}
    return LossPath(t, found, errors, 7 * t, 7.0, 7.0, computed, attributes=dict(ABOUT))


def curve() -> Curve:
    """A curve with a history of its training."""
    history = {"loss": np.array([2.0, 1.0, 0.01]), "lr": np.array([0.1, 0.05, 0.0])}
    return Curve("bezier", torch.zeros(3, 5), dict(ABOUT), history)


def connectivity(count: int = 4) -> Connectivity:
    """Pairs of models with a line and a curve, the last pair not measured."""
    pairs = np.array([(i, j) for i in range(count) for j in range(i)])
    t = np.linspace(0, 1, 5)
    line = 0.3 + np.arange(1, len(pairs) + 1)[:, None] * t * (1 - t)
    done = np.arange(len(pairs)) < len(pairs) - 1
    names = tuple(f"seed{k}" for k in range(count))
    flat, ones = {"loss": np.full(line.shape, 0.3)}, np.ones(len(pairs))
    errors = {"loss": np.full(line.shape, 0.01)}
    return Connectivity(
        names, pairs, t, {"loss": line}, errors, flat, errors, ones[:, None] * t, ones, ones, done, dict(ABOUT)
    )


def agreement() -> Agreement:
    """CKA of three pairs, with errors, and distances without."""
    pairs = np.array([(0, 1), (0, 2), (1, 2)])
    values = {"cka": np.array([0.9, 0.5, np.nan]), "l2": np.array([3.0, 4.0, 5.0])}
    return Agreement(("a", "b", "c"), pairs, values, {"cka": np.full(3, 0.02)}, 50, {**ABOUT, "samples": 50})


def wide(low: float = -150, high: float = 150) -> Surface:
    """Values over 300 decades."""
    exponents = np.linspace(low, high, 63).reshape(7, 9)
    return surface(10.0**exponents)


def profiles() -> Profiles:
    """The loss along three directions, a point of the last not computed."""
    x = np.linspace(-1, 1, 11)
    values = np.array([[1.0], [2.0], [9.0]]) * x**2 + 0.5
    computed = np.ones((3, 11), dtype=bool)
    computed[2, 0] = False
    values = np.where(computed, values, np.nan)
    return Profiles(x, {"loss": values}, {"loss": values / 20}, computed, dict(ABOUT))


KINDS: dict[str, Callable[[], Any]] = {
    "surface": trajectory,
    "holes": with_holes,
    "line": lambda: surface(bowl()[3]),
    "cube": lambda: surface(np.stack([bowl(), 2 * bowl(), 3 * bowl()])),
    "spectrum": spectrum,
    "layers": layers,
    "profiles": profiles,
    "path": path,
    "curve": curve,
    "connectivity": connectivity,
    "agreement": agreement,
}
BAD: dict[str, Callable[[], Any]] = {
    "all masked": lambda: surface(np.full((3, 4), np.nan), computed=np.zeros((3, 4), dtype=bool)),
    "all NaN": lambda: surface(np.full((3, 4), np.nan)),
    "constant": lambda: surface(np.full((3, 4), 2.5)),
    "zero": lambda: surface(np.zeros((3, 4))),
    "one point": lambda: surface(np.full((1, 1), 2.5)),
    "one row": lambda: surface(bowl()[:1]),
    "one point of a line": lambda: surface(np.array([1.5])),
    "300 decades": wide,
    "300 decades of both signs": lambda: replace(wide(), values={"loss": wide().values["loss"] * (-1) ** np.arange(9)}),
    "tiny": lambda: wide(-300, -290),
    "line with holes": lambda: replace(
        surface(np.array([1.0, np.nan, np.inf, np.nan, 2.0])), computed=np.array([True, True, True, False, True])
    ),
    "path of NaN": lambda: replace(path(), values={"loss": np.full(9, np.nan)}),
    "nothing of a path": lambda: replace(path(), computed=np.zeros(9, dtype=bool)),
    "nothing of a sweep": lambda: replace(connectivity(), computed=np.zeros(6, dtype=bool)),
    "nothing of layers": lambda: replace(layers(), computed=np.zeros(3, dtype=bool)),
    "nothing of a spectrum": lambda: Spectrum(pairs_of([], []), pairs_of([], []), 10, 0, 0, attributes=dict(ABOUT)),
}


class Page(HTMLParser):
    """Elements of a page with their attributes, and the texts of its scripts and styles apart from the others."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._in = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._in = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in = ""

    def handle_data(self, data: str) -> None:
        if self._in == "script":
            self.scripts[-1] += data
        elif self._in != "style":
            self.text += data

    def attributes(self, name: str) -> list[str]:
        """Every value of an attribute."""
        return [str(attributes[name]) for _, attributes in self.elements if name in attributes]

    @property
    def pictures(self) -> list[dict[str, Any]]:
        """What the script draws."""
        found: list[dict[str, Any]] = json.loads(self.scripts[1], parse_constant=pytest.fail)
        return found


def write(tmp_path: Path, results: Any, **options: Any) -> str:
    """The text of a report."""
    written = write_report(results, tmp_path / "report.html", **options)
    assert written.stat().st_size <= LIMIT
    return written.read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def without_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five megabytes fewer to write and to parse, where they do not matter."""
    monkeypatch.setattr(report, "get_plotlyjs", lambda: "const Plotly = null;")


def test_a_page_is_alone_in_the_world(tmp_path: Path) -> None:
    page = Page(write(tmp_path, {name: make() for name, make in KINDS.items()}))
    for attribute in ("src", "href", "action", "srcset", "poster", "data", "ping", "background"):
        for value in page.attributes(attribute):
            assert value.startswith(("#", "data:")), (attribute, value)
    assert not any(tag in ("iframe", "object", "embed", "base") for tag, _ in page.elements)
    for name in ("page.html", "page.css", "page.js"):
        assert not re.search(r"https?:|url\(|@import|fetch\(|XMLHttpRequest", report._asset(name)), name
    policy = next(a["content"] for tag, a in page.elements if tag == "meta" and "http-equiv" in a)
    assert str(policy).startswith("default-src 'none'")


def test_plotly_of_the_installed_package_is_in_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from plotly.offline import get_plotlyjs

    monkeypatch.setattr(report, "get_plotlyjs", get_plotlyjs)
    text = write(tmp_path, trajectory())
    assert get_plotlyjs() in text
    assert 4e6 < len(text.encode()) < LIMIT
    assert get_plotlyjs() not in write(tmp_path, replace(path(), computed=np.zeros(9, dtype=bool)))


@pytest.mark.parametrize("name", [*KINDS, *BAD])
def test_every_kind_of_result_and_of_bad_input(name: str, tmp_path: Path) -> None:
    page = Page(write(tmp_path, {**KINDS, **BAD}[name]()))
    assert "what was measured" in page.text
    for picture in page.pictures:
        assert picture["views"]
    labels = [a["aria-label"] for _, a in page.elements if a.get("role") == "img"]
    assert len(labels) == len(page.pictures)
    assert all(label and label.endswith(".") and "nan" not in label for label in labels)
    assert bool(page.pictures) != name.startswith("nothing")
    assert ("Nothing that could be drawn" in page.text) == name.startswith("nothing")


def test_user_given_texts_are_escaped_everywhere(tmp_path: Path) -> None:
    about = {"model": EVIL, "plane": {"kind": EVIL, "normalize": EVIL}, "host": EVIL}
    one = replace(trajectory(), attributes=about)
    assert one.points is not None
    found = one.points.true["loss"]
    one = replace(
        one,
        points=replace(
            one.points, labels=(EVIL, EVIL, "c"), true={EVIL: found, "b": found}, projected={EVIL: found, "b": found}
        ),
        values={EVIL: bowl(), "b": bowl()},
        stderr={EVIL: bowl(), "b": bowl()},
    )
    names = {"labels": (EVIL, "b", "c", "d")}
    results = {
        EVIL: one,
        "pairs": replace(connectivity(), **names),
        "layers": replace(layers(), layers=(EVIL, "b", "c")),
    }
    clean = Page(write(tmp_path, {"a": trajectory(), "b": connectivity(), "c": layers()}, title="t", notes=["n"]))
    page = Page(write(tmp_path, results, title=EVIL, notes=[EVIL]))
    for tag in {tag for tag, _ in page.elements} - {"tr", "th", "td"}:
        assert [t for t, _ in page.elements].count(tag) == [t for t, _ in clean.elements].count(tag), tag
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert page.text.count(EVIL) > 10
    drawn = json.dumps([list(picture["views"].values()) for picture in page.pictures])
    assert "<script>" not in drawn  # plotly reads some of HTML
    assert "&lt;script&gt;" in drawn


def test_values_errors_and_masks_reach_the_picture(tmp_path: Path) -> None:
    held = with_holes()
    drawn = Page(write(tmp_path, held)).pictures[0]["views"]["loss"]["surface"]
    assert drawn["x"] == pytest.approx(held.x, rel=1e-5)
    assert drawn["state"] == ["nij......", *["........."] * 2, *["....mmmmm"] * 2, *["........."] * 2]
    for j, i in ((1, 2), (6, 8), (2, 0)):
        assert drawn["z"][j][i] == pytest.approx(held.values["loss"][j, i], rel=1e-5)
        assert drawn["error"][j][i] == pytest.approx(held.stderr["loss"][j, i], rel=0.06)
    assert drawn["z"][0][:3] == [None] * 3
    assert drawn["z"][3][4] is None


def test_points_are_drawn_where_they_are(tmp_path: Path) -> None:
    page = Page(write(tmp_path, trajectory()))
    points = page.pictures[0]["views"]["accuracy"]["surface"]["points"]
    assert points["joined"]
    assert (points["x"], points["y"], points["z"]) == ([-0.9, -0.4, 0.0], [0.8, 0.5, 0.0], [0.1, 0.5, 0.9])
    assert "0.5 itself, 0.5 projected" in points["texts"][1]
    assert "80.0 % of variance" in page.pictures[0]["views"]["loss"]["surface"]["labels"][0]


@pytest.mark.parametrize("shape", [(1000, 1000), (1, 1_000_000), (1_000_000, 1), (1_000_000,), (100, 100, 100)])
def test_a_million_points_are_thinned_and_the_page_says_so(shape: tuple[int, ...], tmp_path: Path) -> None:
    values = np.full(shape, 3.0)
    lowest = tuple(n // 3 for n in shape)
    values[lowest] = 0.125
    if len(shape) == 3:  # the page shows the cut through 0
        lowest = (49, *lowest[1:])
        values[lowest] = 0.125
    page = Page(write(tmp_path, surface(values)))
    view = page.pictures[0]["views"]["loss"]
    plane = view["slices"][view["slice"]] if "slices" in view else view.get("surface")
    drawn = plane["z"] if plane else [view["data"][-1]["y"]]
    kept = sum(map(len, drawn))
    if len(shape) == 3:
        assert 1_000 < kept <= 45_000 / 21
        assert "22 of 100 places along z can be chosen" in page.text
    else:
        assert 30_000 < kept <= 45_000
        assert "thinned" in page.text
        assert f"{kept:,} of" in page.text
        assert "1,000,000" in page.text
    assert min(value for row in drawn for value in row) == 0.125


def test_many_results_fit_with_smaller_pictures_then_with_fewer_sections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "LIMIT", 150_000)
    several = {f"s{k}": surface(bowl(60, 60)) for k in range(4)}
    text = report_html({name: Part(one) for name, one in several.items()}, "t")
    assert len(text) < 150_000
    assert "thinned" in text
    assert len(Page(text).pictures) == 4
    many = {f"s{k}": surface(bowl(60, 60)) for k in range(9)}
    text = report_html({name: Part(one) for name, one in many.items()}, "t")
    page = Page(text)
    assert len(text) < 150_000
    told = len(page.pictures)
    assert 1 < told < 9
    assert f"The last {9 - told} of 9 results have no section here" in page.text
    assert [a for a in page.attributes("href") if a.startswith("#result")] == [
        f"#result-{k}" for k in range(1, told + 1)
    ]
    assert "s8" in page.text


def test_each_table_can_be_had_as_csv(tmp_path: Path) -> None:
    page = Page(write(tmp_path, {"the net": layers()}))
    links = [a for tag, a in page.elements if tag == "a" and "download" in a]
    assert len(links) == sum(tag == "table" for tag, _ in page.elements)
    texts = {str(a["download"]): urllib.parse.unquote(str(a["href"]).partition(",")[2]) for a in links}
    (csv,) = (text for text in texts.values() if text.startswith("layer,"))
    assert "block.conv2" in csv
    assert ",20.0,2.0," in csv
    assert all(name.startswith("the-net-") and name.endswith(".csv") for name in texts)


def test_provenance_is_folded_and_the_other_tables_are_not(tmp_path: Path) -> None:
    text = write(tmp_path, trajectory())
    (folded,) = re.findall(r"<details id=.*?</details>", text, re.DOTALL)
    assert "<summary>Provenance</summary>" in folded
    assert "engine_version" in folded
    assert "<table" not in text.partition("<details id=")[2].partition("</details>")[2]


def test_pictures_have_a_sentence_with_the_key_numbers() -> None:
    alts = {name: [picture.alt for picture in pictures_of(make(), 1000)] for name, make in KINDS.items()}
    assert "loss is lowest with 1 ± 0.1 at (0, 0) and highest with 9 ± 0.9" in alts["surface"][0]
    assert "10 of 63 points not computed" in alts["holes"][0]
    assert "2 of 3 largest pairs converged; the largest is 10 ± 1 with relative residual 1e-07" in alts["spectrum"][0]
    assert "the whole trace is 21.5 ± 0.5, most of it in conv1 (15)" in alts["spectrum"][2]
    assert "largest eigenvalue is highest in block.conv2 (20)" in alts["layers"][0]
    assert "the median of loss is 0.5 in the middle and 2.5 at the end; 1 of 33 points not" in alts["profiles"][0]
    assert "its barrier 2" in alts["path"][0]
    assert "loss from 2 to 0.01" in alts["curve"][0]
    assert (
        "5 of 6 pairs measured; the loss barrier on the straight line is between 0.25 and 1.25"
        in alts["connectivity"][0]
    )
    assert "cka from 0.5 to 0.9" in alts["agreement"][0]


def test_log_scale_is_offered_where_all_values_are_positive() -> None:
    (line,) = pictures_of(surface(10.0 ** np.arange(5)), 100)
    assert (line.views["loss"]["log"], line.views["loss"]["logFirst"]) == (True, True)
    (line,) = pictures_of(surface(np.arange(5.0)), 100)
    assert not line.views["loss"]["log"]
    unsure = surface(np.array([1.0, 2.0, 3.0]))
    unsure = replace(unsure, stderr={"loss": np.full(3, 0.75)})
    (line,) = pictures_of(unsure, 100)
    band = line.views["loss"]["data"][0]
    assert band["fill"] == "toself"
    assert min(band["y"]) == -0.5
    assert 0 < min(band["ylog"]) < 1e-3


def test_a_band_has_a_polygon_for_each_run_of_known_places() -> None:
    values = np.array([1.0, 2.0, np.nan, 4.0, 5.0])
    (picture,) = pictures_of(surface(values), 100)
    band = picture.views["loss"]["data"][0]
    assert band["y"] == pytest.approx([1.2, 2.4, 1.6, 0.8, None, 4.8, 6.0, 4.0, 3.2], nan_ok=True)
    assert band["x"] == [-1.0, -0.5, -0.5, -1.0, None, 0.5, 1.0, 1.0, 0.5]


def run(*arguments: object) -> tuple[int, str]:
    """(exit code, all it said) of a command."""
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    return done.exit_code, done.output


@pytest.fixture(scope="module")
def partial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 12 points, of which 5 are computed."""
    torch.manual_seed(0)
    objective = ls.Objective(torch.nn.Linear(3, 2), data=(torch.randn(20, 3), torch.arange(20) % 2), device="cpu")
    out = tmp_path_factory.mktemp("runs") / "half a run"
    ls.measure_surface(objective, ls.random_plane(objective, seed=0), (-1, 1, 4), (-1, 1, 3), out=out, limit_items=5)
    return out


def test_a_partial_run_says_what_is_missing_and_how_to_draw_it_again(partial: Path) -> None:
    code, said = run("report", partial)
    assert code == 0
    page = Page((partial / "report.html").read_text(encoding="utf-8"))
    assert said.strip() == str(partial / "report.html")
    assert "stopped; surface 5 of 12 rows" in page.text
    assert "5 of 12 points are computed" in page.text
    assert f"landscape report '{partial}' -o '{partial / 'report.html'}'" in page.text
    assert "Go on with" in page.text
    assert page.attributes("class").count("note") == 2  # this, and that JavaScript is needed
    state = page.pictures[0]["views"]["loss"]["surface"]["state"]
    assert "".join(state).count("m") == 7


def test_files_of_one_run_and_of_several(partial: Path, tmp_path: Path) -> None:
    ls.open(partial).save(tmp_path / "one.h5")
    assert run("report", tmp_path / "one.h5") == (0, f"{tmp_path / 'one_report.html'}\n")
    ls.merge_runs({"a": partial, "b": partial}, tmp_path / "both.h5")
    assert run("report", tmp_path / "both.h5", "-o", tmp_path / "new" / "page.html")[0] == 0
    page = Page((tmp_path / "new" / "page.html").read_text(encoding="utf-8"))
    assert [name for name in page.attributes("id") if re.fullmatch(r"result-\d", name)] == ["result-1", "result-2"]
    assert "2 of 2 results are not complete" in page.text
    assert run("report", tmp_path / "both.h5", "--run", "b", "-o", tmp_path / "b.html")[0] == 0
    page = Page((tmp_path / "b.html").read_text(encoding="utf-8"))
    assert [name for name in page.attributes("id") if re.fullmatch(r"result-\d", name)] == ["result-1"]
    assert f"landscape report {tmp_path / 'both.h5'} --run b -o" in page.text
    assert run("report", tmp_path / "both.h5", "--run", "c")[0] == 2
    assert run("report", tmp_path / "one.h5", "--group", "spectrum")[0] == 2


def test_the_folder_of_a_sweep(partial: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    folder.mkdir()
    (folder / "seed=0-00").symlink_to(partial)
    (folder / "seed=1-01").mkdir()
    (folder / "seed=1-01" / "failure.json").write_text(json.dumps({"reason": "Traceback\nValueError: <b>no</b>"}))
    cells = [
        {"number": k, "label": f"seed={k}", "folder": f"seed={k}-0{k}", "text": str(k), "changes": {"plane.seed": k}}
        for k in (0, 1, 2)
    ]
    index = {"format": 1, "sweep": "", "cells": cells, "written": 0.0}
    (folder / "sweep.json").write_text(json.dumps(index))
    parts = read_parts(folder)
    assert [part.state for part in parts.values()] == ["partial", "failed", "not begun"]
    assert [part.changes for part in parts.values()] == [{"plane.seed": k} for k in (0, 1, 2)]
    assert run("report", folder)[0] == 0
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    links = [link for link in page.attributes("href") if link.startswith("#result")]
    assert links == ["#result-1", "#result-2", "#result-3"]
    assert "ValueError: <b>no</b>" in page.text
    assert len(page.pictures) == 1
    ls.merge_runs({"seed_0": partial, "seed_1": None}, tmp_path / "m.h5", about={
        "seed_0": {"state": "partial", "plane.seed": 0}, "seed_1": {"state": "not begun", "plane.seed": 1},
    })  # fmt: skip
    merged = read_parts(tmp_path / "m.h5")
    assert [part.state for part in merged.values()] == ["partial", "not begun"]
    assert [(part.changes or {})["plane.seed"] for part in merged.values()] == [0.0, 1.0]


def test_what_cannot_be_read_or_written(partial: Path, tmp_path: Path) -> None:
    code, said = run("report", tmp_path / "nowhere")
    assert (code, "does not exist" in said) == (2, True)
    (tmp_path / "text.h5").write_text("no")
    assert run("report", tmp_path / "text.h5")[0] == 2
    taken = tmp_path / "a file"
    taken.write_text("")
    code, said = run("report", partial, "-o", taken / "report.html")
    assert code == 2
    assert "cannot write" in said
    assert "-o FILE.html" in said
    with pytest.raises(ls.InputError, match="no result"):
        write_report({}, tmp_path / "report.html")
    with pytest.raises(ls.InputError, match="'x' cannot be reported: list is not a result"):
        write_report({"x": [1.0]}, tmp_path / "report.html")


def test_rows_beyond_a_thousand_are_in_the_csv_alone(tmp_path: Path) -> None:
    count = 1500
    values = np.linspace(1, 2, count)
    many = LayerSpectra(
        tuple(f"l{k}" for k in range(count)), (3,) * count, values[:, None], values[:, None], values[:, None],
        np.ones((count, 1), dtype=bool), values, values, np.ones(count, dtype=bool), 1, 1, attributes=dict(ABOUT),
    )  # fmt: skip
    page = Page(write(tmp_path, many))
    assert "The first 1,000 of 1,500 rows." in page.text
    assert "l1498" not in page.text
    assert any("l1498" in link for link in page.attributes("href"))
    assert "the 60 largest of 1,500 layers are drawn" in page.text
    bars = page.pictures[0]["views"]["trace"]["data"][0]
    assert len(bars["x"]) == 60
    assert max(bars["x"]) == 2.0
    assert math.isclose(min(bars["x"]), values[-60], rel_tol=1e-4)
