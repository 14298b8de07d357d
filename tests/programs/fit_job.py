"""Curves fitted into FOLDER, one for each number of parts, with their points in points_PARTS.npy.

    python tests/programs/fit_job.py FOLDER PARTS...
    python tests/programs/fit_job.py FOLDER kill STEP PARTS...    the process ends by SIGKILL in that forward pass

Tests import the nets, the data and the stop signal from here.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils.data import DataLoader, Dataset

from landscape.objective.objective import Objective
from landscape.run.comm import world
from landscape.studies.curve import fit
from landscape.studies.curve.measure import fit_curve
from landscape.studies.curve.result import Curve

SAMPLES, BATCH, EPOCHS = 48, 8, 4
STEPS = SAMPLES // BATCH  # of an epoch


def net(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """BatchNorm, whose statistics are those of a batch, and Dropout, which draws; the same weights each time."""
    with torch.random.fork_rng([]):
        torch.manual_seed(5)
        return nn.Sequential(
            nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.25), nn.Linear(8, 3)
        ).to(dtype)  # fmt: skip


def spectral_net() -> nn.Sequential:
    """The same with a layer whose forward pass in train mode goes on from what the last one left in its buffers."""
    model = net()
    with torch.random.fork_rng([]):
        torch.manual_seed(8)
        model[4] = spectral_norm(model[4])
    return model


def samples(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Inputs (48, 4) and labels (48,)."""
    stream = torch.Generator().manual_seed(6)
    return torch.randn(SAMPLES, 4, generator=stream, dtype=dtype), torch.randint(0, 3, (SAMPLES,), generator=stream)


class Augmented(Dataset[tuple[Tensor, Tensor]]):
    """The samples, each moved by three random streams whenever it is asked for."""

    def __init__(self) -> None:
        self._inputs, self._labels = samples()

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x = self._inputs[index] + 0.1 * torch.randn(4, dtype=torch.float64)
        x = x * np.random.uniform(0.9, 1.1) + random.gauss(0.0, 0.1)
        return x, self._labels[index]


def objective(model: nn.Module | None = None, **options: Any) -> Objective:
    """The mean cross-entropy of the samples."""
    return Objective(net() if model is None else model, "cross_entropy", samples(), **options)


def ends(of: Objective) -> tuple[Tensor, Tensor]:
    """The net's own parameters and others at a distance."""
    step = torch.randn(of.layout.size, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return of.theta, of.theta + 0.7 * step.to(of.theta)


def on_training_step(model: nn.Module, act: Callable[[int], None]) -> None:
    """Call `act` with the number, from 1, of each forward pass in train mode."""
    count = 0

    def seen(module: nn.Module, inputs: Any, outputs: Any) -> None:
        nonlocal count
        if module.training:
            count += 1
            act(count)

    model.register_forward_hook(seen)


def augmented(**options: Any) -> DataLoader[Any]:
    return DataLoader(Augmented(), BATCH, shuffle=True, **options)


class Stopped:
    """Send this process SIGTERM in a training step of that number, counted from here."""

    def __init__(self, model: nn.Module, step: int = 0) -> None:
        self._model, self._step, self.count = model, step, 0

    def __enter__(self) -> Stopped:
        self._handle = self._model.register_forward_hook(self._seen)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    def _seen(self, model: nn.Module, inputs: Any, outputs: Any) -> None:
        self.count += model.training
        if model.training and self.count == self._step:
            os.kill(os.getpid(), signal.SIGTERM)


def fitted(model: nn.Module, **options: Any) -> Curve:
    """A fit of the net's curve on augmented, shuffled data."""
    of = objective(model)
    settings = {
        "train": DataLoader(Augmented(), BATCH, shuffle=True),
        "epochs": EPOCHS,
        "lr": 0.1,
        "weight_decay": 1e-3,
    }
    return fit_curve(of, *ends(of), **{**settings, **options})


def main(folder: Path, arguments: list[str]) -> None:
    torch.set_num_threads(1)
    fit._SAVE_EVERY = 0.0
    kill_at = 0
    if arguments[0] == "kill":
        kill_at, arguments = int(arguments[1]), arguments[2:]

    def kill(step: int) -> None:
        if step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    for parts in map(int, arguments):
        model = spectral_net()
        on_training_step(model, kill)
        curve = fitted(model, parts=parts, out=folder / f"run_{parts}")
        # Seconds, in the middle of an item, where kills from outside then often met the same place.
        assert "torch._dynamo" not in sys.modules, "a fit loads torch's compiler"
        if world().rank == 0:
            np.save(folder / f"points_{parts}.npy", curve.control_points.numpy())


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
