"""Models trained into FOLDER/run; the process may end by SIGKILL at a step.

    python tests/programs/training_job.py FOLDER [STEP]

Tests import the nets, the data and the recipe from here.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import landscape as ls
from landscape.studies.training import one

SAMPLES = 44
RECIPE = ls.Recipe(batch_size=8, epochs=4, lr=0.2, momentum=0.9, weight_decay=1e-3, schedule="cosine", clip=2.0)
CELLS = {"width": [4, 6], "lr": [0.05, 0.2]}


def net(width: int = 4, dropout: float = 0.25) -> nn.Sequential:
    """BatchNorm and Dropout, so that buffers and random streams matter."""
    return nn.Sequential(
        nn.Linear(3, width, bias=False), nn.BatchNorm1d(width), nn.Tanh(), nn.Dropout(dropout), nn.Linear(width, 3)
    ).double()  # fmt: skip


def mlp(width: int = 4) -> nn.Sequential:
    """Without either."""
    return nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 3)).double()


def data(seed: int = 0, samples: int = SAMPLES) -> tuple[Tensor, Tensor]:
    """Inputs (samples, 3) and labels of three classes that a line tells apart, more or less."""
    stream = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, 3, generator=stream, dtype=torch.float64)
    noise = torch.randn(samples, generator=stream, dtype=torch.float64)
    return inputs, torch.bucketize(inputs[:, 0] + 0.3 * noise, torch.tensor([-0.5, 0.5], dtype=torch.float64))


def trained(out: Path, factory: Callable[..., Any] = net, **options: Any) -> ls.Training:
    """Two widths and two step sizes, two seeds each, unless the options say otherwise."""
    asked = {"recipe": RECIPE, "cells": CELLS, "seeds": 2, "test": data(1)} | options
    return ls.train_models(factory, data(), out=out, **asked)


class Stopped:
    """Send this process a signal in the training step of that number, counted from here over all models.

    Where somebody looks on, BatchNorm is not folded in evaluation: runs that are compared to the bit all have this.
    """

    def __init__(self, step: int = 0, number: int = signal.SIGTERM) -> None:
        self._step, self._signal, self.count = step, number, 0

    def __enter__(self) -> Stopped:
        self._handle = nn.modules.module.register_module_forward_pre_hook(self._seen)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    def _seen(self, module: nn.Module, inputs: Any) -> None:
        if isinstance(module, nn.Sequential) and module.training:
            self.count += 1
            if self.count == self._step:
                os.kill(os.getpid(), self._signal)


def main(folder: Path, step: int) -> None:
    torch.set_num_threads(1)
    one.SAVE_EVERY = 0.0
    with Stopped(step, signal.SIGKILL):
        trained(folder / "run")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
