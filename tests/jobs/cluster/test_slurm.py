"""Batch scripts: golden texts, and what bash makes of them among stand-ins for Slurm's programs."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import GUARD
from landscape_jobs.cluster.options import Options
from landscape_jobs.cluster.script import Places, batch_script, command_script, sbatch_quoted
from landscape_jobs.cluster.slurm import array_of

from landscape.errors import InputError

GOLDEN = Path(__file__).parents[2] / "golden"
ODD = 'it\'s a "run" %j #1 $(touch injected) `touch injected` ; & é'


def places(run: Path | str) -> Places:
    folder = Path(run) / "submitted"
    files = (folder / f"001{ending}" for ending in (".toml", ".sh", ".log"))
    return Places(Path(run).name, Path(run), *files)


# -- the text --------------------------------------------------------------------------------------------------------

SCRIPTS = {
    "one_rank": (Options(), "/home/ada/runs/resnet20"),
    "two_nodes": (Options(nodes=2, ntasks_per_node=2, time="00:30:00"), "/home/ada/runs/resnet20"),
    "everything": (
        Options(
            nodes=4,
            ntasks_per_node=8,
            cpus_per_task=7,
            gpus_per_task=1,
            gres="gpu:a100:8",
            partition="gpu",
            account="deep thought",
            qos="long",
            time="1-12:00:00",
            mem="200G",
            array="0-9%2",
            dependency="afterok:17",
            requeue=False,
            mail_type="END,FAIL",
            mail_user="ada@example.org",
            module=("gcc/13", "openmpi/5.0 (site's)"),
            environment="/home/ada/my env",
            sbatch=("--exclusive", '--comment="to be read"'),
            launcher="srun",
            mpi="pmix_v5",
            signal_seconds=300,
        ),
        "/home/ada/runs/resnet20",
    ),
    "mpiexec": (Options(ntasks_per_node=16, launcher="mpiexec", cpus_per_task=2), "/home/ada/runs/resnet20"),
    "odd_characters": (Options(module=(ODD,), environment=f"/home/{ODD}", account=ODD), f"/home/ada/{ODD}"),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_is_the_golden_one(name: str) -> None:
    options, run = SCRIPTS[name]
    assert batch_script(options, places(run)) == (GOLDEN / f"{name}.sh").read_text(encoding="utf-8")


SWEEP = Options(array="0-2,5%2", time="00:30:00")
COMMAND = f"python train.py --note {shlex.quote(ODD)}\ncp a.pt b.pt"


def test_scripts_of_a_sweep_and_of_a_command_are_the_golden_ones() -> None:
    run = places("/home/ada/runs/resnet20")
    assert batch_script(SWEEP, run, cells=True) == (GOLDEN / "sweep.sh").read_text(encoding="utf-8")
    text = command_script(Options(gpus_per_task=1), run, COMMAND, Path(f"/home/{ODD}"), "0123abcd")
    assert text == (GOLDEN / "command.sh").read_text(encoding="utf-8")
    assert "--signal" not in text  # which would end the command


@pytest.mark.parametrize(
    ("numbers", "at_once", "shown"),
    [
        ([0], None, "0"),
        ([3, 1, 2, 0], None, "0-3"),
        ([0, 2, 4, 5], "%2", "0,2,4-5%2"),
        ([7, 9, 10, 11], "%12", "7,9-11%12"),
    ],
)
def test_indices_of_an_array(numbers: list[int], at_once: str | None, shown: str) -> None:
    assert array_of(numbers, at_once) == shown


@pytest.mark.parametrize("at_once", ["0-3", "4", "%0", "%", "1-9%2"])
def test_of_a_sweep_only_how_many_run_at_once_is_asked(at_once: str) -> None:
    with pytest.raises(InputError, match="--array %4"):
        array_of([0, 1], at_once)


@pytest.mark.parametrize("name", [*SCRIPTS, "sweep", "command"])
def test_bash_can_read_it(name: str) -> None:
    done = subprocess.run(["bash", "-n", GOLDEN / f"{name}.sh"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def directives(script: str) -> dict[str, str]:
    """Options of the #SBATCH lines, read by Python's own parser of shell words, as sbatch(1) reads them."""
    lines = [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")]
    words = [shlex.split(line, comments=True) for line in lines]
    assert all(len(word) == 1 for word in words)
    pairs = [word[0].partition("=") for word in words]
    return {flag: value for flag, _, value in pairs}


@pytest.mark.parametrize("value", ["a b", "a#b", 'a"b', "a'b", "a\\b", "é", "$(x)", "`x`", "#", "a  b", ODD, "50%"])
def test_a_directive_means_itself(value: str) -> None:
    assert shlex.split(sbatch_quoted(value), comments=True) == [value]


def test_directives_before_the_first_command_and_traps_first() -> None:
    lines = batch_script(*_case("everything")).splitlines()
    last = max(i for i, line in enumerate(lines) if line.startswith("#SBATCH"))
    assert all(line.startswith("#") for line in lines[: last + 1])
    assert lines[last + 1].startswith("trap ")
    assert "USR1" in lines[last + 1]


def test_log_of_a_path_with_per_cent_and_of_an_array() -> None:
    assert directives(batch_script(*_case("odd_characters")))["--output"] == (
        str(places(f"/home/ada/{ODD}").log).replace("%", "%%")
    )
    assert directives(batch_script(*_case("everything")))["--output"].endswith("/submitted/001-%a.log")


def _case(name: str) -> tuple[Options, Places]:
    options, run = SCRIPTS[name]
    return options, places(run)


@pytest.mark.parametrize("run", ["/home/a\nb", "/home/a\\b", "/home/a\tb"])
def test_paths_no_script_can_name_are_refused(run: str) -> None:
    with pytest.raises(InputError, match="name another run folder"):
        places(run)


# -- what bash makes of it: stand-ins for Slurm's programs, and for the run ------------------------------------------

STANDINS = {
    "scontrol": """
if [[ $* = *show* ]]; then echo "JobId=12 PreemptTime=$PREEMPTED Partition=low"; exit; fi
echo "scontrol $*" >>"$CALLS"; exit "$REQUEUE_CODE"
""",
    "sbatch": 'echo "sbatch $*" >>"$CALLS"; echo "34;alps"; exit "$SBATCH_CODE"',
    # a trial, which holds python3, succeeds for the process interface that the MPI library speaks
    "srun": """
echo "srun $*" >>"$CALLS"
[[ $* != *"=1 true" ]] || exit "$NODES_CODE"
[[ $* != *python3* ]] || { [[ "$* " == *"--mpi=$SPEAKS "* ]]; exit; }
while [[ $1 == -* ]]; do shift; done
exec "$@"
""",
    "sleep": "exec /bin/sleep 0.05",
    "mpiexec": """
if [[ $* = *"-n 1 true" ]]; then
  echo >>"$CALLS.trials"; [ -z "$SLURM_JOB_ID" ] || exit 9
  (($(wc -l <"$CALLS.trials") == SURVIVORS_TRIAL)) || { echo "no such option"; exit 1; }
  exit 0
fi
echo "mpiexec $*" >>"$CALLS"
mkdir -p "$PRTE_MCA_prte_tmpdir_base"; echo "$PRTE_MCA_prte_tmpdir_base" >"$CALLS.sessions"
[ "$1" != --with-ft ] || shift 2
shift 4; exec "$@"
""",
    # ends with CODE; with CODE = wait, goes on until it is told to stop, and then ends with STOP_CODE
    "landscape": """
printf '%s\\0' "$@" >"$CALLS.arguments"; echo "$OMP_NUM_THREADS" >"$CALLS.threads"
if [[ $* = *--note-folder* ]]; then
  [ -z "$NOWHERE" ] || exit 0
  mkdir -p "$RUN_FOLDER"; echo >"$RUN_FOLDER/cell.json"
  echo "$RUN_FOLDER" >"${@: -1}"
fi
[ -n "$LOST" ] || echo >"$RUN_FOLDER/landscape.h5"
[ -z "$ROW" ] || { /bin/sleep 0.05; echo >"$RUN_FOLDER/shards"; }
[ "$CODE" = wait ] || exit "$CODE"
trap 'if [ -n "$FINISHED" ]; then echo row >"$RUN_FOLDER/shards"; fi; exit "$STOP_CODE"' USR1
echo >"$CALLS.running"
while :; do sleep 0.02; done
""",
}


class Machine:
    """A folder with the stand-ins, and a run folder of an odd name."""

    def __init__(self, folder: Path) -> None:
        self.run = folder / ODD
        (self.run / "submitted").mkdir(parents=True)
        (self.run / "attempts").mkdir()
        (self.run / "shards-of-before").touch()
        os.utime(self.run / "shards-of-before", (0, 0))
        self.places = places(self.run)
        self.log = folder / "calls"
        self.folder = folder
        programs = folder / "bin"
        programs.mkdir()
        for name, text in STANDINS.items():
            (programs / name).write_text(f"#!/bin/bash\n{text}\n")
            (programs / name).chmod(0o755)
        self.environment = {
            "PATH": f"{programs}:/usr/bin:/bin",
            "CALLS": str(self.log),
            "RUN_FOLDER": str(self.run),
            "SLURM_JOB_ID": "12",
            "SLURM_JOB_NODELIST": "n[1-2]",
            "SLURM_CPUS_PER_TASK": "3",
            "SPEAKS": "pmix",
            "FINISHED": "yes",
            "REQUEUE_CODE": "0",
            "SBATCH_CODE": "0",
            "STOP_CODE": "3",
            "SURVIVORS_TRIAL": "0",
            "NODES_CODE": "0",
            "PREEMPTED": "None",
        }

    def start(self, options: Options, *, cells: bool = False, **environment: str) -> subprocess.Popen[str]:
        self.places.script.write_text(batch_script(options, self.places, cells=cells), encoding="utf-8")
        return subprocess.Popen(
            ["bash", str(self.places.script)],
            env=self.environment | environment,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def finish(
        self, options: Options, *signals: signal.Signals, cells: bool = False, **environment: str
    ) -> tuple[int, str]:
        """(exit code, log) of a script that gets `signals` once the run is under way."""
        process = self.start(options, cells=cells, **environment)
        try:
            if signals:
                self.wait_for_the_run()
            for number in signals:
                process.send_signal(number)
            log, _ = process.communicate(timeout=GUARD)
        finally:
            with contextlib.suppress(ProcessLookupError):  # of what the script started nothing outlives the test
                os.killpg(process.pid, signal.SIGKILL)
        return process.returncode, log

    def wait_for_the_run(self) -> None:
        end = time.monotonic() + GUARD
        while not Path(f"{self.log}.running").exists():
            assert time.monotonic() < end
            time.sleep(0.01)

    @property
    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4])
