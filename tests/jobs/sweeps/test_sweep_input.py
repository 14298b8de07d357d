"""Sweeps: what is refused or asked for before cells are run, and the table of a merged sweep."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import xarray
from landscape_jobs.cli import app
from landscape_jobs.sweeps.folder import places, write_index
from landscape_jobs.sweeps.sweep_file import load_sweep
from typer.testing import CliRunner, Result

from landscape.errors import InputError

NETS = """
import torch
from torch import nn


def mlp(width: int = 4) -> nn.Module:
    net = nn.Linear(3, 2)
    nn.init.ones_(net.weight)
    nn.init.zeros_(net.bias)
    return net


def data():
    return torch.ones(4, 3), torch.arange(4) % 2
"""
JOB = """
[model]
factory = "nets_of_inputs:mlp"
[data]
factory = "nets_of_inputs:data"
[plane]
seed = 7
[surface]
x = [-1, 1, 3]
[run]
threads = 1
"""
HEAD = 'job = "job.toml"\nout = "runs/sweep"\n'
SEEDS = HEAD + '[product]\n"plane.seed" = [0, 1, 2]\n'


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a job, its module, a sweep, and an sbatch; the current one."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "nets_of_inputs.py").write_text(NETS)
    (tmp_path / "job.toml").write_text(JOB)
    (tmp_path / "sweep.toml").write_text(SEEDS)
    (tmp_path / "bin" / "sbatch").write_text('#!/bin/bash\necho "$*" >>calls; echo 77\n')
    (tmp_path / "bin" / "sbatch").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    threads = torch.get_num_threads()
    sys.modules.pop("nets_of_inputs", None)
    yield tmp_path
    sys.modules.pop("nets_of_inputs", None)
    torch.set_num_threads(threads)


def landscape(*words: object) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(word) for word in words])


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("part", ["", "eigenpairs", "layers"])
def test_the_folder_of_a_run_takes_no_sweep(home: Path, part: str) -> None:
    record = Path("runs/sweep", part, "run.json")
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    before = files(home)
    for words in (("run", "sweep.toml"), ("run", "sweep.toml", "--cell", 0), ("submit", "sweep.toml")):
        result = landscape(*words)
        assert result.exit_code == 2, result.output
        assert "is the folder of a run" in result.stderr
        assert "name another folder" in result.stderr
    assert files(home) == before


def test_a_merged_sweep_tells_what_the_base_says_where_a_cell_changes_nothing(home: Path) -> None:
    cells = '[[cell]]\n"plane.seed" = 3\n[[cell]]\n"model.args.width" = 5\n[[cell]]\n"plane.normalize" = "layer"\n'
    Path("sweep.toml").write_text(HEAD + cells)
    sweep = load_sweep("sweep.toml")
    write_index(sweep, places(sweep))
    assert landscape("merge", "runs/sweep", "-o", "sweep.h5").exit_code == 0
    with xarray.open_datatree("sweep.h5") as tree:
        table = tree.to_dataset().to_dataframe().set_index("name")
        assert list(table["plane.seed"]) == [3, 7, 7]
        assert table["plane.seed"].dtype.kind == "i"
        assert list(table["plane.normalize"]) == ["", "", "layer"]  # the base job leaves it to its default
        assert [tree[str(name)].attrs["plane.seed"] for name in table.index] == [3, 7, 7]


def test_everything_wrong_with_a_sweep_file_is_told_at_once(home: Path) -> None:
    Path("sweep.toml").write_text(
        'job = "none.toml"\nprodct = 1\n[product]\n"plane.seed" = 3\n"run.threads" = [1]\n'
        '[zip]\n"surface.x" = []\n[[cell]]\n'
    )
    with pytest.raises(InputError) as raised:
        load_sweep("sweep.toml")
    for said in (
        "'prodct' is unknown; did you mean 'product'?",
        "out is missing",
        "none.toml cannot be read",
        "plane.seed = 3 is not a list",
        "run.threads does not change",
        "surface.x = [] is not a list",
        "cells are tables",
    ):
        assert said in str(raised.value)
    assert "changes nothing" not in str(raised.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "runs/sweep"), "landscape resume runs/sweep"),
        (("check", "runs/sweep"), "landscape resume runs/sweep"),
        (("submit", "runs/sweep"), "landscape resume runs/sweep"),
        (("check", "runs/eigen"), "landscape resume runs/eigen"),
        (("check", "runs"), "runs is a folder, not a job file"),
        (("resume", "job.toml"), "landscape run job.toml"),
        (("resume", "bin/sbatch"), "is a file, not a run folder"),
        (("resume", "runs/nosuch"), "runs/nosuch does not exist"),
        (("run", "sweep.toml", "--set", "out=elsewhere"), "edit `out` in the sweep file"),
        (("check", "stages.toml"), "landscape submit --dry-run stages.toml"),
        (("check", "sweep.toml", "--set", "surface.x=[0,1]"), "every cell: surface.x"),
    ],
)
def test_what_was_meant_is_said(home: Path, words: tuple[str, ...], said: str) -> None:
    Path("stages.toml").write_text("[[stage]]\nname = 'a'\ncommand = 'true'\n")
    Path("runs/sweep").mkdir(parents=True)
    Path("runs/sweep/sweep.json").write_text("{}")
    Path("runs/eigen/eigenpairs").mkdir(parents=True)
    Path("runs/eigen/eigenpairs/run.json").write_text("{}")
    result = landscape(*words)
    assert result.exit_code == 2, result.output
    assert said in result.stderr


def test_check_of_a_sweep_estimates_the_first_cell_that_is_not_finished(home: Path) -> None:
    assert landscape("run", "sweep.toml", "--cell", 0).exit_code == 0
    before = files(home)
    result = landscape("check", "sweep.toml")
    assert result.exit_code == 0, result.output
    assert "3 cells" in result.stderr
    assert "2 of 3 runs" in result.stderr
    assert "cell 1: seed=1" in result.stderr
    assert "memory" in result.stdout
    assert files(home) == before
    assert landscape("run", "sweep.toml").exit_code == 0
    result = landscape("check", "sweep.toml")
    assert result.exit_code == 0, result.output
    assert "0 of 3 runs" in result.stderr


def test_other_models_of_a_map_make_a_new_cell(home: Path) -> None:
    """A training run, or a table of checkpoints, is named by a file like other inputs of a study."""
    job = JOB.partition("[plane]")[0] + '[phases]\nmodels = "models.csv"\nload = "width"\ntemperature = "lr"\n'
    (home / "job.toml").write_text(job)
    sweep = home / "sweep.toml"
    sweep.write_text(HEAD + '[product]\n"phases.sharp" = [1.0, 2.0]\n')
    found = []
    for seed in (0, 1):
        (home / "models.csv").write_text(f"width,lr,seed,final\n4,0.1,{seed},a.safetensors\n")
        found.append({place.folder for place in places(load_sweep(sweep))})
    assert [len(folders) for folders in found] == [2, 2]
    assert not found[0] & found[1]
