"""What Slurm says of jobs: its answers as values, and programs that hang, refuse or are not there."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from landscape_jobs.cluster import queue as queue_module
from landscape_jobs.cluster.queue import Answer, JobName, Queue, sacct_jobs, squeue_jobs
from landscape_jobs.status.document import document
from landscape_jobs.sweeps.folder import Place, places, write_index
from landscape_jobs.sweeps.sweep_file import load_sweep
from test_status import ENDED, JOB, Said, attempt, beat, make, read, submitted, text

# Recorded from Slurm 22.05.8: squeue with --Format widths, an array of which two tasks run, a held and an ended job.
RECORDED = """\
1   |1   |N/A |RUNNING        |None              |0   |
2   |2   |9   |PENDING        |JobArrayTaskLimit |0   |
2   |2   |8   |PENDING        |JobArrayTaskLimit |0   |
6   |2   |3   |RUNNING        |None              |1   |
4   |4   |N/A |CANCELLED      |BeginTime         |0   |
5   |5   |N/A |PENDING        |JobHeldUser       |0   |
"""
ACCOUNTED = """\
1|1|COMPLETED
2_3|6|CANCELLED by 1000
2_[8-9%2]|2|PENDING
7|7|NODE_FAIL
7.batch|7.batch|CANCELLED
"""


def test_squeue_and_sacct_are_read() -> None:
    jobs = list(squeue_jobs("CLUSTER: alps\n" + RECORDED + "slurm_load_jobs error\n", "alps"))
    assert [(str(job.name), job.own_number, job.state, job.reason, job.restarts) for job in jobs] == [
        ("1", "1", "RUNNING", "", 0),
        ("2_9", "2", "PENDING", "JobArrayTaskLimit", 0),
        ("2_8", "2", "PENDING", "JobArrayTaskLimit", 0),
        ("2_3", "6", "RUNNING", "", 1),
        ("4", "4", "CANCELLED", "", 0),
        ("5", "5", "PENDING", "JobHeldUser", 0),
    ]
    assert {job.name.cluster for job in jobs} == {"alps"}
    assert [job.active for job in jobs] == [True, True, True, True, False, True]
    old = list(sacct_jobs(ACCOUNTED))
    assert [(str(job.name), job.state) for job in old] == [
        ("1", "COMPLETED"), ("2_3", "CANCELLED"), ("7", "NODE_FAIL"),
    ]  # fmt: skip
    assert not any(job.active for job in old)


def test_jobs_are_known_by_either_number() -> None:
    answer = Answer(tuple(squeue_jobs(RECORDED)))

    def found(*words: str) -> list[str]:
        return [str(job.name) for job in answer.of([JobName(*words)])]

    assert found("2") == ["2_9", "2_8", "2_3"]
    assert found("2", "8") == ["2_8"]
    assert found("6") == found("6", "3") == found("2", "3") == ["2_3"]
    assert found("2", "4") == found("99") == found("1", "", "alps") == []


PROGRAM = """#!/bin/sh
echo "$@" "users=$SQUEUE_USERS" >>{path}.called
[ ! -e {path}.hangs ] || exec sleep 60
cat {path}.out 2>/dev/null
[ ! -e {path}.err ] || {{ cat {path}.err >&2; exit 1; }}
"""


@pytest.fixture
def slurm(tmp_path: Path) -> Path:
    """A folder whose programs `squeue` and `sacct` write files' contents and note how they were called."""
    home = tmp_path / "bin"
    home.mkdir()
    for name in ("squeue", "sacct"):
        (home / name).write_text(PROGRAM.format(path=home / name))
        (home / name).chmod(0o755)
    return home


def ask(home: Path, *numbers: str, **more: str) -> Answer:
    path = f"{home}:{os.environ['PATH']}"
    return Queue({"PATH": path, **more}).ask({JobName(number) for number in numbers})


def test_sacct_is_asked_for_what_squeue_does_not_know(slurm: Path) -> None:
    (slurm / "squeue.out").write_text(RECORDED)
    (slurm / "sacct.out").write_text("7|7|NODE_FAIL\n")
    answer = ask(slurm, "1", "7", SQUEUE_USERS="somebody")
    assert {str(job.name): job.state for job in answer.of([JobName("1"), JobName("7")])} == {
        "1": "RUNNING", "7": "NODE_FAIL",
    }  # fmt: skip
    assert answer.problem == ""
    called = (slurm / "squeue.called").read_text()
    assert "--jobs=1,7" in called
    assert "--states=all" in called
    assert "users=\n" in called
    assert "--jobs=7 " in (slurm / "sacct.called").read_text()


def test_an_ended_job_is_no_problem_and_a_dead_controller_is_told(slurm: Path) -> None:
    (slurm / "squeue.err").write_text("slurm_load_jobs error: Invalid job id specified\n")
    (slurm / "sacct.err").write_text("Slurm accounting storage is disabled\n")
    assert ask(slurm, "9") == Answer()
    dead = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
    (slurm / "squeue.err").write_text(dead + "\n")
    assert ask(slurm, "9") == Answer((), dead)


