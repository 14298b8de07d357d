"""`landscape submit` on a real Slurm of two virtual nodes, which tests/slurm_up.sh brings up; skips where it cannot."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import mpi_environment

import landscape as ls

pytestmark = pytest.mark.slurm

SLURM_UP = Path(__file__).with_name("slurm_up.sh")
GUARD = 240  # seconds after which something counts as hanging

NETS = """
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
    time.sleep(0.05)
    return nn.functional.cross_entropy(outputs, targets, reduction="none")
"""
JOB = """
[model]
factory = "nets:mlp"
[data]
factory = "nets:data"
[surface]
x = [-1, 1, 7]
y = [-1, 1, 5]
[run]
out = "runs/small"
"""
SLOW = ["--set", "objective.loss=nets:slow", "--set", "surface.x=[-1,1,40]", "--set", "surface.y=[-1,1,20]"]


class Cluster:
    """The commands of a running Slurm."""

    def __init__(self, configuration: Path) -> None:
        self.environment = {**mpi_environment(), "SLURM_CONF": str(configuration)}

    def ask(self, *words: str) -> str:
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, check=True, timeout=GUARD)
        return done.stdout.strip()

    def about(self, job: str) -> dict[str, str]:
        """What scontrol tells of a job."""
        pairs = (word.partition("=") for word in self.ask("scontrol", "--oneliner", "show", "job", job).split())
        return {name: value for name, _, value in pairs}

    def begin_again(self, job: str) -> None:
        """Let a requeued job begin when its nodes are tidy, not after 120 s.

        Not within the second, either: Slurm tells credentials of an older attempt by their second.
        """
        wait_for(lambda: self.about(job)["JobState"] == "PENDING")
        steps = ["pgrep", "--full", rf"slurmstepd: \[{job}\."]
        wait_for(lambda: subprocess.run(steps, capture_output=True, check=False).returncode == 1)
        self.ask("scontrol", "update", f"JobId={job}", "StartTime=now+3")

    def ended(self, job: str) -> dict[str, str]:
        """What is told of a job when it has ended."""
        wait_for(lambda: self.about(job)["JobState"] in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"))
        return self.about(job)

    def landscape(self, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).with_name("landscape")), *words]
        return subprocess.run(
            command, env=self.environment, cwd=folder, capture_output=True, text=True, check=False, timeout=GUARD
        )

    def submit(self, folder: Path, *words: str) -> str:
        """The number of a job on two nodes with two ranks each."""
        done = self.landscape(folder, "submit", "job.toml", "--nodes", "2", "--ntasks-per-node", "2", *words)
        assert done.returncode == 0, done.stderr
        found = re.match(r"submitted job (\d+);", done.stdout)
        assert found is not None, done.stdout
        return found[1]


def wait_for(ready: Callable[[], bool]) -> None:
    end = time.monotonic() + GUARD
    while not ready():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)


def free_ports(count: int) -> int:
    """The first of so many neighbouring ports that nobody listens on."""
    for first in range(21000, 31000, 10):
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    pytest.skip("needs free ports for Slurm's daemons")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("needs Linux and root, to start Slurm's daemons")
    if not Path(sys.executable).with_name("landscape").exists():
        pytest.skip("needs the command landscape beside this Python: pip install -e .")
    installed = subprocess.run([SLURM_UP, "install"], capture_output=True, text=True, check=False)
    if installed.returncode != 0:
        pytest.skip(f"needs Debian's packages of Slurm, which apt does not give: {installed.stderr[-200:]}")
    folder = tmp_path_factory.mktemp("slurm")
    ports = {"SLURM_TEST_PORT": str(free_ports(3))}
    started = subprocess.run(
        [SLURM_UP, "up", folder, "2", "2"], env=os.environ | ports, capture_output=True, text=True, check=False
    )
    try:
        if started.returncode != 0:
            pytest.skip(f"Slurm does not start here: {started.stderr[-400:]}")
        yield Cluster(folder / "slurm.conf")
    finally:
        subprocess.run([SLURM_UP, "down", folder], check=False, timeout=GUARD)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with a job."""
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "job.toml").write_text(JOB)
    return tmp_path


def has(run: Path, pattern: str) -> bool:
    return any(run.glob(pattern))


def log(run: Path) -> str:
    return (run / "submitted" / "001.log").read_text(encoding="utf-8")


def values(run: Path) -> dict[str, bytes]:
    surface = ls.open(run)
    assert surface.complete
    return {name: array.tobytes() for name, array in [*surface.values.items(), *surface.stderr.items()]}


def test_two_nodes_compute_what_one_rank_computes(cluster: Cluster, home: Path) -> None:
    odd = 'it\'s "a" %j #1 $(touch injected) é'
    job = cluster.submit(home, "--time", "00:30:00", "--set", f"run.out={odd}")
    (home / "job.toml").write_text("not read any more")
    state = cluster.ended(job)
    assert (state["JobState"], state["ExitCode"]) == ("COMPLETED", "0:0"), log(home / odd)
    assert state["NumNodes"] == "2"
    assert (home / odd / "landscape.h5").exists()
    assert not (home / "injected").exists()
    (home / "job.toml").write_text(JOB)
    alone = cluster.landscape(home, "run", "job.toml")
    assert alone.returncode == 0, alone.stderr
    assert values(home / odd) == values(home / "runs" / "small")


def test_told_to_stop_twice_it_comes_back_and_computes_each_row_once(cluster: Cluster, home: Path) -> None:
    run = home / "runs" / "small"
    job = cluster.submit(home, *SLOW)
    for attempt in ("0001", "0002"):
        wait_for(partial(has, run, f"shards/{attempt}-*.npz"))
        cluster.ask("scancel", "--batch", "--signal=USR1", job)  # what Slurm sends ahead of the time limit
        cluster.begin_again(job)
    state = cluster.ended(job)
    assert (state["JobState"], state["Restarts"]) == ("COMPLETED", "2"), log(run)
    items = np.concatenate([np.load(shard)["items"] for shard in run.glob("shards/*.npz")])
    assert sorted(items) == list(range(800))


def test_cancelled_it_stays_ended_and_keeps_what_is_finished(cluster: Cluster, home: Path) -> None:
    run = home / "runs" / "small"
    job = cluster.submit(home, *SLOW)
    wait_for(partial(has, run, "shards/*.npz"))
    cluster.ask("scancel", job)
    assert cluster.ended(job)["JobState"] == "CANCELLED"
    wait_for(lambda: not cluster.ask("squeue", "--noheader"))
    assert "queued again" not in log(run)
    assert 0 < ls.open(run).computed.sum() < 800


def test_a_launcher_that_does_not_speak_to_the_mpi_library_is_refused(cluster: Cluster, home: Path) -> None:
    state = cluster.ended(cluster.submit(home, "--launcher", "srun", "--mpi", "none"))
    assert (state["JobState"], state["ExitCode"]) == ("FAILED", "2:0")
    assert "sees a world of 1" in log(home / "runs" / "small")


def test_what_sbatch_refuses_is_told(cluster: Cluster, home: Path) -> None:
    done = cluster.landscape(home, "submit", "job.toml", "--partition", "nowhere")
    assert done.returncode == 2
    assert "nowhere" in done.stderr
    assert "sinfo -s" in done.stderr
    assert not (home / "runs").exists()
