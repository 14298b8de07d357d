"""`landscape submit`: options and site profiles, sbatch's answers, and what is written where."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from landscape_jobs.cli import app
from landscape_jobs.cluster.options import Options, checked, option_names
from landscape_jobs.cluster.script import batch_script
from landscape_jobs.cluster.site import options_for, profiles, read_profile
from landscape_jobs.cluster.slurm import job_id, refusal, sbatch_environment
from landscape_jobs.spec.job import load_job
from test_slurm import directives, places
from typer.testing import CliRunner, Result

from landscape.errors import InputError

# -- options and profiles --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("nodes", 0, "at least 1"),
        ("nodes", True, "whole number"),
        ("ntasks-per-node", "two", "whole number"),
        ("gpus-per-task", -1, "at least 0"),
        ("signal-seconds", 70000, "from 1 to 65535"),
        ("time", "half an hour", "hours:minutes:seconds"),
        ("mem", "lots", "16G"),
        ("requeue", "yes", "true or false"),
        ("launcher", "aprun", "auto, srun, mpiexec"),
        ("mpi", "pmix; rm", "MPI type"),
        ("account", "a\nb", "line breaks"),
        ("sbatch", "exclusive", "option of sbatch"),
        ("sbatch", ["--exclusive\nrm -r"], "line breaks"),
        ("module", 3, "list of texts"),
    ],
)
def test_values_that_cannot_be_are_refused(name: str, value: Any, said: str) -> None:
    with pytest.raises(InputError, match=f"^here: .*{said}"):
        checked(name, value, "here")


@pytest.mark.parametrize("time", ["30", "30:00", "00:30:00", "1-12", "1-12:30", "1-12:30:00", "UNLIMITED"])
def test_times_slurm_takes(time: str) -> None:
    assert checked("time", time, "here") == time


@pytest.mark.parametrize(
    ("given", "lead"),
    [
        ({"time": "1"}, 12),
        ({"time": "0:30"}, 6),
        ({"time": "10"}, 120),
        ({"time": "0:04"}, 1),
        ({"time": "1-0"}, 120),
        ({"time": "UNLIMITED"}, 120),
        ({}, 120),
        ({"time": "10:00:00", "sbatch": ("--exclusive", "--time=5")}, 60),
        ({"time": "10:00:00", "sbatch": ("-t 00:02:00",)}, 24),
        ({"time": "10:00:00", "sbatch": ("--exclusive --time 0:30",)}, 6),
        ({"time": "10:00:00", "sbatch": ("-Ht2 # -t 1",)}, 24),
        ({"time": "00:10:00", "sbatch": ("--time-min=00:00:20",)}, 4),
        ({"time": "1", "sbatch": ("--time-min='10:00'", "--comment 'a -t 5 b'")}, 12),
        ({"sbatch": ("--time-m 1",)}, 12),
        ({"time": "1", "signal_seconds": 12}, 12),
        ({"signal_seconds": 5000}, 5000),
    ],
)
def test_a_job_is_told_to_stop_in_the_last_fifth_of_its_time(given: dict[str, Any], lead: int) -> None:
    options = Options(**given)
    assert options.lead == lead
    script = batch_script(options, places("/a"))
    assert f"#SBATCH --signal=B:USR1@{lead}\n" in script
    assert f"patience={max(1, 3 * lead // 4)} " in script


@pytest.mark.parametrize(
    "given", [{"time": "1", "signal_seconds": 13}, {"sbatch": ("--time=1-0",), "signal_seconds": 20_000}]
)
def test_a_signal_that_leaves_little_time_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"more than a fifth of the time limit of (60|86400) s.*at most (12|17280)"):
        Options(**given)


@pytest.mark.parametrize(
    ("line", "name", "way"),
    [
        ("--signal=B:USR1@600", "signal", "--signal-seconds"),
        ("--exclusive --signal USR1@600", "signal", "--signal-seconds"),
        ("--sig=USR1", "signal", "--signal-seconds"),
        ("--array=0-3", "array", "--array %N"),
        ("-a0-3", "array", "--array %N"),
        ("-n 4", "ntasks", "--ntasks-per-node"),
        ("--ntasks=4", "ntasks", "--ntasks-per-node"),
        ("-HN2", "nodes", "--nodes"),
        ("--tasks-per-node=2", "tasks-per-node", "--ntasks-per-node"),
        ("-c=4", "cpus-per-task", "--cpus-per-task"),
        ("--no-requeue", "no-requeue", "--no-requeue"),
        ("--requeue", "requeue", "--requeue"),
        ("-d afterok:3", "dependency", "--dependency"),
        ("-o 'a b.log'", "output", "folder of the run"),
        ("--open-mode=truncate", "open-mode", "its log"),
    ],
)
def test_lines_for_sbatch_that_the_script_relies_on_are_refused(line: str, name: str, way: str) -> None:
    with pytest.raises(InputError, match=rf"gives --{name}, which .*: .*{way}"):
        Options(time="10", sbatch=("--exclusive", line))


def test_lines_for_sbatch_that_say_something_else_are_taken() -> None:
    lines = ("--exclusive", "--nodelist=a,b", "-w a", "-p gpu", "--mem 4G", "--no-kill", "--comment='-t 5'", "-x b")
    assert Options(time="10", sbatch=lines).lead == 120
    with pytest.raises(InputError, match="No closing quotation"):
        Options(sbatch=("--comment='a",))


@pytest.mark.parametrize(
    "given", [{"time": "10", "sbatch": ("--time-min=60:00:00", "-t 1")}, {"sbatch": ("--exclusive --time-min=1",)}]
)
def test_a_signal_is_compared_with_whatever_says_the_limit(given: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"120 are more than a fifth of the time limit of 60 s"):
        Options(**given, signal_seconds=120)


@pytest.mark.parametrize("name", ["node", "ntasks_per_node", "zzz"])
def test_unknown_options_are_answered_with_the_nearest_and_all(name: str) -> None:
    with pytest.raises(InputError) as raised:
        checked(name, 1, "here")
    assert all(known in str(raised.value) for known in option_names())
    assert name == "zzz" or "did you mean" in str(raised.value)


def test_what_is_nearer_wins_option_by_option() -> None:
    layers = {
        "command line": {"nodes": 3, "module": ["near"], "gres": ""},
        "project": {"nodes": 2, "time": "10", "module": ["far", "further"], "gres": "gpu:1"},
        "user": {"nodes": 1, "time": "20", "partition": "low"},
    }
    options = options_for({"cpus-per-task": 4, "nodes": 9}, layers, Path("/"))
    assert options == Options(nodes=3, time="10", partition="low", cpus_per_task=4, module=("near",), gres=None)


def test_gpus_the_sites_way_replace_the_implied_ones() -> None:
    implied = {"gpus-per-task": 1}
    assert options_for(implied, {"a": {"gres": "gpu:4"}}, Path("/")).gpus_per_task is None
    assert options_for(implied, {"a": {"gres": "gpu:4", "gpus-per-task": 2}}, Path("/")).gpus_per_task == 2
    assert options_for(implied, {"a": {}}, Path("/")).gpus_per_task == 1
    assert "--gpus-per-task" not in batch_script(Options(gpus_per_task=0), places("/r"))


def test_mpi_without_srun_is_refused() -> None:
    with pytest.raises(InputError, match="leave one of the two out"):
        Options(launcher="mpiexec", mpi="pmix")


def test_profiles_are_found_beside_above_and_at_home(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b"
    user = tmp_path / "config" / "landscape" / "site.toml"
    for folder in (deep, user.parent):
        folder.mkdir(parents=True)
    variables = {"XDG_CONFIG_HOME": str(tmp_path / "config"), "HOME": str(tmp_path / "home")}
    assert profiles(deep / "job.toml", variables) == ()
    user.write_text("")
    (tmp_path / "landscape-site.toml").write_text("")
    assert profiles(deep / "job.toml", variables) == (tmp_path / "landscape-site.toml", user)
    (deep / "landscape-site.toml").write_text("")
    assert profiles(deep / "job.toml", variables) == (deep / "landscape-site.toml", user)
    home = tmp_path / "home" / ".config" / "landscape"
    home.mkdir(parents=True)
    (home / "site.toml").write_text("")
    assert profiles(deep / "job.toml", {"HOME": str(tmp_path / "home")})[1] == home / "site.toml"


def test_profile_says_where_a_mistake_is(tmp_path: Path) -> None:
    file = tmp_path / "landscape-site.toml"
    file.write_text('partition = "gpu"\nmodule = "gcc"\nenvironment = "env"\n')
    assert read_profile(file) == {"partition": "gpu", "module": ("gcc",), "environment": str(tmp_path / "env")}
    for text, said in (("parttion = 'x'", "did you mean 'partition'"), ("nodes = 1.5", "whole number"), ("=", "TOML")):
        file.write_text(text)
        with pytest.raises(InputError, match=said) as raised:
            read_profile(file)
        assert str(file) in str(raised.value)
    file.write_text("nodes = 0\nparttion = 'x'\ntime = 'soon'\n")
    with pytest.raises(InputError) as raised:
        read_profile(file)
    for said in ("nodes = 0", "did you mean 'partition'", "time = 'soon'"):
        assert said in str(raised.value)
    assert str(raised.value).count(str(file)) == 1


# -- sbatch's side ---------------------------------------------------------------------------------------------------


def test_answers_of_sbatch() -> None:
    assert job_id("12\n") == ("12", None)
    assert job_id("12;alps\n") == ("12", "alps")
    assert job_id("a note of the site\n34\n") == ("34", None)
    with pytest.raises(InputError, match="squeue --me"):
        job_id("Submitted\n")


@pytest.mark.parametrize(
    ("message", "way"),
    [
        ("sbatch: error: invalid partition specified: x", "sinfo -s"),
        ("sbatch: error: Batch job submission failed: Invalid account or account/partition combination", "sacctmgr"),
        ("Requested time limit is invalid (missing or exceeds some limit)", "%l"),
        ("Batch job submission failed: Requested node configuration is not available", "%G"),
        ("something new", "--dry-run"),
    ],
)
def test_a_refusal_is_told_with_its_text_and_a_way_out(message: str, way: str) -> None:
    assert message in refusal(message)
    assert way in refusal(message)


def test_variables_that_would_win_over_the_script_are_taken_out() -> None:
    variables = {"SBATCH_ACCOUNT": "mine", "SBATCH_TIMELIMIT": "5", "SBATCH_SIGNAL": "B:INT@9", "PATH": "/bin"}
    kept = sbatch_environment(variables, Options(time="10"))
    assert kept == {"SBATCH_ACCOUNT": "mine", "PATH": "/bin"}
    assert sbatch_environment({"SBATCH_TIMELIMIT": "1", "SBATCH_ARRAY_INX": "0-9"}, Options()) == {}


# -- the command -----------------------------------------------------------------------------------------------------

JOB = """
[model]
factory = "nets:mlp"
[data]
factory = "nets:data"
[surface]
x = [-1, 1, 5]
[run]
out = "runs/small"
"""
SBATCH = """#!/bin/bash
PATH=/usr/bin:/bin
[ -z "$REFUSE" ] || { echo "sbatch: error: Invalid qos specification" >&2; exit 1; }
echo "$*" >>calls; env >variables
echo "77;alps"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a job, and an sbatch that takes it; the current one."""
    home = tmp_path / "größe [1]"
    (home / "bin").mkdir(parents=True)
    (home / "job.toml").write_text(JOB, encoding="utf-8")
    (home / "bin" / "sbatch").write_text(SBATCH)
    (home / "bin" / "sbatch").chmod(0o755)
    monkeypatch.chdir(home)
    monkeypatch.setenv("PATH", str(home / "bin"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    monkeypatch.delenv("REFUSE", raising=False)
    return home


def landscape(*words: object) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(word) for word in words])


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_submit_keeps_the_job_as_it_is_now(folder: Path) -> None:
    result = landscape(
        "submit", "job.toml", "--nodes", 2, "--set", "surface.x=[-1,1,7]", "--module", "a", "--module", "b"
    )
    assert result.exit_code == 0, result.output
    kept = folder / "runs" / "small" / "submitted"
    assert "submitted job 77 to alps" in result.stdout
    assert str(kept / "001.log") in result.stdout
    assert (folder / "calls").read_text() == f"--parsable {kept / '001.sh'}\n"
    assert json.loads((kept / "001.json").read_text()) == {
        "job_id": "77",
        "cluster": "alps",
        "options": {"nodes": 2, "module": ["a", "b"]},
    }
    assert "for module in a b; do" in (kept / "001.sh").read_text()
    (folder / "job.toml").write_text("")
    job = load_job(kept / "001.toml")
    assert job.table.arguments()["x"] == (-1, 1, 7)
    assert job.out == folder / "runs" / "small"


def test_submissions_are_numbered(folder: Path) -> None:
    for _ in range(2):
        assert landscape("submit", "job.toml").exit_code == 0
    kept = folder / "runs" / "small" / "submitted"
    assert {path.name for path in kept.iterdir()} == {f"00{i}.{e}" for i in (1, 2) for e in ("json", "sh", "toml")}
    assert str(kept / "002.toml") in (kept / "002.sh").read_text()


def test_dry_run_shows_the_script_and_writes_nothing(folder: Path) -> None:
    before = files(folder)
    result = landscape("submit", "job.toml", "--nodes", 2, "--dry-run")
    assert result.exit_code == 0
    assert files(folder) == before
    assert landscape("submit", "job.toml", "--nodes", 2).exit_code == 0
    assert (folder / "runs" / "small" / "submitted" / "001.sh").read_text() == result.stdout


def test_refused_by_sbatch_nothing_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFUSE", "yes")
    before = files(folder)
    result = landscape("submit", "job.toml", "--qos", "none")
    assert result.exit_code == 2
    assert "Invalid qos specification" in result.stderr
    assert "sacctmgr" in result.stderr
    assert files(folder) == before
    assert not (folder / "runs").exists()


def test_a_time_limit_of_the_shell_is_one_that_the_signal_is_ahead_of(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBATCH_TIMELIMIT", "1")
    shown = landscape("submit", "job.toml", "--dry-run")
    assert "#SBATCH --time=1\n" in shown.stdout
    assert "#SBATCH --signal=B:USR1@12\n" in shown.stdout
    assert "USR1@120" in landscape("submit", "job.toml", "--dry-run", "--time", "10").stdout  # what is nearer wins
    refused = landscape("submit", "job.toml", "--dry-run", "--signal-seconds", "60")
    assert refused.exit_code == 2
    assert "more than a fifth of the time limit of 60 s" in refused.stderr


def test_without_sbatch_it_says_so(folder: Path) -> None:
    (folder / "bin" / "sbatch").unlink()
    result = landscape("submit", "job.toml")
    assert result.exit_code == 2
    assert "there is no sbatch" in result.stderr
    assert landscape("submit", "job.toml", "--dry-run").exit_code == 0


def test_profiles_and_the_command_line(folder: Path) -> None:
    (folder / "config" / "landscape").mkdir(parents=True)
    (folder / "config" / "landscape" / "site.toml").write_text('account = "mine"\ntime = "10"\nnodes = 4\n')
    (folder / "landscape-site.toml").write_text('time = "20"\nnodes = 3\n')
    shown = directives(landscape("submit", "job.toml", "--nodes", 2, "--dry-run").stdout)
    assert (shown["--account"], shown["--time"], shown["--nodes"]) == ("mine", "20", "2")
    result = landscape("submit", "job.toml")
    assert "landscape-site.toml" in result.stderr
    assert "site.toml" in result.stderr


@pytest.mark.parametrize("words", [["--nodess", "2"], ["--nodess=2"], ["--nodes", "0"], ["extra.toml"]])
@pytest.mark.parametrize("first", [True, False])
def test_what_is_no_option_is_refused_with_the_valid_ones(folder: Path, words: list[str], first: bool) -> None:
    before = files(folder)
    result = landscape("submit", *(words if first else []), "job.toml", *([] if first else words))
    assert result.exit_code == 2
    assert files(folder) == before
    if words[0].startswith("--nodess"):
        assert "did you mean 'nodes'" in result.stderr
        assert "ntasks-per-node" in result.stderr


def test_a_bad_job_is_refused_before_it_is_queued(folder: Path) -> None:
    for words, said in (
        (["--set", "surface.x=[0,1]"], "a range is three numbers"),
        (["--set", "run.ranks_per_item=2", "--nodes", 3], "does not divide the 3 ranks"),
        (["--set", "run.threads=4", "--cpus-per-task", 2], "share cores"),
        (["--set", "run.item_seconds=50", "--time", "1"], "more than the 48 s that a job has"),
        (["--environment", "nowhere"], "does not exist"),
    ):
        result = landscape("submit", "job.toml", *words)
        assert result.exit_code == 2
        assert said in result.stderr
    assert not (folder / "calls").exists()
    assert not (folder / "runs").exists()


def test_what_the_job_implies(folder: Path) -> None:
    words = ["--set", "run.threads=4", "--set", "objective.device=cuda", "--dry-run"]
    script = landscape("submit", "job.toml", *words).stdout
    shown = directives(script)
    assert (shown["--cpus-per-task"], shown["--gpus-per-task"]) == ("4", "1")
    assert sys.prefix == sys.base_prefix or f"environment={shlex.quote(sys.prefix)}" in script
    assert "--gpus-per-task" not in directives(landscape("submit", "job.toml", *words, "--gres", "gpu:2").stdout)


def test_without_options_none_are_told_and_profiles_keep_their_lists(folder: Path) -> None:
    assert "options from" not in landscape("submit", "job.toml").stderr
    (folder / "landscape-site.toml").write_text('module = ["gcc"]\n')
    result = landscape("submit", "job.toml", "--set", "run.out=other")
    assert "options from: site profile" in result.stderr
    assert "for module in gcc; do" in (folder / "other" / "submitted" / "001.sh").read_text()


def test_what_is_kept_is_submitted_again_with_its_options(folder: Path) -> None:
    (folder / "landscape-site.toml").write_text('time = "20"\npartition = "far"\n')
    words = ("--time", "5", "--module", "a", "--mem", "2G", "--dependency", "afterok:3")
    assert landscape("submit", "job.toml", *words).exit_code == 0
    kept = folder / "runs" / "small" / "submitted"
    result = landscape("submit", kept / "001.toml", "--mem", "4G")
    assert result.exit_code == 0, result.output
    again = (kept / "002.sh").read_text()
    shown = directives(again)
    assert (shown["--time"], shown["--mem"], shown["--partition"]) == ("5", "4G", "far")
    assert "for module in a; do" in again
    assert "--dependency" not in shown
    assert "001.json" in result.stderr
    assert landscape("submit", kept / "002.toml").exit_code == 0
    assert (kept / "003.sh").read_text() == again.replace("002.", "003.")


@pytest.mark.parametrize(("state", "refused"), [("PENDING", True), ("RUNNING", True), ("COMPLETED", False)])
@pytest.mark.parametrize("task", ["N/A", "3"])
def test_what_is_in_the_queue_is_not_submitted_again(folder: Path, state: str, refused: bool, task: str) -> None:
    assert landscape("submit", "job.toml").exit_code == 0
    lines = f"CLUSTER: alps\n78 |77 |{task} |{state} |None |0 |\n"
    (folder / "bin" / "squeue").write_text(f"#!/bin/bash\nprintf '%s' '{lines}'\n")
    (folder / "bin" / "squeue").chmod(0o755)
    before = files(folder)
    result = landscape("submit", "job.toml")
    assert result.exit_code == (2 if refused else 0), result.output
    if refused:
        assert "job 77" in result.stderr
        assert state in result.stderr
        assert "scancel --clusters=alps 77" in result.stderr
        assert files(folder) == before
    assert landscape("submit", "job.toml", "--dry-run").exit_code == 0


def test_how_many_cells_at_once_is_not_for_a_single_job(folder: Path) -> None:
    result = landscape("submit", "job.toml", "--array", "%4")
    assert result.exit_code == 2
    assert "--array %4 says how many cells" in result.stderr
    result = landscape("submit", "job.toml", "--array", "0-3")
    assert result.exit_code == 2
    assert "array = '0-3' is for sweeps" in result.stderr
    assert not (folder / "calls").exists()
    (folder / "landscape-site.toml").write_text('array = "%4"\n')
    assert "--array" not in directives(landscape("submit", "job.toml", "--dry-run").stdout)
