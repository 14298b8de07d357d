"""Stages: what waits for what, what is finished, and one submission of them all."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from landscape_jobs.cli import app
from landscape_jobs.cluster.stages import command_finished, job_finished, load_stages
from landscape_jobs.spec.job import load_job
from landscape_jobs.spec.toml import read_toml
from test_slurm import directives
from typer.testing import CliRunner, Result

from landscape.errors import InputError

NETS = """
import torch
from torch import nn


def mlp():
    return nn.Linear(3, 2)


def data():
    return torch.ones(4, 3), torch.arange(4) % 2
"""
JOB = """
[model]
factory = "nets_of_stages:mlp"
checkpoint = "a.pt"
[data]
factory = "nets_of_stages:data"
[surface]
x = [-1, 1, 3]
[run]
out = "runs/one"
"""
SWEEP = 'job = "job.toml"\nout = "runs/sweep"\n[product]\n"plane.seed" = [0, 1]\n'
STAGES = """
[[stage]]
name = "measure"
job = "sweep.toml"
after = ["train"]
options = { ntasks-per-node = 2, launcher = "mpiexec" }

[[stage]]
name = "train"
command = "cp ready.pt a.pt"
options = { time = "00:10:00" }

[[stage]]
name = "one"
job = "job.toml"
after = ["train", "measure"]
"""
SBATCH = """#!/bin/bash
number=$(($(cat calls 2>/dev/null | wc -l) + 101))
[ "$number" != "$REFUSED" ] || { echo "sbatch: error: Invalid qos specification" >&2; exit 1; }
echo "${@: -1}" >>calls; echo "$number"
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with stages, and an sbatch that numbers jobs from 101; the current one."""
    folder = tmp_path / "größe [1]"
    (folder / "bin").mkdir(parents=True)
    for name, text in {
        "nets_of_stages.py": NETS,
        "job.toml": JOB,
        "sweep.toml": SWEEP,
        "study.toml": STAGES,
        "bin/sbatch": SBATCH,
    }.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "bin" / "sbatch").chmod(0o755)
    torch.save({"weight": torch.ones(2, 3), "bias": torch.zeros(2)}, folder / "ready.pt")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
    monkeypatch.setenv("SLURM_CONF", str(folder / "none"))  # no squeue answers
    monkeypatch.setenv("REFUSED", "none")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    threads = torch.get_num_threads()
    sys.modules.pop("nets_of_stages", None)
    yield folder
    sys.modules.pop("nets_of_stages", None)
    torch.set_num_threads(threads)


def landscape(*words: object) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(word) for word in words])


def scripts() -> list[str]:
    """The scripts that sbatch got, in order."""
    calls = Path("calls")
    return [Path(line).read_text() for line in calls.read_text().splitlines()] if calls.exists() else []


def run_script(script: str) -> int:
    Path("script.sh").write_text(script)
    environment = {**os.environ, "SLURM_JOB_ID": "101", "SLURM_JOB_NODELIST": "n1"}
    return subprocess.run(["bash", "script.sh"], env=environment, check=False, capture_output=True).returncode


# -- files of stages -------------------------------------------------------------------------------------------------


def test_a_stage_stands_behind_those_it_waits_for(home: Path) -> None:
    stages = load_stages("study.toml")
    assert [stage.name for stage in stages] == ["train", "measure", "one"]
    assert stages[0].folder == home / "study" / "train"
    assert stages[0].options == {"time": "00:10:00"}
    assert (stages[1].job, stages[1].command) == (home / "sweep.toml", None)
    assert stages[2].after == ("train", "measure")
    assert read_toml("study.toml").kind == "stages"
    assert read_toml("sweep.toml").kind == "sweep"


def stage(name: str, *lines: str) -> str:
    return "\n".join(["[[stage]]", f"name = '{name}'", *lines, ""])


RUN = "command = 'true'"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty; it is to be TOML"),
        ("stage = 3", "holds no stages"),
        ("out = 'x'\n" + stage("a", RUN), "'out' is unknown"),
        (stage("a b", RUN), "name = 'a b' of stage 1"),
        (stage("../a", RUN), "cannot be used"),
        (stage("a"), "needs one of job"),
        (stage("a", RUN, "job = 'x.toml'"), "needs one of job"),
        (stage("a", "command = 3"), "command = 3 is not a text"),
        (stage("a", RUN, "afer = 'b'"), "did you mean 'after'"),
        (stage("train", RUN) + stage("fit", RUN, "after = 'trian'"), "did you mean 'train'"),
        (stage("a", RUN) + stage("a", RUN), "two stages have the name 'a'"),
        (stage("a", RUN, "after = 'a'"), "a is after a"),
        (
            stage("x", RUN, "after = 'a'")
            + stage("a", RUN, "after = 'b'")
            + stage("b", RUN, "after = 'c'")
            + stage("c", RUN, "after = 'a'"),
            "a is after b is after c is after a",
        ),
        (stage("a", RUN, "options = { tim = '1' }"), "did you mean 'time'"),
        (stage("a", RUN, "options = { nodes = 0 }"), "nodes = 0 is not at least 1"),
        (stage("a", RUN, "options = 3"), "no table"),
        (stage("a", RUN, "after = 3"), "after = 3 is not a list"),
    ],
)
def test_what_are_no_stages_is_refused(home: Path, text: str, said: str) -> None:
    Path("study.toml").write_text(text)
    with pytest.raises(InputError, match=said) as raised:
        load_stages("study.toml")
    assert "study.toml" in str(raised.value)
    assert landscape("submit", "study.toml").exit_code == 2
    assert scripts() == []


# -- what is finished ------------------------------------------------------------------------------------------------


def test_a_command_is_finished_when_it_has_succeeded_as_it_stands(home: Path) -> None:
    train = load_stages("study.toml")[0]
    assert not command_finished(train)
    script = landscape("submit", "study.toml", "--environment", "").stdout
    assert script.startswith("submitted job 101 (stage train);")
    assert run_script(scripts()[0]) == 0
    assert Path("a.pt").read_bytes() == Path("ready.pt").read_bytes()
    assert command_finished(train)
    Path("study.toml").write_text(STAGES.replace("cp ready.pt", "cp -p ready.pt"))
    assert not command_finished(load_stages("study.toml")[0])


def test_a_job_is_finished_by_its_content(home: Path) -> None:
    Path("a.pt").write_bytes(Path("ready.pt").read_bytes())
    assert not job_finished(load_job("job.toml"))
    assert landscape("run", "job.toml").exit_code == 0
    assert job_finished(load_job("job.toml"))
    assert job_finished(load_job("job.toml", ["run.threads=1"]))
    result = landscape("submit", "job.toml")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "runs/one is complete; nothing to submit" in result.stderr
    assert scripts() == []
    assert not job_finished(load_job("job.toml", ["plane.seed=1"]))
    times = Path("a.pt").stat()
    time.sleep(0.02)
    Path("a.pt").write_bytes(Path("ready.pt").read_bytes())
    os.utime("a.pt", ns=(times.st_atime_ns, times.st_mtime_ns))  # as a copy may be
    assert not job_finished(load_job("job.toml"))


# -- submitting ------------------------------------------------------------------------------------------------------


def test_all_stages_are_submitted_in_order_each_after_those_it_waits_for(home: Path) -> None:
    result = landscape("submit", "study.toml", "--partition", "low", "--time", "5")
    assert result.exit_code == 0, result.output
    assert [line.split(";")[0].split(",")[0] for line in result.stdout.splitlines()] == [
        "submitted job 101 (stage train)",
        "submitted job 102 (stage measure)",
        "submitted job 103 (stage one)",
    ]
    train, measure, one = (directives(script) for script in scripts())
    assert "--dependency" not in train
    assert "--kill-on-invalid-dep" not in train
    assert measure["--dependency"] == "afterok:101"
    assert one["--dependency"] == "afterok:101:102"
    assert one["--kill-on-invalid-dep"] == "yes"
    assert (train["--ntasks-per-node"], measure["--ntasks-per-node"]) == ("1", "2")
    assert measure["--array"] == "0-1"
    assert {shown["--partition"] for shown in (train, measure, one)} == {"low"}
    assert train["--time"] == "5"  # what is nearer wins
    assert "command='cp ready.pt a.pt'" in scripts()[0]
    assert "--cell" in scripts()[1]
    assert (home / "study" / "train" / "submitted" / "001.txt").read_text() == "cp ready.pt a.pt\n"
    assert "do not exist yet" not in result.stderr  # the stage before makes it


def test_cells_whose_files_will_be_made_are_all_submitted(home: Path) -> None:
    """Two checkpoints may be the same bytes before they are trained, and others afterwards."""
    for name in ("a.pt", "b.pt"):
        Path(name).write_bytes(Path("ready.pt").read_bytes())
    Path("sweep.toml").write_text(SWEEP.partition("[product]")[0] + '[zip]\n"model.checkpoint" = ["a.pt", "b.pt"]\n')
    assert landscape("run", "sweep.toml").exit_code == 0
    result = landscape("submit", "study.toml")
    assert directives(scripts()[1])["--array"] == "0-1"
    assert "stage measure:" not in result.stderr


def test_a_stage_finds_its_environment_beside_its_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "env").mkdir()
    Path("study.toml").write_text(stage("a", RUN, "options = { environment = 'env' }"))
    monkeypatch.chdir(home / "bin")
    assert load_stages(home / "study.toml")[0].options == {"environment": str(home / "env")}


def test_options_of_a_stage_win_over_profiles(home: Path) -> None:
    Path("landscape-site.toml").write_text('time = "20"\npartition = "far"\ndependency = "afterany:7"\n')
    assert landscape("submit", "study.toml").exit_code == 0
    train, measure, _ = (directives(script) for script in scripts())
    assert (train["--time"], measure["--time"], train["--partition"]) == ("00:10:00", "20", "far")
    assert measure["--dependency"] == "afterany:7,afterok:101"


def test_finished_stages_are_left_out_until_what_they_build_on_is_made_anew(home: Path) -> None:
    Path("a.pt").write_bytes(Path("ready.pt").read_bytes())
    assert landscape("run", "sweep.toml").exit_code == 0
    assert landscape("run", "job.toml").exit_code == 0
    assert len(landscape("submit", "study.toml", "--environment", "").stdout.splitlines()) == 3
    assert run_script(scripts()[0]) == 0
    Path("a.pt").write_bytes(Path("ready.pt").read_bytes())  # written anew, with the same content
    Path("calls").unlink()
    result = landscape("submit", "study.toml")
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 1
    assert "/runs/one/" in result.stdout  # a file that this job names is newer than its result
    assert "stage train: its command has succeeded" in result.stderr
    assert "stage measure: 2 of 2 runs" in result.stderr
    assert "--dependency" not in directives(scripts()[0])
    assert landscape("run", "job.toml").exit_code == 0  # writes the result again
    Path("calls").unlink()
    result = landscape("submit", "study.toml")
    assert (result.exit_code, result.stdout) == (0, "")
    assert scripts() == []


def test_dry_run_shows_all_scripts_and_writes_nothing(home: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    result = landscape("submit", "study.toml", "--dry-run")
    assert result.exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*")} == before
    assert result.stdout.count("#!/bin/bash") == 3
    assert '--dependency="afterok:<train>:<measure>"' in result.stdout


def test_a_stage_that_sbatch_refuses_is_told_with_those_submitted(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFUSED", "102")
    result = landscape("submit", "study.toml")
    assert result.exit_code == 2
    assert "submitted job 101" in result.stdout
    assert "stage measure: sbatch refused" in result.stderr
    assert "scancel 101" in result.stderr
    assert len(scripts()) == 1
    assert not (home / "runs").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--no-requeue"], "stage measure would not wait for"),
        (["--set", "plane.seed=1"], "set values in their own files"),
        (["--array", "0-1"], "is for sweeps, whose cells"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_submitted(home: Path, words: list[str], said: str) -> None:
    result = landscape("submit", "study.toml", *words)
    assert result.exit_code == 2
    assert said in result.stderr
    assert scripts() == []
    assert not (home / "study").exists()


def test_how_many_at_once_is_for_sweeps_alone(home: Path) -> None:
    assert landscape("submit", "study.toml", "--array", "%2").exit_code == 0
    train, measure, one = (directives(script) for script in scripts())
    assert measure["--array"] == "0-1%2"
    assert "--array" not in train.keys() | one.keys()
    Path("study.toml").write_text(stage("a", RUN, "options = { array = '0-3' }"))
    result = landscape("submit", "study.toml")
    assert result.exit_code == 2
    assert "is for sweeps, whose cells" in result.stderr


def test_stages_are_not_run_here(home: Path) -> None:
    result = landscape("run", "study.toml")
    assert result.exit_code == 2
    assert "landscape submit" in result.stderr
