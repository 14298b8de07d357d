"""A real Slurm that takes the nodes away: at the end of the time limit, and for a job of higher priority."""

from __future__ import annotations

from pathlib import Path

import pytest
from slurm_cluster import Cluster, log, wait_for
from small_job import items, points, shards, write_job

pytestmark = pytest.mark.slurm

SRUN = ["--launcher", "srun", "--mpi", "pmix"]


def test_a_time_limit_that_is_too_short_is_met_and_gone_on_after(cluster: Cluster, tmp_path: Path) -> None:
    """Slurm looks at limits every 30 s and signals up to 30 s early: here after 25 to 55 s.

    So an attempt is told to stop within 55 s of its start, and 60 s of work on two ranks need at least one more.
    """
    run = write_job(tmp_path)
    job = cluster.submit(tmp_path, *points(60), *SRUN, "--time", "1", "--signal-seconds", "5", NAP="0.05")
    state = cluster.ended_for_good(job)
    assert state["JobState"] == "COMPLETED", log(run)
    assert int(state["Restarts"]) >= 1
    assert list(items(run)) == list(range(40 * 60))


def test_a_job_of_higher_priority_takes_the_nodes_and_gives_them_back(cluster: Cluster, tmp_path: Path) -> None:
    run = write_job(tmp_path)
    job = cluster.submit(tmp_path, *points(10), *SRUN, NAP="0.1")
    wait_for(lambda: bool(shards(run)))
    urgent = ["--partition", "high", "--nodes", "2", "--exclusive", "--output", "/dev/null", "--wrap", "sleep 2"]
    other = cluster.ask("sbatch", "--parsable", *urgent)
    state = cluster.ended_for_good(job)
    assert (state["JobState"], state["Restarts"]) == ("COMPLETED", "1"), log(run)
    between = cluster.about(other)
    assert between["JobState"] == "COMPLETED"
    assert between["EndTime"] <= state["StartTime"]
    assert list(items(run)) == list(range(400))
