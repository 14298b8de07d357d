"""Measures: tables of numbers over named rows in files, tables, columns, pictures and reports."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray
from made import CASES, measures
from matplotlib.figure import Figure

import landscape as ls
from landscape.errors import InputError, StoreError
from landscape.files import hdf5
from landscape.results.kind import Asked, kind_of
from landscape.results.summary import result_tables
from landscape.studies.measures.result import largest_rows, shades
from landscape.studies.measures.schema import read_measures

NOTHING = ls.Measures((), "model", {}, {}, {}, np.zeros(0, dtype=bool))


def many(rows: int = 100) -> ls.Measures:
    """Three quantities of models in eight groups, every seventh model not computed."""
    draw = np.random.default_rng(0)
    values = {"alpha": draw.lognormal(0, 3, rows), "gap": draw.normal(size=rows), "norm": draw.random(rows)}
    done = np.arange(rows) % 7 != 0
    values = {name: np.where(done, array, np.nan) for name, array in values.items()}
    groups = tuple("abcdefgh"[i % 8] for i in range(rows))
    names = tuple(f"model{i}" for i in range(rows))
    return ls.Measures(names, "model", values, {"gap": np.full(rows, 0.1)}, {}, done, {}, groups)


def notes(figure: Figure) -> str:
    return str(figure._supxlabel.get_text()).replace("\n", " ")  # type: ignore[attr-defined]


def views(found: ls.Measures, most: int = 2000) -> dict[str, Any]:
    return {picture.title: picture for picture in kind_of(found).views()(found, most)}


# -- files, tables and columns ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [case for case in CASES if case != "row"])
def test_a_file_gives_all_of_it_back(case: str, tmp_path: Path) -> None:
    given = measures(case)
    found = ls.open(given.save(tmp_path / "a.h5"))
    assert isinstance(found, ls.Measures)
    for name in ("rows", "row_kind", "words", "units", "groups"):
        assert getattr(found, name) == getattr(given, name), name
    assert found.complete == (case != "masked")
    for name in ("values", "stderr"):
        assert getattr(found, name).keys() == getattr(given, name).keys()
        for key, values in getattr(given, name).items():
            np.testing.assert_array_equal(getattr(found, name)[key], values)
    for tensor, values in given.arrays["diagonal"].items():
        np.testing.assert_array_equal(found.arrays["diagonal"][tensor], values)


def test_names_that_files_have_other_uses_for(tmp_path: Path) -> None:
    inside = {"a/b.weight": np.ones((2, 2)), "scale": np.array(3.0), "scale@0": np.ones(2), "empty": np.ones((0, 3))}
    given = replace(measures(), arrays={"trace": inside, "size": inside}, groups=())
    found = ls.open(given.save(tmp_path / "a.h5"))
    for arrays in found.arrays.values():
        assert {name: values.shape for name, values in arrays.items()} == {n: v.shape for n, v in inside.items()}


def test_other_readers_find_names_units_and_definitions(tmp_path: Path) -> None:
    path = measures().save(tmp_path / "a.h5")
    with xarray.open_datatree(path) as tree:
        table = tree["measures"]
        assert table["trace"].dims == ("row",)
        assert table["trace"].attrs == {"long_name": "sum of the diagonal", "units": "1"}
        assert table["size"].attrs["units"] == "bytes"
        assert table["row"].to_numpy().tolist() == ["fc0", "fc1", "fc2"]
        assert tree["measures/arrays/diagonal/fc1.weight"].shape == (2, 3)
    assert set(measures().to_xarray().data_vars) == {"trace", "trace_stderr", "size", "group", "key_width", "computed"}
    with h5py.File(path, "a") as file:
        del file["measures/trace"]
    with pytest.raises(StoreError, match="misses 'trace'"):
        read_measures(hdf5.read(path), path)


def test_tables_and_columns_have_a_row_for_each_row() -> None:
    found = measures()
    columns = kind_of(found).columns(found)
    assert list(columns) == ["layer", "group", "width", "trace", "trace_stderr", "size", "computed"]
    first, table, words = list(result_tables(found, "title"))[:3]
    assert ("rows", "3, each a layer, 3 of 3 computed") in [(a.text, b.text) for a, b in first.rows]
    assert table.columns == ("layer", "group", "trace", "size")
    assert [cell.stderr for cell in table.rows[0]] == [None, None, found.stderr["trace"][0], None]
    assert ("diagonal", "second derivatives, for each entry of a tensor") in [(a.text, b.text) for a, b in words.rows]
    assert ("size", "number of parameters [bytes]") in [(a.text, b.text) for a, b in words.rows]
    masked = list(result_tables(measures("masked"), "title"))[1]
    assert [cell.text for cell in masked.rows[0]] == ["fc0", "first", "not computed", "not computed"]
    long = list(result_tables(many(300), "title"))[1]
    assert len(long.rows) == 201
    assert long.rows[-1][0].text == "and 100 more"
    glance = kind_of(found).glance(found)
    assert glance is not None
    assert glance.title == "trace of each layer, 3 of 3 rows known"
    assert kind_of(NOTHING).glance(NOTHING) is None


# -- pictures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["masked", "infinite", "one"])
@pytest.mark.parametrize("kind", ["bars", "heat_map", "scatter"])
def test_what_is_missing_or_not_finite_is_told_of(kind: str, case: str) -> None:
    figure = measures(case).plot(kind)
    figure.draw_without_rendering()
    told = {"masked": "6 not computed of 6 values", "infinite": "3 +Inf of 6 values", "one": ""}[case]
    assert told in notes(figure)


def test_bars_have_two_standard_errors_and_a_panel_for_each_quantity() -> None:
    found = measures()
    figure = found.plot()
    left, right = figure.axes
    assert [bar.get_width() for bar in left.patches] == found.values["trace"].tolist()
    (segments,) = (c.get_segments() for c in left.collections)
    widths = [segment[1, 0] - segment[0, 0] for segment in segments]
    np.testing.assert_allclose(widths, 4 * found.stderr["trace"])
    assert right.get_xlabel() == "size (bytes)"
    assert len(found.plot("bars", quantities="size").axes) == 1
    assert "the 40 of 100 rows where alpha is largest in size" in notes(many().plot())


def test_a_heat_map_colours_each_column_by_itself() -> None:
    found = measures()
    ax = found.plot("heat_map").axes[0]
    np.testing.assert_allclose(ax.images[0].get_array()[:, 0], [0, 0.5, 1])
    np.testing.assert_allclose(ax.images[0].get_array()[:, 1], [0, 0.5, 1])
    assert [text.get_text() for text in ax.texts][:3] == ["0.25", "2.125", "4"]
    assert "colours by logarithms: alpha, norm" in notes(many().plot("heat_map"))
    done = np.ones(3, dtype=bool)
    np.testing.assert_allclose(shades(np.array([-1e308, 0, 1e308]), done), [0, 0.5, 1])
    np.testing.assert_array_equal(shades(np.array([2.0, 2.0, np.inf]), done), [0.5, 0.5, np.nan])


def test_a_scatter_tells_groups_apart_and_has_errors_both_ways() -> None:
    found = many()
    figure = found.plot("scatter", x="norm", y="gap")
    (ax,) = figure.axes
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("norm (log scale)", "gap")
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts() if len(text.get_text()) == 1] == list("abcdefgh")
    looks = {(line.get_color(), line.get_marker()) for line in ax.lines if line.get_label() in found.groups}
    assert len(looks) == 8
    assert sum(len(line.get_xdata()) for line in ax.lines if line.get_label() in found.groups) == 85  # type: ignore[arg-type]
    (ax,) = measures().plot("scatter").axes
    assert [text.get_text() for text in ax.texts] == ["fc0", "fc1", "fc2"]


def test_names_in_a_scatter_cover_neither_each_other_nor_the_border() -> None:
    count = 20
    names = tuple(f"width {k} of a long name" for k in range(count))
    near = {"a": np.linspace(1, 1.02, count), "b": np.cos(np.arange(count))}
    unknown = {name: np.full(count, np.nan) for name in near}
    words = {name: name for name in near}
    figure = ls.Measures(names, "model", near, unknown, words, np.ones(count, dtype=bool)).plot("scatter")
    (ax,) = figure.axes
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert 5 < len(boxes) <= count
    assert all(box.count_overlaps(boxes) == 1 for box in boxes)  # itself
    assert (f"{count - len(boxes)} names left out" in notes(figure)) == (len(boxes) < count)
    assert all(ax.get_window_extent().containsx(end) for box in boxes for end in (box.x0, box.x1))


def test_rows_that_were_not_computed_are_left_out_of_large_pictures_first() -> None:
    found = many()
    kept = largest_rows(found, "alpha", 85)
    assert found.computed[kept].all()
    assert kept == sorted(kept)


def test_a_table_without_rows_or_quantities_is_drawn_too() -> None:
    for kind in ("bars", "heat_map"):
        assert notes(NOTHING.plot(kind)) == "no values: 0 rows, 0 quantities"
    with pytest.raises(InputError, match="a scatter needs two quantities"):
        NOTHING.plot("scatter")
    assert views(NOTHING) == {}


def test_what_cannot_be_drawn() -> None:
    for kind, options, text in (
        ("pie", {}, "kind 'pie' is not a picture of measures"),
        ("bars", {"quantities": "tracee"}, "no quantity 'tracee' is here; did you mean 'trace'"),
        ("bars", {"x": "trace"}, "x and y belong to kind='scatter'"),
        ("scatter", {"quantities": "trace"}, "a scatter takes x and y"),
        ("scatter", {"x": "length"}, "no quantity 'length'"),
    ):
        with pytest.raises(InputError, match=text):
            measures().plot(kind, **options)


def test_the_command_line_draws_every_kind() -> None:
    drawn = kind_of(measures()).pictures().asked
    assert [name for name, _ in drawn(measures(), Asked())] == ["bars", "heat_map", "scatter"]
    (only,) = drawn(measures(), Asked("scatter", "size"))
    assert only[1].axes[0].get_ylabel() == "size (bytes)"
    with pytest.raises(InputError, match="--levels"):
        list(drawn(measures(), Asked(levels="step")))


# -- the report ------------------------------------------------------------------------------------------------------


def test_a_report_has_bars_a_heat_map_and_scatters() -> None:
    found = views(measures())
    assert list(found) == ["measures", "measures side by side", "one measure against another"]
    assert found["measures"].alt == ("Bars of 3 layers: trace is highest in fc2 (4); size is highest in fc2 (4000).")
    (view,) = found["measures side by side"].views.values()
    assert view["data"][0]["z"] == [[0.0, 0.0], [0.5, 0.5], [1.0, 1.0]]
    assert list(found["one measure against another"].views) == ["trace and size"]
    names = [trace["name"] for trace in found["one measure against another"].views["trace and size"]["data"]]
    assert names == ["first", "last"]
    assert all("values" in kind or len(kind) for kind in found["measures"].values)


def test_a_report_tells_what_it_leaves_out() -> None:
    found = views(many(), 50)
    assert "the 60 largest of 100 models are drawn; the table holds them all" in found["measures"].notes
    assert "15 of 100 models are not computed" in found["measures"].notes
    assert "the 60 of 100 models where alpha is largest" in found["measures side by side"].notes
    assert "trace has no finite value" in views(measures("nan"))["measures"].notes
    assert views(measures("masked")) == {}
