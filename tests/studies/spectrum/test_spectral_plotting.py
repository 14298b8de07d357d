"""Pictures and tables of spectra: what is in them, for every kind and every awkward spectrum."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from landscape_jobs.terminal.tables import as_rich
from made import painted
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from rich.console import Console
from test_hdf5 import example as example_surface
from test_spectral_schema import OUTLIERS, SIZE, TENSORS, density, layers, nothing, sampled, spectrum, trace

from landscape.errors import InputError
from landscape.results.summary import result_tables
from landscape.studies.layer_spectra.pictures import plot_layers
from landscape.studies.layer_spectra.result import LayerSpectra
from landscape.studies.layer_spectra.tables import layers_tables
from landscape.studies.spectrum.pictures import KINDS, plot_spectrum
from landscape.studies.spectrum.result import Density, Eigenpairs, Spectrum
from landscape.studies.spectrum.tables import spectrum_tables


def note(figure: Figure) -> str:
    return figure.get_supxlabel()


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for box in figure.legends for text in box.get_texts()]


def marks(ax: Axes, label: str) -> list[list[float]]:
    """Points of the markers with that label."""
    return [list(point) for line in ax.lines if line.get_label() == label for point in line.get_xydata()]


def error_bars(ax: Axes) -> dict[float, tuple[float, float]]:
    """{position: (lower, upper)} of vertical bars, {height: (left, right)} of horizontal ones."""
    found: dict[float, tuple[float, float]] = {}
    for start, end in (s for c in ax.collections if isinstance(c, LineCollection) for s in c.get_segments()):
        along = 1 if start[0] == end[0] else 0
        found[float(start[1 - along])] = (float(start[along]), float(end[along]))
    return found


def bars(ax: Axes) -> list[Rectangle]:
    return [p for container in ax.containers if isinstance(container, BarContainer) for p in container.patches]


def known_density(made: Spectrum | None = None) -> Density:
    found = (made or spectrum()).density
    assert found is not None
    return found


# -- kind "spectrum" ----------------------------------------------------------------------------------------------


def test_eigenvalues_by_rank_with_two_standard_errors() -> None:
    made = spectrum()
    figure = plot_spectrum(made)
    largest, smallest, beside = figure.axes
    np.testing.assert_allclose(marks(largest, "outlier"), np.stack([np.arange(1, 11), OUTLIERS], axis=1))
    assert [rank for rank, _ in marks(largest, "eigenvalue")] == [11, 12]
    hollow = marks(largest, "eigenvalue, not converged")
    np.testing.assert_allclose(hollow, np.stack([[13, 14], made.eigenvalues[12:]], axis=1))
    assert len(marks(smallest, "eigenvalue, not converged")) == 3
    found = error_bars(largest)
    for i, value in enumerate(made.eigenvalues):
        expected = (value - 2 * made.eigenvalue_stderr[i], value + 2 * made.eigenvalue_stderr[i])
        assert found[i + 1] == pytest.approx(expected)
    assert error_bars(smallest) == {}  # their errors are not known
    assert largest.get_ylim() == beside.get_ylim()
    assert [ax.get_subplotspec().colspan.start for ax in (largest, beside, smallest)] == [0, 1, 2]
    assert np.argmin(largest.get_gridspec().get_width_ratios()) == 1
    assert (largest.get_xlabel(), smallest.get_xlabel()) == ("rank from the largest", "rank from the smallest")
    assert note(figure).startswith("12 of 14 largest converged; 210 products in 105 passes; outliers")


def test_pairs_that_did_not_converge_are_hollow() -> None:
    ax = plot_spectrum(spectrum()).axes[0]
    faces = {line.get_label(): to_hex(line.get_markerfacecolor()) for line in ax.lines}
    edges = {line.get_label(): to_hex(line.get_markeredgecolor()) for line in ax.lines}
    assert faces["eigenvalue, not converged"] == "#ffffff"
    assert faces["eigenvalue"] == edges["eigenvalue"] == edges["eigenvalue, not converged"] != edges["outlier"]


def test_bias_is_taken_off_and_an_independent_sample_goes_first() -> None:
    made = spectrum()
    found = marks(plot_spectrum(made).axes[0], "corrected for bias")
    np.testing.assert_allclose([y for _, y in found], made.eigenvalues - made.largest.bias)
    pairs = replace(sampled(), independent_stderr=np.full(14, 0.5))
    figure = plot_spectrum(spectrum(largest=pairs))
    assert "corrected for bias" not in legend(figure)
    assert "on an independent sample" in legend(figure)
    assert error_bars(figure.axes[0])[1.3] == pytest.approx((0.9 * 41 - 1, 0.9 * 41 + 1))


def test_bulk_is_the_middle_of_the_density_without_what_was_taken_out() -> None:
    """1000 nodes 1 to 1000 of equal weight: the middle 99 % is 5 to 995; an outlier lies 990 beyond it."""
    curve = known_density()
    even = np.arange(1.0, 1001.0)[None]
    curve = replace(curve, nodes=even, weights=np.full(even.shape, 1e-3), deflated=np.array([5e6]))
    values = np.array([1990.0, 1980.0, 500.0])
    zeros = np.zeros(3)
    low = Eigenpairs(np.array([-990.0, -980.0]), zeros[:2], np.ones(2, dtype=bool), zeros[:2], zeros[:2])
    made = spectrum(largest=Eigenpairs(values, zeros, np.ones(3, dtype=bool), zeros, zeros), smallest=low)
    figure = plot_spectrum(replace(made, density=curve))
    (band,) = (p for p in figure.axes[0].patches if str(p.get_label()).startswith("bulk: middle 99%"))
    assert isinstance(band, Rectangle)
    assert band.get_y() == pytest.approx(5, abs=1)
    assert band.get_y() + band.get_height() == pytest.approx(995, abs=1)
    assert [y for _, y in marks(figure.axes[0], "outlier")] == [1990.0]
    assert [y for _, y in marks(figure.axes[1], "outlier")] == [-990.0]


def test_without_a_density_there_is_no_bulk() -> None:
    figure = plot_spectrum(spectrum(density=None))
    assert len(figure.axes) == 2
    assert not [text for text in legend(figure) if "bulk" in text or "outlier" in text]
    assert len(marks(figure.axes[0], "eigenvalue")) == 12


@pytest.mark.parametrize(
    ("end", "label"), [("largest", "rank from the smallest"), ("smallest", "rank from the largest")]
)
def test_one_end_alone(end: str, label: str) -> None:
    figure = plot_spectrum(spectrum(**{end: nothing()}))
    assert [ax.get_xlabel() for ax in figure.axes] == [label, "density"]


# -- kind "density" -----------------------------------------------------------------------------------------------


def test_density_on_a_log_scale_with_band_ticks_and_the_height_of_one_eigenvalue() -> None:
    curve = known_density()
    figure = plot_spectrum(spectrum(), "density")
    (ax,) = figure.axes
    assert ax.get_yscale() == "log"
    (line,) = (line for line in ax.lines if line.get_label() == "density")
    bottom, top = ax.get_ylim()
    inside = curve.values > bottom
    np.testing.assert_allclose(np.asarray(line.get_ydata())[inside], curve.values[inside])
    assert top > curve.upper.max()
    np.testing.assert_array_equal([x for x, _ in marks(ax, "eigenvalues taken out")], OUTLIERS)
    (one,) = (line for line in ax.lines if line.get_label() == "height of one eigenvalue")
    height = float(np.asarray(one.get_ydata())[0])
    assert height == pytest.approx(curve.values[np.abs(curve.grid - 41).argmin()], rel=0.01)
    assert bottom == pytest.approx(height / 10)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("eigenvalue", "density per unit of eigenvalue")
    assert note(figure) == "5 probes of 30 nodes; width 0.25; 150 products in 30 passes; log scale"


def test_band_is_that_of_the_density() -> None:
    curve = known_density()
    curve = replace(curve, lower=curve.values / 2, upper=curve.values * 2)
    ax = plot_spectrum(spectrum(density=curve), "density").axes[0]
    (band,) = (c for c in ax.collections if isinstance(c, PolyCollection))
    assert str(band.get_label()).startswith("±2 standard errors")
    vertices = band.get_paths()[0].vertices
    place = int(curve.values.argmax())
    found = np.unique(vertices[vertices[:, 0] == curve.grid[place], 1])
    np.testing.assert_allclose(found, [curve.values[place] / 2, curve.values[place] * 2])


def test_exact_zeros_leave_a_log_scale_through_its_border() -> None:
    curve = known_density()
    zeros = curve.values < 1e-9
    assert zeros.any()
    empty = np.where(zeros, 0.0, curve.values)
    figure = plot_spectrum(spectrum(density=replace(curve, values=empty, lower=-empty, upper=empty)), "density")
    (line,) = (line for line in figure.axes[0].lines if line.get_label() == "density")
    drawn = np.asarray(line.get_ydata())
    assert (drawn > 0).all()
    assert (drawn[zeros] < figure.axes[0].get_ylim()[0]).all()
    assert f"log scale, 0 at {int(zeros.sum())} of 1001 grid points" in note(figure)


def test_without_deflation_the_largest_eigenvalues_are_the_ticks() -> None:
    made = spectrum(density=density(np.linspace(-1, 2, SIZE), np.zeros(0)))
    ax = plot_spectrum(made, "density").axes[0]
    np.testing.assert_array_equal([x for x, _ in marks(ax, "largest eigenvalues")], made.eigenvalues)


# -- kind "layers", and the spectra of layers ---------------------------------------------------------------------


def test_layer_traces_are_bars_in_order_with_two_standard_errors() -> None:
    figure = plot_spectrum(spectrum(), "layers")
    (ax,) = figure.axes
    assert [text.get_text() for text in ax.get_yticklabels()] == ["conv1", "conv2", "norm", "fc"]
    assert [bar.get_width() for bar in bars(ax)] == [61.0, 102.5, -3.25, 133.0]
    bottom, top = ax.get_ylim()
    assert bottom > top  # the first on top
    assert error_bars(ax)[3] == pytest.approx((124.0, 142.0))
    assert "trace of all layers 293.2, standard error 9.5; method hutchinson" in note(figure)


def test_traces_over_many_decades_take_a_log_scale_unless_one_is_negative() -> None:
    values = {"a": 1e-3, "b": 1.0, "c": 50.0}
    for least, scale in ((1e-3, "log"), (-1e-3, "linear"), (0.6, "linear")):
        values["a"] = least
        (ax,) = plot_spectrum(spectrum(trace=trace(layers={**values}, layers_stderr={})), "layers").axes
        assert ax.get_xscale() == scale
        assert ("log scale" in ax.get_xlabel()) == (scale == "log")


def test_layers_side_by_side_with_what_is_missing() -> None:
    made = layers()
    figure = plot_layers(made)
    first, second = figure.axes
    assert [text.get_text() for text in first.get_yticklabels()] == list(made.layers)
    assert first.get_ylim() == second.get_ylim()
    lengths = {round(bar.get_y() + bar.get_height() / 2): bar for bar in bars(first)}
    assert sorted(lengths) == [0, 1, 2, 3, 4]
    for row, bar in lengths.items():
        assert bar.get_width() == made.eigenvalues[row, 0]
        assert (to_hex(bar.get_facecolor()) == "#ffffff") == (not made.converged[row, 0])
    assert not made.converged[2, 0]
    assert error_bars(first)[0] == pytest.approx((made.eigenvalues[0, 0] * 0.9, made.eigenvalues[0, 0] * 1.1))
    assert error_bars(second)[0] == pytest.approx((made.trace[0] * 0.92, made.trace[0] * 1.08))
    for ax in figure.axes:
        (hatched,) = (p for p in ax.patches if isinstance(p, Rectangle) and p.get_hatch())
        assert (hatched.get_y(), hatched.get_height()) == (4.5, 1.0)
    assert {"not computed", "not converged"} <= set(legend(figure))
    assert note(figure).startswith("1 of 6 layers not computed; trace of all layers 293.2")


def test_a_trace_that_was_not_asked_for_has_no_panel() -> None:
    figure = plot_layers(replace(layers(), trace=np.full(6, np.nan), whole_trace=None))
    assert [ax.get_xlabel() for ax in figure.axes] == ["largest eigenvalue of the layer's block"]


def test_a_computed_layer_without_a_number_is_marked() -> None:
    made = layers()
    made.eigenvalues[3, 0] = np.nan
    assert [y for _, y in marks(plot_layers(made).axes[0], "NaN or Inf")] == [3.0]


def test_sixty_long_names_are_apart_and_inside_the_picture() -> None:
    made = layers(60)
    long = tuple(f"backbone.encoder.stages.{i // 10}.residual_blocks.{i % 10}.attention.projection" for i in range(60))
    for figure in (
        plot_layers(replace(made, layers=long)),
        plot_spectrum(spectrum(trace=trace(layers=dict.fromkeys(long, 1.0), layers_stderr={})), "layers"),
    ):
        figure.draw_without_rendering()
        labels = figure.axes[0].get_yticklabels()
        assert len({label.get_text() for label in labels}) == 60
        assert labels[-1].get_text() == "bac.enc.sta.5.res.9.att.projection"
        boxes = sorted((label.get_window_extent() for label in labels), key=lambda box: box.y0)
        assert min(box.x0 for box in boxes) >= 0
        assert all(lower.y1 <= upper.y0 for lower, upper in itertools.pairwise(boxes))
        assert figure.axes[0].get_window_extent().width > 250  # room is left for the bars


def test_names_that_would_be_alike_when_cut_stay_whole() -> None:
    names = [f"a_module_with_a_very_long_name.a_{word}.projection.weight" for word in ("block", "branch")]
    (ax,) = plot_spectrum(spectrum(trace=trace(layers=dict.fromkeys(names, 1.0))), "layers").axes
    assert [text.get_text() for text in ax.get_yticklabels()] == names


# -- kind "vectors" -----------------------------------------------------------------------------------------------


def pure(*entries: tuple[str, int]) -> Spectrum:
    """A spectrum whose i-th eigenvector is the unit vector of one entry of a tensor."""
    offsets = dict(zip(TENSORS, np.cumsum([0, *(int(np.prod(s)) for s in TENSORS.values())]), strict=False))
    vectors = np.zeros((14, SIZE))
    for row, (name, place) in enumerate(entries):
        vectors[row, offsets[name] + place] = -1.0
    made = spectrum()
    return replace(made, largest=replace(made.largest, vectors=vectors))


def test_shares_of_the_norm_stand_at_their_tensors() -> None:
    figure = plot_spectrum(pure(("fc.weight", 0), ("conv1.bias", 3)), "vectors", count=2)
    panels = [ax for ax in figure.axes if bars(ax)]
    assert [[bar.get_height() for bar in bars(ax)] for ax in panels] == [
        [float(name == chosen) for name in TENSORS] for chosen in ("fc.weight", "conv1.bias")
    ]
    assert [text.get_text() for text in panels[-1].get_xticklabels()] == list(TENSORS)
    assert [ax.get_title(loc="left") for ax in panels] == ["eigenvector 1: λ = 41", "eigenvector 2: λ = 33.5"]
    images = [ax.get_title() for ax in figure.axes if ax.images]
    assert len(images) == 6
    assert images[0] == "fc.weight\n10×32, within ±1"
    assert images[3] == "conv1.bias\n8, within ±1"
    assert images[4] == "conv1.weight\n8×1×3×3, all 0"


def test_filters_are_tiles_with_output_channels_down() -> None:
    """Entry (output 5, input 2, row 1, column 0) of 8 x 8 filters of 3 x 3, one pixel between them."""
    figure = plot_spectrum(pure(("conv2.weight", ((5 * 8 + 2) * 3 + 1) * 3)), "vectors", count=1)
    image = np.ma.filled(next(ax for ax in figure.axes if ax.images).images[0].get_array(), np.nan)
    assert image.shape == (31, 31)
    assert np.argwhere(image == -1).tolist() == [[5 * 4 + 1, 2 * 4]]
    assert np.isnan(image[3]).all()
    assert np.isnan(image[:, 27]).all()
    assert np.isnan(image).sum() == 31 * 31 - 64 * 9


def test_filters_of_one_input_channel_stand_abreast() -> None:
    """8 filters in 3 columns of 3: output 7 is the second tile of the last column."""
    figure = plot_spectrum(pure(("conv1.weight", 7 * 9)), "vectors", count=1)
    image = np.ma.filled(next(ax for ax in figure.axes if ax.images).images[0].get_array(), np.nan)
    assert image.shape == (11, 11)
    assert np.argwhere(image == -1).tolist() == [[1 * 4, 2 * 4]]


def test_of_many_filters_the_first_are_drawn_and_it_is_said() -> None:
    shapes = {"a": (40, 20, 2, 2)}
    made = spectrum(attributes={"tensors": shapes})
    made = replace(made, largest=replace(made.largest, vectors=np.ones((14, 3200)) / np.sqrt(3200)))
    figure = plot_spectrum(made, "vectors", count=1)
    shown = next(ax for ax in figure.axes if ax.images)
    assert shown.get_title() == "a\n40×20×2×2 (first 16×16), within ±0.018"
    assert shown.images[0].get_array().shape == (47, 47)


def test_three_vectors_by_default() -> None:
    assert len([ax for ax in plot_spectrum(spectrum(), "vectors").axes if bars(ax)]) == 3


# -- awkward spectra ----------------------------------------------------------------------------------------------


def scaled(factor: float) -> Spectrum:
    made, curve = spectrum(), known_density()
    pairs = [
        replace(p, values=p.values * factor, stderr=p.stderr * factor, bias=p.bias * factor)
        for p in (made.largest, made.smallest)
    ]
    names = ("grid", "nodes", "deflated", "width")
    curve = replace(curve, **{name: getattr(curve, name) * factor for name in names})
    heights = {name: getattr(curve, name) / factor for name in ("values", "lower", "upper")}
    return replace(made, largest=pairs[0], smallest=pairs[1], density=replace(curve, **heights))


def flat(value: float) -> Spectrum:
    """All eigenvalues equal."""
    curve = known_density()
    pairs = replace(spectrum().largest, values=np.full(14, value), stderr=np.zeros(14))
    curve = replace(curve, nodes=np.full((5, 30), value), deflated=np.full(14, value))
    return spectrum(largest=pairs, smallest=replace(spectrum().smallest, values=np.full(3, value)), density=curve)


def changed(**changes: Any) -> Spectrum:
    return spectrum(density=replace(known_density(), **changes))


def partial() -> Spectrum:
    """A run of which nothing but the density is there yet."""
    gone = {name: np.full(14, np.nan) for name in ("values", "residuals", "stderr", "bias")}
    pairs = replace(spectrum().largest, **gone, converged=np.zeros(14, dtype=bool), vectors=np.full((14, SIZE), np.nan))
    return spectrum(largest=pairs, trace=None)


N = 1001
AWKWARD: dict[str, Callable[[], Spectrum]] = {
    "tiny": lambda: scaled(1e-12),
    "huge": lambda: scaled(1e30),
    "all equal": lambda: flat(3.0),
    "all zero": lambda: flat(0.0),
    "one probe": lambda: changed(lower=np.full(N, np.nan), upper=np.full(N, np.nan)),
    "no probe": lambda: changed(nodes=np.full((1, 3), np.nan), weights=np.full((1, 3), np.nan)),
    "width 0": lambda: changed(width=0.0),
    "density 0": lambda: changed(values=np.zeros(N), lower=np.zeros(N), upper=np.zeros(N)),
    "band below 0": lambda: changed(lower=-np.ones(N)),
    "partial": partial,
    "no errors": lambda: spectrum(
        largest=replace(spectrum().largest, stderr=np.full(14, np.nan), bias=np.full(14, np.nan))
    ),
    "one pair": lambda: spectrum(
        largest=Eigenpairs(np.ones(1), np.zeros(1), np.ones(1, dtype=bool), np.ones(1), np.zeros(1), np.eye(1, SIZE)),
    ),
    "NaN trace": lambda: spectrum(trace=trace(layers={"a": np.nan, "b": np.inf, "c": 1.0}, layers_stderr={})),
    "zero traces": lambda: spectrum(trace=trace(layers={"a": 0.0, "b": 0.0})),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_spectra_give_a_picture(name: str, kind: str) -> None:
    made = AWKWARD[name]()
    if name == "partial" and kind in ("layers", "vectors"):
        with pytest.raises(InputError, match="cannot be drawn"):
            plot_spectrum(made, kind)
        return
    figure = plot_spectrum(made, kind)
    assert painted(figure) > 1000
    if name == "density 0" and kind == "density":
        assert "linear scale: no value is positive" in note(figure)


@pytest.mark.filterwarnings("error")
def test_layers_of_which_none_is_computed() -> None:
    gone = {"eigenvalues": np.full((2, 3), np.nan), "trace": np.full(2, np.nan)}
    figure = plot_layers(replace(layers(2), computed=np.zeros(2, dtype=bool), **gone))
    figure.draw_without_rendering()
    assert legend(figure) == ["not computed"]


# -- refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "kind", "message"),
    [
        (spectrum(), "spectra", "did you mean 'spectrum'"),
        (spectrum(density=None), "density", r"no density.*can: spectrum, layers, vectors"),
        (spectrum(trace=None), "layers", r"no trace.*can: spectrum, density, vectors"),
        (spectrum(trace=trace(layers={})), "layers", r"'hutchinson' was not taken apart"),
        (spectrum(largest=replace(spectrum().largest, vectors=None)), "vectors", r"not kept.*can: spectrum, density"),
        (spectrum(attributes={}), "vectors", r"the attribute 'tensors'.*is missing"),
        (spectrum(largest=nothing(), smallest=nothing()), "spectrum", "holds no eigenvalue"),
        (spectrum(attributes={"tensors": {"a": [3, 4]}}), "vectors", "of 12 entries in all, the eigenvectors have"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_refused_with_what_is(made: Spectrum, kind: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        plot_spectrum(made, kind)


def test_count_is_at_least_one() -> None:
    with pytest.raises(InputError, match="count 0 is too small"):
        plot_spectrum(spectrum(), "vectors", count=0)


def test_results_draw_themselves() -> None:
    assert spectrum().plot("vectors", count=1).axes[0].get_ylabel() == "share of norm²"
    assert len(layers().plot().axes) == 2


# -- tables -------------------------------------------------------------------------------------------------------


def shown(tables: Any) -> list[str]:
    """Lines of the tables in a wide terminal, without their borders."""
    text = io.StringIO()
    console = Console(width=200, file=text)
    for table in tables:
        console.print(as_rich(table))
    return [" ".join(line.replace("│", " ").split()) for line in text.getvalue().splitlines()]


def test_spectrum_table_says_values_errors_residuals_and_cost() -> None:
    lines = shown(spectrum_tables(spectrum(largest=sampled()), "a.h5"))
    assert lines[0] == "a.h5"
    assert "matrix 1,002 x 1,002" in lines
    assert "1 41 +- 1.6 40.59 36.9 1e-07 - yes" in lines
    assert any(line.startswith("14 1.42612 +- 0.3") and line.endswith("0.09 - no") for line in lines)
    assert any(line.startswith("3 -0.62") and line.endswith("0.5 - no") for line in lines)
    assert "eigenvalues 210 products in 105 passes over the data" in lines
    assert "value 293.25 +- 9.5" in lines
    assert "error from probes 4.2" in lines
    assert "error from the data 8.5" in lines
    assert "cost 60 products in 12 passes over the data, 0 gradients per sample" in lines
    assert "norm -3.25 +- 4.5" in lines
    assert "eigenvalues taken out 10" in lines
    assert "cost 150 products in 30 passes over the data" in lines
    exact = shown(spectrum_tables(spectrum(trace=trace(stderr_probes=0.0)), "a.h5"))
    assert "error from probes none: exact for the data given" in exact


def test_parts_that_were_not_measured_have_no_table() -> None:
    lines = shown(spectrum_tables(spectrum(trace=None, density=None, smallest=nothing()), "a.h5"))
    assert not {"trace", "density", "smallest eigenvalues", "trace by layer"} & set(lines)
    assert "largest eigenvalues" in lines


def test_layers_table_has_a_line_for_each_layer() -> None:
    lines = shown(layers_tables(layers(), "a.h5"))
    assert "matrix 6 diagonal blocks, 5 of 6 computed" in lines
    assert "stages.0.blocks.1.größe 101 10.2926 +- 0.51 0.0001 1 of 1 32.8777 +- 1.3" in lines
    assert "stages.1.blocks.1.größe 105 not computed not computed not computed not computed" in lines
    assert "value 293.25 +- 9.5" in lines


@pytest.mark.parametrize(
    ("result", "words"),
    [(spectrum(), "largest eigenvalues"), (layers(), "value +- standard error"), (example_surface(), "axes")],
)
def test_tables_of_any_result(result: Spectrum | LayerSpectra, words: str) -> None:
    assert words in shown(result_tables(result, "a.h5"))
