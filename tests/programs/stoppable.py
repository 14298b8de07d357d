"""A run of slow items, to be killed, stopped or broken from outside.

    mpiexec -n 3 python tests/programs/stoppable.py FOLDER COUNT SECONDS_PER_ITEM [MODE RANK]

FOLDER gets run/, a line per computed item in log, each rank's process in pids/RANK, and `interrupted` after a stop.
MODE breaks RANK: "raise" an exception in its third item, "exit" the interpreter there, or raise "before" the run.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import light  # noqa: F401
from toys import Toy

from landscape.errors import RunInterrupted
from landscape.run import shards
from landscape.run.comm import world
from landscape.run.loop import run_task


def main() -> None:
    folder, count, delay = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    mode, rank = (sys.argv[4], int(sys.argv[5])) if len(sys.argv) > 4 else ("", -1)
    # Shards every few items, so that short runs have some.
    shards._FIRST_INTERVAL, shards._SHARDS_PER_SECOND = 0.02, 10**9
    (folder / "pids").mkdir(exist_ok=True, parents=True)
    me = world().rank
    (folder / "pids" / str(me)).write_text(str(os.getpid()))
    items: list[int] = []

    def before(item: int) -> None:
        items.append(item)
        if me == rank and len(items) == 3:
            if mode == "raise":
                raise ArithmeticError("the third item is broken")
            if mode == "exit":
                sys.exit("leaving in the middle")

    if mode == "before" and me == rank:
        raise ArithmeticError("broken before the run")
    try:
        run_task(Toy(count, folder / "log", before=before, delay=delay), folder / "run")
    except RunInterrupted as error:
        if me == 0:
            (folder / "interrupted").write_text(str(error))


if __name__ == "__main__":
    main()
