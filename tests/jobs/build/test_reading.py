"""Data and checkpoints read once, by rank 0 for all."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import GUARD, mpi_command, mpi_environment
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


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the jobs of reading_cases.py, which have run on two ranks."""
    folder = tmp_path_factory.mktemp("reading")
    (folder / "read_nets.py").write_text(NETS)
    (folder / "job.toml").write_text(JOB)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
    save_file(net.state_dict(), folder / "trained.safetensors")
    done = subprocess.run(
        mpi_command(2, "reading_cases.py"),
        cwd=folder,
        env=mpi_environment(),
        capture_output=True,
        text=True,
        timeout=GUARD,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def told(home: Path, case: str) -> dict[str, Any]:
    """How often data were read, and the exit code and messages of each rank."""
    found: dict[str, Any] = json.loads((home / "reading.json").read_text())[case]
    return found


def test_once_for_all_ranks_with_the_same_result(home: Path) -> None:
    for way, calls in (("once", 1), ("each", 2)):
        found = told(home, way)
        assert [code for code, _ in found["ranks"]] == [0, 0], found
        assert found["calls"] == calls
    once, each = ls.open(home / "once"), ls.open(home / "each")
    assert isinstance(once, ls.Surface)
    assert isinstance(each, ls.Surface)
    assert once.values["loss"].tobytes() == each.values["loss"].tobytes()
    for name in ("data_hash", "checkpoint_hash"):
        assert once.attributes[name] == each.attributes[name]


@pytest.mark.parametrize(
    ("case", "code", "words"),
    [("dataset", 2, "run.read = 'once' sends tensors"), ("broken", 2, "no such data")],
)
def test_what_cannot_be_sent_or_read_is_told_by_all(home: Path, case: str, code: int, words: str) -> None:
    ranks = told(home, case)["ranks"]
    assert [found for found, _ in ranks] == [code, code], ranks
    assert any(words in text for _, text in ranks), ranks
