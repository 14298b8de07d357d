"""A job of a small network, for tests that start `landscape` as a user would. NAP seconds pass at every point."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
import pytest
from conftest import GUARD, mpi_environment

_NETS = """
import os
import time

import torch
from torch import nn


def mlp():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return net


def data():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(20, 3, generator=generator), torch.arange(20) % 2


def slow(outputs, targets):
    time.sleep(float(os.environ.get("NAP", "0")))
    return nn.functional.cross_entropy(outputs, targets, reduction="none")
"""
JOB = """
[model]
factory = "nets:mlp"
[data]
factory = "nets:data"
[objective]
loss = "nets:slow"
[surface]
x = [-1, 1, 7]
y = [-1, 1, 5]
[run]
out = "runs/small"
"""


def write_job(folder: Path) -> Path:
    """The job file of a surface of 7 x 5 points, and beside it what it names; returns its run folder."""
    (folder / "nets.py").write_text(_NETS)
    (folder / "job.toml").write_text(JOB)
    return folder / "runs" / "small"


def points(rows: int) -> list[str]:
    """Options of `landscape` that make it a surface of 40 x `rows` points."""
    return ["--set", "surface.x=[-1,1,40]", "--set", f"surface.y=[-1,1,{rows}]"]


def command() -> str:
    """The command landscape of this Python; skips the test where there is none."""
    path = Path(sys.executable).with_name("landscape")
    if not path.exists():
        pytest.skip("needs the command landscape beside this Python: pip install -e .")
    return str(path)


def landscape(
    folder: Path, *words: str, start: tuple[str, ...] = (), variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`landscape` with these words in `folder`, by the launcher `start`, with `variables` in its environment."""
    return subprocess.run(
        [*start, command(), *words],
        env=mpi_environment() | dict(variables or {}),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=GUARD,
    )


def values(run: Path) -> dict[str, bytes]:
    """Name and bytes of every array of a finished surface."""
    with h5py.File(run / "landscape.h5") as file:
        return {name: np.asarray(array).tobytes() for name, array in file["surface"].items()}


def shards(run: Path) -> dict[Path, bytes]:
    """The files of rows that a run has finished so far, and what is in them."""
    return {path: path.read_bytes() for path in run.glob("shards/*.npz")}


def items(run: Path) -> npt.NDArray[np.int64]:
    """Numbers of all rows in the shards, in rising order; one that was computed twice stands twice.

    One that a rank wrote twice, as it may when it is told to stop in the middle of writing, does not.
    """
    written: dict[str, set[int]] = {}
    for shard in run.glob("shards/*.npz"):
        attempt_and_rank = shard.stem.rpartition("-")[0]
        written.setdefault(attempt_and_rank, set()).update(np.load(shard)["items"].tolist())
    return np.array(sorted(item for numbers in written.values() for item in numbers))
