"""Six small nets on handwritten digits, one of which was trained from each seed; and the sweep over them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from landscape_jobs.demo import digits
from torch import Tensor, nn

import landscape as ls

PAIRS = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 0)]


def mlp() -> nn.Module:
    """A perceptron with BatchNorm and Dropout; 2,506 parameters."""
    return nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 10))


@cache
def data(count: int = 512) -> tuple[Tensor, Tensor]:
    """The first of the digits to train on."""
    images, labels = digits("train")
    return images[:count], labels[:count]


@cache
def trained(seed: int, epochs: int = 8) -> dict[str, Tensor]:
    """The state of a net trained from that seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = mlp().train()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        images, labels = data()
        for _ in range(epochs):
            for batch in torch.randperm(len(labels)).chunk(8):
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(images[batch]), labels[batch]).backward()
                optimizer.step()
    return {name: value.clone() for name, value in net.state_dict().items()}


def objective(first: dict[str, Tensor] | None = None) -> ls.Objective:
    """Loss and error of the first net."""
    net = mlp()
    net.load_state_dict(first or trained(0))
    return ls.Objective(net, data=data(), metrics=("error",))


def sweep(out: Path | None, models: list[dict[str, Tensor]] | None = None, **options: Any) -> ls.Connectivity:
    """The ring of six nets, which are trained where they are not given."""
    models = models or [trained(seed) for seed in range(6)]
    given = {"pairs": PAIRS, "t": 5, "epochs": 6, "batch_size": 64, "lr": 0.3, **options}
    return ls.measure_connectivity(objective(models[0]), models, out=out, **given)
