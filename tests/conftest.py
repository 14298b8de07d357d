"""What the tests share: starting MPI programs."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = Path(__file__).parent / "programs"
GUARD = 240  # seconds after which a program counts as hanging; none needs a tenth of it

# Tests share programs, samples and small models by import, from whichever folder they lie in.
TESTS = Path(__file__).parent
sys.path[:0] = [str(TESTS), str(PROGRAMS), *sorted({str(path.parent) for path in TESTS.rglob("test_*.py")})]

_MPI_ENVIRONMENT = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "OMPI_MCA_btl": "^ofi",
    "OMP_NUM_THREADS": "1",
}


def mpiexec() -> str | None:
    """The launcher beside this Python, or else the one on the path."""
    beside = Path(sys.executable).with_name("mpiexec")
    return str(beside) if beside.exists() else shutil.which("mpiexec")


def mpi_environment() -> dict[str, str]:
    """Variables that let Open MPI run as root, with more ranks than cores, and start fast."""
    return {**os.environ, **_MPI_ENVIRONMENT}


def mpi_command(ranks: int, program: str, *arguments: object) -> list[str]:
    """The command line that starts one of the test programs."""
    launcher = mpiexec()
    if launcher is None:
        pytest.skip("mpiexec is not installed: pip install 'loss-landscape-engine[mpi]'")
    return [launcher, "-n", str(ranks), sys.executable, str(PROGRAMS / program), *map(str, arguments)]


def pytest_configure() -> None:
    """The collector of cycles, which is else a tenth of the time, comes less often."""
    gc.set_threshold(10_000, 20, 20)


def pytest_collection_finish() -> None:
    """What is loaded by now stays, so that the collector need not look at it again."""
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _users_cache_is_left_alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What trials of speed remember lies in a folder of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("landscape.objective.speed._cache", lambda: tmp_path_factory.getbasetemp() / "speed")
        yield


RunMpi = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def run_mpi() -> RunMpi:
    """run_mpi(ranks, program, *arguments): the finished process.

    Once more where the launcher itself did not start, as on a crowded machine it may not.
    """

    def once(ranks: int, program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            mpi_command(ranks, program, *arguments),
            env=mpi_environment(),
            capture_output=True,
            text=True,
            timeout=GUARD,
            check=False,
        )

    def run(ranks: int, program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        done = once(ranks, program, *arguments)
        return once(ranks, program, *arguments) if "listener thread failed to start" in done.stderr else done

    return run


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The one Slurm of all tests that need one; they run in one process, one after another."""
    import slurm_cluster

    yield from slurm_cluster.cluster(tmp_path_factory)
