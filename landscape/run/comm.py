"""Ranks and messages: the one file that knows mpi4py, loaded only under an MPI launcher."""

from __future__ import annotations

import array
import atexit
import contextlib
import faulthandler
import functools
import logging
import math
import os
import re
import stat
import sys
import time
import traceback
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TextIO

import numpy as np
import numpy.typing as npt

from landscape.errors import InputError, RunFailedError, RunInterrupted

if TYPE_CHECKING:
    from mpi4py import MPI


logger = logging.getLogger(__name__)
_TOLERANT = "OMPI_MCA_mpi_ft_enable"  # set by `mpiexec --with-ft ulfm`
# Seconds between looks for a message, doubling: ranks that wait long leave the core to ranks that work.
FIRST_POLL, LAST_POLL = 2e-5, 1e-3
_NEWS = 1.0  # seconds in which a rank's death becomes known to all
SAID_AFTER = 8.0  # seconds that a rank waits for others before that is said; after half of it, it tells that it is here
_PATIENCE = 3.0  # seconds that a rank which ends without a call waits to tell so
_STARTED = 20.0  # seconds in which all ranks usually start MPI
_READ = 5.0  # seconds that a rank which ends all waits at most until the launcher has read what it printed
_HERE = 3  # tag of the message "I have come to meeting n"; the run loop has 1 and 2
_ENDED = 2  # what a rank gives to the meeting where it ends its program is its number and this
_COMMANDS = "landscape_jobs.commands."  # its modules' functions have the names of the commands
_PIECE = 1 << 28  # bytes of one message; MPI counts them in 32 bits


class PartnerFailedError(RuntimeError):
    """Another rank left the group instead of meeting this one; the reason is that rank's to tell."""


class RankEndedError(PartnerFailedError):
    """A rank's program has come to its end, and this rank waits for it."""


class RanksLostError(RuntimeError):
    """Ranks died, and the MPI library lets the others live; `Communicator.recover` makes them a world of their own."""


class Communicator(Protocol):
    """What the engine asks of a group of ranks."""

    rank: int
    size: int
    talking: bool  # in the middle of a message

    def broadcast(self, value: Any) -> Any:
        """Rank 0's `value` on every rank."""

    def broadcast_(self, array: npt.NDArray[np.uint8]) -> None:
        """Give the array, of bytes, rank 0's values on every rank, in place."""

    def gather_all(self, value: Any) -> list[Any]:
        """Every rank's `value`, by rank, on every rank."""

    def allreduce_(self, array: npt.NDArray[np.float64]) -> None:
        """Add the ranks' arrays in place."""

    def groups_of(self, size: int) -> Communicator:
        """The group of `size` neighbouring ranks this rank belongs to."""

    def leave(self) -> None:
        """Take no more part: ranks that wait for this one, or come to wait, get PartnerFailedError."""

    def rejoin(self) -> None:
        """Take part again, after ranks left and the others heard of it; all ranks of the group call this."""

    def recover(self) -> None:
        """Go on without the ranks that were lost; all others call this. The ranks are numbered anew."""

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
    talking = False
    concurrent = False

    def broadcast(self, value: Any) -> Any:
        return value

    def broadcast_(self, array: npt.NDArray[np.uint8]) -> None:
        return None

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

    def rejoin(self) -> None:
        return None

    def recover(self) -> None:
        return None

    def send(self, value: npt.NDArray[np.float64], to: int, tag: int) -> None:
        raise RuntimeError("one rank has nobody to send to")

    def receive(self, tag: int, *, wait: bool) -> tuple[int, npt.NDArray[np.float64]] | None:
        raise RuntimeError("one rank has nobody to hear from")

    def abort(self, message: str) -> None:
        raise SystemExit(message)


SERIAL: Communicator = Serial()


