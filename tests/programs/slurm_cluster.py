"""A real Slurm of two virtual nodes on this machine, brought up by tests/slurm_up.sh, and what is asked of it."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import small_job
from conftest import GUARD, mpi_environment
from typer.testing import CliRunner

SLURM_UP = Path(__file__).resolve().parents[1] / "slurm_up.sh"

_ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED")


class NoSlurmError(Exception):
    """Slurm does not start on this machine; the text says why."""


class Cluster:
    """The commands and processes of a running Slurm; `folder` holds its configuration, state and logs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.variables = {"SLURM_CONF": str(folder / "slurm.conf")}

    def ask(self, *words: str, **variables: str) -> str:
        """What a command prints; CalledProcessError where it fails."""
        environment = mpi_environment() | self.variables | variables
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True, timeout=GUARD)
        return done.stdout.strip()

    def landscape(self, folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """The finished command, in `folder`; `run` in a process of its own, the others in this one, which is faster."""
        if words[0] == "run":
            return small_job.landscape(folder, *words, variables=self.variables | variables)
        from landscape_jobs.cli import app  # loads torch, which a process without Slurm need not

        kept, modules = Path.cwd(), set(sys.modules)
        os.chdir(folder)
        try:
            found = CliRunner().invoke(app, words, env=mpi_environment() | self.variables | variables)
        finally:
            os.chdir(kept)
            for name in set(sys.modules) - modules:  # the job's own; another test has some of the same name
                if str(getattr(sys.modules[name], "__file__", "")).startswith(str(folder)):
                    del sys.modules[name]
        return subprocess.CompletedProcess(words, found.exit_code, found.stdout, found.stderr)

    def submit(self, folder: Path, *words: str, **variables: str) -> str:
        """The number of a job on both nodes, with one rank each."""
        done = self.landscape(folder, "submit", "job.toml", "--nodes", "2", *words, **variables)
        assert done.returncode == 0, done.stderr
        found = re.match(r"submitted job (\d+);", done.stdout)
        assert found is not None, done.stdout
        return found[1]

    def submit_again(self, run: Path, **variables: str) -> str:
        """The number of a job that goes on with a run's first submission."""
        return self.ask("sbatch", "--parsable", str(run / "submitted" / "001.sh"), **variables)

    def about(self, job: str) -> dict[str, str]:
        """What scontrol tells of a job."""
        pairs = (word.partition("=") for word in self.ask("scontrol", "--oneliner", "show", "job", job).split())
        return {name: value for name, _, value in pairs}

    def progress(self, job: str) -> object:
        """What changes while a job gets on: its state, and the files of its run."""
        about = self.about(job)
        run = Path(about["StdOut"]).parents[1]
        return about["JobState"], about["Restarts"], sum(len(files) for _, _, files in os.walk(run))

    def begin_again(self, job: str) -> None:
        """Let a requeued job begin when its nodes are tidy, not after 120 s.

        Not within the second, either: Slurm tells credentials of an older attempt by their second.
        """
        wait_for(lambda: self.about(job)["JobState"] == "PENDING")
        wait_for(lambda: not any(f"slurmstepd: [{job}." in words for words in self.processes().values()))
        self.ask("scontrol", "update", f"JobId={job}", "StartTime=now+3")

    def has_begun(self, job: str, ready: Callable[[], bool]) -> None:
        """Wait until `ready()`; AssertionError, with what it wrote, of a job that ends before, or hangs."""
        try:
            wait_for(lambda: ready() or self.about(job)["JobState"] in _ENDED, lambda: self.progress(job))
            assert ready()
        except AssertionError as error:
            about = self.about(job)
            told = Path(about["StdOut"]).read_text(encoding="utf-8", errors="replace")
            processes = "\n".join(self.processes().values())
            raise AssertionError(f"{about['JobState']} with {told}\nprocesses:\n{processes}") from error

    def ended(self, job: str) -> dict[str, str]:
        """What is told of a job when it has ended."""
        wait_for(lambda: self.about(job)["JobState"] in _ENDED, lambda: self.progress(job))
        return self.about(job)

    def ended_for_good(self, job: str) -> dict[str, str]:
        """The same of a job that requeues itself, with no need to wait 120 s each time."""
        while (about := self._ended_or_waiting(job))["JobState"] == "PENDING":
            self.begin_again(job)
            wait_for(lambda: self.about(job)["JobState"] != "PENDING")
        return about

    def _ended_or_waiting(self, job: str) -> dict[str, str]:
        wait_for(lambda: (now := self.about(job))["JobState"] in _ENDED or _requeued(now), lambda: self.progress(job))
        return self.about(job)

    def processes(self) -> dict[int, str]:
        """{process: its command line}, of this Slurm's daemons and of all that they started."""
        found = {}
        for pid in [int(path.name) for path in Path("/proc").glob("[0-9]*")]:
            if _variables(pid).get("SLURM_CONF") == self.variables["SLURM_CONF"]:
                found[pid] = " ".join(_words(pid, "cmdline"))
        return found

    def process(self, victim: str) -> int:
        """The process that is "rank R", "launcher", "script" or "slurmd NODE"; of the only job there is.

        AssertionError where not exactly one is.
        """
        kind, _, which = victim.partition(" ")
        if kind == "slurmd":
            return int((self.folder / f"slurmd.{which}.pid").read_text())
        patterns = {
            "rank": r"\S*python\S* \S*landscape run ",
            "launcher": r"\S*(srun|prterun|mpiexec) ",
            "script": ".*/slurm_script",
        }
        found = [pid for pid, words in self.processes().items() if re.match(patterns[kind], words)]
        if kind == "rank":
            found = [pid for pid in found if _rank(pid) == which]
        if kind == "launcher":  # srun keeps a second process, its child, which ends with it
            found = [pid for pid in found if _parent(pid) not in found]
        assert len(found) == 1, f"{len(found)} processes are {victim}: {self.processes()}"
        return found[0]

    def kill(self, victim: str) -> None:
        """kill -9 of what `process` finds."""
        os.kill(self.process(victim), signal.SIGKILL)

    def freeze_node(self, node: str) -> list[int]:
        """Stop a node's daemon and all that it started, so that it answers nobody; returns the processes."""
        frozen = [pid for pid in self.processes() if _variables(pid).get("SLURMD_NODENAME") == node]
        frozen.append(self.process(f"slurmd {node}"))
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        return frozen

    @contextmanager
    def patience(self, seconds: int) -> Iterator[None]:
        """While inside, a node that is silent for so long is taken for one that is gone."""
        file = self.folder / "slurm.conf"
        before = file.read_text()
        shorter = re.sub(r"^(SlurmdTimeout|MessageTimeout)=.*$", rf"\1={seconds}", before, flags=re.MULTILINE)
        file.write_text(shorter)
        try:
            self.ask("scontrol", "reconfigure")
            yield
        finally:
            file.write_text(before)
            self.ask("scontrol", "reconfigure")

    def start_node(self, node: str) -> None:
        """Start a node's daemon again."""
        subprocess.run([SLURM_UP, "node", self.folder, node], check=True, capture_output=True, timeout=GUARD)


def _requeued(about: dict[str, str]) -> bool:
    return about["JobState"] == "PENDING" and about["Restarts"] != "0"


def _rank(pid: int) -> str | None:
    """A process's number among those that a launcher started; None where no launcher did."""
    variables = _variables(pid)
    return variables.get("OMPI_COMM_WORLD_RANK", variables.get("SLURM_PROCID"))


def _variables(pid: int) -> dict[str, str]:
    pairs = (word.partition("=") for word in _words(pid, "environ"))
    return {name: value for name, _, value in pairs}


def _words(pid: int, file: str) -> list[str]:
    """The words of such a file of /proc; none of a process that has ended."""
    try:
        return Path(f"/proc/{pid}/{file}").read_text(errors="replace").split("\0")
    except OSError:
        return []


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


@contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    """Slurm on two nodes with two cores each, its files in the new `folder`; raises NoSlurmError where it can not be.

    It ends with this process, however that ends.
    """
    if sys.platform != "linux" or os.geteuid() != 0:
        raise NoSlurmError("needs Linux and root, to start Slurm's daemons")
    installed = subprocess.run([SLURM_UP, "install"], capture_output=True, text=True, check=False)
    if installed.returncode != 0:
        raise NoSlurmError(f"needs Debian's packages of Slurm, which apt does not give: {installed.stderr[-200:]}")
    folder.mkdir()
    with SLURM_UP.open() as lock, (folder / "up.log").open("w") as log:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until the ports found free are taken
        holder = subprocess.Popen(
            [SLURM_UP, "hold", folder, "2", "2"],
            env=os.environ | {"SLURM_TEST_PORT": str(_free_ports(3))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
        assert holder.stdin is not None
        assert holder.stdout is not None
        up = holder.stdout.readline().startswith(b"export")
    try:
        if not up:
            raise NoSlurmError(f"Slurm does not start here: {(folder / 'up.log').read_text()[-400:]}")
        yield Cluster(folder)
    finally:
        holder.stdin.close()
        holder.wait(GUARD)
        holder.stdout.close()


def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One that its tests share; they are skipped where there is none."""
    small_job.command()
    try:
        with running(tmp_path_factory.mktemp("slurm") / "cluster") as slurm:
            yield slurm
    except NoSlurmError as reason:
        pytest.skip(str(reason))


def wait_for(ready: Callable[[], bool], progress: Callable[[], object] = lambda: None) -> None:
    """Until `ready()`; AssertionError when `progress()` stays the same for so long that it means a hang."""
    end, before = time.monotonic() + GUARD, progress()
    while not ready():
        if time.monotonic() > end:
            now = progress()
            assert now != before, "waited in vain"
            end, before = time.monotonic() + GUARD, now
        time.sleep(0.2)


def log(run: Path) -> str:
    """What a run's first submission wrote."""
    return (run / "submitted" / "001.log").read_text(encoding="utf-8")


def _free_ports(count: int) -> int:
    """The first of so many neighbouring ports that nobody listens on."""
    for first in range(21000, 31000, 10):
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise NoSlurmError("needs free ports for Slurm's daemons")
