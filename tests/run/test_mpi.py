"""The run loop under mpiexec: the serial cases on 2 and 4 ranks, and ranks that fail, stop or die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import failure_cases
import kill_trials
import loop_cases
import numpy as np
import pytest
from conftest import GUARD, PROGRAMS, RunMpi, mpi_command, mpi_environment
from toys import check_rows, noted

from landscape.errors import InputError
from landscape.run import comm
from landscape.run.comm import Launch, Serial, launch
from landscape.run.store import Store

pytestmark = pytest.mark.mpi


@pytest.fixture(scope="module")
def serial_results(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """What every case of the run loop and of failing items returns on one rank."""
    results = {}
    for case in (*loop_cases.CASES, *failure_cases.CASES):
        results[case.__name__] = case(tmp_path_factory.mktemp(case.__name__))
    return results


@pytest.mark.parametrize("program", [loop_cases, failure_cases])
@pytest.mark.parametrize("ranks", [2, 4])
def test_cases(
    ranks: int, program: ModuleType, run_mpi: RunMpi, tmp_path: Path, serial_results: Mapping[str, str]
) -> None:
    done = run_mpi(ranks, f"{program.__name__}.py", tmp_path, tmp_path / "result.json")
    assert done.returncode == 0, done.stderr
    serial = {case.__name__: serial_results[case.__name__] for case in program.CASES}
    assert json.loads((tmp_path / "result.json").read_text()) == serial


@pytest.mark.parametrize(("mode", "rank"), [("raise", 0), ("raise", 2), ("exit", 1), ("before", 1)])
def test_broken_rank_ends_the_job(mode: str, rank: int, run_mpi: RunMpi, tmp_path: Path) -> None:
    done = run_mpi(3, "stoppable.py", tmp_path, 100, 0.01, mode, rank)
    assert done.returncode == 1
    assert {"exit": "leaving in the middle", "raise": "the third item is broken", "before": "broken before the run"}[
        mode
    ] in done.stderr
    assert f"rank {rank} " in done.stderr
    if mode == "raise":  # told by all ranks alike, so told once
        assert done.stderr.count("ArithmeticError: the third item is broken") == 1
        rows = Store.open(tmp_path / "run").rows()
        assert set(np.flatnonzero(rows.done)) == set(noted(tmp_path / "log"))
    resumed = run_mpi(3, "stoppable.py", tmp_path, 100, 0)
    assert resumed.returncode == 0, resumed.stderr
    rows = Store.open(tmp_path / "run").rows()
    assert rows.done.all()
    check_rows(rows)


@pytest.mark.parametrize(
    ("mode", "who", "said"),
    [
        ("exit", 1, "rank 1 has ended its program, and rank 0 waits for it in run_task"),
        ("zero", 0, "rank 0 has ended its program, and rank 1 waits for it in run_task"),
        ("alone", 1, "rank 0 has ended its program, and rank 1 waits for it in run_task"),
        ("callback", 0, "rank 0 ends the job"),
        ("other", 1, "rank 0 calls run_task, and rank 1 agree."),
    ],
)
def test_a_rank_that_leaves_is_told_to_the_others(mode: str, who: int, said: str, run_mpi: RunMpi) -> None:
    """By an exit between two calls, with 0 too, from inside a callback, or to a call that not every rank makes."""
    done = run_mpi(2, "leaving.py", mode, who)
    assert done.returncode == 1
    assert said in done.stderr


@pytest.mark.parametrize(
    ("mode", "who", "said"),
    [
        ("own first", 1, "rank 1 has ended its program, and rank 0 waits for it in run_task"),
        ("own error", 0, "rank 0 has ended its program, and rank 1 waits for it in run_task"),
        ("own late", 1, "in run_task for rank 1, not seen"),
        ("own without", 0, ""),
    ],
)
def test_a_rank_that_ends_before_any_call_where_mpi_runs(mode: str, who: int, said: str, run_mpi: RunMpi) -> None:
    """The program itself imported mpi4py, so the start of MPI does not tell who is missing."""
    done = run_mpi(2, "leaving.py", mode, who)
    assert done.returncode == (0 if mode == "own without" else 1)
    assert said in done.stderr


def test_a_rank_that_is_late_is_named(run_mpi: RunMpi) -> None:
    done = run_mpi(2, "leaving.py", "late", 1)
    assert done.returncode == 0
    assert "in run_task for rank 1\n" in done.stderr


@pytest.mark.parametrize(
    ("name", "target"), [("SIGINT", "mpiexec"), ("SIGTERM", "mpiexec"), ("SIGUSR1", "mpiexec"), ("SIGTERM", "rank")]
)
def test_signal_from_outside(name: str, target: str, run_mpi: RunMpi, tmp_path: Path) -> None:
    number = getattr(signal, name)
    process = subprocess.Popen(
        mpi_command(3, "stoppable.py", tmp_path, 2000, 0.01),
        env=mpi_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    kill_trials.wait_for(lambda: sum(noted(tmp_path / "log").values()) > 30)
    processes = kill_trials.pids(tmp_path)
    os.kill(process.pid if target == "mpiexec" else processes[1], number)
    code = process.wait(GUARD)
    kill_trials.wait_for(lambda: not any(map(kill_trials.alive, processes.values())))
    rows = Store.open(tmp_path / "run").rows()
    assert 0 < rows.done.sum() < 2000
    check_rows(rows)
    if name == "SIGUSR1" or target == "rank":  # mpiexec does not kill its ranks after these
        assert code == 0
        assert name in (tmp_path / "interrupted").read_text()
    # Rows finished before the signal are safe, whatever mpiexec does after it; lost are a few items of each rank.
    assert len(set(noted(tmp_path / "log")) - set(np.flatnonzero(rows.done))) <= 12
    resumed = run_mpi(3, "stoppable.py", tmp_path, 2000, 0)
    assert resumed.returncode == 0, resumed.stderr
    assert Store.open(tmp_path / "run").rows().done.all()


@pytest.mark.parametrize("seed", [0, 1, 3])
def test_kill_and_resume(seed: int, tmp_path: Path) -> None:
    """Of the last rank, of mpiexec, of rank 0. Twenty of these: python tests/programs/kill_trials.py 20."""
    kill_trials.trial(tmp_path, seed)


def test_two_runs_at_once_in_one_folder(run_mpi: RunMpi, tmp_path: Path) -> None:
    """Both end well, and the folder holds the rows once they do."""
    command = mpi_command(2, "stoppable.py", tmp_path, 100, 0.005)
    both = [
        subprocess.Popen(command, env=mpi_environment(), stderr=subprocess.PIPE, start_new_session=True)
        for _ in range(2)
    ]
    for process in both:
        _, errors = process.communicate(timeout=GUARD)
        assert process.returncode == 0, errors
    store = Store.open(tmp_path / "run")
    assert len(store.attempts.all()) == 2
    assert store.rows().done.all()
    check_rows(store.rows())


def test_wrong_launcher_is_refused() -> None:
    """A launcher of another MPI starts N worlds of one rank: N copies of the job, refused."""
    done = subprocess.run(
        [sys.executable, "-c", "import light; from landscape.run.comm import world; world()"],
        env={**mpi_environment(), "OMPI_COMM_WORLD_SIZE": "4", "PYTHONPATH": str(PROGRAMS)},
        capture_output=True,
        text=True,
        timeout=GUARD,
        check=False,
    )
    assert done.returncode == 1
    assert "InputError: mpiexec (Open MPI) started 4 processes, but MPI (" in done.stderr
    assert "sees a world of 1" in done.stderr
    assert "own mpiexec" in done.stderr


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"SLURM_NTASKS": "4", "SLURM_JOB_ID": "1"}, None),  # a batch script's own shell
        ({"OMPI_COMM_WORLD_SIZE": "2", "PMI_SIZE": "4"}, 2),
        ({"PMI_SIZE": "4"}, 4),
        ({"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "3"}, 8),
        ({"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "3", "OMPI_COMM_WORLD_SIZE": "1"}, 1),
    ],
)
def test_launch(variables: dict[str, str], expected: int | None) -> None:
    found = launch(variables)
    assert (found.size if isinstance(found, Launch) else found) == expected


def test_what_was_printed_is_read_before_a_rank_ends_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A launcher that is slow to read the rank's pipe gets all of it, and one that never reads is not waited for."""
    end, pipe = os.pipe()
    read: list[bytes] = []

    def launcher() -> None:
        time.sleep(0.3)
        read.append(os.read(end, 1 << 16))

    slow = threading.Thread(target=launcher)
    with os.fdopen(pipe, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        stream.write("rank 1 failed:\n")
        slow.start()
        comm._flush()
        assert comm._unread(stream) == 0
        slow.join()
        assert read == [b"rank 1 failed:\n"]
        monkeypatch.setattr(comm, "_READ", 0.05)
        stream.write("nobody reads this")
        comm._flush()
        assert comm._unread(stream) == len("nobody reads this")
    os.close(end)


def test_one_rank_has_no_groups() -> None:
    with pytest.raises(InputError, match="ranks_per_item=2 on 1 rank; use 1, or start a multiple of 2 ranks"):
        Serial().groups_of(2)
