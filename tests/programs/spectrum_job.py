"""A spectrum into FOLDER/run, and its numbers into FOLDER/numbers.json: python spectrum_job.py FOLDER [slow STAGE N].

"slow" stops after N products of the stage "eigenpairs", or after N finished probes of the stage "density", says so by
the file FOLDER/ready with the products it made, and waits to be killed. Every product is counted where it is made.
A new folder also has the numbers of a density and of layers that are measured without one.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path

import spectrum_nets as nets
import torch
from torch import Tensor, nn

import landscape as ls
from landscape.curvature.operator import CurvatureOperator
from landscape.objective.objective import Objective
from landscape.run import shards
from landscape.run.comm import world
from landscape.studies.spectrum import eigen
from landscape.studies.spectrum.density import DensityTask

torch.set_num_threads(1)
made: Counter[str] = Counter()
stage = ""


def main(folder: Path, slow: str = "", after: int = 0) -> None:
    folder.mkdir(exist_ok=True)
    run = folder / "run"
    new = not run.exists()
    apply, by_chunk, evaluate = CurvatureOperator.apply, CurvatureOperator.by_chunk, DensityTask.evaluate
    # states and rows are stored as soon as they are there
    eigen.EigenTask.__init__.__kwdefaults__["save_every"] = 0.0
    eigen._SAVE_SHARE = 0
    shards._FIRST_INTERVAL = 0.0
    probes = 0

    def wait() -> None:
        (folder / "making").write_text(json.dumps(made))
        (folder / "making").rename(folder / "ready")
        time.sleep(1000)

    def now() -> str:
        return next(name for name in ("density", "trace", "eigenpairs") if (run / name).exists())

    def counted(self: CurvatureOperator, vectors: Tensor) -> Tensor:
        name = now()
        if slow == name == "eigenpairs" and made[name] >= after:
            wait()
        made[name] += len(vectors)
        return apply(self, vectors)

    def counted_by_chunk(self: CurvatureOperator, vectors: Tensor, *others: Tensor) -> object:
        made[now()] += len(vectors)
        return by_chunk(self, vectors, *others)

    def counted_item(self: DensityTask, index: int, group: object) -> object:
        nonlocal probes
        if slow == "density" and probes >= after:
            wait()
        probes += 1
        time.sleep(0.1 if slow else 0.0)
        return evaluate(self, index, group)  # type: ignore[arg-type]

    CurvatureOperator.apply = counted  # type: ignore[method-assign]
    CurvatureOperator.by_chunk = counted_by_chunk  # type: ignore[method-assign,assignment]
    DensityTask.evaluate = counted_item  # type: ignore[method-assign,assignment]
    model = nets.settled(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)))
    objective = Objective(model, "cross_entropy", (nets.seeded(29, 4), nets.labels(29)))
    settings = {"smallest": 2, "trace": "hutchinson", "trace_tol": 0.5, "density_steps": 6, "block": 1}
    found = ls.measure_spectrum(objective, 3, 1e-8, out=run, **settings)
    products = {name: made[name] for name in ("eigenpairs", "trace", "density")}
    assert found.trace is not None
    assert found.density is not None
    numbers = {
        "eigenvalues": found.eigenvalues.tolist(),
        "smallest": found.smallest.values.tolist(),
        "stderr": found.eigenvalue_stderr.tolist(),
        "bias": found.largest.bias.tolist(),
        "trace": [found.trace.value, found.trace.stderr, found.trace.stderr_probes, dict(found.trace.layers)],
        "density": found.density.values.tolist(),
        "made": products,
    }
    if new:
        whole = ls.measure_spectrum(objective, 0, trace="split", trace_tol=0.5, density_steps=6)
        layers = ls.measure_layer_spectra(objective, 1, 1e-8, trace_tol=0.5)
        assert whole.trace is not None
        assert whole.density is not None
        numbers |= {
            "whole_trace": [whole.trace.value, whole.trace.stderr, dict(whole.trace.layers)],
            "whole_density": [whole.density.values.tobytes().hex(), whole.density.nodes.tobytes().hex()],
            "layers": [layers.eigenvalues.tobytes().hex(), layers.trace.tobytes().hex()],
        }
    if world().rank == 0:
        (folder / "numbers.json").write_text(json.dumps(numbers))


main(Path(sys.argv[1]), *(sys.argv[3:4]), *(int(n) for n in sys.argv[4:5]))
