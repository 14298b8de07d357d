"""kill -9 at random moments of the core jobs: what is finished must stay, and the end be the same.

    python scripts/fault_injection.py --kills 100          # ranks and mpiexec; the job is started again after each
    python scripts/fault_injection.py --survivors 20       # one rank a run; the others go on (Open MPI 5)
    python scripts/fault_injection.py --kills 10 --ranks 2 --jobs precise

A surface, one to a stated error, a spectrum and a sweep of fitted curves are computed once undisturbed, on as many
ranks. Then each is started again and again, a random rank (or mpiexec) is killed at a random moment, and the next start
goes on from what is there. After each kill every file of finished rows must be there with its bytes; at the end every
value must be equal to the undisturbed one bit for bit. Needs mpiexec; exit code 1 where anything was lost.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import h5py
import numpy as np

NETS = """
import os
import time

import torch
from torch import nn


def mlp():
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return net


def data():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(96, 6, generator=generator), torch.arange(96) % 3


def many():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2000, 6, generator=generator), torch.arange(2000) % 3


def slow(outputs, targets):
    time.sleep(float(os.environ["NAP"]))
    return nn.functional.cross_entropy(outputs, targets, reduction="none")
"""
HEAD = """
[model]
factory = "nets:mlp"
[data]
factory = "nets:data"
[objective]
loss = "nets:slow"
chunk = 500
"""
# The nap of one evaluation is chosen so that each takes some ten seconds on two ranks.
JOBS = {
    "surface": ("[surface]\nx = [-1, 1, 25]\ny = [-1, 1, 16]\n", "0.04"),
    "precise": ("[surface]\nx = [-1, 1, 13]\ny = [-1, 1, 12]\nerror = 0.01\n", "0.05"),
    "spectrum": ("[spectrum]\nk = 4\ntrace = 'hutchinson'\ndensity = true\n", "0.004"),
    "curves": ("[connectivity]\nmodels = ['a.pt', 'b.pt', 'c.pt', 'd.pt']\nepochs = 12\nbatch_size = 16\n", "0.005"),
}
SETTINGS = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "OMPI_MCA_btl": "^ofi",
    "OMP_NUM_THREADS": "1",
}


class LostError(Exception):
    """Something finished is gone, or a value is another."""


def prepare(folder: Path) -> None:
    """The jobs and what they name."""
    import torch
    from torch import nn

    (folder / "nets.py").write_text(NETS)
    for seed, name in enumerate("abcd"):
        torch.manual_seed(seed)
        torch.save(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).state_dict(), folder / f"{name}.pt")
    for name, (table, _) in JOBS.items():
        head = HEAD.replace("nets:data", "nets:many") if name == "precise" else HEAD
        (folder / f"{name}.toml").write_text(f"{head}{table}[run]\nout = '{name}'\n")


def start(folder: Path, job: str, ranks: int, *launcher: str) -> subprocess.Popen[bytes]:
    """The job under mpiexec."""
    mpiexec = Path(sys.executable).with_name("mpiexec")
    command = [str(mpiexec) if mpiexec.exists() else "mpiexec", *launcher, "-n", str(ranks)]
    command += [sys.executable, "-m", "landscape_jobs.cli", "run", f"{job}.toml"]
    with (folder / f"{job}.log").open("ab") as log:
        return subprocess.Popen(
            command,
            cwd=folder,
            # mpiexec that is killed leaves its session's folder, and one that gets its number later fails on that
            env=os.environ
            | SETTINGS
            | {"NAP": JOBS[job][1], "PRTE_MCA_prte_tmpdir_base": tempfile.mkdtemp(dir=folder)},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def finished(run: Path) -> dict[Path, bytes]:
    """The files of finished rows."""
    return {path: path.read_bytes() for path in run.rglob("shards/*.npz")}


def values(run: Path) -> dict[str, bytes]:
    """Name and bytes of every array of the result."""
    found: dict[str, bytes] = {}

    def note(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset):
            array = np.asarray(item)
            found[name] = repr(array.tolist()).encode() if array.dtype == object else array.tobytes()

    with h5py.File(run / "landscape.h5") as file:
        file.visititems(note)
    return found


def descendants(pid: int) -> list[int]:
    """The ranks that mpiexec started."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in children.read_text().split()] if children.exists() else []


def wait_begun(process: subprocess.Popen[bytes], run: Path, attempts: int) -> None:
    """Until a further attempt has begun, or the job has ended."""
    while process.poll() is None and len(list(run.rglob("attempts/*.json"))) <= attempts:
        time.sleep(0.05)


def ended(process: subprocess.Popen[bytes], ranks: list[int]) -> int:
    """The exit code, once all that mpiexec started is gone."""
    code = process.wait(600)
    while any(Path(f"/proc/{pid}").exists() for pid in ranks):
        time.sleep(0.05)
    return code


