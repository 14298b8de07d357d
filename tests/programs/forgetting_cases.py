"""A sequence of tasks trained and measured, alike on any number of ranks.

    python tests/programs/forgetting_cases.py FOLDER

Tests import the nets, the data and the run from here.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import landscape as ls

SAMPLES = 32  # as many as groups of the jackknife, which then is the standard error of a mean
CELLS = {"task": [0, 1, 2]}


def net(dropout: float = 0.0) -> nn.Sequential:
    """Two layers, smooth, small enough for a dense Hessian."""
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Dropout(dropout), nn.Linear(3, 3)).double()


def data(task: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Inputs (SAMPLES, 4) whose values stand in another order in each task, and labels of three classes."""
    inputs = torch.randn(SAMPLES, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    labels = (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0.5).long()
    return ls.permuted_task((inputs, labels), task)


def trained(out: Path, **options: Any) -> ls.Training:
    """Two step sizes, three tasks."""
    asked: dict[str, Any] = {
        "recipe": {"epochs": 3, "batch_size": 8, "momentum": 0.8},
        "cells": CELLS,
        "arms": [{"lr": 0.1, "dropout": 0.2}, {"lr": 0.02, "dropout": 0.0}],
        "sequence": "task",
        "seeds": 1,
        "test": lambda task: data(task, 1),
    }
    return ls.train_models(net, data, out=out, **(asked | options))


def measured(folder: Path) -> ls.Forgetting:
    """The forgetting of what was trained into FOLDER/run."""
    return ls.measure_forgetting(trained(folder / "run"), out=folder / "forgetting", tol=1e-8)


if __name__ == "__main__":
    torch.set_num_threads(1)
    apart = measured(Path(sys.argv[1]))
    together = ls.measure_forgetting(trained(Path(sys.argv[1]) / "run"), tol=1e-8, ranks_per_item=2)
    for name, values in together.values.items():  # products of Lanczos' method are summed rank by rank
        np.testing.assert_allclose(values, apart.values[name], rtol=1e-12 if name == "lambda_max" else 0)
