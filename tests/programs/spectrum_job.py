"""A spectrum into FOLDER/run: python spectrum_job.py FOLDER [STAGE N].

With the stage "eigenpairs" it stops after N products, says so by the file FOLDER/ready with the products it made, and
waits to be killed; in the stage "density" it raises `Stopped` with them after N probes. Products are counted where they
are made.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from spectrum_cases import objective
from torch import Tensor

import landscape as ls
from landscape.curvature.operator import CurvatureOperator
from landscape.run import shards
from landscape.studies.spectrum import eigen
from landscape.studies.spectrum.density import DensityTask


class Stopped(BaseException):
    """In the middle of the density, with the products made before."""


def main(folder: Path, stop: str = "", after: int = 0) -> dict[str, Any]:
    """The numbers, and how many products each stage made."""
    with pytest.MonkeyPatch.context() as patch:
        return counted_run(folder, stop, after, patch)


def counted_run(folder: Path, stop: str, after: int, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The same, with the library counting as the patch has it."""
    folder.mkdir(exist_ok=True)
    run = folder / "run"
    made: Counter[str] = Counter()
    apply, by_chunk, evaluate = CurvatureOperator.apply, CurvatureOperator.by_chunk, DensityTask.evaluate
    # states and rows are stored as soon as they are there
    patch.setitem(eigen.EigenTask.__init__.__kwdefaults__, "save_every", 0.0)
    patch.setattr(eigen, "_SAVE_SHARE", 0)
    patch.setattr(shards, "_FIRST_INTERVAL", 0.0)
    probes = 0

    def wait() -> None:
        (folder / "making").write_text(json.dumps(made))
        (folder / "making").rename(folder / "ready")
        time.sleep(1000)

    def now() -> str:
        return next(name for name in ("density", "trace", "eigenpairs") if (run / name).exists())

    def counted(self: CurvatureOperator, vectors: Tensor) -> Tensor:
        name = now()
        if stop == name == "eigenpairs" and made[name] >= after:
            wait()
        made[name] += len(vectors)
        return apply(self, vectors)

    def counted_by_chunk(self: CurvatureOperator, vectors: Tensor, *others: Tensor) -> object:
        made[now()] += len(vectors)
        return by_chunk(self, vectors, *others)

    def counted_item(self: DensityTask, index: int, group: object) -> object:
        nonlocal probes
        if stop == "density" and probes >= after:
            raise Stopped(dict(made))
        probes += 1
        return evaluate(self, index, group)  # type: ignore[arg-type]

    patch.setattr(CurvatureOperator, "apply", counted)
    patch.setattr(CurvatureOperator, "by_chunk", counted_by_chunk)
    patch.setattr(DensityTask, "evaluate", counted_item)
    settings: dict[str, Any] = {"smallest": 2, "trace": "hutchinson", "trace_tol": 0.5, "density_steps": 6, "block": 1}
    found = ls.measure_spectrum(objective(), 3, 1e-8, out=run, **settings)
    assert found.trace is not None
    assert found.density is not None
    return {
        "eigenvalues": found.eigenvalues.tolist(),
        "smallest": found.smallest.values.tolist(),
        "trace": [found.trace.value, found.trace.stderr, found.trace.stderr_probes, dict(found.trace.layers)],
        "density": found.density.values.tolist(),
        "made": {name: made[name] for name in ("eigenpairs", "trace", "density")},
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), *sys.argv[2:3], *map(int, sys.argv[3:4]))
