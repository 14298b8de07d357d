"""Ranks and messages: the one file that knows mpi4py, loaded only under an MPI launcher."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from landscape.errors import InputError, RunFailedError, RunInterrupted

if TYPE_CHECKING:
    from mpi4py import MPI

logger = logging.getLogger(__name__)

# Seconds between looks for a message, doubling: ranks that wait long leave the core to ranks that work.
_FIRST_POLL, _LAST_POLL = 2e-5, 1e-3


class PartnerFailedError(RuntimeError):
    """Another rank left the group instead of meeting this one; the reason is that rank's to tell."""


class Communicator(Protocol):
    """What the engine asks of a group of ranks."""

    rank: int
    size: int

    def broadcast(self, value: Any) -> Any:
        """Rank 0's `value` on every rank."""

    def gather_all(self, value: Any) -> list[Any]:
        """Every rank's `value`, by rank, on every rank."""

    def allreduce_(self, array: npt.NDArray[np.float64]) -> None:
        """Add the ranks' arrays in place."""

    def groups_of(self, size: int) -> Communicator:
        """The group of `size` neighbouring ranks this rank belongs to."""

    def leave(self) -> None:
        """Take no more part: ranks that wait for this one, or come to wait, get PartnerFailedError."""

    def send(self, value: npt.NDArray[np.float64], to: int, tag: int) -> None:
        """Send an array of float64."""

    def receive(self, tag: int, *, wait: bool) -> tuple[int, npt.NDArray[np.float64]] | None:
        """(sender, array) of the next message; None when `wait` is False and there is none."""

    def abort(self, message: str) -> None:
        """End every rank at once, with `message` on standard error and a non-zero exit code."""

    @property
    def concurrent(self) -> bool:
        """Whether two threads of a rank may talk at once."""


class Serial:
    """One rank alone."""

    rank = 0
    size = 1
    concurrent = False

    def broadcast(self, value: Any) -> Any:
        return value

    def gather_all(self, value: Any) -> list[Any]:
        return [value]

    def allreduce_(self, array: npt.NDArray[np.float64]) -> None:
        return None

    def groups_of(self, size: int) -> Communicator:
        if size != 1:
            raise InputError(
                f"ranks_per_item={size} on 1 rank; use 1, or start a multiple of {max(size, 2)} ranks with mpiexec"
            )
        return self

    def leave(self) -> None:
        return None

    def send(self, value: npt.NDArray[np.float64], to: int, tag: int) -> None:
        raise RuntimeError("one rank has nobody to send to")

    def receive(self, tag: int, *, wait: bool) -> tuple[int, npt.NDArray[np.float64]] | None:
        raise RuntimeError("one rank has nobody to hear from")

    def abort(self, message: str) -> None:
        raise SystemExit(message)


SERIAL: Communicator = Serial()


