"""Surfaces that must have the same bytes on any number of ranks; same_bytes.py runs them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import streamed_cases
import torch

import landscape as ls
from landscape.run.comm import world


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(6, 16), torch.nn.BatchNorm1d(16), torch.nn.Tanh(), torch.nn.Linear(16, 3)
    )


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(203, 6, generator=generator), torch.randint(3, (203,), generator=generator)


def samples() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(1200, 6, generator=generator), torch.randint(3, (1200,), generator=generator)


def many_samples(loss: Any = "cross_entropy") -> ls.Objective:
    """So many samples, in so small chunks, that a surface to a stated error is measured on few of them."""
    objective = ls.Objective(network(), loss, samples(), metrics=("accuracy",))
    return objective.on(objective.data, chunk=256)


def precise_bytes(**options: Any) -> str:
    """Six rounds, in some of which points get more samples."""
    objective = many_samples()
    plane = ls.random_plane(objective, seed=3)
    surface = ls.measure_surface(objective, plane, x=(-4, 4, 7), y=(-4, 4, 6), error=0.01, **options)
    assert surface.error is not None
    assert surface.found is not None
    arrays = [surface.values["loss"], surface.error["loss"], surface.stderr["accuracy"], surface.found]
    return b"".join(array.tobytes() for array in arrays).hex()


def lines_bytes(**options: Any) -> str:
    """Profiles in several rounds, the last of few items."""
    profiles = ls.measure_profiles(many_samples(), 2, (-8, 8, 9), seed=3, error=0.005, **options)
    assert profiles.error is not None
    assert profiles.found is not None
    arrays = [profiles.values["loss"], profiles.error["loss"], profiles.stderr["accuracy"], profiles.found]
    return b"".join(array.tobytes() for array in arrays).hex()


def surface_bytes(**options: object) -> str:
    objective = ls.Objective(network(), "cross_entropy", data(), metrics=("accuracy",))
    plane = ls.random_plane(objective, seed=3)
    surface = ls.measure_surface(objective, plane, x=(-1, 1, 5), y=(-0.5, 1, 4), **options)  # type: ignore[arg-type]
    arrays = [surface.values["loss"], surface.stderr["loss"], surface.values["accuracy"]]
    return b"".join(array.tobytes() for array in arrays).hex()


def results() -> dict[str, str]:
    size = 2 if world().size % 2 == 0 else 1
    cases: dict[str, Callable[[], str]] = {
        "items over ranks": surface_bytes,
        "data over ranks": lambda: surface_bytes(ranks_per_item=size),
        "to an error": precise_bytes,
        "to an error, data over ranks": lambda: precise_bytes(ranks_per_item=size),
        "profiles to an error": lines_bytes,
        "batchnorm": lambda: surface_bytes(batchnorm="reestimated", ranks_per_item=size),
    }
    streamed = {f"in pieces, {how}": found for how, found in streamed_cases.results().items()}
    return streamed | {name: case() for name, case in cases.items()}
