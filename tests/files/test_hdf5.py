"""Result files read by h5py, xarray and netCDF4, none of which knows this package; and files that are refused."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import shlex
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import netCDF4
import numpy as np
import pytest
import torch
import xarray

import landscape as ls
from landscape.errors import InputError, StoreError
from landscape.files import hdf5, schema
from landscape.opening.opening import open_result
from landscape.studies.surface.result import Points, Surface

JOB = "# ein großer Auftrag 面\n" + "seed = 1\n" * 20_000  # more than the 64 KiB of an HDF5 object header


def example(sizes: tuple[int, ...] = (5, 3)) -> Surface:
    """loss = 100 x + y, one NaN, one Inf, one point missing."""
    axes = {name: np.linspace(-1, 1, n) + i for i, (name, n) in enumerate(zip("xyzuvw", sizes, strict=False))}
    mesh = np.meshgrid(*reversed(axes.values()), indexing="ij")[::-1]
    loss = np.asarray(sum(100.0 / 100**i * m for i, m in enumerate(mesh)))
    computed = np.ones(loss.shape, dtype=bool)
    loss.flat[1], loss.flat[2], loss.flat[3], computed.flat[3] = np.nan, np.inf, np.nan, False
    m, k = 3, len(sizes)
    points = Points(
        "trajectory",
        ("start", "größer", "end 面"),
        np.arange(m * k, dtype=float).reshape(m, k),
        np.array([0.0, 0.5, np.nan]),
        {"loss": np.array([1.0, 2.0, np.inf])},
        {"loss": np.array([1.5, 2.5, 3.5])},
        np.linspace(0.9, 0.1, k),
    )
    attributes = {"job": JOB, "attempts": [{"host": "a"}], "seed": 3, "flag": True, "gpu": "", "nothing": None}
    attributes |= {f"number_{i}": i / 7 for i in range(20)}
    return Surface(axes, {"loss": loss}, {"loss": np.abs(loss) / 10}, computed, points, attributes)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return example().save(tmp_path / "a folder, größer" / "surface.h5")


def test_h5py(path: Path) -> None:
    with h5py.File(path) as file:
        loss = file["surface/loss"]
        assert loss.shape == (3, 5)
        assert [dim[0].name for dim in loss.dims] == ["/surface/y", "/surface/x"]
        assert file["surface/x"].is_scale
        np.testing.assert_array_equal(loss[2, 4], 100 * file["surface/x"][4] + file["surface/y"][2])
        assert np.isnan(loss[0, 1])
        assert np.isposinf(loss[0, 2])
        assert file["surface/computed"][0].tolist() == [1, 1, 1, 0, 1]
        assert file["surface/points/label"].asstr()[:].tolist() == ["start", "größer", "end 面"]
        assert file.attrs["job"] == JOB
        assert file.attrs["schema_version"] == schema.SCHEMA_VERSION
        assert loss.attrs["units"] == "1"
        assert "loss" in loss.attrs["long_name"]


@pytest.mark.parametrize("engine", ["h5netcdf", "netcdf4"])
def test_xarray(engine: Any, path: Path) -> None:
    with xarray.open_dataset(path, group="surface", engine=engine) as data:
        assert data["loss"].dims == ("y", "x")
        assert data["loss"].shape == (3, 5)
        assert float(data["loss"].sel(x=0.5, y=2.0)) == 52.0
        assert data["computed"].dtype == bool
        assert data["computed"].values.sum() == 14
        assert np.isnan(data["loss"].values[0, [1, 3]]).all()
        assert float(data["loss"][0, 2]) == np.inf
        assert data.coords["x"].attrs["units"] == "1"
    with xarray.open_datatree(path, engine=engine) as tree:
        points = tree["surface/points"]
        assert points["loss_true"].dims == ("point",)
        assert points["label"].values.tolist() == ["start", "größer", "end 面"]
        assert points["y_coordinate"].values.tolist() == [1, 3, 5]
        assert float(tree["surface/loss"].sel(x=-1, y=2)) == -98.0
        assert tree.attrs["job"] == JOB
        assert len(tree.attrs) > 8


def test_netcdf4(path: Path) -> None:
    with netCDF4.Dataset(path) as file:
        group = file["surface"]
        assert group["loss"].dimensions == ("y", "x")
        assert {name: len(d) for name, d in group.dimensions.items()} == {"x": 5, "y": 3}
        assert group["loss"][2, 4] == 100 * group["x"][4] + group["y"][2]
        assert group["points/label"][:].tolist() == ["start", "größer", "end 面"]
        attributes = file.__dict__
        assert attributes["job"] == JOB
        assert attributes["flag"] == 1  # an HDF5 boolean would not be seen here
        assert json.loads(attributes["attempts"]) == [{"host": "a"}]
        assert set(example().attributes) <= set(attributes)


@pytest.mark.parametrize("sizes", [(4,), (5, 3), (4, 4), (2, 3, 4), (2, 3, 4, 5)])
def test_read_equals_written(sizes: tuple[int, ...], tmp_path: Path) -> None:
    surface = example(sizes)
    again = ls.open(surface.save(tmp_path / "a.h5"))
    assert list(again.axes) == list(surface.axes)
    for name, values in surface.axes.items():
        np.testing.assert_array_equal(again.axes[name], values)
    np.testing.assert_array_equal(again.values["loss"], surface.values["loss"])
    np.testing.assert_array_equal(again.stderr["loss"], surface.stderr["loss"])
    np.testing.assert_array_equal(again.computed, surface.computed)
    assert again.computed.dtype == bool
    assert again.points is not None
    assert surface.points is not None
    assert again.points.labels == surface.points.labels
    np.testing.assert_array_equal(again.points.coordinates, surface.points.coordinates)
    np.testing.assert_array_equal(again.points.distance, surface.points.distance)
    np.testing.assert_array_equal(again.points.true["loss"], surface.points.true["loss"])
    assert again.attributes["seed"] == 3
    assert again.attributes["job"] == JOB


def test_to_xarray_is_what_the_file_holds(path: Path) -> None:
    with xarray.open_dataset(path, group="surface") as stored:
        made = example().to_xarray()
        assert set(made.variables) == set(stored.variables)
        xarray.testing.assert_equal(made, stored.load())


def test_a_file_tells_where_it_came_from(tmp_path: Path) -> None:
    """Every attribute DESIGN section 5 asks for, in a run folder's result and in a surface saved from memory."""
    model = torch.nn.Linear(3, 2)
    objective = ls.Objective(model, "cross_entropy", (torch.randn(9, 3), torch.randint(2, (9,))))
    plane = ls.random_plane(objective, seed=5)
    before = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    for out in (tmp_path / "run", None):
        surface = ls.measure_surface(objective, plane, x=(-1, 1, 3), y=(-1, 1, 2), out=out, job=JOB)
        path = surface.save(tmp_path / "memory.h5") if out is None else out / "landscape.h5"
        with h5py.File(path) as file:
            stored = dict(file.attrs)
        assert stored["schema_version"] == 1
        assert stored["engine_version"] == importlib.metadata.version("loss-landscape-engine")
        assert stored["job"] == JOB
        assert stored["seed"] == 5
        assert stored["normalize"] == "filter"
        assert (stored["precision"], stored["device"]) == ("float32", str(objective.device))
        assert stored["host"] == socket.gethostname()
        assert stored["ranks"] == 1
        assert stored["batchnorm"] == "frozen"
        assert json.loads(stored["libraries"])["torch"] == importlib.metadata.version("torch")
        assert "git" in stored
        assert stored["command"] == shlex.join(sys.argv)
        started, ended = (datetime.datetime.fromisoformat(stored[name]) for name in ("started", "ended"))
        assert before <= started <= ended <= datetime.datetime.now(datetime.UTC)
        assert stored["checkpoint_hash"] == objective.identity()["centre"]
        assert stored["data_hash"] == objective.identity()["data"]
        assert json.loads(stored["attempts"])[0]["computed"] == 6
        assert json.loads(stored["plane"])["kind"] == "random"
        assert "exact for the data given" in stored["error"]
    other = ls.Objective(model, "cross_entropy", (torch.randn(9, 3), torch.randint(2, (9,))))
    assert other.identity()["data"] != stored["data_hash"]


