"""A run with an item that ends its rank whenever it is computed; survivors go on where the MPI library lets them.

mpiexec -n 3 python tests/programs/poisoned.py FOLDER COUNT ITEM
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import light  # noqa: F401
from toys import Toy

from landscape.run.comm import RanksLostError, end_process, world
from landscape.run.failures import Tolerance
from landscape.run.loop import run_task


def main() -> None:
    folder, count, poison = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])

    def before(item: int) -> None:
        if item == poison:
            os.kill(os.getpid(), signal.SIGKILL)

    task = Toy(count, folder / "log", before=before, delay=0.002)
    while True:
        try:
            run_task(task, folder / "run", tolerance=Tolerance(retries=1))
            break
        except RanksLostError:
            world().recover()
    end_process(0)


if __name__ == "__main__":
    main()
