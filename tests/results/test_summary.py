"""Results in tables and as pandas and xarray objects, also where there is little or nothing to tell."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import numpy as np
import pytest
from landscape_jobs.terminal.tables import as_rich
from made import EVERY, KINDS
from rich.console import Console

import landscape as ls
from landscape.results.kind import kind_of
from landscape.results.summary import result_tables
from landscape.results.tables import Cell, Table, number, pairs_table, settled
from landscape.results.trial import one_of


def tables(kind: str, case: str = "whole") -> dict[str, Table]:
    return {table.title: table for table in result_tables(KINDS[kind](case), "the title")}


def column(table: Table, heading: str) -> list[Cell]:
    return [row[table.columns.index(heading)] for row in table.rows]


def drawn(table: Table, width: int = 100) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(as_rich(table))
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


# -- cells and tables ------------------------------------------------------------------------------------------------


def test_a_number_reads_to_its_digits_and_keeps_all_of_them() -> None:
    assert number(1 / 3, 3, 0.012345) == Cell("0.333 +- 0.012", 1 / 3, 0.012345)
    assert number(np.float64(2.0), stderr=np.nan).text == "2"
    assert number(np.nan).text == "nan"
    assert number(np.nan, nan="-").text == "-"
    assert number(np.int64(1_234_567)) == Cell("1234567", 1_234_567)


def test_pairs_are_read_as_words_and_keep_numbers() -> None:
    table = pairs_table("t", {"a": {"x": "x", "y": 2}, "b": [1, 2], "c": 5, "d": True, "e": Cell("5 MB", 5.0)})
    assert table.pairs
    assert [row[1] for row in table.rows] == [
        Cell("x, y 2"), Cell("1, 2"), Cell("5", 5), Cell("True"), Cell("5 MB", 5.0)
    ]  # fmt: skip


def test_a_table_of_many_columns_is_shown_in_parts() -> None:
    names = [f"metric{k}" for k in range(26)]
    table = Table("t", ("model", *names), ((Cell("first"), *(Cell(f"{k}.25") for k in range(26))),))
    shown = drawn(table, 80)
    assert all(name in shown for name in names)
    assert "25.25" in shown
    assert shown.count("first") == 5
    few = Table("t", ("model", "a"), ((Cell("first"), Cell("1")),))
    assert drawn(few).count("first") == 1
    assert "only" in drawn(Table("t", ("model",), ((Cell("only"),),)))


def test_units_have_a_singular() -> None:
    many = ("models", "matrices", "classes", "families of measures", "parameter vectors", "places")
    assert [one_of(unit) for unit in many] == ["model", "matrix", "class", "family", "parameter vector", "place"]


def test_csv_has_numbers_in_full_and_errors_beside_them() -> None:
    found = tables("layer_spectra")["value +- standard error"].to_csv()
    rows = list(csv.DictReader(io.StringIO(found)))
    layers = KINDS["layer_spectra"]("whole")
    assert [row["layer"] for row in rows] == list(layers.layers)
    assert [float(row["largest"]) for row in rows] == layers.eigenvalues[:, 0].tolist()
    assert [float(row["largest_stderr"]) for row in rows] == layers.stderr[:, 0].tolist()
    assert "+-" not in found


def test_a_terminal_shows_every_cell_as_it_is() -> None:
    table = Table("a [red]title", ("name", "value"), ((Cell("[bold]x"), Cell(":smile: [/]")),))
    for text in ("a [red]title", "[bold]x", ":smile: [/]", "value"):
        assert text in drawn(table)
    assert "value" not in drawn(pairs_table("t", {"a": "b"}))


# -- what is told of each kind ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_begins_with_what_was_measured_and_ends_with_its_provenance(kind: str) -> None:
    found = list(tables(kind).values())
    assert found[0].title == "the title"
    assert found[0].pairs
    assert [table.title for table in found[-2:]] == ["left out, because they failed", "provenance"]
    assert {row[0].text: row[1].text for row in found[-1].rows}["libraries"] == "torch 2.0"
    assert all(len(row) == len(table.columns) for table in found for row in table.rows)


def test_surface() -> None:
    surface = KINDS["surface"]("whole")
    found = tables("surface")
    lowest, highest, middle = found["values +- standard error"].rows[:3]
    assert lowest[1:5] == (
        Cell("minimum"), Cell("0.25 +- 0.0025", 0.25, 0.0025), Cell("-1", -1.0), Cell("0", 0.0)
    )  # fmt: skip
    assert (highest[2].value, highest[3].value, highest[4].value) == (4.0, 1.0, 2.0)
    assert (middle[1].text, middle[2].value) == ("nearest to centre", surface.values["loss"][0, 1])
    rows = list(csv.DictReader(io.StringIO(found["values +- standard error"].to_csv())))
    assert [(row["quantity"], row["place"], float(row["x"])) for row in rows[:2]] == [
        ("loss", "minimum", -1.0), ("loss", "maximum", 1.0)
    ]  # fmt: skip
    assert [cell.value for cell in column(found["axes"], "length of its direction")] == [3.0, 4.0]
    assert ("cosines", "xy 0.125") in [(a.text, b.text) for a, b in found["plane"].rows]
    assert [cell.value for cell in column(found["points on the plane"], "distance")] == [0.0, 2.0]
    where = column(found["left out, because they failed"], "where")
    assert where[0].text == "x = -0.25, y = 0"
    assert column(found["left out, because they failed"], "reason")[0].text == "ValueError: no such <luck>"


def test_tables_of_a_trajectory_keep_words_whole_in_a_narrow_terminal() -> None:
    surface = KINDS["surface"]("whole")
    places = np.array([[-12.345678, 0.0012345678], [1.2345678e-5, 3.0]])
    names = ("step-00000100", "step-00000200")
    points = replace(surface.points, kind="trajectory", labels=names, coordinates=places)
    found = {table.title: table for table in result_tables(replace(surface, points=points), "t")}
    shown = [table for title, table in found.items() if "trajectory" in title or "values" in title]
    assert len(shown) == 3
    for table in shown:
        words = set(drawn(table, 80).split())
        assert all(set(cell.text.split()) <= words for row in table.rows for cell in row)
        assert all(set(heading.split()) <= words for heading in table.columns)
    assert [cell.value for cell in column(found["trajectory on the plane: accuracy"], "accuracy itself")] == [0.25, 4.0]


def test_a_standard_error_below_rounding_is_shown_as_none() -> None:
    surface = KINDS["surface"]("whole")
    surface.stderr["loss"][...] = 1e-16 * surface.values["loss"]
    tables = {table.title: table for table in result_tables(surface, "t")}
    assert tables["values +- standard error"].rows[0][2] == Cell("0.25 +- 0", 0.25, 0.0)
    assert settled(1e-12, 1.0) == 1e-12
    assert settled(0.5, np.inf) == 0.5


def test_spectrum() -> None:
    spectrum = KINDS["spectrum"]("whole")
    found = tables("spectrum")
    heading = "eigenvalue +- standard error"
    assert [cell.value for cell in column(found["largest eigenvalues"], heading)] == spectrum.eigenvalues.tolist()
    corrected = [cell.value for cell in column(found["largest eigenvalues"], "corrected for bias")]
    assert corrected == (spectrum.eigenvalues - spectrum.largest.bias).tolist()
    trace = {row[0].text: row[1] for row in found["trace"].rows}
    assert (trace["value"].value, trace["value"].stderr) == (4.0, 0.5)
    assert trace["error from probes"].text.startswith("none: exact")
    assert column(found["trace by layer"], "trace +- standard error")[0].stderr == 0.25
    assert {"density", "smallest eigenvalues"} <= found.keys()


def test_path_and_sweep_and_agreement() -> None:
    path, sweep, alike = (KINDS[kind]("whole") for kind in ("path", "connectivity", "agreement"))
    about = {row[0].text: row[1].value for row in tables("path")["the title"].rows}
    assert (about["barrier of the loss"], about["mode connectivity"]) == (path.barrier, path.mc)
    ends = column(tables("path")["values +- standard error"], "t = 1")
    assert (ends[0].value, ends[0].stderr) == (path.values["loss"][-1], path.stderr["loss"][-1])
    barriers = [cell.value for cell in column(tables("connectivity")["pairs"], "line barrier")]
    assert barriers == sweep.numbers["line_barrier"].tolist()
    cka = column(tables("agreement")["pairs, value +- standard error"], "cka")
    assert [(cell.value, cell.stderr) for cell in cka] == list(
        zip(alike.values["cka"], alike.stderr["cka"], strict=True)
    )
    assert all(cell.stderr is None for cell in column(tables("agreement")["pairs, value +- standard error"], "l2"))


def test_a_long_history_is_thinned_and_keeps_its_ends() -> None:
    losses = np.arange(1000.0)
    curve = ls.Curve("bezier", KINDS["curve"]("whole").control_points, {}, {"loss": losses})
    table = list(result_tables(curve, "t"))[1]
    epochs = [cell.value for cell in column(table, "epoch")]
    assert len(epochs) < 30
    assert (epochs[0], epochs[-1]) == (1, 1000)
    assert [cell.value for cell in column(table, "loss")] == [epoch - 1 for epoch in epochs if epoch is not None]


@pytest.mark.parametrize(("kind", "case"), EVERY)
def test_anything_can_be_told_and_drawn(kind: str, case: str) -> None:
    found = tables(kind, case)
    for table in found.values():
        assert table.title in " ".join(drawn(table, 200).split())
        assert table.to_csv().count("\n") >= len(table.rows) + 1
    if case == "masked":
        words = " ".join(cell.text for table in found.values() for row in table.rows for cell in row)
        assert "not computed" in words or kind not in ("surface", "layer_spectra")
        assert "0 of 12 computed" in words or kind != "surface"
        assert "3, 0 computed" in words or kind != "connectivity"


# -- pandas and xarray -----------------------------------------------------------------------------------------------


def test_a_surface_has_a_row_for_each_point_with_x_fastest() -> None:
    surface = KINDS["surface"]("whole")
    frame = surface.to_pandas()
    assert list(frame.columns) == ["x", "y", "loss", "loss_stderr", "accuracy", "accuracy_stderr", "computed"]
    assert len(frame) == 12
    for row in (1, 4, 11):
        i, j = row % 4, row // 4
        assert frame["x"][row] == surface.x[i]
        assert frame["y"][row] == surface.y[j]
        assert frame["loss"][row] == surface.values["loss"][j, i]
        assert frame["accuracy_stderr"][row] == surface.stderr["accuracy"][j, i]
    points = surface.points.to_pandas()
    assert points["label"].tolist() == ["a", "b"]
    assert points[["x", "y"]].to_numpy().tolist() == surface.points.coordinates.tolist()
    assert points["loss_true"].tolist() == surface.points.true["loss"].tolist()


def test_a_surface_of_three_axes_has_its_coordinates_in_rows() -> None:
    axes = {"x": np.array([0.0, 1.0]), "y": np.array([0.0, 10.0, 20.0]), "z": np.array([0.0, 100.0])}
    loss = axes["x"] + axes["y"][:, None] + axes["z"][:, None, None]
    frame = ls.Surface(axes, {"loss": loss}, {"loss": loss}, np.ones(loss.shape, dtype=bool)).to_pandas()
    assert len(frame) == 12
    assert (frame["x"] + frame["y"] + frame["z"]).tolist() == frame["loss"].tolist()


def test_eigenpairs_layers_and_places_are_rows() -> None:
    spectrum, layers, path = (KINDS[kind]("whole") for kind in ("spectrum", "layer_spectra", "path"))
    frame = spectrum.to_pandas()
    assert list(frame.columns) == ["end", "index", "value", "stderr", "bias", "residual", "rounding", "converged"]
    assert frame["end"].tolist() == ["largest"] * 3 + ["smallest"]
    assert frame["index"].tolist() == [0, 1, 2, 0]
    assert frame["value"].tolist() == [*spectrum.largest.values, *spectrum.smallest.values]
    assert frame["bias"].tolist() == [*spectrum.largest.bias, *spectrum.smallest.bias]
    assert frame["converged"].dtype == bool
    frame = layers.to_pandas().set_index("layer")
    assert frame.loc["fc1", "eigenvalue_1"] == layers.eigenvalues[1, 1]
    assert frame.loc["fc2", "trace_stderr"] == layers.trace_stderr[2]
    frame = path.to_pandas().set_index("t")
    assert frame.loc[0.25, "loss"] == path.values["loss"][1]
    assert frame.loc[1.0, "loss_statistics_stderr"] == path.statistics_stderr["loss"][-1]


def test_pairs_are_rows_with_the_names_of_their_models() -> None:
    sweep, alike = KINDS["connectivity"]("whole"), KINDS["agreement"]("whole")
    for table in (sweep.to_pandas(), alike.to_pandas()):
        assert table[["first", "second"]].to_numpy().tolist() == [["a", "b"], ["a", "c"], ["b", "c"]]
    assert sweep.to_pandas()["curve_barrier"].tolist() == sweep.numbers["curve_barrier"].tolist()
    assert alike.to_pandas()["cka_stderr"].tolist() == alike.stderr["cka"].tolist()
    assert "l2_stderr" not in alike.to_pandas()


def test_a_curve_is_a_dataset() -> None:
    curve = KINDS["curve"]("whole")
    dataset = curve.to_xarray()
    assert dataset["control_points"].dims == ("control_point", "parameter")
    assert dataset["history_loss"].to_numpy().tolist() == curve.history["loss"].tolist()
    assert (dataset.attrs["kind"], dataset.attrs["host"]) == ("bezier", "node7")


@pytest.mark.parametrize(("kind", "case"), EVERY)
def test_anything_becomes_tables_and_datasets(kind: str, case: str) -> None:
    result = KINDS[kind](case)
    assert repr(result).startswith(type(result).__name__)
    if kind != "topology":  # which is made of a surface, and has no arrays of its own
        assert result.to_xarray().attrs["host"] == "node7"
    rows = {len(column) for column in kind_of(result).columns(result).values()}
    assert {len(result.to_pandas())} == rows
