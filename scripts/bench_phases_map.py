"""A map of phases: from a published table, and a cell of it measured against the same calls by hand.

    python scripts/bench_phases_map.py [TABLE.csv]

TABLE.csv is the published grid (seed_metrics S1); without it a table of as many cells is made. Reported are seconds for
the map of the table and for its picture, and how many times what `pandas.read_csv` takes; and the time of
`measure_phases` for one cell of three seeds over that of measure_spectrum, measure_connectivity and measure_agreement
called by hand.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from landscape_jobs.demo import digits
from torch import nn

import landscape as ls
from landscape.checkpoints.trained import TrainedModels
from landscape.studies.phases.networks import mixed

_REPEATS = 5
_COLUMNS = {"lambda_max": "hess_top", "mc": "mc_train_err_pct", "cka": "cka_softmax", "test_accuracy": "test_acc"}


def best(call: Callable[[], Any], repeats: int = _REPEATS) -> float:
    """The shortest of several times, in seconds."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)


def made_table(folder: Path) -> Path:
    """A table of 14 x 13 cells."""
    random = np.random.default_rng(0)
    rows = [(2**i, 16 * 2**j, *random.random(4)) for i in range(14) for j in range(13)]
    path = folder / "cells.csv"
    pd.DataFrame(rows, columns=["width", "batch", *_COLUMNS.values()]).to_csv(path, index=False)
    return path


def map_of_table(path: Path) -> None:
    """Seconds for the map of a table and its picture."""

    def phases() -> ls.Phases:
        return ls.phases_from_table(path, load="width", temperature="batch", columns=_COLUMNS)

    found = phases()
    read, peer = best(phases), best(lambda: pd.read_csv(path))
    drawn = best(lambda: found.plot().savefig("/dev/null", format="png"), 1)
    print(f"{found}")
    print(f"map from its table: {read:.3f} s, {read / peer:.1f} times pandas.read_csv ({peer:.4f} s)")
    print(f"its picture, all panels: {drawn:.2f} s")


def net(width: int) -> nn.Module:
    """An MLP of digits."""
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


def cell(folder: Path, width: int = 32, epochs: int = 10) -> None:
    """One cell of three seeds by `measure_phases`, and by hand with the functions it is made of."""
    images, labels = (part[:600] for part in digits())
    run = ls.train_models(
        net, (images, labels), recipe=ls.Recipe(lr=0.1, epochs=10), cells={"width": [width], "batch_size": [32]},
        seeds=3, out=folder / "train",
    )  # fmt: skip
    models: TrainedModels = run.checkpoints

    def together() -> None:
        ls.measure_phases(run, load="width", temperature="batch_size", curve_epochs=epochs, curve_lr=0.05, well=False)

    def by_hand() -> None:
        objective = ls.Objective(net(width), data=(images, labels), metrics=("error",))
        for path in models.final:
            state = ls.read_state(path)
            theta = torch.cat([value.flatten() for value in state.values()])
            objective.evaluate(theta)
            ls.measure_spectrum(objective, k=1, theta=theta, samples=200, density=False, block=1)
        asked: dict[str, Any] = {"t": 5, "epochs": epochs, "lr": 0.05}
        ls.measure_connectivity(objective, models.final, **asked)
        ls.measure_agreement(mixed(objective, 768, 0), models.final)

    together()  # warms up
    by_hand()
    ours, theirs = best(together, 3), best(by_hand, 3)
    print(
        f"a cell of 3 seeds, width {width}: {ours:.2f} s, {ours / theirs:.2f} times the calls by hand ({theirs:.2f} s)"
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        map_of_table(Path(sys.argv[1]) if len(sys.argv) > 1 else made_table(folder))
        cell(folder)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