def undisturbed(folder: Path, job: str, ranks: int) -> tuple[dict[str, bytes], float]:
    """The values that the job has to end with, and the seconds that it computes for."""
    process = start(folder, job, ranks)
    wait_begun(process, folder / job, 0)
    begun = time.monotonic()
    if process.wait(600) != 0:
        raise LostError(f"{job} does not run at all; see {folder / job}.log")
    seconds = time.monotonic() - begun
    shutil.move(folder / job, folder / f"{job}-undisturbed")
    return values(folder / f"{job}-undisturbed"), seconds


def kill_until_complete(
    folder: Path, job: str, ranks: int, wanted: dict[str, bytes], seconds: float, chance: random.Random, most: int
) -> Counter[str]:
    """Kill and start again until the job is complete, at most `most` times; returns who was killed how often."""
    run, killed = folder / job, Counter[str]()
    kept: dict[Path, bytes] = {}
    for number in range(10_000):
        process = start(folder, job, ranks)
        wait_begun(process, run, len(list(run.rglob("attempts/*.json"))))
        pids = descendants(process.pid)
        if killed.total() < most:
            time.sleep(chance.uniform(0, 0.4 * seconds))
            victim = chance.randrange(len(pids) + 1) if pids else 0
            with contextlib.suppress(ProcessLookupError):  # it was done before its time
                os.kill(process.pid if victim == 0 else pids[victim - 1], signal.SIGKILL)
                killed["mpiexec" if victim == 0 else "a rank"] += 1
        code = ended(process, pids)
        now = finished(run) if run.exists() else {}
        if any(now.get(path) != content for path, content in kept.items()):
            raise LostError(f"{job}, start {number + 1}: a file of finished rows is gone or changed")
        kept = now
        if code == 4:
            raise LostError(f"{job}, start {number + 1}: an item was blamed for the kills and left out")
        if code == 0:
            break
    compare(run, wanted)
    shutil.rmtree(run)
    return killed


def survive(
    folder: Path, job: str, ranks: int, wanted: dict[str, bytes], seconds: float, chance: random.Random
) -> bool:
    """Kill one rank in the middle; whether the others completed the job, with the values it has to have."""
    while True:
        process = start(folder, job, ranks, "--with-ft", "ulfm")
        wait_begun(process, folder / job, 0)
        pids = descendants(process.pid)
        time.sleep(chance.uniform(0.1, 0.6) * seconds)
        if pids and process.poll() is None:
            break
        if ended(process, pids) != 0:
            raise LostError(f"{job} failed by itself:\n{(folder / f'{job}.log').read_text(errors='replace')[-3000:]}")
        shutil.rmtree(folder / job)  # it was done before its time
    os.kill(chance.choice(pids), signal.SIGKILL)
    try:
        code = ended(process, pids)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        code = -1
    complete = code == 0 and (folder / job / "landscape.h5").exists()
    if complete:
        compare(folder / job, wanted, exactly=job != "spectrum")
    shutil.rmtree(folder / job)
    return complete


def compare(run: Path, wanted: dict[str, bytes], *, exactly: bool = True) -> None:
    """Raise LostError where a value differs; a spectrum sums over ranks, so on fewer of them it differs by rounding."""
    found = values(run)
    for name, content in wanted.items():
        same = found.get(name) == content
        if not same and not exactly and name in found and len(content) == len(found[name]):
            a, b = (np.frombuffer(part, dtype=np.uint8) for part in (content, found[name]))
            same = len(a) % 8 == 0 and bool(
                np.allclose(a.view(np.float64), b.view(np.float64), rtol=1e-6, equal_nan=True)
            )
        if not same:
            raise LostError(f"{run.name}: {name} is another than undisturbed")


def main() -> None:
    """Kill, compare, and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=0, help="kills in all, shared out over the jobs")
    parser.add_argument("--survivors", type=int, default=0, help="runs that lose a rank and complete, in all")
    parser.add_argument("--ranks", type=int, default=3)
    parser.add_argument("--jobs", nargs="+", choices=list(JOBS), default=list(JOBS))
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    chance, jobs = random.Random(asked.seed), len(asked.jobs)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        for place, job in enumerate(asked.jobs):
            wanted, seconds = undisturbed(folder, job, asked.ranks)
            print(f"{job}: {len(wanted)} arrays, {seconds:.1f} s undisturbed on {asked.ranks} ranks", flush=True)
            share, runs, killed = asked.kills // jobs + (place < asked.kills % jobs), 0, Counter[str]()
            while killed.total() < share:
                killed += kill_until_complete(
                    folder, job, asked.ranks, wanted, seconds, chance, min(8, share - killed.total())
                )
                runs += 1
            if share:
                who = ", ".join(f"{victim} {count} times" for victim, count in sorted(killed.items()))
                print(
                    f"  {killed.total()} kills ({who}), {runs} runs completed: no row lost, all bits equal", flush=True
                )
            share = asked.survivors // jobs + (place < asked.survivors % jobs)
            done = sum(survive(folder, job, asked.ranks, wanted, seconds, chance) for _ in range(share))
            if share:
                print(f"  {done} of {share} runs that lost a rank were completed by the others", flush=True)


if __name__ == "__main__":
    try:
        main()
    except LostError as loss:
        sys.exit(f"LOST: {loss}")
