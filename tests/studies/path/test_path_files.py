"""Paths in result files and in pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path as FilePath
from typing import Any

import h5py
import netCDF4
import numpy as np
import path_cases
import pytest
import xarray
from matplotlib.axes import Axes
from matplotlib.collections import FillBetweenPolyCollection
from matplotlib.figure import Figure

from landscape.errors import InputError, StoreError
from landscape.files import hdf5
from landscape.pictures.saving import save_figure
from landscape.run.store import Store
from landscape.studies.path.measure import path_from_rows
from landscape.studies.path.pictures import plot_paths
from landscape.studies.path.result import DEFINITIONS, Path
from landscape.studies.path.schema import read_path

ATTRIBUTES: dict[str, Any] = {"curve_kind": "bezier", "seed": 3, "attempts": [{"host": "a"}], "job": "größer\n" * 9}


def example(places: int = 9, *, bend: float = 0.5, errors: bool = True, **changes: Any) -> Path:
    """A bump of the loss on uneven places."""
    t = np.linspace(0, 1, places) ** 2
    loss = 0.5 + 0.25 * t + bend * np.sin(np.pi * t) ** 2
    values = {"loss": loss, "test_loss": 1.1 * loss}
    if errors:
        values |= {"error": 0.2 + 0.1 * loss, "test_error": 0.25 + 0.1 * loss}
    stderr = dict.fromkeys(values, 0.01 + 0.001 * t)
    statistics = {"loss": np.where(np.arange(places) == places // 2, 0.002, np.nan)}
    path = Path(t, values, stderr, 12.5 * t, 12.5, 10.0, np.ones(places, dtype=bool), statistics, {**ATTRIBUTES})
    return replace(path, **changes)


def partial() -> Path:
    """NaN at one place, Inf at another, three not computed, of these two beside each other."""
    path = example()
    computed = ~np.isin(np.arange(9), [2, 6, 7])
    values = {name: np.where(computed, v, np.nan) for name, v in path.values.items()}
    values["loss"][[3, 5]] = np.nan, np.inf
    return replace(path, values=values, computed=computed)


PATHS = {
    "all": example(),
    "partial": partial(),
    "loss alone": example(errors=False, statistics_stderr={}),
    "two places": example(2),
    "nothing computed": example(computed=np.zeros(9, dtype=bool)),
}


def read(file: FilePath) -> Path:
    return read_path(hdf5.read(file), file)


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PATHS)
def test_path_read_equals_written(name: str, tmp_path: FilePath) -> None:
    expected = PATHS[name]
    found = read(expected.save(tmp_path / "new folder" / "a.h5"))
    for field in fields(Path):
        a, b = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(b, np.ndarray):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b, field.name)
        elif b is None or field.name in ("length", "distance"):
            assert a == b
        elif field.name == "attributes":
            assert {key: value for key, value in a.items() if key != "engine_version"} == dict(b)
        else:
            assert list(a) == list(b)
            for quantity in b:
                np.testing.assert_array_equal(a[quantity], b[quantity])
    assert repr(found) == repr(expected)


def test_a_file_written_again_is_the_same(tmp_path: FilePath) -> None:
    """What follows from the arrays is not taken for an attribute of the result."""
    first = read(example().save(tmp_path / "a.h5"))
    second = read(first.save(tmp_path / "b.h5"))
    assert second.attributes == first.attributes
    assert not {"mc", "barrier", "mean_loss", "mc_definition"} & set(first.attributes)


@pytest.mark.parametrize("engine", ["h5netcdf", "netcdf4"])
def test_xarray_reads_paths(engine: Any, tmp_path: FilePath) -> None:
    file, path = partial().save(tmp_path / "a.h5"), partial()
    with xarray.open_dataset(file, group="path", engine=engine) as data:
        assert data["loss"].dims == ("t",)
        np.testing.assert_array_equal(data["t"], path.t)
        np.testing.assert_array_equal(data["loss"], path.values["loss"])
        assert data["computed"].dtype == bool
        assert float(data["error"].sel(t=path.t[4])) == path.values["error"][4]
    made = example().to_xarray()
    with xarray.open_datatree(example().save(tmp_path / "b.h5"), engine=engine) as tree:
        assert json.loads(tree.attrs["attempts"]) == [{"host": "a"}]
        stored = tree["path"].to_dataset()
        xarray.testing.assert_equal(stored.load(), made)
        for name in ("mc", "barrier", "length"):
            assert stored.attrs[name] == made.attrs[name] == getattr(example(), name)


def test_numbers_stand_in_the_file_with_their_definitions(tmp_path: FilePath) -> None:
    path = example()
    with netCDF4.Dataset(path.save(tmp_path / "a.h5")) as file:
        group = file["path"]
        assert group.mc == path.mc == 100 * path.mc_of("error")
        assert group.mc_quantity == "error in per cent"
        assert group.mc_loss == path.mc_of("loss")
        assert group.barrier == path.barrier
        assert group.barrier_test_loss == path.barrier_of("test_loss")
        assert group.mean_error == path.mean["error"]
        assert group.maximum_loss == path.maximum["loss"].value == path.values["loss"].max()
        assert group.maximum_loss_t == path.t[path.values["loss"].argmax()]
        assert group.minimum_loss == path.values["loss"].min()
        assert group.length == 12.5
        assert group.distance == 10.0
        for name in DEFINITIONS:
            assert getattr(group, f"{name}_definition") == DEFINITIONS[name]
        assert "depends on the grid of t" in group.mc_definition
        assert "above 0 is a barrier" in group.barrier_definition
        assert file.curve_kind == "bezier"


def test_every_variable_says_what_it_is(tmp_path: FilePath) -> None:
    with h5py.File(example().save(tmp_path / "a.h5")) as file:
        variables = dict(file["path"].items())
        assert set(variables) >= {"t", "arc", "computed", "loss", "loss_stderr", "loss_statistics_stderr", "test_error"}
        for name, variable in variables.items():
            assert len(variable.attrs["long_name"]) > 10, name
            assert variable.attrs["units"] == "1", name


def test_damaged_and_foreign_files_are_refused(tmp_path: FilePath) -> None:
    file = example().save(tmp_path / "a.h5")
    with h5py.File(file, "r+") as content:
        del content["path/arc"]
    with pytest.raises(StoreError, match="misses 'arc'"):
        read(file)
    with h5py.File(file, "r+") as content:
        content.move("path", "other")
    with pytest.raises(StoreError, match="no group 'path', but other"):
        read(file)


def test_run_folder_and_file_hold_the_same_path(tmp_path: FilePath) -> None:
    path = path_cases.path(out=tmp_path, job="text of the job")
    from_file = read(tmp_path / "landscape.h5")
    store = Store.open(tmp_path)
    from_rows = path_from_rows(store.description(), store.rows(), store.history())
    for found in (from_file, from_rows):
        for name, values in path.values.items():
            np.testing.assert_array_equal(found.values[name], values)
            np.testing.assert_array_equal(found.stderr[name], path.stderr[name])
            np.testing.assert_array_equal(found.statistics_stderr[name], path.statistics_stderr[name])
        np.testing.assert_array_equal(found.arc, path.arc)
        assert found.mc == path.mc
        assert found.attributes["batchnorm"] == "reestimated"
        assert found.attributes["statistics_samples"] == 203
        assert found.attributes["curve_kind"] == "polychain"
        assert found.attributes["job"] == "text of the job"
        assert found.attributes["tol"] == 1e-4
        assert found.attributes["attempts"][0]["host"] == found.attributes["host"]


def test_partial_folder_opens_at_any_time(tmp_path: FilePath) -> None:
    """After every few rows: none, some of a round, a whole round that the next does not stand in yet."""
    seen = []
    for limit in (0, 2, 5, 1, 1, 1):
        path_cases.path(out=tmp_path, limit_items=limit)
        store = Store.open(tmp_path)
        path = path_from_rows(store.description(), store.rows(), store.history())
        seen.append((int(path.computed.sum()), len(path.t)))
        assert np.isnan(path.values["loss"][~path.computed]).all()
        assert np.isfinite(path.values["loss"][path.computed]).all()
        assert (np.diff(path.t) > 0).all()
    assert [done for done, _ in seen] == [0, 2, 7, 8, 9, 10]
    assert seen[1][1] == 7 < seen[2][1]


# -- pictures ---------------------------------------------------------------------------------------------------------


def lines(ax: Axes, label: str) -> list[np.ndarray]:
    return [np.asarray(line.get_xydata()) for line in ax.lines if line.get_label() == label]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for box in figure.legends for text in box.get_texts()]


def texts(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts if text.get_text()]


def test_picture_shows_loss_and_error_with_bands_ends_and_barrier() -> None:
    path = example()
    figure = path.plot()
    loss, error = figure.axes
    assert (loss.get_ylabel(), error.get_ylabel()) == ("loss per sample", "error")
    np.testing.assert_allclose(lines(loss, "loss")[0], np.stack([path.t, path.values["loss"]], 1))
    np.testing.assert_allclose(lines(loss, "test data")[0], np.stack([path.t, path.values["test_loss"]], 1))
    np.testing.assert_allclose(lines(error, "error")[0][:, 1], 100 * path.values["error"])
    np.testing.assert_allclose(lines(loss, "ends")[0], [[0, path.values["loss"][0]], [1, path.values["loss"][-1]]])
    np.testing.assert_allclose(lines(loss, "line between the ends")[0][:, 1], 0.5 + 0.25 * path.t)
    (band, _) = [c for c in loss.collections if isinstance(c, FillBetweenPolyCollection)]
    heights = band.get_paths()[0].vertices
    middle = heights[np.isclose(heights[:, 0], path.t[4])][:, 1]
    expected = path.values["loss"][4] + 2 * path.stderr["loss"][4] * np.array([-1, 1])
    np.testing.assert_allclose(sorted(set(middle)), expected)
    assert texts(loss) == [f"barrier {path.barrier:.3g}"]
    assert f"barrier {path.barrier:.3g}, mc {path.mc:.3g} (error in per cent), length 12.5" in figure.get_supxlabel()
    assert legend(figure)[:2] == ["loss", "test data"]


def test_two_paths_in_one_picture() -> None:
    line, curve = example(length=10.0, bend=2.0), example(bend=0.01)
    figure = plot_paths([line, curve])
    assert legend(figure)[:4] == ["straight line", "straight line, test data", "bezier", "bezier, test data"]
    assert len(texts(figure.axes[0])) == 1  # the lower barrier is too small for an arrow, but told below
    assert f"bezier: barrier {curve.barrier:.3g}" in figure.get_supxlabel()
    figure = plot_paths([line, curve], ["a", "b"], quantities=["loss"], against="arc")
    (ax,) = figure.axes
    np.testing.assert_allclose(lines(ax, "b")[0][:, 0], curve.arc)
    assert ax.get_xlabel() == "arc length in parameter units"


def test_missing_and_nonfinite_places_are_marked_and_counted() -> None:
    figure = partial().plot()
    assert "1 NaN, 1 Inf, 3 not computed of 9 places" in figure.get_supxlabel()
    assert "barrier nan" in figure.get_supxlabel()
    crosses = [x for points in lines(figure.axes[0], "NaN or Inf") for x in points[:, 0]]
    np.testing.assert_allclose(sorted(crosses), partial().t[[3, 5]])
    assert not texts(figure.axes[0])


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_every_path_can_be_drawn(name: str, suffix: str, tmp_path: FilePath) -> None:
    for against in ("t", "arc"):
        file = save_figure(PATHS[name].plot(against=against), tmp_path / f"a.{suffix}")
        assert file.stat().st_size > 5_000


@pytest.mark.parametrize(
    ("paths", "options", "message"),
    [
        ([], {}, "no path is given"),
        ([example()], {"labels": ["a", "b"]}, "2 labels for 1 paths"),
        ([example()], {"against": "arcs"}, "against='arcs' is not known; did you mean 'arc'"),
        ([example(), example(errors=False)], {"quantities": ["error"]}, "not all paths have a quantity 'error'"),
    ],
)
def test_bad_pictures_are_refused(paths: Sequence[Path], options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plot_paths(paths, **options)
