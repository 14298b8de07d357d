"""The structure of a small network's layers, alike on any number of ranks; same_bytes.py runs it."""

from __future__ import annotations

import numpy as np
import spectrum_nets as nets
from torch import nn

import landscape as ls
from landscape.results.kind import kind_of
from landscape.run.comm import world


def network(seed: int = 0) -> nn.Module:
    """A convolution and a linear layer with a BatchNorm between; weights of 8 and 24 values."""
    layers = nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)
    return nets.settled(nn.Sequential(*layers), seed)


def case(samples: int = 10) -> ls.Objective:
    """The network on random images."""
    return ls.Objective(network(), "cross_entropy", (nets.seeded(samples, 1, 3, 3), nets.labels(samples)))


def structure(ranks_per_item: int = 1) -> ls.LayerStructure:
    """Beside a second model."""
    return ls.measure_layer_structure(case(), k=3, other=network(7), ranks_per_item=ranks_per_item)


def numbers(ranks_per_item: int) -> dict[str, list[float]]:
    """{column or factor: its entries}, exactly."""
    found = structure(ranks_per_item)
    columns = {name: np.asarray(column) for name, column in kind_of(found).columns(found).items() if name != "layer"}
    for side, factors in (("E[M]", found.output_factors), ("E[x x']", found.input_factors)):
        columns |= {f"{side} of {name}": matrix for name, matrix in factors.items()}
    return {name: column.astype(np.float64).ravel().tolist() for name, column in columns.items()}


def results() -> dict[str, str]:
    """Items over ranks."""
    return {name: np.asarray(values).tobytes().hex() for name, values in numbers(1).items()}


def rounded() -> dict[str, list[float]]:
    """Data over the ranks of a group."""
    found = numbers(2 if world().size % 2 == 0 else 1)
    return {name: values for name, values in found.items() if not name.startswith(("residual", "rounding"))}
