"""Networks and data of corpus.toml: MLPs of handwritten digits."""

from __future__ import annotations

from itertools import pairwise

import torch
from landscape_jobs.demo import digits
from torch import Tensor, nn

_WIDTH = 48
_TRAINED = 300  # few enough that networks differ on the others


def net(depth: int, dropout: float) -> nn.Module:
    """An MLP of so many hidden layers, begun so that deep ones can be trained, too (He et al. 2015)."""
    sizes = [64, *[_WIDTH] * depth]
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        linear = nn.Linear(before, after)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        layers += [linear, nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(_WIDTH, 10))


def data() -> tuple[Tensor, Tensor]:
    """What is trained on."""
    images, labels = digits()
    return images[:_TRAINED], labels[:_TRAINED]


def held_out() -> tuple[Tensor, Tensor]:
    """All other digits."""
    (images, labels), (others, theirs) = digits(), digits("test")
    return torch.cat([images[_TRAINED:], others]), torch.cat([labels[_TRAINED:], theirs])
