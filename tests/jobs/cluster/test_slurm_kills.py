"""Jobs of a real Slurm whose ranks, launchers, scripts and daemons die: what is finished stays, and they go on."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from slurm_cluster import Cluster, log, wait_for
from small_job import items, points, shards, values, write_job

pytestmark = pytest.mark.slurm

POINTS = 400
SLOW = points(POINTS // 40)
NAP = {"NAP": "0.05"}
LONG = {"NAP": "0.3"}  # of attempts that are killed: what is left of them must not complete the run meanwhile
SRUN = ["--launcher", "srun", "--mpi", "pmix"]


@pytest.fixture(scope="module")
def alone(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one rank computes that nobody disturbs."""
    folder = tmp_path_factory.mktemp("alone")
    run = write_job(folder)
    done = cluster.landscape(folder, "run", "job.toml", *SLOW)
    assert done.returncode == 0, done.stderr
    return values(run)


@pytest.mark.parametrize(
    ("launcher", "victims"),
    [
        (SRUN, ["rank 0", "launcher"]),
        (["--launcher", "mpiexec", "--no-survivors"], ["rank 1", "launcher", "script"]),
    ],
    ids=["srun", "mpiexec"],
)
def test_killed_it_loses_nothing_that_is_finished(
    launcher: list[str], victims: list[str], cluster: Cluster, tmp_path: Path, alone: dict[str, bytes]
) -> None:
    run = write_job(tmp_path)
    job = cluster.submit(tmp_path, *SLOW, *launcher, **LONG)
    finished: dict[Path, bytes] = {}
    for attempt, victim in enumerate(victims, start=1):
        cluster.has_begun(job, lambda attempt=attempt: any(run.glob(f"shards/{attempt:04d}-*.npz")))
        cluster.kill(victim)
        assert cluster.ended(job)["JobState"] == "FAILED", victim
        wait_for(lambda: not cluster.ask("squeue", "--noheader"))
        now = shards(run)
        assert {path: now[path] for path in finished} == finished
        assert len(now) > len(finished)
        finished = now
        job = cluster.submit_again(run, **(LONG if attempt < len(victims) else {}))
    state = cluster.ended(job)
    assert (state["JobState"], state["ExitCode"]) == ("COMPLETED", "0:0"), log(run)
    assert list(items(run)) == list(range(POINTS))
    assert values(run) == alone


def test_ranks_that_are_left_complete_the_job(cluster: Cluster, tmp_path: Path, alone: dict[str, bytes]) -> None:
    """Open MPI 5's mpiexec lets them live; with the rank go its items in hand and the rows of its last second."""
    run = write_job(tmp_path)
    job = cluster.submit(tmp_path, *SLOW, "--launcher", "mpiexec", **NAP)
    wait_for(lambda: bool(shards(run)))
    cluster.kill("rank 1")
    state = cluster.ended(job)
    assert (state["JobState"], state["Restarts"]) == ("COMPLETED", "0"), log(run)
    assert "1 of 2 ranks died; the last one goes on" in log(run)
    assert list(items(run)) == list(range(POINTS))
    assert values(run) == alone


def test_a_job_outlives_the_daemons_of_its_nodes(cluster: Cluster, tmp_path: Path, alone: dict[str, bytes]) -> None:
    run = write_job(tmp_path)
    job = cluster.submit(tmp_path, *SLOW, *SRUN, **NAP)
    for node in ("n2", "n1", "n2"):
        before = len(shards(run))
        # on a crowded machine it may be done before all of them were killed
        wait_for(lambda before=before: len(shards(run)) > before or (run / "landscape.h5").exists())
        cluster.kill(f"slurmd {node}")
        cluster.start_node(node)
    state = cluster.ended(job)
    assert (state["JobState"], state["Restarts"]) == ("COMPLETED", "0"), log(run)
    assert list(items(run)) == list(range(POINTS))
    assert values(run) == alone


def test_a_job_that_lost_a_node_comes_back(cluster: Cluster, tmp_path: Path, alone: dict[str, bytes]) -> None:
    """A node that is gone closes no connection: Slurm takes its silence of SlurmdTimeout for an answer."""
    run = write_job(tmp_path)
    job = cluster.submit(tmp_path, *SLOW, *SRUN, **NAP)
    wait_for(lambda: bool(shards(run)))
    gone = cluster.freeze_node("n2")
    with cluster.patience(10):
        wait_for(lambda: cluster.about(job)["JobState"] != "RUNNING")
    for pid in gone:
        os.kill(pid, signal.SIGKILL)
    finished = shards(run)
    cluster.start_node("n2")
    state = cluster.ended_for_good(job)
    assert (state["JobState"], state["Restarts"]) == ("COMPLETED", "1"), log(run)
    assert {path: shards(run)[path] for path in finished} == finished
    assert list(items(run)) == list(range(POINTS))
    assert values(run) == alone


def test_a_job_whose_node_breaks_off_comes_back(cluster: Cluster, tmp_path: Path, alone: dict[str, bytes]) -> None:
    """All of a node's processes end at once and its connections close, as in a reboot: srun ends with an error."""
    run = write_job(tmp_path)
    job = cluster.submit(tmp_path, *SLOW, *SRUN, **NAP)
    wait_for(lambda: bool(shards(run)))
    for pid in cluster.freeze_node("n2"):
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: cluster.about(job)["JobState"] != "RUNNING")
    assert "a node does not answer any more" in log(run)
    cluster.start_node("n2")
    state = cluster.ended_for_good(job)
    assert (state["JobState"], state["Restarts"]) == ("COMPLETED", "1"), log(run)
    assert list(items(run)) == list(range(POINTS))
    assert values(run) == alone
