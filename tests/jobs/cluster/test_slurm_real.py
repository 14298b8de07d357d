"""`landscape submit` on a real Slurm of two virtual nodes, which tests/slurm_up.sh brings up; skips where it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
from slurm_cluster import Cluster, log, wait_for
from small_job import JOB, items, points, shards, values, write_job

pytestmark = pytest.mark.slurm

POINTS = 400
SLOW = points(POINTS // 40)
NAP = {"NAP": "0.1"}  # long enough to be stopped on a crowded machine


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder that the job beside it runs in."""
    return write_job(tmp_path)


def test_two_nodes_compute_what_one_rank_computes(cluster: Cluster, run: Path, tmp_path: Path) -> None:
    odd = 'it\'s "a" %j #1 $(touch injected) é'
    job = cluster.submit(tmp_path, "--ntasks-per-node", "2", "--time", "00:30:00", "--set", f"run.out={odd}")
    (tmp_path / "job.toml").write_text("not read any more")
    state = cluster.ended(job)
    assert (state["JobState"], state["ExitCode"]) == ("COMPLETED", "0:0"), log(tmp_path / odd)
    assert (state["NumNodes"], state["NumTasks"]) == ("2", "4")
    assert not (tmp_path / "injected").exists()
    (tmp_path / "job.toml").write_text(JOB)
    alone = cluster.landscape(tmp_path, "run", "job.toml")
    assert alone.returncode == 0, alone.stderr
    assert values(tmp_path / odd) == values(run)


def test_told_to_stop_it_comes_back_and_computes_each_row_once(cluster: Cluster, run: Path, tmp_path: Path) -> None:
    job = cluster.submit(tmp_path, *SLOW, **NAP)
    wait_for(lambda: bool(shards(run)))
    cluster.ask("scancel", "--batch", "--signal=USR1", job)  # what Slurm sends ahead of the time limit
    cluster.begin_again(job)
    state = cluster.ended(job)
    assert (state["JobState"], state["Restarts"]) == ("COMPLETED", "1"), log(run)
    assert list(items(run)) == list(range(POINTS))


def test_cancelled_it_stays_ended_and_keeps_what_is_finished(cluster: Cluster, run: Path, tmp_path: Path) -> None:
    job = cluster.submit(tmp_path, *SLOW, **NAP)
    wait_for(lambda: bool(shards(run)))
    cluster.ask("scancel", job)
    assert cluster.ended(job)["JobState"] == "CANCELLED"
    wait_for(lambda: not cluster.ask("squeue", "--noheader"))
    assert "queued again" not in log(run)
    assert 0 < len(items(run)) < POINTS


def test_a_launcher_that_does_not_speak_to_the_mpi_library_is_refused(
    cluster: Cluster, run: Path, tmp_path: Path
) -> None:
    state = cluster.ended(cluster.submit(tmp_path, "--launcher", "srun", "--mpi", "none"))
    assert (state["JobState"], state["ExitCode"]) == ("FAILED", "2:0")
    assert "sees a world of 1" in log(run)


def test_what_sbatch_refuses_is_told(cluster: Cluster, run: Path, tmp_path: Path) -> None:
    done = cluster.landscape(tmp_path, "submit", "job.toml", "--partition", "nowhere")
    assert done.returncode == 2
    assert "nowhere" in done.stderr
    assert "sinfo -s" in done.stderr
    assert not run.parent.exists()
