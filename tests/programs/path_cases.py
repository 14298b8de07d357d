"""Paths that must have the same bytes on any number of ranks; same_bytes.py runs them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from surface_cases import data, many_samples, network

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


def far_ends() -> list[dict[str, torch.Tensor]]:
    """The same, the second so far that there is a barrier between them."""
    first, second = ends()
    for name, values in second.items():
        if values.is_floating_point() and "running" not in name:
            values.add_(2 * torch.randn(values.shape, generator=torch.Generator().manual_seed(5)))
    return [first, second]


def path(**options: object) -> Path:
    """A refined path with the spread of its statistics."""
    objective = ls.Objective(network(), "cross_entropy", data(), metrics=("error",))
    return measure_path(objective, ends(), t=7, tol=1e-4, **options)  # type: ignore[arg-type]


def path_bytes(**options: object) -> str:
    """All numbers of `path`."""
    found = path(**options)
    arrays = [found.t, *found.values.values(), *found.stderr.values(), *found.statistics_stderr.values()]
    return b"".join(array.tobytes() for array in arrays).hex()


def precise_bytes(**options: object) -> str:
    """A path to a stated error, in several rounds."""
    found = measure_path(many_samples(), far_ends(), t=13, error=0.004, **options)  # type: ignore[arg-type]
    assert found.error is not None
    assert found.found is not None
    arrays = [found.values["loss"], found.error["loss"], found.stderr["accuracy"], found.found]
    return b"".join(array.tobytes() for array in [*arrays, found.replicates["loss"]]).hex()


def results() -> dict[str, str]:
    """The bytes of each way to share the work."""
    cases: dict[str, Callable[[], str]] = {
        "places over ranks": path_bytes,
        "data over ranks": lambda: path_bytes(ranks_per_item=world().size),
        "to an error": precise_bytes,
    }
    return {name: case() for name, case in cases.items()}
