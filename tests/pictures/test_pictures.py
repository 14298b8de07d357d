"""Every kind of picture against a stored one: grey values may differ by another antialiasing, not by another curve.

`python tests/pictures/test_pictures.py` draws the stored pictures anew; look at each before you keep it. They were
drawn by the version of matplotlib that they name, and are compared under versions of the same first two numbers alone:
others place text and ticks differently.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from shared import shared
from test_spectral_schema import layers, spectrum

import landscape as ls
from landscape.pictures.saving import SUFFIXES, save_figure
from landscape.pictures.style import in_style
from landscape.studies.path.pictures import plot_paths
from landscape.studies.profiles.result import Profiles
from landscape.studies.surface.difference import plot_difference
from landscape.studies.surface.result import Points, Surface

STUDIES = Path(__file__).parents[1] / "studies"  # each has the images of its pictures
DPI, SHRUNK = 120, 4  # pictures are drawn at so many dots per inch, and made so many times smaller
# Root mean square of differences of grey values, 0 to 255. Measured: letters drawn without antialiasing 2.0 to 3.3; one
# line moved by 4 % of the height 8 to 12.
TOLERANCE = 4.0

X, Y = np.linspace(-1, 1, 17), np.linspace(-1, 1, 13)


def valley(**attributes: Any) -> Surface:
    """A basin of 0.2 with walls of several hundreds, steeper on one side."""
    x, y = np.meshgrid(X, Y)
    values = 0.2 + 2 * x**2 + y**2 + 0.4 * np.sin(3 * x) * y + np.exp(3 * (x**2 + y**2) + x - 1)
    grid = {"x": X, "y": Y}
    about = {"normalize": "filter", "loss": "cross_entropy"} | attributes
    return Surface(
        grid, {"loss": values}, {"loss": 0.1 * np.sqrt(values)}, np.ones(values.shape, dtype=bool), None, about
    )


def partly() -> Surface:
    """The same with gaps, NaN and a trajectory that begins beyond the grid."""
    whole = valley(plane={"kind": "pca"})
    values, computed = whole.values["loss"].copy(), whole.computed.copy()
    computed[9:, 12:], values[2:4, 2:4] = False, np.nan
    steps = np.linspace(0, 1, 8)
    places = np.stack([1.3 * (steps - 1), 0.8 * np.cos(1.5 * steps) - 0.05], axis=1)
    names = tuple(f"epoch {10 * k}" for k in range(8))
    points = Points("trajectory", names, places, np.zeros(8), explained_variance=np.array([0.712, 0.101]))
    return replace(whole, values={"loss": values}, computed=computed, points=points)


def curvature() -> Surface:
    x, y = np.meshgrid(X, Y)
    high, low = 14 - 3 * (x**2 + y**2), 0.8 - 3 * (x**2 + y**2)
    values = {"eigenvalue_max": high, "eigenvalue_min": low, "convexity": np.abs(low / high)}
    error = {name: np.full(x.shape, 0.01) for name in values}
    return Surface({"x": X, "y": Y}, values, error, np.ones(x.shape, dtype=bool), None, {"normalize": "filter"})


def bundle() -> Profiles:
    x = np.linspace(-1, 1, 41)
    width = np.linspace(0.6, 2.8, 10)[:, None]
    values = 0.15 + width * x**2 + 0.3 * np.sin(7 * width) * x**3 + x**2 * np.exp(2 * width * np.abs(x) - 1)
    computed = np.ones(values.shape, dtype=bool)
    computed[:, :3] = False
    about = {"normalize": "filter", "loss": "cross_entropy"}
    return Profiles(x, {"loss": values}, {"loss": 0.06 * np.sqrt(values)}, computed, about)


def path(bend: float, places: int = 13) -> ls.Path:
    t = np.linspace(0, 1, places)
    loss = 0.5 + 0.25 * t + bend * np.sin(np.pi * t) ** 2
    values = {"loss": loss, "test_loss": 1.2 * loss, "error": 0.2 + 0.1 * loss, "test_error": 0.25 + 0.1 * loss}
    return ls.Path(
        t, values, dict.fromkeys(values, 0.01 + 0.01 * t), 12 * t, 12.0, 10.0, np.ones(places, dtype=bool)
    )  # fmt: skip


def sweep() -> ls.Connectivity:
    t = np.linspace(0, 1, 11)
    pairs = np.array([(i, j) for i in range(5) for j in range(i + 1, 5)])
    height = np.array([0.05, 0.1, 1.5, 1.2, 0.07, 1.4, 1.1, 0.9, 1.3, 0.04])[:, None]
    line = {"loss": 0.3 + height * np.sin(np.pi * t) ** 2}
    curve = {"loss": 0.3 + 0.2 * height * np.sin(np.pi * t) ** 2}
    error = {"loss": np.full(line["loss"].shape, 0.03)}
    names = tuple(f"seed {k}" for k in range(5))
    lengths = np.full(10, 9.0)
    computed = np.arange(10) != 8
    return ls.Connectivity(
        names, pairs, t, line, error, curve, error, np.tile(10 * t, (10, 1)), lengths, lengths, computed
    )


def alike() -> ls.Agreement:
    pairs = np.array([(i, j) for i in range(4) for j in range(i + 1, 4)])
    values = {"cka": np.array([0.95, 0.9, 0.4, 0.85, 0.3, np.nan])}
    return ls.Agreement(tuple("abcd"), pairs, values, {"cka": values["cka"] / 30}, 1000, {"of": "logits"})


def history() -> ls.Curve:
    epochs = np.arange(1, 31.0)
    known = {"loss": 2 * np.exp(-epochs / 8) + 0.1, "lr": 0.1 * 0.8**epochs}
    return ls.Curve("bezier", torch.zeros(3, 4), {}, known)


def moved(by: float) -> Surface:
    whole = valley()
    return replace(whole, values={"loss": whole.values["loss"] + by * np.sin(4 * X) * np.cos(3 * Y)[:, None]})


PICTURES: dict[str, Callable[[], Figure]] = {
    "contour": lambda: valley().plot(),
    "contour_step": lambda: valley().plot(levels="step", step=0.25),
    "contour_given": lambda: valley().plot(levels=np.arange(0.5, 10, 0.5)),
    "contour_partly": lambda: partly().plot(),
    "3d": lambda: valley().plot(kind="3d"),
    "3d_partly": lambda: partly().plot(kind="3d"),
    "profile": lambda: valley().plot(kind="profile"),
    "ratio": lambda: curvature().plot("convexity", "ratio"),
    "difference": lambda: plot_difference(valley(), moved(1e-6), labels=("ours", "stored")),
    "profiles": lambda: bundle().plot(),
    "spectrum": lambda: spectrum().plot(),
    "density": lambda: spectrum().plot("density"),
    "layers": lambda: spectrum().plot("layers"),
    "vectors": lambda: spectrum().plot("vectors", count=2),
    "layer_spectra": lambda: layers().plot(),
    "path": lambda: path(0.5).plot(),
    "paths": lambda: plot_paths([path(0.7), path(0.1, 41)], ["straight line", "curve"]),
    "connectivity": lambda: sweep().plot(),
    "connectivity_graph": lambda: sweep().plot("graph"),
    "agreement": lambda: alike().plot(),
    "history": lambda: history().plot(),
}


def grey(figure: Figure) -> Image.Image:
    """A figure as a small grey picture."""
    file = io.BytesIO()
    with in_style():
        figure.savefig(file, format="png", dpi=DPI)
    with Image.open(file) as image:
        return image.convert("RGB").reduce(SHRUNK).convert("L")


def distance(first: Image.Image, second: Image.Image) -> float:
    """Root mean square of the differences; pictures of another size are as far apart as can be."""
    if first.size != second.size:
        return 255.0
    one, other = (np.asarray(image, dtype=np.float64) for image in (first, second))
    return float(np.sqrt(np.mean((one - other) ** 2)))


def images() -> dict[str, Path]:
    """The stored pictures by their names."""
    return {file.stem: file for file in STUDIES.glob("*/images/*.png")}


def stored(name: str) -> Image.Image:
    with Image.open(images()[name]) as image:
        image.load()
    version, here = image.info["Software"], f"matplotlib {matplotlib.__version__}"
    if version.split(".")[:2] != here.split(".")[:2]:
        pytest.skip(f"{name}.png was drawn by {version}, this is {here}")
    return image


@pytest.mark.parametrize("name", PICTURES)
def test_picture_is_the_stored_one(name: str) -> None:
    expected = stored(name)
    assert distance(grey(PICTURES[name]()), expected) < TOLERANCE


def test_every_stored_picture_is_small_and_of_a_kind() -> None:
    assert set(images()) == set(PICTURES)
    assert max(file.stat().st_size for file in images().values()) < 30_000


@pytest.mark.parametrize("name", ["profile", "profiles", "path", "density", "history"])
def test_another_curve_is_another_picture(name: str) -> None:
    """One line moved by 4 % of the height, in a picture that is else the same, is farther away than the tolerance."""
    expected = stored(name)
    figure = PICTURES[name]()
    ax = figure.axes[0]
    limits = ax.get_ylim()
    line = max(ax.lines, key=lambda line: (line.get_linewidth() >= 1.2) * len(line.get_xdata()))
    heights = ax.transData.transform(np.column_stack([line.get_xdata(), line.get_ydata()]))
    heights[:, 1] += 0.04 * ax.bbox.height
    line.set_ydata(ax.transData.inverted().transform(heights)[:, 1])
    ax.set_ylim(limits)
    assert distance(grey(figure), expected) > TOLERANCE


def test_another_surface_is_another_picture() -> None:
    expected = stored("contour")
    wider = replace(valley(), axes={"x": 1.1 * X, "y": 1.1 * Y})
    shifted = replace(valley(), values={"loss": np.roll(valley().values["loss"], 1, axis=1)})
    assert all(distance(grey(other.plot()), expected) > TOLERANCE for other in (wider, shifted))


@pytest.mark.parametrize("name", ["contour", "profiles"])
def test_letters_drawn_otherwise_are_the_same_picture(name: str) -> None:
    expected = stored(name)
    with matplotlib.rc_context({"text.antialiased": False}):
        assert 0 < distance(grey(PICTURES[name]()), expected) < TOLERANCE


def test_text_is_text_and_the_same_figure_the_same_file(tmp_path: Path) -> None:
    svg, again, pdf = (save_figure(valley().plot(), tmp_path / name) for name in ("a.svg", "b.svg", "a.pdf"))
    assert re.search(r"<text[^>]*>loss per sample \(cross entropy\)</text>", svg.read_text(encoding="utf-8"))
    assert svg.read_bytes() == again.read_bytes()
    assert b"/FontFile2" in pdf.read_bytes()  # TrueType, so letters and not outlines
    assert b"/Type3" not in pdf.read_bytes()
    valley().plot().savefig(tmp_path / "own.svg")
    assert "<text" in (tmp_path / "own.svg").read_text(encoding="utf-8")


def test_settings_end_with_the_picture(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    save_figure(path(0.5).plot(), tmp_path / "a.pdf")
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_written_in_every_format(suffix: str, tmp_path: Path) -> None:
    for name in ("contour_partly", "profiles"):
        assert save_figure(PICTURES[name](), tmp_path / f"{name}{suffix}").stat().st_size > 3000


def test_difference_tells_where_and_how_much() -> None:
    figure = plot_difference(valley(), moved(1e-6))
    note = figure.get_supxlabel()
    assert note.startswith("221 of 221 points compared; largest difference 1e-06, relative 1.3e-06")
    values = np.asarray(figure.axes[2].collections[0].get_array())
    np.testing.assert_allclose(values, -1e-6 * np.sin(4 * X) * np.cos(3 * Y)[:, None], rtol=0, atol=1e-12)
    gaps = plot_difference(partly(), valley()).get_supxlabel()
    assert gaps.startswith("197 of 221 points compared; largest difference 0, relative 0")


@pytest.mark.parametrize(
    ("measure", "values", "limits"),
    [
        ("cka", [0.99, 0.98, 0.97], (0.0, 1.0)),
        ("cka_unbiased", [0.99, -0.25, 0.97], (-0.25, 1.0)),
        ("l2", [20.0, 21.0, 22.0], (0.0, 22.0)),
        ("disagreement", [0.0, 0.0, 0.0], (0.0, 1.0)),
    ],
)
def test_colours_of_agreement_begin_at_what_a_model_has_with_itself_or_none(
    measure: str, values: list[float], limits: tuple[float, float]
) -> None:
    pairs = np.array([(0, 1), (0, 2), (1, 2)])
    figure = ls.Agreement(tuple("abc"), pairs, {measure: np.array(values)}, {}, 1000, {}).plot(measure)
    assert figure.axes[0].images[0].get_clim() == limits


def test_test_data_of_a_path_have_a_look_of_their_own() -> None:
    def looks(figure: Figure) -> dict[str, tuple[Any, ...]]:
        lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) > 2]
        return {str(line.get_label()): (line.get_color(), line.get_linestyle(), line.get_mfc()) for line in lines}

    one = looks(path(0.5).plot())
    assert one["loss"][0] != one["test data"][0]
    assert (one["loss"][1], one["test data"][1:]) == ("-", ("--", "white"))
    two = looks(plot_paths([path(0.7), path(0.1)], ["line", "curve"]))
    assert two["line"][0] == two["line, test data"][0] != two["curve"][0]
    assert two["curve, test data"][1:] == ("--", "white")


def test_surfaces_on_other_grids_have_no_difference() -> None:
    other = replace(valley(), axes={"x": X, "y": 2 * Y})
    with pytest.raises(ls.InputError, match="other coordinates along y: 13 from -1 to 1, and 13 from -2 to 2"):
        plot_difference(valley(), other)
    with pytest.raises(ls.InputError, match="did you mean 'loss'"):
        plot_difference(valley(), other, "los")


def test_golden_surface_beside_the_stored_one() -> None:
    """Computed anew on a part of the grid: the same picture, and differences of at most 1e-6."""
    shared("data", "surfaces_mnist_h5")
    from test_golden import golden

    objective, plane, whole = golden("dense_margin")
    columns, rows = np.array([0, 14]), np.array([1, 13])
    picked = np.ix_(rows, columns)
    part = Surface(
        {"x": whole.x[columns], "y": whole.y[rows]},
        {name: values[picked] for name, values in whole.values.items()},
        {name: errors[picked] for name, errors in whole.stderr.items()},
        whole.computed[picked],
    )
    ours = ls.measure_surface(objective, plane, x=part.x, y=part.y)
    figure = plot_difference(ours, part, labels=("ours", "stored"))
    gap = np.abs(np.asarray(figure.axes[2].collections[0].get_array()))
    assert gap.shape == (2, 2)
    assert gap.max() <= 1e-6
    pictures = [grey(replace(s, stderr=part.stderr, attributes={}).plot()) for s in (ours, part)]
    assert distance(*pictures) < 0.5


if __name__ == "__main__":
    about = PngInfo()
    about.add_text("Software", f"matplotlib {matplotlib.__version__}")
    places = images()  # a new picture goes to where this is called, to be moved to its study
    for picture, draw in PICTURES.items():
        grey(draw()).save(places.get(picture, Path(f"{picture}.png")), optimize=True, pnginfo=about)