def test_slurm_that_hangs_or_is_not_there(slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_module, "_PATIENCE", 0.3)
    (slurm / "squeue.hangs").write_text("")
    assert "squeue did not answer" in ask(slurm, "1").problem
    assert Queue({"PATH": ""}).ask({JobName("1")}) == Answer()


def test_slurm_is_not_asked_again_at_once(slurm: Path) -> None:
    moments = iter([0.0, 5.0, 6.0, 30.0, 30.0])
    (slurm / "squeue.out").write_text(RECORDED)
    queue = Queue({"PATH": f"{slurm}:{os.environ['PATH']}"}, steady=lambda: next(moments))

    def called() -> int:
        return len((slurm / "squeue.called").read_text().splitlines())

    counts = []
    for names in ({JobName("1")}, {JobName("1")}, {JobName("1"), JobName("4")}, {JobName("1"), JobName("4")}):
        queue.ask(names)
        counts.append(called())
    assert counts == [1, 1, 2, 3]


def test_a_cluster_is_asked_by_its_name() -> None:
    names = [JobName("3", "", "alps"), JobName("4", "2", "alps")]
    for command in (queue_module.squeue_command(names, "alps"), queue_module.sacct_command(names, "alps")):
        assert "--clusters=alps" in command
        assert "--jobs=3,4" in command
    assert not any("cluster" in word for word in queue_module.squeue_command(names, ""))


# -- jobs of a sweep that was changed ----------------------------------------------------------------------------------


def swept(folder: Path, changes: str, job: str = JOB) -> tuple[str, tuple[Place, ...]]:
    """A sweep as it is now: its text, and its cells' places."""
    (folder / "job.toml").write_text(job)
    (folder / "sweep.toml").write_text(f'job = "job.toml"\nout = "sweep"\n[product]\n{changes}\n')
    loaded = load_sweep(folder / "sweep.toml")
    found = places(loaded)
    write_index(loaded, found)
    return loaded.text(), found


def test_a_job_is_of_the_cell_that_it_was_submitted_for_whatever_its_number_now(tmp_path: Path) -> None:
    before, _ = swept(tmp_path, '"plane.seed" = [0, 1]')
    submitted(tmp_path / "sweep", 1, "6", before)
    now, found = swept(tmp_path, '"plane.seed" = [1, 2]')
    submitted(tmp_path / "sweep", 2, "22", now)
    submitted(tmp_path / "sweep", 3, "23", "cut [")
    said = Said("6|6|0|FAILED|None|0|\n7|6|1|COMPLETED|None|0|\n")
    report = read(tmp_path / "sweep", queue=said)
    assert [[str(name) for name in run.names] for run in report.runs] == [["6_1", "22_0"], ["22_1"]]
    assert [[str(job.name) for job in run.jobs] for run in report.runs] == [["6_1"], []]
    shown = text(report)
    assert "22_0" in shown
    assert "6_1" not in shown  # Slurm does not know the newest, and an older one's end is not its
    assert {run.go_on for run in report.runs} == {f"landscape resume {tmp_path / 'sweep'}"}  # 003 is of no cell of it
    make(found[0].folder, attempt(slurm={"job": "30", "array_task": "0"}, **ENDED))
    report = read(tmp_path / "sweep", queue=Said("30|30|0|CANCELLED|None|0|\n6|6|1|FAILED|None|0|\n"))
    assert "30_0 CANCELLED" in text(report)


def test_a_job_that_computed_a_cell_of_another_checkpoint_is_none_of_its(tmp_path: Path) -> None:
    job = JOB.replace("[data]", 'checkpoint = "a.pt"\n[data]')
    (tmp_path / "a.pt").write_bytes(b"before")
    before, found = swept(tmp_path, '"plane.seed" = [0, 1]', job)
    submitted(tmp_path / "sweep", 1, "6", before)
    make(found[1].folder, attempt(slurm={"job": "6", "array_task": "1"}), sign=beat(400))
    assert [[str(name) for name in run.names] for run in read(tmp_path / "sweep").runs] == [["6_0"], ["6_1"]]
    (tmp_path / "a.pt").write_bytes(b"now")
    swept(tmp_path, '"plane.seed" = [0, 1]', job)
    assert [[str(name) for name in run.names] for run in read(tmp_path / "sweep").runs] == [["6_0"], []]


# -- what a user is told to do -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("items", [1, 2])
def test_items_given_up_say_where_they_are_and_how_they_are_tried_again(tmp_path: Path, items: int) -> None:
    identity = {"objective": {}, "axes": {"x": [-1.0, 0.25, 1.0], "y": [2.0, 3.0, 4.0]}}
    reasons = {7 + k: f"too large {k}" for k in range(items)}
    make(tmp_path / "a b", attempt(**ENDED), rows=7, given_up=reasons, result=True, identity=identity)
    report = read(tmp_path / "a b")
    told = text(report, 400)
    assert f"{tmp_path / 'a b'}: item 7 (x = 0.25, y = 4) of surface was given up: " in told
    again = f"tried again, delete '{tmp_path / 'a b/failures'}' and go on with: landscape resume '{tmp_path / 'a b'}'"
    assert (
        "Its row stays masked. To have it " if items == 1 else "Their rows stay masked. To have them "
    ) + again in told
    assert document(report)["runs"][0]["given_up"][0]["coordinates"] == {"x": 0.25, "y": 4.0}
    make(tmp_path / "c", attempt(), given_up=reasons, sign=beat(3))
    assert "tried again" not in text(read(tmp_path / "c"))  # a run that is at it is left alone


