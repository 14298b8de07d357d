"""Paths that must have the same bytes on any number of ranks: mpiexec -n 2 python path_cases.py RESULT.json"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path as FilePath

import torch
from surface_cases import data, network

import landscape as ls
from landscape.run.comm import world
from landscape.studies.path.measure import measure_path
from landscape.studies.path.result import Path


def ends() -> list[dict[str, torch.Tensor]]:
    """State dicts of two networks."""
    first = network()
    second = network()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    return [first.state_dict(), second.state_dict()]


def path(**options: object) -> Path:
    """A refined path with the spread of its statistics."""
    objective = ls.Objective(network(), "cross_entropy", data(), metrics=("error",))
    return measure_path(objective, ends(), t=7, tol=1e-4, **options)  # type: ignore[arg-type]


def path_bytes(**options: object) -> str:
    """All numbers of `path`."""
    found = path(**options)
    arrays = [found.t, *found.values.values(), *found.stderr.values(), *found.statistics_stderr.values()]
    return b"".join(array.tobytes() for array in arrays).hex()


def results() -> dict[str, str]:
    """The same bytes from every rank."""
    cases: dict[str, Callable[[], str]] = {
        "places over ranks": path_bytes,
        "data over ranks": lambda: path_bytes(ranks_per_item=world().size),
    }
    found = {name: case() for name, case in cases.items()}
    assert len({json.dumps(f) for f in world().gather_all(found)}) == 1
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = results()
    if world().rank == 0:
        FilePath(sys.argv[1]).write_text(json.dumps(found))
