"""Diagonals of small networks by every method, on all ranks, into a JSON file: python diagonal_job.py FILE."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import spectrum_nets as nets
import torch
from torch import nn

import landscape as ls
from landscape.run.comm import world


def network(activation: nn.Module) -> nn.Module:
    """43 parameters, 4 inputs, 3 classes."""
    return nets.settled(nn.Sequential(nn.Linear(4, 5), activation, nn.Linear(5, 3)))


def numbers(ranks_per_item: int = 1) -> dict[str, dict[str, list[float]]]:
    """{method: {array: its entries}}, exactly."""
    found: dict[str, dict[str, list[float]]] = {}
    for method in ("exact", "products", "probes"):
        data = (nets.seeded(9, 4), nets.labels(9))
        objective = ls.Objective(network(nn.ReLU()), "cross_entropy", data, precision="float64")
        options: dict[str, Any] = {"method": method, "tol": 0.2, "ranks_per_item": ranks_per_item}
        measures = ls.measure_diagonal(objective, **options)
        arrays = {
            key: np.concatenate([values.ravel() for values in tensors.values()]).tolist()
            for key, tensors in measures.arrays.items()
        }
        found[method] = {**arrays, "trace": measures.values["trace"].tolist()}
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    result = {"apart": numbers(), "together": numbers(2)}
    if world().rank == 0:
        Path(sys.argv[1]).write_text(json.dumps(result))
