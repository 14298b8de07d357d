"""kill -9 of a random rank or of mpiexec at random moments of a run, then resume: nothing finished may be lost.

python tests/programs/kill_trials.py 20
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__":
    import light  # noqa: F401

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from conftest import GUARD, mpi_command, mpi_environment
from toys import check_rows, noted

from landscape.run.store import Store

COUNT, DELAY, RANKS = 150, 0.01, 3


def trial(folder: Path, seed: int) -> str:
    """One kill and one resume; returns what happened. Raises AssertionError when something was lost."""
    chance = random.Random(seed)
    moment = chance.randrange(0, COUNT - 10)
    run, log = folder / "run", folder / "log"
    command = mpi_command(RANKS, "stoppable.py", folder, COUNT, DELAY)
    process = started(command, folder)
    wait_for(lambda: sum(noted(log).values()) >= moment and len(pids(folder)) == RANKS, process, folder)
    victim = chance.choice(["mpiexec", *range(RANKS)])
    with contextlib.suppress(ProcessLookupError):  # on a crowded machine it may have ended meanwhile
        os.kill(process.pid if victim == "mpiexec" else pids(folder)[victim], signal.SIGKILL)
    process.wait(GUARD)
    wait_for(lambda: not any(map(alive, pids(folder).values())))

    shards = {path: path.read_bytes() for path in (run / "shards").glob("*.npz")} if run.exists() else {}
    kept = Store.open(run).rows().done if (run / "run.json").exists() else np.zeros(COUNT, dtype=bool)
    computed = noted(log)
    resumed = subprocess.run(
        mpi_command(2, "stoppable.py", folder, COUNT, 0),
        env=mpi_environment(), capture_output=True, text=True, timeout=GUARD, check=False,
    )  # fmt: skip
    assert resumed.returncode == 0, resumed.stderr
    rows = Store.open(run).rows()
    assert rows.done.all()
    check_rows(rows)
    assert {path: path.read_bytes() for path in shards} == shards
    again = noted(log) - computed
    assert set(again) == set(np.flatnonzero(~kept)), "rows that were in a shard were computed again"
    return f"kill -9 {victim} after {moment} items: {len(shards)} shards with {kept.sum()} rows kept, resumed"


def pids(folder: Path) -> dict[int, int]:
    """{rank: process}, of ranks that have told it."""
    return {int(path.name): int(path.read_text() or 0) for path in (folder / "pids").glob("*") if path.stat().st_size}


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not yet waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def started(command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    """The launcher, with what it says in FOLDER/said. One that ends before any rank began is started once more.

    Open MPI's mpiexec fails where an older one that was killed had its process number, and left a folder of that name.
    """
    for _ in range(2):
        with (folder / "said").open("wb") as said:
            process = subprocess.Popen(command, env=mpi_environment(), stdout=said, stderr=said, start_new_session=True)
        wait_for(lambda process=process: process.poll() is not None or len(pids(folder)) > 0, None, folder)
        if pids(folder):
            break
    return process


def wait_for(condition: object, process: subprocess.Popen[bytes] | None = None, folder: Path | None = None) -> None:
    """Until `condition()`; AssertionError when `process` ends before, or when it takes so long that it means a hang."""
    assert callable(condition)
    deadline = time.monotonic() + GUARD

    def state() -> str:
        if folder is None:
            return ""
        code = "-" if process is None else process.poll()
        ranks = {rank: alive(pid) for rank, pid in pids(folder).items()}
        return f"; exit code {code}, ranks alive {ranks}, items {sum(noted(folder / 'log').values())}; {_said(folder)}"

    while not condition():
        assert time.monotonic() < deadline, f"the run hangs{state()}"
        assert process is None or process.poll() is None or condition(), f"the run ended{state()}"
        time.sleep(5e-3)


def _said(folder: Path) -> str:
    path = folder / "said"
    return path.read_text(errors="replace")[-2000:] if path.exists() else ""


def main() -> None:
    for seed in range(int(sys.argv[1])):
        with tempfile.TemporaryDirectory() as folder:
            sys.stdout.write(f"{seed:3d}: {trial(Path(folder), seed)}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