class Mpi:
    """The ranks of an MPI communicator."""

    def __init__(self, comm: MPI.Intracomm) -> None:
        self._comm = comm
        self.rank: int = comm.Get_rank()
        self.size: int = comm.Get_size()
        self._splits: dict[int, MPI.Intracomm] = {}  # kept, since an MPI library has few communicators to give
        self._broken = False

    @property
    def concurrent(self) -> bool:
        from mpi4py import MPI

        return MPI.Query_thread() >= MPI.THREAD_MULTIPLE

    def broadcast(self, value: Any) -> Any:
        self._meet()
        return self._comm.bcast(value, root=0)

    def gather_all(self, value: Any) -> list[Any]:
        self._meet()
        return self._comm.allgather(value)

    def allreduce_(self, array: npt.NDArray[np.float64]) -> None:
        from mpi4py import MPI

        self._meet()
        self._comm.Allreduce(MPI.IN_PLACE, array)

    def groups_of(self, size: int) -> Communicator:
        if size < 1 or self.size % size:
            raise InputError(
                f"ranks_per_item={size} does not divide the {self.size} ranks of this run; use a divisor of "
                f"{self.size}, or start another number of ranks"
            )
        if size == 1:
            return SERIAL
        if size not in self._splits:
            self._splits[size] = type(self._comm)(self._comm.Split(self.rank // size, self.rank))
        return Mpi(self._splits[size])

    def leave(self) -> None:
        if not self._broken:
            with contextlib.suppress(PartnerFailedError):
                self._meet(leaving=True)

    def send(self, value: npt.NDArray[np.float64], to: int, tag: int) -> None:
        self._wait(self._comm.Isend(value, dest=to, tag=tag))

    def receive(self, tag: int, *, wait: bool) -> tuple[int, npt.NDArray[np.float64]] | None:
        from mpi4py import MPI

        status = MPI.Status()

        def waiting() -> bool:
            return bool(self._comm.Iprobe(source=MPI.ANY_SOURCE, tag=tag, status=status))

        if wait:
            _until(waiting)
        elif not waiting():
            return None
        array = np.empty(status.Get_count(MPI.DOUBLE))
        self._comm.Recv(array, source=status.Get_source(), tag=tag)
        return status.Get_source(), array

    def abort(self, message: str) -> None:
        sys.stderr.write(f"rank {self.rank} ends the job: {message}\n")
        _flush()
        self._comm.Abort(1)

    def _meet(self, *, leaving: bool = False) -> None:
        """Wait for all ranks; every collective begins with it, so that a rank that fails keeps nobody waiting."""
        from mpi4py import MPI

        left = np.array([leaving], dtype=np.int32)
        self._wait(self._comm.Iallreduce(MPI.IN_PLACE, left, op=MPI.MAX))
        if left[0]:
            self._broken = True
            raise PartnerFailedError("another rank of this group failed")

    @staticmethod
    def _wait(request: MPI.Request) -> None:
        _until(request.Test)


@dataclass(frozen=True)
class Launch:
    """What the launcher says of this process."""

    launcher: str
    size: int


def launch(environment: Mapping[str, str] | None = None) -> Launch | None:
    """The launcher's own count of ranks, from its environment variables; None outside any launcher.

    >>> launch({"OMPI_COMM_WORLD_SIZE": "4"})
    Launch(launcher='mpiexec (Open MPI)', size=4)
    >>> launch({}) is None
    True
    """
    variables = os.environ if environment is None else environment
    for variable, launcher in (("OMPI_COMM_WORLD_SIZE", "mpiexec (Open MPI)"), ("PMI_SIZE", "mpiexec (PMI)")):
        if variable in variables:
            return Launch(launcher, int(variables[variable]))
    # SLURM_NTASKS alone also stands in a batch script's own shell, where nothing was launched in parallel.
    if "SLURM_STEP_ID" in variables and "SLURM_STEP_NUM_TASKS" in variables and "SLURM_PROCID" in variables:
        return Launch("srun", int(variables["SLURM_STEP_NUM_TASKS"]))
    return None


def local_rank() -> int:
    """Number of this process among those of its machine, 0 outside any launcher."""
    for variable in ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID", "LOCAL_RANK"):
        if variable in os.environ:
            return int(os.environ[variable])
    return 0


@functools.cache
def world() -> Communicator:
    """All ranks of this run: MPI's world under a launcher with more than one process, else one rank alone.

    Raises InputError when the launcher's count and the MPI library's world disagree: that happens when mpiexec and
    mpi4py belong to different MPIs, and would run N copies of the whole job.
    """
    launched = launch()
    if launched is None or launched.size == 1:
        return SERIAL
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise InputError(
            f"{launched.launcher} started {launched.size} processes, but mpi4py finds no MPI library: {error}. Load "
            "your cluster's MPI module, or install one: pip install 'loss-landscape-engine[mpi]'."
        ) from error
    size = MPI.COMM_WORLD.Get_size()
    if size != launched.size:
        library = MPI.Get_library_version().splitlines()[0].strip("\x00 ")
        raise InputError(
            f"{launched.launcher} started {launched.size} processes, but MPI ({library}) sees a world of {size}: the "
            "launcher belongs to another MPI. Start with that library's own mpiexec, or srun --mpi=pmix."
        )
    sys.excepthook = _abort_all
    return Mpi(MPI.Intracomm(MPI.COMM_WORLD.Dup()))


def processor_count() -> int:
    """Processor cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _until(ready: Callable[[], bool]) -> None:
    pause = _FIRST_POLL
    while not ready():
        time.sleep(pause)
        pause = min(2 * pause, _LAST_POLL)


def _flush() -> None:
    """MPI's Abort ends the process without it."""
    sys.stdout.flush()
    sys.stderr.flush()


def _abort_all(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """An exception nobody caught on one rank would leave the others waiting for it for ever."""
    from mpi4py import MPI

    rank = MPI.COMM_WORLD.Get_rank()
    if rank != 0 and isinstance(error, (RunFailedError, RunInterrupted)):
        return  # the run loop raises these on every rank: rank 0 tells it once, and ends all
    sys.stderr.write(f"rank {rank} failed:\n")
    traceback.print_exception(kind, error, trace)
    _flush()
    MPI.COMM_WORLD.Abort(1)
