"""Data and checkpoints read once, by rank 0 for all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import GUARD, mpi_environment, mpiexec
from safetensors.torch import save_file

import landscape as ls

pytestmark = pytest.mark.mpi

NETS = """
import os
from pathlib import Path

import torch
from torch import nn


def mlp():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def data(kind="tuple"):
    handle = os.open("calls", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.write(handle, b"x")
    os.close(handle)
    if kind == "broken":
        raise ArithmeticError("no such data")
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(3, 20, generator=generator).to(torch.float64).T  # not in one piece of memory
    targets = torch.arange(20) % 2
    if kind == "dataset":
        return [(inputs, targets)]
    return inputs.float(), targets
"""
JOB = """
[model]
factory = "read_nets:mlp"
checkpoint = "trained.safetensors"
[data]
factory = "read_nets:data"
[surface]
x = [-1, 1, 5]
[run]
out = "runs/a"
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "read_nets.py").write_text(NETS)
    (tmp_path / "job.toml").write_text(JOB)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
    save_file(net.state_dict(), tmp_path / "trained.safetensors")
    return tmp_path


def run(home: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    launcher = mpiexec()
    if launcher is None:
        pytest.skip("mpiexec is not installed: pip install 'loss-landscape-engine[mpi]'")
    words = [word for setting in settings for word in ("--set", setting)]
    return subprocess.run(
        [launcher, "-n", "3", sys.executable, "-m", "landscape_jobs.cli", "run", "job.toml", *words],
        cwd=home,
        env=mpi_environment(),
        capture_output=True,
        text=True,
        timeout=GUARD,
        check=False,
    )


def test_once_for_all_ranks_with_the_same_result(home: Path) -> None:
    for way, calls in (("once", 1), ("each", 3)):
        done = run(home, f"run.read={way}", f"run.out={way}")
        assert done.returncode == 0, done.stderr
        assert len((home / "calls").read_text()) == calls
        (home / "calls").unlink()
    once, each = ls.open(home / "once"), ls.open(home / "each")
    assert isinstance(once, ls.Surface)
    assert isinstance(each, ls.Surface)
    assert once.values["loss"].tobytes() == each.values["loss"].tobytes()
    for name in ("data_hash", "checkpoint_hash"):
        assert once.attributes[name] == each.attributes[name]


def test_what_cannot_be_sent_or_read_is_told_by_all(home: Path) -> None:
    done = run(home, "run.read=once", 'data.args={kind="dataset"}')
    assert done.returncode == 2, done.stderr
    assert "run.read = 'once' sends tensors" in done.stderr
    done = run(home, "run.read=once", 'data.args={kind="broken"}')
    assert done.returncode == 1, done.stderr
    assert "no such data" in done.stderr