# -- refused ------------------------------------------------------------------------------------------------------


def test_newer_schema(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["schema_version"] = 99
    with pytest.raises(StoreError, match=r"surface\.h5 has schema version 99, this version reads up to 1; update"):
        ls.open(path)


def test_not_ours(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["data"] = np.arange(3)
    with pytest.raises(StoreError, match="not a result file of this engine"):
        ls.open(tmp_path / "other.h5")
    (tmp_path / "text.h5").write_text("not HDF5")
    with pytest.raises(StoreError, match=r"cannot read .*text\.h5 as HDF5"):
        ls.open(tmp_path / "text.h5")


def test_group_that_misses_a_variable(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["surface/loss_stderr"]
    with pytest.raises(StoreError, match="misses 'loss_stderr'"):
        ls.open(path)
    with h5py.File(path, "r+") as file:
        file.move("surface", "plain")
    with pytest.raises(StoreError, match="holds no group 'surface', but plain"):
        ls.open(path)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.9, 0.999])
def test_truncated_file(share: float, path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(StoreError, match=r"surface\.h5.* truncated"):
        ls.open(path)


def test_older_file_survives_a_failed_write(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def fail(handle: int) -> None:
        raise OSError("the disk is broken")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreError, match=r"cannot write .*surface\.h5: the disk is broken.*finished rows are kept"):
        replace(example(), attributes={}).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["surface.h5"]


def test_dimensions_must_agree(tmp_path: Path) -> None:
    tree = hdf5.Group({"a": hdf5.Variable(("x",), np.arange(3)), "b": hdf5.Variable(("x",), np.arange(4))})
    with pytest.raises(ValueError, match="variable b: dimension x has size 4, elsewhere 3"):
        hdf5.write(tmp_path / "a.h5", tree)
    assert not list(tmp_path.iterdir())


def test_plain_dataset_and_scalars(tmp_path: Path) -> None:
    tree = hdf5.Group(
        {
            "plain": hdf5.Variable(None, np.arange(6).reshape(2, 3)),
            "text": hdf5.Variable(None, np.array("größer", dtype=object)),
            "mask": hdf5.Variable(("n",), np.array([True, False])),
        }
    )
    again = hdf5.read(hdf5.write(tmp_path / "a.h5", tree)).variables
    assert again["plain"].dims is None
    np.testing.assert_array_equal(again["plain"].data, tree.variables["plain"].data)
    assert str(again["text"].data) == "größer"
    assert (again["mask"].dims, again["mask"].data.tolist()) == (("n",), [True, False])


# -- edited by other programs -------------------------------------------------------------------------------------


def every_kind_of_variable() -> hdf5.Group:
    """Coordinates, dimensions without, texts, truths, scalars, empty ones, plain ones, many attributes, groups."""
    many = {f"note {i}": f"größer {i}" for i in range(40)}
    variables = {
        "wide": hdf5.Variable(("z", "a"), np.arange(6.0).reshape(3, 2), many),
        "a": hdf5.Variable(("a",), np.array(["one", "größer"], dtype=object)),
        "mask": hdf5.Variable(("z",), np.array([True, False, True]), {"flag": True}),
        "number": hdf5.Variable((), np.array(3.5)),
        "text": hdf5.Variable((), np.array("größer", dtype=object)),
        "none": hdf5.Variable(("none",), np.empty(0)),
        "plain": hdf5.Variable(None, np.arange(4)),
        "c": hdf5.Variable(("z", "a", "z"), np.ones((3, 2, 3), dtype=np.int64)),
    }
    inner = hdf5.Group({"b": hdf5.Variable(("b",), np.arange(2.0))}, many, {"empty": hdf5.Group()})
    return hdf5.Group(variables, many, {"zz": inner, "aa": hdf5.Group(variables)})


def assert_same(before: hdf5.Group, after: hdf5.Group) -> None:
    """What was there is there as it was."""
    assert before.attributes.keys() <= after.attributes.keys()
    for name, variable in before.variables.items():
        np.testing.assert_array_equal(after.variables[name].data, variable.data)
        assert after.variables[name].dims == variable.dims
    for name, group in before.groups.items():
        assert_same(group, after.groups[name])


def written(folder: Path) -> dict[str, Path]:
    """A file of each writer."""
    surface = replace(example(), attributes={"seed": 1})
    one, two = surface.save(folder / "b.h5"), example().save(folder / "a.h5")
    return {
        "tree": hdf5.write(folder / "tree.h5", every_kind_of_variable()),
        "result": two,
        "merged": ls.merge_runs({"b": one, "a": two}, folder / "m.h5"),
        "exported": ls.write_loss_landscape_surface(folder / "l.h5", surface),
    }


@pytest.mark.parametrize("which", ["tree", "result", "merged", "exported"])
def test_the_netcdf_library_edits_a_file(which: str, tmp_path: Path) -> None:
    path = written(tmp_path)[which]
    before = hdf5.read(path)
    with netCDF4.Dataset(path, "a") as file:
        file.setncattr("comment", "edited")
        file.createDimension("added", 2)
        file.createVariable("added", "f8", ("added",))[:] = [1.5, 2.5]
        for group in file.groups.values():
            group.setncattr("comment", "edited")
    after = hdf5.read(path)
    assert after.attributes["comment"] == "edited"
    assert after.variables["added"].data.tolist() == [1.5, 2.5]
    assert_same(before, after)


def test_xarray_adds_to_a_file(path: Path) -> None:
    xarray.Dataset({"mine": ("n", [1.0, 2.0])}).to_netcdf(path, mode="a", group="notes", engine="netcdf4")
    assert ls.open(path).values["loss"].shape == (3, 5)
    assert xarray.open_dataset(path, group="notes")["mine"].values.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("which", ["tree", "merged", "exported"])
def test_order_of_creation_is_tracked_everywhere_and_times_nowhere(which: str, tmp_path: Path) -> None:
    """And every array has its checksum, as it had; equal content is equal bytes."""
    path = written(tmp_path)[which]
    with h5py.File(path) as file:
        found = [file["/"]]
        file.visititems(lambda _, item: found.append(item))
        for item in found:
            properties = item.id.get_create_plist()
            assert properties.get_attr_creation_order() != 0, item.name
            assert not properties.get_obj_track_times(), item.name
            if isinstance(item, h5py.Group):
                assert properties.get_link_creation_order() != 0, item.name
            elif item.ndim and item.size and not h5py.check_string_dtype(item.dtype) and item.dtype != ">f4":
                assert item.fletcher32, item.name
    (tmp_path / "again").mkdir()
    time.sleep(1.1)  # HDF5 notes whole seconds
    assert written(tmp_path / "again")[which].read_bytes() == path.read_bytes()


def test_names_are_read_in_the_order_of_files_of_before(tmp_path: Path) -> None:
    tree = hdf5.read(hdf5.write(tmp_path / "tree.h5", every_kind_of_variable()))
    assert list(tree.variables) == sorted(tree.variables)
    assert list(tree.groups) == ["aa", "zz"]
    assert list(tree.attributes) == sorted(tree.attributes)


# -- several runs in one file -------------------------------------------------------------------------------------


def test_merged_runs(tmp_path: Path) -> None:
    objective = ls.Objective(torch.nn.Linear(3, 2), "cross_entropy", (torch.randn(9, 3), torch.randint(2, (9,))))
    folders = {}
    for seed, limit in ((0, None), (1, 3)):
        folders[f"seed{seed}"] = tmp_path / f"run {seed}"
        ls.measure_surface(
            objective, ls.random_plane(objective, seed=seed), x=(-1, 1, 4), y=(-1, 1, 3),
            out=folders[f"seed{seed}"], limit_items=limit,
        )  # fmt: skip
    path = ls.merge_runs(folders, tmp_path / "all.h5")
    with pytest.raises(InputError, match="holds 2 runs; say which by run= or --run: seed0, seed1"):
        open_result(path)
    assert list(ls.open(path).children) == ["seed0", "seed1"]
    with pytest.raises(InputError, match="no run 'seed2'"):
        ls.open(path, run="seed2")
    for name, folder in folders.items():
        np.testing.assert_array_equal(ls.open(path, run=name).values["loss"], ls.open(folder).values["loss"])
        assert ls.open(path, run=name).attributes["seed"] == int(name[-1])
    assert ls.open(path, run="seed1").computed.sum() == 3
    with xarray.open_datatree(path) as tree:
        assert tree["seed0/surface/loss"].dims == ("y", "x")
    with pytest.raises(InputError, match="cannot be a group name"):
        ls.merge_runs({"a/b": folders["seed0"]}, tmp_path / "b.h5")


def test_a_flipped_bit_in_the_values_is_told_not_read(tmp_path: Path) -> None:
    values = np.arange(1000.0)
    path = hdf5.write(tmp_path / "a.h5", hdf5.Group({"x": hdf5.Variable(("x",), values)}))
    content = bytearray(path.read_bytes())
    place = bytes(content).index(values[500:502].tobytes())
    content[place + 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match="cannot read"):
        hdf5.read(path)
