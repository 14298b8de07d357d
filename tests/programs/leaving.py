"""A rank that leaves the others, or does not come: leaving.py MODE RANK [surface], see `test_mpi.py`.

It runs toys, without torch; with "surface" it measures one, which a decorator and the library stand around.
"""

from __future__ import annotations

import os
import sys
import time
from logging import LogRecord
from typing import Any

MODE, WHO = sys.argv[1], int(sys.argv[2])
if "surface" in sys.argv:
    import torch
    from torch import nn

    import landscape as ls

    torch.manual_seed(0)
    objective = ls.Objective(nn.Linear(3, 2), data=(torch.randn(6, 3), torch.randint(2, (6,))))

    def measure(progress: Any = None) -> None:
        grid: dict[str, Any] = {"x": (-1, 1, 3), "y": (-1, 1, 3)}
        ls.measure_surface(objective, ls.random_plane(objective), **grid, progress=progress)
else:
    import light  # noqa: F401
    from toys import Toy

    from landscape.run.loop import run_task

    def measure(progress: Any = None) -> None:
        run_task(Toy(9), progress=progress)


from landscape.run import comm  # noqa: E402
from landscape.run.together import agree  # noqa: E402

comm.SAID_AFTER = 1.0
if MODE.startswith("own"):  # the program has MPI going before any call: rank 1 ends, fails, or lives on, without one
    from mpi4py import MPI  # noqa: F401
ME = int(os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("PMI_RANK", "0")))


def told(_: LogRecord) -> bool:
    """Rank 0 has said who is missing: let that rank know, which waits for it. The record is shown as ever."""
    from mpi4py import MPI

    MPI.COMM_WORLD.send(None, dest=WHO)
    return True


def wait_until_told() -> None:
    """Until rank 0 has said that this rank is missing, however long a crowded machine takes for it."""
    from mpi4py import MPI

    while not MPI.COMM_WORLD.iprobe(source=0):
        time.sleep(0.01)
    MPI.COMM_WORLD.recv(source=0)


def leave(_: Any = None) -> None:
    if MODE == "kill":
        os._exit(0)
    sys.exit(0 if MODE in ("zero", "callback") else "no labels.npy on this node")


if MODE in ("first", "own first") and ME == WHO:
    leave()
if MODE == "own error" and ME == WHO:
    raise ValueError("no labels.npy on this node")
if MODE in ("late", "own late") and ME == 0:
    comm.logger.addFilter(told)
if MODE == "own late" and ME == WHO:
    wait_until_told()
    leave()
if MODE == "own without":  # nobody calls: all end, as before
    sys.exit(0)
measure()
if MODE == "callback":
    measure(progress=leave)  # which rank 0 calls
elif MODE == "late" and ME == WHO:
    wait_until_told()
    measure()
elif MODE == "other":
    if ME == WHO:
        agree(comm.world(), int)
    else:
        measure()
elif MODE == "alone":
    if ME == WHO:
        measure()
elif ME == WHO:
    leave()
else:
    measure()