def test_a_run_whose_process_is_gone_from_this_machine_is_silent_at_once(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    here = {"host": socket.gethostname(), "ranks": 1}
    cases = {
        "gone": ({**here, "process": ended.pid}, 2),
        "alive": ({**here, "process": os.getpid()}, 2),
        "elsewhere": ({**here, "process": ended.pid, "host": "n1"}, 2),
        "others may go on": ({**here, "process": ended.pid, "ranks": 8}, 2),
        "nobody went on": ({**here, "process": ended.pid, "ranks": 8}, 16),
    }
    for name, (record, heard) in cases.items():
        make(tmp_path / name, {**attempt(), **record}, sign=beat(heard))
    found = {run.folder.name: run for run in read(*(tmp_path / name for name in cases)).runs}
    states = [found[name].state for name in cases]
    assert states == ["silent", "running", "running", "running", "silent"]
    assert f"its process {ended.pid} is gone" in found["gone"].advice
    assert "landscape resume" in found["gone"].advice


def test_a_run_that_ended_since_item_after_item_failed_says_so(tmp_path: Path) -> None:
    raised = "Traceback (most recent call last):\n  File x\nValueError: no.\n"
    told = f"rank 0 failed; rows finished before are kept:\n5 items failed one after another, the last so:\n{raised}"
    make(tmp_path / "a", attempt(ended=ENDED["ended"], failure=told))
    make(tmp_path / "b", attempt(ended=ENDED["ended"], failure=f"every item failed, the last of them so:\n{raised}"))
    make(tmp_path / "c", attempt(ended=ENDED["ended"], failure="rank 2 failed; rows are kept:\nthe disk is full"))
    report = read(*(tmp_path / name for name in "abc"))
    assert [run.advice.partition(". Mend")[0] for run in report.runs] == [
        "5 items failed one after another, the last so: ValueError: no",
        "every item failed, the last of them so: ValueError: no",
        "the disk is full",
    ]
    assert ".." not in text(report, 400).replace("pytest-", "")


@pytest.mark.parametrize("reason", ["Dependency", "DependencyNeverSatisfied"])
def test_what_was_cancelled_since_a_stage_before_it_failed_says_so(tmp_path: Path, reason: str) -> None:
    (tmp_path / "job.toml").write_text(JOB)
    for name, stage in (("other", "nothing.toml"), ("stages.v2", "job.toml")):
        text_of = f'[[stage]]\nname = "train"\ncommand = "false"\n[[stage]]\nname = "b"\njob = "{stage}"\n'
        (tmp_path / f"{name}.toml").write_text(text_of + 'after = "train"\n')
    (tmp_path / "sweep").mkdir()
    of_sweep, _ = swept(tmp_path / "sweep", '"plane.seed" = [0, 1]')
    submitted(tmp_path / "runs", 1, "21", f'folder = "{tmp_path}"\n{JOB}')
    submitted(tmp_path / "stages.v2/train", 1, "20")
    (tmp_path / "stages.v2/train/submitted/001.toml").unlink()
    submitted(tmp_path / "sweep/sweep", 1, "22", of_sweep)
    folders = [tmp_path / "runs", tmp_path / "stages.v2/train", tmp_path / "sweep/sweep"]
    for folder in folders:
        (folder / "submitted/001.sh").write_text("#!/bin/bash\n#SBATCH --dependency=afterok:19\n")
    ended = "".join(f"{n}|{n}|N/A|CANCELLED|{reason}|0|\n" for n in (20, 21))
    arrays = "".join(f"22|22|{n}|CANCELLED|{reason}|0|\n" for n in (0, 1))
    job, command, *cells = read(*folders, queue=Said(ended + arrays)).runs
    told = "was cancelled before it began: job 19, which it waited for, failed or was cancelled. Mend that first, then "
    again = f"go on with: landscape submit {tmp_path / 'stages.v2.toml'}"
    assert job.advice == f"Its job 21 {told}{again}"
    assert command.advice == f"Its job 20 {told}{again}"
    assert {cell.advice for cell in cells} == {f"Its job 22 {told}go on with: the same stages again"}
    assert "none has begun" in text(read(tmp_path / "sweep/sweep"))
    (folders[1] / "submitted/001.sh").unlink()
    failed = read(folders[1], queue=Said("20|20|N/A|FAILED|NonZeroExitCode|0|")).runs[0].advice
    assert failed == f"Its job 20 is FAILED, and nothing was computed. G{again[1:]}"
    by_hand = read(tmp_path / "runs", queue=Said("21|21|N/A|CANCELLED|BeginTime|0|")).runs[0].advice
    assert by_hand == f"Its job 21 is CANCELLED, and nothing was computed. G{again[1:]}"
