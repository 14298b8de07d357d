"""Opening anything: one result, the folder of a sweep or a merged file as a tree; and what cannot be opened."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import xarray
from landscape_jobs.cli import app
from landscape_jobs.sweeps.folder import merge_sweep
from made import EVERY, KINDS, surface
from typer.testing import CliRunner

import landscape as ls
from landscape.errors import InputError, StoreError
from landscape.files import hdf5
from landscape.opening.opening import Place, open_result
from landscape.opening.several import open_anything
from landscape.studies.surface.exchange import write_loss_landscape_surface

JOB = '[job.plane]\nnormalize = "filter"\n'

FILED = [(kind, case) for kind, case in EVERY if kind != "topology"]  # which is found again from its surface


@pytest.fixture(scope="module")
def objective() -> ls.Objective:
    torch.manual_seed(0)
    return ls.Objective(torch.nn.Linear(3, 2), "cross_entropy", (torch.randn(9, 3), torch.randint(2, (9,))))


@pytest.fixture
def sweep(objective: ls.Objective, tmp_path: Path) -> Path:
    """The folder of a sweep: a cell that is complete, one that is partial, one that failed, one that has not begun."""
    folder = tmp_path / "sweep"
    cells = []
    for seed, limit in ((0, None), (1, 2), (2, 0), (3, 0)):
        home = folder / f"seed={seed}-{seed:012d}"
        if limit != 0:
            plane = ls.random_plane(objective, seed=seed)
            ls.measure_surface(objective, plane, x=(-1, 1, 3), y=(-1, 1, 2), out=home, limit_items=limit)
        changes = {"plane.seed": seed, "surface.x": [-1, 1, 3]}
        cells.append(
            {"number": seed, "label": f"seed={seed}", "changes": changes, "folder": home.name, "text": home.name}
        )
    failed = folder / cells[2]["folder"]
    failed.mkdir()
    (failed / "failure.json").write_text(json.dumps({"reason": "no such width"}))
    (folder / "sweep.json").write_text(
        json.dumps({"format": 1, "written": time.time(), "sweep": JOB, "cells": cells}),
    )
    return folder


@pytest.fixture
def merged(sweep: Path, tmp_path: Path) -> Path:
    folders = dict(zip("ab", sorted(sweep.glob("seed=[01]-*")), strict=True))
    return ls.merge_runs(folders, tmp_path / "merged.h5")


# -- one result ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "case"), FILED)
def test_anything_saved_is_opened_as_it_was(kind: str, case: str, tmp_path: Path) -> None:
    result = KINDS[kind](case)
    again = open_anything(result.save(tmp_path / "new" / "a.h5"))
    assert type(again) is type(result)
    assert repr(again) == repr(result)
    assert again.attributes["failures"] == result.attributes["failures"]
    found, expected = again.to_xarray(), result.to_xarray()
    assert set(found.variables) == set(expected.variables)
    for name in expected.variables:
        np.testing.assert_array_equal(found[name].to_numpy(), expected[name].to_numpy())


def test_a_run_that_is_not_finished_is_masked(objective: ls.Objective, tmp_path: Path) -> None:
    line = ls.random_plane(objective, axes=1)
    ls.measure_surface(objective, line, x=(-1, 1, 3), out=tmp_path / "run", limit_items=2)
    found = open_anything(tmp_path / "run")
    assert isinstance(found, ls.Surface)
    assert found.computed.tolist() == [True, True, False]
    assert np.isnan(found.values["loss"]).tolist() == [False, False, True]


def test_a_file_of_loss_landscape(tmp_path: Path) -> None:
    path = write_loss_landscape_surface(tmp_path / "theirs.h5", surface())
    found = open_anything(path)
    assert isinstance(found, ls.Surface)
    np.testing.assert_allclose(found.values["loss"], surface().values["loss"])
    assert found.attributes["origin"] == "loss-landscape"


# -- several runs ----------------------------------------------------------------------------------------------------


def test_the_folder_of_a_sweep_is_the_tree_of_its_merged_file(sweep: Path, tmp_path: Path) -> None:
    tree = open_anything(sweep)
    assert isinstance(tree, xarray.DataTree)
    with xarray.open_datatree(merge_sweep(sweep, tmp_path / "sweep.h5")) as expected:
        assert tree.identical(expected)
    assert tree["state"].to_numpy().tolist() == ["complete", "partial", "failed", "not begun"]
    assert tree["reason"].to_numpy().tolist() == ["", "", "no such width", ""]
    assert tree["plane.seed"].to_numpy().tolist() == [0, 1, 2, 3]
    assert tree["surface.x"].to_numpy().tolist() == ["[-1, 1, 3]"] * 4
    assert set(tree.children) == {"seed=0", "seed=1", "seed=2", "seed=3"}
    assert tree["seed=0/surface/loss"].dims == ("y", "x")
    assert int(tree["seed=1/surface/computed"].sum()) == 2
    assert not tree["seed=3"].children
    assert tree["seed=3"].attrs["state"] == "not begun"


def test_a_merged_file_is_a_tree_and_each_of_its_runs_a_result(merged: Path) -> None:
    tree = open_anything(merged)
    assert isinstance(tree, xarray.DataTree)
    with xarray.open_datatree(merged) as expected:
        assert tree.identical(expected)
    one = open_anything(merged, run="a")
    assert isinstance(one, ls.Surface)
    np.testing.assert_array_equal(one.values["loss"], tree["a/surface/loss"].to_numpy())
    assert Place(merged).run_names == ["a", "b"]


def test_a_cell_is_picked_by_its_name(sweep: Path) -> None:
    assert Place(sweep).run_names == ["seed=0", "seed=1"]
    found = open_anything(sweep, run="seed=1")
    assert isinstance(found, ls.Surface)
    assert found.computed.sum() == 2
    assert open_anything(sweep, run="seed=0", group="surface").attributes["seed"] == 0
    with pytest.raises(InputError, match="sweep holds 2 runs; say which by run= or --run: seed=0, seed=1"):
        open_result(sweep)
    with pytest.raises(InputError, match=r"holds no run 'seed=9'; did you mean 'seed=\d'"):
        open_anything(sweep, run="seed=9")
    with pytest.raises(InputError, match="holds nothing of 'seed=3' yet, which is "):
        open_anything(sweep, run="seed=3")
    with pytest.raises(InputError, match="say which by run="):
        open_anything(sweep, group="surface")


def test_show_tells_of_each_run_of_a_sweep(sweep: Path, merged: Path) -> None:
    for place, names in ((sweep, ("seed=0", "seed=1")), (merged, ("a", "b"))):
        done = CliRunner().invoke(app, ["show", str(place)], env={"COLUMNS": "300"})
        assert done.exit_code == 0, done.output
        assert [done.stdout.count(f"{place}, run {name}") for name in names] == [1, 1]
        assert "2 of 6 computed" in done.stdout


def test_a_merged_file_of_one_run_is_its_result(sweep: Path, tmp_path: Path) -> None:
    path = ls.merge_runs({"only": next(sweep.glob("seed=0-*"))}, tmp_path / "one.h5")
    assert isinstance(open_anything(path), ls.Surface)


def test_a_sweep_of_which_nothing_has_begun(sweep: Path) -> None:
    index = json.loads((sweep / "sweep.json").read_text())
    (sweep / "sweep.json").write_text(json.dumps(index | {"cells": index["cells"][2:]}))
    tree = open_anything(sweep)
    assert isinstance(tree, xarray.DataTree)
    assert tree["state"].to_numpy().tolist() == ["failed", "not begun"]
    with pytest.raises(InputError, match="holds no run that has begun"):
        open_result(sweep)
    path = merge_sweep(sweep, sweep.with_suffix(".h5"))
    assert isinstance(open_anything(path), xarray.DataTree)
    assert Place(path).run_names == []


# -- what cannot be opened -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("open_it", [open_anything, open_result])
def test_a_path_that_is_not_there(open_it: object, tmp_path: Path) -> None:
    assert callable(open_it)
    with pytest.raises(StoreError, match="nowhere does not exist; give a run folder or an HDF5 file"):
        open_it(tmp_path / "nowhere")


def test_a_folder_of_other_things_says_what_there_is_to_open(sweep: Path, merged: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    with pytest.raises(
        StoreError, match=r"not a run folder.* no run\.json.* Open one of what it holds: merged\.h5, sweep$"
    ):
        open_anything(tmp_path)
    with pytest.raises(StoreError, match="Give the folder a run was told to use"):
        open_anything(tmp_path / "notes")


def test_a_name_for_what_has_none(sweep: Path, tmp_path: Path) -> None:
    path = surface().save(tmp_path / "a.h5")
    for place in (path, next(sweep.glob("seed=0-*")), write_loss_landscape_surface(tmp_path / "b.h5", surface())):
        with pytest.raises(InputError, match="holds one run, which has no name; leave out run= or --run a"):
            open_anything(place, run="a")


@pytest.fixture(params=["result", "merged"])
def versioned(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file whose schema version can be changed."""
    if request.param == "merged":
        yield request.getfixturevalue("merged")
    else:
        yield surface().save(tmp_path / "a.h5")


