"""Tasks in sequence trained and measured, alike on any number of ranks; same_bytes.py runs it.

Tests import the nets, the data and the run from here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import landscape as ls
from landscape.run.comm import world

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


def all_data() -> Any:
    """The data of a job: a function of the task."""
    return data


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


@contextmanager
def shared_folder() -> Iterator[Path]:
    """A folder that all ranks know, and that is gone after."""
    with tempfile.TemporaryDirectory() if world().rank == 0 else nullcontext() as own:
        yield Path(world().broadcast(own))
        world().gather_all(None)


def results() -> dict[str, str]:
    """What is trained and measured, as text."""
    with shared_folder() as folder:
        found = measured(folder)
    errors = {f"{name} error": values for name, values in found.stderr.items()}
    return {name: values.tobytes().hex() for name, values in {**found.values, **errors}.items()}


def rounded() -> dict[str, list[float]]:
    """The same of two tasks, all ranks sharing the data of one item."""
    with shared_folder() as folder:
        run = trained(folder / "run", cells={"task": [0, 1]}, arms=[{"lr": 0.1, "dropout": 0.2}])
        found = ls.measure_forgetting(run, ranks_per_item=world().size)
    return {name: values.tolist() for name, values in found.values.items()}