class Mpi:
    """The ranks of an MPI communicator.

    Where the MPI library tolerates faults (ULFM: Open MPI 5 started with `--with-ft ulfm`), the death of a rank raises
    RanksLostError on all others at their next message; elsewhere the launcher ends them all.
    """

    def __init__(self, comm: MPI.Intracomm, whole: Mpi | None = None, patience: float = math.inf) -> None:
        self._comm = comm
        self._patience = patience  # seconds after which a wait ends as if another rank had failed
        self._whole = whole  # of which this is a group
        self.rank: int = comm.Get_rank()
        self.size: int = comm.Get_size()
        self._splits: dict[int, MPI.Intracomm] = {}  # kept, since an MPI library has few communicators to give
        self._broken = self.talking = self.recovered = self._ended = False
        self._meetings = 0
        self._note = np.zeros(1)  # on its way
        self._here: dict[int, int] = {}  # the last meeting that each rank said it has come to

    @property
    def concurrent(self) -> bool:
        from mpi4py import MPI

        return MPI.Query_thread() >= MPI.THREAD_MULTIPLE

    def broadcast(self, value: Any) -> Any:
        with self._watched():
            self._meet()
            return self._comm.bcast(value, root=0)

    def broadcast_(self, array: npt.NDArray[np.uint8]) -> None:
        with self._watched():
            self._meet()
            for start in range(0, len(array), _PIECE):
                self._comm.Bcast(array[start : start + _PIECE], root=0)

    def gather_all(self, value: Any) -> list[Any]:
        with self._watched():
            self._meet()
            return self._comm.allgather(value)

    def allreduce_(self, array: npt.NDArray[np.float64]) -> None:
        from mpi4py import MPI

        with self._watched():
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
            with self._watched():
                self._splits[size] = type(self._comm)(self._comm.Split(self.rank // size, self.rank))
        return Mpi(self._splits[size], self)

    def leave(self) -> None:
        if not self._broken:
            with contextlib.suppress(PartnerFailedError), self._watched():
                self._meet(1)

    def rejoin(self) -> None:
        self._broken = False

    def recover(self) -> None:
        self.recovered = True
        self._revoke()
        self._comm = type(self._comm)(self._comm.Shrink())
        self.rank, self.size = self._comm.Get_rank(), self._comm.Get_size()
        self._splits = {}
        self._broken = False

    def send(self, value: npt.NDArray[np.float64], to: int, tag: int) -> None:
        with self._watched():
            self._wait(self._comm.Isend(value, dest=to, tag=tag))

    def receive(self, tag: int, *, wait: bool) -> tuple[int, npt.NDArray[np.float64]] | None:
        from mpi4py import MPI

        status = MPI.Status()

        def waiting() -> bool:
            return bool(self._comm.Iprobe(source=MPI.ANY_SOURCE, tag=tag, status=status))

        with self._watched():
            if wait:
                self._until(waiting)
            elif not waiting():
                return None
            array = np.empty(status.Get_count(MPI.DOUBLE))
            self._comm.Recv(array, source=status.Get_source(), tag=tag)
            return status.Get_source(), array

    def end(self) -> None:
        """The program of this rank ends: ranks that wait for it, or come to wait, get RankEndedError."""
        if not self._broken and not self._ended:
            with contextlib.suppress(PartnerFailedError, RanksLostError), self._watched():
                self._meet(self.rank + _ENDED)
            self._hear_who_is_here()  # what was sent is received before MPI ends

    def abort(self, message: str) -> None:
        sys.stderr.write(f"rank {self.rank} ends the job: {message}\n")
        _flush()
        self._comm.Abort(1)

    def _meet(self, leaving: int = 0) -> None:
        """Wait for all ranks; every collective begins with it, so that a rank that fails keeps nobody waiting."""
        from mpi4py import MPI

        # The command's ranks make the same calls; those of a program may not.
        asks = self._whole is None and not leaving and not _is_command()
        call = zlib.crc32(_called().encode()) & 0x7FFFFFFF if asks else 0
        left = np.array([leaving, call, -call], dtype=np.int32)
        self._meetings += 1
        met = self._comm.Iallreduce(MPI.IN_PLACE, left, op=MPI.MAX)
        self._until(met.Test, self._say if self._whole is None and not leaving else None)
        if left[0] >= _ENDED:
            self._broken = self._ended = True
            raise RankEndedError(
                f"rank {left[0] - _ENDED} has ended its program, and rank {self.rank} waits for it in {_called()}. "
                "Every rank makes the same calls: look for an exit, or an if, that only some of them come to"
            )
        if left[0]:
            self._broken = True
            raise PartnerFailedError("another rank of this group failed")
        if left[1] != -left[2]:
            calls = self._comm.allgather(_called())
            self._broken = True
            other = next(rank for rank, name in enumerate(calls) if name != calls[0])
            raise InputError(
                f"rank 0 calls {calls[0]}, and rank {other} {calls[other]}. Every rank makes the same calls: look for "
                "an if that sends some of them another way"
            )

    def _say(self, waited: float, before: float) -> None:
        """Tell rank 0, and rank 1 in case that it is rank 0 which is missing, who is here; one of the two then says it.

        `waited` are the seconds by now, `before` those at the last call.
        """
        if before < SAID_AFTER / 2 <= waited:
            self._note = np.array([self._meetings], dtype=np.float64)
            for rank in {0, 1} - {self.rank}:
                self._comm.Isend(self._note, dest=rank, tag=_HERE).Free()
        self._hear_who_is_here()
        missing = [r for r in range(self.size) if r != self.rank and self._here.get(r) != self._meetings]
        tells = self.rank == 0 or (self.rank == 1 and 0 in missing)
        # The command makes the same calls on all ranks: there a rank that is missing is only slow.
        if before < SAID_AFTER <= waited and missing and tells and not _is_command():
            ranks = ", ".join(map(str, missing[:8])) + (f" and {len(missing) - 8} more" if len(missing) > 8 else "")
            logger.warning(
                "rank %d has waited %.0f s in %s for rank%s %s",
                self.rank,
                waited,
                _called(),
                "s" * (len(missing) > 1),
                ranks,
            )

    def _hear_who_is_here(self) -> None:
        while (message := self.receive(_HERE, wait=False)) is not None:
            self._here[message[0]] = int(message[1][0])

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """Raise RanksLostError where the MPI library tells that a rank is gone, and have all others raise it."""
        from mpi4py import MPI

        outer, self.talking = self.talking, True
        try:
            yield
        except MPI.Exception as error:
            if not self._tells_of_a_death(error):
                raise
            self._revoke()
            raise RanksLostError("ranks of this run died; the others can go on") from error
        finally:
            self.talking = outer

    def _tells_of_a_death(self, error: MPI.Exception) -> bool:
        """Whether an error of the MPI library means that a rank is gone; a collective may say no more than "other"."""
        from mpi4py import MPI

        if error.Get_error_class() in (MPI.ERR_PROC_FAILED, MPI.ERR_PROC_FAILED_PENDING, MPI.ERR_REVOKED):
            return True
        deadline = time.monotonic() + _NEWS
        while time.monotonic() < deadline:
            if self._somebody_died():
                return True
            time.sleep(LAST_POLL)
        return False

    def _revoke(self) -> None:
        for comm in (self._comm, self._whole._comm if self._whole is not None else None):
            if comm is not None and not comm.Is_revoked():
                comm.Revoke()

    def _wait(self, request: MPI.Request) -> None:
        self._until(request.Test)

    def _until(self, ready: Callable[[], bool], say: Callable[[float, float], None] | None = None) -> None:
        """Wait, and look for deaths: a collective that a death has stopped between other ranks says nothing itself.

        Once a second `say` gets the seconds waited, now and at its last call.
        """
        pause, began = FIRST_POLL, time.monotonic()
        looked = began
        while not ready():
            time.sleep(pause)
            pause = min(2 * pause, LAST_POLL)
            if time.monotonic() - looked > _NEWS:
                before, looked = looked, time.monotonic()
                if looked - began > self._patience:
                    raise PartnerFailedError("the other ranks do not come")
                if say is not None:
                    say(looked - began, before - began)
                if self._somebody_died():
                    self._revoke()
                    raise RanksLostError("ranks of this run died; the others can go on")

    def _somebody_died(self) -> bool:
        from mpi4py import MPI

        with contextlib.suppress(MPI.Exception, NotImplementedError):  # a library without fault tolerance
            return bool(self._comm.Is_revoked() or self._comm.Get_failed().Get_size())
        return False


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


def local_size() -> int:
    """Number of processes of this run on this machine, 1 outside any launcher."""
    for variable in ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS"):
        if variable in os.environ:
            return int(os.environ[variable])
    # as in "2(x3),1": tasks on each node in turn; the largest will do
    counts = re.findall(r"(\d+)(?:\(x\d+\))?", os.environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
    return max(map(int, counts), default=1)


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
        MPI = wait_for_all_ranks_to_start()
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
    copy = _copied_world(MPI)
    assert copy is not None
    comm = Mpi(MPI.Intracomm(copy))
    atexit.register(comm.end)  # before MPI's own end, which was registered first
    return comm


def _copied_world(MPI: Any, patience: float | None = None) -> MPI.Intracomm | None:
    """MPI's world as a communicator of our own, which all ranks come to make; None after `patience` seconds.

    Without patience this waits for ever, and tells so. Which ranks are missing cannot be known: messages in the world
    itself are the program's own.
    """
    copy, request = MPI.COMM_WORLD.Idup()
    rank, size = MPI.COMM_WORLD.Get_rank(), MPI.COMM_WORLD.Get_size()
    pause, began, said = FIRST_POLL, time.monotonic(), False
    while not request.Test():
        time.sleep(pause)
        pause = min(2 * pause, LAST_POLL)
        waited = time.monotonic() - began
        if patience is not None and waited > patience:
            return None
        # Rank 1 in case that it is rank 0 which is missing; the command makes the same calls on all ranks.
        if patience is None and not said and waited >= SAID_AFTER and rank < 2 and not _is_command():
            said = True
            others = f"rank {1 - rank}" if size == 2 else "other ranks"
            logger.warning(
                "rank %d has waited %.0f s in %s for %s, not seen in any such call yet. Every rank makes the same "
                "calls: look for an exit, or an if, that only some of them come to",
                rank,
                waited,
                _called(),
                others,
            )
    return copy  # type: ignore[no-any-return]


@atexit.register
def _end_unseen() -> None:
    """The program of a rank ends that never called for `world`: tell those that wait for it there, or soon come to.

    Not for ever: the other ranks may do without this library.
    """
    launched, module = launch(), sys.modules.get("mpi4py.MPI")
    if launched is None or launched.size == 1 or module is None or world.cache_info().currsize:
        return
    MPI: Any = module
    if MPI.Is_initialized() and not MPI.Is_finalized() and MPI.COMM_WORLD.Get_size() > 1:
        with contextlib.suppress(MPI.Exception):
            copy = _copied_world(MPI, _PATIENCE)
            if copy is not None:
                Mpi(MPI.Intracomm(copy), patience=_PATIENCE).end()


def wait_for_all_ranks_to_start() -> Any:
    """The module mpi4py.MPI, whose import waits for every rank; after a while standard error shows where this one is.

    A rank that ended before it came here is no matter to some launchers, and this one would wait without a word.
    """
    faulthandler.dump_traceback_later(_STARTED, exit=False, file=2)  # the import holds Python's lock
    try:
        from mpi4py import MPI
    finally:
        faulthandler.cancel_dump_traceback_later()
    return MPI


def end_process(code: int) -> None:
    """What a program under a launcher does last: it ends here with this code where ranks may have been lost.

    MPI's own end would wait for the lost ranks, with Open MPI 5.0 one time in ten for ever. Else this does nothing.
    """
    comm = world() if world.cache_info().currsize else SERIAL
    if isinstance(comm, Mpi) and (comm.recovered or os.environ.get(_TOLERANT) == "1"):
        with contextlib.suppress(RanksLostError):
            comm.gather_all(None)
        _flush()
        os._exit(code)


def processor_count() -> int:
    """Processor cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory() -> int:
    """Bytes of memory that this machine, or the part of it that a batch system gives, has left."""
    free = [sys.maxsize]
    with contextlib.suppress(OSError, ValueError, IndexError):
        found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
        free += [1024 * int(found[1])] if found else []
    with contextlib.suppress(OSError, ValueError):  # "max" where there is no limit
        group = Path("/sys/fs/cgroup")
        free.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return max(0, min(free))


def _called() -> str:
    """The function of this package that the program has called, or the command."""
    found, command = "the engine", ""
    for frame in _frames():
        module, name = frame.f_globals.get("__name__", ""), frame.f_code.co_name
        inner = "<locals>" in frame.f_code.co_qualname  # what a decorator wraps a function in has no name for the user
        if module.startswith("landscape.") and not inner:
            found = name
        if module.startswith(_COMMANDS) and not inner and not name.startswith("_"):
            command = f"landscape {name}"
    return command or found


def _is_command() -> bool:
    """Whether the command `landscape` runs, not a program of the user's."""
    return any(frame.f_globals.get("__name__", "").startswith("landscape_jobs.") for frame in _frames())


def _frames() -> Iterator[FrameType]:
    """The calls that this thread is in, innermost first."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def _flush() -> None:
    """Hand over what was printed: MPI's Abort ends the process without it.

    MPICH's launcher also loses what it has not read from a rank's pipe by then, so this waits until it has, a while.
    """
    deadline = time.monotonic() + _READ
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        while _unread(stream) and time.monotonic() < deadline:
            time.sleep(LAST_POLL)


def _unread(stream: TextIO) -> int:
    """Bytes that lie in the pipe behind a stream; 0 of a file, of a terminal, and where the system does not tell."""
    count = array.array("i", [0])
    with contextlib.suppress(ImportError, AttributeError, OSError, ValueError):
        import fcntl
        import termios

        if stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode):
            fcntl.ioctl(stream.fileno(), termios.FIONREAD, count)
    return count[0]


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
