"""What Slurm says of jobs: its answers as values, and programs that hang, refuse or are not there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from landscape_jobs import queue as queue_module
from landscape_jobs.queue import Answer, JobName, Queue, sacct_jobs, squeue_jobs

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
