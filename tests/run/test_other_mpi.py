"""`landscape run` by the mpiexec of three MPIs: Open MPI 5 and MPICH 5 from PyPI, and Debian's Open MPI 4.1.

scripts/environment installs them. mpi4py takes the library beside its Python, or the one that MPI4PY_LIBMPI names.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import GUARD, PROGRAMS, mpi_environment, mpiexec
from small_job import landscape, values, write_job

pytestmark = pytest.mark.mpi

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Mpi:
    """A launcher, the library of the same MPI (None: the one mpi4py finds by itself), and what that calls itself."""

    start: tuple[str, ...]
    library: Path | None
    name: str

    def launcher(self, ranks: int) -> tuple[str, ...]:
        return (*self.start, "-n", str(ranks))

    @property
    def variables(self) -> dict[str, str]:
        return {} if self.library is None else {"MPI4PY_LIBMPI": str(self.library)}


def open_mpi_5() -> Mpi:
    launcher = mpiexec()
    if launcher is None:
        pytest.skip("needs mpiexec: pip install 'loss-landscape-engine[mpi]'")
    return Mpi((launcher,), None, "Open MPI v5")


def mpich_5() -> Mpi:
    launcher = ROOT / ".venv-mpich" / "bin" / "mpiexec"
    library = next((ROOT / ".venv-mpich" / "lib").glob("libmpi.*.*"), None)
    if library is None or not launcher.exists():
        pytest.skip("needs MPICH in .venv-mpich, where scripts/test installs it")
    return Mpi((str(launcher),), library, "MPICH")


def open_mpi_4() -> Mpi:
    launcher = shutil.which("mpiexec.openmpi")
    library = next(Path("/usr/lib").glob("*-linux-gnu/libmpi.so.40"), None)
    if launcher is None or library is None:
        pytest.skip("needs Debian's Open MPI: apt-get install openmpi-bin")
    return Mpi((launcher, "--oversubscribe"), library, "Open MPI v4")


MPIS = pytest.mark.parametrize("find", [open_mpi_5, mpich_5, open_mpi_4], ids=["open_mpi_5", "mpich_5", "open_mpi_4"])


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one rank computes, without any launcher."""
    folder = tmp_path_factory.mktemp("alone")
    run = write_job(folder)
    done = landscape(folder, "run", "job.toml")
    assert done.returncode == 0, done.stderr
    return values(run)


@MPIS
def test_the_library_is_that_of_the_launcher(find: Callable[[], Mpi]) -> None:
    mpi = find()
    ask = "from mpi4py import MPI; print(MPI.COMM_WORLD.size, MPI.Get_library_version())"
    done = subprocess.run(
        [*mpi.launcher(1), sys.executable, "-c", ask],
        env=mpi_environment() | mpi.variables, capture_output=True, text=True, check=False, timeout=GUARD,
    )  # fmt: skip
    assert done.stdout.startswith(f"1 {mpi.name}"), done.stderr


@pytest.mark.parametrize("find", [mpich_5, open_mpi_4], ids=["mpich_5", "open_mpi_4"])
def test_two_ranks_compute_what_one_rank_computes(
    find: Callable[[], Mpi], alone: dict[str, bytes], tmp_path: Path
) -> None:
    """By Open MPI 5 the tests of the command line do the same."""
    mpi = find()
    run = write_job(tmp_path)
    done = landscape(tmp_path, "run", "job.toml", start=mpi.launcher(2), variables=mpi.variables)
    assert done.returncode == 0, done.stderr
    assert values(run) == alone
    assert json.loads((run / "attempts" / "0001.json").read_text())["ranks"] == 2


def test_bad_input_ends_with_2(tmp_path: Path) -> None:
    """MPICH's mpiexec hands on a 2, too, in the test below, and Open MPI 5's in those of the command line."""
    mpi = open_mpi_4()
    write_job(tmp_path)
    done = landscape(
        tmp_path, "run", "job.toml", "--set", "surface.x=[0]", start=mpi.launcher(2), variables=mpi.variables
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("a range is three numbers") == 1


def test_the_mpiexec_of_another_mpi_is_refused(tmp_path: Path) -> None:
    """MPICH's mpiexec and the library of Open MPI: two worlds of one rank, which would each compute all points."""
    launcher = mpich_5().launcher(2)
    run = write_job(tmp_path)
    done = landscape(tmp_path, "run", "job.toml", start=launcher)
    assert done.returncode == 2, done.stderr
    assert "started 2 processes" in done.stderr
    assert "sees a world of 1: the launcher belongs to another MPI" in done.stderr
    assert not run.exists()


def test_a_rank_that_leaves_with_success_under_mpich() -> None:
    """Its launcher would report success."""
    mpi = mpich_5()
    done = subprocess.run(
        [*mpi.launcher(2), sys.executable, str(PROGRAMS / "leaving.py"), "zero", "1", "surface"],
        env=mpi_environment() | mpi.variables, capture_output=True, text=True, check=False, timeout=GUARD,
    )  # fmt: skip
    assert done.returncode == 1
    assert "rank 1 has ended its program, and rank 0 waits for it in measure_surface" in done.stderr