def test_a_run_that_ends_by_itself_ends_the_job_with_its_code(machine: Machine, code: int) -> None:
    ended, _ = machine.finish(Options(), CODE=str(code))
    assert ended == code
    assert machine.calls == []
    assert Path(f"{machine.log}.arguments").read_text() == f"run\0{machine.places.job}\0"
    assert Path(f"{machine.log}.threads").read_text() == "3\n"


def test_complete_is_what_has_a_result_whatever_the_launcher_says(machine: Machine) -> None:
    """srun ends with 0 where "task launch failed"."""
    code, log = machine.finish(Options(), CODE="0", LOST="yes")
    assert code == 1
    assert "there is no " in log


def test_nothing_in_a_path_or_an_option_is_run(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    options = Options(account=ODD, environment="/dev/null $(touch injected)", sbatch=("--comment=$(touch injected)",))
    assert machine.finish(options, CODE="0")[0] == 2  # there is no such environment
    assert machine.finish(Options(account=ODD, environment=str(machine.run)), CODE="0")[0] == 0
    assert not list(machine.folder.rglob("injected"))
    monkeypatch.setattr(shlex, "quote", '"{}"'.format)
    machine.finish(options, CODE="0")
    assert list(machine.folder.rglob("injected"))


def test_told_to_stop_it_tells_the_run_and_requeues(machine: Machine) -> None:
    code, log = machine.finish(Options(), signal.SIGUSR1, CODE="wait")
    assert code == 3
    assert machine.calls == ["scontrol requeue 12"]
    assert "job 12 is queued again" in log
    assert not list(machine.places.script.parent.glob("*.began"))


def test_a_stopped_rank_may_be_reported_as_killed(machine: Machine) -> None:
    """srun ends a step's last ranks when the first has left with 3, and may report them in the place of it."""
    code, _ = machine.finish(Options(), signal.SIGUSR1, CODE="wait", STOP_CODE="143")
    assert code == 3
    assert machine.calls == ["scontrol requeue 12"]


@pytest.mark.parametrize("options", [Options(), Options(requeue=False)])
def test_where_requeueing_is_refused_a_continuation_follows(machine: Machine, options: Options) -> None:
    code, log = machine.finish(options, signal.SIGUSR1, CODE="wait", REQUEUE_CODE="1")
    assert code == 3
    assert machine.calls[-1] == f"sbatch --parsable --dependency=afterany:12 {machine.places.script}"
    record = json.loads(machine.places.script.with_suffix(".34.json").read_text())
    assert record == {"job_id": "34", "cluster": None}
    assert ("scontrol requeue 12" in machine.calls) == options.requeue
    assert "goes on when this one has ended" in log


ARRAY = {"SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "4"}


def test_a_task_of_an_array_goes_on_alone(machine: Machine) -> None:
    """Its last task has the number of the whole array, all of which `scontrol requeue 12` would queue again."""
    machine.finish(Options(requeue=False), signal.SIGUSR1, CODE="wait", **ARRAY)
    assert machine.calls == [f"sbatch --parsable --dependency=afterany:12_4 --array=4 {machine.places.script}"]
    assert not list(machine.places.script.parent.glob("*.json"))
    machine.log.unlink()
    Path(f"{machine.log}.running").unlink()
    machine.finish(Options(), signal.SIGUSR1, CODE="wait", **ARRAY)
    assert machine.calls == ["scontrol requeue 12_4"]


def test_a_cell_is_run_and_judged_by_its_own_folder(machine: Machine) -> None:
    cell = machine.run / "width=3-0123456789ab"
    options = Options(array="0-4")
    code, _ = machine.finish(options, cells=True, CODE="0", RUN_FOLDER=str(cell), **ARRAY)
    assert code == 0
    said = Path(f"{machine.log}.arguments").read_text().split("\0")
    assert said[:-2] == ["run", str(machine.places.job), "--cell", "4", "--note-folder"]
    assert not list(machine.places.script.parent.glob("*.place"))
    code, log = machine.finish(options, cells=True, CODE="0", LOST="yes", RUN_FOLDER=f"{cell}2", **ARRAY)
    assert code == 1
    assert f"there is no {cell}2/landscape.h5" in log
    assert machine.calls == []


@pytest.mark.parametrize("finished", ["yes", ""])
def test_a_cell_is_queued_again_where_it_finished_something(machine: Machine, finished: str) -> None:
    """What begins a cell is no row of it."""
    cell = {"RUN_FOLDER": str(machine.run / "width=3-0123456789ab"), "FINISHED": finished, "LOST": "yes"}
    code, log = machine.finish(Options(), signal.SIGUSR1, cells=True, CODE="wait", **cell, **ARRAY)
    assert code == 3
    assert machine.calls == (["scontrol requeue 12_4"] if finished else [])
    assert ("longer --time" in log) == (not finished)


def test_a_cell_that_never_began_is_not_complete(machine: Machine) -> None:
    """Nor is it queued again for what other cells finish meanwhile."""
    code, log = machine.finish(Options(), cells=True, CODE="0", NOWHERE="yes", **ARRAY)
    assert code == 1
    assert "there is no " in log
    (machine.run / "other" / "shards").mkdir(parents=True)
    deaf = "trap 'exit 3' USR1; echo >$CALLS.running; while :; do touch \"$RUN_FOLDER/other/shards/row\"; done\n"
    (machine.folder / "bin" / "landscape").write_text(f"#!/bin/bash\n{deaf}")
    code, log = machine.finish(Options(), signal.SIGUSR1, cells=True, **ARRAY)
    assert code == 3
    assert machine.calls == []


def run_command(machine: Machine, command: str) -> int:
    script = machine.places.script
    script.write_text(command_script(Options(), machine.places, command, machine.folder, "key"), encoding="utf-8")
    done = subprocess.run(["bash", script], env=machine.environment, capture_output=True, text=True, timeout=GUARD)
    return done.returncode


def test_a_command_ends_at_its_first_error_and_leaves_its_key_only_where_it_succeeds(machine: Machine) -> None:
    finished = machine.run / "finished"
    assert run_command(machine, f"echo {shlex.quote(ODD)} >said\ncp said copied") == 0
    assert (machine.folder / "copied").read_text() == f"{ODD}\n"
    assert finished.read_text() == "key\n"
    assert run_command(machine, "false\ntouch late") == 1
    assert not (machine.folder / "late").exists()
    assert not finished.exists()
    assert run_command(machine, "false | true") == 1
    assert run_command(machine, "exit 7") == 7


def test_where_both_are_refused_it_says_how_to_go_on(machine: Machine) -> None:
    code, log = machine.finish(Options(), signal.SIGUSR1, CODE="wait", REQUEUE_CODE="1", SBATCH_CODE="1")
    assert code == 3
    assert f"landscape submit {machine.places.job}" in log


def test_what_finished_nothing_is_not_started_again(machine: Machine) -> None:
    code, log = machine.finish(Options(), signal.SIGUSR1, CODE="wait", FINISHED="", LOST="yes")
    assert code == 3
    assert machine.calls == []
    assert "longer --time" in log


@pytest.mark.parametrize("code", [0, 2, 4])
def test_what_was_complete_or_refused_when_told_is_not_started_again(machine: Machine, code: int) -> None:
    assert machine.finish(Options(), signal.SIGUSR1, CODE="wait", STOP_CODE=str(code))[0] == code
    assert machine.calls == []


def test_a_cancelled_job_stays_ended(machine: Machine) -> None:
    """Slurm sends SIGTERM to the script and to the ranks, which then end with 3."""
    process = machine.start(Options(), CODE="wait")
    try:
        machine.wait_for_the_run()
        process.send_signal(signal.SIGTERM)
        run = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout
        os.kill(int(run.split()[0]), signal.SIGUSR1)
        process.communicate(timeout=GUARD)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 3
    assert machine.calls == []


def test_a_long_item_is_waited_for_while_there_is_time(machine: Machine) -> None:
    """After three quarters of the time between signal and limit the job goes back into the queue without it."""
    deaf = """#!/bin/bash
trap "" USR1
exec >/dev/null 2>&1
echo row >"$RUN_FOLDER/shards"
echo $$ >"$CALLS.running"
exec /bin/sleep 60
"""
    (machine.folder / "bin" / "landscape").write_text(deaf)
    code, _ = machine.finish(Options(signal_seconds=8), signal.SIGUSR1)
    assert code == 3
    assert machine.calls == ["scontrol requeue 12"]


@pytest.mark.parametrize(
    ("speaks", "start"),
    [
        ("pmix", "srun --mpi=pmix --kill-on-bad-exit=0 --wait=30 --cpus-per-task=3 landscape run"),
        ("pmi2", "srun --mpi=pmi2 --kill-on-bad-exit=0 --wait=30 --cpus-per-task=3 landscape run"),
        ("neither", "mpiexec -n 4 --bind-to none landscape run"),
    ],
)
def test_launcher_is_the_first_whose_ranks_find_each_other(machine: Machine, speaks: str, start: str) -> None:
    code, log = machine.finish(Options(nodes=2, ntasks_per_node=2), CODE="0", SPEAKS=speaks)
    assert code == 0
    assert machine.calls[-1] == f"{start} {machine.places.job}"
    assert start in log


def test_modules_are_loaded_in_order_and_a_missing_one_ends_the_job(machine: Machine) -> None:
    module = 'module() { echo "module $*" >>"$CALLS"; [ "$2" != none ]; }\nexport -f module\nexec bash "$0.real"\n'
    options = Options(module=("gcc/13", ODD, "none", "never"))
    script = machine.places.script
    script.with_name("001.sh.real").write_text(batch_script(options, machine.places), encoding="utf-8")
    script.write_text(module)
    done = subprocess.run(["bash", script], env=machine.environment | {"CODE": "0"}, capture_output=True, text=True)
    assert done.returncode == 2
    assert machine.calls == ["module load gcc/13", f"module load {ODD}", "module load none"]
    assert "module none cannot be loaded" in done.stdout


def test_environment_is_a_folder_or_a_file(machine: Machine) -> None:
    folder, file = machine.folder / "an env", machine.folder / "set up.sh"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "landscape").write_text("#!/bin/bash\nexit 7\n")
    (folder / "bin" / "landscape").chmod(0o755)
    file.write_text("landscape() { exit 8; }\n")
    assert machine.finish(Options(environment=str(folder)))[0] == 7
    assert machine.finish(Options(environment=str(file)))[0] == 8


def test_preempted_before_anything_was_finished_it_is_queued_again(machine: Machine) -> None:
    code, log = machine.finish(Options(), signal.SIGUSR1, CODE="wait", FINISHED="", PREEMPTED="2026-01-01T00:00:00")
    assert code == 3
    assert machine.calls == ["scontrol requeue 12"]
    assert "longer --time" not in log


@pytest.mark.parametrize(
    ("nodes", "answers", "finished", "again"),
    [("2", "1", "yes", True), ("2", "1", "", False), ("2", "0", "yes", False), ("1", "1", "yes", False)],
)
def test_a_lost_node_brings_the_job_back(
    machine: Machine, nodes: str, answers: str, finished: str, again: bool
) -> None:
    """Of several nodes, where rows were finished; a rank that fails on nodes that answer ends the job."""
    code, log = machine.finish(Options(), CODE="14", LOST="yes", ROW=finished, SLURM_NNODES=nodes, NODES_CODE=answers)
    assert code == (3 if nodes == "2" and answers == "1" else 14)
    assert ("scontrol requeue 12" in machine.calls) == again
    assert ("does not answer" in log) == (nodes == "2" and answers == "1")


@pytest.mark.parametrize(("trial", "asked"), [(1, True), (3, True), (4, True), (1, False)])
def test_survivors_go_on_where_mpiexec_can_and_nobody_objects(machine: Machine, trial: int, asked: bool) -> None:
    options = Options(ntasks_per_node=4, launcher="mpiexec", survivors=asked)
    code, log = machine.finish(options, CODE="0", SURVIVORS_TRIAL=str(trial))
    assert code == 0
    words = "--with-ft ulfm " if trial <= 3 and asked else ""
    assert machine.calls == [f"mpiexec {words}-n 4 --bind-to none landscape run {machine.places.job}"]
    assert ("--with-ft ulfm failed: no such option" in log) == (trial > 3)


@pytest.mark.parametrize("own", ["", "sites"])
def test_mpiexec_meets_no_folder_that_a_killed_one_left(machine: Machine, own: str) -> None:
    """A folder of this job's, gone at its end; where a site has one, that."""
    given = {"PRTE_MCA_prte_tmpdir_base": str(machine.folder / own)} if own else {}
    options = Options(ntasks_per_node=4, launcher="mpiexec", survivors=False)
    code, _ = machine.finish(options, CODE="7", TMPDIR=str(machine.folder), SLURM_RESTART_COUNT="2", **given)
    assert code == 7
    sessions = Path(Path(f"{machine.log}.sessions").read_text().strip())
    assert sessions == machine.folder / (own or "landscape.12.2")
    assert sessions.exists() == bool(own)
