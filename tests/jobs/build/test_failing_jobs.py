"""Jobs with items that fail: exit code 4, masks and reasons in the file, and the way back."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import GUARD, mpi_environment, mpiexec
from landscape_jobs.cli import app
from torch import nn
from typer.testing import CliRunner

import landscape as ls
from landscape.run.store import Store
from landscape.studies.connectivity.measure import ConnectivityTask
from landscape.studies.layer_spectra.measure import LayerTask

NETS = """
import os
import signal
import time
from pathlib import Path

import torch
from torch import nn


def mlp():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return net


CENTRE = mlp()[0].weight


def data():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(20, 3, generator=generator), torch.arange(20) % 2


def at_one_end(model):
    # a filter-normalised direction is as long as the weights, so this is one of x = 1 and x = -1
    step = model[0].weight - CENTRE
    return bool(step.norm() > 0.9 * CENTRE.norm() and step[0, 0] > 0)


def breaks(model, batch):
    if at_one_end(model) and not Path("mended").exists():
        raise ArithmeticError("no such luck")
    return model(batch[0]), batch[1]


def dawdles(model, batch):
    if at_one_end(model):
        time.sleep(60)
    return model(batch[0]), batch[1]


def kills(model, batch):
    time.sleep(0.05)
    if at_one_end(model) and not Path("killed").exists():
        Path("killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return model(batch[0]), batch[1]
"""
JOB = """
[model]
factory = "fragile_nets:mlp"
[data]
factory = "fragile_nets:data"
[surface]
x = [-1, 1, 9]
[run]
out = "runs/a"
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "fragile_nets.py").write_text(NETS)
    (tmp_path / "job.toml").write_text(JOB)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "fragile_nets", raising=False)
    return tmp_path


def landscape(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_a_point_that_fails_is_masked_with_its_reason(home: Path) -> None:
    for _ in range(2):  # the second call computes nothing and says the same
        done = landscape("run", "job.toml", "--set", "objective.forward=fragile_nets:breaks")
        assert done.exit_code == 4, done.output
        assert "1 of 9 items failed and are left out" in done.stderr
        assert "no such luck" in done.stderr
        assert "delete the folder" in done.stderr
    surface = ls.open(home / "runs/a/landscape.h5")
    assert isinstance(surface, ls.Surface)
    assert (~surface.computed).sum() == 1
    lost = int(np.flatnonzero(~surface.computed)[0])
    assert lost in (0, 8)
    assert np.isfinite(surface.values["loss"][surface.computed]).all()
    [failure] = surface.attributes["failures"]
    assert failure["item"] == lost
    assert "ArithmeticError: no such luck" in failure["reason"]
    assert len(Store.open(home / "runs/a").failures.all()) == 3
    shown = landscape("show", "runs/a/landscape.h5")
    assert shown.exit_code == 0
    assert f"x = {'-1' if lost == 0 else '1'}" in shown.output
    assert "no such luck" in shown.output
    assert landscape("plot", "runs/a").exit_code == 0

    (home / "mended").touch()
    shutil.rmtree(home / "runs/a/failures")
    done = landscape("resume", "runs/a")
    assert done.exit_code == 0, done.output
    mended = ls.open(home / "runs/a/landscape.h5")
    assert isinstance(mended, ls.Surface)
    assert mended.complete
    assert "failures" not in mended.attributes
    assert (mended.values["loss"][surface.computed] == surface.values["loss"][surface.computed]).all()


def test_a_point_that_takes_too_long_is_masked(home: Path) -> None:
    done = landscape(
        "run", "job.toml", "--set", "objective.forward=fragile_nets:dawdles", "--set", "run.item_seconds=0.5",
        "--set", "run.retries=0",
    )  # fmt: skip
    assert done.exit_code == 4, done.output
    assert "longer than 0.5 s" in done.stderr
    assert ls.open(home / "runs/a").computed.sum() == 8


def test_settings_that_cannot_be_are_refused(home: Path) -> None:
    for setting in ("run.retries=-1", "run.item_seconds=0"):
        done = landscape("run", "job.toml", "--set", setting)
        assert done.exit_code == 2
        assert setting.partition("=")[0] in done.stderr
    (home / "job.toml").write_text(JOB.replace("[surface]\nx = [-1, 1, 9]", "[spectrum]\nk = 2"))
    done = landscape("run", "job.toml", "--set", "run.retries=1")
    assert done.exit_code == 2
    assert "run.retries" in done.stderr
    assert not (home / "runs").exists()


@pytest.mark.mpi
def test_survivors_of_a_killed_rank_complete_the_job(home: Path) -> None:
    """Open MPI 5 told to tolerate faults: one job, complete, with the values of one rank."""
    launcher = mpiexec()
    if launcher is None:
        pytest.skip("mpiexec is not installed: pip install 'loss-landscape-engine[mpi]'")
    kills = ["--set", "objective.forward=fragile_nets:kills", "--set", "surface.x=[-1,1,41]"]
    command = [sys.executable, "-m", "landscape_jobs.cli", "run", "job.toml", *kills]
    done = subprocess.run(
        [launcher, "--with-ft", "ulfm", "-n", "3", *command],
        cwd=home,
        env=mpi_environment(),
        capture_output=True,
        text=True,
        timeout=GUARD,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "1 of 3 ranks died; the other 2 go on" in done.stderr
    assert [record["ranks"] for record in Store.open(home / "runs/a").attempts.all()] == [3, 2]
    assert landscape("run", "job.toml", *kills, "--set", "run.out=alone").exit_code == 0
    together, alone = ls.open(home / "runs/a"), ls.open(home / "alone")
    assert isinstance(together, ls.Surface)
    assert isinstance(alone, ls.Surface)
    assert together.values["loss"].tobytes() == alone.values["loss"].tobytes()


def small_objective(seed: int = 0) -> tuple[ls.Objective, nn.Module]:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    return ls.Objective(net, data=(torch.randn(20, 3), torch.arange(20) % 2)), net


def break_item(monkeypatch: pytest.MonkeyPatch, task: type, bad: int) -> None:
    original = task.evaluate

    def evaluate(self: Any, index: int, group: Any) -> Any:
        if index == bad:
            raise ArithmeticError("no such luck")
        return original(self, index, group)

    monkeypatch.setattr(task, "evaluate", evaluate)


def test_a_layer_that_fails_is_masked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objective, _ = small_objective()
    break_item(monkeypatch, LayerTask, 1)
    table = ls.measure_layer_spectra(objective, k=1, out=tmp_path / "run", tolerance=ls.Tolerance(retries=0))
    for layers in (table, ls.open(tmp_path / "run"), ls.open(tmp_path / "run" / "landscape.h5")):
        assert isinstance(layers, ls.LayerSpectra)
        assert layers.computed.tolist() == [True, False]
        assert "no such luck" in layers.attributes["failures"][0]["reason"]
    table.plot()


def test_a_pair_that_fails_is_masked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objective, net = small_objective()
    models = [net, *(small_objective(seed)[1] for seed in (1, 2))]
    break_item(monkeypatch, ConnectivityTask, 1)
    sweep = ls.measure_connectivity(
        objective, models, epochs=1, t=5, out=tmp_path / "run", tolerance=ls.Tolerance(retries=0)
    )
    for found in (sweep, ls.open(tmp_path / "run"), ls.open(tmp_path / "run" / "landscape.h5")):
        assert isinstance(found, ls.Connectivity)
        assert found.computed.tolist() == [True, False, True]
        assert "no such luck" in found.attributes["failures"][0]["reason"]
    sweep.plot()