@pytest.mark.parametrize(
    ("version", "words"),
    [
        (99, "schema version 99, this version reads up to 1; update"),
        (0, "schema version 0, and the first is 1: older than any release"),
        ("one", "schema version one, and"),
    ],
)
def test_another_schema(version: object, words: str, versioned: Path) -> None:
    with h5py.File(versioned, "r+") as file:
        file.attrs["schema_version"] = version
    with pytest.raises(StoreError, match=words):
        open_anything(versioned)


def test_a_damaged_file(merged: Path) -> None:
    content = merged.read_bytes()
    merged.write_bytes(content[: len(content) // 2])
    with pytest.raises(StoreError, match=r"cannot read .*merged\.h5 as HDF5.* truncated"):
        open_anything(merged)


@pytest.mark.parametrize(
    ("content", "words"),
    [("{", "damaged; run or submit the sweep file again"), ('{"format": 99}', "newer version; update")],
)
def test_a_damaged_sweep(content: str, words: str, sweep: Path) -> None:
    (sweep / "sweep.json").write_text(content)
    with pytest.raises(StoreError, match=words):
        open_anything(sweep)


# -- saving where it cannot be ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted({kind for kind, _ in FILED}))
def test_a_place_that_cannot_be_written_is_named(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    result = KINDS[kind]("whole")
    with pytest.raises(StoreError, match=r"cannot write .*file.a\.h5.* choose a folder you may write to"):
        result.save(tmp_path / "file" / "a.h5")

    def refuse(path: Path, content: bytes) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(hdf5, "write_durably", refuse)  # root may write anywhere
    with pytest.raises(StoreError, match=r"Permission denied.* choose a folder you may write to"):
        result.save(tmp_path / "a.h5")
    assert not (tmp_path / "a.h5").exists()
