"""Pictures of surfaces: what is in the figure, for every kind and every awkward surface."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made import painted
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from mpl_toolkits.mplot3d.art3d import Poly3DCollection

from landscape.errors import InputError, StoreError
from landscape.pictures.saving import save_figure
from landscape.pictures.style import line_look
from landscape.studies.surface.pictures import plot_surface, usual_kind
from landscape.studies.surface.result import Points, Surface

Function = Callable[..., Any]


def surface(function: Function, *axes: Any, points: Points | None = None, **attributes: Any) -> Surface:
    grid = {name: np.atleast_1d(np.asarray(axis, dtype=float)) for name, axis in zip("xyzu", axes, strict=False)}
    mesh = np.meshgrid(*reversed(grid.values()), indexing="ij")[::-1]
    values = np.asarray(function(*mesh), dtype=float) * np.ones(mesh[0].shape)
    error = np.full(values.shape, 0.25)
    return Surface(grid, {"loss": values}, {"loss": error}, np.ones(values.shape, dtype=bool), points, attributes)


def bowl(points: Points | None = None, **attributes: Any) -> Surface:
    """Values 1 to 4 on 6 x 5 points."""
    return surface(
        lambda x, y: 1 + x**2 + 2 * y**2, np.linspace(-1, 1, 6), np.linspace(-1, 1, 5), points=points, **attributes
    )


def line(n: int = 7) -> Surface:
    return surface(lambda x: 2 + x, np.linspace(-1, 1, n))


def note(figure: Figure) -> str:
    return figure.get_supxlabel()


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for box in figure.legends for text in box.get_texts()]


def filled(ax: Axes) -> QuadContourSet | None:
    return next((c for c in ax.collections if isinstance(c, QuadContourSet) and c.filled), None)


def cells(ax: Axes, label: str) -> set[tuple[float, float]]:
    """Centres of the cells under the hatched patch of that label."""
    patches = [p for p in ax.patches if isinstance(p, PathPatch) and p.get_label() == label]
    assert all(p.get_hatch() for p in patches)
    polygons = [p for patch in patches for p in patch.get_path().to_polygons()]
    assert all(len({*map(tuple, p.tolist())}) == 4 for p in polygons)
    return {tuple(np.round((p.min(axis=0) + p.max(axis=0)) / 2, 9).tolist()) for p in polygons}


def test_kind_follows_the_number_of_axes() -> None:
    assert filled(plot_surface(line()).axes[0]) is None
    assert filled(plot_surface(bowl()).axes[0]) is not None
    assert plot_surface(bowl(), kind="3d").axes[0].name == "3d"
    volume = surface(lambda x, y, z: x + y + z, np.linspace(-1, 1, 3), np.linspace(-1, 1, 4), [0.5, 0.25, 1.0])
    assert filled(plot_surface(volume).axes[0]) is not None


def test_contour_draws_the_values_at_their_coordinates() -> None:
    """Of loss = 10 + x on x in [0, 2], y in [0, 1] the line at level 11 is x = 1; a transposed picture has none."""
    ax = plot_surface(surface(lambda x, y: 10 + x, np.linspace(0, 2, 9), np.linspace(0, 1, 4)), levels="linear").axes[0]
    drawn = next(c for c in ax.collections if isinstance(c, QuadContourSet) and not c.filled)
    segments = drawn.allsegs[drawn.levels.tolist().index(11.0)]
    assert len(segments) == 1
    np.testing.assert_allclose(segments[0][:, 0], 1.0)
    assert sorted(segments[0][:, 1])[:: len(segments[0]) - 1] == [0.0, 1.0]
    assert (ax.get_xlim(), ax.get_ylim()) == ((0.0, 2.0), (0.0, 1.0))


def test_labels_title_centre_and_colour_bar() -> None:
    figure = plot_surface(bowl(normalize="filter", loss="cross_entropy"))
    ax, bar = figure.axes
    assert ax.get_xlabel() == "x (filter-normalised direction)"
    assert ax.get_ylabel() == "y (filter-normalised direction)"
    assert plot_surface(bowl()).axes[0].get_xlabel() == "x (multiples of the direction)"
    assert ax.get_title() == ""  # the colour bar says what is drawn
    assert bar.get_ylabel() == "loss per sample (cross entropy)"
    assert plot_surface(line()).axes[0].get_ylabel() == "loss per sample"
    (centre,) = (mark for mark in ax.lines if mark.get_label() == "centre")
    assert centre.get_xydata().tolist() == [[0.0, 0.0]]
    assert legend(figure) == ["centre"]
    assert note(figure) == "standard error at most 0.25"


def test_a_centre_outside_the_grid_is_not_drawn() -> None:
    figure = plot_surface(surface(lambda x, y: x + y, np.linspace(1, 2, 4), np.linspace(0, 1, 4)))
    assert legend(figure) == []


@pytest.mark.parametrize(("spread", "levels", "log"), [(9.9, "auto", False), (101, "auto", True), (5, "log", True)])
def test_log_levels_above_a_decade_or_when_asked(spread: float, levels: str, log: bool) -> None:
    wide = surface(lambda x, y: spread**x, np.linspace(0, 1, 9), np.linspace(0, 1, 4))
    figure = plot_surface(wide, levels=levels)
    assert note(figure) == ("log scale; " if log else "") + "standard error at most 0.25"
    contours = filled(figure.axes[0])
    assert contours is not None
    low, high = (0.0, np.log10(spread)) if log else (1.0, spread)
    assert contours.levels[0] <= low < contours.levels[1]
    assert contours.levels[-2] < high <= contours.levels[-1]
    if spread == 101:
        figure.draw_without_rendering()
        shown = [text.get_text() for text in figure.axes[1].get_yticklabels()]
        assert shown == ["1", "2", "5", "10", "20", "50", "100", "200"]


def test_auto_levels_show_the_end_of_training() -> None:
    def falling(true: list[float], kind: str = "trajectory") -> Surface:
        places = np.array([[-1.0, 0.0], [0.0, 0.0]])
        return bowl(Points(kind, ("a", "b"), places, np.zeros(2), {"loss": np.array(true)}, {"loss": np.ones(2)}))

    assert "log scale" in note(plot_surface(falling([2.3, 0.1])))
    assert "log scale" not in note(plot_surface(falling([2.3, 0.5])))
    assert "log scale" not in note(plot_surface(falling([2.3, 0.1], "points")))
    assert "log scale" not in note(plot_surface(falling([2.3, 0.1]), levels="linear"))


def test_log_levels_of_about_a_decade_are_many_and_of_an_accuracy_none() -> None:
    decade = surface(lambda x, y: 0.05 * 12**x, np.linspace(0, 1, 9), np.linspace(0, 1, 4))
    np.testing.assert_allclose(values_of(plot_surface(decade), log=True), [0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7])
    for name in ("accuracy", "test_accuracy"):
        fraction = Surface(decade.axes, {name: decade.values["loss"]}, {}, decade.computed)
        assert note(plot_surface(fraction, name)) == ""


@pytest.mark.parametrize("kind", ["contour", "3d", "profile"])
def test_log_levels_of_values_that_are_not_positive_are_refused(kind: str) -> None:
    ramp = surface(lambda x, y: x * 1000, np.linspace(0, 1, 5), np.linspace(0, 1, 4))
    with pytest.raises(InputError, match=r"values of loss are not, the lowest is 0.*linear"):
        plot_surface(ramp, kind=kind, levels="log")
    ramp.values["loss"][:, 1] = 1e-3
    figure = plot_surface(ramp, kind=kind)
    assert "linear levels" in note(figure)
    assert "0 or below" in note(figure)
    assert "log scale" not in note(figure)


def test_cells_not_computed_are_hatched_and_counted() -> None:
    part = bowl()
    part.computed[3:, 2] = False
    part.values["loss"][3:, 2] = np.nan
    figure = plot_surface(part)
    assert cells(figure.axes[0], "not computed") == {(-0.2, 0.5), (-0.2, 1.0)}
    assert cells(figure.axes[0], "NaN or Inf") == set()
    assert note(figure) == "2 not computed of 30 points; standard error at most 0.25"
    assert "not computed" in legend(figure)


def test_nan_and_inf_cells_are_shown_apart_and_counted() -> None:
    odd = bowl()
    odd.values["loss"][0, 0], odd.values["loss"][2, 5], odd.values["loss"][4, 1] = np.nan, np.inf, -np.inf
    odd.computed[1, 1] = False
    figure = plot_surface(odd)
    assert cells(figure.axes[0], "NaN or Inf") == {(-1.0, -1.0), (1.0, 0.0), (-0.6, 1.0)}
    assert cells(figure.axes[0], "not computed") == {(-0.6, -0.5)}
    assert note(figure).startswith("1 NaN, 1 +Inf, 1 -Inf, 1 not computed of 30 points")
    hatches = {p.get_label(): p.get_hatch() for p in figure.axes[0].patches if isinstance(p, PathPatch)}
    assert len(set(hatches.values())) == 2


def test_a_value_between_missing_neighbours_is_still_coloured() -> None:
    alone = bowl()
    alone.computed[:] = False
    alone.computed[2, 3] = alone.computed[0, 0] = True
    mesh = next(c for c in plot_surface(alone).axes[0].collections if isinstance(c, QuadMesh))
    shown = np.ma.masked_invalid(mesh.get_array())
    assert shown.count() == 2
    assert [shown[2, 3], shown[0, 0]] == [alone.values["loss"][2, 3], alone.values["loss"][0, 0]]


def test_trajectory_is_joined_named_and_explained() -> None:
    path = Points(
        "trajectory",
        ("epoch 1", "epoch 2", "epoch 3"),
        np.array([[-3.0, 0.5], [-0.5, 0.25], [0.0, 0.0]]),
        np.zeros(3),
        explained_variance=np.array([0.712, 0.101]),
    )
    ax = plot_surface(bowl(path, normalize="filter")).axes[0]
    (drawn,) = (artist for artist in ax.lines if artist.get_label() == "trajectory")
    np.testing.assert_array_equal(drawn.get_xydata(), path.coordinates)
    assert drawn.get_linestyle() == "-"
    assert [(text.get_text(), text.xy) for text in ax.texts] == [("epoch 1", (-3.0, 0.5)), ("epoch 3", (0.0, 0.0))]
    assert ax.get_xlabel() == "x (filter-normalised direction, 71.2 % of variance)"
    assert ax.get_ylabel() == "y (filter-normalised direction, 10.1 % of variance)"
    assert ax.get_xlim()[0] < -3.0  # beyond the grid, still in the picture
    assert ax.get_xlim()[1] == 1.0


def test_points_are_all_named_and_not_joined() -> None:
    ends = Points("points", ("a", "b", "c"), np.array([[0.0, 0.0], [1.0, 0.0], [0.3, 0.9]]), np.zeros(3))
    ax = plot_surface(bowl(ends)).axes[0]
    (drawn,) = (artist for artist in ax.lines if artist.get_label() == "points")
    assert drawn.get_linestyle() == "None"
    assert [text.get_text() for text in ax.texts] == ["a", "b", "c"]


def test_further_axes_are_cut_nearest_zero_and_the_title_says_where() -> None:
    volume = surface(
        lambda x, y, z, u: x + 10 * z + 100 * u, np.linspace(0, 1, 4), np.linspace(0, 1, 3), [0.25, 1, 2], [2.0, -1]
    )
    figure = plot_surface(volume)
    assert figure.axes[0].get_title() == "z = 0.25, u = -1"
    contours = filled(figure.axes[0])
    assert contours is not None
    assert contours.levels[0] <= -97.5 < contours.levels[1]
    assert contours.levels[-2] < -96.5 <= contours.levels[-1]
    titles = [ax.get_title() for ax in plot_surface(volume, kind="profile").axes]
    assert titles[2] == "x = 0, y = 0, u = -1\n(nearest grid row to the centre)"
    assert len(titles) == 4


def test_3d_has_a_face_per_whole_quad_and_tells_what_it_leaves_out() -> None:
    odd = bowl()
    odd.values["loss"][0, 0] = np.inf
    odd.computed[4, 5] = False
    figure = plot_surface(odd, kind="3d", levels="linear")
    faces = next(c for c in figure.axes[0].collections if isinstance(c, Poly3DCollection))
    heights = np.asarray(faces.get_array())
    assert heights.size == 5 * 4 - 2
    # The first face kept lies at x -0.6 to -0.2, y -1 to -0.5.
    assert heights[0] == pytest.approx(1 + (0.36 + 0.04) / 2 + 2 * (1 + 0.25) / 2)
    assert note(figure).startswith("left out: 1 +Inf, 1 not computed of 30 points")


def test_3d_has_the_explained_variance_on_a_line_of_its_own() -> None:
    explained = np.array([0.712, 0.101])
    path = Points("trajectory", ("a", "b"), np.zeros((2, 2)), np.zeros(2), explained_variance=explained)
    ax = plot_surface(bowl(path, plane={"kind": "pca"}), kind="3d").axes[0]
    assert ax.get_xlabel() == "x (distance in parameter space)\n71.2 % of variance"
    assert ax.get_ylabel() == "y (distance in parameter space)\n10.1 % of variance"


def test_an_error_below_rounding_is_no_error() -> None:
    exact = bowl()
    exact.stderr["loss"][:] = 2e-17
    assert note(plot_surface(exact)) == ""


def test_3d_of_a_fine_grid_draws_some_of_its_lines_and_says_so() -> None:
    fine = surface(lambda x, y: 3 + x + y, np.linspace(-1, 1, 301), np.linspace(0, 1, 20))
    figure = plot_surface(fine, kind="3d")
    faces = next(c for c in figure.axes[0].collections if isinstance(c, Poly3DCollection))
    assert np.asarray(faces.get_array()).size == 149 * 19
    assert note(figure).startswith("150 of 301 by 20 of 20 grid lines drawn")


def test_3d_draws_values_without_a_face_as_dots() -> None:
    figure = plot_surface(surface(lambda x, y: x, [-1, 0, 1], [0.0]), kind="3d")
    assert legend(figure) == ["single values"]
    assert note(figure).startswith("one row of points")
    (dots,) = figure.axes[0].collections
    assert len(np.asarray(dots.get_array())) == 3


def test_profile_has_line_and_band_of_two_standard_errors() -> None:
    known = line()
    known.stderr["loss"][0] = np.nan
    known.stderr["loss"][4] = 0.5
    ax = plot_surface(known).axes[0]
    drawn = ax.lines[0]
    np.testing.assert_array_equal(drawn.get_xydata(), np.stack([known.x, 2 + known.x], axis=1))
    (band,) = (c for c in ax.collections if c.get_label() == "±2 standard errors")
    corners = {tuple(np.round(v, 9)) for v in band.get_paths()[0].vertices}
    expected = {
        (round(x, 9), round(2 + x + 2 * side * s, 9))
        for x, s in zip(known.x.tolist(), known.stderr["loss"].tolist(), strict=True)
        for side in (-1, 1)
        if np.isfinite(s)
    }
    assert expected <= corners
    assert min(x for x, _ in corners) == pytest.approx(known.x[1])


def test_profile_without_errors_has_no_band() -> None:
    known = line()
    known.stderr["loss"][:] = np.nan
    figure = plot_surface(known)
    assert legend(figure) == ["centre"]
    assert len(figure.axes[0].collections) == 0


def test_profile_on_a_log_scale_keeps_a_band_that_reaches_zero() -> None:
    ax = plot_surface(surface(lambda x: 0.1 + 100 * x**2, np.linspace(-1, 1, 11)), levels="log").axes[0]
    (band,) = (c for c in ax.collections if c.get_label() == "±2 standard errors")
    vertices = band.get_paths()[0].vertices
    assert np.isfinite(vertices).all()
    assert vertices[:, 1].min() == ax.get_ylim()[0] <= np.log10(0.1)
    assert vertices[np.isclose(vertices[:, 0], 0.0), 1].max() == pytest.approx(np.log10(0.1 + 2 * 0.25))


def test_profile_marks_missing_nan_and_inf() -> None:
    odd = line()
    odd.values["loss"][1], odd.values["loss"][2], odd.values["loss"][5] = np.nan, np.inf, -np.inf
    odd.computed[3] = False
    figure = plot_surface(odd)
    ax = figure.axes[0]
    marks = {artist.get_label(): list(artist.get_xdata()) for artist in ax.lines}
    assert marks["NaN"] == [odd.x[1]]
    assert marks["+Inf"] == [odd.x[2]]
    assert marks["-Inf"] == [odd.x[5]]
    spans = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    assert [(s.get_x(), s.get_hatch()) for s in spans] == [(pytest.approx(odd.x[2:4].mean()), "////")]
    assert note(figure) == "1 NaN, 1 +Inf, 1 -Inf, 1 not computed of 7 points"


def test_profile_of_a_plane_cuts_both_axes_through_the_centre() -> None:
    plane = surface(lambda x, y: 10 * x + y, [-1.0, 0.25, 2.0], [-2.0, -0.5, 1.0, 3.0])
    figure = plot_surface(plane, kind="profile")
    first, second = figure.axes
    np.testing.assert_array_equal(first.lines[0].get_ydata(), 10 * plane.x - 0.5)
    np.testing.assert_array_equal(second.lines[0].get_ydata(), 2.5 + plane.y)
    row = "(nearest grid row to the centre)"
    assert (first.get_title(), second.get_title()) == (f"y = -0.5\n{row}", f"x = 0.25\n{row}")
    assert plot_surface(bowl(), kind="profile").axes[1].get_title() == f"x = -0.2\n{row}"
    assert plot_surface(bowl(), kind="profile").axes[0].get_title() == "y = 0"
    assert (first.get_xlabel()[0], second.get_xlabel()[0]) == ("x", "y")


@pytest.mark.parametrize("along", ["x", "y"])
def test_a_grid_of_one_row_is_a_profile_unless_asked_for_otherwise(along: str) -> None:
    axes = [AXIS, [0.5]] if along == "x" else [[0.5], AXIS]
    row = surface(lambda x, y: 3 + x + 10 * y, *axes)
    (ax,) = plot_surface(row).axes
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), row.values["loss"].ravel())
    assert ax.get_xlabel() == f"{along} (multiples of the direction)"
    assert ax.get_title() == f"{'y' if along == 'x' else 'x'} = 0.5\n(nearest grid row to the centre)"
    assert "one row of points" in note(plot_surface(row, kind="contour"))
    assert (usual_kind(row), usual_kind(line()), usual_kind(line(1))) == ("profile",) * 3
    assert (usual_kind(bowl()), usual_kind(surface(lambda x, y: x, 0.0, 0.0))) == ("contour",) * 2


def test_end_points_of_a_line_are_named_at_their_true_loss() -> None:
    ends = Points("points", ("a", "b"), np.array([[0.0], [1.5]]), np.zeros(2), true={"loss": np.array([2.0, 3.5])})
    ax = plot_surface(surface(lambda x: 2 + x, np.linspace(-1, 1, 5), points=ends)).axes[0]
    (drawn,) = (artist for artist in ax.lines if artist.get_label() == "points")
    assert drawn.get_xydata().tolist() == [[0.0, 2.0], [1.5, 3.5]]
    assert [text.get_text() for text in ax.texts] == ["a", "b"]
    assert ax.get_xlim()[1] > 1.5


AXIS = np.linspace(-1, 1, 5)


def masked(whole: Surface) -> Surface:
    whole.computed[...] = False
    return whole


AWKWARD: dict[str, tuple[Callable[[], Surface], str]] = {
    "constant": (lambda: surface(lambda x, y: 0.5 + 0 * x, AXIS, AXIS[:4]), "constant: every value is 0.5"),
    "constant zero": (lambda: surface(lambda x, y: 0 * x, AXIS, AXIS[:4]), "constant: every value is 0"),
    "constant huge": (lambda: surface(lambda x, y: 1e300 + 0 * x, AXIS, AXIS[:4]), "constant: every value is 1e+300"),
    "one point": (lambda: surface(lambda x, y: 0.5 + 0 * x, 0.0, 0.0), "one point"),
    "one row": (lambda: surface(lambda x, y: x, AXIS, 0.0), "one row of points"),
    "one column": (lambda: surface(lambda x, y: y, 0.0, AXIS), "one row of points"),
    "all masked": (lambda: masked(surface(lambda x, y: x, AXIS, AXIS[:4])), "no finite value to draw"),
    "all NaN": (lambda: surface(lambda x, y: x * np.nan, AXIS, AXIS[:4]), "20 NaN"),
    "300 decades": (lambda: surface(lambda x, y: 10 ** (150 * (x + y)), AXIS, AXIS), "log scale"),
    "largest numbers": (lambda: surface(lambda x, y: 1.7e308 * x, AXIS, AXIS[:4]), ""),
    "smallest numbers": (lambda: surface(lambda x, y: 5e-324 * np.round(x), AXIS, AXIS[:4]), ""),
    "a few roundings": (lambda: surface(lambda x, y: 1 + 1e-15 * np.round(8 * x), AXIS, AXIS[:4]), ""),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["contour", "3d", "profile"])
@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_surfaces_give_a_picture_that_says_so(name: str, kind: str) -> None:
    make, words = AWKWARD[name]
    figure = plot_surface(make(), kind=kind)
    if kind == "profile":
        words = {"all NaN": "9 NaN", "one row": "", "one column": ""}.get(name, words)
    assert words in note(figure)
    assert painted(figure) > 1000


@pytest.mark.parametrize(
    ("name", "lowest", "highest"),
    [
        ("300 decades", "$10^{-300}$", "$10^{300}$"),
        ("largest numbers", "$-1.8\\times10^{308}$", "$1.8\\times10^{308}$"),
        ("constant huge", "$10^{300}$", "$10^{300}$"),
    ],
)
def test_extreme_numbers_are_written_on_the_colour_bar(name: str, lowest: str, highest: str) -> None:
    figure = plot_surface(AWKWARD[name][0]())
    figure.draw_without_rendering()
    shown = [text.get_text() for text in figure.axes[1].get_yticklabels()]
    assert (shown[0], shown[-1]) == (lowest, highest)


@pytest.mark.parametrize("kind", ["contour", "3d", "profile"])
@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".SVG", b"<?xml")])
def test_every_kind_saves_in_every_format(tmp_path: Path, kind: str, suffix: str, magic: bytes) -> None:
    path = tmp_path / "new folder é" / f"s{suffix}"
    assert save_figure(plot_surface(bowl(), kind=kind), path) == path
    assert path.read_bytes().startswith(magic)


def test_saving_where_it_cannot_be_is_refused(tmp_path: Path) -> None:
    figure = plot_surface(line())
    with pytest.raises(InputError, match=r"'\.jpg'.*\.png, \.pdf, \.svg"):
        save_figure(figure, tmp_path / "s.jpg")
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot write"):
        save_figure(figure, tmp_path / "file" / "s.png")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quantity": "los"}, "did you mean 'loss'"),
        ({"kind": "contours"}, "did you mean 'contour'"),
        ({"levels": "lin"}, "linear"),
        ({"levels": [1.0, 1.0, 2.0]}, "values that increase"),
        ({"levels": [1.0]}, "give 2 to 200 values"),
        ({"levels": [0.0, np.inf]}, "values that increase and are finite"),
        ({"levels": "step", "step": 0.0}, "step 0.0 is not a positive number"),
        ({"levels": "step", "step": 1e-17}, "lost beside values of 1"),
        ({"count": 1}, "count 1 is too small"),
        ({"kind": "ratio"}, "no eigenvalues.*measure_curvature_map"),
    ],
)
def test_unknown_words_are_refused_with_the_nearest(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plot_surface(bowl(), **arguments)


@pytest.mark.parametrize("kind", ["contour", "3d"])
def test_a_line_has_no_plane_to_draw(kind: str) -> None:
    with pytest.raises(InputError, match="needs two axes.*profile"):  # noqa: RUF043
        plot_surface(line(), kind=kind)


def test_count_sets_about_how_many_levels() -> None:
    few, many = (filled(plot_surface(bowl(), count=n).axes[0]) for n in (3, 30))
    assert few is not None
    assert many is not None
    assert len(few.levels) <= 5
    assert 15 <= len(many.levels) <= 32


@pytest.mark.parametrize(
    ("low", "high", "levels"),
    [
        (1.1, 1.9, "log"),  # within one step of 1, 2, 5
        (0.1257302210933933, 0.1257302210933950, "auto"),  # a few roundings apart, finer than round numbers are
        (3.0, 290.0, "log"),
        (-0.37, 5.2, "auto"),
    ],
)
def test_levels_cover_all_values_with_several_bands(low: float, high: float, levels: str) -> None:
    ramp = surface(lambda x, y: low + (high - low) * x, [0, 1], [0, 1])
    ramp.values["loss"][:, 1] = high
    contours = filled(plot_surface(ramp, levels=levels).axes[0])
    assert contours is not None
    low, high = (np.log10(low), np.log10(high)) if levels == "log" else (low, high)
    assert contours.levels[0] <= low < contours.levels[1]
    assert contours.levels[-2] < high <= contours.levels[-1]
    assert 5 <= len(contours.levels) <= 14


def values_of(figure: Figure, *, log: bool) -> np.ndarray:
    contours = filled(figure.axes[0])
    assert contours is not None
    return 10.0**contours.levels if log else np.asarray(contours.levels)


def test_steps_show_the_basin_and_powers_of_ten_the_walls() -> None:
    """Values 0.37 to 900 in steps of 0.5: 0.2, 0.5 ... 10, then 1, 2, 5 times powers of ten."""
    wide = surface(lambda x, y: 0.37 * (900 / 0.37) ** x, np.linspace(0, 1, 60), np.linspace(0, 1, 4))
    figure = plot_surface(wide, levels="step", step=0.5)
    levels = values_of(figure, log=True)
    np.testing.assert_allclose(levels[1:21], np.arange(1, 21) / 2)
    np.testing.assert_allclose(levels[[0, *range(21, 27)]], [0.2, 20, 50, 100, 200, 500, 1000])
    assert note(figure).startswith("steps of 0.5 up to 10, then 1-2-5 per decade; log scale")
    figure.draw_without_rendering()
    assert len([t for t in figure.axes[1].get_yticklabels() if t.get_text()]) <= 12


@pytest.mark.parametrize(
    ("low", "high", "words", "walls"),
    [
        (0.11, 5e6, "steps of 0.1 up to 2.1, then 1-2-5 per decade", 20),
        (0.11, 1e12, "steps of 0.1 up to 2.1, then powers of ten", 12),
        (0.11, 1e60, "steps of 0.1 up to 2.1, then powers of ten, one in 3", 21),
        (0.11, 1.5, "steps of 0.1", 0),
        (-3.0, -0.5, "steps of 0.1 up to -1, then the highest value", 1),
    ],
)
def test_steps_tell_what_follows_them(low: float, high: float, words: str, walls: int) -> None:
    ramp = surface(lambda x, y: low + (high - low) * x, [0, 1], [0, 1])
    figure = plot_surface(ramp, levels="step")
    assert note(figure).split(";")[0] == words
    levels = values_of(figure, log="log scale" in note(figure))
    steps = levels[levels < (2.15 if low > 0 else -0.95)]
    np.testing.assert_allclose(np.diff(steps), 0.1)
    assert abs(len(levels) - len(steps) - walls) <= 1
    assert levels[-1] >= high - 1e-9 * abs(high)


def test_steps_of_a_tenth_from_the_lowest_value() -> None:
    flat = surface(lambda x, y: 0.25 + x, np.linspace(0, 1, 9), np.linspace(0, 1, 4))
    np.testing.assert_allclose(values_of(plot_surface(flat, levels="step"), log=False), np.arange(2, 14) / 10)
    below = surface(lambda x, y: -3 + 2.5 * x, np.linspace(0, 1, 9), np.linspace(0, 1, 4))
    levels = values_of(plot_surface(below, levels="step"), log=False)
    np.testing.assert_allclose(levels, [*np.arange(-30, -9) / 10, -0.5])


@pytest.mark.parametrize(
    ("given", "extend", "words"),
    [
        ([0.5, 2.0, 5.0], "neither", "standard error"),
        ([1.5, 2.0, 5.0], "min", "4 values below 1.5"),
        (np.array([0.5, 2.0, 3.0]), "max", "12 values above 3"),
        ((1.5, 3.0), "both", "4 values below 1.5; 12 values above 3"),
    ],
)
def test_given_levels_are_kept_and_what_lies_beyond_is_counted(given: Any, extend: str, words: str) -> None:
    figure = plot_surface(bowl(), levels=given)
    contours = filled(figure.axes[0])
    assert contours is not None
    np.testing.assert_allclose(contours.levels, given)
    assert contours.extend == extend
    assert note(figure).startswith(words)
    for kind in ("3d", "profile"):  # heights show all values
        figure = plot_surface(bowl(), kind=kind, levels=given)
        low, high = figure.axes[0].get_zlim() if kind == "3d" else figure.axes[0].get_ylim()
        assert low <= (1.0 if kind == "3d" else 1.04)
        assert high >= (4.0 if kind == "3d" else 3.0)


def curvature(low: Function) -> Surface:
    made = surface(lambda x, y: 10 + 0 * x, np.linspace(-1, 1, 9), np.linspace(-1, 1, 7))
    smallest = surface(low, made.x, made.y).values["loss"]
    values = {"eigenvalue_max": made.values["loss"], "eigenvalue_min": smallest}
    values["convexity"] = np.abs(smallest / made.values["loss"])
    return Surface(made.axes, values, {"convexity": np.full(smallest.shape, 0.02)}, made.computed)


def test_ratio_of_eigenvalues_with_the_line_where_the_smallest_is_zero() -> None:
    figure = plot_surface(curvature(lambda x, y: -4 * x), kind="ratio")
    ax, bar = figure.axes
    assert bar.get_ylabel() == r"$|\lambda_{\min}/\lambda_{\max}|$"
    assert values_of(figure, log=False)[0] == 0.0
    dashed = [c for c in ax.collections if isinstance(c, QuadContourSet) and c.levels.tolist() == [0.0]]
    assert [np.unique(c.allsegs[0][0][:, 0]).tolist() for c in dashed] == [[0.0]] * 2
    assert legend(figure) == ["centre", r"$\lambda_{\min} = 0$"]
    assert note(figure) == "smallest eigenvalue below 0 at 28 of 63 points; standard error at most 0.02"
    convex = plot_surface(curvature(lambda x, y: 1 + x**2), kind="ratio")
    assert legend(convex) == ["centre"]
    assert note(convex).startswith("smallest eigenvalue below 0 at 0 of 63 points")


def test_lines_of_one_picture_stay_apart_without_colours() -> None:
    looks = [line_look(k) for k in range(6)]
    assert len({look["marker"] for look in looks}) == len({look["color"] for look in looks}) == 6
