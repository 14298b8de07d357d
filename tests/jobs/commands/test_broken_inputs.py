"""Inputs broken at random end with a message; signals during start-up; damaged cells; levels and tables of commands."""

from __future__ import annotations

import csv
import json
import logging
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import xarray

import landscape as ls

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "scripts"))
import fuzz_inputs  # noqa: E402


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    fuzz_inputs.prepare(folder)
    return folder


@pytest.fixture
def work(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    shutil.copytree(base, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.mark.parametrize("seed", [*range(1000, 1014), 110, 273, 373, 461, 737, 818])
def test_inputs_broken_at_random(seed: int, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five hundred of these: python scripts/fuzz_inputs.py."""
    monkeypatch.setattr(logging.root.manager, "disable", logging.CRITICAL)
    what, code, said = fuzz_inputs.trial(base, seed)
    assert not fuzz_inputs.bad(code, said), (what, said)


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGTERM", "SIGINT"])
def test_a_signal_during_start_up_leaves_work(name: str, work: Path) -> None:
    """It comes while the data are read."""
    told = f"os.kill(os.getpid(), signal.{name})"
    (work / f"nets_{name}.py").write_text(f"import os, signal\n\ndef data():\n    {told}\n")
    job = (work / "surface.toml").read_text().replace("fuzz_nets:data", f"nets_{name}:data")
    (work / "job.toml").write_text(job.replace('out = "surface"', 'out = "new"'))
    before = signal.getsignal(getattr(signal, name))
    code, said = fuzz_inputs.command("run", "job.toml")
    assert code == 3
    assert f"stopped by {name}" in said
    assert "Traceback" not in said
    assert signal.getsignal(getattr(signal, name)) is before


@pytest.mark.parametrize("file", ["run.json", "shards", "attempts/0001.json"])
def test_a_damaged_cell_of_a_sweep_is_told_and_the_others_open(file: str, work: Path) -> None:
    index = json.loads((work / "sweep" / "sweep.json").read_text())
    damaged = work / "sweep" / index["cells"][1]["folder"] / file
    for path in [damaged] if damaged.is_file() else damaged.glob("*.npz"):
        path.write_text("[")
    tree = ls.open(work / "sweep")
    assert isinstance(tree, xarray.DataTree)
    assert tree["state"].to_numpy().tolist() == ["complete", "unreadable"]
    assert index["cells"][1]["folder"] in str(tree["reason"].to_numpy()[1])
    assert tree["seed=0/surface/loss"].notnull().all()
    assert "surface" not in tree["seed=1"].children
    code, said = fuzz_inputs.command("show", "sweep")
    assert code == 2
    assert "run seed=0" in said
    assert index["cells"][1]["folder"] in said
    assert fuzz_inputs.command("merge", "sweep", "-o", "merged.h5")[0] == 0
    assert fuzz_inputs.command("status", "sweep")[0] == 0


@pytest.mark.parametrize("file", ["cell.json", "failure.json"])
def test_a_damaged_note_of_a_cell_does_no_harm(file: str, work: Path) -> None:
    cell = next((work / "sweep").glob("seed=1-*"))
    (cell / file).write_text("[")
    os.utime(cell / file)
    tree = ls.open(work / "sweep")
    assert isinstance(tree, xarray.DataTree)
    assert tree["seed=1/surface/loss"].notnull().all()


def test_levels_may_be_heights(work: Path) -> None:
    assert fuzz_inputs.command("plot", "surface", "--levels", "0.5,0.7,0.9", "-q", "loss", "-o", "a.png")[0] == 0
    for wrong, said in (("0.9,0.7", "increase"), ("0.5", "2 to 200"), ("0.5,x", "not known")):
        code, told = fuzz_inputs.command("plot", "surface", "--levels", wrong, "-q", "loss", "-o", "b.png")
        assert code == 2
        assert said in told
    assert not (work / "b.png").exists()


def test_a_topology_is_saved_as_a_table(work: Path) -> None:
    code, said = fuzz_inputs.command("topology", "surface", "--threshold", "0", "--table", "new/points.csv")
    assert code == 0
    assert "new/points.csv" in said
    with (work / "new" / "points.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = ls.find_topology(ls.open(work / "surface"), threshold=0)
    assert [float(row["value"]) for row in rows if row["kind"] == "minimum"] == found.minima.value.tolist()
    assert fuzz_inputs.command("topology", "surface", "--table", "points.txt")[0] == 2
