"""Sweeps as job arrays, and stages, on a real Slurm."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import xarray
from slurm_cluster import Cluster, wait_for
from small_job import items, points, write_job

pytestmark = pytest.mark.slurm


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_job(tmp_path)


SWEEP = 'job = "job.toml"\nout = "runs/sweep"\n'


def submitted(cluster: Cluster, folder: Path, *words: str, **variables: str) -> list[str]:
    """Numbers of the jobs that a submission of a sweep or of stages made."""
    done = cluster.landscape(folder, "submit", *words, **variables)
    assert done.returncode == 0, done.stderr
    return re.findall(r"^submitted job (\d+)", done.stdout, flags=re.MULTILINE)


def gone(cluster: Cluster, job: str) -> bool:
    """Whether no task of a job is queued or runs any more."""
    return not cluster.ask("squeue", "--noheader", "--jobs", job)


def test_an_array_of_six_cells_of_which_two_fail(cluster: Cluster, run: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.pt").write_text("no checkpoint")
    (tmp_path / "bad_nets.py").write_text("def mlp():\n    raise ArithmeticError('an unlucky net')\n")
    cells = [f'"plane.seed" = {seed}' for seed in range(4)]
    cells[1:1] = ['"model.checkpoint" = "bad.pt"', '"model.factory" = "bad_nets:mlp"']
    (tmp_path / "sweep.toml").write_text(SWEEP + "".join(f"[[cell]]\n{cell}\n" for cell in cells))
    (job,) = submitted(cluster, tmp_path, "sweep.toml", "--array", "%3")
    wait_for(lambda: gone(cluster, job))
    status = json.loads(cluster.landscape(tmp_path, "status", "runs/sweep", "--json").stdout)
    states = [found["state"] for found in status["runs"]]
    assert states == ["complete"] + ["failed"] * 2 + ["complete"] * 3
    assert f"checkpoint {tmp_path / 'bad.pt'} " in str(status["runs"][1])
    assert "an unlucky net" in str(status["runs"][2])
    merged = cluster.landscape(tmp_path, "merge", "runs/sweep", "-o", "sweep.h5")
    assert merged.returncode == 0, merged.stderr
    with xarray.open_datatree(tmp_path / "sweep.h5") as tree:
        assert tree["state"].to_numpy().tolist() == states
        names = tree["name"].to_numpy().tolist()
        assert ["surface" in tree[name].children for name in names] == [state == "complete" for state in states]
        assert all(tree[name]["surface"]["computed"].all() for name in names[3:])
    # only what failed is submitted again
    (again,) = submitted(cluster, tmp_path, "runs/sweep/submitted/001.toml")
    assert (tmp_path / "runs" / "sweep" / "submitted" / "002.sh").read_text().count("#SBATCH --array=1-2%3\n") == 1
    wait_for(lambda: gone(cluster, again))


def test_a_task_of_an_array_comes_back_alone(cluster: Cluster, run: Path, tmp_path: Path) -> None:
    (tmp_path / "sweep.toml").write_text(SWEEP + '[product]\n"plane.seed" = [0, 1]\n')
    (job,) = submitted(cluster, tmp_path, "sweep.toml", *points(4), NAP="0.1")
    home = tmp_path / "runs" / "sweep"
    wait_for(lambda: len({path.parent for path in home.glob("*/shards/*.npz")}) == 2)
    # the one that has the number of the whole array
    tasks = [line.split() for line in cluster.ask("squeue", "--noheader", "--format=%A %K", "--jobs", job).splitlines()]
    (last,) = (task for number, task in tasks if number == job)
    cluster.ask("scancel", "--batch", "--signal=USR1", f"{job}_{last}")
    wait_for(lambda: cluster.about(f"{job}_{last}")["JobState"] == "PENDING")
    wait_for(lambda: not any(f"slurmstepd: [{job}." in words for words in cluster.processes().values()))
    cluster.ask("scontrol", "update", f"JobId={job}_{last}", "StartTime=now+3")
    wait_for(lambda: gone(cluster, job))
    other = f"{job}_{1 - int(last)}"
    assert (cluster.about(f"{job}_{last}")["Restarts"], cluster.about(other)["Restarts"]) == ("1", "0")
    for cell in home.glob("seed=*"):
        assert items(cell).tolist() == list(range(160))


def test_stages_follow_one_another(cluster: Cluster, run: Path, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(
        "import sys, time, torch, nets\ntime.sleep(2)\ntorch.save(nets.mlp().state_dict(), sys.argv[1])\n"
    )
    checkpoints = '[product]\n"model.checkpoint" = ["a.pt", "b.pt"]\n'
    (tmp_path / "sweep.toml").write_text(SWEEP + checkpoints)
    (tmp_path / "study.toml").write_text(
        "[[stage]]\nname = 'train'\ncommand = 'python train.py a.pt; python train.py b.pt'\n"
        "[[stage]]\nname = 'measure'\njob = 'sweep.toml'\nafter = 'train'\n"
        "[[stage]]\nname = 'never'\ncommand = 'touch never'\nafter = ['fail']\n"
        "[[stage]]\nname = 'fail'\ncommand = 'false; true'\n"
    )
    train, measure, fail, never = submitted(cluster, tmp_path, "study.toml")
    wait_for(lambda: gone(cluster, measure))
    assert cluster.ended(train)["JobState"] == "COMPLETED"
    assert len(list((tmp_path / "runs" / "sweep").glob("*/landscape.h5"))) == 2
    assert cluster.ended(fail)["JobState"] == "FAILED"
    assert cluster.ended(never)["JobState"] == "CANCELLED"
    assert not (tmp_path / "never").exists()
    done = cluster.landscape(tmp_path, "submit", "study.toml", "--dry-run")
    assert done.stdout.count("#!/bin/bash") == 2  # those that did not end well
