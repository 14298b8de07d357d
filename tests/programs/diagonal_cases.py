"""Diagonals of a small network by every method, alike on any number of ranks; same_bytes.py runs them."""

from __future__ import annotations

from typing import Any

import numpy as np
import spectrum_nets as nets
from torch import nn

import landscape as ls
from landscape.run.comm import world


def network(activation: nn.Module) -> nn.Module:
    """43 parameters, 4 inputs, 3 classes."""
    return nets.settled(nn.Sequential(nn.Linear(4, 5), activation, nn.Linear(5, 3)))


def numbers(ranks_per_item: int) -> dict[str, list[float]]:
    """{method and array: its entries}, exactly."""
    found: dict[str, list[float]] = {}
    for method in ("exact", "products", "probes"):
        data = (nets.seeded(9, 4), nets.labels(9))
        objective = ls.Objective(network(nn.ReLU()), "cross_entropy", data, precision="float64")
        options: dict[str, Any] = {"method": method, "tol": 0.2, "ranks_per_item": ranks_per_item}
        measures = ls.measure_diagonal(objective, **options)
        for key, tensors in measures.arrays.items():
            found[f"{method} {key}"] = np.concatenate([values.ravel() for values in tensors.values()]).tolist()
        found[f"{method} trace"] = measures.values["trace"].tolist()
    return found


def results() -> dict[str, str]:
    """Items over ranks."""
    return {name: np.asarray(values).tobytes().hex() for name, values in numbers(1).items()}


def rounded() -> dict[str, list[float]]:
    """Data over the ranks of a group."""
    return numbers(2 if world().size % 2 == 0 else 1)
