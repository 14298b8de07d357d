"""The sweep of sweep_nets into FOLDER/run on all ranks: python sweep_job.py FOLDER [PAUSE seconds after each epoch].

The nets are those of FOLDER/models.pt, or trained where it is missing.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sweep_nets
import torch

from landscape.run import shards
from landscape.run.comm import world
from landscape.studies.curve import fit

torch.set_num_threads(1)


def main(folder: Path, pause: float) -> None:
    (folder / "pids").mkdir(exist_ok=True)
    (folder / "pids" / str(world().rank)).write_text(str(os.getpid()))
    fit._SAVE_EVERY = 0.0  # states and rows are stored as soon as they are there
    shards._FIRST_INTERVAL = 0.0
    run_epoch: Callable[..., None] = fit.CurveFit._run_epoch

    def slowly(self: fit.CurveFit, *arguments: Any) -> None:
        with (folder / f"epochs{world().rank}").open("a") as log:
            log.write(f"{arguments[0]}\n")
        run_epoch(self, *arguments)
        time.sleep(pause)

    fit.CurveFit._run_epoch = slowly  # type: ignore[method-assign]
    stored = folder / "models.pt"
    sweep_nets.sweep(folder / "run", torch.load(stored) if stored.exists() else None)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 0.0)
