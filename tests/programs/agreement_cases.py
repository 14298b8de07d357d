"""Small models and data whose agreement must have the same bytes on any number of ranks; same_bytes.py runs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

import landscape as ls
from landscape.run.comm import world

SAMPLES, INPUTS, CLASSES = 150, 6, 3


def network(seed: int) -> nn.Module:
    """A small net in float64 whose BatchNorm has statistics of its own."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(INPUTS, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, CLASSES)).double()
    model(torch.randn(40, INPUTS, dtype=torch.float64))
    nn.init.zeros_(model[3].bias)  # or one class would be predicted throughout
    return model.eval()


def data(samples: int = SAMPLES) -> tuple[Tensor, Tensor]:
    """Inputs and labels."""
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(samples, INPUTS, generator=generator, dtype=torch.float64),
        torch.randint(CLASSES, (samples,), generator=generator),
    )


MODELS = [network(seed) for seed in range(4)]


def objective(**options: Any) -> ls.Objective:
    """The first model on the data."""
    return ls.Objective(MODELS[0], "cross_entropy", data(), **options)


def results() -> dict[str, str]:
    """Every array of a result as text: items over ranks, models over the ranks of a group, statistics over ranks."""
    size = 2 if world().size % 2 == 0 else 1
    cases: Sequence[dict[str, Any]] = [{}, {"ranks_per_item": size}, {"batchnorm": "reestimated"}]
    found = {}
    for case in cases:
        result = ls.measure_agreement(objective(), MODELS[:3], features=["0", "2"], **case)
        arrays = [*result.values.values(), *result.stderr.values()]
        found[", ".join(case)] = b"".join(array.tobytes() for array in arrays).hex()
    return found
