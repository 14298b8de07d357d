"""A small sweep whose phases must have the same bytes on any number of ranks; same_bytes.py runs it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import landscape as ls
from landscape.checkpoints.trained import TrainedModels

INPUTS, CLASSES = 4, 3
ASKED: dict[str, Any] = {
    "load": "width",
    "temperature": "batch_size",
    "curve_epochs": 2,
    "curve_batch_size": 16,
    "hessian_samples": 24,
    "bracket_samples": 32,
    "cka_samples": 40,
    "curve_tol": 0.5,
}


def net(width: int, seed: int = 0) -> nn.Module:
    """An MLP in float64."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(INPUTS, width), nn.ReLU(), nn.Linear(width, CLASSES)).double()


def data(samples: int = 48) -> tuple[Tensor, Tensor]:
    """Inputs and labels."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(samples, INPUTS, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(CLASSES, (samples,), generator=generator)


def models(
    folder: Path, widths: Sequence[int] = (3, 5), batch_sizes: Sequence[int] = (8, 16), seeds: int = 3
) -> TrainedModels:
    """A few steps of gradient descent from each seed; every checkpoint is written anew."""
    inputs, labels = data()
    rows = [(width, size, seed) for width in widths for size in batch_sizes for seed in range(seeds)]
    paths = []
    for width, size, seed in rows:
        model = net(width, seed)
        for _ in range(160 // size):
            loss = nn.functional.cross_entropy(model(inputs), labels)
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            with torch.no_grad():
                for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                    parameter -= 0.5 * gradient
        paths.append(folder / f"{width}-{size}-{seed}.pt")
        torch.save(model.state_dict(), paths[-1])
    keys = {"width": tuple(row[0] for row in rows), "batch_size": tuple(row[1] for row in rows)}
    return TrainedModels(keys, tuple(row[2] for row in rows), (None,) * len(rows), tuple(paths))


def results() -> dict[str, str]:
    """Every array of a result as text."""
    with tempfile.TemporaryDirectory() as folder:
        found = ls.measure_phases(models(Path(folder), batch_sizes=(8,), seeds=2), factory=net, data=data(), **ASKED)
    arrays = {**found.values, **{f"{name} error": values for name, values in found.stderr.items()}}
    return {name: values.tobytes().hex() for name, values in arrays.items()}
